"""An intervention as data: which features are held, where and at which values; and which vectors are added.

A row is one prompt with a set of edits. Values are activations, in the transcoder's units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Model
from biology.records import InputError
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet


@dataclass(frozen=True, eq=False)
class Sites:
    """Features at places: entry i is a feature of a layer at a position of a row. Positions may count from the end."""

    row: Int[Tensor, " site"]
    layer: Int[Tensor, " site"]
    pos: Int[Tensor, " site"]
    feature: Int[Tensor, " site"]


@dataclass(frozen=True, eq=False)
class Edits(Sites):
    """Sites with the activation to hold each at, in the transcoder's units."""

    value: Float[Tensor, " site"]


@dataclass(frozen=True, eq=False)
class Injections:
    """Vectors added to the tensor at the write hook: entry i at a layer and position of a row (direction controls)."""

    row: Int[Tensor, " site"]
    layer: Int[Tensor, " site"]
    pos: Int[Tensor, " site"]
    vector: Float[Tensor, "site d_model"]


AnySites = TypeVar("AnySites", Sites, Edits, Injections)


def edits(entries: Iterable[tuple[int, int, int, int, float]]) -> Edits:
    """Edits from tuples (row, layer, pos, feature, value).

    A feature listed twice at one place with the same value counts once, as in overlapping supernodes.

    Raises:
        InputError: two different values for one feature at one place.
    """
    table: dict[tuple[int, ...], float] = {}
    for *site, value in entries:
        key = tuple(int(number) for number in site)
        if table.setdefault(key, float(value)) != float(value):
            raise InputError(f"feature {key[3]} of layer {key[1]} at position {key[2]} is edited to two values")
    row, layer, pos, feature = torch.tensor(list(table), dtype=torch.long).reshape(-1, 4).unbind(1)
    return Edits(row, layer, pos, feature, torch.tensor(list(table.values()), dtype=torch.float64))


def concatenate(parts: Sequence[Edits]) -> Edits:
    """One table of edits; row numbers stay as they are."""
    names = ("row", "layer", "pos", "feature", "value")
    return Edits(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def steered(sites: Sites, activation: Float[Tensor, " site"], factor: float) -> Edits:
    """Holds features at `factor` times an activation: the clean one (1 changes nothing, 0 ablates, -1 flips the sign)
    or a donor prompt's (an injection). `factor` is the paper's M. An additive m, as in some publications, is M = 1 +
    m."""
    return Edits(sites.row, sites.layer, sites.pos, sites.feature, activation.double() * factor)


def wherever_active(
    cache: FeatureCache, prompt: Int[Tensor, " row"], features: Iterable[tuple[int, int]], factor: float
) -> Edits:
    """Holds features (layer, feature) at `factor` times their clean activation at every place of each row's prompt where
    they are active: row r is on prompt `prompt[r]` of the cache."""
    width = int(cache.shape[3])
    wanted = torch.tensor(sorted({layer * width + feature for layer, feature in features}), dtype=torch.long)
    columns: list[tuple[Tensor, ...]] = []
    for row, place in enumerate(prompt.tolist()):
        own = slice(int(cache.offsets[place]), int(cache.offsets[place + 1]))
        layer, pos, feature = (part[own].long() for part in (cache.layer, cache.pos, cache.feature))
        mine = torch.isin(layer * width + feature, wanted)
        here = (torch.full_like(layer, row), layer, pos, feature, cache.value[own])
        columns.append(tuple(part[mine] for part in here))
    if not columns:
        return edits(())
    row, layer, pos, feature, value = (torch.cat(part) for part in zip(*columns, strict=True))
    return steered(Sites(row, layer, pos, feature), value, factor)


def checked_sites(model: Model, transcoders: TranscoderSet, sites: AnySites, lengths: Int[Tensor, " row"]) -> AnySites:
    """The same sites with positions counted from the start, checked to be inside their row's prompt and the
    transcoders.

    Raises:
        InputError: a site is outside.
    """
    if not len(sites.row):
        return sites
    length = lengths[sites.row]
    pos = torch.where(sites.pos < 0, sites.pos + length, sites.pos)
    limits = [("position", pos, length), ("layer", sites.layer, torch.full_like(length, model.n_layers))]
    if isinstance(sites, Sites):
        widths = torch.tensor(transcoders.n_features)[sites.layer.clamp(0, model.n_layers - 1)]
        limits.append(("feature", sites.feature, widths))
    for name, number, limit in limits:
        wrong = ((number < 0) | (number >= limit)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise InputError(f"row {int(sites.row[i])}: {name} {int(number[i])} is not in 0..{int(limit[i]) - 1}")
    return replace(sites, pos=pos)


def of_rows(sites: AnySites, here: Int[Tensor, " row"], model: Model, start: int = 0) -> AnySites:
    """The sites of one batch, on the model's device and in its dtype. Rows are numbered as in the batch, positions from
    `start` on."""
    mine = here[sites.row] >= 0
    chosen = {entry.name: getattr(sites, entry.name)[mine] for entry in fields(sites)}
    chosen["row"], chosen["pos"] = here[chosen["row"]], chosen["pos"] - start
    dtypes = {name: model.dtype if part.is_floating_point() else part.dtype for name, part in chosen.items()}
    return type(sites)(**{name: part.to(model.device, dtypes[name]) for name, part in chosen.items()})
