"""The weights of a model as attribution needs them: norm gains, heads expanded, the unembedding.

Stored weights are misleading in four ways, all handled here: a Gemma norm multiplies by 1 + weight, grouped-query heads
share their key and value maps, LayerNorm centres, and the soft-cap comes after the unembedding. (Token vectors are not
read here but from the forward pass, because Gemma scales its embedding.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.mapped_weights import rows_in_parts


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
    """The weights of one block that attribution needs. Grouped-query heads are expanded to `head`: successive ones share their keys
    and values, of which there are `kv_heads`."""

    matrix: Callable[[str], Tensor]
    """One of the four matrices by name. It is kept, unless the weights stay in their files."""
    kv_heads: int
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

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self.matrix("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        return self.matrix("W_K")

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return self.matrix("W_V")

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.matrix("W_O")


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the whole model. Logits before the soft-cap are `logits(x) + b_U`."""

    layers: tuple[LayerWeights, ...]
    ln_final: Norm
    unembedding: Float[Tensor, "vocab d_model"]
    """As it is stored, if the weights stay in their files."""
    dtype: torch.dtype
    b_U: Float[Tensor, " vocab"] | None
    soft_cap: float | None

    @property
    def W_U(self) -> Float[Tensor, "vocab d_model"]:
        """The whole unembedding."""
        return self.unembedding.to(self.dtype)

    def read_by(self, tokens: int | Int[Tensor, " token"]) -> Float[Tensor, "*token d_model"]:
        """Rows of the unembedding: the directions that the logits of tokens read."""
        return self.unembedding[tokens].to(self.dtype)

    @cached_property
    def mean_W_U(self) -> Float[Tensor, " d_model"]:
        """Mean over all tokens."""
        if self.unembedding.dtype == self.dtype:
            return self.unembedding.mean(0)
        total = sum(part.sum(0, dtype=torch.float64) for part in rows_in_parts(self.unembedding, self.dtype))
        return (total / len(self.unembedding)).to(self.dtype)

    def logits(
        self,
        x: Float[Tensor, "*batch d_model"],
        *,
        demeaned: bool = False,
        gain: Float[Tensor, " d_model"] | None = None,
    ) -> Float[Tensor, "*batch vocab"]:
        """`x` times the unembedding. `demeaned` subtracts the mean over tokens from the unembedding first; `gain` is multiplied
        onto it."""
        found = []
        for part in rows_in_parts(self.unembedding, self.dtype):
            part = part - self.mean_W_U if demeaned else part
            found.append(x @ (part if gain is None else part * gain).T)
        return torch.cat(found, -1)


def read_weights(bridge: Any, architecture: str, *, dtype: torch.dtype, mapped: bool = False) -> Weights:
    """The weights of a raw TransformerBridge, in `dtype` (no copies where they already have it). With `mapped`, matrices
    are read from their files at each use."""
    gain_offset = 1.0 if architecture.startswith("gemma") else 0.0  # their norms multiply by 1 + weight

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

    def matrices(attn: Any, heads: int) -> Callable[[str], Tensor]:
        def matrix(name: str) -> Tensor:
            found = cast(getattr(attn, name))
            return per_head(found, heads) if name in ("W_K", "W_V") else found

        return matrix if mapped else cache(matrix)

    layers = []
    for block in bridge.blocks:
        attn, heads = block.attn, bridge.cfg.n_heads
        stored = (cast(attn.b_Q), cast(attn.b_K), cast(attn.b_V))
        b_Q, b_K, b_V = (None if bias is None else per_head(bias, heads) for bias in stored)
        layers.append(
            LayerWeights(
                matrix=matrices(attn, heads),
                kv_heads=getattr(bridge.cfg, "n_key_value_heads", None) or heads,
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
        unembedding=(bridge.unembed.W_U if mapped else cast(bridge.unembed.W_U)).T,
        dtype=dtype,
        b_U=cast(b_U) if bool(b_U.any()) else None,
        soft_cap=getattr(bridge.original_model.config, "final_logit_softcapping", None),
    )
