"""The tokens that features promote: whose logits their decoders raise or lower, by direct effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Model, token_text
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet

CLEAR = 6.0
"""A token is clearly promoted if its logit rises by this many standard deviations above the mean over tokens."""
AT_ONCE = 1024
"""Features whose effects on all logits are held at a time."""
NEXT = 0.7
"""Further tokens are listed if their rise is at least this share of the first one's."""


def promoted(model: Model, transcoders: TranscoderSet, top: int) -> list[Int[Tensor, "feature rank"]]:
    """For each layer's features, the tokens that their decoders raise most, best first.

    By direct effect on the logits, minus the mean over tokens: sum of the decoders times the unembedding.
    """
    return [up for (up,) in _extremes(model, transcoders, top, (True,))]


def promoted_by(
    model: Model, transcoder: Transcoder, features: Int[Tensor, " chosen"], top: int
) -> Int[Tensor, "chosen rank"]:
    """The tokens that some features of a layer raise most, as `promoted`."""
    top = min(top, model.n_vocab)
    parts = [
        _raised(model, transcoder.decoders(part).sum(1)).topk(top, dim=1).indices.cpu()
        for part in features.split(AT_ONCE)
    ]
    return torch.cat([torch.full((0, top), -1), *parts])


def promoted_and_suppressed(
    model: Model, transcoders: TranscoderSet, top: int
) -> tuple[list[Int[Tensor, "feature rank"]], list[Int[Tensor, "feature rank"]]]:
    """The tokens that features raise most, as `promoted`, and those that they lower most, from one look at their effects."""
    both = list(_extremes(model, transcoders, top, (True, False)))
    return [up for up, _ in both], [down for _, down in both]


def _extremes(
    model: Model, transcoders: TranscoderSet, top: int, sides: Sequence[bool]
) -> Iterator[list[Int[Tensor, "feature rank"]]]:
    """For each layer and side (whether the largest are asked for), the tokens of all its features."""
    top = min(top, model.n_vocab)
    for transcoder in transcoders.layers:
        n = transcoder.n_features
        half = n // 2 if transcoder.mirrored and n >= 2 * AT_ONCE else n  # what one half raises, the other lowers
        best = [torch.full((n, top), -1) for _ in sides]
        for start in range(0, half, AT_ONCE):
            stop = min(start + AT_ONCE, half)
            raised = _raised(model, transcoder.decoders(torch.arange(start, stop)).sum(1))
            asked = {*sides, *(not side for side in sides if half < n)}
            found = {side: raised.topk(top, dim=1, largest=side).indices.cpu() for side in asked}
            for tokens, side in zip(best, sides, strict=True):
                tokens[start:stop] = found[side]
                if half < n:
                    tokens[half + start : half + stop] = found[not side]
        yield best


def clearly_promoted(
    model: Model, transcoders: TranscoderSet, features: Iterable[tuple[int, int]], most: int = 3, clear: float = CLEAR
) -> dict[tuple[int, int], list[str]]:
    """For each (layer, feature), the tokens that it raises at least `clear` standard deviations above the mean, the
    strongest first; empty if there are none."""
    found = {}
    by_layer: dict[int, list[int]] = {}
    for layer, feature in dict.fromkeys(features):
        by_layer.setdefault(layer, []).append(feature)
    for layer, numbers in by_layer.items():
        rows = transcoders.layers[layer].decoders(torch.tensor(numbers)).sum(1)
        raised = _raised(model, rows.to(model.precision))
        raised = raised / raised.std(1, keepdim=True).clamp(min=1e-12)
        values, tokens = raised.topk(min(most, model.n_vocab), dim=1)
        for number, sizes, ids in zip(numbers, values.tolist(), tokens.tolist(), strict=True):
            told = [t for size, t in zip(sizes, ids, strict=True) if size >= clear and size >= NEXT * sizes[0]]
            found[layer, number] = [token_text(model, token) for token in told]
    return found


def _raised(model: Model, rows: Float[Tensor, "feature d_model"]) -> Float[Tensor, "feature vocab"]:
    """Effects of decoder rows on the logits, with the last norm's gain and minus the mean over tokens."""
    return model.weights.logits(rows, demeaned=True, gain=model.weights.ln_final.gain)
