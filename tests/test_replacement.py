"""The local replacement model is the model: with its errors added back its logits are the model's; its transpose is a
transpose."""

import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attribution import replacement as r
from biology.transcoders.transcoder_set import encode, reconstruct_all

IDS = [2, 5, 17, 33, 8, 61, 40]
HOOKS = [("mlp.hook_in", "hook_mlp_out"), ("ln2.hook_normalized", "mlp.hook_out"), ("hook_resid_mid", "hook_mlp_out")]


def local_model(model, kind="per_layer", skip=False, hooks=HOOKS[0]):
    transcoders = random_transcoders(model, kind, skip=skip, read_hook=hooks[0], write_hook=hooks[1])
    return r.freeze_prompt(model, transcoders, IDS)


def outputs_without_skip(local):
    """Feature contributions + b_dec + errors: all that the transcoders and their errors put out besides the skips."""
    reads = [read[0] for read in local.frozen.read]
    activations, rebuilt = reconstruct_all(local.transcoders, reads)
    for layer, (x, values) in enumerate(zip(reads, activations, strict=True)):
        torch.testing.assert_close(values, encode(local.transcoders, layer, x))
    real = torch.stack([write[0] for write in local.frozen.write])
    errors = real - torch.stack(rebuilt)
    skips = [0 if local.skip(i) is None else x @ local.skip(i).T for i, x in enumerate(reads)]
    return torch.stack([out - skipped for out, skipped in zip(rebuilt, skips, strict=True)]) + errors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("transcoders", [("per_layer", True), ("cross_layer", False)])
def test_with_errors_added_back_the_logits_are_the_models(tiny_model, kind, hooks, transcoders):
    model = tiny_model(kind, torch.float64)
    local = local_model(model, *transcoders, hooks)
    reads, last = r.affine_pass(local, local.frozen.embed[0], outputs_without_skip(local))
    logits = last @ model.weights.W_U.T + (0 if model.weights.b_U is None else model.weights.b_U)
    torch.testing.assert_close(logits, local.frozen.pre_logits[0], rtol=1e-10, atol=1e-10)
    for layer, seen in enumerate(reads):
        torch.testing.assert_close(seen, local.frozen.read[layer][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_bias_and_linear_part_make_the_affine_pass(tiny_model, kind):
    local = local_model(tiny_model(kind, torch.float64), skip=True)
    embed, mlp = local.frozen.embed[0], outputs_without_skip(local)
    constant = r.constant_outputs(local, 1)
    _, bias = r.bias_pass(local, 1)
    _, linear = r.affine_pass(local, embed, mlp - constant, affine=False)
    _, whole = r.affine_pass(local, embed, mlp)
    torch.testing.assert_close(bias + linear, whole, rtol=1e-10, atol=1e-10)
    # the output at position 0 is the real one, so nothing is left for a feature or an error there
    torch.testing.assert_close(constant[:, 0], mlp[:, 0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hooks", HOOKS)
def test_transposes_are_transposes(tiny_model, kind, hooks):
    model = tiny_model(kind, torch.float64)
    local = local_model(model, hooks=hooks)
    n_pos, generator = len(IDS), torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, model.d_model, generator=generator, dtype=torch.float64)

    x, g = random(n_pos), random(n_pos, 2)
    zero = torch.zeros_like(x)
    for layer in range(model.n_layers):
        for forward, transpose in ((r.read, r.read_transpose), (r.write, r.write_transpose)):
            linear = forward(local, layer, x) - forward(local, layer, zero)
            back = transpose(local, layer, g)
            torch.testing.assert_close(torch.einsum("qnd,qd->n", g, linear), torch.einsum("qnd,qd->n", back, x))
            torch.testing.assert_close(transpose(local, layer, g[3:4], 3), back[3:4])
        moved = x + r.attend(local, layer, x, affine=False)
        entering = random(1)
        new = torch.zeros(n_pos, 1, model.d_model, dtype=torch.float64)
        new[-1] = entering
        back = r.attention_transpose(local, layer, g, entering)
        expected = torch.einsum("qnd,qd->n", torch.cat([g, new], 1), moved)
        torch.testing.assert_close(torch.einsum("qnd,qd->n", back, x), expected)
    last = r.final(local, x) - r.final(local, zero)
    back = r.final_transpose(local, g[2], 2)
    torch.testing.assert_close(g[2] @ last[2], back @ x[2])


@pytest.mark.parametrize("kind", KINDS)
def test_shorter_gradients_are_the_causal_part(tiny_model, kind):
    model = tiny_model(kind, torch.float64)
    local = local_model(model)
    generator = torch.Generator().manual_seed(0)
    g = torch.zeros(len(IDS), 1, model.d_model, dtype=torch.float64)
    g[:4] = torch.randn(4, 1, model.d_model, generator=generator, dtype=torch.float64)
    none = g.new_zeros(0, model.d_model)
    whole = r.attention_transpose(local, 1, g, none)
    torch.testing.assert_close(r.attention_transpose(local, 1, g[:4], none), whole[:4])
    assert float(whole[4:].abs().max()) == 0
