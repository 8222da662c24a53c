"""Matched controls: perturbations of the same size that act on something else.

A large enough push anywhere changes a model's answer, so an effect counts only beside pushes of equal size:

    matched sets  random other active features, at the same layers and positions, as many, with the same length of the
                  injected decoder vector (the main null)
    directions    random Gaussian vectors of that length at the same places
    moved         the same push at another position

The control of item i and draw d is row i * draws + d.
"""

from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.interventions.feature_edits import Edits, Injections
from biology.interventions.matched_draw import draw_others
from biology.records import InputError
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """Control edits; row r runs on prompt `prompt[r]`. Of its features, `filled[r]` are not active on the prompt: too few
    others were active, so that they were drawn from the rest of the layer."""

    edits: Edits
    prompt: Int[Tensor, " row"]
    filled: Int[Tensor, " row"]


def matched_sets(
    transcoders: TranscoderSet,
    cache: FeatureCache,
    prompt: Int[Tensor, " item"],
    edited: Edits,
    generator: numpy.random.Generator,
    *,
    draws: int = 10,
    last_layer: int | None = None,
    pool_prompt: Int[Tensor, " site"] | None = None,
    pool_pos: Int[Tensor, " site"] | None = None,
) -> MatchedSets:
    """Random sets of other active features for every item (a row of `edited`, on prompt `prompt[row]` of the cache).

    At each (layer, position) as many features are drawn as were edited, from those active there, but none that is edited
    anywhere in that layer. Each changes in proportion to its activation, down where the true features go down and up where
    they go up. All are then scaled so that the injected vector is as long as the true one (for a cross-layer transcoder:
    the concatenated vectors of all layers up to `last_layer`).

    Args:
        pool_prompt, pool_pos: prompt and position at which the features that replace an edited one must be active; by default
            its own. For an injection: the donor prompt and position that it was taken from.

    Raises:
        InputError: fewer than one draw, or a layer without other features.
    """
    if draws < 1:
        raise InputError(f"controls need at least 1 draw, found {draws}")
    own = prompt[edited.row]
    clean = cache.at(own, edited.layer, edited.pos, edited.feature).double()
    change = edited.value.double() - clean
    pool_prompt = own if pool_prompt is None else pool_prompt
    pool_pos = edited.pos if pool_pos is None else pool_pos
    columns: list[tuple[Tensor, ...]] = []
    filled, prompts = torch.zeros(len(prompt), draws, dtype=torch.long), prompt.tolist()
    of_layer: dict[tuple[int, int], set[int]] = {}
    for item, layer, feature in torch.stack([edited.row, edited.layer, edited.feature], 1).tolist():
        of_layer.setdefault((item, layer), set()).add(feature)
    places = torch.stack([edited.row, edited.layer, edited.pos], 1)
    pools = torch.stack([pool_prompt, pool_pos, (change > 0).long()], 1)
    for cell in _groups(places):
        item, layer, pos = places[cell[0]].tolist()
        target = _vectors(transcoders, layer, edited.feature[cell], last_layer).T @ change[cell]
        parts, groups = [], _groups(pools[cell])
        for group in groups:
            sites = cell[group]
            from_prompt, from_pos, raised = pools[sites[0]].tolist()
            pool = cache.cell(from_prompt, layer, from_pos)
            width = transcoders.n_features[layer]
            features, weight, missing = _sets(pool, of_layer[item, layer], len(sites), width, draws, generator)
            filled[item] += missing
            push = weight * (1.0 if raised else -1.0)
            vectors, wanted = _vectors(transcoders, layer, features, last_layer), target
            if len(groups) > 1:
                wanted = _vectors(transcoders, layer, edited.feature[sites], last_layer).T @ change[sites]
            push = push * _scale(wanted, torch.einsum("ds,dsv->dv", push, vectors))[:, None]
            parts.append((features, push, vectors))
        features, push, vectors = (
            parts[0] if len(parts) == 1 else (torch.cat(part, 1) for part in zip(*parts, strict=True))
        )
        push = push * _scale(target, torch.einsum("ds,dsv->dv", push, vectors))[:, None]
        columns.append(_merged(cache, prompts[item], item, layer, pos, features, push))
    if columns:
        row, layer, pos, feature, value = (torch.cat(part) for part in zip(*columns, strict=True))
    else:
        row = layer = pos = feature = torch.zeros(0, dtype=torch.long)
        value = torch.zeros(0, dtype=torch.float64)
    return MatchedSets(Edits(row, layer, pos, feature, value), prompt.repeat_interleave(draws), filled.flatten())


def directions(
    transcoders: TranscoderSet,
    cache: FeatureCache,
    prompt: Int[Tensor, " item"],
    edited: Edits,
    generator: numpy.random.Generator,
    *,
    draws: int = 10,
    last_layer: int | None = None,
) -> tuple[Injections, Int[Tensor, " row"]]:
    """Gaussian vectors as long as the true ones, at every place that the true edits write to; and the prompt of each
    row."""
    clean = cache.at(prompt[edited.row], edited.layer, edited.pos, edited.feature).double()
    change = edited.value.double() - clean
    top = transcoders.n_layers - 1 if last_layer is None else last_layer
    columns: list[tuple[Tensor, ...]] = []
    for cell in _groups(torch.stack([edited.row, edited.layer, edited.pos], 1)):
        item, layer, pos = (int(column[cell[0]]) for column in (edited.row, edited.layer, edited.pos))
        rows = _rows(transcoders, layer, edited.feature[cell]).double()
        wanted = torch.einsum("s,stv->tv", change[cell], rows)[: top + 1 - layer]
        noise = torch.from_numpy(generator.standard_normal((draws, *wanted.shape)))
        vectors = noise * (wanted.norm(dim=-1) / noise.norm(dim=-1))[..., None]
        row = (item * draws + torch.arange(draws))[:, None].expand(-1, len(wanted))
        target = (layer + torch.arange(len(wanted))).expand_as(row)
        columns.append((row.flatten(), target.flatten(), torch.full_like(row, pos).flatten(), vectors.flatten(0, 1)))
    if not columns:
        empty = torch.zeros(0, dtype=torch.long)
        return Injections(empty, empty, empty, torch.zeros(0, transcoders.d_model)), prompt.repeat_interleave(draws)
    return Injections(*(torch.cat(part) for part in zip(*columns, strict=True))), prompt.repeat_interleave(draws)


def moved(cache: FeatureCache, prompt: Int[Tensor, " item"], edited: Edits, pos: Int[Tensor, " site"]) -> Edits:
    """The same pushes (changes from the clean activation) at other positions of the same prompts."""
    own = prompt[edited.row]
    change = edited.value.double() - cache.at(own, edited.layer, edited.pos, edited.feature).double()
    there = cache.at(own, edited.layer, pos, edited.feature).double()
    return Edits(edited.row, edited.layer, pos, edited.feature, there + change)


def _groups(keys: Int[Tensor, "site key"]) -> list[Int[Tensor, " member"]]:
    """Groups of indices of equal rows of `keys`, in ascending order of the keys."""
    if not len(keys):
        return []
    if len(keys) == 1 or bool((keys == keys[0]).all()):  # nearly always true within one cell, and cheaper than sorting
        return [torch.arange(len(keys))]
    _, which, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    return list(torch.argsort(which, stable=True).split(counts.tolist()))


def _vectors(
    transcoders: TranscoderSet, layer: int, features: Int[Tensor, "*set"], last_layer: int | None
) -> Float[Tensor, "*set written"]:
    """Output vectors of features, concatenated over their target layers up to `last_layer`, in float64."""
    rows = _rows(transcoders, layer, features)
    targets = rows.shape[-2] if last_layer is None else last_layer + 1 - layer
    return rows[..., :targets, :].flatten(-2).double()


def _rows(
    transcoders: TranscoderSet, layer: int, features: Int[Tensor, "*set"]
) -> Float[Tensor, "*set target d_model"]:
    """The decoders of a layer's features, on the CPU."""
    weights = transcoders.layers[layer]
    return weights.decoders(features.long().to(weights.b_dec.device)).cpu()


def _scale(wanted: Float[Tensor, " written"], found: Float[Tensor, "draw written"]) -> Float[Tensor, " draw"]:
    length = found.norm(dim=-1)
    return torch.where(length > 0, wanted.norm() / length.clamp(min=1e-300), torch.zeros_like(length))


def _sets(
    pool: tuple[Tensor, Tensor],
    excluded: set[int],
    size: int,
    width: int,
    draws: int,
    generator: numpy.random.Generator,
) -> tuple[Int[Tensor, "draw size"], Float[Tensor, "draw size"], int]:
    """Random sets of `size` different features, each with a weight; and the number of features per set from outside the
    pool."""
    feature, activation = pool[0].numpy().astype(numpy.int64), pool[1].numpy().astype(numpy.float64)
    first = draw_others(feature, excluded, size, generator, sets=draws)
    sets, weights = feature[first], activation[first]
    missing = 0
    if sets.shape[1] < size:
        taken = excluded.union(feature.tolist())
        missing = min(size - sets.shape[1], width - len(taken))
        if sets.shape[1] + missing == 0:
            raise InputError("a control set needs at least one feature of the layer that is not edited")
        more = draw_others(numpy.arange(width), taken, missing, generator, sets=draws)
        rest = activation[~numpy.isin(feature, list(excluded))]
        sets = numpy.concatenate([sets, more], axis=1)
        weights = numpy.concatenate([weights, numpy.full(more.shape, rest.mean() if len(rest) else 1.0)], axis=1)
    return torch.from_numpy(sets), torch.from_numpy(weights), missing


def _merged(
    cache: FeatureCache, prompt: int, item: int, layer: int, pos: int, features: Tensor, push: Tensor
) -> tuple[Tensor, ...]:
    """Edits of one cell: clean activation + push. A feature drawn both to go up and to go down gets the sum of both
    pushes."""
    draws, width = len(features), int(features.max()) + 1
    sites, which = torch.unique(torch.arange(draws)[:, None] * width + features, return_inverse=True)
    total = torch.zeros(len(sites), dtype=torch.float64).index_add(0, which.flatten(), push.flatten())
    row, feature = item * draws + sites // width, sites % width
    own, layers, places = (torch.full_like(feature, number) for number in (prompt, layer, pos))
    clean = cache.at(own, layers, places, feature).double()
    return row, layers, places, feature, clean + total
