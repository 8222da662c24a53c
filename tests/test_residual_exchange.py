"""Exchanging residual streams moves what they carry."""

import pytest
import torch
from conftest import KINDS

from biology.interventions.residual_exchange import Exchanges, exchange_residuals
from biology.models.model import run
from biology.records import InputError

PROMPTS = [[2, 5, 9, 40, 17], [2, 7, 33, 12, 8], [2, 11, 13], [2, 60, 61]]


def logits(model, place):
    return run(model, torch.tensor([PROMPTS[place]]), positions=-1)[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_exchanging_every_stream_makes_the_donor(tiny_model, kind):
    model = tiny_model(kind, torch.float64)
    prompt, donor = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 1, 1, 3])
    entries = [(0, 0, pos, pos) for pos in range(5)]  # all positions of the first layer
    entries += [(1, layer, pos, pos) for layer in range(3) for pos in range(5)]  # a prompt's own streams
    entries += [(2, 3, -1, -1), (3, 3, 2, 2)]  # the stream that the final norm sees
    exchanged = exchange_residuals(
        model, PROMPTS, prompt, donor, Exchanges(*torch.tensor(entries).unbind(1)), batch_size=2
    )
    for row, place in enumerate(donor.tolist()):
        assert torch.allclose(exchanged[row], logits(model, place), atol=1e-10)


def test_streams_may_come_from_another_position_and_length(tiny_model):
    model = tiny_model("gemma2", torch.float64)
    vector = run(model, torch.tensor([PROMPTS[2]]), reads=["blocks.1.hook_resid_pre"])[1]["blocks.1.hook_resid_pre"][
        0, 1
    ]

    def place(stream):
        stream = stream.clone()
        stream[0, 3] = vector
        return stream

    expected, _ = run(model, torch.tensor([PROMPTS[0]]), edits=[("blocks.1.hook_resid_pre", place)], positions=-1)
    one = Exchanges(*torch.tensor([[1], [1], [3], [1]]))
    rows = exchange_residuals(model, PROMPTS, torch.tensor([2, 0]), torch.tensor([0, 2]), one)
    assert torch.allclose(rows[1], expected[0], atol=1e-10)
    assert torch.allclose(rows[0], logits(model, 2), atol=1e-10)


@pytest.mark.parametrize(
    ("site", "message"), [((0, 4, 0, 0), "layer outside 0..3"), ((0, 0, 5, 0), "outside its prompt")]
)
def test_bad_sites(tiny_model, site, message):
    with pytest.raises(InputError, match=message):
        one = Exchanges(*torch.tensor([site]).unbind(1))
        exchange_residuals(tiny_model("llama"), PROMPTS, torch.tensor([0]), torch.tensor([1]), one)
