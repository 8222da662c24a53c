"""The attribution graph of one prompt: nodes, direct effects, influence, pruning, scores.

`adjacency[target, source]` is the direct linear effect of a source node on a target's pre-activation. Nodes are ordered

    features by (layer, pos, feature) | errors by (layer, pos) | tokens by pos | targets (logits)

and only features and targets have incoming edges. With rows normalised to N = |A| / sum |A| and target weights w (the
probabilities of the logits), the influence of a node is I = wN + wN^2 + ... ("Circuit Tracing: Revealing
Computational Graphs in Language Models", appendix on graph pruning; the same definitions as the circuit-tracer
library, with which the tests compare). A feature is influenced by lower layers only, so one sweep down the layers
sums the series: I_s = sum_t (I_t + w_t) N[t, s].

Two choices differ from circuit-tracer: a threshold of 1 keeps everything, and every node carries `bias` and
`pre_activation`, so that "incoming edges + bias = pre-activation" can be checked (`row_residual`).
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEATURE, ERROR, TOKEN, LOGIT = range(4)
KIND_NAMES = ("feature", "error", "token", "logit")
ROW_FLOOR = 1e-10  # rows with a smaller sum (errors, tokens, features without inputs) stay zero when normalised
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap has a name for it only from Python 3.13 on
CHUNK_ENTRIES = 1_000_000  # largest number of adjacency entries held as float64 at a time


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes and direct effects of one prompt; fields that do not apply to a node are -1 (integers) or 0 (floats).

    `probability` is the weight w of a target: the model's probability of that token, or 1 for contrasts, directions and
    features. `pre_activation` comes from the unmodified forward pass and `bias` from the affine pass without sources;
    neither is computed from the other. `metadata` holds plain JSON values: tokens, token_ids, n_layers, n_vocab,
    target_labels, and how the graph was made.
    """

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    feature: Int[Tensor, " node"]
    token_id: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    probability: Float[Tensor, " node"]
    adjacency: Float[Tensor, "node node"]
    bias: Float[Tensor, " node"]
    pre_activation: Float[Tensor, " node"]
    metadata: dict[str, Any] = field(default_factory=dict)
    frozen: Float[Tensor, "node node"] | None = None
    """The part of each edge that runs through frozen attention patterns and norm scales, where some of these are live; the rest of
    the edge runs through them. None: all of it."""

    def __post_init__(self) -> None:
        n = self.kind.numel()
        for matrix in (self.adjacency, self.frozen):
            if matrix is not None and matrix.shape != (n, n):
                raise ValueError(f"adjacency is {tuple(matrix.shape)}, but there are {n} nodes")
        if n and bool((self.kind[1:] < self.kind[:-1]).any()):
            raise ValueError("nodes must be ordered features | errors | tokens | targets")
        layers = self.layer[self.features]
        if bool((layers[1:] < layers[:-1]).any()):
            raise ValueError("feature nodes must be ordered by layer")

    @cached_property
    def _starts(self) -> list[int]:
        counts = torch.bincount(self.kind.long(), minlength=len(KIND_NAMES)).cumsum(0)
        return [0, *counts.tolist()]

    def span(self, kind: int) -> slice:
        """The contiguous range of nodes of one kind."""
        return slice(self._starts[kind], self._starts[kind + 1])

    @property
    def n_nodes(self) -> int:
        return self.kind.numel()

    @property
    def features(self) -> slice:
        return self.span(FEATURE)

    @property
    def errors(self) -> slice:
        return self.span(ERROR)

    @property
    def tokens(self) -> slice:
        return self.span(TOKEN)

    @property
    def logits(self) -> slice:
        return self.span(LOGIT)

    @property
    def weights(self) -> Float[Tensor, " node"]:
        """Target weights w, float64: probabilities on the targets, 0 elsewhere."""
        return torch.where(self.kind == LOGIT, self.probability, 0).double()


class Scores(NamedTuple):
    """replacement: share of the influence of leaves (tokens and errors) that comes from tokens; completeness: mean
    share of a node's inputs that does not come from errors."""

    replacement: float
    completeness: float


def empty_edges(n_rows: int, n_columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A matrix of zeros for edges. On a CPU only the entries that are written take memory: three quarters of an
    adjacency matrix and nearly all of an edge mask stay empty, because edges run only upwards and forwards."""
    size = n_rows * n_columns * torch.empty(0, dtype=dtype).element_size()
    if device.type != "cpu" or size < mmap.PAGESIZE:
        return torch.zeros(n_rows, n_columns, dtype=dtype, device=device)
    # private, or reading an empty page would fill it; not reserved, or the kernel would refuse pages never written
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(n_rows, n_columns)


# ---------------------------------------------------------------------------------------------------- influence
def sweep_influence(
    rows: Float[Tensor, "row node"],
    row_node: Int[Tensor, " row"],
    row_depth: Int[Tensor, " row"],
    weights: Float[Tensor, " node"],
    *,
    signed: bool = False,
    removed: Bool[Tensor, " node"] | None = None,
) -> Float[Tensor, " node"]:
    """Influence (float64) computed from the incoming edges of some nodes. Nodes without a row pass no influence on.

    Row r belongs to node `row_node[r]`. Rows are visited from the highest `row_depth` down (negative: never), and an
    edge may only come from a lower depth. `signed` keeps the sign of each edge, so that opposite paths cancel;
    `removed` nodes pass no influence on and get 0.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    step = max(1, CHUNK_ENTRIES // max(1, rows.shape[1]))
    for depth in reversed(torch.unique(row_depth[row_depth >= 0]).tolist()):
        for index in (row_depth == depth).nonzero().flatten().split(step):
            _pass_on(total, weights, row_node[index], [(slice(None), rows[index])], signed, removed)
    return total if removed is None else total * ~removed


def _pass_on(
    total: Tensor,
    weights: Tensor,
    nodes: Tensor | slice,
    parts: list[tuple[slice, Tensor]],
    signed: bool,
    removed: Tensor | None,
) -> None:
    """Adds to `total` [*batch, node] the influence that nodes of one depth pass on through their rows, given as
    (columns, entries)."""
    sizes = [entries.double().abs() for _, entries in parts]
    passed = total[..., nodes] + weights[..., nodes].double()
    passed = passed / torch.stack([size.sum(1) for size in sizes]).sum(0).clamp(min=ROW_FLOOR)
    if removed is not None:
        passed = passed * ~removed[..., nodes]
    for (columns, entries), size in zip(parts, sizes, strict=True):
        total[..., columns] += passed @ (entries.double() if signed else size)


def depths(graph: Graph) -> Int[Tensor, " node"]:
    """Order of the sweep: a feature's layer, the number of layers for targets, -1 for nodes without incoming edges."""
    top = int(graph.layer.max()) + 1 if graph.n_nodes else 0
    return torch.where(graph.kind == LOGIT, top, torch.where(graph.kind == FEATURE, graph.layer, -1))


def _row_blocks(graph: Graph) -> Iterator[tuple[slice, list[slice]]]:
    """Nodes with incoming edges, in blocks of bounded size, targets first and then layers downwards; and for each block
    the columns from which edges can come: features of lower layers, errors and tokens."""
    _, counts = torch.unique_consecutive(graph.layer[graph.features], return_counts=True)
    stops = counts.cumsum(0).tolist()
    leaves = slice(graph.errors.start, graph.tokens.stop)
    spans = [(start, stop, [slice(0, start), leaves]) for start, stop in zip([0, *stops], stops, strict=False)]
    spans.append((graph.logits.start, graph.n_nodes, [slice(0, graph.logits.start)]))
    step = max(1, CHUNK_ENTRIES // max(1, graph.n_nodes))
    for start, stop, columns in reversed(spans):
        for first in range(start, stop, step):
            yield slice(first, min(first + step, stop)), columns


def influence(
    graph: Graph,
    weights: Float[Tensor, "*batch node"] | None = None,
    *,
    signed: bool = False,
    removed: Bool[Tensor, "*batch node"] | None = None,
    stop: Bool[Tensor, "*batch node"] | None = None,
) -> Float[Tensor, "*batch node"]:
    """Influence of every node on the targets (or on `weights`), through all paths; float64.

    I = wN + wN^2 + ... with N = |A| / row sums of |A|; `signed=True` uses N = A / row sums of |A|, so that opposite
    paths cancel. `removed` nodes pass nothing on and get 0. Nodes of `stop` pass on their own weight, and nothing that
    reaches them. Ask several questions about one graph in one call: they share the pass over its edges.
    """
    weights = graph.weights if weights is None else weights
    total = torch.zeros(weights.shape, dtype=torch.float64, device=graph.adjacency.device)
    for rows, columns in _row_blocks(graph):
        parts = [(span, graph.adjacency[rows, span]) for span in columns]
        _pass_on(total, weights if stop is None else weights - total * stop, rows, parts, signed, removed)
    return total if removed is None else total * ~removed


def cumulative_scores(values: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """For each entry, the share of the total in all entries at least as large: small means important (the `influence`
    of exported graphs)."""
    order = values.argsort(descending=True, stable=True)
    total = values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    scores = torch.empty_like(values)
    scores[order] = (values[order].cumsum(0) / total).clamp(max=1)
    return scores


# ------------------------------------------------------------------------------------------------------ pruning
def share_threshold(values: Float[Tensor, " entry"], share: float) -> float:
    """The smallest value of the shortest list of largest entries whose sum reaches `share` of the total; -inf if share
    >= 1."""
    if share >= 1 or values.numel() == 0:
        return float("-inf")
    total = values.sum(dtype=torch.float64)
    # all entries below this add up to less than the share left out, so none of them is in the list: do not
    # sort them
    survivors = values[values >= float(total) * (1 - share) / values.numel()]
    survivors = survivors.sort(descending=True).values
    reached = torch.searchsorted(survivors.double().cumsum(0), total * share)
    return float(survivors[min(int(reached), survivors.numel() - 1)]) if survivors.numel() else float("-inf")


def prune(
    graph: Graph, node_threshold: float = 0.8, edge_threshold: float = 0.98
) -> tuple[Bool[Tensor, " node"], Bool[Tensor, "node node"]]:
    """Masks of the nodes and edges that carry `node_threshold` of node influence and `edge_threshold` of edge
    influence.

    Tokens and targets are always kept; a kept feature has a kept edge in and one out, a kept error one out. A threshold
    of 1 keeps every node (every edge that is not zero). Only edges between kept nodes are scored or sorted. Raises
    ValueError for thresholds outside [0, 1].
    """
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    strength = influence(graph)
    fixed = graph.kind >= TOKEN
    node_mask = fixed | (strength >= share_threshold(strength, node_threshold))
    kept = node_mask.nonzero().flatten()
    inner = _submatrix(graph.adjacency, kept)
    weights, kind = graph.weights[kept], graph.kind[kept]
    every = torch.arange(kept.numel(), device=kept.device)
    passed = sweep_influence(inner, every, depths(graph)[kept], weights) + weights
    size = inner.abs_()
    score = size.mul_((passed / size.sum(1, dtype=torch.float64).clamp(min=ROW_FLOOR)).to(size.dtype)[:, None])
    edges = (score >= share_threshold(score[score > 0], edge_threshold)) & (score > 0)
    alive = torch.ones_like(kept, dtype=torch.bool)
    while True:
        edges &= alive[:, None] & alive
        still = fixed[kept] | (edges.any(0) & ((kind == ERROR) | edges.any(1)))
        if torch.equal(still, alive):
            break
        alive = still
    node_mask = torch.zeros_like(node_mask).index_put((kept,), alive)
    edge_mask = empty_edges(graph.n_nodes, graph.n_nodes, torch.bool, kept.device)
    target, source = edges.nonzero(as_tuple=True)
    edge_mask[kept[target], kept[source]] = True
    return node_mask, edge_mask


def _submatrix(matrix: Tensor, kept: Tensor) -> Tensor:
    if kept.numel() == matrix.shape[0]:
        return matrix.clone()
    return torch.cat([matrix[rows][:, kept] for rows in kept.split(max(1, CHUNK_ENTRIES // matrix.shape[0]))])


# ------------------------------------------------------------------------------------------------------- scores
def scores(graph: Graph, kept: Bool[Tensor, " node"] | None = None) -> Scores:
    """Replacement and completeness score of a graph, or of the part that pruning kept; both 0 for a graph without
    influence.

    replacement = I(tokens) / (I(tokens) + I(errors)). completeness = mean over nodes, weighted by I + w, of the share
    of a node's |input| that does not come from errors (errors and tokens themselves count as 1). Features that were not
    kept count as errors, because the pruned graph does not show where they come from.
    """
    lost = torch.zeros_like(graph.kind, dtype=torch.bool) if kept is None else ~kept & (graph.kind == FEATURE)
    strength, unexplained = (torch.zeros_like(graph.weights) for _ in range(2))
    for rows, columns in _row_blocks(graph):
        parts = [(span, graph.adjacency[rows, span]) for span in columns]
        _pass_on(strength, graph.weights, rows, parts, False, None if kept is None else lost)
        from_errors = graph.adjacency[rows, graph.errors].abs().sum(1, dtype=torch.float64)
        for span, entries in parts if kept is not None else ():
            from_errors += entries.abs().double() @ lost[span].double()
        size = torch.stack([entries.abs().sum(1, dtype=torch.float64) for _, entries in parts]).sum(0)
        unexplained[rows] = torch.where(lost[rows], 0.0, from_errors / size.clamp(min=ROW_FLOOR))
    tokens, errors = float(strength[graph.tokens].sum()), float(strength[graph.errors].sum() + strength[lost].sum())
    passed = strength + graph.weights
    total = float(passed.sum())
    return Scores(
        tokens / (tokens + errors) if tokens + errors > 0 else 0.0,
        float(((1 - unexplained) * passed).sum()) / total if total > 0 else 0.0,
    )


def row_residual(graph: Graph) -> Float[Tensor, " node"]:
    """|sum of incoming edges + bias - pre-activation| / (sum of |edges| + |bias|), float64; 0 for errors and tokens."""
    residual = torch.zeros(graph.n_nodes, dtype=torch.float64, device=graph.adjacency.device)
    for rows, columns in _row_blocks(graph):
        bias = graph.bias[rows].double()
        gap, size = bias - graph.pre_activation[rows].double(), bias.abs()
        for span in columns:
            block = graph.adjacency[rows, span]
            gap, size = gap + block.sum(1, dtype=torch.float64), size + block.abs().sum(1, dtype=torch.float64)
        residual[rows] = gap.abs() / size.clamp(min=torch.finfo(torch.float64).tiny)
    return residual
