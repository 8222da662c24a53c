"""Targets of an attribution graph: logits, contrasts of logits, directions, or features.

A target is a linear read-out of the local replacement model: a vector at the unembedding's input or at a layer's transcoder
input, and a position. Logits have their mean over the vocabulary subtracted and are taken before the final soft-cap; their
weights are the model's own probabilities, after the soft-cap and not renormalised ("Circuit Tracing", section on logit nodes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.replacement import LocalReplacement, final
from biology.models.model import Model, token_text
from biology.records import InputError


@dataclass(frozen=True)
class TokenTarget:
    """The logit of one token minus the mean logit; weight = its probability."""

    token_id: int
    position: int = -1


@dataclass(frozen=True)
class ContrastTarget:
    """The logit of one token minus that of another; weight 1."""

    positive: int
    negative: int
    position: int = -1


@dataclass(frozen=True, eq=False)
class DirectionTarget:
    """Any direction in the input of the unembedding (layer None) or of a layer's transcoder; weight 1."""

    vector: Float[Tensor, " d_model"]
    label: str = "direction"
    layer: int | None = None
    position: int = -1


@dataclass(frozen=True)
class FeatureTarget:
    """The pre-activation of one feature, active or not; weight 1."""

    layer: int
    position: int
    feature: int


Explained = Literal["logits", "contrast"]
Target = TokenTarget | ContrastTarget | DirectionTarget | FeatureTarget


@dataclass(frozen=True, eq=False)
class Readout:
    """A resolved target: pre_activation = vector . (input at (layer, pos)) + offset. `layer` is n_layers for the
    unembedding."""

    label: str
    weight: float
    layer: int
    pos: int
    vector: Float[Tensor, " d_model"]
    offset: float
    pre_activation: float
    token_id: int = -1
    feature: int = -1
    contrast: tuple[int, int] | None = None
    """The two tokens of a `ContrastTarget`."""


def normalise(targets: Sequence[Target | int] | None) -> list[Target] | None:
    """Turns plain integers into token targets. Raises InputError for an empty list."""
    if targets is None:
        return None
    if not targets:
        raise InputError("no targets given: name at least one, or leave them out for the most probable tokens")
    return [TokenTarget(target) if isinstance(target, int) else target for target in targets]


def positions(targets: Sequence[Target] | None, position: int, n_pos: int) -> list[int]:
    """The positions that targets read, counted from 0. Raises InputError for one outside the prompt."""
    wanted = [position] if targets is None else [target.position for target in targets]
    for place in wanted:
        if not -n_pos <= place < n_pos:
            raise InputError(f"target position {place} lies outside the prompt of {n_pos} tokens")
    return [place % n_pos for place in wanted]


def probable_tokens(probabilities: Float[Tensor, " vocab"], max_logits: int, share: float) -> Int[Tensor, " target"]:
    """The most probable tokens: the shortest list whose probabilities reach `share`, at most `max_logits`."""
    top = probabilities.topk(min(max_logits, probabilities.numel()))
    reached = int((top.values.double().cumsum(0) < share).sum()) + 1
    return top.indices[:reached]


def resolve(
    model: Model,
    local: LocalReplacement,
    targets: Sequence[Target] | None,
    places: Sequence[int],
    logit_positions: Sequence[int],
    *,
    max_logits: int,
    logit_probability: float,
    explain: Explained = "logits",
) -> list[Readout]:
    """Read-outs of the targets; logits were captured at `logit_positions`. Without targets, `explain` chooses them for the
    token after `places[0]`: the most probable tokens, or the most probable one minus the second.

    Raises InputError for a token, layer or feature that does not exist, a target given twice, or a token against itself.
    """
    pre, after = local.frozen.pre_logits[local.row], local.frozen.logits[local.row]
    if targets is None and explain == "contrast":
        first, second = after[list(logit_positions).index(places[0])].topk(2).indices.tolist()
        targets = [ContrastTarget(first, second)]
    where = {pos: index for index, pos in enumerate(logit_positions)}
    weights, b_U = local.weights, local.weights.b_U

    def logit(token: int, pos: int, probabilities: Tensor) -> Readout:
        logits = pre[where[pos]].double()
        offset = 0.0 if b_U is None else float(b_U[token] - b_U.mean())
        real = float(logits[token] - logits.mean())
        label = token_text(model, token)
        return Readout(
            label,
            float(probabilities[token]),
            model.n_layers,
            pos,
            weights.read_by(token) - weights.mean_W_U,
            offset,
            real,
            token,
        )

    if targets is None:
        pos = places[0]
        probabilities = after[where[pos]].softmax(-1)
        chosen = probable_tokens(probabilities, max_logits, logit_probability)
        return [logit(int(token), pos, probabilities) for token in chosen]
    found: list[Readout] = []
    met: set[Target] = set()
    for target, pos in zip(targets, places, strict=True):
        if isinstance(target, TokenTarget):
            token = _token(model, target.token_id)
            found.append(logit(token, pos, after[where[pos]].softmax(-1)))
        elif isinstance(target, ContrastTarget):
            one, other = _token(model, target.positive), _token(model, target.negative)
            if one == other:
                raise InputError(f"a contrast of {token_text(model, one)!r} with itself is nothing: name two tokens")
            offset = 0.0 if b_U is None else float(b_U[one] - b_U[other])
            logits = pre[where[pos]].double()
            label = f"{token_text(model, one)} - {token_text(model, other)}"
            vector, real = weights.read_by(one) - weights.read_by(other), float(logits[one] - logits[other])
            found.append(Readout(label, 1.0, model.n_layers, pos, vector, offset, real, contrast=(one, other)))
        else:
            found.append(_direction(model, local, target, pos))
        here = target if isinstance(target, DirectionTarget) else replace(target, position=pos)
        if here in met:
            raise InputError(f"target {found[-1].label!r} is named twice")
        met.add(here)
    return found


def _token(model: Model, token: int) -> int:
    if not 0 <= token < model.n_vocab:
        raise InputError(f"target token {token} is outside the vocabulary 0..{model.n_vocab - 1}")
    return token


def _direction(model: Model, local: LocalReplacement, target: DirectionTarget | FeatureTarget, pos: int) -> Readout:
    layer = target.layer
    if layer is not None and not 0 <= layer < model.n_layers:
        raise InputError(f"target layer {layer} does not exist: the model has layers 0..{model.n_layers - 1}")
    if isinstance(target, FeatureTarget):
        transcoder = local.transcoders.layers[target.layer]
        n = transcoder.n_features
        if not 0 <= target.feature < n:
            raise InputError(f"target feature {target.feature} does not exist: layer {layer} has features 0..{n - 1}")
        one = torch.tensor([target.feature], device=model.device)
        vectors, offsets = transcoder.readers(one, local.frozen.read[target.layer][local.row, pos][None])
        vector, offset = vectors[0], float(offsets[0])
        label, feature = f"feature {layer}/{target.feature}", target.feature
    else:
        vector, offset, label, feature = target.vector, 0.0, target.label, -1
        if vector.shape != (model.d_model,):
            raise InputError(
                f"direction {label!r} has shape {tuple(vector.shape)}, the model has d_model {model.d_model}"
            )
        vector = vector.to(model.device, model.precision)
    if layer is None:
        layer, seen = model.n_layers, final(local, local.frozen.resid_final[local.row])[pos]
    else:
        seen = local.frozen.read[layer][local.row, pos]
    real = float((seen.double() * vector.double()).sum()) + offset
    return Readout(label, 1.0, layer, pos, vector, offset, real, feature=feature)
