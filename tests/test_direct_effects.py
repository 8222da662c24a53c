"""Every edge is what a frozen intervention on the real model does: remove a source, and each target moves by its
edge."""

import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attribution.assembly import attribute
from biology.attribution.graph import ERROR, FEATURE, LOGIT, TOKEN
from biology.models.model import capture, freeze, run
from biology.transcoders.transcoder_set import decoder, reconstruct_all

IDS = [2, 5, 17, 33, 8, 61, 40, 9]
CASES = {
    "per layer": ("per_layer", "relu", False, "mlp.hook_in", "hook_mlp_out"),
    "per layer, skip": ("per_layer", "jumprelu", True, "mlp.hook_in", "mlp.hook_out"),
    "per layer, no gain": ("per_layer", "topk", False, "ln2.hook_normalized", "hook_mlp_out"),
    "per layer, residual, skip": ("per_layer", "relu", True, "hook_resid_mid", "hook_mlp_out"),
    "cross layer": ("cross_layer", "relu", False, "ln2.hook_out", "hook_mlp_out"),
    "cross layer, skip": ("cross_layer", "topk", True, "ln2.hook_in", "mlp.hook_out"),
}


def source_vectors(model, transcoders, graph):
    """For each source node, in a batch of its own: what to subtract at the embedding and at each write hook, [row,
    layer + 1, pos, d_model]."""
    frozen = capture(
        model, graph.metadata["token_ids"], read_hook=transcoders.read_hook, write_hook=transcoders.write_hook
    )
    activations, _ = reconstruct_all(transcoders, [read[0] for read in frozen.read])
    is_node = [torch.zeros_like(values, dtype=torch.bool) for values in activations]
    sources = (graph.kind < LOGIT).nonzero().flatten().tolist()
    out = torch.zeros(len(sources), model.n_layers + 1, frozen.ids.shape[1], model.d_model, dtype=model.dtype)
    for i in range(graph.features.stop):
        layer, pos, feature = (int(t[i]) for t in (graph.layer, graph.pos, graph.feature))
        is_node[layer][pos, feature] = True
        for target in range(layer, model.n_layers):
            row = decoder(transcoders, layer, target, torch.tensor([feature]))
            if row is not None:
                out[i, target, pos] = activations[layer][pos, feature] * row[0]
    # what the nodes do not reconstruct is error: features left out by a budget included
    kept = [values * mask for values, mask in zip(activations, is_node, strict=True)]
    from biology.transcoders.transcoder_set import reconstruct

    for i in range(graph.errors.start, graph.errors.stop):
        layer, pos = int(graph.layer[i]), int(graph.pos[i])
        rebuilt = reconstruct(transcoders, layer, kept, frozen.read[layer][0])
        out[i, layer, pos] = (frozen.write[layer][0] - rebuilt)[pos]
    for i in range(graph.tokens.start, graph.tokens.stop):
        out[i, -1, int(graph.pos[i])] = frozen.embed[0, int(graph.pos[i])]
    return out


def encoder(transcoders, layer, feature, x):
    """What a feature reads, where the MLP reads x."""
    return transcoders.layers[layer].W_enc[feature]


def without_sources(model, transcoders, ids, removed):
    """The frozen pass over rows of ids; the hooks that take each row's sources out of it; and what layers read meanwhile, once run."""
    frozen = capture(model, ids, read_hook=transcoders.read_hook, write_hook=transcoders.write_hook)
    seen = {}
    edits = [*freeze(model, frozen, mlps=False), ("hook_embed", lambda x: x - removed[:, -1])]
    for layer in range(model.n_layers):

        def read(x, layer=layer):
            seen[layer] = x

        def write(y, layer=layer):
            out, W_skip = frozen.write[layer] - removed[:, layer], transcoders.layers[layer].W_skip
            return out if W_skip is None else out + (seen[layer] - frozen.read[layer]) @ W_skip.T

        edits += [
            (f"blocks.{layer}.{transcoders.read_hook}", read),
            (f"blocks.{layer}.{transcoders.write_hook}", write),
        ]
    return frozen, edits, seen


def frozen_interventions(model, transcoders, graph, removed, reader=encoder):
    """How far every target moves when each row's sources are taken out of the frozen model: [row, node], from forward
    passes with hooks."""
    ids = torch.tensor([graph.metadata["token_ids"]]).repeat(len(removed), 1)
    frozen, edits, seen = without_sources(model, transcoders, ids, removed)
    _, found = run(model, ids, edits=edits, reads=["unembed.hook_out"])
    moved = torch.zeros(len(removed), graph.n_nodes, dtype=model.dtype)
    for i in range(graph.features.stop):
        layer, pos, feature = (int(t[i]) for t in (graph.layer, graph.pos, graph.feature))
        change = frozen.read[layer][:, pos] - seen[layer][:, pos]
        moved[:, i] = change @ reader(transcoders, layer, feature, frozen.read[layer][0, pos])
    change = frozen.pre_logits - found["unembed.hook_out"]
    change = change - change.mean(-1, keepdim=True)
    for i in range(graph.logits.start, graph.logits.stop):
        moved[:, i] = change[:, int(graph.pos[i]), int(graph.token_id[i])]
    return moved


def check(model, transcoders, graph, reader=encoder):
    removed = source_vectors(model, transcoders, graph)
    moved = frozen_interventions(model, transcoders, graph, removed, reader)
    edges = graph.adjacency[:, : len(removed)].T
    assert float(edges.abs().max()) > 0.1
    torch.testing.assert_close(edges, moved, rtol=1e-8, atol=1e-11)
    assert graph.metadata["row_residual"] <= 1e-10
    return removed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_every_edge_is_a_frozen_intervention(tiny_model, kind, case):
    model = tiny_model(kind, torch.float64)
    coder, activation, skip, read, write = CASES[case]
    transcoders = random_transcoders(
        model, coder, activation, skip=skip, read_hook=read, write_hook=write, n_features=24
    )
    graph = attribute(model, transcoders, IDS, max_logits=3)
    assert {FEATURE, ERROR, TOKEN, LOGIT} == set(graph.kind.tolist())
    check(model, transcoders, graph)


@pytest.mark.parametrize("coder", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("budget", [0, 7, 40])
def test_what_a_budget_leaves_out_is_in_the_errors(tiny_model, coder, budget):
    model = tiny_model("gpt2", torch.float64)
    transcoders = random_transcoders(model, coder, skip=True)
    graph = attribute(model, transcoders, IDS, max_feature_nodes=budget)
    assert int((graph.kind == FEATURE).sum()) == budget < graph.metadata["n_active"]
    check(model, transcoders, graph)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_rows_add_up_in_float32(tiny_model, kind, case):
    model = tiny_model(kind)
    coder, activation, skip, read, write = CASES[case]
    transcoders = random_transcoders(model, coder, activation, skip=skip, read_hook=read, write_hook=write)
    for budget in (None, 50):
        assert attribute(model, transcoders, IDS, max_feature_nodes=budget).metadata["row_residual"] <= 1e-5


def test_small_blocks_give_the_same_rows(tiny_model):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model, "cross_layer")
    whole = attribute(model, transcoders, IDS)
    small = attribute(model, transcoders, IDS, memory=1)
    torch.testing.assert_close(small.adjacency, whole.adjacency, rtol=1e-12, atol=1e-12)
