"""Graphs equal circuit-tracer's number by number, budgets keep more of the influence, and odd input is refused."""

import warnings
from dataclasses import replace

import pytest
import torch
from conftest import random_transcoders
from peer_graphs import NAMES, peer_columns, peer_graph, peer_transcoders, write_peer_model

from biology.attribution.assembly import attribute, attribute_batch
from biology.attribution.graph import influence, prune, scores
from biology.models.model import load_model
from biology.records import InputError, InputWarning

IDS = [2, 5, 17, 33, 8, 61, 40, 9]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def transcoders(model):
    return random_transcoders(model)


@pytest.fixture(scope="module")
def whole(model, transcoders):
    return attribute(model, transcoders, IDS)


@pytest.mark.parametrize("name", NAMES)
def test_graphs_equal_circuit_tracer(name, tmp_path):
    peer, run, metadata = peer_graph(name)
    model = load_model(write_peer_model(run, metadata, tmp_path))
    ids, max_logits = run["prompt_ids"], int(metadata["max_logits"])
    graph = attribute(model, peer_transcoders(run, metadata), ids, max_logits=max_logits)
    ours = peer_columns(peer)
    assert not bool(run["adjacency"][:, ~ours].any())  # the errors at position 0 that we leave out have no edges
    found = torch.stack([graph.layer, graph.pos, graph.feature], 1)[graph.features]
    assert torch.equal(found, run["active_features"])
    torch.testing.assert_close(graph.activation[graph.features], run["activation_values"], rtol=1e-5, atol=1e-5)
    assert torch.equal(graph.token_id[graph.logits], run["logit_token_ids"])
    torch.testing.assert_close(graph.probability[graph.logits], run["logit_probabilities"], rtol=1e-5, atol=1e-7)
    expected = run["adjacency"][ours][:, ours]
    assert float((graph.adjacency - expected).abs().max()) <= 1e-5
    node_mask, edge_mask = prune(graph)
    assert torch.equal(node_mask, run["node_mask"][ours])
    assert torch.equal(edge_mask, run["edge_mask"][ours][:, ours])
    assert scores(graph).replacement == pytest.approx(float(metadata["replacement"]), abs=1e-5)
    assert scores(graph).completeness == pytest.approx(float(metadata["completeness"]), abs=1e-5)
    assert graph.metadata["row_residual"] <= 1e-5


def kept_influence(whole, graph):
    """Share of the whole graph's feature influence that the features of a budgeted graph hold there."""
    strength = influence(whole)[whole.features]
    index = {key: i for i, key in enumerate(zip(*(t[whole.features].tolist() for t in (whole.layer, whole.pos, whole.feature)), strict=True))}  # fmt: skip  # noqa: E501
    keys = zip(*(t[graph.features].tolist() for t in (graph.layer, graph.pos, graph.feature)), strict=True)
    return float(strength[[index[key] for key in keys]].sum() / strength.sum())


def test_selection_keeps_more_influence_than_direct_effects_alone(model, whole, transcoders, monkeypatch):
    monkeypatch.setattr(
        "biology.attribution.selection.ALL_ROWS_FACTOR", 0
    )  # choose step by step, however few features there are
    n_features = whole.features.stop
    direct = (whole.weights[whole.logits] @ whole.adjacency[whole.logits, :n_features].abs().double()).argsort(
        descending=True
    )
    strength = influence(whole)[whole.features]
    for budget in (80, 120, 200):
        graph = attribute(model, transcoders, IDS, max_feature_nodes=budget)
        one_shot = float(strength[direct[:budget]].sum() / strength.sum())
        best = float(strength.topk(budget).values.sum() / strength.sum())
        assert one_shot < kept_influence(whole, graph) <= best + 1e-9


def test_with_a_large_budget_the_selection_is_exact(model, whole, transcoders):
    budget = whole.features.stop // 2
    graph = attribute(model, transcoders, IDS, max_feature_nodes=budget)
    strength = influence(whole)[whole.features]
    best = float(strength.topk(budget).values.sum() / strength.sum())
    assert kept_influence(whole, graph) == pytest.approx(best)


def test_a_budget_is_a_part_of_the_whole_graph(model, whole, transcoders):
    graph = attribute(model, transcoders, IDS, max_feature_nodes=100)
    assert graph.features.stop == 100
    index = {key: i for i, key in enumerate(zip(*(t.tolist() for t in (whole.kind, whole.layer, whole.pos, whole.feature, whole.token_id)), strict=True))}  # fmt: skip  # noqa: E501
    kept = [index[key] for key in zip(*(t.tolist() for t in (graph.kind, graph.layer, graph.pos, graph.feature, graph.token_id)), strict=True)]  # fmt: skip  # noqa: E501
    part = whole.adjacency[kept][:, kept]
    errors = (graph.kind == 1)[None].expand_as(part)
    torch.testing.assert_close(graph.adjacency[~errors], part[~errors], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph.bias, whole.bias[kept])
    torch.testing.assert_close(graph.pre_activation, whole.pre_activation[kept])


def test_a_given_set_of_features(model, whole, transcoders):
    chosen = [tuple(int(t[i]) for t in (whole.layer, whole.pos, whole.feature)) for i in (50, 3, 120)]
    graph = attribute(model, transcoders, IDS, features=chosen)
    found = [tuple(int(t[i]) for t in (graph.layer, graph.pos, graph.feature)) for i in range(graph.features.stop)]
    assert found == sorted(chosen)
    assert graph.metadata["row_residual"] <= 1e-5
    inactive = next(
        f for f in range(48) if not bool(((whole.layer == 1) & (whole.pos == 2) & (whole.feature == f)).any())
    )
    with pytest.raises(InputError, match=f"feature {inactive} of layer 1 is not active at position 2"):
        attribute(model, transcoders, IDS, features=[(1, 2, inactive)])


def test_no_feature_nodes_is_a_budget_too(model, transcoders):
    graph = attribute(model, transcoders, IDS, max_feature_nodes=0)
    assert graph.features.stop == 0 and graph.metadata["n_active"] > 0
    assert graph.metadata["row_residual"] <= 1e-5
    nodes, edges = prune(graph)
    assert bool(edges.any()) and 0 < scores(graph).replacement < 1


@pytest.mark.parametrize("budget", [None, 0, 5])
def test_a_prompt_of_one_token(model, transcoders, budget):
    graph = attribute(model, transcoders, IDS[:1], max_feature_nodes=budget)
    assert graph.features.stop == 0 and graph.errors.stop == 0 and graph.tokens.stop == 1
    assert graph.metadata["row_residual"] <= 1e-5
    assert scores(graph) == (1.0, 1.0)


def test_more_logits_than_words(model, transcoders):
    graph = attribute(model, transcoders, IDS, max_logits=1000, logit_probability=1.0)
    assert graph.n_nodes - graph.logits.start == model.n_vocab
    assert float(graph.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_topk_features_are_positive_unless_the_set_is_signed(model):
    signed = random_transcoders(model, activation="topk", n_features=8, k=8)
    graph = attribute(model, replace(signed, signed=False), IDS)
    assert float(graph.activation[graph.features].min()) > 0
    assert graph.features.stop < 8 * 3 * 7  # negative ones among the k largest are not active
    both = attribute(model, signed, IDS)
    assert float(both.activation[both.features].min()) < 0 and both.metadata["row_residual"] < 1e-5


def test_a_first_word_that_is_left_out_is_said(tiny_model):
    """Of a prompt without BOS the first word is no node but its token, as in circuit-tracer."""
    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    with pytest.warns(InputWarning, match="no special token stands before 'w8': .* are not nodes"):
        graph = attribute(model, transcoders, [12, 21, 37])
    assert int(graph.pos[graph.features].min()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        counted = attribute(model, transcoders, [12, 21, 37], first_position=0)
        attribute(model, transcoders, [1, 21, 37])  # <eos> is a special token too
    assert int((counted.pos[counted.features] == 0).sum()) > 10 and counted.metadata["row_residual"] < 1e-5
    with pytest.warns(InputWarning, match="before 'w0', 'w1', 'w2', ...:"):
        attribute_batch(model, transcoders, [[2, 5], [4, 5], [5, 6], [6, 7], [9, 3, 4]])


def test_later_first_position_leaves_more_to_the_bias(tiny_model):
    model = tiny_model("gpt2", torch.float64)
    graph = attribute(model, random_transcoders(model, skip=True), IDS, first_position=4)
    assert int(graph.pos[graph.features].min()) == 4 and int(graph.pos[graph.errors].min()) == 4
    assert graph.metadata["row_residual"] <= 1e-10
    whole = attribute(model, random_transcoders(model, skip=True), IDS, first_position=0)
    assert int(whole.pos[whole.features].min()) == 0 and whole.metadata["row_residual"] <= 1e-10


def test_progress_reaches_its_end(model, transcoders):
    for budget in (None, 0, 70, 200):
        seen = []
        attribute(
            model, transcoders, IDS, max_feature_nodes=budget, progress=lambda *counts, seen=seen: seen.append(counts)
        )
        assert seen and seen[-1][0] == seen[-1][1]


def test_a_graph_made_from_both_sides_shows_progress(model, transcoders, monkeypatch):
    monkeypatch.setattr("biology.attribution.assembly.SMALL", 0)
    seen = []
    graph = attribute(model, transcoders, IDS, progress=lambda *counts: seen.append(counts))
    n_rows = graph.features.stop + len(range(graph.n_nodes)[graph.logits])
    assert len(seen) == model.n_layers + 1 and seen == sorted(seen) and seen[-1] == (n_rows, n_rows)


def test_the_same_call_gives_the_same_graph(model, whole, transcoders):
    again = attribute(model, transcoders, IDS)
    assert torch.equal(again.adjacency, whole.adjacency) and again.metadata == whole.metadata


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"max_logits": 0}, "max_logits must be at least 1"),
        ({"logit_probability": 0.0}, "logit_probability"),
        ({"max_feature_nodes": -1}, "max_feature_nodes must be 0"),
        ({"max_feature_nodes": 3, "features": []}, "not both"),
        ({"first_position": -1}, "first_position"),
        ({"token_ids": []}, "empty"),
        ({"token_ids": [2, 100]}, "token id 100 is outside"),
    ],
)
def test_impossible_requests_are_refused(model, transcoders, arguments, words):
    with pytest.raises(InputError, match=words):
        attribute(model, transcoders, **{"token_ids": IDS, **arguments})


def test_transcoders_of_another_model_are_refused(model, tiny_model):
    with pytest.raises(InputError, match="do not fit model"):
        attribute(model, random_transcoders(tiny_model("llama", torch.float32, 4)), IDS)


def test_effects_that_are_not_finite_are_refused(model):
    broken = random_transcoders(model)
    broken.layers[0].W_dec[:] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        attribute(model, broken, IDS)


def test_half_precision_is_continued_in_float32(tiny, model, transcoders, whole):
    half = load_model(tiny("llama"), dtype=torch.bfloat16)
    graph = attribute(half, transcoders.to(dtype=torch.bfloat16), IDS)
    assert graph.adjacency.dtype == torch.float32
    assert whole.metadata["row_residual"] < 1e-5 < graph.metadata["row_residual"] < 0.05  # bfloat16 is the forward pass
    index = {key: i for i, key in enumerate(zip(*(t.tolist() for t in (whole.kind, whole.layer, whole.pos, whole.feature, whole.token_id)), strict=True))}  # fmt: skip
    keys = zip(*(t.tolist() for t in (graph.kind, graph.layer, graph.pos, graph.feature, graph.token_id)), strict=True)
    both = [(i, index[key]) for i, key in enumerate(keys) if key in index]
    assert len(both) > 0.9 * whole.n_nodes
    here, there = (torch.tensor(each) for each in zip(*both, strict=True))
    gap = graph.adjacency[here][:, here] - whole.adjacency[there][:, there]
    assert float(gap.norm() / whole.adjacency.norm()) < 0.05


@pytest.mark.parametrize("coder", ["per_layer", "cross_layer"])
def test_rows_that_do_not_fit_into_memory_are_made_again(tiny_model, coder):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model, coder)
    whole = attribute(model, transcoders, IDS)
    row = whole.n_nodes * 8
    for memory in (40 * row, 400 * row):  # a part of the entries of a budget's rows, and all of them
        graph = attribute(model, transcoders, IDS, max_feature_nodes=60, memory=memory)
        assert graph.features.stop == 60 and graph.metadata["row_residual"] <= 1e-10
        assert kept_influence(whole, graph) > 0.9 * float(
            influence(whole)[whole.features].topk(60).values.sum() / influence(whole)[whole.features].sum()
        )
