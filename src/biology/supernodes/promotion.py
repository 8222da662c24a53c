"""The tokens that features promote: whose logits their decoders raise or lower, by direct effect."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Model, token_text
from biology.transcoders.transcoder_set import TranscoderSet

CLEAR = 6.0
"""A token is clearly promoted if its logit rises by this many standard deviations above the mean over tokens."""
NEXT = 0.7
"""Further tokens are listed if their rise is at least this share of the first one's."""


def promoted(
    model: Model, transcoders: TranscoderSet, top: int, largest: bool = True
) -> list[Int[Tensor, "feature rank"]]:
    """For each layer's features, the tokens that their decoders raise most (or, if not `largest`, lower most), best first.

    By direct effect on the logits, minus the mean over tokens: sum of the decoders times the unembedding.
    """
    top = min(top, model.n_vocab)
    found = []
    for transcoder in transcoders.layers:
        best = torch.full((transcoder.n_features, top), -1)
        for start in range(0, transcoder.n_features, 1024):
            rows = transcoder.decoders(torch.arange(start, min(start + 1024, transcoder.n_features))).sum(1)
            best[start : start + len(rows)] = _raised(model, rows).topk(top, dim=1, largest=largest).indices.cpu()
        found.append(best)
    return found


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
