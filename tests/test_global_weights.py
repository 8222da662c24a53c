"""Virtual weights are unit injections into the real model; ERA and TWERA are their definitions, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attention.head_loadings import head_loadings
from biology.attribution.assembly import attribute
from biology.attribution.global_weights import (
    coactivity,
    expected_weights,
    global_weights,
    inputs,
    mean_inverse_scales,
    outputs,
    strongest,
    virtual_weights,
)
from biology.models.model import capture, freeze, run
from biology.records import InputError
from biology.transcoders.activations import FeatureCache, cache_features
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


def test_mean_scales(tiny_model):
    model, transcoders = make(tiny_model, "gemma2", "cross layer, before the post norm")
    scales = mean_inverse_scales(model, transcoders, PROMPTS, batch_size=2)
    seen = [capture(model, prompt) for prompt in PROMPTS]
    for layer in range(3):
        for name, values in (("scale2", scales.read), ("scale2_post", scales.write)):
            expected = torch.cat([1 / getattr(one, name)[layer][0, 1:, 0] for one in seen]).mean()
            assert float(values[layer]) == pytest.approx(float(expected))
    plain, scaled = global_weights(model, transcoders), global_weights(model, transcoders, scales=scales)
    # one layer between: both factors come out
    ratio = virtual_weights(scaled, 1, 2) / virtual_weights(plain, 1, 2)
    torch.testing.assert_close(ratio, (scales.read[2] * scales.write[1]).expand(ratio.shape), rtol=1e-8, atol=0)
    torch.testing.assert_close(
        scaled.written(0, 2),
        plain.written(0, 1) * scales.write[0] + (plain.written(0, 2) - plain.written(0, 1)) * scales.write[1],
    )
    model, transcoders = make(tiny_model, "gemma2", "cross layer, residual")
    scales = mean_inverse_scales(model, transcoders, PROMPTS)
    assert scales.read.tolist() == scales.write.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="position 6 or later"):
        mean_inverse_scales(model, transcoders, PROMPTS, first_position=6)


def test_era_and_twera_by_hand(tiny_model):
    """Two prompts of 3 and 2 tokens, first tokens left out: 3 tokens. Feature 0 of layer 0 is the source, features 1
    and 2 of layer 1 are targets."""
    model, transcoders = make(tiny_model, n_features=3)
    entries = [  # prompt, layer, pos, feature, value
        (0, 0, 0, 0, 9.0), (0, 0, 1, 0, 2.0), (0, 0, 2, 0, 4.0),
        (0, 1, 0, 1, 9.0), (0, 1, 1, 1, 1.0), (0, 1, 2, 2, 5.0),
        (1, 0, 1, 0, 6.0), (1, 1, 1, 1, 3.0),
    ]  # fmt: skip
    prompt, layer, pos, feature, value = (torch.tensor(column) for column in zip(*entries, strict=True))
    cache = FeatureCache(
        offsets=torch.tensor([0, 6, 8]), lengths=torch.tensor([3, 2]), layer=layer, pos=pos, feature=feature,
        value=value.double(), logits=torch.zeros(2, 100), shape=torch.tensor([2, 3, 3, 3]),
    )  # fmt: skip
    weights = global_weights(model, transcoders, cache)
    assert weights.n_tokens == 3
    # target 1 is active at two tokens, with the source at 2 and 6: (2 + 6) / 3, (1 * 2 + 3 * 6) / (1 + 3)
    era, twera = (coactivity(weights, kind, 0, 1).toarray() for kind in ("era", "twera"))
    assert era[:, 0] == pytest.approx([0, 8 / 3, 4 / 3]) and twera[:, 0] == pytest.approx([0, 5, 4])
    assert not era[:, 1:].any() and not twera[:, 1:].any()
    V = virtual_weights(weights, 0, 1).numpy()
    assert expected_weights(weights, "twera", 0, 1).toarray() == pytest.approx(twera * V)
    assert expected_weights(weights, "era", 0, 1).toarray() == pytest.approx(era * V)
    # the first tokens on request
    every = global_weights(model, transcoders, cache, first_position=0)
    assert every.n_tokens == 5
    assert coactivity(every, "twera", 0, 1).toarray()[1, 0] == pytest.approx((81 + 2 + 18) / (9 + 1 + 3))


@pytest.mark.parametrize("case", ["per layer", "cross layer, residual"])
def test_era_and_twera_token_by_token(tiny_model, case):
    model, transcoders = make(tiny_model, "gemma3", case)
    cache = cache_features(model, transcoders, PROMPTS, batch_size=2)
    weights = global_weights(model, transcoders, cache)
    tokens = [(prompt, pos) for prompt, ids in enumerate(PROMPTS) for pos in range(1, len(ids))]
    dense = torch.zeros(3, len(tokens), 20, dtype=torch.float64)
    for i, (prompt, pos) in enumerate(tokens):
        for layer in range(3):
            features, values = cache.cell(prompt, layer, pos)
            dense[layer, i, features.long()] = values
    assert weights.n_tokens == len(tokens)
    for source, target in [(0, 1), (0, 2), (1, 2)]:
        V = virtual_weights(weights, source, target)
        era = (dense[target] > 0).double().T @ dense[source] / len(tokens) * V
        twera = (dense[target].T @ dense[source]) / dense[target].sum(0)[:, None] * V
        for kind, expected in (("era", era), ("twera", twera.nan_to_num(0))):
            found = expected_weights(weights, kind, source, target)
            assert found.toarray() == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-12)
            part = expected_weights(weights, kind, source, target, targets=[7, 2], sources=slice(3, 9))
            assert part.toarray() == pytest.approx(expected[[7, 2], 3:9].numpy(), rel=1e-9, abs=1e-12)
            assert found.nnz < found.shape[0] * found.shape[1]


@pytest.mark.parametrize("kind", ["virtual", "era", "twera"])
def test_strongest_connections(tiny_model, kind):
    model, transcoders = make(tiny_model, "gpt2", "cross layer, residual")
    weights = global_weights(model, transcoders, cache_features(model, transcoders, PROMPTS))
    every = {}
    for source, target in [(0, 1), (0, 2), (1, 2)]:
        if kind == "virtual":
            block = virtual_weights(weights, source, target).numpy()
        else:
            block = expected_weights(weights, kind, source, target).toarray()
        every |= {(source, s, target, t): float(block[t, s]) for t, s in np.ndindex(block.shape)}

    def best(chosen, count=8):
        return sorted(((key, every[key]) for key in chosen), key=lambda item: -abs(item[1]))[:count]

    def same(found, expected):
        assert [found[:4] for found in found] == [key for key, _ in expected]
        assert [one.weight for one in found] == pytest.approx([value for _, value in expected])

    for memory in (1, 1 << 28):
        same(strongest(weights, kind, count=8, memory=memory), best(every))
    target = best(every)[0][0][3]
    same(inputs(weights, 2, target, kind, count=4), best([key for key in every if key[2:] == (2, target)], 4))
    source = best(key for key in every if key[0] == 0)[0][0][1]
    same(outputs(weights, 0, source, kind, count=4), best([key for key in every if key[:2] == (0, source)], 4))
    assert not inputs(weights, 0, 3, kind) and not outputs(weights, 2, 3, kind)


def test_bad_requests(tiny_model):
    model, transcoders = make(tiny_model)
    weights = global_weights(model, transcoders)
    for call, message in [
        (lambda: virtual_weights(weights, 1, 1), "a source lies below its target"),
        (lambda: virtual_weights(weights, 0, 3), "a source lies below its target"),
        (lambda: expected_weights(weights, "twera", 0, 1), "need a corpus"),
        (lambda: strongest(weights, "raw"), "unknown kind of global weight 'raw'"),
        (lambda: expected_weights(weights, "virtual", 0, 1), "no corpus factor"),
        (lambda: inputs(weights, 1, 20), "does not exist"),
        (lambda: global_weights(tiny_model("llama", torch.float64, 2), transcoders), "do not fit"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    _, wider = make(tiny_model, n_features=24)
    with pytest.raises(InputError, match="the cache has 3 layers with up to 24 features"):
        global_weights(model, transcoders, cache_features(model, wider, PROMPTS))
