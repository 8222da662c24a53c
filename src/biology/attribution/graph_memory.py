"""Estimates the memory that a prompt's graph needs before it is allocated, and what would fit if it is too much.

The forward pass depends only on the prompt's length and is estimated before it runs. The rest depends on the number of active
features and is estimated after it. The estimate counts the arrays that grow with the prompt, in the order of the work:

    forward pass    attention patterns and residual streams of every layer, kept while the graph is built
    sources         output vectors of active features and errors
    rows            rows of the matrix, for the choice of features under a budget
    adjacency       the matrix; on a CPU only its written entries take memory (`graph.empty_edges`)
    working arrays  gradients and vectors being propagated

The model and its transcoders are already loaded (`memory` counts them). An estimate is
0.75 to 1.4 times the measured peak (`tests/test_graph_memory.py`). Proposals take at most a share `ROOM` of the free memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from mmap import PAGESIZE

import torch

from biology.attribution.direct_effects import KEPT
from biology.attribution.graph import CHUNK_ENTRIES
from biology.attribution.propagation import SCRATCH, SPREAD
from biology.attribution.selection import ALL_ROWS_FACTOR, BLOCK, STEPS
from biology.models import memory
from biology.models.model import Model
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet

SURVIVORS = 3
"""Assumes that one node in this many survives pruning, whose matrices grow with their square; in graphs of text fewer do."""
DOUBLE = 8
LEAST_MEMORY = memory.GIB // 4
"""Bytes of working arrays to propose if more do not fit."""
LEAST_NODES = 100
"""Feature nodes to propose if the prompt is too long."""
ROOM = 0.75
"""Share of the free memory that a proposal may take."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that decide the memory of a prompt's graph."""

    n_pos: int
    n_layers: int
    n_heads: int
    d_model: int
    maps: int
    """Number of elements in the value and output maps of all heads."""
    item: int
    """Bytes of a number in the graph."""
    half: bool
    """Whether the model computes in lower precision than the graph."""
    cross_layer: bool
    first_position: int
    memory: int
    """Bytes of working arrays, as given to `assembly.attribute`."""
    lazy: bool
    """Whether the empty part of a matrix takes no memory (true on a CPU)."""
    n_targets: int = 1
    active: tuple[int, ...] = ()
    """Active features of each layer."""
    budget: int | None = None
    given: bool = False
    """Whether the feature nodes were given, `budget` of them."""
    live: bool = False
    """Whether attention patterns or norm scales are live: then the edges are there twice."""

    @property
    def n_active(self) -> int:
        return sum(self.active)

    @property
    def n_cells(self) -> int:
        """Error nodes of a layer."""
        return max(0, self.n_pos - self.first_position)

    @property
    def n_rest(self) -> int:
        """Nodes that are not features."""
        return self.n_layers * self.n_cells + self.n_pos + self.n_targets

    @property
    def n_chosen(self) -> int:
        """Feature nodes."""
        return self.n_active if self.budget is None else min(self.budget, self.n_active)

    @property
    def n_nodes(self) -> int:
        return self.n_chosen + self.n_rest

    @property
    def patterns(self) -> int:
        """Bytes of the attention patterns of a layer."""
        return self.item * self.n_heads * self.n_pos**2

    @property
    def stream(self) -> int:
        """Bytes of a residual stream at every layer."""
        return self.item * self.n_layers * self.n_pos * self.d_model

    @property
    def captured(self) -> int:
        """Bytes of a forward pass: patterns, five streams of every layer and three more."""
        return self.n_layers * self.patterns + 5 * self.stream + 3 * self.stream // self.n_layers


@dataclass(frozen=True)
class Estimate:
    """Estimated bytes at the peak, by purpose. `held` of them are already allocated. `addresses` also counts the empty parts of
    matrices, which take no memory but may exceed a limit on addresses."""

    parts: dict[str, int]
    held: int = 0
    addresses: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {memory.gib(size)}" for name, size in self.parts.items() if size > memory.GIB // 20)
        return f"{memory.gib(self.total)} ({parts})"


OnEstimate = Callable[[Sizes, Estimate], None]


def sizes_of(model: Model, transcoders: TranscoderSet, n_pos: int, *, first_position: int, memory: int) -> Sizes:
    """The sizes that are known before the forward pass."""
    layer = model.weights.layers[0]
    values, kv_heads = layer.W_V, layer.kv_heads
    shared = values.numel() * kv_heads // len(values) if kv_heads < len(values) else 0
    maps = model.n_layers * (2 * values.numel() + shared)
    return Sizes(
        n_pos, model.n_layers, len(values), model.d_model, maps, model.precision.itemsize,
        model.dtype != model.precision, transcoders.kind == "cross_layer", first_position, memory, model.device.type == "cpu",
    )  # fmt: skip


def forward_pass(sizes: Sizes) -> Estimate:
    """The frozen forward pass: the arrays it keeps, plus the scores of one layer or, for a model in half precision, the arrays
    before the cast."""
    taken = sizes.captured + max(sizes.patterns, sizes.captured // 2 * sizes.half) + sizes.maps * sizes.item
    return Estimate({"forward pass": taken}, addresses=taken)


def row_by_row(sizes: Sizes) -> Estimate:
    """A graph computed by blocks of rows: for chosen features, for a cross-layer set, or if the graph is small."""
    n_columns = sizes.n_active + sizes.n_rest
    source, carried, entering = _sources(sizes, sizes.n_active), *_tokens(sizes)
    n_rows = sizes.n_chosen + sizes.n_targets
    matrix = sizes.item * n_rows * sizes.n_nodes

    def computed(before: int, of: int) -> list[dict[str, int]]:
        """The moments at which rows of all nodes are computed, with `of` features as sources."""
        source = before + _sources(sizes, of)
        block = _block(sizes, n_rows, of + sizes.n_rest, sizes.item * sizes.n_nodes)
        return [_parts(source, 0, 0, entering), _parts(source, 0, matrix, carried + block)]

    if sizes.given or sizes.n_chosen == sizes.n_active:
        return _fullest(sizes, matrix, computed(0, sizes.n_chosen))
    n_all = sizes.n_active + sizes.n_targets
    exact = sizes.n_active <= ALL_ROWS_FACTOR * sizes.n_chosen and n_all * n_columns * sizes.item <= sizes.memory
    known = n_all if exact else n_rows
    kept = sizes.memory // (known * (sizes.item + 4))  # largest entries of a row, with their columns
    rows = known * n_columns * sizes.item
    dense = rows <= sizes.memory
    rows = rows if dense else known * min(kept, n_columns) * (sizes.item + 4)
    gradients = known * sizes.stream if sizes.cross_layer else 0
    enough = dense and gradients <= sizes.memory  # to derive the rows of the chosen features from those known
    step = known if exact else max(64, -(-sizes.n_chosen // STEPS))
    block = _block(sizes, step, n_columns, 0 if dense else 2 * DOUBLE * min(kept, n_columns))
    choosing = carried + max(block, 3 * DOUBLE * CHUNK_ENTRIES)
    moments = [_parts(source, 0, 0, entering), _parts(source, rows, 0, choosing)]
    if not enough:
        return _fullest(sizes, matrix, moments + computed(source, sizes.n_chosen))
    rows += gradients // 4  # only layers below a row's own and positions up to it
    folded = _sources(sizes, 0) if sizes.cross_layer else 2 * min(BLOCK, rows)
    return _fullest(sizes, matrix, [*moments, _parts(source, rows, matrix, carried + folded)])


def whole(sizes: Sizes, meeting: int) -> Estimate:
    """A whole graph computed from both sides, with sources carried up to the layer `meeting` (`whole_graph.meeting_layer`)."""
    vector = sizes.item * sizes.d_model
    spread = (sizes.n_cells + 1) / 2 * vector  # mean bytes of a node on its way
    before = sizes.first_position * (sizes.n_pos - sizes.first_position / 2) * vector
    carried = int(before + spread * (sizes.n_cells + sum(sizes.active[:meeting]) + meeting * sizes.n_cells))
    met = vector * (sum(sizes.active[meeting:]) + (sizes.n_layers - meeting) * sizes.n_cells)
    edges = sizes.item * (max(sizes.active) + sizes.n_cells)  # edges of one reader from the sources of a layer
    readers = (*sizes.active[meeting + 1 :], sizes.n_targets)
    down = max(int(spread * n) + max(_entering(sizes, n), n * edges) for n in readers)
    return _fullest(sizes, _written(sizes), [_parts(carried + met, 0, _written(sizes), down + SCRATCH)])


def _parts(sources: int, rows: int, adjacency: int, working: int) -> dict[str, int]:
    return {"sources": sources, "rows": rows, "adjacency": adjacency, "working arrays": working}


def _sources(sizes: Sizes, n_features: int) -> int:
    """Error vectors and feature vectors: for per-layer sets those of all cells, for cross-layer sets those of the cells that are
    kept."""
    vectors = sizes.item * sizes.d_model * (n_features + sizes.n_layers * sizes.n_cells)
    if sizes.cross_layer:
        all_layers = sizes.item * sizes.d_model * n_features * sizes.n_layers
        vectors = all_layers // 2 if all_layers <= 2 * KEPT else all_layers // max(1, sizes.n_pos)
    return vectors + sizes.stream


def _tokens(sizes: Sizes) -> tuple[int, int]:
    """Bytes of the tokens after the first attention layer, and while they pass it (`reader_gradients.carry_up`)."""
    every = sizes.item * sizes.n_pos**2 * sizes.d_model
    return (every // 2, every // 2 + _entering(sizes, sizes.n_pos)) if every <= sizes.memory // 4 else (0, 0)


def _entering(sizes: Sizes, n_rows: int) -> int:
    """Bytes that rows need while passing their first attention layer, beside themselves (`propagation.Propagation.enter`)."""
    heads = sizes.n_heads + 1
    some = min(n_rows, max(1, SPREAD // (sizes.item * sizes.d_model * heads)))
    reach = n_rows * sizes.n_pos * (2 * heads + 1) + sizes.n_heads * sizes.n_pos**2
    return sizes.item * (reach + some * sizes.d_model * (sizes.n_pos + heads))


def _block(sizes: Sizes, n_rows: int, n_columns: int, beside: int) -> int:
    """Working arrays of a block of rows (`reader_gradients.effect_rows`), at least of one row; plus `beside` bytes per row for its
    result, and the scaled patterns of the current layer."""
    longest, usual = (sizes.item * (places * sizes.n_pos * sizes.d_model + n_columns) for places in (8, 4))
    together = max(1, min(n_rows, BLOCK // usual, sizes.memory // usual))
    return max(longest, together * usual) + together * beside + sizes.patterns


def _written(sizes: Sizes) -> int:
    """Bytes of the pages of a whole graph's matrix that hold edges. A feature has edges from lower layers and from tokens."""
    pages, below = 0.0, 0
    for layer, n in enumerate(sizes.active):
        pages += n * (2 + sizes.item * (below + layer * sizes.n_cells + sizes.n_pos) / PAGESIZE)
        below += n
    row = sizes.item * sizes.n_nodes
    return int(min(sizes.n_active * row, pages * PAGESIZE)) + sizes.n_targets * row


def _fullest(sizes: Sizes, matrix: int, moments: list[dict[str, int]]) -> Estimate:
    """The estimate at the peak: one of the moments at which the graph is built, or its pruning, after the forward pass is freed."""
    every = sizes.item * sizes.n_nodes**2 * (1 + sizes.live)
    matrix *= 1 + sizes.live
    moments = [parts | {"adjacency": parts["adjacency"] * (1 + sizes.live)} for parts in moments]
    if not sizes.lazy:
        matrix, moments = every, [parts | {"adjacency": every * (parts["adjacency"] > 0)} for parts in moments]
    every_moment = [{"forward pass": sizes.captured + 2 * sizes.stream} | parts for parts in moments]
    every_moment.append({"adjacency": matrix, "pruning": (sizes.n_nodes // SURVIVORS) ** 2 * (sizes.item + DOUBLE + 3)})
    mapped = [sum(parts.values()) - parts["adjacency"] + every * (parts["adjacency"] > 0) for parts in every_moment]
    mapped[-1] += sizes.n_nodes**2  # the mask of edges
    return Estimate(max(every_moment, key=lambda parts: sum(parts.values())), sizes.captured, max(mapped))


def require(sizes: Sizes, estimate: Estimate, device: torch.device) -> None:
    """Raises `InputError`, with what would fit, if the device has less free memory than estimated."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = addresses = torch.cuda.mem_get_info(device)[0] + cached
    else:
        free, addresses = memory.free(), memory.addresses()

    held, more = estimate.held, " more" if estimate.held else ""

    def fits(other: Estimate, room: float = ROOM) -> bool:
        return other.total - held <= room * free and other.addresses - held <= room * addresses

    if fits(estimate, 1.0):
        return
    lacking = f"{memory.gib(estimate.total - held)}{more}, and {memory.gib(free)} are free on {device}"
    if estimate.total - held <= free:
        wanted = memory.gib(estimate.addresses - held)
        lacking = f"{wanted}{more} of addresses, and {memory.gib(addresses)} are to be had (ulimit -v, overcommit)"
    asked = f"{sizes.n_pos} tokens" + (f" with {sizes.n_active} active features" if sizes.active else "")
    raise InputError(f"{asked}: the graph needs {lacking}: {what_fits(sizes, fits)}.")


def what_fits(sizes: Sizes, fits: Callable[[Estimate], bool]) -> str:
    """What to ask for instead: fewer feature nodes, less memory for working arrays, or else a shorter prompt. Before the forward
    pass the number of active features is unknown; the proposed length is then one at which the pass and the other nodes fit."""
    given = replace(sizes, given=False)
    less = replace(given, memory=min(sizes.memory, LEAST_MEMORY))
    option = f"--memory {less.memory / memory.GIB:g}"
    for each, also in ((given, ""), (less, f" {option}")):
        nodes = _most(sizes.n_chosen, lambda n, each=each: fits(row_by_row(replace(each, budget=n))))
        if nodes:
            return f"--max-nodes {nodes}{also} fits"

    def short(n_pos: int) -> bool:
        active = tuple(n * n_pos // sizes.n_pos for n in sizes.active)
        cut = replace(less, n_pos=n_pos, active=active, budget=min(LEAST_NODES, sum(active)))
        return fits(forward_pass(cut)) and fits(row_by_row(cut))

    longest = _most(sizes.n_pos, short)
    return f"at most {longest} tokens fit, with --max-nodes {LEAST_NODES} {option}" if longest else "no prompt fits"


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `high` that fits, rounded down to two digits, if all smaller ones fit too; 0 if none fits."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low - low % 10 ** max(0, len(str(low)) - 2)
