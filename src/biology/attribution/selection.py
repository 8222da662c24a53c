"""Rows of one prompt's graph in blocks, and the choice of feature nodes under a budget.

Under a budget, features are chosen a few at a time, by their influence on the targets through the rows known so far.
Features that are left out are added to the error node of their cell, so that the rows of a budgeted graph still add up
("Circuit Tracing" and circuit-tracer drop them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.direct_effects import ActiveFeatures, Sources, sources
from biology.attribution.graph import ROW_FLOOR, empty_edges, sweep_influence
from biology.attribution.reader_gradients import Readers, carry_up, effect_rows
from biology.attribution.replacement import LocalReplacement
from biology.attribution.targets import Readout

BLOCK = 1 << 27  # bytes of working arrays of one block of rows
STEPS = 6  # number of steps in which features are chosen
ALL_ROWS_FACTOR = 3  # up to this many times the budget, all rows are computed and the choice is by exact influence


@dataclass(frozen=True, eq=False)
class Job:
    """One prompt, its active features and its targets."""

    local: LocalReplacement
    active: ActiveFeatures
    readouts: Sequence[Readout]
    first_position: int
    memory: int
    progress: Callable[[int, int], None] | None
    effects: Callable[..., None] = effect_rows
    """Function that computes rows: with everything frozen, or `live_effects.LiveEffects`."""

    def sources(self, keep: Tensor | None = None) -> Sources:
        return sources(self.local, self.active, self.first_position, len(self.readouts), keep=keep)

    def target_readers(self) -> Readers:
        layer = torch.tensor([readout.layer for readout in self.readouts])
        pos = torch.tensor([readout.pos for readout in self.readouts])
        return Readers(layer, pos, torch.stack([readout.vector for readout in self.readouts]))

    def feature_readers(self, chosen: Tensor) -> Readers:
        """Readers of the active features at these indices, in any order."""
        layer, feature = self.active.layer[chosen], self.active.feature[chosen]
        vectors = self.local.frozen.embed.new_empty(chosen.numel(), self.local.frozen.embed.shape[2])
        for index in layer.unique().tolist():
            here = layer == index
            seen = self.local.frozen.read[index][self.local.row, self.active.pos[chosen[here]]]
            vectors[here] = self.local.transcoders.layers[index].readers(feature[here], seen)[0]
        return Readers(layer, self.active.pos[chosen], vectors)

    @property
    def block(self) -> int:
        """Bytes of working arrays of one block of rows."""
        return min(self.memory, BLOCK)

    def report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def whole_adjacency(job: Job) -> Float[Tensor, "node node"]:
    """The adjacency matrix with every active feature as a node."""
    source = job.sources()
    return _adjacency(job, source, torch.arange(len(job.active), device=job.active.layer.device))


def selected_adjacency(
    job: Job, budget: int, given: Int[Tensor, " chosen"] | None
) -> tuple[Int[Tensor, " chosen"], Float[Tensor, "node node"]]:
    """The features that are nodes (the given ones, or the best `budget`), and the adjacency matrix. Other features are
    added to the errors of the cells they write to."""
    if given is not None:
        return given, _anew(job, given)
    source = job.sources()
    rows, chosen = _select(job, source, budget)
    features, order = rows.visited[chosen].sort()
    if not rows.complete:
        del rows
        return features, _anew(job, features)
    columns = _node_columns(source, source.feature_column[features])
    n_targets, n_nodes, device = len(job.readouts), columns.numel(), chosen.device
    adjacency = empty_edges(n_nodes, n_nodes, rows.values.dtype, rows.values.device)
    targets, nodes = torch.arange(n_targets, device=device), torch.arange(features.numel(), device=device)
    row_of_node = torch.cat([targets + n_nodes - n_targets, nodes])
    row = torch.cat([targets, chosen[order] + n_targets])
    keep = torch.zeros(len(job.active), dtype=torch.bool, device=device)
    keep[features] = True
    rest = (~keep).nonzero().flatten()
    if job.local.transcoders.kind == "per_layer":
        # a feature writes only to its own cell: the columns left out are added to the error column there
        home = source.stop[job.active.pos[rest] - job.first_position, job.active.layer[rest]] - 1
        rest_columns = source.feature_column[rest]
        step = max(1, BLOCK // (source.n_columns * rows.values.element_size()))
        for part in row.split(step):
            block = rows.values[part]
            rows.values[part] = block.index_add_(1, home, block.index_select(1, rest_columns))
    else:  # a cross-layer feature writes to many cells: recompute the error columns from the gradients there
        rows.meet(job.sources(keep).errors)
    for part, node in zip(row.split(256), row_of_node.split(256), strict=True):
        adjacency[node] = rows.values[part].index_select(1, columns)
    return features, adjacency


def _anew(job: Job, chosen: Tensor) -> Tensor:
    """The adjacency matrix of some features, computed from sources in which the other features are part of the
    errors."""
    keep = torch.zeros(len(job.active), dtype=torch.bool, device=chosen.device)
    keep[chosen] = True
    return _adjacency(job, job.sources(keep), chosen)


def _adjacency(job: Job, source: Sources, chosen: Tensor) -> Float[Tensor, "node node"]:
    """The square adjacency matrix; the rows of the chosen features come first, those of the targets last."""
    columns, n_targets = _node_columns(source, source.feature_column), len(job.readouts)
    embed = job.local.frozen.embed
    adjacency = empty_edges(columns.numel(), columns.numel(), embed.dtype, embed.device)
    total = chosen.numel() + n_targets
    options = {"tokens": carry_up(job.local, job.memory), "memory": job.block}

    def emit(first: int) -> Callable[[Tensor, Tensor], None]:
        def write(index: Tensor, effects: Tensor) -> None:
            adjacency[index + first] = effects.index_select(1, columns)  # several times as fast as indexing

        return write

    job.effects(job.local, source, job.target_readers(), emit(columns.numel() - n_targets), **options)
    done, step = 0, max(1, BLOCK // (embed.shape[2] * embed.element_size()))
    for start in range(0, chosen.numel(), step):
        part = chosen[start : start + step]
        job.effects(job.local, source, job.feature_readers(part), emit(start), **options)
        done = start + part.numel()
        job.report(done + n_targets, total)
    if not done:
        job.report(total, total)
    return adjacency


def _node_columns(source: Sources, feature_column: Tensor) -> Int[Tensor, " node"]:
    """The column of each node, in graph order: features, errors, tokens, targets."""
    tail = torch.arange(source.token_start, source.n_columns, device=feature_column.device)
    return torch.cat([feature_column, source.error_column, tail])


# --------------------------------------------------------------------------------------------------- under a budget
class _DenseRows:
    """Rows known so far: the targets, then the features in the order of `visited`."""

    def __init__(self, job: Job, source: Sources, n_rows: int) -> None:
        embed, n_pos = job.local.frozen.embed, job.local.n_pos
        self.job, self.source = job, source
        self.values = embed.new_empty(n_rows, source.n_columns)
        self.visited = torch.empty(0, dtype=torch.long, device=embed.device)
        self.tokens = carry_up(job.local, job.memory)
        # for cross-layer sets: gradients at the cells, so that errors can change afterwards
        self.gradients: list[tuple[Tensor, int, int, Tensor]] = []
        size = n_rows * job.local.n_layers * n_pos * embed.shape[2] * embed.element_size()
        self.keeps_gradients = job.local.transcoders.kind != "per_layer" and size <= job.memory

    @property
    def complete(self) -> bool:
        """Whether the rows of a subset of the features can be derived from these."""
        return self.job.local.transcoders.kind == "per_layer" or self.keeps_gradients

    def keep(self, index: Tensor, effects: Tensor) -> None:
        self.values[index] = effects

    def add(self, readers: Readers, visited: Tensor | None = None) -> None:
        """Computes the rows of some readers and appends them."""
        first = 0 if visited is None else len(self.job.readouts) + self.visited.numel()
        self.job.effects(
            self.job.local,
            self.source,
            readers,
            lambda index, effects: self.keep(index + first, effects),
            tokens=self.tokens,
            memory=self.job.block,
            gradients=(lambda rows, *seen: self.gradients.append((rows + first, *seen)))
            if self.keeps_gradients
            else None,
        )
        if visited is not None:
            self.visited = torch.cat([self.visited, visited])

    def meet(self, errors: Float[Tensor, "layer pos d_model"]) -> None:
        """Recomputes the error columns for other errors."""
        for rows, layer, pos, gradients in self.gradients:
            column = int(self.source.stop[pos - self.source.first_position, layer]) - 1
            self.values[rows, column] = gradients @ errors[layer, pos]

    def nodes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Column and depth of each row's node, and the weight of every column."""
        n_targets, n_columns = len(self.job.readouts), self.source.n_columns
        target = torch.arange(n_columns - n_targets, n_columns, device=self.visited.device)
        node = torch.cat([target, self.source.feature_column[self.visited]])
        depth = torch.cat([torch.full_like(target, self.job.local.n_layers), self.job.active.layer[self.visited]])
        weights = torch.zeros(n_columns, dtype=torch.float64, device=self.visited.device)
        weights[target] = torch.tensor([readout.weight for readout in self.job.readouts], dtype=torch.float64).to(
            weights
        )
        return node, depth, weights

    def influence(self) -> Float[Tensor, " active"]:
        """Influence of every active feature on the targets through the rows known so far."""
        node, depth, weights = self.nodes()
        return sweep_influence(self.values[: node.numel()], node, depth, weights)[self.source.feature_column]


class _SparseRows(_DenseRows):
    """Like `_DenseRows`, but with only the largest entries of each row, as many as fit into memory: enough for the
    choice."""

    def __init__(self, job: Job, source: Sources, n_rows: int) -> None:
        self.job, self.source = job, source
        embed = job.local.frozen.embed
        n_kept = min(source.n_columns, max(1, job.memory // (n_rows * (embed.element_size() + 4))))
        self.values = embed.new_empty(n_rows, n_kept)
        self.column = torch.empty(n_rows, n_kept, dtype=torch.int32, device=embed.device)
        self.size = torch.empty(n_rows, dtype=torch.float64, device=embed.device)
        self.visited = torch.empty(0, dtype=torch.long, device=embed.device)
        self.tokens, self.keeps_gradients = carry_up(job.local, job.memory), False

    @property
    def complete(self) -> bool:
        return False

    def keep(self, index: Tensor, effects: Tensor) -> None:
        effects = effects.abs_()
        self.size[index] = effects.sum(1, dtype=torch.float64)
        largest = effects.topk(self.values.shape[1], sorted=False)
        self.values[index], self.column[index] = largest.values, largest.indices.int()

    def influence(self) -> Float[Tensor, " active"]:
        node, depth, weights = self.nodes()
        total = torch.zeros_like(weights)
        for level in reversed(depth.unique().tolist()):
            for row in (depth == level).nonzero().flatten().split(256):
                passed = (total[node[row]] + weights[node[row]]) / self.size[row].clamp(min=ROW_FLOOR)
                passed = passed[:, None] * self.values[row]
                total.index_add_(0, self.column[row].flatten().long(), passed.flatten())
        return total[self.source.feature_column]


def _select(job: Job, source: Sources, budget: int) -> tuple[_DenseRows, Int[Tensor, " chosen"]]:
    """Rows, and the indices of the `budget` visited features with the most influence on the targets.

    If there are few more features than the budget, all rows are computed and the choice is exact. Otherwise the best
    features not yet visited are added in steps, by their influence through the rows known so far.
    """
    n_active, n_targets = len(job.active), len(job.readouts)
    item = job.local.frozen.embed.element_size()

    def fits(n_rows: int) -> bool:
        return n_rows * source.n_columns * item <= job.memory

    exact = 0 < budget and n_active <= ALL_ROWS_FACTOR * budget and fits(n_targets + n_active)
    n_rows = n_targets + (n_active if exact else budget)
    rows = (_DenseRows if fits(n_rows) else _SparseRows)(job, source, n_rows)
    rows.add(job.target_readers())
    job.report(n_targets, n_rows)
    step = n_active if exact else max(64, -(-budget // STEPS))
    while rows.visited.numel() < n_rows - n_targets:
        strength = rows.influence()
        strength[rows.visited] = -1
        chosen = strength.topk(min(step, n_rows - n_targets - rows.visited.numel())).indices
        rows.add(job.feature_readers(chosen), chosen)
        job.report(n_targets + rows.visited.numel(), n_rows)
    if exact:
        return rows, rows.influence()[rows.visited].topk(budget).indices
    return rows, torch.arange(budget, device=rows.visited.device)
