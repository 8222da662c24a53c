"""Transcoders: per-layer and cross-layer sets, their activation functions and skips.

A transcoder reads the tensor x at one hook of a block (the MLP's input) and predicts y at another (the MLP's output):

    pre = x W_enc^T + b_enc          f = activation(pre)
    per layer      y_l = f_l W_dec_l + b_dec_l                        (+ x_l W_skip_l^T)
    cross layer    y_l = sum over l' <= l of f_l' W_dec_l'[:, l - l'] + b_dec_l   (+ x_l W_skip_l^T)

In a cross-layer transcoder the features of layer l have one decoder for every layer from l to the last (Ameisen et al.,
*Circuit Tracing*, 2025, Methods).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.mapped_weights import rows_in_parts

READ_HOOKS = ("hook_resid_mid", "ln2.hook_in", "ln2.hook_normalized", "ln2.hook_out", "mlp.hook_in")
WRITE_HOOKS = ("mlp.hook_out", "hook_mlp_out")
ACTIVATIONS = ("relu", "jumprelu", "topk")
MATRICES = ("W_enc", "W_dec", "W_skip")


@dataclass(frozen=True, eq=False)
class Transcoder:
    """The weights of one layer. `W_dec[:, i]` writes to layer + i; a per-layer transcoder has one target."""

    W_enc: Float[Tensor, "feature d_model"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature target d_model"]
    b_dec: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " feature"] | None = None
    W_skip: Float[Tensor, "d_model d_model"] | None = None
    """[output, input], applied as `x @ W_skip.T`."""

    @property
    def n_features(self) -> int:
        return self.b_enc.shape[0]

    @property
    def n_targets(self) -> int:
        """Number of layers that a feature writes to."""
        return self.resting()["W_dec"].shape[1]

    @property
    def feature_weights(self) -> tuple[str, ...]:
        """Names of the weights that hold the features' vectors, which a shuffled set permutes."""
        return ("W_enc", "W_dec")

    @property
    def exact(self) -> bool:
        """Whether features are parts of the MLP itself, so that features below the top k also act on the model."""
        return False

    @property
    def mirrored(self) -> bool:
        """Whether each feature of the second half writes the opposite of one of the first half, in the same order."""
        return False

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Transcoder":
        """The same layer with all weights moved or cast."""
        return replace(self, **{key: value.to(device, dtype) for key, value in self.resting().items()})

    def resting(self) -> dict[str, Tensor]:
        """The weights that are present, where they are stored."""
        return {key: value for key, value in vars(self).items() if isinstance(value, Tensor)}

    def pre_activations(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch feature"]:
        """Pre-activations of all features for `x`."""
        return torch.nn.functional.linear(x.to(self.b_enc.dtype), self.W_enc, self.b_enc)

    def readers(
        self, features: Int[Tensor, " chosen"], x: Float[Tensor, "chosen d_model"]
    ) -> tuple[Float[Tensor, "chosen d_model"], Float[Tensor, " chosen"]]:
        """The pre-activations of features as affine functions of `x`: vectors and offsets, pre-activation = vector . x
        + offset.

        For a transcoder this is its encoder, whatever `x` is; for a neuron, its linearisation at `x`.
        """
        return self._rows("W_enc", features), self.b_enc[features]

    def encoders(self, features: Int[Tensor, "*chosen"]) -> Float[Tensor, "*chosen d_model"]:
        """An input direction for each feature that does not depend on the prompt, to tell features apart."""
        return self._rows("W_enc", features)

    def decoders(
        self, features: Int[Tensor, "*chosen"] | slice = slice(None), target: int | slice = slice(None)
    ) -> Float[Tensor, "*chosen target d_model"] | Float[Tensor, "*chosen d_model"]:
        """Output vectors of features into all their layers, or into the one that is `target` layers above their own."""
        return self._rows("W_dec", (features, target))

    def rounding(
        self, features: Int[Tensor, " chosen"], x: Float[Tensor, "chosen d_model"]
    ) -> Float[Tensor, " chosen"]:
        """The size of the terms of which a pre-activation is the sum. Its rounding error is a small multiple of this
        times the machine epsilon."""
        return x.norm(dim=-1) * self._rows("W_enc", features).norm(dim=-1) + self.b_enc[features].abs()

    def _rows(self, name: str, index: Any) -> Tensor:
        """Entries of the matrix `name`."""
        return getattr(self, name)[index]

    @property
    def importance(self) -> Float[Tensor, " feature"] | None:
        """Factors by which activations are multiplied before the k largest are chosen; None: no factors."""
        return None


@dataclass(frozen=True, eq=False)
class Offloaded(Transcoder):
    """A layer whose matrices stay where they are, as they are stored, and are copied to `device` in `dtype` when they are read.

    They are in CPU memory or in a memory-mapped file. Encoding reads the matrix in parts; features asked for by number read
    their own rows only. So a GPU, or the memory of a CPU, need not hold the transcoders. Results are the same as for weights on
    the device in `dtype`; each read takes the time of a copy.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name, value in self.resting().items():
            place = value.cpu() if name in MATRICES else value.to(self.device, self.dtype)
            object.__setattr__(self, name, place)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return value.to(self.device, self.dtype) if name in MATRICES and value is not None else value

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Transcoder:
        """Read from `device` and in `dtype` from now on; what is not given stays."""
        device = self.device if device is None else torch.device(device)
        return replace(self, **self.resting(), device=device, dtype=dtype or self.dtype)

    def pre_activations(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch feature"]:
        found = [
            x.to(self.dtype) @ part.to(self.device).T for part in rows_in_parts(self.resting()["W_enc"], self.dtype)
        ]
        return torch.cat(found, -1) + self.b_enc

    def _rows(self, name: str, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        there = tuple(part.cpu() if isinstance(part, Tensor) else part for part in parts)
        return self.resting()[name][there].to(self.device, self.dtype)


@dataclass(frozen=True, eq=False)
class TranscoderSet:
    """One transcoder per layer of a model, all with the same kind, activation function and pair of hooks."""

    kind: str
    """`per_layer` or `cross_layer`."""
    activation: str
    """`relu`, `jumprelu` or `topk`."""
    layers: tuple[Transcoder, ...]
    read_hook: str
    write_hook: str
    """Names within a block, from READ_HOOKS and WRITE_HOOKS."""
    k: int | None = None
    """Largest number of active features per position and layer (`topk` only)."""
    signed: bool = False
    """Whether active features keep their sign. A feature among the k largest, or above a threshold below 0, may then be
    negative. True for circuit-tracer's layout; all others clip at 0."""
    name: str = ""

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.layers[0].b_dec.shape[0]

    @property
    def n_features(self) -> tuple[int, ...]:
        """Features per layer."""
        return tuple(layer.n_features for layer in self.layers)

    @property
    def exact(self) -> bool:
        """Whether features are parts of the MLPs themselves (`Transcoder.exact`): true for neurons, whose input
        directions depend on the prompt."""
        return all(layer.exact for layer in self.layers)

    @property
    def label(self) -> str:
        """Its name in tables and on pages."""
        if self.exact:
            return f"neurons, {self.k or 'all'} at a token"
        return f"{self.kind} {self.activation}"

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "TranscoderSet":
        """The same set with all weights moved or cast; offloaded layers are then read from another device."""
        return replace(self, layers=tuple(layer.to(device, dtype) for layer in self.layers))


def shuffled(transcoders: TranscoderSet, seed: int) -> TranscoderSet:
    """The same transcoders with the entries of every encoder and decoder vector permuted: same lengths, no meaning."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for layer in transcoders.layers:
        changed = {}
        for name in layer.feature_weights:
            weight = getattr(layer, name)
            order = torch.rand(weight.shape, generator=generator).argsort(-1).to(weight.device)
            changed[name] = weight.gather(-1, order)
        layers.append(replace(layer, **changed))
    return replace(transcoders, layers=tuple(layers))


# Maths ---------------------------------------------------------------------------------------------------------------


def pre_activations(
    transcoders: TranscoderSet, layer: int, x: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch feature"]:
    """Pre-activations of all features of a layer for `x`."""
    return transcoders.layers[layer].pre_activations(x)


def activate(
    transcoders: TranscoderSet, layer: int, pre: Float[Tensor, "*batch feature"]
) -> Float[Tensor, "*batch feature"]:
    """The activation function: ReLU, JumpReLU (strictly above its threshold), or the k largest (TopK).

    Negative values are not active, unless the set is `signed`.
    """
    value = pre if transcoders.signed else pre.relu()
    threshold = transcoders.layers[layer].threshold
    if threshold is not None:
        return value * (pre > threshold)
    if transcoders.activation == "topk":
        k, importance = min(transcoders.k or 0, pre.shape[-1]), transcoders.layers[layer].importance
        features = (value if importance is None else value * importance).topk(k, dim=-1).indices
        return torch.zeros_like(value).scatter_(-1, features, value.gather(-1, features))
    return value


def encode(
    transcoders: TranscoderSet, layer: int, x: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch feature"]:
    """Feature activations of a layer, given the tensor at its read hook."""
    return activate(transcoders, layer, pre_activations(transcoders, layer, x))


def skip(
    transcoders: TranscoderSet, layer: int, x: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"] | None:
    """The output of a layer's skip connection, or None if it has none."""
    W_skip = transcoders.layers[layer].W_skip
    return None if W_skip is None else x.to(W_skip.dtype) @ W_skip.T


def decoder(
    transcoders: TranscoderSet, source: int, target: int, features: Int[Tensor, " chosen"] | slice = slice(None)
) -> Float[Tensor, "chosen d_model"] | None:
    """Decoder rows of features of layer `source` into layer `target`; None if they do not write there."""
    weights, offset = transcoders.layers[source], target - source
    return weights.decoders(features, offset) if 0 <= offset < weights.n_targets else None


def reconstruct(
    transcoders: TranscoderSet,
    target: int,
    activations: Sequence[Float[Tensor, "*batch _"]],
    x: Float[Tensor, "*batch d_model"],
) -> Float[Tensor, "*batch d_model"]:
    """The transcoders' replacement for the tensor at the write hook of layer `target`.

    `activations[l]` are the activations of layer l, at least up to `target`; `x` is the tensor at the read hook of
    `target`.
    """
    weights = transcoders.layers[target]
    total = weights.b_dec
    for source in range(target + 1) if transcoders.kind == "cross_layer" else (target,):
        rows = decoder(transcoders, source, target)
        if rows is not None:
            total = total + activations[source] @ rows
    skipped = skip(transcoders, target, x)
    return total if skipped is None else total + skipped


def reconstruct_all(
    transcoders: TranscoderSet, inputs: Sequence[Float[Tensor, "*batch d_model"]]
) -> tuple[list[Float[Tensor, "*batch _"]], list[Float[Tensor, "*batch d_model"]]]:
    """Activations and reconstructions of every layer, given the tensors at the read hooks of an unmodified forward
    pass."""
    activations = [encode(transcoders, layer, x) for layer, x in enumerate(inputs)]
    return activations, [reconstruct(transcoders, layer, activations, x) for layer, x in enumerate(inputs)]


# Files ---------------------------------------------------------------------------------------------------------------
