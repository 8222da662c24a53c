"""Features held on a prompt at multiples of their activation, with a matched control.

Turns what the terminal (`steering.py`) and the notebook (`api.py`) say about a supernode into edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Int
from torch import Tensor

from biology.interventions.controls import matched_sets
from biology.interventions.feature_edits import Edits, concatenate, edits
from biology.interventions.generation import extended
from biology.interventions.protocols import intervene
from biology.models.model import Model, encode, token_text
from biology.records import InputError
from biology.transcoders.activations import FeatureCache, cache_features
from biology.transcoders.transcoder_set import TranscoderSet

DRAWS = 10
"""Number of matched sets in the control."""


@dataclass(frozen=True)
class HeldFeature:
    """How a feature is held: its activation at M = 1 and its token, if known, and where it was taken from."""

    value: float | None = None
    """Its activation; None: its activation on the prompt."""
    at: int | None = None
    """Its token; None: the token given for all features."""
    factor: float = 1.0
    """M for this feature."""
    taken: tuple[str, int] | None = None
    """Prompt and token whose active features replace it in the control; None: the held prompt's own."""


HeldFeatures = dict[tuple[int, int], HeldFeature]
"""By (layer, feature)."""


@dataclass(frozen=True, eq=False)
class ControlledEdits:
    """The edits on a prompt, and the pool of its control."""

    edits: Edits
    transcoders: TranscoderSet
    cache: FeatureCache
    pool: Int[Tensor, "feature 2"]
    """For each feature, the prompt (index in the cache) and the token whose active features replace it in the control."""

    def control(self, draws: int = DRAWS, seed: int = 0) -> Edits:
        """`draws` rows of matched sets: other active features of the same layers, as many, and with the same size of push."""
        generator, of = numpy.random.default_rng(seed), self.pool
        return matched_sets(
            self.transcoders, self.cache, torch.tensor([0]), self.edits, generator, draws=draws, pool_prompt=of[:, 0],
            pool_pos=of[:, 1],
        ).edits  # fmt: skip


def hold_features(
    model: Model, transcoders: TranscoderSet, ids: list[int], held: Mapping[tuple[int, int], HeldFeature], *,
    strength: float = 1.0, at: int | None = None,
) -> ControlledEdits:  # fmt: skip
    """Holds features at `strength` times their activations, each at its own token or at `at` (default: the last).

    Raises:
        InputError: no such token or feature, a feature without activation there, or a value too large for the model.
    """
    if at is not None and not -len(ids) <= at < len(ids):
        raise InputError(f"--at {at}: the prompt has {len(ids)} tokens.")
    elsewhere = (-1 if at is None else at) % len(ids)
    for layer, feature in held:
        if not 0 <= layer < transcoders.n_layers or not 0 <= feature < transcoders.n_features[layer]:
            raise InputError(
                f"feature {layer}/{feature} does not exist: see `biology load --model` for layers and sizes."
            )
    texts = list(dict.fromkeys(one.taken[0] for one in held.values() if one.taken is not None))
    cache = cache_features(model, transcoders, [ids, *(encode(model, text) for text in texts)])
    rows, pool = [], []
    for (layer, feature), one in held.items():
        pos = elsewhere if one.at is None else one.at
        here = one.value
        if here is None:
            features, values = cache.cell(0, layer, pos)
            here = dict(zip(features.tolist(), values.tolist(), strict=True)).get(feature)
        if here is None:
            raise InputError(
                f"feature {layer}/{feature} is not active at token {pos} of this prompt, so there is nothing to multiply: "
                f"give its activation, as in {layer}/{feature}=1.5 (the atlas shows its largest activation)."
            )
        times = strength * one.factor
        if not (times * here) ** 2 <= torch.finfo(model.dtype).max:  # norms square it
            raise InputError(f"feature {layer}/{feature} at {times:g} times {here:g} is too large for {model.dtype}.")
        rows.append((0, layer, pos, feature, times * here))
        # an injected feature is matched by features active at its source, a reduced one by features active here
        own = one.taken is None or times * here <= 0
        pool.append((0, pos) if own else (1 + texts.index(one.taken[0]), one.taken[1]))  # type: ignore[index]
    return ControlledEdits(edits(rows), transcoders, cache, torch.tensor(pool, dtype=torch.long).reshape(-1, 2))


def no_edits(like: Edits) -> Edits:
    """Empty edits."""
    return replace(like, **{name: value[:0] for name, value in vars(like).items()})


def first_row(edited: Edits) -> Edits:
    """The edits of the first of several rows."""
    return replace(edited, **{name: value[edited.row == 0] for name, value in vars(edited).items()})


def at_every_token(model: Model, pushed: Edits, ids: list[int]) -> Edits:
    """The same edits at every token after the BOS, new ones included."""
    first = 1 if model.bos_token is not None and ids[0] == model.bos_token else 0
    return replace(pushed, pos=pushed.pos * 0 + first)


def said(
    model: Model, transcoders: TranscoderSet, prompts: list[list[int]], fixed: Edits, every: Edits | None = None, *,
    last_layer: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """Probabilities of the next token, [vocab] in float64, averaged over rows. `fixed` edits one token, `every` all tokens from
    a first one on.

    With `last_layer`, MLP outputs up to it keep their clean values except for the edits (constrained patching). Without it
    everything is recomputed. Raises InputError if the model's output is no longer finite.
    """
    held = fixed if every is None else concatenate([fixed, extended(every, prompts)])
    outcome = intervene(
        model, transcoders, prompts, torch.arange(len(prompts)), held, last_layer=last_layer,
        protocol="iterative" if last_layer is None else "constrained", live_attention=last_layer is None,
    )  # fmt: skip
    probabilities = outcome.logits[:, 0].double().softmax(-1).mean(0)
    if not bool(probabilities.isfinite().all()):
        raise InputError("held at these values, the model's output is no longer finite: use smaller values.")
    return probabilities


def top(model: Model, probabilities: torch.Tensor, count: int) -> list[tuple[str, float]]:
    """The most probable tokens with their probabilities."""
    best = probabilities.topk(min(count, model.n_vocab))
    return [(token_text(model, int(t)), float(p)) for p, t in zip(best.values, best.indices, strict=True)]
