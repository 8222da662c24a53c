"""Global weights: the connections between features that hold for every prompt.

A feature s writes W_dec[s] into the residual stream. A feature t of a later layer reads W_enc[t] from it, at the same
position, without attention between. Their virtual weight is ("Circuit Tracing", 2025, section on global weights)

    V[t, s] = < sum of W_dec[s -> l] over layers l_s <= l < l_t,  W_enc[t] >

In a per-layer set l = l_s is the only term. Norms lie between write hook and read hook. Their gains (and the centring
of LayerNorm) are part of V. Their scales depend on the prompt and count as 1. Skip connections of the layers in between
are left out. The direct part of a graph's edge at one position is a_s V[t, s] / scale (per-layer set without skips, no
norm after the write hook). Rows are targets and columns sources, as in a graph.

Most large virtual weights are interference: the two features are never active together. `evidence.operand_tables` weights
them by how often they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.replacement import RESIDUAL_READS
from biology.attribution.requests import require_fit
from biology.models.model import Model, Norm
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet, decoder

EVERY = slice(None)
Features = Sequence[int] | slice


@dataclass(frozen=True, eq=False)
class GlobalWeights:
    """Encoders and gains from which global weights are computed, block by block, never all at once.

    `encoders[l]` have the norm before the read hook folded in, `write_gains[l]` is the gain of the norm after the write
    hook (None if there is none).
    """

    transcoders: TranscoderSet
    encoders: tuple[Float[Tensor, "feature d_model"], ...]
    write_gains: tuple[Float[Tensor, " d_model"] | None, ...]

    @property
    def n_layers(self) -> int:
        return len(self.encoders)

    def index(self, features: Features) -> Int[Tensor, " chosen"] | slice:
        """The chosen features as an index into encoders and decoders."""
        if isinstance(features, slice):
            return features
        return torch.tensor(list(features), dtype=torch.long, device=self.encoders[0].device)

    def written(
        self, source_layer: int, target_layer: int, features: Features = EVERY
    ) -> Float[Tensor, "source d_model"]:
        """Output of features of one layer, at unit activation, into the residual stream that the MLP of another layer
        reads."""
        chosen = self.index(features)
        total = torch.zeros_like(self.encoders[source_layer][chosen])
        for layer in range(source_layer, target_layer):
            rows, gain = decoder(self.transcoders, source_layer, layer, chosen), self.write_gains[layer]
            if rows is not None:
                total += rows if gain is None else rows * gain
        return total


# Making ---------------------------------------------------------------------------------------------------------------


def global_weights(model: Model, transcoders: TranscoderSet) -> GlobalWeights:
    """Folds the norms into encoders and decoders.

    Raises:
        InputError: transcoders that do not fit the model, or neurons.
    """
    require_fit(model, transcoders)
    if transcoders.exact:
        raise InputError("neurons have other inputs on every prompt: weights between them hold for one prompt only")
    transcoders = transcoders.to(model.device, model.precision)
    encoders, gains = [], []
    for layer, weights in enumerate(model.weights.layers):
        encoder, gain = transcoders.layers[layer].W_enc, None
        if transcoders.read_hook not in RESIDUAL_READS:
            encoder = _seen_through(weights.ln2, encoder, gain=transcoders.read_hook != "ln2.hook_normalized")
        if transcoders.write_hook == "mlp.hook_out" and weights.ln2_post is not None:
            gain = weights.ln2_post.gain  # an RMS norm: nothing to centre
        encoders.append(encoder)
        gains.append(gain)
    return GlobalWeights(transcoders, tuple(encoders), tuple(gains))


def _seen_through(norm: Norm, encoder: Tensor, *, gain: bool) -> Tensor:
    """Encoders with a norm of scale 1 folded in: they read the residual stream before the norm, not its output."""
    return norm.centre(encoder * norm.gain if gain else encoder)


# Weights --------------------------------------------------------------------------------------------------------------


def virtual_weights(
    weights: GlobalWeights,
    source_layer: int,
    target_layer: int,
    *,
    targets: Features = EVERY,
    sources: Features = EVERY,
) -> Float[Tensor, "target source"]:
    """V between features of two layers, dense (all features of a layer by default).

    Raises InputError for layers that do not exist or are not in order.
    """
    if not 0 <= source_layer < target_layer < weights.n_layers:
        raise InputError(
            f"no weights lead from layer {source_layer} to layer {target_layer}: a source lies below its target, in"
            f" layers 0..{weights.n_layers - 1}"
        )
    return (
        weights.encoders[target_layer][weights.index(targets)] @ weights.written(source_layer, target_layer, sources).T
    )
