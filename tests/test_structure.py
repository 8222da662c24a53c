"""What a graph is made of, held against graphs whose making is known."""

from collections import Counter

import numpy as np
import pytest
import torch
from test_graph import EDGES, KINDS, LAYERS, make_graph, random_graph

from biology.attribution.graph import FEATURE, LOGIT, TOKEN, influence
from biology.config import AttributionConfig
from biology.validation.structure import GraphStructure, loops, measured, rewire

# features 0 (layer 0), 1 (layer 1), 2 (layer 2) | token 3 | logit 4
CHAIN = [FEATURE] * 3 + [TOKEN, LOGIT]


def structured(graph, often=None, draws=3) -> GraphStructure:
    n = int((graph.kind == FEATURE).sum())
    often = torch.zeros(n, dtype=torch.bool) if often is None else torch.tensor(often)
    return GraphStructure(
        graph, AttributionConfig(node_threshold=1, edge_threshold=1), often, np.random.default_rng(0), draws
    )


def only(graph, outcome, **options) -> float:
    (value,) = measured(structured(graph, **options), [outcome])[outcome]["effect"]
    return value


def test_tiers_are_told_by_where_input_comes_from_and_influence_goes():
    """A chain from a token to the output: the first feature reads it, the last one writes, the middle one does neither."""
    edges = {(0, 3): 1.0, (1, 0): 1.0, (2, 1): 1.0, (4, 2): 1.0}
    graph = make_graph(CHAIN, [0, 1, 2, -1, -1], edges)
    graph.metadata["n_layers"] = 3
    one = structured(graph)
    assert one.abstract.tolist() == [False, True, False]
    assert only(graph, "abstract_middle") == 1.0


def test_a_loop_is_closed_and_coherent_if_its_shortcut_has_the_sign_of_the_way_around():
    def of(shortcut):
        edges = torch.zeros(3, 3)
        edges[1, 0], edges[2, 1], edges[2, 0] = -1.0, 2.0, shortcut
        return loops(edges)

    assert of(-3.0) == {"closed": 1.0, "coherent": 1.0} and of(3.0) == {"closed": 1.0, "coherent": 0.0}
    assert of(0.0)["closed"] == 0.0 and np.isnan(of(0.0)["coherent"])
    assert np.isnan(loops(torch.zeros(2, 2))["closed"])


def test_loops_are_counted_as_by_hand():
    edges, cells = structured(random_graph()).pruned
    there = (edges != 0).tolist()
    n = len(there)
    triples = [(a, b, c) for a in range(n) for b in range(n) for c in range(n) if there[b][a] and there[c][b]]
    closed = [(a, b, c) for a, b, c in triples if there[c][a]]
    alike = [1 for a, b, c in closed if edges[c][a] * edges[c][b] * edges[b][a] > 0]
    assert loops(edges) == pytest.approx({"closed": len(closed) / len(triples), "coherent": len(alike) / len(closed)})


def test_rewiring_keeps_how_many_edges_each_node_has():
    one = structured(random_graph(), draws=2)
    edges, cells = one.pruned
    for other in one.rewired:
        assert not torch.equal(edges, other)
        assert torch.allclose(edges.sort(1).values, other.sort(1).values)
        for axis in (0, 1):
            assert torch.equal((edges != 0).sum(axis), (other != 0).sum(axis))
        within = (cells == cells.unique()[:, None]).float()
        between = [within @ (each != 0).float() @ within.T for each in (edges, other)]
        assert torch.equal(*between)


def test_all_rewirings_are_as_probable():
    """Two targets of three sources each, which share one: of the other four, all six ways to give each target two."""
    edges = torch.zeros(7, 7, dtype=torch.float64)
    edges[5, [0, 1, 2]] = edges[6, [0, 3, 4]] = 1.0
    cells, generator = np.array([0] * 5 + [1] * 2), np.random.default_rng(0)
    ways = Counter(tuple((rewire(edges.numpy(), cells, generator)[5] != 0).nonzero()[0].tolist()) for _ in range(600))
    assert len(ways) == 6 and all(way[0] == 0 for way in ways)
    assert all(70 <= count <= 130 for count in ways.values())  # three standard deviations of a hundred


def test_the_last_layer_and_edges_that_skip_layers():
    graph = make_graph(
        KINDS, LAYERS, EDGES | {(5, 1): -2.0}
    )  # feature 0 adds 1 to the output, feature 1, of the last layer, -2
    assert only(graph, "last_layer_push") == -1.0 and only(graph, "last_layer_beyond") == -2.0
    assert only(graph, "layers_skipped") == 0.0
    chain = make_graph(CHAIN, [0, 1, 2, -1, -1], {(0, 3): 1.0, (1, 0): 1.0, (2, 1): 1.0, (2, 0): 3.0, (4, 2): 1.0})
    weights = influence(chain)[1:3]  # of the two features that take in from features
    assert only(chain, "layers_skipped") == pytest.approx(float(weights[1] * 0.75 / weights.sum()))


def test_scaffolding_is_the_influence_of_what_is_often_active():
    graph = random_graph()
    often = [number % 3 == 0 for number in range(int((graph.kind == FEATURE).sum()))]
    strength = influence(graph)[graph.features]
    found = measured(structured(graph, often, draws=5), ["scaffold"])["scaffold"]
    assert found["effect"] == [pytest.approx(float(strength[torch.tensor(often)].sum() / strength.sum()))]
    assert len(set(found["match"])) == 5
