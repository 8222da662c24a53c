"""Which attention heads carry the edges of an attribution graph.

Between a source and its target lies a product of blocks, each the residual stream plus one term per head (patterns and
norm scales frozen). An edge is the sum of its paths through that product, so that the part through one head is exact.
The loading of a single-step edge is v_target . O_h V_h . v_source times the head's attention (Kamath et al., "Tracing
Attention Computation Through Feature Interactions", 2025, head loadings). Their graphs read features at every block, so
that an edge takes one attention step. Ours read at MLPs only, and a path may take several steps; which head such a path
counts for must be chosen (`HeadLoadings.steps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attention.stream_effects import chosen_features, effects_below, node_columns, through_attention
from biology.attribution import targets as target_nodes
from biology.attribution.direct_effects import Sources, active_features, sources
from biology.attribution.graph import FEATURE, LOGIT, Graph
from biology.attribution.replacement import LocalReplacement, final_transpose, freeze_prompt, read_transpose
from biology.attribution.targets import ContrastTarget, FeatureTarget, Readout, Target, TokenTarget
from biology.models.model import Model, token_batch
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet

STEPS = ("any", "last")


@dataclass(frozen=True, eq=False)
class HeadLoadings:
    """The part of each of a target's incoming edges that runs through each attention head.

    `edge[s]` is the whole direct effect of source s and `direct[s]` the part through no attention at all. With steps
    "any", `heads[l, h, s]` is what the edge loses when the frozen output of head h in layer l is cut: the sum of its
    paths through that head. A path of n steps is then counted n times; direct + heads adds up to the edge if no path
    takes two steps. With steps "last" each path counts for the head closest to the target, and the sum is always the
    edge. Divide by `edge` for shares.
    """

    steps: str
    edge: Float[Tensor, " source"]
    direct: Float[Tensor, " source"]
    heads: Float[Tensor, "layer head source"]


def head_loadings(
    model: Model,
    transcoders: TranscoderSet,
    graph: Graph,
    target: int | Target,
    *,
    steps: str = "any",
    memory: int = 1 << 28,
) -> HeadLoadings:
    """The head loadings of the edges into one target of a graph. Entries of `source` are the graph's nodes before its
    targets. The frozen model is rebuilt from the graph's own prompt and features.

    Args:
        target: a feature or token-target node of the graph, by index; or any target, in the graph or not.
        steps: `any` or `last`, see `HeadLoadings`.
        memory: bytes of working arrays; at least one target is computed at a time.

    Raises:
        InputError: a node without incoming edges, an unknown value of `steps`, the node of a direction (give the
            target itself), or features that are not active with these transcoders.
    """
    wanted = target_of_node(graph, target) if isinstance(target, int) else target
    _, edge, direct, heads = next(_loadings(model, transcoders, graph, [wanted], steps, memory))
    return HeadLoadings(steps, edge[0], direct[0], heads[:, :, 0])


def target_of_node(graph: Graph, index: int) -> Target:
    """The target of a node of a graph. Raises InputError for a node without incoming edges, or the node of a
    direction."""
    if not -graph.n_nodes <= index < graph.n_nodes:
        raise InputError(f"node {index} does not exist: the graph has {graph.n_nodes} nodes")
    columns = (graph.kind, graph.layer, graph.pos, graph.feature, graph.token_id)
    kind, layer, pos, feature, token = (int(column[index]) for column in columns)
    if kind in (FEATURE, LOGIT) and feature >= 0:
        return FeatureTarget(layer, pos, feature)
    if kind != LOGIT:
        raise InputError(f"node {index} of the graph has no incoming edges")
    if token >= 0:
        return TokenTarget(token, pos)
    contrast = graph.metadata["contrasts"][index % graph.n_nodes - graph.logits.start]
    if contrast is None:
        raise InputError(f"node {index} of the graph is a direction: give the target itself")
    positive, negative = contrast
    return ContrastTarget(positive, negative, pos)


@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """The local replacement model of a graph, its source nodes, and read-outs of some targets."""

    local: LocalReplacement
    source: Sources
    readouts: list[Readout]


def frozen_graph(model: Model, transcoders: TranscoderSet, graph: Graph, wanted: Sequence[Target]) -> FrozenGraph:
    """The frozen model of a graph, rebuilt from its own prompt and features.

    Raises InputError for features that are not active with these transcoders.
    """
    ids = token_batch(model, graph.metadata["token_ids"])
    n_pos, first = ids.shape[1], int(graph.metadata["first_position"])
    places = target_nodes.positions(wanted, -1, n_pos)
    where = sorted(set(places))
    local = freeze_prompt(model, transcoders.to(model.device, model.precision), ids, positions=where)
    readouts = target_nodes.resolve(model, local, wanted, places, where, max_logits=1, logit_probability=1.0)
    active = active_features(local, first, model.n_layers)
    features = [column[graph.features].tolist() for column in (graph.layer, graph.pos, graph.feature)]
    keep = chosen_features(active, zip(*features, strict=True), n_pos, model.n_layers)
    return FrozenGraph(local, sources(local, active, first, 0, keep=keep), readouts)


def start_of(local: LocalReplacement, readers: Sequence[Readout]) -> Float[Tensor, "pos row d_model"]:
    """Initial gradients of read-outs at one layer and position: between attention and MLP of their block, or at the
    output of the last block."""
    layer, pos = readers[0].layer, readers[0].pos
    vectors = torch.stack([readout.vector for readout in readers]).to(local.frozen.embed.dtype)
    start = vectors.new_zeros(pos + 1, len(readers), vectors.shape[1])
    if layer == local.n_layers:
        start[pos] = final_transpose(local, vectors, pos)
    else:
        start[pos] = read_transpose(local, layer, vectors[None], pos)[0]
    return start


def _loadings(
    model: Model, transcoders: TranscoderSet, graph: Graph, wanted: list[Target], steps: str, memory: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For blocks of targets of one layer and position: their indices, edges [row, source], direct parts [row, source]
    and parts through heads [layer, head, row, source]."""
    if steps not in STEPS:
        raise InputError(f"steps is {' or '.join(STEPS)}, not {steps!r}")
    frozen = frozen_graph(model, transcoders, graph, wanted)
    local, source, readouts = frozen.local, frozen.source, frozen.readouts
    n_pos = local.n_pos
    columns, n_heads = node_columns(source), local.frozen.pattern[0].shape[1]
    each = (
        n_heads * (2 + model.n_layers) * source.n_columns + (6 * n_heads + 2 * model.n_layers) * n_pos * model.d_model
    )
    size = max(1, memory // (each * local.frozen.embed.element_size()))
    for layer, pos in sorted({(readout.layer, readout.pos) for readout in readouts}):
        here = [i for i, readout in enumerate(readouts) if (readout.layer, readout.pos) == (layer, pos)]
        for rows in torch.tensor(here, device=columns.device).split(size):
            yield rows, *_loadings_at(local, source, columns, [readouts[i] for i in rows.tolist()], steps)


def _loadings_at(
    local: LocalReplacement, source: Sources, columns: Int[Tensor, " source"], readers: Sequence[Readout], steps: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges, direct parts and parts through heads, for read-outs of one layer and position."""
    layer, start = readers[0].layer, start_of(local, readers)
    effects: dict[bool, Tensor] = {}
    between: dict[bool, dict[int, Tensor]] = {True: {}, False: {}}
    for attend in (True, False):
        g = start
        if layer < local.n_layers:  # a transcoder reads after the attention of its own block
            between[attend][layer] = g
            g = through_attention(local, layer, g, attend=attend)
        effects[attend] = effects_below(local, source, layer, g, attend=attend, between=between[attend])[:, columns]
    n_heads = local.frozen.pattern[0].shape[1]
    heads = start.new_zeros(local.n_layers, n_heads, len(readers), columns.numel())
    # Any paths may lie between the head and the target ("any"), or only those without attention ("last").
    for lower, g in between[steps == "any"].items():
        through = effects_below(local, source, lower, _through_heads(local, lower, g).flatten(1, 2))[:, columns]
        heads[lower] = through.unflatten(0, (len(readers), n_heads)).transpose(0, 1)
    return effects[True], effects[False], heads


def _through_heads(
    local: LocalReplacement, layer: int, g: Float[Tensor, "pos row d_model"]
) -> Float[Tensor, "pos row head d_model"]:
    """Transpose of each head's output into the residual stream."""
    maps, frozen = local.attention[layer], local.frozen
    pattern = frozen.pattern[layer][local.row][:, : g.shape[0], : g.shape[0]]
    if frozen.scale1_post is not None:
        g = g / frozen.scale1_post[layer][local.row, : g.shape[0], None]
    z = (g @ maps.output.T).unflatten(-1, (pattern.shape[0], -1))
    v = torch.einsum("hqk,qnhe->knhe", pattern, z)
    value = maps.value.unflatten(1, (pattern.shape[0], -1))
    return torch.einsum("knhe,dhe->knhd", v, value) / frozen.scale1[layer][local.row, : g.shape[0], None, None]
