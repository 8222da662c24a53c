"""The weights of a model as attribution needs them: norm gains, heads expanded, the unembedding.

Stored weights are misleading in four ways, all handled here: a Gemma norm multiplies by 1 + weight, grouped-query heads
share their key and value maps, LayerNorm centres, and the soft-cap comes after the unembedding. (Token vectors are not
read here but from the forward pass, because Gemma scales its embedding.)
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalisation whose scale is given: `centre(x) / scale * gain + bias`.

    `gain` is the actual factor (1 + weight in Gemma); `centred` is true for LayerNorm, false for RMSNorm.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    centred: bool
    epsilon: float

    def centre(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """x minus its mean over d_model (LayerNorm), or x (RMSNorm). As a matrix, symmetric."""
        return x - x.mean(-1, keepdim=True) if self.centred else x


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The weights of one block that attribution needs. Grouped-query heads are expanded to `head`."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "head d_head"] | None
    b_V: Float[Tensor, "head d_head"] | None
    b_O: Float[Tensor, " d_model"] | None
    ln1: Norm
    ln2: Norm
    ln1_post: Norm | None
    ln2_post: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the whole model. `W_U` is [vocab, d_model]; logits before the soft-cap are `x @ W_U.T + b_U`."""

    layers: tuple[LayerWeights, ...]
    ln_final: Norm
    W_U: Float[Tensor, "vocab d_model"]
    b_U: Float[Tensor, " vocab"] | None
    soft_cap: float | None


def read_weights(bridge: Any, *, gain_offset: float, dtype: torch.dtype) -> Weights:
    """The weights of a raw TransformerBridge, in `dtype` (no copies where they already have it). `gain_offset` is 1 if
    norms multiply by 1 + weight (Gemma), else 0."""

    def cast(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.to(dtype)

    def norm(component: Any) -> Norm:
        module = component.original_component
        epsilon = next(getattr(module, key) for key in ("eps", "variance_epsilon") if hasattr(module, key))
        bias = getattr(module, "bias", None)
        return Norm(cast(module.weight) + gain_offset, cast(bias), not component.uses_rms_norm, float(epsilon))

    def optional(parent: Any, name: str) -> Norm | None:
        component = dict(parent.named_children()).get(name)
        return None if component is None or component.original_component is None else norm(component)

    def per_head(tensor: Tensor, heads: int) -> Tensor:
        return tensor.repeat_interleave(heads // tensor.shape[0], dim=0)

    layers = []
    for block in bridge.blocks:
        attn = block.attn
        heads = attn.W_O.shape[0]
        stored = (cast(attn.b_Q), cast(attn.b_K), cast(attn.b_V))
        b_Q, b_K, b_V = (None if bias is None else per_head(bias, heads) for bias in stored)
        layers.append(
            LayerWeights(
                W_Q=cast(attn.W_Q),
                W_K=per_head(cast(attn.W_K), heads),
                W_V=per_head(cast(attn.W_V), heads),
                W_O=cast(attn.W_O),
                b_Q=b_Q,
                b_K=b_K,
                b_V=b_V,
                b_O=cast(attn.b_O),
                ln1=norm(block.ln1),
                ln2=norm(block.ln2),
                ln1_post=optional(block, "ln1_post"),
                ln2_post=optional(block, "ln2_post"),
                q_norm=optional(attn, "q_norm"),
                k_norm=optional(attn, "k_norm"),
            )  # fmt: skip
        )
    b_U = bridge.unembed.b_U
    return Weights(
        layers=tuple(layers),
        ln_final=norm(bridge.ln_final),
        W_U=cast(bridge.unembed.W_U).T,
        b_U=cast(b_U) if bool(b_U.any()) else None,
        soft_cap=getattr(bridge.original_model.config, "final_logit_softcapping", None),
    )
