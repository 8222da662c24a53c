"""Heads that carry an edge: their shares are what the edge loses without them, from the source up and the target down."""

import pytest
import torch
from conftest import KINDS
from test_direct_effects import source_vectors
from test_head_loadings import CASES, edges_with_heads_cut, edges_without, make

from biology.attention.edge_heads import WORTH_TELLING, Edge, EdgeByHeads, edges_between_tokens, edges_by_heads
from biology.attention.head_loadings import head_loadings
from biology.attention.matches import matches
from biology.attention.qk import qk_attribution
from biology.attribution.assembly import attribute
from biology.attribution.graph import LOGIT, influence, prune
from biology.attribution.targets import ContrastTarget, FeatureTarget
from biology.records import InputError


def some_edges(graph, target):
    """Edges into a node from sources of every kind, one of its own token and one of which it has nothing among them."""
    spans = (graph.features, graph.errors, graph.tokens)
    return [Edge(source, target, 0.0) for span in spans for source in range(span.start, span.stop, 7)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_share_is_what_the_edge_loses_when_the_head_is_cut(tiny_model, kind, case):
    model, transcoders, graph = make(tiny_model, kind, case)
    removed = source_vectors(model, transcoders, graph)
    node = int((graph.layer[graph.features] == 2).nonzero()[-1])
    target = FeatureTarget(*(int(column[node]) for column in (graph.layer, graph.pos, graph.feature)))

    def without(heads):
        return edges_without(heads, model, transcoders, removed, target)

    whole, told = without([]), 0
    lost = {(layer, head): whole - without([(layer, head)]) for layer, head in ((0, 1), (1, 3), (2, 0))}
    edges = [edge for edge in some_edges(graph, node) if abs(float(whole[edge.source])) > 1e-6]
    for edge in edges_by_heads(model, transcoders, graph, edges):
        assert edge.weight == pytest.approx(float(whole[edge.source]), rel=1e-8)
        shares = {(part.layer, part.head): part.share for part in edge.heads}
        for place, loss in lost.items():
            share = float(loss[edge.source] / whole[edge.source])
            if abs(share) >= WORTH_TELLING * (1 + 1e-9):
                told += 1
                assert shares[place] == pytest.approx(share, rel=1e-7)
            else:
                assert place not in shares
    assert told > 5


@pytest.mark.parametrize("case", CASES)
def test_shares_are_those_of_all_loadings(tiny_model, case):
    model, transcoders, graph = make(
        tiny_model, "gemma2", case, targets=[ContrastTarget(5, 9), 7], max_feature_nodes=20
    )
    nodes = [*range(0, graph.features.stop, 5), graph.logits.start, graph.n_nodes - 1]
    edges = [
        edge
        for node in nodes
        for edge in some_edges(graph, node)
        if float(graph.adjacency[node, edge.source].abs()) > 1e-9
    ]
    for memory in (1, 1 << 28):
        found = edges_by_heads(model, transcoders, graph, edges, memory=memory)
        assert [(edge.source, edge.target) for edge in found] == [edge[:2] for edge in edges]
        for node in nodes:
            loadings = head_loadings(model, transcoders, graph, node)
            for edge in (one for one in found if one.target == node):
                share = loadings.heads[:, :, edge.source] / loadings.edge[edge.source]
                told = torch.zeros_like(share)
                for part in edge.heads:
                    told[part.layer, part.head] = part.share
                torch.testing.assert_close(told, share * (share.abs() >= WORTH_TELLING), rtol=1e-7, atol=1e-9)
                sizes = [abs(part.share) for part in edge.heads]
                assert sizes == sorted(sizes, reverse=True)
    assert not edges_by_heads(model, transcoders, graph, [])


def test_the_step_that_is_told_is_the_one_that_carries_most(tiny_model):
    model, transcoders, graph = make(tiny_model, "llama", "per layer, skip")
    removed = source_vectors(model, transcoders, graph)
    node = int((graph.layer[graph.features] == 2).nonzero()[-1])
    target = FeatureTarget(*(int(column[node]) for column in (graph.layer, graph.pos, graph.feature)))
    source = graph.tokens.start + 3
    whole = edges_with_heads_cut(model, transcoders, removed, target, lambda layer, pattern: pattern)[source]
    (edge,) = edges_by_heads(model, transcoders, graph, [Edge(source, node, 0.0)])
    part = edge.heads[0]

    def without(query, key):
        def cut(layer, pattern):
            if layer == part.layer:
                pattern[:, part.head, query, key] = 0
            return pattern

        return float(whole - edges_with_heads_cut(model, transcoders, removed, target, cut)[source])

    steps = {(q, k): without(q, k) for q in range(3, target.position + 1) for k in range(3, q + 1)}
    assert sum(steps.values()) == pytest.approx(part.share * float(whole))
    assert max(steps, key=lambda step: abs(steps[step])) == (part.query, part.key)


def test_the_edges_that_are_told_are_the_strongest_between_tokens(tiny_model):
    model, transcoders, graph = make(tiny_model, "qwen3", "cross layer")
    _, kept = prune(graph, 0.9, 0.9)
    flow, sizes = influence(graph) + graph.weights, graph.adjacency.double().abs().sum(1)
    shares = {
        (source, target): float(flow[target] * graph.adjacency[target, source].double().abs() / sizes[target])
        for target, source in kept.nonzero().tolist()
        if graph.pos[target] != graph.pos[source]
    }
    order = sorted(shares, key=lambda edge: -shares[edge])
    found = edges_between_tokens(graph, kept, 12)
    assert [edge[:2] for edge in found] == order[:12]
    assert [edge.share for edge in found] == pytest.approx([shares[e] / float(graph.weights.sum()) for e in order[:12]])
    assert len(edges_between_tokens(graph, kept, 10**6)) == len(order) and not edges_between_tokens(graph, kept, 0)
    assert all(graph.kind[edge.source] < LOGIT for edge in found)
    assert not edges_between_tokens(graph, torch.zeros_like(kept), 3)
    live = attribute(model, transcoders, graph.metadata["token_ids"], max_logits=1, norms="live")
    with pytest.raises(InputError, match="trace without `live`"):
        edges_between_tokens(live, live.adjacency != 0, 3)


def test_the_first_head_of_an_edge_is_taken_apart_where_it_carries_the_edge(tiny_model):
    model, transcoders, graph = make(tiny_model, "gemma3", "cross layer")
    _, kept = prune(graph, 0.95, 0.98)
    carried = edges_by_heads(model, transcoders, graph, edges_between_tokens(graph, kept, 6))
    bare = EdgeByHeads(graph.tokens.start, 0, 0.0, 1.0, ())
    found = matches(model, transcoders, graph, [*carried, bare, carried[0]])
    assert found[-2] is None and found[-1] is found[0]
    for edge, match in zip(carried, found, strict=False):
        part = edge.heads[0]
        whole = qk_attribution(
            model, transcoders, graph.metadata["token_ids"], part.layer, part.head, part.query, part.key
        )
        assert match.score == whole.score and match.attention == whole.attention
        assert list(match.pairs) == whole.top_pairs(3)
        assert [value for *_, value in match.told()] == [pair.value for pair in match.pairs]
        features = {f"feature {layer}/{number}@{pos}" for layer, number, pos in match.features()}
        assert features == {end for *ends, _ in match.told() for end in ends if end.startswith("feature")}
