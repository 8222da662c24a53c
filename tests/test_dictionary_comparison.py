"""Thinning reaches the L0 that is asked for, keeps what writes most, and thinning nothing changes nothing."""

import numpy as np
import pytest
import torch
from conftest import random_transcoders

from biology.dictionaries.dictionary_comparison import (
    compare,
    cut_for,
    dictionary,
    n_parameters,
    output_histogram,
    pruned,
)
from biology.dictionaries.dictionary_metrics import Passages, measure
from biology.models.model import run

SEQUENCES = np.random.default_rng(1).integers(4, 100, (8, 16))
PASSAGES = Passages.of_text(SEQUENCES)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_all_neurons_are_the_model(tiny_model, kind):
    model, ids = tiny_model(kind), torch.from_numpy(SEQUENCES)
    neurons = dictionary(model, None, PASSAGES)
    clean, _ = run(model, ids)
    assert torch.equal(run(model, ids, edits=neurons.edits(model, 0.0))[0], clean)
    assert not torch.allclose(run(model, ids, edits=neurons.edits(model, 1.0))[0], clean)


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_a_cut_leaves_what_was_asked_for_and_what_writes_most(tiny_model, kind):
    model = tiny_model("llama")
    one = dictionary(model, random_transcoders(model, kind), PASSAGES)
    counts, totals, tokens = output_histogram(model, one, PASSAGES)
    assert tokens == 8 * 15
    cut = cut_for(counts, tokens, 10.0)
    seen = run(model, torch.from_numpy(SEQUENCES), reads=[f"blocks.{layer}.mlp.hook_in" for layer in range(3)])[1]
    kept, left_out = [], []
    for layer in range(3):
        found = one.activations(layer, seen[f"blocks.{layer}.mlp.hook_in"])[:, 1:]
        written = found * one.lengths[layer]
        stays = one.kept(layer, found, cut) != 0
        kept.append(written[stays])
        left_out.append(written[~stays & (found > 0)])
        assert totals[layer] == pytest.approx(written.double().sum((0, 1)).numpy(), rel=1e-4)
    assert sum(map(len, kept)) / tokens == pytest.approx(10.0, rel=0.02)
    assert float(torch.cat(kept).min()) > float(torch.cat(left_out).max())


def test_what_a_feature_writes_counts_every_layer_it_writes_to(tiny_model):
    """In units of the standard deviation of what that layer's MLP writes."""
    model = tiny_model("llama")
    transcoders = random_transcoders(model, "cross_layer")
    lengths = dictionary(model, transcoders, PASSAGES).lengths
    written = run(model, torch.from_numpy(SEQUENCES), reads=[f"blocks.{layer}.hook_mlp_out" for layer in range(3)])[1]
    scale = []
    for layer in range(3):
        y = written[f"blocks.{layer}.hook_mlp_out"][:, 1:].flatten(0, 1)
        scale.append(float((y - y.mean(0)).square().sum(1).mean().sqrt()))
    for layer in range(3):
        parts = [transcoders.layers[layer].W_dec[:, i].norm(dim=1) / scale[layer + i] for i in range(3 - layer)]
        assert lengths[layer] == pytest.approx(torch.stack(parts).square().sum(0).sqrt(), rel=1e-4)


def test_pruning_leaves_the_strongest_features_within_the_size(tiny_model):
    transcoders = random_transcoders(tiny_model("llama"), "cross_layer")
    totals = [np.random.default_rng(layer).random(48) for layer in range(3)]
    wanted = int(0.6 * n_parameters(transcoders))
    small = pruned(transcoders, totals, wanted)
    assert wanted - 48 * 5 < n_parameters(small) <= wanted
    dropped = []
    for layer, (before, after) in enumerate(zip(transcoders.layers, small.layers, strict=True)):
        stays = (before.W_enc[:, None] == after.W_enc).all(2).any(1).numpy()
        dropped += totals[layer][~stays].tolist()
        kept = totals[layer][stays]
        assert stays.sum() == len(after.b_enc) and (not dropped or kept.min() > 0)
    everything = np.concatenate(totals)
    assert max(dropped) <= np.sort(everything)[len(dropped) - 1]


def test_sets_are_compared_at_equal_l0_and_equal_size(tiny_model):
    model = tiny_model("llama")
    sets = {"plt": random_transcoders(model, seed=1), "clt": random_transcoders(model, "cross_layer", seed=2)}
    found = compare(model, sets, PASSAGES, PASSAGES, progress=False)
    shipped = found[found["variant"] == "shipped"].set_index("dictionary")
    whole = {name: measure(model, one, PASSAGES, progress=False).dictionary for name, one in sets.items()}
    for name, frame in whole.items():
        values = frame[frame["layer"] == "all"].set_index("metric")["value"]
        assert shipped.loc[name, "l0"] == pytest.approx(values["l0"])
        for metric in ("fvu", "recovered_from_mean", "recovered_from_zero", "agreement"):
            assert shipped.loc[name, metric] == pytest.approx(values[metric], rel=1e-3, abs=1e-4)
    matched = round(float(shipped.loc[["plt", "clt"], "l0"].min()), 6)
    at = found[found["target"] == matched]
    assert set(at[at["variant"] == "thinned"]["dictionary"]) == {"plt", "clt", "neurons"}
    assert at["l0"].to_numpy() == pytest.approx(matched, rel=0.02)
    small = found[found["variant"] == "pruned"]
    assert set(small["dictionary"]) == {"clt"} and (small["parameters"] <= n_parameters(sets["plt"])).all()
    assert float(shipped.loc["neurons", "fvu"]) == pytest.approx(0, abs=1e-6)
