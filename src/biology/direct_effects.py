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

from biology.replacement import LocalReplacement, final_gradient, read_gradient, write_gradient
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
    memory: int = 1 << 27,
    gradients: Callable[[Tensor, int, int, Tensor], None] | None = None,
) -> None:
    """Compute the rows of all readers and hand them over in blocks: `emit(row indices, effects [row, column])`.

    `memory` bounds the bytes of the working arrays of one block (gradients, attention, effects), beyond one reader at
    a time. `gradients(row indices, layer, pos, gradients [row, d_model])` sees what the cells of sources see.
    """
    d_model, item = readers.vector.shape[1], readers.vector.element_size()
    tokens = _tokens_past_first_attention(local, memory)
    order = readers.pos.argsort(descending=True, stable=True)
    each = item * (8 * (readers.pos[order] + 1) * d_model + source.n_columns)
    used = each.cumsum(0)
    start = 0
    while start < len(readers):
        limit = memory + (int(used[start - 1]) if start else 0)
        stop = max(start + 1, int(torch.searchsorted(used, limit, right=True)))
        index = order[start:stop]
        index = index[readers.layer[index].argsort(descending=True, stable=True)]
        seen = None if gradients is None else _indexed(gradients, index)
        block = Readers(readers.layer[index], readers.pos[index], readers.vector[index])
        emit(index, _descend(local, source, block, tokens, seen))
        start = stop


def _indexed(gradients: Callable, index: Tensor) -> Callable[[Tensor, int, int, Tensor], None]:
    return lambda rows, layer, pos, h: gradients(index[rows], layer, pos, h)


def _tokens_past_first_attention(local: LocalReplacement, memory: int) -> Tensor | None:
    """What each token adds to the stream after the first attention, [place, token, d_model]: few enough vectors to go
    up instead of having every gradient come down. None if they do not fit."""
    embed, n_pos = local.frozen.embed[local.row], local.n_pos
    maps, pattern = local.attention[0], local.frozen.pattern[0][local.row]
    if 4 * n_pos * n_pos * embed.shape[1] * embed.element_size() > memory:
        return None
    heads = ((embed / local.frozen.scale1[0][local.row]) @ maps.value).view(n_pos, pattern.shape[0], -1)
    mixed = torch.einsum("hqk,khe->qkhe", pattern, heads).flatten(2) @ maps.output
    if local.frozen.scale1_post is not None:
        mixed = mixed / local.frozen.scale1_post[0][local.row, :, None]
    every = torch.arange(n_pos, device=embed.device)
    mixed[every, every] += embed
    return mixed


def _descend(
    local: LocalReplacement,
    source: Sources,
    readers: Readers,
    tokens: Tensor | None,
    seen: Callable[[Tensor, int, int, Tensor], None] | None,
) -> Tensor:
    """Effects on readers whose layers fall. Each joins at its layer; all (reader, place) pairs lie in one array, in the
    order in which they join, so that those on their way are its first ones."""
    layers, device = readers.layer.tolist(), readers.vector.device
    n_rows, d_model = readers.vector.shape
    effects = readers.vector.new_zeros(n_rows, source.n_columns)
    lengths = readers.pos + 1
    offset = lengths.cumsum(0) - lengths
    row = torch.arange(n_rows, device=device).repeat_interleave(lengths)
    place = torch.arange(row.numel(), device=device) - offset[row]
    n_places = int(lengths.max())
    at = place.argsort(stable=True).split(torch.bincount(place, minlength=n_places).tolist())
    reach = [torch.searchsorted(index, torch.cat([offset, lengths.sum()[None]])).tolist() for index in at]
    g = readers.vector.new_empty(row.numel(), d_model)
    joined = layers.count(local.n_layers)
    if joined:  # rows of the unembedding: at one position until they meet attention
        g[: int(lengths[:joined].sum())] = 0
        scale = local.frozen.scale_final[local.row, readers.pos[:joined]]
        g[(offset + readers.pos)[:joined]] = final_gradient(local, readers.vector[:joined], scale)
    frozen, here = local.frozen, local.row
    for layer in range(min(layers[0], local.n_layers - 1), -1, -1):
        live, post = int(lengths[:joined].sum()), frozen.scale2_post
        if joined:
            for pos in range(source.first_position, n_places):
                index = at[pos][: reach[pos][joined]]
                if not index.numel():
                    continue
                h = write_gradient(
                    local, layer, g.index_select(0, index), None if post is None else post[layer][here, pos]
                )
                start, stop, vectors = cell(local, source, layer, pos)
                rows = row[index]
                if source.vectors is not None:
                    effects[:, start:stop].index_copy_(0, rows, h @ vectors.T)
                else:
                    effects[:, start:stop].index_add_(0, rows, h @ vectors.T)
                if seen is not None:
                    seen(rows, layer, pos, h)
            W_skip = local.skip(layer)
            if W_skip is not None:
                scale = frozen.scale2[layer][here, place[:live]]
                h = write_gradient(local, layer, g[:live], None if post is None else post[layer][here, place[:live]])
                g[:live] += read_gradient(local, layer, h @ W_skip, scale)
        new = layers.count(layer)
        entering = slice(joined, joined + new)
        if layer or tokens is None:
            _past_attention(local, layer, g[:live], place[:live] * joined + row[:live], joined)
        if new:
            scale = frozen.scale2[layer][here, readers.pos[entering]]
            x = read_gradient(local, layer, readers.vector[entering], scale)
            stop = live + int(lengths[entering].sum())
            pair = (row[live:stop] - joined) * n_places + place[live:stop]
            _enter(
                local, layer, x, readers.pos[entering], pair, n_places, g[live:stop], attend=layer > 0 or tokens is None
            )
            joined, live = joined + new, stop
    for pos in range(n_places):
        index = at[pos][: reach[pos][joined]]
        start = source.token_start
        if tokens is None:
            effects[row[index], start + pos] = g.index_select(0, index) @ frozen.embed[here, pos]
        else:
            found = g.index_select(0, index) @ tokens[pos, : pos + 1].T
            effects[:, start : start + pos + 1].index_add_(0, row[index], found)
    return effects


def _mixing(local: LocalReplacement, layer: int, n_places: int) -> Float[Tensor, "head to from"]:
    """How the heads of a layer pass gradients between places, scales included."""
    frozen, here = local.frozen, slice(0, n_places)
    pattern = frozen.pattern[layer][local.row][:, here, here] / frozen.scale1[layer][local.row, here].mT
    if frozen.scale1_post is not None:
        pattern = pattern / frozen.scale1_post[layer][local.row, here]
    return pattern.mT


def _past_attention(local: LocalReplacement, layer: int, g: Tensor, slot: Tensor, n_rows: int) -> None:
    """Take gradients [pair, d_model] through the attention of a layer, in place; `slot` = place * n_rows + row."""
    if not n_rows:
        return
    maps, n_places = local.attention[layer], int(slot.max()) // n_rows + 1
    mixing = _mixing(local, layer, n_places)
    n_heads, width = mixing.shape[0], maps.output.shape[0]
    heads = g.new_zeros(n_places * n_rows, width)
    heads.index_copy_(0, slot, g @ maps.output.T)
    by_head = heads.view(n_places, n_rows, n_heads, -1).permute(2, 0, 1, 3).reshape(n_heads, n_places, -1)
    mixed = torch.bmm(mixing, by_head).view(n_heads, n_places, n_rows, -1)
    heads.view(n_places, n_rows, n_heads, -1).copy_(mixed.permute(1, 2, 0, 3))
    g.addmm_(heads.index_select(0, slot), maps.value.T)


def _enter(
    local: LocalReplacement,
    layer: int,
    x: Tensor,
    pos: Tensor,
    pair: Tensor,
    n_places: int,
    out: Tensor,
    *,
    attend: bool,
) -> None:
    """Gradients that start at one position each, past the attention of their layer; `pair` = row * n_places + place."""
    n_rows, d_model = x.shape
    stay = torch.nn.functional.one_hot(pos, n_places).to(x.dtype)[..., None]
    if not attend:
        out.copy_((stay * x[:, None]).view(-1, d_model).index_select(0, pair))
        return
    maps = local.attention[layer]
    mixing = _mixing(local, layer, n_places)
    n_heads = mixing.shape[0]
    apart = x.new_empty(n_heads + 1, n_rows, d_model)  # what each head passes on, and the gradient itself
    by_head = (x @ maps.output.T).view(n_rows, n_heads, -1).transpose(0, 1)
    torch.bmm(by_head, maps.value.T.reshape(n_heads, -1, d_model), out=apart[:-1])
    apart[-1] = x
    spread = torch.bmm(torch.cat([mixing[:, :, pos].permute(2, 1, 0), stay], 2), apart.transpose(0, 1))
    torch.index_select(spread.view(-1, d_model), 0, pair, out=out)
