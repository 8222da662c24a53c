"""What a gradient through a linear model says of a feature is what it does there, and what is live is the model's own gradient."""

import numpy as np
import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attribution.replacement import freeze_prompt
from biology.figures.ablation_prediction_figure import figure, summary
from biology.interventions.feature_edits import Sites, edits
from biology.interventions.protocols import intervene
from biology.models.model import run, token_batch
from biology.tables import table
from biology.transcoders.neurons import neuron_set
from biology.validation.ablation_prediction import (
    Linearisation,
    ablated,
    attributions,
    correlations,
    embedding_gradient,
    linearisations,
)
from biology.validation.edge_prediction import edges, pairs, patched

DOUBLE = torch.float64
IDS = [2, 11, 13, 4, 50]


@pytest.mark.parametrize("architecture", KINDS)
def test_a_small_change_of_a_neuron_does_what_the_live_gradient_says(tiny_model, architecture):
    model = tiny_model(architecture, DOUBLE)
    neurons = neuron_set(model, k=None)
    logits = _before_the_cap(model)
    token, other = logits.topk(2).indices.tolist()
    found = attributions(model, neurons, IDS, token, other, Linearisation("gradient", "live", "live"))
    for layer, pos, feature in ((0, 1, 3), (1, 2, 7), (2, 4, 5)):
        activation = float(_value(model, neurons, layer, pos, feature))
        moved = edits([(0, layer, pos, feature, activation * (1 + 1e-5))])
        after = intervene(
            model, neurons, [IDS], torch.tensor([0]), moved, protocol="iterative", live_attention=True
        ).pre_logits[0, 0]
        difference = ((after[token] - after[other]) - (logits[token] - logits[other])) / 1e-5
        assert float(found[layer][pos, feature]) == pytest.approx(float(difference), rel=1e-3, abs=1e-9)


def _before_the_cap(model):
    return run(model, token_batch(model, IDS), reads=["unembed.hook_out"], positions=-1)[1]["unembed.hook_out"][0, 0]


def _value(model, neurons, layer, pos, feature):
    hook = f"blocks.{layer}.{neurons.read_hook}"
    seen = run(model, token_batch(model, IDS), reads=[hook])[1][hook]
    return neurons.layers[layer].pre_activations(seen)[0, pos, feature]


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_with_all_held_a_transcoder_feature_adds_what_the_direct_and_indirect_paths_of_its_graph_say(
    tiny_model, architecture, kind
):
    from biology.attribution.assembly import attribute
    from biology.attribution.targets import ContrastTarget

    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model, kind).to(dtype=DOUBLE)
    token, other = 7, 9
    graph = attribute(model, transcoders, IDS, targets=[ContrastTarget(token, other)], first_position=0)
    edges = graph.adjacency
    total = torch.linalg.solve(
        torch.eye(len(edges), dtype=edges.dtype) - edges / _activations(graph), edges
    )  # all paths
    made = attributions(model, transcoders, IDS, token, other, Linearisation("encoder"))
    target = graph.logits.start
    for node in range(graph.features.start, graph.features.stop, 7):
        expected = total[target, node]
        layer, pos, feature = int(graph.layer[node]), int(graph.pos[node]), int(graph.feature[node])
        assert float(made[layer][pos, feature]) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_the_gradient_by_the_embeddings_is_what_a_small_change_of_them_does(tiny_model, architecture):
    model = tiny_model(architecture, DOUBLE)
    logits = _before_the_cap(model)
    token = int(logits.argmax())
    found = embedding_gradient(model, random_transcoders(model), IDS, None)
    change = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 1e-6
    hooks = [("hook_embed", lambda tensor: tensor + change)]
    after = run(model, token_batch(model, IDS), edits=hooks, reads=["unembed.hook_out"], positions=-1)[1]
    after = after["unembed.hook_out"][0, 0]
    moved = (after[token] - after.mean()) - (logits[token] - logits.mean())
    assert float((found * change).sum()) == pytest.approx(float(moved), rel=1e-3)


def test_neurons_that_are_all_there_have_the_gradient_of_the_model(tiny_model):
    """By the rule that is the gradient, with everything live."""
    model = tiny_model("llama", DOUBLE)
    live = embedding_gradient(model, neuron_set(model, k=None), IDS, None)
    told = embedding_gradient(model, neuron_set(model, k=None), IDS, Linearisation("gradient", "live", "live"))
    assert torch.allclose(live, told, rtol=1e-9, atol=1e-12)


def _activations(graph):
    """Of each node, 1 where it is no feature: an edge divided by its source's is a derivative."""
    found = torch.ones(len(graph.adjacency), dtype=graph.adjacency.dtype)
    features = slice(graph.features.start, graph.features.stop)
    found[features] = graph.activation[features]
    return found


def test_ablation_is_the_fall_of_both_targets(tiny_model):
    model = tiny_model("llama", DOUBLE)
    neurons = neuron_set(model, k=None)
    fall = ablated(model, neurons, IDS, [(1, 2, 7)], 7, 9)
    clean = _before_the_cap(model)
    held = edits([(0, 1, 2, 7, 0.0)])
    after = intervene(model, neurons, [IDS], torch.tensor([0]), held, protocol="iterative", live_attention=True).logits[
        0, 0
    ]
    assert fall[:, 0] == pytest.approx(
        [float(clean[7] - clean.mean() - after[7] + after.mean()), float(clean[7] - clean[9] - after[7] + after[9])]
    )


def test_every_reading_of_a_prompt_has_a_row_and_the_figure_says_which_is_best(tiny_model):
    model = tiny_model("llama")
    neurons = neuron_set(model, k=None)
    rows = correlations(model, neurons, IDS, np.random.default_rng(0))
    assert len(rows) == 3 * len(linearisations(neurons)) == 36 and all(-1 <= row["spearman"] <= 1 for row in rows)
    assert [row["target"] for row in rows[::12]] == ["logit", "contrast", "feature"]
    measured = table(
        "ablation_prediction", [{"prompt": str(n), "behaviour": "b", **row} for n in range(8) for row in rows]
    )
    found = summary(measured)
    assert (found["median"] == found["low"]).all() and (found["prompts"] == 8).all()
    said = figure(found, "toy").get_label()
    for _, of_target in found.groupby(found["target"] == "feature"):
        best = of_target.loc[of_target["median"].idxmax()]
        assert f"({best['median']:.2f}) as {best['rule']}" in said


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer", "neurons"])
@pytest.mark.parametrize("architecture", KINDS)
def test_edges_are_those_of_the_graph(tiny_model, architecture, kind):
    """With patterns and scales frozen."""
    from biology.attribution.assembly import attribute

    model = tiny_model(architecture, DOUBLE)
    of_neurons = kind == "neurons"
    transcoders = neuron_set(model, k=None) if of_neurons else random_transcoders(model, kind).to(dtype=DOUBLE)
    graph = attribute(model, transcoders, IDS, first_position=0)
    nodes = torch.arange(graph.features.start, graph.features.stop)[:: max(1, graph.features.stop // 40)]
    sites = Sites(torch.zeros_like(nodes), *(part[nodes].long() for part in (graph.layer, graph.pos, graph.feature)))
    local, rule = freeze_prompt(model, transcoders, IDS), "half" if of_neurons else "encoder"
    (found,) = edges(model, local, sites, [rule], "frozen", "frozen")
    assert torch.allclose(found, graph.adjacency[nodes[:, None], nodes], rtol=1e-9, atol=1e-12)
    assert pairs(sites).any() and not found[~pairs(sites)].any()


@pytest.mark.parametrize("architecture", KINDS)
def test_a_small_patch_does_what_the_live_edge_says(tiny_model, architecture):
    model = tiny_model(architecture, DOUBLE)
    neurons, size = neuron_set(model, k=None), 1e-5
    sites = Sites(*(torch.tensor(part) for part in ((0, 0, 0, 0), (0, 0, 1, 1), (1, 2, 2, 4), (3, 7, 5, 6))))
    (found,) = edges(model, freeze_prompt(model, neurons, IDS), sites, ["gradient"], "live", "live")
    there = pairs(sites)
    assert there.tolist() == [[False] * 4, [False] * 4, [True, True, False, False], [True, True, False, False]]
    for target, source in there.nonzero().tolist():
        place = [int(part[source]) for part in (sites.layer, sites.pos, sites.feature)]
        activation = float(_value(model, neurons, *place))
        watch = Sites(*(part[target : target + 1] for part in (sites.row, sites.layer, sites.pos, sites.feature)))
        read = [
            intervene(
                model, neurons, [IDS], torch.tensor([0]), edits([(0, *place, activation * (1 + change))]),
                last_layer=1, live_attention=True, watch=watch,
            ).watched_pre.item()
            for change in (0.0, size)
        ]  # fmt: skip
        assert float(found[target, source]) == pytest.approx((read[1] - read[0]) / size, rel=1e-3, abs=1e-9)


def test_a_patched_pair_is_the_fall_of_the_target_when_the_source_is_ablated(tiny_model):
    model = tiny_model("llama", DOUBLE)
    neurons = neuron_set(model, k=None)
    sites = Sites(*(torch.tensor(part) for part in ((0, 0), (0, 1), (1, 3), (3, 6))))
    fall = patched(model, neurons, IDS, sites)
    assert fall.isnan().tolist() == [[True, True], [False, True]]
    watch = Sites(*(part[1:] for part in (sites.row, sites.layer, sites.pos, sites.feature)))
    after = intervene(
        model, neurons, [IDS], torch.tensor([0]), edits([(0, 0, 1, 3, 0.0)]), last_layer=1, live_attention=True, watch=watch
    )  # fmt: skip
    expected = float(_value(model, neurons, 1, 3, 6)) - after.watched_pre.item()
    assert expected != 0 and float(fall[1, 0]) == pytest.approx(expected)
