"""The weights handed to an explicit engine are the ones the forward pass uses."""

import pytest
import torch
from conftest import KINDS

from biology.models.model import capture

IDS = torch.tensor([[2, 17, 40, 5, 93, 8, 61]])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_rebuilt_from_value_and_output_maps(tiny_model, kind):
    model = tiny_model(kind, torch.float64)
    seen = capture(model, IDS)
    for layer, weights in enumerate(model.weights.layers):
        x = weights.ln1.centre(seen.resid_pre[layer]) / seen.scale1[layer] * weights.ln1.gain
        x = x if weights.ln1.bias is None else x + weights.ln1.bias
        values = torch.einsum("bkd,hde->bhke", x, weights.W_V)
        values = values if weights.b_V is None else values + weights.b_V[:, None]
        out = torch.einsum("bhqk,bhke,hed->bqd", seen.pattern[layer], values, weights.W_O)
        out = out if weights.b_O is None else out + weights.b_O
        if weights.ln1_post is not None:
            out = out / seen.scale1_post[layer] * weights.ln1_post.gain
        assert torch.allclose(seen.resid_pre[layer] + out, seen.resid_mid[layer], atol=1e-11)
        assert weights.W_Q.shape == weights.W_K.shape == weights.W_V.shape
        assert (weights.q_norm is not None) == (kind in ("qwen3", "gemma3"))
        assert weights.ln1.centred == (kind == "gpt2")


def test_soft_cap_and_unembedding(tiny_model):
    assert tiny_model("gemma2").weights.soft_cap == 30.0
    assert tiny_model("llama").weights.soft_cap is None
    assert tiny_model("gpt2").weights.W_U.shape == (100, 32)
    assert tiny_model("gpt2").weights.b_U is None
