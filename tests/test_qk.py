"""An attention score is the sum of its pairs, and every pair is what a frozen intervention on the real model does."""

import dataclasses

import pytest
import torch
from conftest import KINDS, random_transcoders
from test_direct_effects import IDS, source_vectors, without_sources

from biology.attention.qk import qk_attribution
from biology.attribution.assembly import attribute
from biology.attribution.graph import ERROR, FEATURE, LOGIT, TOKEN
from biology.attribution.graph_json import export_json
from biology.attribution.graph_paths import node_label
from biology.models.model import capture, run, token_batch
from biology.records import InputError

CASES = {
    "per layer, skip": ("per_layer", "jumprelu", True, "mlp.hook_in", "mlp.hook_out"),
    "cross layer, residual": ("cross_layer", "relu", False, "hook_resid_mid", "hook_mlp_out"),
}
SITES = [(2, 3, 7, 5), (2, 0, -1, -1), (1, 2, 6, 4), (0, 1, 5, 3)]  # layer, head, query, key


def make(tiny_model, kind, case, dtype=torch.float64):
    model = tiny_model(kind, dtype)
    coder, activation, skip, read, write = CASES[case]
    return model, random_transcoders(model, coder, activation, skip, 24, read_hook=read, write_hook=write)


def real_score(model, layer, head, query, key):
    """Before the soft-cap, from what the bridge's own softmax gets."""
    name = f"blocks.{layer}.attn.hook_attn_scores"
    score = run(model, token_batch(model, IDS), reads=[name])[1][name][0, head, query, key].double()
    cap = model.bridge.original_model.config.get_text_config().to_dict().get("attn_logit_softcapping")
    return float(score if cap is None else cap * torch.atanh(score / cap))


def all_terms(attribution):
    return (
        attribution.matrix.double().sum()
        + attribution.query_bias.double().sum()
        + attribution.key_bias.double().sum()
        + attribution.bias
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_pairs_add_up_to_the_score(tiny_model, kind, case):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        model, transcoders = make(tiny_model, kind, case, dtype)
        for layer, head, query, key in SITES[:: 1 if dtype == torch.float64 else 2]:
            found = qk_attribution(model, transcoders, IDS, layer, head, query, key)
            score = real_score(model, layer, head, query, key)
            assert found.score == pytest.approx(score, rel=tolerance)
            assert float(all_terms(found)) == pytest.approx(score, rel=tolerance)
            assert found.relative_error <= tolerance and found.total == pytest.approx(found.score, rel=tolerance)


def frozen_queries_and_keys(model, transcoders, removed, layer):
    """How queries and keys move when each row's sources leave the frozen model, [row, pos, head, d_head], and the
    scaling of scores. Scales of query and key norms are frozen too."""
    ids = torch.tensor([IDS]).repeat(len(removed), 1)
    rotary = f"blocks.{layer}.attn.hook_rot_q" in model.hooks
    names = [f"blocks.{layer}.attn.hook_{part}" for part in (("rot_q", "rot_k") if rotary else ("q", "k"))]
    scales = [f"blocks.{n}.attn.{side}_norm.hook_scale" for n in range(model.n_layers) for side in "qk"]
    scales = [name for name in scales if name in model.hooks]
    _, clean = run(model, ids, reads=[*names, *scales])
    _, edits, _ = without_sources(model, transcoders, ids, removed)
    edits += [(name, lambda x, name=name: clean[name].clone()) for name in scales]
    _, moved = run(model, ids, edits=edits, reads=names)
    return [clean[name] - moved[name] for name in names]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_every_pair_is_a_frozen_intervention(tiny_model, kind, case):
    model, transcoders = make(tiny_model, kind, case)
    graph = attribute(model, transcoders, IDS, max_logits=1)
    layer, head, query, key = 2, 3, 7, 5
    found = qk_attribution(model, transcoders, IDS, layer, head, query, key)
    queries, keys = frozen_queries_and_keys(model, transcoders, source_vectors(model, transcoders, graph), layer)
    scaling = model.bridge.blocks[layer].attn.original_component.scaling
    sides = [
        (found.query_nodes, queries[:, query, head], query),
        (found.key_nodes, keys[:, key, head * keys.shape[2] // 4], key),
    ]
    moved = []
    for nodes, vectors, place in sides:
        # a feature of the layer below has no attention step left to move with
        reached = (graph.layer < layer - 1) & (graph.pos <= place) | (graph.layer < layer) & (graph.pos == place)
        reached &= graph.kind < LOGIT
        assert nodes.kind.tolist() == graph.kind[reached].tolist()
        for name in ("layer", "pos", "feature", "token_id", "activation"):
            assert getattr(nodes, name).equal(getattr(graph, name)[reached]), name
        assert {FEATURE, ERROR, TOKEN} == set(nodes.kind.tolist()) and len({*nodes.pos.tolist()}) == place + 1
        reached = reached[: len(vectors)]
        assert float(vectors[~reached].abs().max()) < 1e-12
        moved.append(vectors[reached])
    torch.testing.assert_close(found.matrix, scaling * moved[0] @ moved[1].T, rtol=1e-8, atol=1e-11)
    assert float(found.matrix.abs().max()) > 0.02
    # a node that leaves one side alone takes its whole row or column with it, and its share with the other side's bias
    rotary = f"blocks.{layer}.attn.hook_rot_q" in model.hooks
    names = [f"blocks.{layer}.attn.hook_{part}" for part in (("rot_q", "rot_k") if rotary else ("q", "k"))]
    _, clean = run(model, token_batch(model, IDS), reads=names)
    of_query, of_key = clean[names[0]][0, query, head], clean[names[1]][0, key, head * keys.shape[2] // 4]
    torch.testing.assert_close(found.query_marginals, scaling * moved[0] @ of_key, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(found.key_marginals, scaling * moved[1] @ of_query, rtol=1e-8, atol=1e-11)


def test_views_of_the_matrix(tiny_model):
    model, transcoders = make(tiny_model, "qwen3", "per layer, skip")
    found = qk_attribution(model, transcoders, IDS, 2, 1, 6, 4)
    torch.testing.assert_close(found.query_marginals, found.matrix.sum(1) + found.key_bias)
    torch.testing.assert_close(found.key_marginals, found.matrix.sum(0) + found.query_bias)
    strongest = found.matrix.abs().flatten().topk(9).values
    for memory in (1, 1 << 26):
        pairs = found.top_pairs(9, memory=memory)
        assert [abs(pair.value) for pair in pairs] == pytest.approx(strongest.tolist())
        assert all(pair.value == pytest.approx(float(found.matrix[pair.query, pair.key])) for pair in pairs)
    assert len(found.top_pairs(10**6)) == int(found.matrix.count_nonzero()) and not found.top_pairs(0)
    assert 0 < found.attention < 1 and found.soft_cap is None
    sums = (found.matrix, found.key_bias, found.query_bias)
    assert found.parts == pytest.approx([*(float(terms.sum()) for terms in sums), found.bias])
    assert found.residual == pytest.approx(abs(found.total - found.score) / sum(map(abs, found.parts)))
    by_token, nodes = found.by_token(), (found.query_nodes.pos, found.key_nodes.pos)
    assert by_token.shape == (7, 7) and float(by_token.sum()) == pytest.approx(found.parts.pairs)
    for query, key in ((6, 4), (2, 1), (6, 5)):  # nothing of a later token is in the key
        expected = found.matrix[nodes[0] == query][:, nodes[1] == key].sum()
        assert float(by_token[query, key]) == pytest.approx(float(expected))
    assert not by_token[:, 5:].any() and by_token[:, :5].all()
    off = dataclasses.replace(found, score=found.score + 1)
    assert off.residual == pytest.approx(1 / sum(map(abs, found.parts))) and off.relative_error > 1e-6
    for side, values in (("query", found.query_marginals), ("key", found.key_marginals)):
        best = values.abs().argsort(descending=True)[:4]
        assert found.strongest(side, 4) == [(int(index), float(values[index])) for index in best]
    seen = capture(model, torch.tensor([IDS])).pattern[2][0, 1, 6]
    torch.testing.assert_close(found.row, seen[:7])


def test_the_best_pairs_are_found_without_the_matrix(tiny_model, monkeypatch):
    """Whatever the lengths: those that are left out are too short to come among the best."""
    model, transcoders = make(tiny_model, "llama", "cross layer, residual")
    found = qk_attribution(model, transcoders, IDS, 2, 1, 7, 4)
    monkeypatch.setattr("biology.attention.score_terms.ROWS", 3)
    torch.manual_seed(0)
    for spread in (0.0, 1.0, 4.0):
        queries, keys = (
            vectors * torch.randn(len(vectors), 1).double().mul(spread).exp()
            for vectors in (found.query_vectors, found.key_vectors)
        )
        scaled = dataclasses.replace(found, query_vectors=queries, key_vectors=keys)
        best = scaled.matrix.abs().flatten().argsort(descending=True)[:25]
        pairs = [(pair.query, pair.key) for pair in scaled.top_pairs(25)]
        assert pairs == [divmod(place, len(keys)) for place in best.tolist()]


def test_node_names_are_those_of_graphs(tiny_model):
    model, transcoders = make(tiny_model, "llama", "cross layer, residual")
    graph = attribute(model, transcoders, IDS, max_logits=1)
    found = qk_attribution(model, transcoders, IDS, 2, 1, 7, 4)
    every = torch.ones(graph.n_nodes, dtype=torch.bool)
    exported = export_json(graph, every, graph.adjacency != 0, slug="a", scan="b", prompt="c")
    known = {node["node_id"] for node in exported["nodes"]}
    for nodes in (found.query_nodes, found.key_nodes):
        assert {nodes.node_id(index) for index in range(len(nodes))} <= known
    nodes = found.query_nodes
    labels = [nodes.label(i, {(0, 5): "five"}) for i in range(len(nodes))]
    assert set(labels) <= {node_label(graph, i, {(0, 5): "five"}) for i in range(graph.n_nodes)}


@pytest.mark.parametrize("kind", ["gpt2", "gemma3"])
def test_a_difference_of_two_keys(tiny_model, kind):
    model, transcoders = make(tiny_model, kind, "per layer, skip")
    one, other = (qk_attribution(model, transcoders, IDS, 1, 2, 7, key) for key in (5, 6))
    both = qk_attribution(model, transcoders, IDS, 1, 2, 7, 5, against=6)
    assert both.score == pytest.approx(one.score - other.score, rel=1e-9) and both.relative_error <= 1e-10
    assert both.attention == pytest.approx(one.attention - other.attention)
    zero = torch.zeros_like(both.key_constant)
    found = [
        {side.key_nodes.node_id(i): vector for i, vector in enumerate(side.key_vectors)} for side in (one, other, both)
    ]
    assert found[2].keys() == found[0].keys() | found[1].keys()
    for node, vector in found[2].items():
        torch.testing.assert_close(vector, found[0].get(node, zero) - found[1].get(node, zero))


@pytest.mark.parametrize("case", CASES)
def test_features_left_out_are_in_the_errors(tiny_model, case):
    model, transcoders = make(tiny_model, "gemma2", case)
    whole = qk_attribution(model, transcoders, IDS, 2, 1, 7, 6)
    sites = list(zip(*(getattr(whole.query_nodes, name).tolist() for name in ("layer", "pos", "feature")), strict=True))
    kept = [site for site in sites if site[2] >= 0][::3]
    found = qk_attribution(model, transcoders, IDS, 2, 1, 7, 6, features=[*kept, (2, 3, 0)])
    assert int((found.query_nodes.kind == FEATURE).sum()) == len(kept)
    assert found.relative_error <= 1e-10
    places = torch.tensor([sites.index(site) for site in kept])
    torch.testing.assert_close(found.query_vectors[: len(kept)], whole.query_vectors[places])
    with pytest.raises(InputError, match="not active"):
        qk_attribution(model, transcoders, IDS, 2, 1, 7, 6, features=[(0, 0, 0)])


def test_small_blocks_and_the_first_position(tiny_model):
    model, transcoders = make(tiny_model, "llama", "cross layer, residual")
    whole, small = (qk_attribution(model, transcoders, IDS, 2, 1, 5, 0, memory=memory) for memory in (1 << 28, 1))
    torch.testing.assert_close(whole.matrix, small.matrix)
    # the first position's features are bias by default, and nodes on request
    assert set(whole.key_nodes.kind.tolist()) == {TOKEN}
    more = qk_attribution(model, transcoders, IDS, 2, 1, 5, 0, first_position=0)
    assert {FEATURE, ERROR, TOKEN} == set(more.key_nodes.kind.tolist()) and more.relative_error <= 1e-10


def test_bad_requests(tiny_model):
    model, transcoders = make(tiny_model, "gemma2", "per layer, skip")
    hidden = "window hides it"
    for layer, head, query, key, against, message in [
        (3, 0, 5, 4, None, "layer 3 does not exist"),
        (0, 4, 5, 4, None, "head 4 does not exist"),
        (0, 0, 8, 4, None, "position 8 lies outside"),
        (0, 0, 4, 5, None, "cannot attend to the later"),
        (0, 0, 4, 3, 3, "compared with itself"),
        (0, 0, 7, 1, None, hidden),
        (0, 0, 7, 6, 2, hidden),
    ]:
        with pytest.raises(InputError, match=message):
            qk_attribution(model, transcoders, IDS, layer, head, query, key, against=against)
    with pytest.raises(InputError, match="do not fit"):
        qk_attribution(tiny_model("gemma2", torch.float64, 2), transcoders, IDS, 0, 0, 5, 4)
