"""The composition of a prompt's graph: tiers, feed-forward loops, edges that skip layers, features of the last layer, scaffolding.

`cases/measures.py` defines each outcome. Each draw of control `shuffle` permutes the layers of features (tiers), or the sources of
the edges between two cells (layer and token), so that every node keeps its numbers of edges (loops). Each draw of control `match`
takes as many other features of each layer (scaffolding).

Sources: "On the Biology of a Large Language Model" (Lindsey et al., 2025), "Commonly Observed Circuit Components and Structure";
trades, Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices with fixed row and column totals"
(2014).
"""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.attribution.graph import FEATURE, LOGIT, ROW_FLOOR, Graph, influence, prune
from biology.config import AttributionConfig
from biology.validation.faithfulness import Values

MOST = 0.5
"""A feature is in the input tier if more than this share of its input comes from tokens, in the output tier if more than this share
of its influence is direct."""

TRADES = 5
"""Number of trades per target that exchange edges."""


@dataclass(frozen=True, eq=False)
class GraphStructure:
    """The graph of a prompt, and which of its features are active on nearly all prompts of the same template."""

    graph: Graph
    settings: AttributionConfig
    often: Bool[Tensor, " feature"]
    generator: np.random.Generator
    draws: int

    @cached_property
    def influence(self) -> Float[Tensor, " feature"]:
        return influence(self.graph)[self.graph.features]

    @cached_property
    def abstract(self) -> Bool[Tensor, " feature"]:
        """Features in neither the input nor the output tier."""
        graph, features = self.graph, self.graph.features
        edges = graph.adjacency.double().abs()
        size = edges.sum(1).clamp(min=ROW_FLOOR)
        from_tokens = edges[features, graph.tokens].sum(1) / size[features]
        direct = (graph.weights[graph.logits] / size[graph.logits]) @ edges[graph.logits, features]
        return (from_tokens <= MOST) & (direct <= MOST * self.influence)

    @cached_property
    def pruned(self) -> tuple[Float[Tensor, "target source"], Int[Tensor, " node"]]:
        """The edges that pruning keeps between features, and from them to targets; and a number for the cell (layer and token) of
        each of these nodes."""
        graph = self.graph
        _, kept = prune(graph, self.settings.node_threshold, self.settings.edge_threshold)
        inner = ((graph.kind == FEATURE) | (graph.kind == LOGIT)).nonzero().flatten()
        edges = torch.where(kept[inner][:, inner], graph.adjacency[inner][:, inner], 0.0).double()
        alive = ((edges != 0).any(0) | (edges != 0).any(1)).nonzero().flatten()
        cells = (graph.layer + 1) * (int(graph.pos.max()) + 1) + graph.pos
        return edges[alive][:, alive], cells[inner][alive]

    @cached_property
    def rewired(self) -> list[Float[Tensor, "target source"]]:
        """The pruned edges with their sources exchanged among edges between the same two cells. Each node keeps its numbers of
        edges, and each target the sizes of its edges."""
        edges, cells = self.pruned
        return [torch.from_numpy(rewire(edges.numpy(), cells.numpy(), self.generator)) for _ in range(self.draws)]


def rewire(
    edges: Float[np.ndarray, "target source"], cells: Int[np.ndarray, " node"], generator: np.random.Generator
) -> Float[np.ndarray, "target source"]:
    """Exchanges edges by trades: two targets pool the sources that only one of them has, and redistribute them at random (Strona et
    al., 2014)."""
    there, (numbers, of_node) = edges != 0, np.unique(cells, return_inverse=True)
    inside = (of_node == np.arange(len(numbers))[:, None]).astype(np.float32)
    members, sizes = [np.flatnonzero(row) for row in inside], inside.sum(1)
    count, several = inside @ there.astype(np.float32) @ inside.T, (sizes[:, None] > 1) & (sizes > 1)
    # between two cells with one edge, or with all but one, there is nothing to exchange
    for target_cell, source_cell in np.argwhere(several & (count > 1) & (count < sizes[:, None] * sizes - 1)):
        block = np.ix_(members[target_cell], members[source_cell])
        there[block] = _traded(there[block], generator)
    made = np.zeros_like(edges)
    for target in np.flatnonzero(there.any(1)):
        made[target, there[target]] = generator.permutation(edges[target, edges[target] != 0])
    return made


def _traded(
    block: Bool[np.ndarray, "target source"], generator: np.random.Generator
) -> Bool[np.ndarray, "target source"]:
    rows, number = [set(np.flatnonzero(row).tolist()) for row in block], len(block)
    first = generator.integers(number, size=TRADES * number)
    second = (first + generator.integers(1, number, size=len(first))) % number
    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        both, mine, others = rows[one] & rows[other], rows[one] - rows[other], rows[other] - rows[one]
        if mine and others:
            pool = generator.permutation(sorted(mine | others)).tolist()
            rows[one], rows[other] = both.union(pool[: len(mine)]), both.union(pool[len(mine) :])
    traded = np.zeros_like(block)
    for row, sources in zip(traded, rows, strict=True):
        row[list(sources)] = True
    return traded


def measured(one: GraphStructure, outcomes: Sequence[str]) -> dict[str, Values]:
    """Values of the requested outcomes, by arm. NaN where nothing can be measured, e.g. without features or loops."""
    return {outcome: _values(one, outcome) for outcome in outcomes}


def _values(one: GraphStructure, outcome: str) -> Values:
    match outcome:
        case "abstract_middle":
            layers = one.graph.layer[one.graph.features]
            several = [layers[torch.from_numpy(one.generator.permutation(len(layers)))] for _ in range(one.draws)]
            effect, *permuted = (_abstract_middle(one, each) for each in (layers, *several))
            return {"effect": [effect], "shuffle": permuted}
        case "closed" | "coherent":
            effect, *rewired = (loops(edges)[outcome] for edges in (one.pruned[0], *one.rewired))
            return {"effect": [effect], "shuffle": rewired}
        case "layers_skipped":
            return {"effect": [_layers_skipped(one.graph)]}
        case "last_layer_push":
            last, _ = _pushes(one.graph)
            return {"effect": [last]}
        case "last_layer_beyond":
            last, others = _pushes(one.graph)
            return {"effect": [last - others]}
        case "scaffold":
            total = float(one.influence.sum())
            sets = [one.often, *(_matched(one) for _ in range(one.draws))]
            effect, *match = (float(one.influence[each].sum()) / total if total > 0 else float("nan") for each in sets)
            return {"effect": [effect], "match": match}
    raise KeyError(outcome)


def _abstract_middle(one: GraphStructure, layers: Int[Tensor, " feature"]) -> float:
    """Share of influence that abstract features have in the middle third of the layers, minus their share in the other layers."""
    middle = layers * 3 // one.graph.metadata["n_layers"] == 1
    shares = []
    for third in (middle, ~middle):
        total = float(one.influence[third].sum())
        shares.append(float(one.influence[third & one.abstract].sum()) / total if total > 0 else float("nan"))
    return shares[0] - shares[1]


def loops(edges: Float[Tensor, "target source"]) -> dict[str, float]:
    """Of pairs of edges a -> b -> c, the share for which an edge a -> c exists (`closed`); of these, the share in which that edge
    has the sign of the product of the other two (`coherent`)."""
    # single precision holds such counts exactly, and takes half the time
    there, sign = (edges != 0).float(), edges.sign().float()
    pairs, signed = there @ there, sign @ sign
    closed = float((pairs * there).sum(dtype=torch.float64))
    agreeing = (closed + float((signed * sign).sum(dtype=torch.float64))) / 2
    total = float(pairs.sum(dtype=torch.float64))
    nan = float("nan")
    return {"closed": closed / total if total else nan, "coherent": agreeing / closed if closed else nan}


def _layers_skipped(graph: Graph) -> float:
    """Share of a feature's input from features that skips a layer, by size of edges; averaged over features, weighted by
    influence."""
    features = graph.features
    edges = graph.adjacency[features, features].double().abs()
    size = edges.sum(1)
    skips = graph.layer[features][:, None] - graph.layer[features] > 1
    shares = (edges * skips).sum(1)[size > 0] / size[size > 0]
    weights = influence(graph)[features][size > 0]
    return float((shares * weights).sum() / weights.sum()) if float(weights.sum()) > 0 else float("nan")


def _pushes(graph: Graph) -> tuple[float, float]:
    """Net effect of the last layer's features, and of all others, on the most probable target, divided by the sum of their
    |effects|."""
    best = int(graph.probability[graph.logits].argmax()) + graph.logits.start
    edges, last = (
        graph.adjacency[best, graph.features].double(),
        graph.layer[graph.features] == graph.metadata["n_layers"] - 1,
    )
    sizes = [float(edges[part].abs().sum()) for part in (last, ~last)]
    values = [float(edges[part].sum()) for part in (last, ~last)]
    last_push, others = (value / size if size > 0 else float("nan") for value, size in zip(values, sizes, strict=True))
    return last_push, others


def _matched(one: GraphStructure) -> Bool[Tensor, " feature"]:
    """A random set of active features, with as many in each layer as there are features that are often active."""
    layers, chosen = one.graph.layer[one.graph.features], torch.zeros_like(one.often)
    for layer in layers.unique().tolist():
        here = (layers == layer).nonzero().flatten()
        drawn = torch.from_numpy(one.generator.permutation(len(here))[: int(one.often[here].sum())])
        chosen[here[drawn]] = True
    return chosen
