"""Tests on the loaded model that freezing works, and that the weights read from it explain its logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from biology.models.model import Capture, Model, capture, freeze, run
from biology.models.weights import LayerWeights
from biology.records import InputError


def attention_difference(
    weights: LayerWeights, frozen: Capture, layer: int, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """The difference that frozen attention adds to the residual stream, for a difference `x` at the block's input.
    Biases cancel."""
    normed = weights.ln1.centre(x) * weights.ln1.gain / frozen.scale1[layer]
    values = torch.einsum("bkd,hde->bhke", normed, weights.W_V.to(x.dtype))
    out = torch.einsum("bhqk,bhke,hed->bqd", frozen.pattern[layer].to(x.dtype), values, weights.W_O.to(x.dtype))
    if weights.ln1_post is None or frozen.scale1_post is None:
        return out
    return weights.ln1_post.centre(out) * weights.ln1_post.gain / frozen.scale1_post[layer]


def self_test(model: Model, *, seed: int = 0) -> float:
    """Tests on this model that freezing holds and that `Model.weights` are its weights.

    Zeroed attention patterns must change the logits. Then, with patterns, norm scales and MLP outputs frozen, a large
    random change of the embedding must move the logits exactly as the product of weights predicts.

    Returns:
        The relative error of that prediction.

    Raises:
        InputError: the model's attention cannot be frozen, or the frozen model is not the linear map of its weights.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.n_vocab, (2, min(8, model.n_context)), generator=generator).to(model.device)
    frozen = capture(model, ids)
    zero = [(f"blocks.{layer}.attn.hook_pattern", torch.zeros_like) for layer in range(model.n_layers)]
    if torch.equal(run(model, ids, edits=zero)[0], frozen.logits):
        raise InputError(f"model {model.name}: its attention patterns are only observed and cannot be frozen")

    shape = frozen.embed.shape
    change = 3 * frozen.embed.std() * torch.randn(shape, generator=generator, dtype=torch.float64).to(frozen.embed)
    edits = [*freeze(model, frozen), ("hook_embed", lambda tensor: tensor + change)]
    moved = run(model, ids, edits=edits, reads=["unembed.hook_out"])[1]["unembed.hook_out"]
    x = change.to(model.precision)
    for layer, weights in enumerate(model.weights.layers):
        x = x + attention_difference(weights, frozen, layer, x)
    final = model.weights.ln_final
    expected = model.weights.logits(final.centre(x) * final.gain / frozen.scale_final)
    difference = (moved - frozen.pre_logits).to(x.dtype)
    error = float((difference - expected).norm() / expected.norm())
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(model.dtype, 0.05)
    if not error <= tolerance:
        raise InputError(f"model {model.name}: freezing does not hold, relative error {error:.1e} > {tolerance:.0e}")
    return error
