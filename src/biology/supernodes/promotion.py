"""What features say: the tokens that their decoders raise or lower, by their direct effect on the logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Model, token_text
from biology.transcoders.transcoder_set import TranscoderSet

CLEAR = 6.0
"""Standard deviations above all tokens from which on a token is clearly promoted."""
NEXT = 0.7
"""Further tokens are told that are raised by so large a share of what the first one is."""


def promoted(
    model: Model, transcoders: TranscoderSet, top: int, largest: bool = True
) -> list[Int[Tensor, "feature rank"]]:
    """For each layer's features, the tokens that their decoders raise most (or, not `largest`, lower most), best first.

    By their direct effect on the logits, the mean over all tokens removed: sum of the decoders times the unembedding.
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
    """By feature (layer, number), the tokens that it raises `clear` standard deviations above the mean, the strongest first; none where none
    stands out."""
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
    """What decoder rows add to the logits behind the last norm's gain, the mean over all tokens removed."""
    return model.weights.logits(rows, demeaned=True, gain=model.weights.ln_final.gain)
