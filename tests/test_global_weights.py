"""Virtual weights are unit injections into the real model, and the direct edges of graphs."""

from dataclasses import replace

import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attention.head_loadings import head_loadings
from biology.attribution.assembly import attribute
from biology.attribution.global_weights import global_weights, virtual_weights
from biology.models.model import capture, freeze, run
from biology.records import InputError
from biology.transcoders.transcoder_set import decoder

PROMPTS = [[2, 5, 9, 40], [2, 7], [2, 11, 13, 4, 50], [2, 90, 3], [2, 6, 9, 41], [2, 8, 9, 42, 5, 9]]
CASES = {
    "per layer": ("per_layer", False, "mlp.hook_in", "hook_mlp_out"),
    "per layer, before the post norm": ("per_layer", True, "ln2.hook_normalized", "mlp.hook_out"),
    "cross layer, before the post norm": ("cross_layer", False, "ln2.hook_out", "mlp.hook_out"),
    "cross layer, residual": ("cross_layer", True, "hook_resid_mid", "hook_mlp_out"),
}


def make(tiny_model, kind="llama", case="per layer", n_features=20, **options):
    model = tiny_model(kind, torch.float64)
    coder, skip, read, write = CASES[case]
    hooks = dict(read_hook=read, write_hook=write)
    return model, random_transcoders(model, coder, skip=skip, n_features=n_features, **hooks, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_virtual_weight_is_a_unit_injection(tiny_model, kind, case):
    """One decoder vector more at the write hooks, attention cut, MLPs held, norm scales 1: each reader moves by V."""
    model, transcoders = make(tiny_model, kind, case)
    weights = global_weights(model, transcoders)
    n = transcoders.n_features[0]
    hooks = dict(read_hook=transcoders.read_hook, write_hook=transcoders.write_hook)
    frozen = capture(model, torch.tensor([[2, 5, 17]]).repeat(n + 1, 1), **hooks)
    names = ["scale1", "scale2", *(["scale1_post", "scale2_post"] if model.post_norms else [])]
    ones = {name: tuple(torch.ones_like(scale) for scale in getattr(frozen, name)) for name in names}
    still = replace(frozen, pattern=tuple(torch.zeros_like(pattern) for pattern in frozen.pattern), **ones)
    reads = [f"blocks.{layer}.{transcoders.read_hook}" for layer in range(3)]
    for source in (0, 1):
        edits = freeze(model, still, mlps=False)
        for layer in range(3):
            rows = decoder(transcoders, source, layer)
            held = frozen.write[layer].clone()
            if rows is not None:
                held[:n, 1] += rows  # row i: feature i at position 1
            edits.append((f"blocks.{layer}.{transcoders.write_hook}", lambda y, held=held: held.clone()))
        _, seen = run(model, frozen.ids, edits=edits, reads=reads)
        for target in range(source + 1, 3):
            x = seen[reads[target]]
            assert float((x[:-1] - x[-1])[:, [0, 2]].abs().max()) < 1e-12  # it stays at its position
            moved = transcoders.layers[target].W_enc @ (x[:-1, 1] - x[-1, 1]).T
            torch.testing.assert_close(virtual_weights(weights, source, target), moved, rtol=1e-8, atol=1e-10)


def test_blocks_of_virtual_weights(tiny_model):
    model, transcoders = make(tiny_model, "gpt2", "cross layer, residual")
    weights = global_weights(model, transcoders)
    whole = virtual_weights(weights, 0, 2)
    torch.testing.assert_close(virtual_weights(weights, 0, 2, targets=[3, 1], sources=range(4, 6)), whole[[3, 1], 4:6])
    by_hand = (transcoders.layers[0].W_dec[4, 0] + transcoders.layers[0].W_dec[4, 1]) @ transcoders.layers[2].W_enc[3]
    assert float(whole[3, 4]) == pytest.approx(float(by_hand))


def test_direct_edges_are_virtual_weights(tiny_model):
    """The part of a graph's edge that meets no attention is a_s V / scale."""
    model, transcoders = make(tiny_model, "qwen3")
    ids = [2, 5, 17, 33, 8]
    graph, frozen = attribute(model, transcoders, ids, max_logits=1), capture(model, ids)
    weights = global_weights(model, transcoders)
    target = graph.features.stop - 1
    layer, pos, feature = (int(column[target]) for column in (graph.layer, graph.pos, graph.feature))
    assert layer == 2
    direct = head_loadings(model, transcoders, graph, target).direct
    found = 0
    for node in range(graph.features.stop):
        source = int(graph.layer[node])
        if int(graph.pos[node]) == pos and source < layer:
            V = float(virtual_weights(weights, source, layer)[feature, int(graph.feature[node])])
            expected = float(graph.activation[node]) * V / float(frozen.scale2[layer][0, pos])
            assert float(direct[node]) == pytest.approx(expected, rel=1e-9)
            found += 1
    assert found > 5


def test_bad_requests(tiny_model):
    model, transcoders = make(tiny_model)
    weights = global_weights(model, transcoders)
    for call, message in [
        (lambda: virtual_weights(weights, 1, 1), "a source lies below its target"),
        (lambda: virtual_weights(weights, 0, 3), "a source lies below its target"),
        (lambda: global_weights(tiny_model("llama", torch.float64, 2), transcoders), "do not fit"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
