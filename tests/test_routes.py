"""Routes through groups of features: every path belongs to one of them, and a word's pieces count together."""

from collections import defaultdict

import pytest
import torch
from test_graph_tables import GRAPH, paths
from toy_case import toy_context, transcoders_of

from biology.attribution.assembly import attribute
from biology.attribution.graph import ERROR, TOKEN, influence
from biology.attribution.graph_paths import Group, describe_route, strongest_routes
from biology.findings.labels import Roles


@pytest.fixture(scope="module")
def graph(tiny_model):
    model = tiny_model("llama", torch.float64)
    context = toy_context(model, {"graph": GRAPH}, transcoders=transcoders_of(model, n_features=6), draws=4)
    return attribute(model, context.transcoders, context.ids[context.place["i1"]], max_logits=2)


@pytest.fixture(scope="module")
def groups(graph):
    features = list(range(graph.n_nodes))[graph.features]
    return [Group("low", features[:3]), Group("high", features[-4:-1])]


def by_hand(graph, groups) -> dict[tuple, tuple[float, float]]:
    """Every path from a target down, and the route it belongs to: influence without and with signs."""
    of = {node: number for number, group in enumerate(groups) for node in group.nodes}
    found = defaultdict(lambda: [0.0, 0.0])
    for target in (graph.weights > 0).nonzero().flatten().tolist():
        for path, strength in paths(graph, target):
            if int(graph.kind[path[-1]]) == TOKEN:
                passed = tuple(dict.fromkeys(of[node] for node in path if node in of))[::-1]
                sums = found[int(graph.pos[path[-1]]), passed, target]
                sums[0] += abs(strength) * float(graph.weights[target])
                sums[1] += strength * float(graph.weights[target])
    return {route: tuple(sums) for route, sums in found.items() if sums[0] > 0}


def test_each_route_is_the_sum_of_its_paths_and_the_strongest_come_first(graph, groups):
    routes = strongest_routes(graph, groups, n=10_000)
    found = {(route.word.start, route.groups, route.target): (route.influence, route.signed) for route in routes}
    expected = by_hand(graph, groups)
    assert found.keys() == expected.keys() and {len(route.groups) for route in routes} == {0, 1, 2}
    for key, sums in expected.items():
        assert found[key] == pytest.approx(sums, abs=1e-12)
    assert [route.influence for route in routes] == sorted((route.influence for route in routes), reverse=True)
    assert strongest_routes(graph, groups, n=3) == routes[:3]


def test_all_routes_together_are_the_influence_of_the_tokens(graph, groups):
    routes = strongest_routes(graph, groups, n=10_000)
    assert sum(route.influence for route in routes) == pytest.approx(float(influence(graph)[graph.tokens].sum()))
    assert int((graph.kind == ERROR).sum())  # errors have influence too, and begin no route


def test_the_pieces_of_a_word_are_one_start_and_steps_are_told(graph, groups, monkeypatch):
    apart = strongest_routes(graph, groups, n=10_000)
    tokens = ["<bos>", "Da", "##s", *graph.metadata["tokens"][3:]]
    monkeypatch.setitem(graph.metadata, "tokens", tokens)
    one = next(
        route
        for route in strongest_routes(graph, groups, n=10_000)
        if (route.word, route.groups) == (range(1, 3), (1,))
    )
    parts = [
        route for route in apart if route.word.start in (1, 2) and (route.groups, route.target) == ((1,), one.target)
    ]
    assert one.influence == pytest.approx(sum(part.influence for part in parts)) and len(parts) == 2
    told = str(describe_route(graph, one, groups))
    assert f'"Das" -> high (3 features at "{tokens[int(graph.pos[groups[1].nodes[0]])]}") -> "' in told
    assert float(told.split("%")[0]) == pytest.approx(100 * one.influence / float(graph.weights.sum()), abs=0.01)


def test_features_are_grouped_by_their_first_role_and_their_token():
    roles = Roles(
        {(0, 1): ["Texas", "Dallas"], (1, 2): ["Texas"], (1, 3): ["say a capital"]},
        {"Texas": ["*"], "Dallas": ["*"], "say a capital": ["$"]},
    )
    tokens = ["<bos>", "Dallas", "is"]
    found = roles.grouped([(0, 1, 1), (1, 2, 1), (1, 2, 2), (1, 3, 1), (1, 3, 2), (5, 5, 1)], tokens)
    assert found == {("Texas", 1): [0, 1], ("Texas", 2): [2], ("say a capital", 2): [4]}
