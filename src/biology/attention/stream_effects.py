"""Direct effects on any reader of the residual stream: gradients that start at any block and at many positions.

`attribution.reader_gradients` computes the rows of a graph: a reader is a transcoder or the unembedding, at one position. Here
a reader is the stream that enters a block, at one or many positions: the inputs of an attention head (`qk`), the paths through it
(`head_loadings`). Gradients go down layer by layer, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.attribution.direct_effects import ActiveFeatures, Sources, cell
from biology.attribution.graph import ERROR, FEATURE, TOKEN
from biology.attribution.graph_paths import source_label
from biology.attribution.replacement import LocalReplacement, attention_transpose, read_transpose, write_transpose
from biology.records import InputError


@dataclass(frozen=True, eq=False)
class SourceNodes:
    """Nodes that write to a residual stream, ordered features | errors | tokens as in a `Graph`; -1 or 0 where a field
    does not apply."""

    kind: Int[Tensor, " node"]
    layer: Int[Tensor, " node"]
    pos: Int[Tensor, " node"]
    feature: Int[Tensor, " node"]
    token_id: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    tokens: tuple[str, ...]
    """The prompt's tokens as text, one per position."""

    def __len__(self) -> int:
        return self.kind.numel()

    def node_id(self, index: int) -> str:
        """The node's id in exported graphs."""
        kind, layer, pos = int(self.kind[index]), int(self.layer[index]), int(self.pos[index])
        if kind == TOKEN:
            return f"E_{int(self.token_id[index])}_{pos}"
        return f"{layer}_{int(self.feature[index])}_{pos}"  # -1 for errors

    def label(self, index: int, labels: Mapping[tuple[int, int], str] | None = None) -> str:
        """A node in words, as in `graph_paths.node_label`: `"Dallas"@9`, `feature 3/120@9 (Texas)`, `error 3@9`."""
        kind, layer, pos, feature = (int(of[index]) for of in (self.kind, self.layer, self.pos, self.feature))
        return source_label(kind, layer, pos, feature, self.tokens[pos], labels)


def features_among(nodes: Iterable[tuple[SourceNodes, int]]) -> list[tuple[int, int, int]]:
    """The features among nodes, each given with the set that it is in: (layer, feature, position)."""
    return [
        (int(of.layer[index]), int(of.feature[index]), int(of.pos[index]))
        for of, index in nodes
        if int(of.kind[index]) == FEATURE
    ]


def source_nodes(
    local: LocalReplacement, source: Sources, tokens: tuple[str, ...], *, below: int, places: Iterable[int]
) -> tuple[SourceNodes, Int[Tensor, " node"]]:
    """The source nodes that can reach the stream entering block `below` at a position of `places`, and their columns:
    nodes of lower layers there, and nodes at earlier positions that are followed by an attention step."""
    active, n_pos, first = source.active, local.n_pos, source.first_position
    device = source.feature_column.device
    cell_layer = torch.arange(local.n_layers, device=device).repeat_interleave(max(0, n_pos - first))
    cell_pos = torch.arange(first, max(first, n_pos), device=device).repeat(local.n_layers)
    counts = torch.tensor([len(active), len(cell_layer), n_pos], device=device)
    none = torch.full((len(active) + len(cell_layer) + n_pos,), -1, device=device)
    n_others = none.numel() - len(active)
    layer = torch.cat([active.layer, cell_layer, none[:n_pos]])
    pos = torch.cat([active.pos, cell_pos, torch.arange(n_pos, device=device)])
    at = torch.tensor(sorted(places), device=device)
    reached = (layer < below) & torch.isin(pos, at) | (layer < below - 1) & (pos <= at[-1])
    nodes = SourceNodes(
        kind=torch.tensor([FEATURE, ERROR, TOKEN], device=device).repeat_interleave(counts)[reached],
        layer=layer[reached],
        pos=pos[reached],
        feature=torch.cat([active.feature, none[:n_others]])[reached],
        token_id=torch.cat([none[n_pos:], local.frozen.ids[local.row]])[reached],
        activation=torch.cat([active.activation, active.activation.new_zeros(n_others)])[reached],
        tokens=tokens,
    )
    return nodes, node_columns(source)[reached]


def node_columns(source: Sources) -> Int[Tensor, " node"]:
    """The column of each source node, in graph order (features, errors, tokens)."""
    tokens = torch.arange(source.token_start, source.target_start, device=source.feature_column.device)
    return torch.cat([source.feature_column, source.error_column, tokens])


def chosen_features(
    active: ActiveFeatures, features: Iterable[tuple[int, int, int]], n_pos: int, below: int
) -> Bool[Tensor, " active"]:
    """Mask of the active features that are among the given (layer, pos, feature); those of layers >= `below` are
    ignored.

    Raises InputError for a feature that is not active.
    """
    wanted = {(int(layer), int(pos) % n_pos, int(feature)) for layer, pos, feature in features if layer < below}
    there = list(zip(*(column.tolist() for column in (active.layer, active.pos, active.feature)), strict=True))
    for layer, pos, feature in sorted(wanted.difference(there)):
        raise InputError(f"feature {feature} of layer {layer} is not active at position {pos} of this prompt")
    return torch.tensor([site in wanted for site in there], dtype=torch.bool, device=active.layer.device)


# --------------------------------------------------------------------------------------------------- transposed chain
def through_attention(
    local: LocalReplacement, layer: int, g: Float[Tensor, "pos row d_model"], *, attend: bool = True
) -> Float[Tensor, "pos row d_model"]:
    """Takes a gradient from between attention and MLP of a block to the stream entering the block; without `attend`,
    along the residual stream only."""
    return attention_transpose(local, layer, g, g[0, :0]) if attend else g


def effects_below(
    local: LocalReplacement,
    source: Sources,
    layer: int,
    g: Float[Tensor, "pos row d_model"],
    *,
    attend: bool = True,
    between: dict[int, Tensor] | None = None,
) -> Float[Tensor, "row column"]:
    """Effects of all sources on readers whose gradient at the stream entering block `layer` is g, at positions 0, 1,
    ...

    `layer` n_layers is the output of the last block. `between` collects the gradients between attention and MLP of the
    blocks on the way. Without `attend`, only paths without attention count.
    """
    effects = g.new_zeros(g.shape[1], source.n_columns)
    for lower in range(layer - 1, -1, -1):
        h = write_transpose(local, lower, g)
        for place in range(source.first_position, g.shape[0]):
            start, stop, vectors = cell(local, source, lower, place)
            effects[:, start:stop].addmm_(h[place], vectors.T)
        W_skip = local.skip(lower)
        g = g if W_skip is None else g + read_transpose(local, lower, h @ W_skip)
        if between is not None:
            between[lower] = g
        g = through_attention(local, lower, g, attend=attend)
    tokens = torch.einsum("qnd,qd->nq", g, local.frozen.embed[local.row, : g.shape[0]])
    effects[:, source.token_start : source.token_start + g.shape[0]] = tokens
    return effects
