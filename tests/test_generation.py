"""Text written while features are held: that of Hugging Face without edits, and of the slow protocols with them."""

import pytest
import torch
from conftest import random_transcoders
from slow_protocols import DOUBLE, PROMPTS, slow

from biology.interventions.feature_edits import edits
from biology.interventions.generation import generate


def test_generation_without_edits_is_that_of_hugging_face(tiny, tiny_model):
    from transformers import AutoModelForCausalLM

    model = tiny_model("llama")
    network = AutoModelForCausalLM.from_pretrained(tiny("llama"), attn_implementation="eager").eval()
    texts = generate(model, random_transcoders(model), PROMPTS, edits([]), 5)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        expected = network.generate(
            torch.tensor([prompt]), max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0
        )
        assert text == expected[0, len(prompt) :].tolist()
    stopped = generate(model, random_transcoders(model), PROMPTS, edits([]), 5, stop=texts[1][1])
    assert stopped[1] == texts[1][: texts[1].index(texts[1][1]) + 1]


@pytest.mark.parametrize("protocol", ["iterative", "constrained"])
def test_generation_under_open_ended_edits(tiny_model, protocol):
    model = tiny_model("qwen3", DOUBLE)
    transcoders = random_transcoders(model)
    open_ended = edits([(0, 1, 1, 7, 30.0), (1, 0, -1, 3, 25.0)])
    fixed = edits([(0, 0, 0, 5, -4.0)])
    texts = generate(
        model, transcoders, PROMPTS[:2], fixed, 4, open_ended=open_ended, protocol=protocol, live_attention=False
    )
    for row, (layer, start, feature, value) in enumerate([(1, 1, 7, 30.0), (0, 2, 3, 25.0)]):
        text = list(PROMPTS[row])
        for _ in range(4):
            held = [(0, layer, pos, feature, value) for pos in range(start, len(text))]
            held += [(0, 0, 0, 5, -4.0)] if row == 0 else []
            top = 1 if protocol == "constrained" else 2
            text.append(int(slow(model, transcoders, text, edits(held), protocol, top)[0, 0].argmax()))
        assert text[len(PROMPTS[row]) :] == texts[row]
    assert texts != generate(model, transcoders, PROMPTS[:2], fixed, 4, protocol=protocol, live_attention=False)


def test_sampling_is_seeded(tiny_model):
    model = tiny_model("llama")
    transcoders = random_transcoders(model)

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return generate(model, transcoders, PROMPTS, edits([]), 6, temperature=2.0, generator=generator)

    assert sample(0) == sample(0) != sample(1)
