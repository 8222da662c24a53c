"""Influence, pruning, scores and paths are what they are defined to be, and equal circuit-tracer's on its own
graphs."""

import itertools
from dataclasses import replace

import pytest
import torch
from peer_graphs import NAMES, peer_graph

from biology.attribution import graph as g
from biology.attribution.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph
from biology.attribution.graph_paths import describe, strongest_paths


def make_graph(kinds, layers, edges, *, probability=None, positions=None, bias=None, pre=None) -> Graph:
    """A graph from node kinds and layers (in graph order) and edges {(target, source): weight}."""
    n = len(kinds)
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    for (target, source), weight in edges.items():
        adjacency[target, source] = weight
    kind = torch.tensor(kinds, dtype=torch.int8)
    zero = torch.zeros(n, dtype=torch.float64)
    weights = torch.zeros(n, dtype=torch.float64)
    weights[kind == LOGIT] = torch.tensor(probability or [1.0] * kinds.count(LOGIT), dtype=torch.float64)
    number = torch.arange(n)
    return Graph(
        kind=kind,
        layer=torch.tensor(layers),
        pos=torch.tensor(positions or [1] * n),
        feature=torch.where(kind == FEATURE, 10 + number, -1),
        token_id=torch.where(kind >= TOKEN, 50 + number, -1),
        activation=torch.where(kind == FEATURE, 2.0, zero),
        probability=weights,
        adjacency=adjacency,
        bias=zero if bias is None else torch.tensor(bias, dtype=torch.float64),
        pre_activation=zero if pre is None else torch.tensor(pre, dtype=torch.float64),
        metadata={"n_layers": 2, "n_vocab": 100, "tokens": ["<bos>", "Dallas"], "target_labels": ["Austin"]},
    )


# features 0 (layer 0), 1 (layer 1) | error 2 (layer 0), 3 (layer 1) | token 4 | logit 5, p = 0.5
KINDS, LAYERS = [FEATURE, FEATURE, ERROR, ERROR, TOKEN, LOGIT], [0, 1, 0, 1, -1, -1]
EDGES = {(0, 4): 2.0, (1, 0): -3.0, (1, 2): 1.0, (5, 1): 2.0, (5, 0): 1.0, (5, 3): 1.0}


@pytest.fixture
def drawn() -> Graph:
    return make_graph(KINDS, LAYERS, EDGES, probability=[0.5])


def random_graph(seed: int = 0, n_layers: int = 4, per_layer: int = 6) -> Graph:
    """A dense random graph that respects the layers."""
    generator = torch.Generator().manual_seed(seed)
    n_features = n_layers * per_layer
    kinds = [FEATURE] * n_features + [ERROR] * n_layers + [TOKEN] * 3 + [LOGIT] * 3
    layers = [i // per_layer for i in range(n_features)] + list(range(n_layers)) + [-1] * 6
    level = torch.tensor([layer if kind < TOKEN else -1 for kind, layer in zip(kinds, layers, strict=True)])
    level[-3:] = n_layers
    adjacency = torch.randn(len(kinds), len(kinds), generator=generator, dtype=torch.float64)
    rows = torch.tensor([kind in (FEATURE, LOGIT) for kind in kinds])
    sources = torch.tensor([kind != LOGIT for kind in kinds])
    adjacency *= (level[:, None] > level) & rows[:, None] & sources
    base = make_graph(kinds, layers, {}, probability=[0.5, 0.3, 0.1])
    return replace(base, adjacency=adjacency)


def test_influence_and_scores_worked_out_on_paper(drawn):
    # N: 0 <- 4: 1;  1 <- 0: 3/4, 2: 1/4;  5 <- 1: 1/2, 0: 1/4, 3: 1/4.  w = 0.5 on node 5
    one = 0.5 * 0.5
    zero = 0.5 * 0.25 + one * 0.75
    expected = [zero, one, one * 0.25, 0.5 * 0.25, zero, 0.0]
    torch.testing.assert_close(g.influence(drawn), torch.tensor(expected, dtype=torch.float64))
    replacement, completeness = g.scores(drawn)
    errors = one * 0.25 + 0.5 * 0.25
    assert replacement == pytest.approx(zero / (zero + errors))
    passed = [zero, one, one * 0.25, 0.5 * 0.25, zero, 0.5]
    explained = [1, 0.75, 1, 1, 1, 0.75]
    assert completeness == pytest.approx(sum(a * b for a, b in zip(passed, explained, strict=True)) / sum(passed))


def test_influence_is_the_series_and_the_inverse():
    graph = random_graph()
    size = graph.adjacency.abs()
    normal = size / size.sum(1, keepdim=True).clamp(min=1e-10)
    series, term = torch.zeros_like(graph.weights), graph.weights
    for _ in range(10):
        term = term @ normal
        series = series + term
    torch.testing.assert_close(g.influence(graph), series)
    inverse = graph.weights @ (torch.linalg.inv(torch.eye(graph.n_nodes, dtype=torch.float64) - normal))
    torch.testing.assert_close(g.influence(graph), inverse - graph.weights)


@pytest.mark.parametrize("signed", [False, True])
def test_many_questions_in_one_call_have_the_answers_of_single_calls(signed):
    graph = random_graph()
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(5, graph.n_nodes, generator=generator, dtype=torch.float64)
    removed = torch.rand(5, graph.n_nodes, generator=generator) < 0.2
    single = [g.influence(graph, w, signed=signed, removed=r) for w, r in zip(weights, removed, strict=True)]
    torch.testing.assert_close(
        g.influence(graph, weights, signed=signed, removed=removed), torch.stack(single), rtol=1e-12, atol=1e-12
    )


def test_signed_influence_shows_cancellation():
    # the token reaches the logit through two features of opposite sign
    edges = {(0, 2): 1.0, (1, 2): 1.0, (3, 0): 1.0, (3, 1): -1.0}
    graph = make_graph([FEATURE, FEATURE, TOKEN, LOGIT], [0, 0, -1, -1], edges)
    assert float(g.influence(graph)[2]) == pytest.approx(1)
    assert float(g.influence(graph, signed=True)[2]) == pytest.approx(0)


def test_scores_are_one_without_errors_and_zero_without_features():
    graph = make_graph([FEATURE, ERROR, TOKEN, LOGIT], [0, 0, -1, -1], {(0, 2): 1.0, (3, 0): 2.0})
    assert g.scores(graph) == (1.0, 1.0)
    only_errors = make_graph([ERROR, TOKEN, LOGIT], [0, -1, -1], {(2, 0): 1.0})
    assert g.scores(only_errors).replacement == 0
    assert g.scores(only_errors).completeness == pytest.approx(0.5)  # the error itself counts as explained


@pytest.mark.parametrize("name", NAMES)
def test_influence_masks_and_scores_equal_circuit_tracer(name):
    graph, run, metadata = peer_graph(name)
    torch.testing.assert_close(g.influence(graph).float(), run["node_influence"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        g.cumulative_scores(g.influence(graph)).float(), run["cumulative_scores"], rtol=1e-5, atol=1e-6
    )
    node_mask, edge_mask = g.prune(graph, 0.8, 0.98)
    assert torch.equal(node_mask, run["node_mask"])
    assert torch.equal(edge_mask, run["edge_mask"])
    scores = g.scores(graph)
    assert scores.replacement == pytest.approx(float(metadata["replacement"]), abs=1e-6)
    assert scores.completeness == pytest.approx(float(metadata["completeness"]), abs=1e-6)


def test_blocks_of_rows_change_nothing(monkeypatch):
    graph, run, _ = peer_graph("gpt2_relu")
    monkeypatch.setattr(g, "CHUNK_ENTRIES", 1000)
    torch.testing.assert_close(g.influence(graph).float(), run["node_influence"], rtol=1e-5, atol=1e-7)
    assert torch.equal(g.prune(graph)[1], run["edge_mask"])


def test_share_threshold_is_the_last_value_of_the_shortest_prefix():
    values = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    assert g.share_threshold(values, 0.3) == 0.4
    assert g.share_threshold(values, 0.41) == 0.3
    assert g.share_threshold(values, 0.95) == 0.1
    assert g.share_threshold(values, 1.0) == float("-inf")
    generator = torch.Generator().manual_seed(1)
    many = torch.rand(500, generator=generator, dtype=torch.float64) ** 8
    for share in (0.1, 0.5, 0.8, 0.98, 0.9999):
        ordered = many.sort(descending=True).values
        length = int((ordered.cumsum(0) < share * many.sum()).sum()) + 1
        assert g.share_threshold(many, share) == float(ordered[length - 1])


def test_thresholds_of_one_keep_everything(drawn):
    node_mask, edge_mask = g.prune(drawn, 1.0, 1.0)
    assert bool(node_mask.all())
    assert torch.equal(edge_mask, drawn.adjacency != 0)


def test_pruned_graph_is_clean():
    for seed in range(5):
        graph = random_graph(seed)
        nodes, edges = g.prune(graph, 0.5, 0.8)
        assert bool(nodes[graph.tokens].all() and nodes[graph.logits].all())
        features, errors = (graph.kind == FEATURE) & nodes, (graph.kind == ERROR) & nodes
        assert bool(edges[:, features].any(0).all() and edges[features].any(1).all() and edges[:, errors].any(0).all())
        assert not bool(edges[~nodes].any() or edges[:, ~nodes].any())


def test_prune_refuses_a_threshold_outside_the_unit_interval(drawn):
    with pytest.raises(ValueError, match="edge_threshold must lie between 0 and 1, not 98.0"):
        g.prune(drawn, 0.8, 98.0)


def test_row_residual_is_the_relative_gap():
    graph = make_graph([TOKEN, LOGIT], [-1, -1], {(1, 0): 3.0}, bias=[0, -1.0], pre=[0, 2.0])
    assert float(g.row_residual(graph).max()) == 0
    wrong = make_graph([TOKEN, LOGIT], [-1, -1], {(1, 0): 3.0}, bias=[0, -1.0], pre=[0, 2.4])
    assert float(g.row_residual(wrong)[1]) == pytest.approx(0.4 / 4)


def test_strongest_paths_equal_brute_force():
    graph = random_graph(3, n_layers=3, per_layer=3)
    size = graph.adjacency.abs()
    normal = size / size.sum(1, keepdim=True).clamp(min=1e-10)

    def walk(path, strength):
        if int(graph.kind[path[-1]]) in (TOKEN, ERROR):
            yield strength, path[::-1]
            return
        for source in normal[path[-1]].nonzero().flatten().tolist():
            yield from walk((*path, source), strength * float(normal[path[-1], source]))

    starts = range(graph.logits.start, graph.logits.stop)
    every = sorted(itertools.chain(*(walk((t,), float(graph.weights[t])) for t in starts)), reverse=True)
    found = strongest_paths(graph, 20, errors=True)
    assert [path.nodes for path in found] == [path for _, path in every[:20]]
    assert [path.strength for path in found] == pytest.approx([strength for strength, _ in every[:20]])
    assert sum(strength for strength, _ in every) == pytest.approx(float(graph.weights.sum()))
    tokens_only = [path for _, path in every if int(graph.kind[path[0]]) == TOKEN][:7]
    assert [path.nodes for path in strongest_paths(graph, 7)] == tokens_only


def test_paths_in_words(drawn):
    first = strongest_paths(drawn, 1)[0]
    assert first.edges == (2.0, -3.0, 2.0)
    words = str(describe(drawn, first, {(1, 11): "Texas"}))
    assert words == '37.50% -  "Dallas" -> feature 0/10 -> Texas (1/11) -> "Austin"'


def test_nodes_out_of_order_are_refused():
    with pytest.raises(ValueError, match="features | errors"):
        make_graph([ERROR, FEATURE], [0, 0], {})
    with pytest.raises(ValueError, match="ordered by layer"):
        make_graph([FEATURE, FEATURE], [1, 0], {})


def test_what_pruning_takes_away_counts_as_errors():
    """The scores of what is kept are those of a graph in which the features that are not kept are errors, without a row."""
    graph = random_graph()
    assert tuple(g.scores(graph, torch.ones(graph.n_nodes, dtype=torch.bool))) == pytest.approx(tuple(g.scores(graph)))
    kept = torch.ones(graph.n_nodes, dtype=torch.bool)
    kept[[1, 8, 9, 20]] = False
    kind = torch.where(kept, graph.kind, ERROR).to(graph.kind.dtype)
    order = kind.argsort(stable=True)
    edges = torch.where(kept[:, None], graph.adjacency, 0.0)[order][:, order]
    per_node = ("layer", "pos", "feature", "token_id", "activation", "probability", "bias", "pre_activation")
    moved = {name: getattr(graph, name)[order] for name in per_node}
    relabelled = g.scores(Graph(kind=kind[order], adjacency=edges, **moved))
    assert tuple(g.scores(graph, kept)) == pytest.approx(tuple(relabelled))
    assert g.scores(graph, kept).completeness < g.scores(graph).completeness
