"""Which attention heads carry chosen edges of a graph, and from which token to which.

    step[head, query, key] = pattern[head, query, key] * g[query] . O_head V_head . x[key]

x is the source's own contribution to the stream that enters the head's block, and g is the target's gradient after the
block's attention; everything is frozen. The sum over queries and keys is what the edge loses when the head is cut
(`head_loadings` with steps "any"). An edge takes one pass up and one pass down, for any number of heads: a few edges cost
as much as one row of all loadings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.attention.head_loadings import frozen_graph, start_of, target_of_node
from biology.attention.stream_effects import node_columns, through_attention
from biology.attribution.direct_effects import Sources, cell
from biology.attribution.graph import ROW_FLOOR, TOKEN, Graph, influence
from biology.attribution.graph_paths import GraphPath, describe, token_texts
from biology.attribution.replacement import LocalReplacement, attend, read, read_transpose, write, write_transpose
from biology.attribution.targets import Readout
from biology.models.model import Model
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet

WORTH_TELLING = 0.01
"""Heads that carry less than this share of an edge are left out."""
MOST_TOLD = 3
"""Largest number of an edge's heads that are listed in words."""


class Edge(NamedTuple):
    """An edge by its two nodes, and its share of all influence on the targets."""

    source: int
    target: int
    share: float


class HeadPart(NamedTuple):
    """The share of an edge that is lost without a head, and the head's largest step: from which position (key) to which
    (query)."""

    layer: int
    head: int
    share: float
    query: int
    key: int


@dataclass(frozen=True)
class EdgeByHeads:
    """An edge and the heads that carry it, the largest |share| first.

    Shares add up to 1 if every path takes one step of attention. A path of several steps is counted with each of its heads,
    so that shares can add up to more.
    """

    source: int
    target: int
    share: float
    weight: float
    heads: tuple[HeadPart, ...]

    def in_words(self, graph: Graph, labels: Mapping[tuple[int, int], str] | None = None) -> tuple[str, str]:
        """The edge as in `graph_paths.describe`, and its heads: `L1H3 81%, L0H2 12% (from "of"@4 to "is"@9)`. A step is
        given if it is not from the source's token to the target's."""
        path = GraphPath((self.source, self.target), self.share * float(graph.weights.sum()), (self.weight,))
        tokens, ends = token_texts(graph), (int(graph.pos[self.target]), int(graph.pos[self.source]))
        told = []
        for part in self.heads[:MOST_TOLD]:
            step = f' (from "{tokens[part.key]}"@{part.key} to "{tokens[part.query]}"@{part.query})'
            step = "" if (part.query, part.key) == ends else step
            told.append(f"{head_name(part.layer, part.head)} {part.share:.0%}{step}")
        return str(describe(graph, path, labels)), ", ".join(told)


def head_name(layer: int, head: int) -> str:
    """The name of a head: `L1H3` is head 3 of layer 1, both counted from 0."""
    return f"L{layer}H{head}"


def edges_between_tokens(graph: Graph, edges: Bool[Tensor, "node node"], n: int) -> list[Edge]:
    """The n most influential of `edges` [target, source] that lead from one token of the prompt to another. Only attention
    can carry them."""
    if graph.metadata["attention"] != "frozen" or graph.metadata["norms"] != "frozen":
        raise InputError("heads carry edges through frozen attention and norms: trace without `live`.")
    target, source = edges.nonzero(as_tuple=True)
    apart = graph.pos[target] != graph.pos[source]
    target, source = target[apart], source[apart]
    rows, row = target.unique(return_inverse=True)
    sums = torch.stack([graph.adjacency[node].double().abs().sum() for node in rows.tolist()] or [graph.weights.sum()])
    flow = (influence(graph).double() + graph.weights)[target] / sums.clamp(min=ROW_FLOOR)[row]
    share = flow * graph.adjacency[target, source].double().abs() / graph.weights.sum().clamp(min=ROW_FLOOR)
    best = share.argsort(descending=True, stable=True)[:n]
    found = zip(source[best].tolist(), target[best].tolist(), share[best].tolist(), strict=True)
    return [Edge(*each) for each in found]


def edges_by_heads(
    model: Model, transcoders: TranscoderSet, graph: Graph, edges: Sequence[Edge], *, memory: int = 1 << 28
) -> list[EdgeByHeads]:
    """The heads that carry each of the given edges, in the order given.

    Args:
        graph: its targets are tokens, contrasts or features.
        memory: bytes of working arrays; at least one edge is computed at a time.

    Raises InputError as `head_loadings` does.
    """
    if not edges:
        return []
    targets = list(dict.fromkeys(edge.target for edge in edges))
    frozen = frozen_graph(model, transcoders, graph, [target_of_node(graph, target) for target in targets])
    local, n_pos = frozen.local, frozen.local.n_pos
    each = frozen.local.n_layers * n_pos * model.d_model + 3 * local.frozen.pattern[0][0].numel()
    size = max(1, memory // (each * local.frozen.embed.element_size()))
    readouts = dict(zip(targets, frozen.readouts, strict=True))
    found: dict[int, EdgeByHeads] = {}
    for place in sorted({(readout.layer, readout.pos) for readout in frozen.readouts}):
        here = [i for i, edge in enumerate(edges) if (readouts[edge.target].layer, readouts[edge.target].pos) == place]
        for start in range(0, len(here), size):
            some = here[start : start + size]
            readers = [readouts[edges[i].target] for i in some]
            steps = _steps(local, readers, _Written(frozen.source, graph, [edges[i].source for i in some]))
            for i, lost, best in zip(some, *steps, strict=True):
                weight = float(graph.adjacency[edges[i].target, edges[i].source])
                heads = _parts(lost.double() / weight, best, place[1] + 1)
                found[i] = EdgeByHeads(*edges[i], weight, heads)
    return [found[i] for i in range(len(edges))]


def _parts(share: Float[Tensor, "layer head"], best: Int[Tensor, "layer head"], n_keys: int) -> tuple[HeadPart, ...]:
    """The heads that carry at least `WORTH_TELLING` of the edge, the largest first."""
    heads = []
    for place in share.abs().flatten().argsort(descending=True, stable=True).tolist():
        layer, head = divmod(place, share.shape[1])
        if abs(float(share[layer, head])) < WORTH_TELLING:
            break
        heads.append(HeadPart(layer, head, float(share[layer, head]), *divmod(int(best[layer, head]), n_keys)))
    return tuple(heads)


def _steps(
    local: LocalReplacement, readers: Sequence[Readout], written: _Written
) -> tuple[Float[Tensor, "edge layer head"], Int[Tensor, "edge layer head"]]:
    """The part of each edge that is lost without each head, and the head's largest step as query * number of places +
    key."""
    n_places = readers[0].pos + 1
    n_heads = local.frozen.pattern[0].shape[1]
    between = dict(gradients(local, readers))
    lost = local.frozen.embed.new_zeros(len(readers), local.n_layers, n_heads)
    best = torch.zeros(lost.shape, dtype=torch.long, device=lost.device)
    for layer, x in enumerate(written.streams(local, n_places)):
        if layer in between:
            steps = attention_steps(local, layer, between[layer], _values(local, layer, x)).flatten(2)
            lost[:, layer], best[:, layer] = steps.sum(2), steps.abs().argmax(2)
    return lost, best


def gradients(
    local: LocalReplacement,
    readers: Sequence[Readout],
    features: Callable[[int, Mapping[int, Tensor]], Tensor] | None = None,
) -> Iterator[tuple[int, Float[Tensor, "pos row d_model"]]]:
    """From the top down, the gradients of read-outs at one layer and position, taken between attention and MLP of each
    block.

    `features(layer, writes)` returns the gradient at a transcoder's input that comes back through its features, given those
    at the MLP outputs of its layer and all above. None: paths through features are left out.
    """
    layer, g = readers[0].layer, start_of(local, readers)
    if layer < local.n_layers:  # a transcoder reads after the attention of its own block
        yield layer, g
        g = through_attention(local, layer, g)
    writes: dict[int, Tensor] = {}
    for lower in range(layer - 1, -1, -1):
        W_skip, back = local.skip(lower), None
        if features is not None or W_skip is not None:
            writes[lower] = write_transpose(local, lower, g)
        if features is not None:
            back = features(lower, writes)
        if W_skip is not None:
            back = writes[lower] @ W_skip + (0 if back is None else back)
        g = g if back is None else g + read_transpose(local, lower, back)
        yield lower, g
        g = through_attention(local, lower, g)


def attention_steps(
    local: LocalReplacement,
    layer: int,
    g: Float[Tensor, "query row d_model"],
    values: Float[Tensor, "row key head d_head"],
) -> Float[Tensor, "row head query key"]:
    """The contribution of each attention step (head, query, key) of a block, for given values and for read-outs with
    gradient g after it."""
    frozen, n_places = local.frozen, g.shape[0]
    pattern = frozen.pattern[layer][local.row][:, :n_places, :n_places]
    if frozen.scale1_post is not None:
        g = g / frozen.scale1_post[layer][local.row, :n_places, None]
    z = (g @ local.attention[layer].output.T).unflatten(-1, values.shape[2:])
    return torch.einsum("qnhe,nkhe->nhqk", z, values) * pattern


def _values(
    local: LocalReplacement, layer: int, x: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row pos head d_head"]:
    """The values of all heads, without constants."""
    frozen = local.frozen
    values = (x / frozen.scale1[layer][local.row, : x.shape[1]]) @ local.attention[layer].value
    return values.unflatten(-1, (frozen.pattern[layer].shape[1], -1))


class _Written:
    """The outputs of source nodes: at the embedding, and where the MLPs of layers write to the stream."""

    def __init__(self, source: Sources, graph: Graph, nodes: Sequence[int]) -> None:
        self.source = source
        columns = node_columns(source)[nodes].tolist()
        kinds, layers, places = (column[nodes].tolist() for column in (graph.kind, graph.layer, graph.pos))
        self.nodes = list(zip(columns, kinds, layers, places, strict=True))

    def embedded(self, local: LocalReplacement) -> Float[Tensor, "node pos d_model"]:
        x = local.frozen.embed.new_zeros(len(self.nodes), local.n_pos, local.frozen.embed.shape[2])
        for i, (_, kind, _, pos) in enumerate(self.nodes):
            if kind == TOKEN:
                x[i, pos] = local.frozen.embed[local.row, pos]
        return x

    def at(self, local: LocalReplacement, layer: int) -> Float[Tensor, "node pos d_model"]:
        out = local.frozen.embed.new_zeros(len(self.nodes), local.n_pos, local.frozen.embed.shape[2])
        for i, (column, kind, own, pos) in enumerate(self.nodes):
            if kind != TOKEN and own <= layer:  # a cross-layer feature also writes to the layers above its own
                start, stop, vectors = cell(local, self.source, layer, pos)
                if start <= column < stop:
                    out[i, pos] = vectors[column - start]
        return out

    def streams(self, local: LocalReplacement, n_places: int) -> Iterator[Float[Tensor, "node pos d_model"]]:
        """The nodes' contributions to the stream that enters each block, at the first `n_places` positions."""
        x = self.embedded(local)
        for layer in range(local.n_layers):
            yield x[:, :n_places]
            x = x + attend(local, layer, x, affine=False)
            out, W_skip = self.at(local, layer), local.skip(layer)
            if W_skip is not None:
                out = out + read(local, layer, x, affine=False) @ W_skip.T
            x = x + write(local, layer, out)
