"""A head's loading is what an edge loses when that head is cut, and loadings add up to the edge."""

import pytest
import torch
from conftest import KINDS, random_transcoders
from test_direct_effects import IDS, source_vectors, without_sources

from biology.attention.head_loadings import head_loadings
from biology.attribution.assembly import attribute
from biology.attribution.graph import FEATURE
from biology.attribution.targets import ContrastTarget, DirectionTarget, FeatureTarget
from biology.models.model import run
from biology.records import InputError

CASES = {
    "per layer, skip": ("per_layer", "jumprelu", True, "mlp.hook_in", "mlp.hook_out"),
    "cross layer": ("cross_layer", "relu", False, "ln2.hook_normalized", "hook_mlp_out"),
}


def make(tiny_model, kind, case, **options):
    model = tiny_model(kind, torch.float64)
    coder, activation, skip, read, write = CASES[case]
    transcoders = random_transcoders(model, coder, activation, skip, 24, read_hook=read, write_hook=write)
    return model, transcoders, attribute(model, transcoders, IDS, **{"max_logits": 2, **options})


def edges_with_heads_cut(model, transcoders, removed, target, cut):
    """Effects of the removed sources on one feature in the frozen model, [row], after `cut(layer, pattern)` has taken
    heads out of the patterns."""
    ids = torch.tensor([IDS]).repeat(len(removed) + 1, 1)
    removed = torch.cat([removed, torch.zeros_like(removed[:1])])  # the last row loses nothing
    _, edits, seen = without_sources(model, transcoders, ids, removed)
    edits += [
        (f"blocks.{layer}.attn.hook_pattern", lambda pattern, layer=layer: cut(layer, pattern.clone()))
        for layer in range(model.n_layers)
    ]
    run(model, ids, edits=edits)
    at = seen[target.layer][:, target.position]
    return (at[-1] - at[:-1]) @ transcoders.layers[target.layer].W_enc[target.feature]


def edges_without(heads, *frozen):
    """The same after these heads were taken out whole."""

    def cut(layer, pattern):
        pattern[:, [head for at, head in heads if at == layer]] = 0
        return pattern

    return edges_with_heads_cut(*frozen, cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_loading_is_what_the_edge_loses_when_the_head_is_cut(tiny_model, kind, case):
    model, transcoders, graph = make(tiny_model, kind, case)
    removed = source_vectors(model, transcoders, graph)
    target = FeatureTarget(2, 6, 5)  # active or not
    loadings = head_loadings(model, transcoders, graph, target)

    def without(heads):
        return edges_without(heads, model, transcoders, removed, target)

    close = dict(rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(loadings.edge, without([]), **close)
    every = [(layer, head) for layer in range(3) for head in range(4)]
    torch.testing.assert_close(loadings.direct, without(every), **close)
    for layer, head in [(0, 1), (1, 3), (2, 0)]:
        torch.testing.assert_close(loadings.heads[layer, head], loadings.edge - without([(layer, head)]), **close)
        assert float(loadings.heads[layer, head].abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_loadings_add_up_to_the_edge(tiny_model, kind, case):
    model, transcoders, graph = make(tiny_model, kind, case)
    middle = int((graph.layer[graph.features] < 2).sum()) - 1  # a feature of layer 1
    for target in (0, middle, graph.features.stop - 1, graph.logits.start, -1):
        edges = graph.adjacency[target, : graph.logits.start]
        last = head_loadings(model, transcoders, graph, target, steps="last")
        torch.testing.assert_close(last.edge, edges, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(last.direct + last.heads.sum((0, 1)), edges, rtol=1e-9, atol=1e-12)
        every = head_loadings(model, transcoders, graph, target)
        assert every.heads.shape == (3, 4, graph.logits.start)
        # one attention step at most: from layer l - 1, the attention of layer l is all there is
        layer = int(graph.layer[target]) if graph.kind[target] == FEATURE else 3
        near = graph.layer[: graph.logits.start] >= layer - 1
        sums = every.direct + every.heads.sum((0, 1))
        torch.testing.assert_close(sums[near], edges[near], rtol=1e-9, atol=1e-12)
        if layer >= 2:
            assert float((sums - edges).abs().max()) > 1e-3


def test_targets_that_are_no_tokens(tiny_model):
    contrast, direction = ContrastTarget(5, 9), DirectionTarget(torch.arange(32.0))
    model, transcoders, graph = make(tiny_model, "gpt2", "cross layer", targets=[contrast, direction])
    for target, node in ((contrast, -2), (direction, -1)):
        found = head_loadings(model, transcoders, graph, target, steps="last")
        edges = graph.adjacency[node, : graph.logits.start]
        torch.testing.assert_close(found.direct + found.heads.sum((0, 1)), edges, rtol=1e-9, atol=1e-12)
    # a contrast is known by its node, a direction is not
    torch.testing.assert_close(head_loadings(model, transcoders, graph, -2).edge, graph.adjacency[-2, :-2])
    with pytest.raises(InputError, match="give the target itself"):
        head_loadings(model, transcoders, graph, -1)
    with pytest.raises(InputError, match="has no incoming edges"):
        head_loadings(model, transcoders, graph, graph.tokens.start)
    with pytest.raises(InputError, match="does not exist"):
        head_loadings(model, transcoders, graph, graph.n_nodes)
    with pytest.raises(InputError, match="any or last"):
        head_loadings(model, transcoders, graph, 0, steps="first")
