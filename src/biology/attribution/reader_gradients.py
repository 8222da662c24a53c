"""Rows of the adjacency matrix: readers' gradients, propagated down through the frozen linear map of one prompt.

Readers are computed in batches, as many as fit into `memory`. Those of a batch go down the layers together. Each joins at its own
layer, so that it costs only the layers below it, and its gradient exists at positions 0..p only. All (reader, position) pairs are in
one array, so that products with weights are few and large. Each (layer, position) cell on the way takes one product with the vectors
of its sources. Tokens are few enough to be carried up through the first attention layer instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.direct_effects import Sources, cell
from biology.attribution.propagation import Propagation, rows_of
from biology.attribution.replacement import LocalReplacement, final_gradient, one_prompt, read_gradient, write_gradient


@dataclass(frozen=True, eq=False)
class Readers:
    """Nodes whose incoming edges are wanted: the vectors that they read with, and where. `layer` is n_layers for the
    unembedding."""

    layer: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    vector: Float[Tensor, "row d_model"]

    def __len__(self) -> int:
        return self.layer.numel()


def carry_up(local: LocalReplacement, memory: int) -> list[Tensor] | None:
    """The tokens after the attention of layer 0: for each place the tokens up to it, [token, d_model]. None if they do
    not fit into `memory` bytes."""
    embed = local.frozen.embed[local.row]
    n_pos, d_model = embed.shape
    if n_pos * n_pos * d_model * embed.element_size() > memory // 4:
        return None
    every = torch.arange(n_pos, device=embed.device)
    rows, _ = rows_of(torch.zeros_like(every), every, every, (1, n_pos), up=True)
    tokens = Propagation(one_prompt(local), rows)
    tokens.enter(embed[None], 0)
    return [vectors[0] for vectors in tokens.at]


def effect_rows(
    local: LocalReplacement,
    source: Sources,
    readers: Readers,
    emit: Callable[[Tensor, Tensor], None],
    *,
    tokens: list[Tensor] | None = None,
    memory: int = 1 << 27,
    gradients: Callable[[Tensor, int, int, Tensor], None] | None = None,
) -> None:
    """Computes the rows of all readers and passes them on in blocks: `emit(row indices, effects [row, column])`.

    `tokens` come from `carry_up`. `memory` bounds the bytes of the working arrays of one block (gradients, attention,
    effects), but a block has at least one reader. `gradients(row indices, layer, pos, gradients [row, d_model])` is
    called with the gradients at every cell of sources.
    """
    item, d_model = readers.vector.element_size(), readers.vector.shape[1]
    order = readers.pos.argsort(descending=True, stable=True)
    used = (item * (8 * (readers.pos[order] + 1) * d_model + source.n_columns)).cumsum(0)
    start = 0
    while start < len(readers):
        limit = memory + (int(used[start - 1]) if start else 0)
        stop = max(start + 1, int(torch.searchsorted(used, limit, right=True)))
        index = order[start:stop]
        index = index[readers.layer[index].argsort(descending=True, stable=True)]
        block = Readers(readers.layer[index], readers.pos[index], readers.vector[index])
        emit(index, _descend(local, source, block, tokens, _of_block(gradients, index)))
        start = stop


def _of_block(gradients: Callable | None, index: Tensor) -> Callable[[Tensor, int, int, Tensor], None]:
    def seen(rows: Tensor, layer: int, pos: int, h: Tensor) -> None:
        if gradients is not None:
            gradients(index[rows], layer, pos, h)

    return seen


class _Pairs:
    """The (reader, place) pairs of a block. Readers are in the order in which they join, so that those that have joined
    come first."""

    def __init__(self, readers: Readers) -> None:
        self.lengths = readers.pos + 1
        self.offset = self.lengths.cumsum(0) - self.lengths
        self.row = torch.arange(len(readers), device=readers.pos.device).repeat_interleave(self.lengths)
        self.place = torch.arange(self.row.numel(), device=self.row.device) - self.offset[self.row]
        self.n_places = int(self.lengths.max())
        counts = torch.bincount(self.place, minlength=self.n_places).tolist()
        self._at = self.place.argsort(stable=True).split(counts)
        ends = torch.cat([self.offset, self.lengths.sum()[None]])
        self._end = [torch.searchsorted(index, ends).tolist() for index in self._at]
        self.ends = ends.tolist()

    def at(self, place: int, joined: int) -> Tensor:
        """Pairs at a place, of the readers that have joined."""
        return self._at[place][: self._end[place][joined]]


def _descend(
    local: LocalReplacement, source: Sources, readers: Readers, tokens: list[Tensor] | None, seen: Callable
) -> Float[Tensor, "row column"]:
    """Effects on readers, which are sorted from the highest layer down."""
    frozen, here = local.frozen, local.row
    layers, add = readers.layer.tolist(), source.vectors is None  # cross-layer cells share columns
    effects = readers.vector.new_zeros(len(readers), source.n_columns)
    pairs, joined = _Pairs(readers), layers.count(local.n_layers)
    g = readers.vector.new_empty(pairs.ends[-1], readers.vector.shape[1])
    if joined:  # rows of the unembedding: at one position until they meet attention
        g[: pairs.ends[joined]] = 0
        scale = frozen.scale_final[here, readers.pos[:joined]]
        g[(pairs.offset + readers.pos)[:joined]] = final_gradient(local, readers.vector[:joined], scale)
    for layer in range(min(layers[0], local.n_layers - 1), -1, -1):
        live, post = pairs.ends[joined], None if frozen.scale2_post is None else frozen.scale2_post[layer][here]
        for pos in range(source.first_position, pairs.n_places if joined else 0):
            index = pairs.at(pos, joined)
            if index.numel():
                h = write_gradient(local, layer, g.index_select(0, index), None if post is None else post[pos])
                start, stop, vectors = cell(local, source, layer, pos)
                rows, columns = pairs.row[index], effects[:, start:stop]
                (columns.index_add_ if add else columns.index_copy_)(0, rows, h @ vectors.T)
                seen(rows, layer, pos, h)
        W_skip = local.skip(layer)
        if W_skip is not None and joined:
            place = pairs.place[:live]
            h = write_gradient(local, layer, g[:live], None if post is None else post[place])
            g[:live] += read_gradient(local, layer, h @ W_skip, frozen.scale2[layer][here, place])
        attend, new = layer > 0 or tokens is None, layers.count(layer)
        if attend and joined:
            _through_attention(local, layer, g[:live], pairs.place[:live] * joined + pairs.row[:live], joined)
        if new:
            entering = slice(joined, joined + new)
            x = read_gradient(local, layer, readers.vector[entering], frozen.scale2[layer][here, readers.pos[entering]])
            slot = slice(live, pairs.ends[joined + new])
            index = (pairs.row[slot] - joined) * pairs.n_places + pairs.place[slot]
            _enter(local, layer if attend else None, x, readers.pos[entering], index, pairs.n_places, g[slot])
            joined += new
    for pos in range(pairs.n_places):
        index = pairs.at(pos, joined)
        gradients, rows, start = g.index_select(0, index), pairs.row[index], source.token_start
        if tokens is None:
            effects[rows, start + pos] = gradients @ frozen.embed[here, pos]
        else:
            effects[:, start : start + pos + 1].index_add_(0, rows, gradients @ tokens[pos].T)
    return effects


def _mixing(local: LocalReplacement, layer: int, n_places: int) -> Float[Tensor, "head to from"]:
    """The mixing of places by the heads of a layer, for gradients; scales included."""
    frozen, here = local.frozen, slice(0, n_places)
    pattern = frozen.pattern[layer][local.row][:, here, here] / frozen.scale1[layer][local.row, here].mT
    if frozen.scale1_post is not None:
        pattern = pattern / frozen.scale1_post[layer][local.row, here]
    return pattern.mT


def _through_attention(local: LocalReplacement, layer: int, g: Tensor, slot: Tensor, n_rows: int) -> None:
    """Takes gradients [pair, d_model] through the attention of a layer, in place; `slot` = place * n_rows + row."""
    if not n_rows:
        return
    maps, n_places = local.attention[layer], int(slot.max()) // n_rows + 1
    mixing = _mixing(local, layer, n_places)
    (n_heads, width), shared = (mixing.shape[0], maps.output.shape[0]), maps.shared.shape[1]
    groups = shared * n_heads // width  # of heads that share a value, whose gradients add
    heads = g.new_zeros(n_places * n_rows, width)
    heads.index_copy_(0, slot, g @ maps.output.T)
    by_head = (
        heads.view(n_places, n_rows, n_heads, -1).permute(2, 0, 1, 3).reshape(groups, -1, n_rows * width // n_heads)
    )
    added = mixing.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)  # [group, to, head and from]
    mixed = torch.bmm(added, by_head).view(groups, n_places, n_rows, -1)
    values = heads.view(-1)[: n_places * n_rows * shared].view(n_places, n_rows, groups, -1)
    values.copy_(mixed.permute(1, 2, 0, 3))
    g.addmm_(values.view(-1, shared).index_select(0, slot), maps.shared.T)


def _enter(
    local: LocalReplacement, layer: int | None, x: Tensor, pos: Tensor, pair: Tensor, n_places: int, out: Tensor
) -> None:
    """Takes gradients that start at one position each through the attention of a layer (None: no attention); `pair` =
    row * n_places + place."""
    n_rows, d_model = x.shape
    stay = torch.nn.functional.one_hot(pos, n_places).to(x.dtype)[..., None]
    if layer is None:
        out.copy_((stay * x[:, None]).view(-1, d_model).index_select(0, pair))
        return
    maps = local.attention[layer]
    mixing = _mixing(local, layer, n_places)
    n_heads = mixing.shape[0]
    apart = x.new_empty(n_heads + 1, n_rows, d_model)  # outputs of the heads, and the gradient itself
    by_head = (x @ maps.output.T).view(n_rows, n_heads, -1).transpose(0, 1)
    torch.bmm(by_head, maps.value.T.reshape(n_heads, -1, d_model), out=apart[:-1])
    apart[-1] = x
    spread = torch.bmm(torch.cat([mixing[:, :, pos].permute(2, 1, 0), stay], 2), apart.transpose(0, 1))
    torch.index_select(spread.view(-1, d_model), 0, pair, out=out)
