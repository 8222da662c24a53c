"""All edges between all active features, for many prompts at a time, from both sides.

`direct_effects` takes every reader's gradient down to the embedding. In a whole graph every feature is a reader and a
source, and half the way can be gone from either end: sources below a layer m are carried up as vectors, readers above
it are carried down as gradients, and between attention and MLP of layer m they meet, where an edge is the inner
product of gradient and vector over all positions. On their way, sources are read by the features of the layers they
pass, gradients meet the sources of the layers they pass. This takes less than half of the operations; m is where
they are fewest.

Both directions are the same walk through attention, with transposed maps. A row starts at one position, and its first
attention layer costs one position's products only: the heads' outputs there, spread over places by the pattern.

Per-layer transcoders only. Rows of many prompts lie in one array [(row place), d_model], so that products with weights
are few and large. Index tensors stay on the CPU until they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.replacement import (
    LocalReplacement,
    final_gradient,
    read_gradient,
    read_vector,
    write_gradient,
    write_vector,
)

SCRATCH = 4 << 20  # bytes of one array between the two products of an attention layer


@dataclass(frozen=True, eq=False)
class Readers:
    """Nodes whose incoming edges are wanted, sorted by (layer, prompt, pos); `layer` is n_layers for the unembedding.

    `row` is a node's row in its prompt's matrix; `vectors(start, stop)` are what readers start .. stop - 1, all of one
    layer, read.
    """

    prompt: Int[Tensor, " reader"]
    layer: Int[Tensor, " reader"]
    pos: Int[Tensor, " reader"]
    row: Int[Tensor, " reader"]
    vectors: Callable[[int, int], Float[Tensor, "chosen d_model"]]

    def spans(self) -> dict[int, tuple[int, int]]:
        """First reader of each layer, and one beyond the last."""
        layers, counts = self.layer.unique_consecutive(return_counts=True)
        stops = counts.cumsum(0).tolist()
        return {layer: (stop - n, stop) for layer, stop, n in zip(layers.tolist(), stops, counts.tolist(), strict=True)}


@dataclass(frozen=True, eq=False)
class LayerSources:
    """Scaled decoders and errors of one layer (or the tokens), sorted by (prompt, pos, feature), a cell's error last.

    `column` is a node's column in its prompt's matrix (`columns` the same as integers), consecutive for the features of
    a cell; `start[prompt][pos]` is the first source of a cell, `start[prompt][-1]` one beyond the prompt's last.
    """

    prompt: Int[Tensor, " source"]
    pos: Int[Tensor, " source"]
    column: Int[Tensor, " source"]
    vectors: Float[Tensor, "source d_model"]
    columns: list[int]
    start: list[list[int]]


# ------------------------------------------------------------------------------------------------ where to meet
def meeting_layer(
    local: LocalReplacement, sources: Sequence[LayerSources], readers: Readers, memory: int
) -> tuple[int, float]:
    """The layer where sources and readers meet at the least cost, and that cost in floating-point operations.

    Sources below it must fit into `memory` bytes. `sources` are those of layers 0, 1, ...
    """
    n_prompts, n_pos = local.frozen.ids.shape
    n_layers, width = local.n_layers, local.attention[0].value.shape[1]
    d_model = local.attention[0].value.shape[0]

    def counts(prompt: Tensor, pos: Tensor) -> Tensor:
        return torch.bincount(prompt * n_pos + pos, minlength=n_prompts * n_pos).view(n_prompts, n_pos).double()

    spans = readers.spans()
    read = torch.zeros(n_layers + 1, n_prompts, n_pos, dtype=torch.float64)
    for layer, (start, stop) in spans.items():
        read[layer] = counts(readers.prompt[start:stop], readers.pos[start:stop])
    written = torch.stack([counts(source.prompt, source.pos) for source in sources])
    places = torch.arange(1, n_pos + 1, dtype=torch.float64)
    one, product = 4.0 * d_model * width, 2.0 * d_model
    reach_up, reach_down = (written * places.flip(0)).sum((1, 2)), (read * places).sum((1, 2))
    best, cost = 0, float("inf")
    for m in range(min(n_layers - 1, len(sources)) + 1):
        if m and float(reach_up[:m].sum()) * d_model * local.frozen.embed.element_size() > memory:
            break
        steps = sum(float(written[j].sum() + reach_up[j] * (m - j - 1)) for j in range(m))
        for layer in range(m + 1, n_layers + 1):
            through = (layer if layer < n_layers else n_layers - 1) - m  # attention layers that it passes
            steps += float(read[layer].sum() + reach_down[layer] * (through - 1)) if through else 0.0
        up, down = written[:m].sum(0).cumsum(1) + places, read[m + 1 :].sum(0).flip(1).cumsum(1).flip(1)
        meeting = float((up * down).sum())
        for j in range(len(sources)):  # edges that do not cross m are read at one position
            above = read[j + 1 :] if j >= m else read[j + 1 : m + 1]
            meeting += float((written[j].cumsum(1) * above.sum(0)).sum())
        total = one * steps + product * meeting
        best, cost = (m, total) if total < cost else (best, cost)
    return best, cost


# ------------------------------------------------------------------------------------- rows on their way through layers
@dataclass(frozen=True)
class _Run:
    """Rows of one prompt that joined together at one position: contiguous in rows and in the flat array."""

    prompt: int
    own: int
    first: int
    last: int
    row: int
    n: int
    start: int

    @property
    def places(self) -> int:
        return self.last - self.first + 1

    @property
    def stop(self) -> int:
        return self.start + self.n * self.places


class _Carried:
    """Rows that join layer by layer, each at its own position, and spread over the places that it can reach: later ones
    on the way up, earlier ones on the way down."""

    def __init__(self, local: LocalReplacement, prompt: Tensor, own: Tensor, *, up: bool) -> None:
        self.local, self.up, self.prompt, self.own = local, up, prompt, own
        last = local.n_pos - 1
        self.first = own if up else torch.zeros_like(own)
        self.last = torch.full_like(own, last) if up else own
        stop = (self.last - self.first + 1).cumsum(0)
        self.offset = stop - (self.last - self.first + 1)
        self.d_model = local.frozen.embed.shape[2]
        self.flat = local.frozen.embed.new_empty(int(stop[-1]) if len(own) else 0, self.d_model)
        self.n_rows = 0
        self.runs: list[_Run] = []

    def _maps(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """First and second weights of a layer, and how heads mix places [prompt, head, to, from], scales included."""
        frozen, maps = self.local.frozen, self.local.attention[layer]
        pattern = frozen.pattern[layer] / frozen.scale1[layer].mT[:, None]
        if frozen.scale1_post is not None:
            pattern = pattern / frozen.scale1_post[layer][:, None]
        if self.up:
            return maps.value, maps.output, pattern
        return maps.output.T, maps.value.T, pattern.mT

    def attend(self, layer: int) -> None:
        """Take all rows through the attention of a layer, on top of the residual stream."""
        first, second, mixing = self._maps(layer)
        n_heads, width = mixing.shape[1], first.shape[1]
        batches, size = [], SCRATCH // (self.flat.element_size() * width)
        for run in self.runs:
            step = max(1, size // run.places)
            for row in range(0, run.n, step):
                n = min(step, run.n - row)
                part = (run, run.start + row * run.places, run.start + (row + n) * run.places)
                if batches and part[2] - batches[-1][0][1] <= size:
                    batches[-1].append(part)
                else:
                    batches.append([part])
        for parts in batches:
            begin, end = parts[0][1], parts[-1][2]
            heads = self.flat[begin:end] @ first
            for run, start, stop in parts:
                here = slice(run.first, run.last + 1)
                view = heads[start - begin : stop - begin].view(-1, run.places, n_heads, width // n_heads)
                by_head = view.permute(2, 1, 0, 3).reshape(n_heads, run.places, -1)
                mixed = torch.bmm(mixing[run.prompt, :, here, here], by_head)
                view.copy_(mixed.view(n_heads, run.places, view.shape[0], -1).permute(2, 1, 0, 3))
            self.flat[begin:end].addmm_(heads, second)

    def join(self, vectors: Float[Tensor, "row d_model"], layer: int | None) -> None:
        """The next rows start, at their own positions, and pass the attention of a layer (None: no attention)."""
        rows = slice(self.n_rows, self.n_rows + len(vectors))
        if not len(vectors):
            return
        if layer is None:
            at = (self.offset + self.own - self.first)[rows].to(vectors.device)
            self.flat[int(self.offset[self.n_rows]) :] = 0
            self.flat[at] = vectors
            self.n_rows += len(vectors)
            return
        first, second, mixing = self._maps(layer)
        n_heads, width = mixing.shape[1], first.shape[1]
        heads = (vectors @ first).view(-1, n_heads, width // n_heads).transpose(0, 1)
        second = second.reshape(n_heads, -1, self.d_model)
        key = self.prompt[rows] * self.local.n_pos + self.own[rows]
        cells, counts = key.unique_consecutive(return_counts=True)
        step, runs, row = max(1, 2 * SCRATCH // (self.flat.element_size() * self.d_model * n_heads)), [], self.n_rows
        for cell, n in zip(cells.tolist(), counts.tolist(), strict=True):
            own = cell % self.local.n_pos
            span = (own, self.local.n_pos - 1) if self.up else (0, own)
            runs.append(_Run(cell // self.local.n_pos, own, *span, row, n, int(self.offset[row])))
            row += n
        begin = 0
        while begin < len(runs):
            end = begin + 1
            while end < len(runs) and runs[end].row + runs[end].n - runs[begin].row <= step:
                end += 1
            low, high = runs[begin].row - self.n_rows, runs[end - 1].row + runs[end - 1].n - self.n_rows
            apart = torch.bmm(heads[:, low:high], second)  # each head's output, [head, row, d_model]
            for run in runs[begin:end]:
                here = slice(run.first, run.last + 1)
                spread = mixing[run.prompt, :, here, run.own].T.expand(run.n, -1, -1)
                at = run.row - self.n_rows - low
                out = self.flat[run.start : run.stop].view(run.n, run.places, -1)
                torch.bmm(spread, apart[:, at : at + run.n].transpose(0, 1), out=out)
                out[:, run.own - run.first] += vectors[run.row - self.n_rows : run.row - self.n_rows + run.n]
            begin = end
        self.runs += runs
        self.n_rows += len(vectors)

    def skip(self, layer: int) -> None:
        """Take all rows through the skip connection of a layer's transcoder, on top of the residual stream."""
        W_skip, frozen = self.local.skip(layer), self.local.frozen
        if W_skip is None:
            return
        for run in self.runs:
            here = slice(run.first, run.last + 1)
            scale = frozen.scale2[layer][run.prompt, here]
            post = None if frozen.scale2_post is None else frozen.scale2_post[layer][run.prompt, here]
            x = self.flat[run.start : run.stop].view(run.n, run.places, -1)
            if self.up:
                x += write_vector(self.local, layer, read_vector(self.local, layer, x, scale) @ W_skip.T, post)
            else:
                x += read_gradient(self.local, layer, write_gradient(self.local, layer, x, post) @ W_skip, scale)

    def order(self) -> _Order:
        """All rows so far, sorted by prompt and own position."""
        own, prompt, n_pos = self.own[: self.n_rows], self.prompt[: self.n_rows], self.local.n_pos
        key = prompt * n_pos + own
        rows = key.argsort(stable=True)
        n_prompts = len(self.local.frozen.ids)
        counts = torch.bincount(key, minlength=n_prompts * n_pos).view(n_prompts, n_pos)
        ends = counts.flatten().cumsum(0).view(n_prompts, n_pos)
        return _Order(self, rows, self.offset[rows] - self.first[rows], own[rows], (ends - counts).tolist(), ends.tolist())


class _Range(NamedTuple):
    """Rows start .. stop - 1 of an order; the vector of the first is at index `at`."""

    start: int
    stop: int
    at: int


@dataclass(frozen=True, eq=False)
class _Order:
    """Rows sorted by (prompt, own position): those present at a place are a range of each prompt's rows."""

    carried: _Carried
    rows: Int[Tensor, " row"]
    base: Int[Tensor, " row"]
    own: Int[Tensor, " row"]
    begin: list[list[int]]
    end: list[list[int]]

    def spans(self) -> list[tuple[int, int]]:
        """Rows of each prompt."""
        return [(begin[0], end[-1]) for begin, end in zip(self.begin, self.end, strict=True)]

    def present(self, place: int) -> Bool[Tensor, " row"]:
        return (self.own <= place) if self.carried.up else (self.own >= place)

    def at(self, place: int) -> tuple[Float[Tensor, "present d_model"], list[_Range]]:
        """Vectors at a place, and where each prompt's are."""
        index = self.base[self.present(place)] + place
        ranges, at = [], 0
        for begin, end in zip(self.begin, self.end, strict=True):
            start, stop = (begin[0], end[place]) if self.carried.up else (begin[place], end[-1])
            ranges.append(_Range(start, stop, at))
            at += stop - start
        return self.carried.flat[index.to(self.carried.flat.device)], ranges


# -------------------------------------------------------------------------------------------------------------- the walk
def fill_edges(
    local: LocalReplacement,
    tokens: LayerSources,
    sources: Sequence[LayerSources],
    readers: Readers,
    out: Sequence[Float[Tensor, "node node"]],
    first_position: int,
    *,
    meeting: int,
    memory: int,
) -> None:
    """Write all edges of all prompts of `local` into their matrices, which are zero before.

    `sources[l]` are those of layer l; tokens are carried up with the sources below `meeting`. `memory` bounds the bytes
    of the gradients held at a time.
    """
    spans = readers.spans()
    row = readers.row.to(out[0].device)
    below = [tokens, *sources[:meeting]]
    up = _Carried(local, torch.cat([s.prompt for s in below]), torch.cat([s.pos for s in below]), up=True)
    column = torch.cat([s.column for s in below]).to(row.device)
    for layer in range(meeting + 1):
        up.attend(layer)
        vectors = below[layer].vectors
        if layer:
            vectors = _at_cells(write_vector, local, layer - 1, vectors, below[layer], "scale2_post")
        up.join(vectors, layer)
        if layer in spans:
            _read(local, up, column, readers, spans[layer], row, out)
        if layer < meeting:
            up.skip(layer)
    order = up.order()
    columns = column[order.rows.to(row.device)]
    width = max(stop - start for start, stop in order.spans())
    for block in _blocks(local, readers, meeting, width, memory):
        _descend(local, order, columns, sources, readers, block, meeting, row, out, first_position)


def _at_cells(function: Callable, local: LocalReplacement, layer: int, x: Tensor, at, scale: str) -> Tensor:
    """A map of one layer applied to vectors at the cells (prompt, pos) of `at`."""
    scales = getattr(local.frozen, scale)
    return function(local, layer, x, None if scales is None else scales[layer][at.prompt, at.pos])


def _read(
    local: LocalReplacement,
    up: _Carried,
    column: Tensor,
    readers: Readers,
    span: tuple[int, int],
    row: Tensor,
    out: Sequence[Tensor],
) -> None:
    """Edges from all sources carried so far to the readers of one layer."""
    here, layer = slice(*span), int(readers.layer[span[0]])
    gradients = readers.vectors(*span)
    scale = local.frozen.scale2[layer][readers.prompt[here], readers.pos[here]]
    gradients = read_gradient(local, layer, gradients, scale)
    order = up.order()
    columns = column[order.rows.to(column.device)]
    by_place: dict[int, list[tuple[int, int, int]]] = {}
    for prompt, pos, start, stop in _cells(readers, *span):
        by_place.setdefault(pos, []).append((prompt, start, stop))
    for pos, cells in by_place.items():
        vectors, ranges = order.at(pos)
        for prompt, start, stop in cells:
            low, high, at = ranges[prompt]
            edges = gradients[start - span[0] : stop - span[0]] @ vectors[at : at + high - low].T
            out[prompt][row[start:stop, None], columns[low:high]] = edges


def _cells(readers: Readers, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(prompt, pos, first reader, one beyond the last) of readers of one layer."""
    n_pos = int(readers.pos.max()) + 1
    keys, counts = (readers.prompt[start:stop] * n_pos + readers.pos[start:stop]).unique_consecutive(return_counts=True)
    for key, n in zip(keys.tolist(), counts.tolist(), strict=True):
        yield key // n_pos, key % n_pos, start, start + n
        start += n


def _blocks(
    local: LocalReplacement, readers: Readers, meeting: int, width: int, memory: int
) -> Iterator[tuple[int, int]]:
    """Ranges of the readers above the meeting layer, from the top, whose gradients and edges (`width` each) fit into
    `memory` bytes."""
    lowest = int((readers.layer <= meeting).sum())
    size = ((readers.pos + 1) * local.frozen.embed.shape[2] + width).cumsum(0) * local.frozen.embed.element_size()
    stop = len(readers.layer)
    while stop > lowest:
        start = int(torch.searchsorted(size, size[stop - 1] - memory, right=True))
        start = max(lowest, min(start, stop - 1))
        yield start, stop
        stop = start


def _descend(
    local: LocalReplacement,
    above: _Order,
    columns: Tensor,
    sources: Sequence[LayerSources],
    readers: Readers,
    block: tuple[int, int],
    meeting: int,
    row: Tensor,
    out: Sequence[Tensor],
    first_position: int,
) -> None:
    """Take some readers down to the meeting layer; there they meet the sources that were carried up."""
    spans = {
        layer: (max(start, block[0]), min(stop, block[1]))
        for layer, (start, stop) in sorted(readers.spans().items(), reverse=True)
        if start < block[1] and stop > block[0]
    }
    chosen = torch.cat([torch.arange(start, stop) for start, stop in spans.values()])
    down = _Carried(local, readers.prompt[chosen], readers.pos[chosen], up=False)
    row = row[chosen.to(row.device)]
    entering = down.flat[:0]
    for layer in range(min(max(spans), local.n_layers) - (local.n_layers in spans), meeting - 1, -1):
        if layer + 1 == local.n_layers and local.n_layers in spans:
            here = slice(*spans[local.n_layers])
            scale = local.frozen.scale_final[readers.prompt[here], readers.pos[here]]
            entering = final_gradient(local, readers.vectors(here.start, here.stop), scale)
        if layer < len(sources):
            _meet_layer(local, layer, down, entering, sources[layer], row, out, first_position)
        down.skip(layer)
        entering = _skip_cells(local, layer, entering, down)
        if layer == meeting:
            break
        down.attend(layer)
        if layer in spans:
            here = slice(*spans[layer])
            scale = local.frozen.scale2[layer][readers.prompt[here], readers.pos[here]]
            vectors = read_gradient(local, layer, readers.vectors(here.start, here.stop), scale)
            entering = torch.cat([entering, vectors])
        down.join(entering, layer)
        entering = entering[:0]
    down.join(entering, None)
    order = down.order()
    rows = row[order.rows.to(row.device)]
    found = []
    for (start, stop), (left, right) in zip(order.spans(), above.spans(), strict=True):
        found.append(down.flat.new_zeros(stop - start, right - left))
    for place in range(local.n_pos):
        gradients, here = order.at(place)
        vectors, there = above.at(place)
        for prompt, (g, v) in enumerate(zip(here, there, strict=True)):
            if g.stop > g.start and v.stop > v.start:
                corner = found[prompt][g.start - order.begin[prompt][0] :, : v.stop - above.begin[prompt][0]]
                corner.addmm_(gradients[g.at : g.at + g.stop - g.start], vectors[v.at : v.at + v.stop - v.start].T)
    for matrix, edges, (start, stop), (left, right) in zip(out, found, order.spans(), above.spans(), strict=True):
        matrix[rows[start:stop, None], columns[left:right]] = edges


def _meet_layer(
    local: LocalReplacement,
    layer: int,
    down: _Carried,
    entering: Tensor,
    source: LayerSources,
    row: Tensor,
    out: Sequence[Tensor],
    first_position: int,
) -> None:
    """Edges from the sources of one layer to all readers above it."""

    def write(prompt: int, place: int, gradients: Tensor, rows: Tensor) -> None:
        start, stop = source.start[prompt][place], source.start[prompt][place + 1]
        edges = gradients @ source.vectors[start:stop].T
        matrix, first, error = out[prompt], source.columns[start], source.columns[stop - 1]
        matrix[:, first : first + stop - start - 1].index_copy_(0, rows, edges[:, :-1])
        matrix[:, error].index_copy_(0, rows, edges[:, -1])

    order, post = down.order(), local.frozen.scale2_post
    rows = row[order.rows.to(row.device)]
    for place in range(first_position, local.n_pos):
        gradients, ranges = order.at(place)
        scale = None if post is None else post[layer][down.prompt[order.rows[order.present(place)]], place]
        gradients = write_gradient(local, layer, gradients, scale)
        for prompt, (start, stop, at) in enumerate(ranges):
            if stop > start:
                write(prompt, place, gradients[at : at + stop - start], rows[start:stop])
    if len(entering):
        late = slice(down.n_rows, down.n_rows + len(entering))
        prompt, own, row = down.prompt[late], down.own[late], row[late]
        gradients = write_gradient(local, layer, entering, None if post is None else post[layer][prompt, own])
        for i, (b, place) in enumerate(zip(prompt.tolist(), own.tolist(), strict=True)):
            if place >= first_position:
                write(b, place, gradients[i : i + 1], row[i : i + 1])


def _skip_cells(local: LocalReplacement, layer: int, entering: Tensor, down: _Carried) -> Tensor:
    """The skip connection of a layer, for rows that are still at their own positions."""
    W_skip, post = local.skip(layer), local.frozen.scale2_post
    if W_skip is None or not len(entering):
        return entering
    late = slice(down.n_rows, down.n_rows + len(entering))
    at = (down.prompt[late], down.own[late])
    h = write_gradient(local, layer, entering, None if post is None else post[layer][at])
    return entering + read_gradient(local, layer, h @ W_skip, local.frozen.scale2[layer][at])
