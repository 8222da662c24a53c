"""A head's effect on an output is what the output loses without it where all but the active features is frozen, and these are linear."""

import pytest
import torch
from conftest import KINDS, random_transcoders
from test_direct_effects import CASES, IDS

from biology.attention.output_heads import output_heads
from biology.attribution.targets import ContrastTarget, FeatureTarget
from biology.models.model import capture, freeze, run
from biology.records import InputError
from biology.transcoders.neurons import neuron_set
from biology.transcoders.transcoder_set import decoder, reconstruct_all

TARGETS = (ContrastTarget(5, 9), FeatureTarget(2, 6, 5))


def linear_model(model, transcoders, cut):
    """What each layer's transcoder and the unembedding read, [layer + 1, pos, d_model], in the frozen model with linear features;
    `cut(layer, pattern)` takes heads out of the patterns."""
    frozen = capture(model, torch.tensor([IDS]), read_hook=transcoders.read_hook, write_hook=transcoders.write_hook)
    activations, _ = reconstruct_all(transcoders, [read[0] for read in frozen.read])
    moved, seen, edits = {}, {}, [*freeze(model, frozen, mlps=False)]
    for layer in range(model.n_layers):

        def read(x, layer=layer):
            seen[layer] = x[0]

        def write(y, layer=layer):
            change = seen[layer] - frozen.read[layer][0]
            pos, feature = activations[layer].nonzero(as_tuple=True)
            pos, feature = pos[pos > 0], feature[pos > 0]  # what the first position writes is bias
            vectors, _ = transcoders.layers[layer].readers(feature, frozen.read[layer][0][pos])
            moved[layer] = (pos, feature, (vectors * change[pos]).sum(1))
            out, W_skip = frozen.write[layer].clone(), transcoders.layers[layer].W_skip
            for source in range(layer + 1):
                pos, feature, by = moved[source]
                rows = decoder(transcoders, source, layer, feature)
                if rows is not None:
                    out[0].index_add_(0, pos, rows * by[:, None])
            return out if W_skip is None else out + change @ W_skip.T

        edits += [
            (f"blocks.{layer}.attn.hook_pattern", lambda pattern, layer=layer: cut(layer, pattern.clone())),
            (f"blocks.{layer}.{transcoders.read_hook}", read),
            (f"blocks.{layer}.{transcoders.write_hook}", write),
        ]
    _, final = run(model, torch.tensor([IDS]), reads=["unembed.hook_in"], edits=edits)
    return [*(seen[layer] for layer in range(model.n_layers)), final["unembed.hook_in"][0]]


def without(model, transcoders, target, layer, head, query=slice(None), key=slice(None)):
    """What a target loses without a head, or without some of its steps."""

    def cut(at, pattern):
        if at == layer:
            pattern[:, head, query, key] = 0
        return pattern

    whole, changed = (linear_model(model, transcoders, change) for change in (lambda at, pattern: pattern, cut))
    if isinstance(target, ContrastTarget):
        gone, W_U = whole[-1][target.position] - changed[-1][target.position], model.weights.W_U
        return float(gone @ (W_U[target.positive] - W_U[target.negative]))
    seen = whole[target.layer][target.position]
    vector, _ = transcoders.layers[target.layer].readers(torch.tensor([target.feature]), seen[None])
    return float((seen - changed[target.layer][target.position]) @ vector[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [*CASES, "neurons"])
def test_an_effect_is_what_the_output_loses(tiny_model, kind, case):
    model = tiny_model(kind, torch.float64)
    if case == "neurons":
        transcoders = neuron_set(model, k=5)
    else:
        coder, activation, skip, read, write = CASES[case]
        transcoders = random_transcoders(model, coder, activation, skip, 24, read_hook=read, write_hook=write)
    for target in TARGETS:
        found = output_heads(model, transcoders, IDS, target)
        for layer, head in [(0, 1), (1, 3), (2, 0)]:
            lost = without(model, transcoders, target, layer, head)
            assert float(found.effect[layer, head]) == pytest.approx(lost, rel=1e-7, abs=1e-10)
        assert float(found.effect.abs().max()) > 1e-3


def test_the_step_that_is_told_carries_most(tiny_model):
    model = tiny_model("gemma3", torch.float64)
    transcoders = random_transcoders(model, "per_layer", "jumprelu", True, 24)
    target = TARGETS[0]
    n, layer, head = len(IDS), 1, 2
    steps = torch.zeros(n, n, dtype=torch.float64)
    for query, key in torch.ones(n, n).tril().nonzero().tolist():
        steps[query, key] = without(model, transcoders, target, layer, head, query, key)
    whole = output_heads(model, transcoders, IDS, target)
    assert float(whole.effect[layer, head]) == pytest.approx(float(steps.sum()))
    for given in ({}, {"query": -1}, {"key": 4}, {"query": 5, "key": -4}):
        found = output_heads(model, transcoders, IDS, target, **given)
        assert found.effect.equal(whole.effect)  # whatever the step that is told
        allowed = torch.zeros_like(steps)
        rows = slice(None) if "query" not in given else [given["query"] % n]
        columns = slice(None) if "key" not in given else [given["key"] % n]
        allowed[rows, columns] = steps[rows, columns] if len(given) < 2 else steps[rows][:, columns]
        query, key = divmod(int(allowed.abs().argmax()), n)
        assert (int(found.query[layer, head]), int(found.key[layer, head])) == (query, key)
        assert float(found.step[layer, head]) == pytest.approx(float(steps[query, key]))
        pattern = capture(model, torch.tensor([IDS])).pattern[layer][0, head]
        assert float(found.attention[layer, head]) == pytest.approx(float(pattern[query, key]))


def test_the_strongest_heads_and_what_is_explained(tiny_model):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model)
    found = output_heads(model, transcoders, IDS)
    order = sorted(((layer, head) for layer in range(3) for head in range(4)), key=lambda at: -abs(found.effect[at]))
    assert found.strongest(5) == order[:5] and len(found.strongest(100)) == 12
    logits, _ = run(model, torch.tensor([IDS]), positions=-1)
    first, second = logits[0, 0].topk(2).indices.tolist()
    contrast = output_heads(model, transcoders, IDS, explain="contrast")
    assert contrast.label == f"w{first - 4} - w{second - 4}" and found.label == f"w{first - 4}"
    assert contrast.pre_activation == pytest.approx(float(logits[0, 0, first] - logits[0, 0, second]))
    early = output_heads(
        model, transcoders, IDS, FeatureTarget(0, 3, 1)
    )  # the attention of its own block is all it has
    assert {layer for layer, _ in early.strongest(12)} == {0}
    # what comes after the target cannot matter
    same = output_heads(model, transcoders, IDS[:6], ContrastTarget(5, 9))
    torch.testing.assert_close(output_heads(model, transcoders, IDS, ContrastTarget(5, 9, 5)).effect, same.effect)
    for given, message in (({"query": 8}, "position 8 lies outside"), ({"key": -9}, "position -9 lies outside")):
        with pytest.raises(InputError, match=message):
            output_heads(model, transcoders, IDS, **given)
    with pytest.raises(InputError, match="position 5 comes after position 3, where the output is"):
        output_heads(model, transcoders, IDS, FeatureTarget(1, 3, 1), query=5)
