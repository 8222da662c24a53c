"""Global weights: the connections between features that hold for every prompt, and how much of them a corpus uses.

A feature s writes W_dec[s] into the residual stream. A feature t of a later layer reads W_enc[t] from it, at the same
position, without attention between. Their virtual weight is ("Circuit Tracing", 2025, section on global weights)

    V[t, s] = < sum of W_dec[s -> l] over layers l_s <= l < l_t,  W_enc[t] >

In a per-layer set l = l_s is the only term. Norms lie between write hook and read hook. Their gains (and the centring
of LayerNorm) are part of V. Their scales depend on the prompt and count as 1, unless `scales` gives their means over a
corpus. Skip connections of the layers in between are left out. With scales of 1, the direct part of a graph's edge at
one position is a_s V[t, s] / scale (per-layer set without skips, no norm after the write hook).

Most large virtual weights are interference: the two features are never active together. Two corrections weight V by
statistics of a corpus. E is the mean over its tokens, and a are the activations at one and the same token:

    expected residual attribution   ERA[t, s]   = E[1(a_t > 0) a_s] V[t, s]
    target-weighted ERA             TWERA[t, s] = E[a_t a_s] / E[a_t] V[t, s]

Neither shows inhibition: a source that keeps its target silent is never active with it. Rows are targets and columns
sources, as in a graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from biology.attribution.replacement import RESIDUAL_READS
from biology.attribution.requests import require_fit
from biology.models.model import Model, Norm, capture
from biology.records import InputError
from biology.transcoders.activations import FeatureCache, length_batches
from biology.transcoders.transcoder_set import TranscoderSet, decoder

KINDS = ("virtual", "era", "twera")
EVERY = slice(None)
Features = Sequence[int] | slice


@dataclass(frozen=True, eq=False)
class NormScales:
    """Means of 1 / scale over the tokens of a corpus, for the norms before the read hooks and after the write hooks; 1
    if there is no such norm."""

    read: Float[Tensor, " layer"]
    write: Float[Tensor, " layer"]


class Connection(NamedTuple):
    """A weight from a source feature to a target feature."""

    source_layer: int
    source: int
    target_layer: int
    target: int
    weight: float


@dataclass(frozen=True, eq=False)
class GlobalWeights:
    """Encoders, gains and activations from which global weights are computed, block by block, never all at once.

    `encoders[l]` have the norm before the read hook folded in, `write_gains[l]` is the gain of the norm after the write
    hook (None if there is none). `activity[l]` holds the activations of a corpus [token, feature], sparse; it is empty
    without a corpus.
    """

    transcoders: TranscoderSet
    encoders: tuple[Float[Tensor, "feature d_model"], ...]
    write_gains: tuple[Float[Tensor, " d_model"] | None, ...]
    activity: tuple[sparse.csc_array, ...]
    n_tokens: int
    """Tokens of the corpus."""

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


def global_weights(
    model: Model,
    transcoders: TranscoderSet,
    cache: FeatureCache | None = None,
    *,
    scales: NormScales | None = None,
    first_position: int = 1,
) -> GlobalWeights:
    """Folds the norms into encoders and decoders, and indexes a corpus by feature.

    Args:
        cache: active features of a corpus; without it there are only virtual weights. Takes 12 bytes per activation.
        scales: mean inverse norm scales, from `mean_inverse_scales`; 1 if None. They make weights into different
            layers comparable. They do not change the order of a feature's inputs, unless a norm follows the
            write hook.
        first_position: tokens before it do not count (1: leaves out the beginning-of-sequence token only).

    Raises:
        InputError: transcoders that do not fit the model, neurons, or a cache of other transcoders.
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
        if scales is not None:
            encoder = encoder * scales.read[layer].to(encoder)
            gain = gain if gain is None else gain * scales.write[layer].to(gain)
        encoders.append(encoder)
        gains.append(gain)
    activity, n_tokens = ((), 0) if cache is None else _activity(cache, transcoders.n_features, first_position)
    return GlobalWeights(transcoders, tuple(encoders), tuple(gains), activity, n_tokens)


def _seen_through(norm: Norm, encoder: Tensor, *, gain: bool) -> Tensor:
    """Encoders with a norm of scale 1 folded in: they read the residual stream before the norm, not its output."""
    return norm.centre(encoder * norm.gain if gain else encoder)


def mean_inverse_scales(
    model: Model,
    transcoders: TranscoderSet,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int = 16,
    first_position: int = 1,
) -> NormScales:
    """Mean of 1 / scale of the norms before the read hooks and after the write hooks, over all tokens.

    All tokens count, not only those where a feature is active.

    Raises InputError for an empty prompt, or if no prompt has a token from `first_position` on.
    """
    device = model.device
    read = torch.zeros(model.n_layers, dtype=torch.float64, device=device)
    write, count = torch.zeros_like(read), 0
    for _, ids in length_batches(prompts, batch_size):
        frozen = capture(model, ids, positions=-1)
        count += frozen.ids[:, first_position:].numel()
        for layer in range(model.n_layers):
            read[layer] += (1 / frozen.scale2[layer][:, first_position:].double()).sum()
            if frozen.scale2_post is not None:
                write[layer] += (1 / frozen.scale2_post[layer][:, first_position:].double()).sum()
    if not count:
        raise InputError(f"no prompt has a token at position {first_position} or later")
    ones = torch.ones_like(read)
    normed_read = transcoders.read_hook not in RESIDUAL_READS
    normed_write = transcoders.write_hook == "mlp.hook_out" and model.post_norms
    return NormScales(read / count if normed_read else ones, write / count if normed_write else ones)


def _activity(
    cache: FeatureCache, n_features: Sequence[int], first_position: int
) -> tuple[tuple[sparse.csc_array, ...], int]:
    """Activations [token, feature] of every layer, in float64, from `first_position` on, and the number of tokens."""
    n_layers, widest = int(cache.shape[1]), int(cache.shape[3])
    if n_layers != len(n_features) or widest != max(n_features):
        raise InputError(
            f"the cache has {n_layers} layers with up to {widest} features, the transcoders {len(n_features)}"
            f" with up to {max(n_features)}"
        )
    counted = (cache.lengths - first_position).clamp(min=0)
    first = counted.cumsum(0) - counted - first_position  # token index of a prompt's position 0
    token = torch.repeat_interleave(first, cache.offsets.diff()) + cache.pos
    n_tokens = int(counted.sum())
    columns = []
    for layer, n in enumerate(n_features):
        here = (cache.layer == layer) & (cache.pos >= first_position)
        value = cache.value[here].double().numpy()
        place = (token[here].numpy(), cache.feature[here].numpy())
        columns.append(sparse.csc_array((value, place), shape=(n_tokens, n)))
    return tuple(columns), n_tokens


# Weights --------------------------------------------------------------------------------------------------------------


def virtual_weights(
    weights: GlobalWeights,
    source_layer: int,
    target_layer: int,
    *,
    targets: Features = EVERY,
    sources: Features = EVERY,
) -> Float[Tensor, "target source"]:
    """V between features of two layers, dense (all features of a layer by default)."""
    _check(weights, "virtual", source_layer, target_layer)
    return (
        weights.encoders[target_layer][weights.index(targets)] @ weights.written(source_layer, target_layer, sources).T
    )


def coactivity(
    weights: GlobalWeights,
    kind: str,
    source_layer: int,
    target_layer: int,
    *,
    targets: Features = EVERY,
    sources: Features = EVERY,
) -> sparse.csr_array:
    """The corpus statistic by which V is multiplied, [target, source], sparse: E[1(a_t > 0) a_s], or E[a_t a_s] /
    E[a_t].

    Zero for features that are never active at the same token.
    """
    if kind == "virtual":
        raise InputError("virtual weights have no corpus factor")
    _check(weights, kind, source_layer, target_layer)
    of_targets = weights.activity[target_layer][:, _columns(targets)]
    of_sources = weights.activity[source_layer][:, _columns(sources)]
    if kind == "era":
        of_targets = of_targets.astype(bool).astype(np.float64)
        norm = np.full(of_targets.shape[1], weights.n_tokens, dtype=np.float64)
    else:
        norm = np.asarray(of_targets.sum(0), dtype=np.float64)
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return sparse.csr_array(sparse.diags_array(inverse) @ (of_targets.T @ of_sources))


def expected_weights(
    weights: GlobalWeights,
    kind: str,
    source_layer: int,
    target_layer: int,
    *,
    targets: Features = EVERY,
    sources: Features = EVERY,
) -> sparse.csr_array:
    """ERA (`era`) or TWERA (`twera`) between features of two layers, [target, source], sparse.

    Only pairs that are active together are stored; the working memory is that of V for the chosen features.

    Raises:
        InputError: an unknown kind, layers that do not exist or are not in order, or no corpus.
    """
    factor = coactivity(weights, kind, source_layer, target_layer, targets=targets, sources=sources).tocoo()
    V = virtual_weights(weights, source_layer, target_layer, targets=targets, sources=sources).double()
    rows, columns = (torch.from_numpy(index.astype(np.int64)) for index in factor.coords)
    values = factor.data * V.cpu()[rows, columns].numpy()
    return sparse.csr_array((values, factor.coords), shape=factor.shape)


def inputs(
    weights: GlobalWeights, layer: int, feature: int, kind: str = "twera", *, count: int = 20
) -> list[Connection]:
    """The strongest inputs of a feature from all lower layers, by absolute weight, strongest first.

    Raises InputError for an unknown feature or kind, or without a corpus.
    """
    _check_feature(weights, layer, feature)
    found = [_connections(weights, kind, lower, layer, count, targets=[feature]) for lower in range(layer)]
    return _largest(itertools.chain(*found), count)


def outputs(
    weights: GlobalWeights, layer: int, feature: int, kind: str = "twera", *, count: int = 20
) -> list[Connection]:
    """The strongest outputs of a feature to all higher layers, by absolute weight, strongest first.

    Raises InputError for an unknown feature or kind, or without a corpus.
    """
    _check_feature(weights, layer, feature)
    higher = range(layer + 1, weights.n_layers)
    found = [_connections(weights, kind, layer, target, count, sources=[feature]) for target in higher]
    return _largest(itertools.chain(*found), count)


def strongest(
    weights: GlobalWeights, kind: str = "twera", *, count: int = 100, memory: int = 1 << 28
) -> list[Connection]:
    """The strongest connections between any two features, by absolute weight. `memory` bounds the bytes of one block of
    V.

    Raises InputError for an unknown kind, or without a corpus.
    """
    found: list[Connection] = []
    for target_layer in range(1, weights.n_layers):
        every = range(len(weights.encoders[target_layer]))
        for source_layer in range(target_layer):
            # bytes per entry: V, its absolute value, an order and two indices
            size = max(1, memory // (40 * len(weights.encoders[source_layer])))
            for first in range(0, len(every), size):
                targets = every[first : first + size]
                found += _connections(weights, kind, source_layer, target_layer, count, targets=targets)
                found = _largest(found, count)
    return found


def _connections(
    weights: GlobalWeights,
    kind: str,
    source_layer: int,
    target_layer: int,
    count: int,
    *,
    targets: Sequence[int] | None = None,
    sources: Sequence[int] | None = None,
) -> list[Connection]:
    """The `count` strongest connections between features of two layers (by default all features)."""
    targets = range(len(weights.encoders[target_layer])) if targets is None else targets
    sources = range(len(weights.encoders[source_layer])) if sources is None else sources
    if kind == "virtual":
        V = virtual_weights(weights, source_layer, target_layer, targets=targets, sources=sources)
        values = V.double().cpu().numpy().ravel()
        place = np.divmod(np.arange(values.size), len(sources))
    else:
        block = expected_weights(weights, kind, source_layer, target_layer, targets=targets, sources=sources).tocoo()
        values, place = block.data, block.coords
    best = np.arange(values.size)
    if values.size > count:
        best = np.argpartition(-np.abs(values), count)[:count]
    best = best[np.argsort(-np.abs(values[best]), kind="stable")]
    triples = zip(place[0][best].tolist(), place[1][best].tolist(), values[best].tolist(), strict=True)
    return [Connection(source_layer, sources[s], target_layer, targets[t], value) for t, s, value in triples]


def _columns(features: Features) -> Features:
    return features if isinstance(features, slice) else list(features)


def _largest(found: Iterable[Connection], count: int) -> list[Connection]:
    return sorted(found, key=lambda connection: -abs(connection.weight))[:count]


def _check(weights: GlobalWeights, kind: str, source_layer: int, target_layer: int) -> None:
    if kind not in KINDS:
        raise InputError(f"unknown kind of global weight {kind!r}: expected one of {', '.join(KINDS)}")
    if not 0 <= source_layer < target_layer < weights.n_layers:
        raise InputError(
            f"no weights lead from layer {source_layer} to layer {target_layer}: a source lies below its target, in"
            f" layers 0..{weights.n_layers - 1}"
        )
    if kind != "virtual" and not weights.activity:
        raise InputError(f"{kind} weights need a corpus: give global_weights a cache of feature activations")


def _check_feature(weights: GlobalWeights, layer: int, feature: int) -> None:
    if not 0 <= layer < weights.n_layers or not 0 <= feature < len(weights.encoders[layer]):
        raise InputError(f"feature {feature} of layer {layer} does not exist")
