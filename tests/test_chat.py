"""A prompt in a chat is what the model's own template makes of it, and nothing is guessed where there is none."""

import copy

import pytest

from biology.models.tokenizer import in_chat
from biology.records import InputError

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_template(model, template):
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def test_a_prompt_is_put_into_the_models_own_template_up_to_its_answer(tiny_model):
    tokenizer = with_template(tiny_model("llama"), TEMPLATE)
    assert in_chat(tokenizer, "mine", "What is 3 + 4?") == "<user>What is 3 + 4?</s><assistant>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "its chat template takes no message"),
    ],
)
def test_a_model_that_cannot_be_asked_so_says_it_in_one_line(tiny_model, template, said):
    with pytest.raises(InputError, match=said) as found:
        in_chat(with_template(tiny_model("llama"), template), "mine", "Hi")
    assert "\n" not in str(found.value)
