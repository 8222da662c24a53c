"""The local replacement model of one prompt: linear once attention patterns and norm scales are frozen.

In the local replacement model ("Circuit Tracing", section on attribution graphs) each MLP's output is the transcoder's
output plus an error, and attention patterns and norm scales keep the values of one unmodified forward pass. Everything
between the output of one MLP and the input of a later transcoder or the unembedding is then affine. This module is that
affine map (`affine_pass`) and its transpose (`read_transpose`, `write_transpose`, `attention_transpose`,
`final_transpose`): plain matrix products, no autograd. At each position, with x in the residual stream, y at the write
hook, and C subtracting the mean (LayerNorm) or doing nothing (RMSNorm):

    attention      x + C(norm1) V, mixed by the pattern, O, post norm
    read           hook_resid_mid: x;  ln2.hook_normalized: C x / scale2;  mlp.hook_in: that times gain plus bias
    write          hook_mlp_out: y;  mlp.hook_out: y / scale2_post * gain (if there is a post norm)

Gradients are stored as [pos, row, d_model]: all rows of one position are contiguous, as products with the decoders of a
(layer, position) cell need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from biology.models.model import Capture, Model, Norm, Weights, capture
from biology.transcoders.transcoder_set import TranscoderSet

RESIDUAL_READS = ("hook_resid_mid", "ln2.hook_in")


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Value and output maps of one layer with their norm gains folded in, heads concatenated.

    `value` [d_model, head * d_head] includes ln1's gain and centring; `output` [head * d_head, d_model] includes the
    post norm's gain. `shared` [d_model, kv_head * d_head] is `value` without the copies for heads that share their values.
    """

    value: Float[Tensor, "d_model heads_width"]
    shared: Float[Tensor, "d_model kv_width"]
    output: Float[Tensor, "heads_width d_model"]
    constant: Float[Tensor, " d_model"] | None
    """Added to the output before the post norm's scale: value and output biases (patterns sum to 1) and ln1's bias."""


@dataclass(frozen=True, eq=False)
class LocalReplacement:
    """The frozen affine map of one prompt: weights, transcoders and the captured forward pass. `row` is the prompt's
    row in the captured batch; `slice(None)` means all prompts at once, with a leading dimension `prompt`."""

    weights: Weights
    transcoders: TranscoderSet
    frozen: Capture
    row: int | slice
    attention: tuple[AttentionMap, ...]

    @property
    def n_layers(self) -> int:
        return len(self.attention)

    @property
    def n_pos(self) -> int:
        return self.frozen.ids.shape[1]

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """Skip weights of a layer, [output, input], or None."""
        return self.transcoders.layers[layer].W_skip


@lru_cache(maxsize=2)
def attention_maps(weights: Weights) -> tuple[AttentionMap, ...]:
    """The attention maps of all layers (independent of the prompt, and cached for the next one)."""
    maps = []
    for layer in weights.layers:
        W_V = layer.W_V  # read once: it may stay in its file
        value = W_V.permute(1, 0, 2).flatten(1)  # [d_model, head * d_head]
        output = layer.W_O.flatten(0, 1)
        constant = None
        if layer.b_V is not None:
            constant = layer.b_V.flatten() @ output
        if layer.ln1.bias is not None:
            through = layer.ln1.bias @ value @ output
            constant = through if constant is None else constant + through
        if layer.b_O is not None:
            constant = layer.b_O if constant is None else constant + layer.b_O
        value = value * layer.ln1.gain[:, None]
        if layer.ln1.centred:
            value = value - value.mean(0)
        if layer.ln1_post is not None:
            output = output * layer.ln1_post.gain
            constant = None if constant is None else constant * layer.ln1_post.gain
        shared = value.unflatten(1, (layer.kv_heads, -1, W_V.shape[2]))[:, :, 0].flatten(1)
        maps.append(AttentionMap(value, shared, output, constant))
    return tuple(maps)


def freeze_prompt(
    model: Model, transcoders: TranscoderSet, token_ids: Tensor | list[int], *, positions: list[int] | None = None
) -> LocalReplacement:
    """The local replacement model of one prompt, from one unmodified forward pass. Logits at `positions` only (all if
    None). A model in half precision computes this pass in half precision; everything after it is in float32.

    Raises InputError for an empty or overlong prompt or an unknown token id.
    """
    at = None if positions is None else torch.tensor([positions])
    frozen = capture(model, token_ids, read_hook=transcoders.read_hook, write_hook=transcoders.write_hook, positions=at)
    frozen = _each(frozen, lambda x: x.to(model.precision) if x.is_floating_point() else x)
    return LocalReplacement(model.weights, transcoders, frozen, 0, attention_maps(model.weights))


def one_prompt(local: LocalReplacement) -> LocalReplacement:
    """The same prompt as a batch of one."""
    row = slice(local.row, local.row + 1) if isinstance(local.row, int) else local.row
    return replace(local, frozen=_each(local.frozen, lambda x: x[row]), row=0)


def _each(frozen: Capture, change: Callable[[Tensor], Tensor]) -> Capture:
    """`frozen` with `change` applied to every tensor."""

    def changed(value: Tensor | tuple[Tensor, ...] | None) -> Any:
        return tuple(map(change, value)) if isinstance(value, tuple) else None if value is None else change(value)

    return Capture(**{name: changed(value) for name, value in vars(frozen).items()})


# ------------------------------------------------------------------------------------------------- the affine map
def _norm(norm: Norm, x: Tensor, scale: Tensor, *, affine: bool) -> Tensor:
    out = norm.centre(x) / scale * norm.gain
    return out + norm.bias if affine and norm.bias is not None else out


def attend(
    local: LocalReplacement, layer: int, x: Float[Tensor, "*batch pos d_model"], *, affine: bool = True
) -> Float[Tensor, "*batch pos d_model"]:
    """The output of frozen attention into the residual stream; without constants if not `affine`."""
    maps, frozen, row = local.attention[layer], local.frozen, local.row
    pattern = frozen.pattern[layer][row]
    values = ((x / frozen.scale1[layer][row]) @ maps.value).unflatten(-1, (pattern.shape[-3], -1))
    mixed = torch.einsum("...hqk,...khe->...qhe", pattern, values).flatten(-2)
    out = mixed @ maps.output
    if affine and maps.constant is not None:
        out = out + maps.constant
    if frozen.scale1_post is None:
        return out
    return out / frozen.scale1_post[layer][row]  # post norms are RMS norms: nothing to centre


def read(
    local: LocalReplacement, layer: int, x: Float[Tensor, "*batch pos d_model"], *, affine: bool = True
) -> Float[Tensor, "*batch pos d_model"]:
    """The input of a layer's transcoder, given the residual stream `x` before the MLP."""
    hook = local.transcoders.read_hook
    if hook in RESIDUAL_READS:
        return x
    norm, scale = local.weights.layers[layer].ln2, local.frozen.scale2[layer][local.row]
    if hook == "ln2.hook_normalized":
        return norm.centre(x) / scale
    return _norm(norm, x, scale, affine=affine)


def write(
    local: LocalReplacement, layer: int, y: Float[Tensor, "*batch pos d_model"]
) -> Float[Tensor, "*batch pos d_model"]:
    """The contribution to the residual stream of a value `y` at the transcoder's write hook. (RMS post norms have no
    bias.)"""
    norm, scales = local.weights.layers[layer].ln2_post, local.frozen.scale2_post
    if local.transcoders.write_hook == "hook_mlp_out" or norm is None or scales is None:
        return y
    return _norm(norm, y, scales[layer][local.row], affine=True)


def final(
    local: LocalReplacement, x: Float[Tensor, "*batch pos d_model"], *, affine: bool = True
) -> Float[Tensor, "*batch pos d_model"]:
    """The input of the unembedding, given the last residual stream."""
    return _norm(local.weights.ln_final, x, local.frozen.scale_final[local.row], affine=affine)


def affine_pass(
    local: LocalReplacement,
    embed: Float[Tensor, "*prompt pos d_model"],
    mlp: Float[Tensor, "layer *prompt pos d_model"],
    *,
    affine: bool = True,
) -> tuple[list[Float[Tensor, "*prompt pos d_model"]], Float[Tensor, "*prompt pos d_model"]]:
    """Runs the frozen map forward; returns the input of each layer's transcoder, and that of the unembedding.

    `embed` are token vectors (positional embeddings are added unless `affine` is False), `mlp[l]` is the output of the
    transcoder of layer l without its skip connection. With `affine=False` all constants are left out.
    """
    x = embed
    if affine and local.frozen.pos_embed is not None:
        x = x + local.frozen.pos_embed[local.row]
    reads = []
    for layer in range(local.n_layers):
        x = x + attend(local, layer, x, affine=affine)
        reads.append(read(local, layer, x, affine=affine))
        out, W_skip = mlp[layer], local.skip(layer)
        if W_skip is not None:
            out = out + reads[-1] @ W_skip.T
        x = x + write(local, layer, out)
    return reads, final(local, x, affine=affine)


def constant_outputs(local: LocalReplacement, first_position: int) -> Float[Tensor, "layer *prompt pos d_model"]:
    """Transcoder outputs without any feature or error: b_dec; before `first_position` the actual MLP output (less the
    skip's part)."""
    frozen, row = local.frozen, local.row
    out = torch.stack([layer.b_dec.expand_as(frozen.embed[row]) for layer in local.transcoders.layers])
    for layer in range(local.n_layers):
        real, W_skip = frozen.write[layer][row][..., :first_position, :], local.skip(layer)
        if W_skip is not None:
            real = real - frozen.read[layer][row][..., :first_position, :] @ W_skip.T
        out[layer][..., :first_position, :] = real
    return out


def bias_pass(
    local: LocalReplacement, first_position: int = 1
) -> tuple[list[Float[Tensor, "*prompt pos d_model"]], Float[Tensor, "*prompt pos d_model"]]:
    """`affine_pass` with every source (tokens, features, errors) zero. Positional embeddings, biases, b_dec and skips
    remain."""
    return affine_pass(local, torch.zeros_like(local.frozen.embed[local.row]), constant_outputs(local, first_position))


# ----------------------------------------------------------------------------------------------------- its transpose
def read_transpose(
    local: LocalReplacement, layer: int, g: Float[Tensor, "pos row d_model"], start: int = 0
) -> Float[Tensor, "pos row d_model"]:
    """Transpose of `read` for positions start, start + 1, ..."""
    return read_gradient(local, layer, g, local.frozen.scale2[layer][local.row, start : start + g.shape[0], None])


def write_transpose(
    local: LocalReplacement, layer: int, g: Float[Tensor, "pos row d_model"], start: int = 0
) -> Float[Tensor, "pos row d_model"]:
    """Transpose of `write` for positions start, start + 1, ..."""
    scales = local.frozen.scale2_post
    scale = None if scales is None else scales[layer][local.row, start : start + g.shape[0], None]
    return write_gradient(local, layer, g, scale)


def final_transpose(local: LocalReplacement, g: Float[Tensor, "row d_model"], pos: int) -> Float[Tensor, "row d_model"]:
    """Transpose of `final` for rows that read position `pos`."""
    return final_gradient(local, g, local.frozen.scale_final[local.row, pos])


def read_gradient(local: LocalReplacement, layer: int, g: Tensor, scale2: Tensor) -> Tensor:
    """Transpose of `read` for a norm scale of `scale2`, which must broadcast against g [..., d_model]."""
    hook = local.transcoders.read_hook
    if hook in RESIDUAL_READS:
        return g
    norm = local.weights.layers[layer].ln2
    return norm.centre((g if hook == "ln2.hook_normalized" else g * norm.gain) / scale2)


def write_gradient(local: LocalReplacement, layer: int, g: Tensor, scale2_post: Tensor | None) -> Tensor:
    """Transpose of `write` for a post norm scale of `scale2_post` (None without post norms)."""
    norm = local.weights.layers[layer].ln2_post
    if local.transcoders.write_hook == "hook_mlp_out" or norm is None or scale2_post is None:
        return g
    return norm.centre(g * norm.gain / scale2_post)


def final_gradient(local: LocalReplacement, g: Tensor, scale_final: Tensor) -> Tensor:
    """Transpose of `final` for a final norm scale of `scale_final`."""
    norm = local.weights.ln_final
    return norm.centre(g * norm.gain / scale_final)


def read_vector(local: LocalReplacement, layer: int, x: Tensor, scale2: Tensor) -> Tensor:
    """The linear part of `read` for a norm scale of `scale2`."""
    hook = local.transcoders.read_hook
    if hook in RESIDUAL_READS:
        return x
    norm = local.weights.layers[layer].ln2
    return norm.centre(x) / scale2 if hook == "ln2.hook_normalized" else _norm(norm, x, scale2, affine=False)


def write_vector(local: LocalReplacement, layer: int, y: Tensor, scale2_post: Tensor | None) -> Tensor:
    """The linear part of `write` for a post norm scale of `scale2_post` (None without post norms)."""
    norm = local.weights.layers[layer].ln2_post
    if local.transcoders.write_hook == "hook_mlp_out" or norm is None or scale2_post is None:
        return y
    return _norm(norm, y, scale2_post, affine=False)


def attention_transpose(
    local: LocalReplacement,
    layer: int,
    g: Float[Tensor, "pos old d_model"],
    entering: Float[Tensor, "new d_model"],
) -> Float[Tensor, "pos row d_model"]:
    """g + attention^T(g), for `old` rows with gradients at positions 0..p and for `entering` rows with gradients at p
    only.

    `entering` rows are zero before p, so that one position's products suffice: half the work of their first layer. Rows
    are returned in the order old, new.
    """
    maps, frozen, row = local.attention[layer], local.frozen, local.row
    n_pos, n_old = g.shape[:2]
    pattern = frozen.pattern[layer][row][:, :n_pos, :n_pos]
    heads = (pattern.shape[0], maps.output.shape[0] // pattern.shape[0])
    scale1 = frozen.scale1[layer][row, :n_pos, None]
    post = None if frozen.scale1_post is None else frozen.scale1_post[layer][row, :n_pos, None]
    u, u_new = (g, entering) if post is None else (g / post, entering / post[-1])
    z = (u.flatten(0, 1) @ maps.output.T).view(n_pos, n_old, *heads)
    z_new = (u_new @ maps.output.T).view(-1, *heads)
    v = g.new_empty(n_pos, n_old + entering.shape[0], *heads)
    v[:, :n_old] = torch.einsum("hqk,qnhe->knhe", pattern, z)
    torch.mul(pattern[:, -1].T[:, None, :, None], z_new, out=v[:, n_old:])
    out = (v.view(-1, maps.value.shape[1]) @ maps.value.T).view(n_pos, -1, g.shape[2]).div_(scale1)
    out[:, :n_old] += g
    out[-1, n_old:] += entering
    return out
