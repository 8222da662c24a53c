"""Direct effects: rows of the adjacency matrix, by the transposed chain of the local replacement model.

    effect[reader, source] = vector_reader . J . vector_source

J is the frozen linear map from the write point of the source to the read point of the reader. All readers of one
position p go together: their gradients at the residual stream, positions 0..p only, descend the layers once. Readers
are sorted by layer, highest first, so that each pays only for the layers below it, and each (layer, position) cell is
one matrix product with the scaled decoders of the features active there, its error vector included.

Columns stand in the order that makes cells contiguous: by position, then layer, the cell's features and then its
error; tokens and targets follow. A cross-layer feature is a source in the cells of all layers from its own upwards,
so that a cell (layer, position) then is the prefix of its position up to that layer, and products are added up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.replacement import (
    LocalReplacement,
    attention_transpose,
    final_transpose,
    read_transpose,
    write_transpose,
)
from biology.transcoders import activate, decoder, pre_activations


@dataclass(frozen=True, eq=False)
class ActiveFeatures:
    """The active features of one prompt, sorted by (layer, pos, feature)."""

    layer: Int[Tensor, " active"]
    pos: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    activation: Float[Tensor, " active"]
    pre_activation: Float[Tensor, " active"]

    def __len__(self) -> int:
        return self.layer.numel()

    def subset(self, chosen: Tensor) -> ActiveFeatures:
        """The features at a boolean mask or at sorted indices."""
        return ActiveFeatures(**{name: tensor[chosen] for name, tensor in vars(self).items()})


def active_features(local: LocalReplacement, first_position: int, below: int) -> ActiveFeatures:
    """Features of layers < `below` that fire at positions >= `first_position` in the unmodified forward pass."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ("layer", "pos", "feature", "activation", "pre_activation")}
    for layer in range(below):
        pre = pre_activations(local.transcoders, layer, local.frozen.read[layer][local.row, first_position:])
        values = activate(local.transcoders, layer, pre)
        pos, feature = values.nonzero(as_tuple=True)
        found = (torch.full_like(pos, layer), pos + first_position, feature, values[pos, feature], pre[pos, feature])
        for name, tensor in zip(parts, found, strict=True):
            parts[name].append(tensor)
    if not below:
        empty = torch.zeros(0, dtype=torch.long, device=local.frozen.ids.device)
        none = torch.zeros(0, dtype=local.frozen.embed.dtype, device=empty.device)
        return ActiveFeatures(empty, empty, empty, none, none)
    return ActiveFeatures(**{name: torch.cat(tensors) for name, tensors in parts.items()})


def batch_active_features(
    local: LocalReplacement, first_position: int
) -> tuple[Int[Tensor, " active"], ActiveFeatures]:
    """Active features of all prompts and layers, sorted by (layer, prompt, pos, feature), and the prompt of each."""
    prompts, parts = [], []
    for layer in range(local.n_layers):
        pre = pre_activations(local.transcoders, layer, local.frozen.read[layer][:, first_position:])
        values = activate(local.transcoders, layer, pre)
        prompt, pos, feature = at = values.nonzero(as_tuple=True)
        prompts.append(prompt)
        parts.append((torch.full_like(pos, layer), pos + first_position, feature, values[at], pre[at]))
    return torch.cat(prompts), ActiveFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Sources:
    """Source vectors in column order, and where each node's column is.

    `start[pos - first_position, layer]` is the first column of a cell; its error is the last. `vectors` holds the
    rows of all cells of per-layer transcoders; cross-layer cells are put together when they are needed.
    """

    active: ActiveFeatures
    first_position: int
    start: Int[Tensor, "later_pos layer"]
    stop: Int[Tensor, "later_pos layer"]
    feature_column: Int[Tensor, " active"]
    errors: Float[Tensor, "layer pos d_model"]
    vectors: Float[Tensor, "column d_model"] | None
    n_targets: int

    @property
    def error_column(self) -> Int[Tensor, " error"]:
        """Columns of the error nodes in node order (by layer, then position)."""
        return (self.stop - 1).T.flatten()

    @property
    def token_start(self) -> int:
        return int(self.stop[-1, -1]) if self.stop.numel() else 0

    @property
    def target_start(self) -> int:
        return self.token_start + self.errors.shape[1]

    @property
    def n_columns(self) -> int:
        return self.target_start + self.n_targets


def sources(
    local: LocalReplacement,
    active: ActiveFeatures,
    first_position: int,
    n_targets: int,
    *,
    keep: Bool[Tensor, " active"] | None = None,
) -> Sources:
    """Source vectors of the active features (those in `keep`; the others are added to the errors of the cells they
    write to)."""
    frozen, device = local.frozen, active.layer.device
    n_layers, n_pos = local.n_layers, local.n_pos
    errors = _reconstruction_errors(local, active if keep is None else active.subset(keep), first_position)
    active = active if keep is None else active.subset(keep)
    cell = (active.pos - first_position) * n_layers + active.layer
    n_cells = max(0, n_pos - first_position) * n_layers
    counts = torch.bincount(cell, minlength=n_cells) + 1
    stop = counts.cumsum(0)
    start = stop - counts
    # rank within a cell: features are sorted by (layer, pos, feature), so a stable sort by cell keeps the feature order
    order = cell.argsort(stable=True)
    column = torch.empty_like(order)
    column[order] = torch.arange(len(active), device=device) + cell[order]
    vectors = None
    if local.transcoders.kind == "per_layer":
        vectors = frozen.embed.new_empty(int(counts.sum()), frozen.embed.shape[2])
        for layer in range(n_layers):
            of_layer = active.layer == layer
            rows = local.transcoders.layers[layer].W_dec[active.feature[of_layer], 0]
            vectors[column[of_layer]] = rows * active.activation[of_layer, None]
        vectors[stop.view(-1, n_layers).T.flatten() - 1] = errors[:, first_position:].flatten(0, 1)
    shape = (max(0, n_pos - first_position), n_layers)
    return Sources(active, first_position, start.view(shape), stop.view(shape), column, errors, vectors, n_targets)


def _reconstruction_errors(local: LocalReplacement, active: ActiveFeatures, first_position: int) -> Tensor:
    """MLP output minus what `active`, b_dec and the skip reconstruct, [layer, pos, d_model]; zero before
    `first_position`."""
    frozen, row = local.frozen, local.row
    errors = []
    for layer in range(local.n_layers):
        rest = frozen.write[layer][row] - local.transcoders.layers[layer].b_dec
        W_skip = local.skip(layer)
        if W_skip is not None:
            rest = rest - frozen.read[layer][row] @ W_skip.T
        for source in range(layer + 1):
            of_layer = active.layer == source
            rows = decoder(local.transcoders, source, layer, active.feature[of_layer])
            if rows is not None:
                rest = rest.index_add(0, active.pos[of_layer], rows * active.activation[of_layer, None], alpha=-1)
        rest = rest.clone()
        rest[:first_position] = 0
        errors.append(rest)
    return torch.stack(errors)


def cell(local: LocalReplacement, source: Sources, layer: int, pos: int) -> tuple[int, int, Tensor]:
    """First and last column of a cell and its source vectors; of all lower layers too in a cross-layer set."""
    row = pos - source.first_position
    start, stop = int(source.start[row, layer]), int(source.stop[row, layer])
    if source.vectors is not None:
        return start, stop, source.vectors[start:stop]
    begin = int(source.start[row, 0])
    vectors = source.errors.new_zeros(stop - begin, source.errors.shape[2])
    active = source.active
    for lower in range(layer + 1):
        chosen = ((active.layer == lower) & (active.pos == pos)).nonzero().flatten()
        rows = decoder(local.transcoders, lower, layer, active.feature[chosen])
        if rows is not None:
            vectors[source.feature_column[chosen] - begin] = rows * active.activation[chosen, None]
    vectors[-1] = source.errors[layer, pos]
    return begin, stop, vectors


@dataclass(frozen=True, eq=False)
class Readers:
    """Nodes whose incoming edges are wanted: what they read, where. `layer` is n_layers for the unembedding."""

    layer: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    vector: Float[Tensor, "row d_model"]

    def __len__(self) -> int:
        return self.layer.numel()


def effect_rows(
    local: LocalReplacement,
    source: Sources,
    readers: Readers,
    emit: Callable[[Tensor, Tensor], None],
    *,
    memory: int = 1 << 28,
) -> None:
    """Compute the rows of all readers and hand them over in blocks: `emit(row indices, effects [row, column])`.

    `memory` bounds the bytes of the working arrays of one block (gradients, attention, effects), beyond one reader at
    a time.
    """
    d_model, item = readers.vector.shape[1], readers.vector.element_size()
    for pos in sorted(set(readers.pos.tolist())):
        of_pos = (readers.pos == pos).nonzero().flatten()
        of_pos = of_pos[readers.layer[of_pos].argsort(descending=True, stable=True)]
        each = item * (6 * (pos + 1) * d_model + source.n_columns)
        for index in of_pos.split(max(1, memory // each)):
            emit(index, _chain(local, source, readers.layer[index].tolist(), readers.vector[index], pos))


def _chain(local: LocalReplacement, source: Sources, layers: list[int], vectors: Tensor, pos: int) -> Tensor:
    """Effects on readers of one position, whose layers fall. Rows enter one after the other, so the live ones are a
    prefix."""
    effects = vectors.new_zeros(len(layers), source.n_columns)
    overwrite = source.vectors is not None

    def deposit(layer: int, place: int, rows: slice, h: Tensor) -> None:
        start, stop, sources_there = cell(local, source, layer, place)
        block = effects[rows, start:stop]
        if overwrite:
            torch.mm(h, sources_there.T, out=block)
        else:
            block.addmm_(h, sources_there.T)

    top = layers[0]
    entering = vectors[: layers.count(local.n_layers)]
    entering = final_transpose(local, entering, pos)
    g = vectors.new_zeros(pos + 1, 0, vectors.shape[1])
    for layer in range(min(top, local.n_layers - 1), -1, -1):
        old, W_skip = g.shape[1], local.skip(layer)
        if old:
            h = write_transpose(local, layer, g)
            for place in range(source.first_position, pos + 1):
                deposit(layer, place, slice(0, old), h[place])
            if W_skip is not None:
                g = g + read_transpose(local, layer, h @ W_skip)
        if entering.shape[0]:  # rows of the unembedding, still at one position
            h = write_transpose(local, layer, entering[None], pos)
            if pos >= source.first_position:
                deposit(layer, pos, slice(old, old + entering.shape[0]), h[0])
            if W_skip is not None:
                entering = entering + read_transpose(local, layer, h @ W_skip, pos)[0]
        first = old + entering.shape[0]
        read_here = vectors[first : first + layers.count(layer)]
        if read_here.shape[0]:
            entering = torch.cat([entering, read_transpose(local, layer, read_here[None], pos)[0]])
        g = attention_transpose(local, layer, g, entering)
        entering = entering[:0]
    tokens = torch.einsum("qnd,qd->nq", g, local.frozen.embed[local.row, : pos + 1])
    effects[:, source.token_start : source.token_start + pos + 1] = tokens
    return effects
