"""All edges between all active features, for many prompts at a time, computed from both sides.

`reader_gradients` propagates every reader's gradient down to the embedding. In a whole graph every feature is a reader
and a source, so each side can go half the way. Sources below a layer m are carried up as vectors; readers above it are
carried down as gradients. They meet between attention and MLP of layer m, where an edge is the inner product of
gradient and vector over all positions. On their way, sources are read by the features of the layers they pass, and
gradients read the sources of the layers they pass. With the best m this takes less than half the operations.

Before the first position whose features are nodes, the only sources are tokens. They are carried up through all layers, so
no gradient is needed at these positions. In a prompt with worked examples before the question, these are most of the
positions. The edges are the same. Per-layer transcoders only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.direct_effects import ActiveFeatures
from biology.attribution.propagation import Propagation, Rows, padded, rows_of
from biology.attribution.replacement import (
    LocalReplacement,
    final_gradient,
    read_gradient,
    write_gradient,
    write_vector,
)
from biology.attribution.targets import Readout

Vectors = Callable[[], Float[Tensor, "node d_model"]]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Sources or readers of one layer in all prompts, sorted by (prompt, pos). `node` is the index among the prompt's
    nodes; `vectors()` returns the vectors that they write or read with."""

    prompt: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    node: Int[Tensor, " node"]
    vectors: Vectors


# --------------------------------------------------------------------------------------------------------- both sides
def both_sides(
    local: LocalReplacement,
    prompt: Int[Tensor, " active"],
    active: ActiveFeatures,
    readouts: Sequence[Sequence[Readout]],
    first: int,
    node: Int[Tensor, " active"],
    starts: tuple[Tensor, Tensor, Tensor],
) -> tuple[tuple[Nodes, Nodes], list[Nodes], list[Nodes]]:
    """Tokens (before `first`, and the others), sources and readers of every layer. The targets of each prompt (`readouts`) are the
    last readers.

    `active`, the features of all prompts, are sorted by (layer, prompt, pos, feature); `node` is the index of each
    among its prompt's nodes. `first` is the first position whose features and errors are nodes. `starts` holds, for
    each prompt, the indices of its first error, token and target.
    """
    frozen, device = local.frozen, prompt.device
    errors_at, token, targets_at = starts
    n_prompts, n_pos = frozen.ids.shape
    n_cells = n_pos - first

    def cells(start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Prompt and position of every place from `start` to `stop`."""
        at_prompt = torch.arange(n_prompts, device=device).repeat_interleave(stop - start)
        return at_prompt, torch.arange(start, stop, device=device).repeat(n_prompts)

    def tokens_of(start: int, stop: int) -> Nodes:
        at = cells(start, stop)
        return Nodes(*at, token[at[0]] + at[1], lambda: frozen.embed[:, start:stop].flatten(0, 1))

    tokens = tokens_of(0, first), tokens_of(first, n_pos)
    cell_prompt, cell_pos = cells(first, n_pos)
    stops = torch.searchsorted(active.layer, torch.arange(1, local.n_layers + 1, device=device)).tolist()
    sources, readers = [], []
    for layer, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True)):
        here = slice(start, stop)
        transcoder, feature, at = (
            local.transcoders.layers[layer],
            active.feature[here],
            (prompt[here], active.pos[here]),
        )
        cell = at[0] * n_cells + at[1] - first
        sizes = torch.bincount(cell, minlength=n_prompts * n_cells) + 1
        place, ends = torch.arange(stop - start, device=device) + cell, sizes.cumsum(0)  # a cell's error comes last
        column = torch.empty(stop - start + len(cell_pos), dtype=torch.long, device=device)
        column[place], column[ends - 1] = node[here], errors_at[cell_prompt] + layer * n_cells + cell_pos - first

        def written(
            layer=layer, transcoder=transcoder, feature=feature, at=at, place=place, ends=ends, here=here
        ) -> Tensor:
            rows = transcoder.decoders(feature, 0) * active.activation[here, None]
            error = frozen.write[layer] - transcoder.b_dec
            if transcoder.W_skip is not None:
                error = error - frozen.read[layer] @ transcoder.W_skip.T
            error.view(-1, error.shape[2]).index_add_(0, at[0] * n_pos + at[1], rows, alpha=-1)
            vectors = rows.new_empty(len(place) + len(ends), rows.shape[1])
            vectors[place], vectors[ends - 1] = rows, error[:, first:].flatten(0, 1)
            return vectors

        def read(layer=layer, transcoder=transcoder, feature=feature, at=at) -> Tensor:
            return transcoder.readers(feature, frozen.read[layer][at])[0]

        sources.append(Nodes(cell_prompt.repeat_interleave(sizes), cell_pos.repeat_interleave(sizes), column, written))
        readers.append(Nodes(*at, node[here], read))
    found = [
        (row, readout.pos, start + i, readout.vector)
        for row, (of_prompt, start) in enumerate(zip(readouts, targets_at.tolist(), strict=True))
        for i, readout in enumerate(of_prompt)
    ]
    at = torch.tensor([one[:3] for one in found], device=device)
    readers.append(Nodes(at[:, 0], at[:, 1], at[:, 2], lambda: torch.stack([one[3] for one in found])))
    return tokens, sources, readers


# ------------------------------------------------------------------------------------------------ where to meet
def meeting_layer(
    local: LocalReplacement, sources: Sequence[Nodes], readers: Sequence[Nodes], first: int, memory: int
) -> int:
    """The meeting layer that takes the fewest floating-point operations.

    `sources[l]` and `readers[l]` are those of layer l, the last readers those of the unembedding; `first` is the first
    position of sources. Sources below the meeting layer must fit into `memory` bytes.
    """
    return min(meeting_costs(local, sources, readers, first, memory), key=lambda pair: pair[1])[0]


def meeting_costs(
    local: LocalReplacement,
    sources: Sequence[Nodes],
    readers: Sequence[Nodes],
    first: int,
    memory: int | None = None,
) -> list[tuple[int, float]]:
    """Possible meeting layers with their numbers of floating-point operations."""
    n_prompts, n_pos = local.frozen.ids.shape
    n_layers = local.n_layers
    (d_model, taken), given = local.attention[0].shared.shape, len(local.attention[0].output)
    width = (taken + given) / 2  # of the two products with weights

    def counts(nodes: Sequence[Nodes]) -> Tensor:
        keys = [each.prompt * n_pos + each.pos for each in nodes]
        found = [torch.bincount(key, minlength=n_prompts * n_pos).view(n_prompts, n_pos) for key in keys]
        return torch.stack(found).double().cpu()

    written, read = counts(sources), counts(readers)
    places = torch.arange(1, n_pos + 1, dtype=torch.float64)
    down = (places - first).clamp(min=0)  # where gradients go, and where tokens are carried with the sources
    reach_up, reach_down = (written * places.flip(0)).sum((1, 2)), (read * down).sum((1, 2))
    entering_up, entering_down = written.sum((1, 2)), read.sum((1, 2))
    costs = []
    for m in range(n_layers):
        held = float(reach_up[:m].sum()) * d_model * local.frozen.embed.element_size()
        if m and memory is not None and held > memory:
            break
        steps = sum(float(entering_up[j] + reach_up[j] * (m - j - 1)) for j in range(m))
        for layer in range(m + 1, n_layers + 1):
            through = min(layer, n_layers - 1) - m  # number of attention layers that it passes
            steps += float(entering_down[layer] + reach_down[layer] * (through - 1)) if through else 0.0
        above = read[m + 1 :].sum(0).flip(1).cumsum(1).flip(1)
        products = float(((written[:m].sum(0).cumsum(1) + down) * above).sum())
        for j in range(n_layers):  # edges that do not cross m need one position only
            direct = read[j + 1 :] if j >= m else read[j + 1 : m + 1]
            products += float((written[j].cumsum(1) * direct.sum(0)).sum())
        costs.append((m, 4 * d_model * width * steps + 2 * d_model * products))
    return costs


# ---------------------------------------------------------------------------------------------------------- the walk
def fill_edges(
    local: LocalReplacement,
    tokens: tuple[Nodes, Nodes],
    sources: Sequence[Nodes],
    readers: Sequence[Nodes],
    out: Sequence[Float[Tensor, "_ _"]],
    first: int,
    meeting: int,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Writes all edges of all prompts of `local` into their matrices, which must be zero.

    `sources[l]` and `readers[l]` are those of layer l, the last readers those of the unembedding. Tokens before the position
    `first` are carried up all the way, later ones with the sources below the layer `meeting`. `report(n)` is called when the
    rows of n more readers are done.
    """
    before, carried = _entering(local, tokens[0], 0), [_entering(local, tokens[1], 0)]
    for layer in range(local.n_layers + 1):
        rising = [before, *carried] if layer <= meeting else [before]
        if 0 < layer < local.n_layers:
            for below in rising:
                below.attend(layer)
        if 0 < layer <= meeting:
            carried.append(_entering(local, sources[layer - 1], layer))
            rising.append(carried[-1])
        if readers[layer].prompt.numel():
            _read(local, layer, readers[layer], rising, out)
        if layer <= meeting:
            report(len(readers[layer].prompt))
        if layer < local.n_layers:
            for below in rising if layer < meeting else [before]:
                below.skip(layer)
    met = {layer: _Met(local, layer, sources[layer]) for layer in range(meeting, local.n_layers)}
    for layer in range(local.n_layers, meeting, -1):
        if readers[layer].prompt.numel():
            _descend(local, layer, readers[layer], carried, met, (first, meeting), out)
            report(len(readers[layer].prompt))
        met.pop(layer - 1)


def _entering(local: LocalReplacement, nodes: Nodes, layer: int) -> Propagation:
    """Tokens (layer 0), or the sources of the layer below, past the attention of a layer."""
    rows, index = rows_of(nodes.prompt, nodes.pos, nodes.node, _shape(local), up=True)
    vectors = nodes.vectors()
    if layer:
        vectors = write_vector(local, layer - 1, vectors, _scale(local.frozen.scale2_post, layer - 1, nodes))
    carried = Propagation(local, rows)
    carried.enter(padded(vectors, index), layer)
    return carried


def _gradients(local: LocalReplacement, layer: int, readers: Nodes) -> Float[Tensor, "node d_model"]:
    """What readers of a layer, or of the unembedding, read of the residual stream before its MLP, or of the last one."""
    if layer == local.n_layers:
        return final_gradient(local, readers.vectors(), local.frozen.scale_final[readers.prompt, readers.pos])
    return read_gradient(local, layer, readers.vectors(), local.frozen.scale2[layer][readers.prompt, readers.pos])


def _shape(local: LocalReplacement) -> tuple[int, int]:
    """Numbers of prompts and positions."""
    n_prompts, n_pos = local.frozen.ids.shape
    return n_prompts, n_pos


def _scale(scales: Sequence[Tensor] | None, layer: int, nodes: Nodes) -> Tensor | None:
    """A norm's scale at the cell of each node."""
    return None if scales is None else scales[layer][nodes.prompt, nodes.pos]


def _write(edges: Float[Tensor, "prompt row column"], rows: Rows, columns: Rows, out: Sequence[Tensor]) -> None:
    """Writes the edges between the nodes of two layers into each prompt's matrix. The rows are consecutive nodes."""
    for matrix, found, here, there, first, source in zip(
        out, edges, rows.real, columns.real, rows.first, columns.nodes, strict=True
    ):
        if here.stop > here.start and there.stop > there.start:
            target = matrix[first : first + here.stop - here.start]
            target.scatter_(1, source.expand(len(target), -1), found[here, there])


def _read(
    local: LocalReplacement, layer: int, readers: Nodes, carried: Sequence[Propagation], out: Sequence[Tensor]
) -> None:
    """Computes the edges from all sources carried so far to the readers of one layer."""
    shape = _shape(local)
    rows, index = rows_of(readers.prompt, readers.pos, readers.node, shape, up=False)
    gradients = _gradients(local, layer, readers)
    index = torch.cat([index, torch.full_like(index[:, :1], len(gradients))], 1)
    gradients = torch.cat([gradients, torch.zeros_like(gradients[:1])])
    line = torch.arange(shape[0], device=index.device)[:, None] * (rows.n + 1)
    at = [(place, cell) for place, cell in enumerate(rows.cells) if cell.numel()]
    cells = [(place, gradients[index.gather(1, cell)], (line + cell).flatten()) for place, cell in at]
    for below in carried:
        edges = gradients.new_zeros(shape[0], rows.n + 1, below.rows.n)
        for place, gradient, row in cells:
            vectors = below.at[place]
            found = torch.bmm(gradient, vectors.mT).flatten(0, 1)
            edges.view(-1, below.rows.n)[:, : vectors.shape[1]].index_copy_(0, row, found)
        _write(edges[:, :-1], rows, below.rows, out)


class _Met:
    """The sources of one layer, arranged for products with gradients on their way down."""

    def __init__(self, local: LocalReplacement, layer: int, sources: Nodes) -> None:
        self.local, self.layer = local, layer
        shape = _shape(local)
        self.rows, index = rows_of(sources.prompt, sources.pos, sources.node, shape, up=True)
        index = torch.cat([index, torch.full_like(index[:, :1], sources.prompt.numel())], 1)
        vectors = sources.vectors()
        vectors = torch.cat([vectors, torch.zeros_like(vectors[:1])])
        line = torch.arange(shape[0], device=index.device)[:, None] * (self.rows.n + 1)
        self.cells = [
            (place, vectors[index.gather(1, cell)], (line + cell).flatten())
            for place, cell in enumerate(self.rows.cells)
            if cell.numel()
        ]

    def __call__(self, down: Propagation, out: Sequence[Tensor]) -> None:
        """Computes the edges from these sources to the readers `down`."""
        scales = self.local.frozen.scale2_post
        n_prompts, n = down.rows.own.shape
        edges = self.local.frozen.embed.new_zeros(n_prompts, self.rows.n + 1, n)
        for place, vectors, row in self.cells:
            scale = None if scales is None else scales[self.layer][:, place, None]
            gradients = write_gradient(self.local, self.layer, down.at[place], scale)
            found = torch.bmm(vectors, gradients.mT).flatten(0, 1)
            start, stop = down.rows.spans[place]
            edges.view(-1, n)[:, start:stop].index_copy_(0, row, found)
        _write(edges[:, :-1].mT, down.rows, self.rows, out)


def _descend(
    local: LocalReplacement,
    layer: int,
    readers: Nodes,
    carried: Sequence[Propagation],
    met: dict[int, _Met],
    ends: tuple[int, int],
    out: Sequence[Tensor],
) -> None:
    """Takes the readers of one layer down to the first position of sources and to the meeting layer (`ends`), and there computes
    their edges from the sources carried up."""
    frozen, (first, meeting) = local.frozen, ends
    rows, index = rows_of(readers.prompt, readers.pos, readers.node, _shape(local), up=False, end=first)
    down, gradients = Propagation(local, rows), padded(_gradients(local, layer, readers), index)
    if layer == local.n_layers:
        down.place(gradients)
    else:
        down.enter(gradients, layer)
    for below in range(layer - 1, meeting - 1, -1):
        met[below](down, out)
        down.skip(below)
        if below > meeting:
            down.attend(below)
    for other in carried:
        edges = frozen.embed.new_zeros(len(frozen.ids), rows.n, other.rows.n)
        for gradients, vectors, (start, _), (_, stop) in zip(
            down.at, other.at, rows.spans, other.rows.spans, strict=True
        ):
            if gradients.shape[1] and stop:
                edges[:, start:, :stop].baddbmm_(gradients, vectors.mT)
        _write(edges, rows, other.rows, out)
