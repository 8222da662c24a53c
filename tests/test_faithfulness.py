"""What graphs and replacement models are worth: right where it is known, and nothing where features mean nothing."""

import numpy as np
import pytest
import torch
from conftest import random_transcoders

from biology.config import AttributionConfig
from biology.models.model import capture, run, token_batch
from biology.transcoders.neurons import neuron_set
from biology.transcoders.splicing import spliced
from biology.transcoders.transcoder_set import reconstruct_all
from biology.validation import faithfulness
from biology.validation.faithfulness import TracedPrompt, knock_on, measured, replaced_top1

DOUBLE = torch.float64
IDS = [2, 11, 13, 4, 50, 7]


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_with_what_they_leave_out_transcoders_write_what_the_mlps_do(tiny_model, architecture, kind):
    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model, kind, skip=kind == "per_layer")
    tokens = token_batch(model, IDS)
    clean = capture(model, tokens)
    _, made = reconstruct_all(transcoders, [x[0] for x in clean.read])
    errors = [written[0] - one for written, one in zip(clean.write, made, strict=True)]
    local, _ = run(model, tokens, edits=spliced(model, transcoders, errors=errors))
    bare, _ = run(model, tokens, edits=spliced(model, transcoders))
    assert torch.allclose(local, clean.logits, atol=1e-9) and not torch.allclose(bare, clean.logits, atol=1e-3)


def measuring(model, transcoders) -> TracedPrompt:
    return TracedPrompt(model, transcoders, IDS, 1, AttributionConfig())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_neurons_that_are_all_there_are_the_model(tiny_model, architecture, monkeypatch):
    """They say what it says; and with attention and norms live, perturbations do in both the same."""
    model = tiny_model(architecture, DOUBLE)
    neurons = neuron_set(model, k=None)
    assert replaced_top1(model, neurons, IDS) == 1.0
    graph = measuring(model, neurons).graph
    frozen = knock_on(model, neurons, IDS, graph, 1, np.random.default_rng(0))
    monkeypatch.setattr(faithfulness, "freeze", lambda *_, **__: [])
    live = [knock_on(model, neurons, IDS, graph, distance, np.random.default_rng(0)) for distance in (1, 2)]
    assert live == pytest.approx([1.0, 1.0], abs=1e-6) and frozen < 1 - 1e-6


def test_random_transcoders_say_nothing_of_perturbations_and_gradients(tiny_model):
    model = tiny_model("llama", DOUBLE)
    found = measured(
        measuring(model, random_transcoders(model)), ["knock_on:1", "gradient_match"], np.random.default_rng(0)
    )
    assert all(abs(values["effect"][0]) < 0.3 for values in found.values())


def test_correlations_are_those_of_what_ablations_do(tiny_model):
    """Edges are exact whatever features mean, so even a random dictionary's influence foretells ablations, a permuted one does not."""
    model = tiny_model("llama", DOUBLE)
    found = measured(
        measuring(model, random_transcoders(model)),
        ["influence_foretells", "influence_over_edge"],
        np.random.default_rng(0),
    )
    (effect,), permuted = found["influence_foretells"]["effect"], found["influence_foretells"]["shuffle"]
    assert effect > 0.4 and len(permuted) == 20 and np.mean(permuted) < effect - 0.2
    assert set(found["influence_over_edge"]) == {"effect"}


def test_nothing_is_measured_where_nothing_is_active(tiny_model):
    model = tiny_model("llama", DOUBLE)
    silent = random_transcoders(model, b_enc=-100.0)
    found = measured(
        measuring(model, silent), ["influence_foretells", "knock_on:1", "pruned_away"], np.random.default_rng(0)
    )
    assert all(np.isnan(values["effect"][0]) for values in found.values())
