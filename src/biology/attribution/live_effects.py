"""Direct effects with live attention patterns or norm scales. They include effects through queries and keys, and through norms.

The papers' graphs freeze both, so that no edge contains a source's effect through them. Here edges are first-order effects of the
model as it runs, from the write point of a source to the read point of a reader, with every MLP between them held:

    edge = (d reader / d source output) . source output

Patterns and scales are not linear in their inputs, so the edges do not add up to the pre-activation; the remainder becomes the
bias. A graph keeps beside each edge the part that it has with everything frozen (`Graph.frozen`); the rest runs through what is live
(`live_shares`).

Gradients are taken through the hooked model itself, with the outputs of its MLPs as leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.direct_effects import Sources, cell
from biology.attribution.graph import CHUNK_ENTRIES, FEATURE, LOGIT, ROW_FLOOR, Graph, influence
from biology.attribution.reader_gradients import Readers
from biology.attribution.replacement import LocalReplacement
from biology.models.model import Edit, Model, run
from biology.records import InputError
from biology.transcoders.transcoder_set import skip

FrozenOrLive = Literal["frozen", "live"]
ROWS = 64  # rows whose gradients are taken together
FINAL = "unembed.hook_in"


@dataclass(frozen=True, eq=False)
class LiveEffects:
    """Rows of effects of one prompt (as `reader_gradients.effect_rows`), with live attention patterns or norm scales.

    Raises:
        InputError: the model is in half precision, where gradients are too imprecise.
    """

    model: Model
    local: LocalReplacement
    attention: FrozenOrLive
    norms: FrozenOrLive

    def __post_init__(self) -> None:
        if self.model.dtype != self.model.precision:
            raise InputError(
                f"model {self.model.name}: edges through live attention or norms need --dtype float32 (it is {self.model.dtype})"
            )

    def __call__(
        self, local: LocalReplacement, source: Sources, readers: Readers, emit: Callable[[Tensor, Tensor], None], *,
        tokens: list[Tensor] | None = None, memory: int = 1 << 27,
        gradients: Callable[[Tensor, int, int, Tensor], None] | None = None,
    ) -> None:  # fmt: skip
        """Computes the rows of all readers and passes them on: `emit(row indices, effects [row, column])`. Ignores `tokens` and
        `memory`."""
        for layer in readers.layer.unique().tolist():
            for index in (readers.layer == layer).nonzero()[:, 0].split(ROWS):
                written, embedded = self.gradients(layer, readers.pos[index], readers.vector[index])
                effects = readers.vector.new_zeros(len(index), source.n_columns)
                for below, h in enumerate(written):
                    for pos in range(source.first_position, int(readers.pos[index].max()) + 1):
                        start, stop, vectors = cell(self.local, source, below, pos)
                        effects[:, start:stop] += h[:, pos] @ vectors.T
                        if gradients is not None:
                            gradients(index, below, pos, h[:, pos])
                embed = local.frozen.embed[local.row]
                first = source.token_start
                effects[:, first : first + len(embed)] = (embedded * embed).sum(-1)
                emit(index, effects)

    def gradients(
        self, layer: int, pos: Tensor, vector: Float[Tensor, "row d_model"]
    ) -> tuple[list[Float[Tensor, "row pos d_model"]], Float[Tensor, "row pos d_model"]]:
        """Gradients of rows that read at `layer` (n_layers: the unembedding), with respect to each lower MLP's output and to the
        embedding."""
        leaves, reads = self._forward
        below = leaves[: layer + 1]  # the embedding and the MLPs under the reader
        asked = vector.new_zeros(len(vector), *reads[layer].shape)
        asked[torch.arange(len(vector)), 0, pos] = vector
        found = torch.autograd.grad(
            reads[layer],
            below,
            asked,
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        embedded, *written = (each[:, 0] for each in found)
        return written, embedded

    @cached_property
    def _forward(self) -> tuple[list[Float[Tensor, "1 pos d_model"]], list[Float[Tensor, "1 pos d_model"]]]:
        """Leaves (the embedding, then each MLP's output), and the inputs of each layer's transcoder and of the unembedding."""
        model, set_ = self.model, self.local.transcoders
        leaves: list[Tensor] = []
        seen: dict[str, Tensor] = {}

        def leaf(tensor: Tensor) -> Tensor:
            leaves.append(tensor.detach().clone().requires_grad_(True))
            return leaves[-1]

        def written(layer: int, tensor: Tensor) -> Tensor:
            skipped = skip(set_, layer, seen[names[layer]])
            return leaf(tensor) if skipped is None else leaf(tensor - skipped) + skipped

        names = [f"blocks.{layer}.{set_.read_hook}" for layer in range(model.n_layers)]
        hooks: list[tuple[str, Edit]] = [("hook_embed", leaf)]
        for layer, name in enumerate(names):
            hooks.append((name, partial(seen.__setitem__, name)))
            hooks.append((f"blocks.{layer}.{set_.write_hook}", partial(written, layer)))
        hooks += [(name, Tensor.detach) for name in held_hooks(model, self.attention, self.norms)]
        ids = self.local.frozen.ids[self.local.row][None]
        _, final = run(model, ids, edits=hooks, reads=[FINAL], grad=True)
        return leaves, [*(seen[name] for name in names), final[FINAL]]


def with_remainders(graph: Graph) -> Graph:
    """The graph with the part of each pre-activation that its edges do not explain as the bias."""
    reading = (graph.kind == FEATURE) | (graph.kind == LOGIT)
    parts = graph.adjacency.split(
        max(1, CHUNK_ENTRIES // max(1, graph.n_nodes))
    )  # a sum in float64 copies what it sums
    rest = graph.pre_activation.double() - torch.cat([part.sum(1, dtype=torch.float64) for part in parts])
    return replace(graph, bias=torch.where(reading, rest.to(graph.bias), graph.bias))


def held_hooks(model: Model, attention: FrozenOrLive, norms: FrozenOrLive) -> list[str]:
    """The hooks of patterns and scales that stay frozen: no gradient passes them."""
    layers = range(model.n_layers)
    held = [f"blocks.{layer}.attn.hook_pattern" for layer in layers] if attention == "frozen" else []
    if norms == "frozen":
        names = ["ln1", "ln2", *(("ln1_post", "ln2_post") if model.post_norms else ())]
        held += [f"blocks.{layer}.{norm}.hook_scale" for layer in layers for norm in names] + ["ln_final.hook_scale"]
    return held


def live_shares(graph: Graph, rows: Int[Tensor, " row"] | None = None) -> Float[Tensor, "row node"]:
    """Of each incoming edge of these nodes (default: all), the share that runs through live attention patterns and norm scales:
    |edge - frozen| / (|edge - frozen| + |frozen|). The two parts may have opposite signs. 0 for an edge without parts, and for all edges
    of a graph with nothing live."""
    chosen = slice(None) if rows is None else rows
    edges = graph.adjacency[chosen]
    if graph.frozen is None:
        return torch.zeros_like(edges)
    frozen = graph.frozen[chosen]
    live = (edges - frozen).abs()
    return live / (live + frozen.abs()).clamp(min=torch.finfo(edges.dtype).tiny)


def live_share(graph: Graph) -> float:
    """The share of all influence on the targets that runs through live attention patterns and norm scales: the mean of `live_shares`
    over all edges, each weighted by the influence that it carries. 0 for a graph without influence."""
    passed, through, total = influence(graph) + graph.weights, 0.0, 0.0
    reading = ((graph.kind == FEATURE) | (graph.kind == LOGIT)).nonzero().flatten()
    for rows in reading.split(max(1, CHUNK_ENTRIES // max(1, graph.n_nodes))):
        size = graph.adjacency[rows].double().abs()
        carried = size * (passed[rows] / size.sum(1).clamp(min=ROW_FLOOR))[:, None]
        through += float((carried * live_shares(graph, rows)).sum())
        total += float(carried.sum())
    return through / total if total > 0 else 0.0
