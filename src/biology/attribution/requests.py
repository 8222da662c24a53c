"""The arguments of `attribute`, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from biology.attribution import targets as target_nodes
from biology.attribution.graph_memory import OnEstimate
from biology.attribution.live_effects import FrozenOrLive
from biology.attribution.targets import Explained, Target
from biology.models.model import Model, token_batch
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet

HELD, EXPLAINED = get_args(FrozenOrLive), get_args(Explained)


@dataclass(frozen=True)
class Settings:
    """Settings of graphs, beside prompts and targets."""

    max_logits: int
    logit_probability: float
    max_feature_nodes: int | None
    first_position: int
    memory: int
    progress: Callable[[int, int], None] | None
    on_estimate: OnEstimate | None = None
    attention: FrozenOrLive = "frozen"
    norms: FrozenOrLive = "frozen"
    explain: Explained = "logits"

    @property
    def live(self) -> bool:
        return "live" in (self.attention, self.norms)


def require_fit(model: Model, transcoders: TranscoderSet) -> None:
    """Raises `InputError` if the transcoders have another number of layers than the model, or another width."""
    if (transcoders.n_layers, transcoders.d_model) != (model.n_layers, model.d_model):
        raise InputError(
            f"transcoders of {transcoders.n_layers} layers and width {transcoders.d_model} do not fit model"
            f" {model.name} with {model.n_layers} layers and width {model.d_model}"
        )


def check(
    model: Model,
    transcoders: TranscoderSet,
    settings: Settings,
    features: Sequence[tuple[int, int, int]] | None,
) -> None:
    """Raises `InputError` for settings or features that do not fit the model and its transcoders."""
    require_fit(model, transcoders)
    if settings.max_logits < 1:
        raise InputError(f"max_logits must be at least 1, not {settings.max_logits}")
    if not 0 < settings.logit_probability <= 1:
        raise InputError(f"logit_probability must lie in (0, 1], not {settings.logit_probability}")
    budget = settings.max_feature_nodes
    if budget is not None and budget < 0:
        raise InputError(f"max_feature_nodes must be 0 (no feature nodes) or more, not {budget}")
    if budget is not None and features is not None:
        raise InputError("give either max_feature_nodes or features, not both")
    for name, choices in (("attention", HELD), ("norms", HELD), ("explain", EXPLAINED)):
        if getattr(settings, name) not in choices:
            raise InputError(f"{name} is {' or '.join(choices)}, not {getattr(settings, name)!r}")
    if settings.first_position < 0:
        raise InputError(f"first_position must be 0 or more, not {settings.first_position}")


def prepared(
    model: Model, token_ids: Tensor | Sequence[int], targets: Sequence[Target | int] | None, position: int
) -> tuple[Tensor, list[Target] | None, list[int]]:
    """Token ids [1, pos] up to the last target, the targets, and the positions that they read."""
    ids = token_batch(model, torch.as_tensor(token_ids, dtype=torch.long).view(1, -1))
    chosen = target_nodes.normalise(targets)
    places = target_nodes.positions(chosen, position, ids.shape[1])
    return ids[:, : max(places) + 1], chosen, places
