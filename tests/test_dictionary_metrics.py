"""The measures are what their names say: planted dictionaries have known ones, losses are those of edits done by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_transcoders

from biology.dictionaries.dictionary_metrics import NOT_SCORED, Passages, measure
from biology.models.model import capture, run
from biology.transcoders.transcoder_set import TranscoderSet, reconstruct_all

SEQUENCES = np.random.default_rng(0).integers(4, 100, (6, 12))
SEQUENCES[:, 0] = 2
SEQUENCES[1, 5] = 2  # a new document


def value(frame, metric: str, layer: str = "all") -> float:
    return float(frame[(frame["metric"] == metric) & (frame["layer"] == layer)]["value"].iloc[0])


@pytest.fixture(scope="module")
def passages():
    return Passages.of_text(SEQUENCES, ignored=2)


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_measures_are_their_definitions(tiny_model, passages, kind):
    model = tiny_model("llama")
    transcoders = random_transcoders(model, kind, "jumprelu")
    found = measure(model, transcoders, passages, progress=False)
    seen = capture(model, torch.from_numpy(SEQUENCES))
    inside = torch.ones(SEQUENCES.shape, dtype=torch.bool)
    inside[:, 0] = False
    inside[1, 5] = False
    acts, made = reconstruct_all(transcoders, list(seen.read))
    fvu = []
    for layer in range(3):
        y, x, active = seen.write[layer][inside], made[layer][inside], acts[layer][inside] > 0
        fvu.append(float((y - x).square().sum() / (y - y.mean(0)).square().sum()))
        name = str(layer)
        assert value(found.dictionary, "fvu", name) == pytest.approx(fvu[-1], rel=1e-4)
        assert value(found.dictionary, "l0", name) == pytest.approx(float(active.sum(1).double().mean()))
        density = active.double().mean(0).numpy()
        assert found.density[found.density["layer"] == layer]["density"].to_numpy() == pytest.approx(density)
        assert value(found.dictionary, "dead", name) == pytest.approx((density == 0).mean())
        assert value(found.dictionary, "dense", name) == pytest.approx((density > 0.1).mean())
        errors = found.token_errors[found.token_errors["layer"] == layer]
        assert errors["tokens"].sum() == inside.sum()
        assert np.average(errors["error"], weights=errors["tokens"]) == pytest.approx(fvu[-1], rel=1e-4)
    assert value(found.dictionary, "fvu") == pytest.approx(np.mean(fvu), rel=1e-4)
    assert value(found.dictionary, "explained_variance") == pytest.approx(1 - np.mean(fvu), rel=1e-3)


def test_losses_are_those_of_edits_by_hand(tiny_model, passages):
    """Of the middle layer: its MLP's output replaced, set to zero, to its mean; nothing else touched."""
    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    found = measure(model, transcoders, passages, progress=False).dictionary
    ids = torch.from_numpy(SEQUENCES)
    seen = capture(model, ids)
    _, made = reconstruct_all(transcoders, list(seen.read))
    inside = torch.ones(SEQUENCES.shape, dtype=torch.bool)
    inside[:, 0] = False
    inside[1, 5] = False
    mean = seen.write[1][inside].mean(0)
    targets = ids[:, 1:].clone()
    targets[targets == 2] = NOT_SCORED

    def loss(out):
        written = None if out is None else torch.cat([seen.write[1][:, :1], out[:, 1:]], 1)
        edits = [] if written is None else [("blocks.1.hook_mlp_out", lambda tensor: written.clone())]
        logits, _ = run(model, ids, edits=edits)
        return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()))

    by_hand = {"clean": loss(None), "spliced": loss(made[1]), "zero": loss(torch.zeros_like(made[1])),
               "mean": loss(mean.expand_as(made[1]))}  # fmt: skip
    for way, expected in by_hand.items():
        assert value(found, f"loss_{way}", "1") == pytest.approx(expected, rel=1e-4), way
    for way in ("zero", "mean"):
        share = (by_hand[way] - by_hand["spliced"]) / (by_hand[way] - by_hand["clean"])
        assert value(found, f"recovered_from_{way}", "1") == pytest.approx(share, rel=1e-3, abs=1e-3)


def test_a_perfect_dictionary_recovers_everything_and_an_empty_one_what_the_mean_does(tiny_model, passages):
    """The skip of a linear MLP is perfect; a set that only writes the mean has no features and explains nothing."""
    model = tiny_model("llama")
    seen = capture(model, torch.from_numpy(SEQUENCES))
    inside = passages.inside(torch.from_numpy(SEQUENCES))
    silent = random_transcoders(model, b_enc=-1e6)
    layers = [
        replace(one, b_dec=seen.write[layer][inside].mean(0), b_enc=torch.full_like(one.b_enc, -1e6))
        for layer, one in enumerate(silent.layers)
    ]
    found = measure(model, replace(silent, layers=tuple(layers)), passages, progress=False).dictionary
    assert value(found, "l0") == 0 and value(found, "dead") == 1
    assert value(found, "fvu") == pytest.approx(1, abs=1e-4)
    assert value(found, "loss_spliced") == pytest.approx(value(found, "loss_mean"), rel=1e-4)
    assert value(found, "recovered_from_mean") == pytest.approx(0, abs=1e-3)


def test_prompts_are_scored_at_their_answers(tiny_model):
    model = tiny_model("llama")
    passages = Passages.of_prompts(model, ["w1 w2", "w3 w4 w5"], ["w6", "w7"])
    assert passages.ids == [[2, 5, 6], [2, 7, 8, 9]]
    assert passages.targets == [[NOT_SCORED, NOT_SCORED, 10], [NOT_SCORED] * 3 + [11]]
    found = measure(model, random_transcoders(model), passages, progress=False).dictionary
    logits = [run(model, torch.tensor([row]), positions=-1)[0][0, 0] for row in passages.ids]
    expected = np.mean([-float(row.log_softmax(-1)[end]) for row, end in zip(logits, (10, 11), strict=True)])
    assert value(found, "loss_clean") == pytest.approx(expected, rel=1e-5)
    assert value(found, "tokens") == 5


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "gemma3", "qwen3"])
def test_every_architecture_is_measured(tiny_model, kind):
    model = tiny_model(kind)
    found = measure(model, random_transcoders(model), Passages.of_text(SEQUENCES), progress=False).dictionary
    assert np.isfinite(found["value"]).all() and isinstance(random_transcoders(model), TranscoderSet)
