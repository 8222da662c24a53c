"""A prompt in a chat is what the model's own template makes of it, and nothing is guessed where there is none."""

import copy

import pytest
from conftest import random_transcoders
from toy_repository import CASES, answered, chatting, evidence_of, write

from biology.cases.case import load_case
from biology.cases.positions import message_of
from biology.models.model import encode, token_text
from biology.models.tokenizer import in_chat
from biology.records import InputError
from biology.supernodes.behaviour import prompts_table
from biology.supernodes.case_prompts import CasePrompts, in_chats, position

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


# Prompts of a case ---------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tiny_model, tmp_path):
    """The toy case of places with one named prompt and one row asked in a chat, as files and as the model is asked it."""

    def make(model=None, **row):
        model = chatting(tiny_model("llama")) if model is None else model
        stated = answered(model, CASES["places"]())
        stated["case"]["prompts"]["hint"]["chat"] = True
        del stated["case"]["supernodes"]["own"]["label"]  # which asks for a factor that this prompt lacks
        stated["rows"] = [
            {**one, "chat": "", **(row if number == 6 else {})} for number, one in enumerate(stated["rows"])
        ]
        write(tmp_path, stated)
        return model, load_case(tmp_path, "toy")

    return make


def test_prompts_of_a_chat_stand_in_the_template_and_are_shown_without_it(asked):
    model, case = asked(chat="true")
    made = in_chats(model, case)
    assert case.prompts["hint"].text == "w5 w12 w23"
    assert made.prompts["hint"].text == "w60 w5 w12 w23 w61 w62"
    assert made.items[6].text == f"w60 {case.items[6].text} w61 w62"
    assert [one.text for place, one in enumerate(made.items) if place != 6] == [
        one.text for place, one in enumerate(case.items) if place != 6
    ]
    assert message_of({**made.items[6].factors, "text": made.items[6].text}) == case.items[6].text
    assert made.prompts["other"] == case.prompts["other"]


def test_a_case_without_a_chat_is_what_it_was(tiny_model, asked):
    model, case = asked()
    plain = case.model_copy(update={"prompts": {name: one for name, one in case.prompts.items() if not one.chat}})
    assert in_chats(model, plain) is plain


def test_positions_keep_their_meaning_in_a_chat(asked):
    model, case = asked()
    prompt = in_chats(model, case).prompts["hint"]
    row = {**prompt.factors, "text": prompt.text}
    tokens = [token_text(model, token) for token in encode(model, prompt.text)]
    assert tokens == ["<bos>", "w60", "w5", "w12", "w23", "w61", "w62"]
    told = {
        at: position(model, prompt.text, 7, at, row, "here") for at in ("last", "-2", "3", "factor:city", "token:w23")
    }
    assert told == {"last": 6, "-2": 5, "3": 3, "factor:city": 3, "token:w23": 4}
    with pytest.raises(InputError, match="exactly once"):  # it stands in the template alone
        position(model, prompt.text, 7, "token:w60", row, "here")


def test_what_a_template_says_before_a_message_is_no_node_of_a_graph(asked):
    model, case = asked()
    made = in_chats(model, case)
    _, prompts = prompts_table(model, random_transcoders(model), made)
    places = CasePrompts(model, made, prompts)
    assert places.first_position(places.place["hint"]) == 2  # after <bos> w60
    assert places.first_position(places.place["other"]) == 1


def test_a_chat_with_a_model_without_a_template_is_one_line_with_case_and_prompt(tiny_model, asked):
    model, case = asked()
    with pytest.raises(
        InputError, match=r"case toy, prompt hint: model .* has no chat template: .*`chat: true`"
    ) as found:
        in_chats(tiny_model("llama"), case)
    assert "\n" not in str(found.value)


def test_a_template_that_changes_the_message_is_refused(asked):
    model, case = asked()
    model.tokenizer.chat_template = "{% for message in messages %}{{ message.content | upper }}{% endfor %}"
    with pytest.raises(InputError, match="does not leave 'w5 w12 w23' as it is"):
        in_chats(model, case)


def test_a_column_chat_says_true_or_nothing(asked):
    with pytest.raises(InputError, match=r"prompts.csv: row 8.chat: 'yes': `true` is expected"):
        asked(chat="yes")


def test_the_pipeline_judges_prompts_of_a_chat_and_tables_name_the_message(asked):
    model, case = asked(chat="true")
    evidence, prompts = evidence_of(model, case, ())
    row = prompts.set_index("item").loc[case.items[6].item]
    assert (row["text"], row["chat"]) == (f"w60 {case.items[6].text} w61 w62", case.items[6].text)
    assert case.items[6].item in set(evidence["item"]) or not row["correct"]
