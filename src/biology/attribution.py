"""The attribution graph of one prompt: targets, selection of feature nodes, assembly.

Edges are direct effects in the local replacement model (attention patterns and norm scales frozen), computed by the
transposed chain of `direct_effects`. Position 0 is the beginning-of-sequence token: its features and errors are no
nodes, its MLP outputs belong to the bias. `bias` is read off an affine pass with all sources zero, `pre_activation`
off the unmodified forward pass, so that "incoming edges + bias = pre-activation" checks every row; the worst residual
is in the metadata.

Under a budget, features are chosen by their influence on the targets through the rows known so far, a few at a time;
what is left out is added to the error node of its cell, so that a budgeted graph still adds up ("Circuit Tracing"
drops them; so does circuit-tracer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology import targets as target_nodes
from biology.config import InputError
from biology.direct_effects import ActiveFeatures, Readers, Sources, active_features, effect_rows, sources
from biology.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph, row_residual, sweep_influence
from biology.model import Model, token_batch, token_text
from biology.replacement import LocalReplacement, bias_pass, freeze_prompt
from biology.targets import Readout, Target
from biology.transcoders import TranscoderSet

ALL_ROWS_FACTOR = (
    3  # up to this many times the budget, computing every row is cheap enough to select by exact influence
)


def attribute(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Int[Tensor, " pos"] | Sequence[int],
    *,
    targets: Sequence[Target | int] | None = None,
    max_logits: int = 10,
    logit_probability: float = 0.95,
    max_feature_nodes: int | None = None,
    features: Sequence[tuple[int, int, int]] | None = None,
    position: int = -1,
    first_position: int = 1,
    memory: int = 1 << 28,
    progress: Callable[[int, int], None] | None = None,
) -> Graph:
    """The attribution graph of one prompt.

    Args:
        targets: what to explain (see `biology.targets`; an int is a token); None for the most probable tokens after
            `position`: the shortest list that reaches `logit_probability`, at most `max_logits`.
        max_feature_nodes: budget of feature nodes, chosen by influence; None for all active features, 0 for none.
        features: the feature nodes themselves, as (layer, pos, feature), instead of a budget; each must be active.
        position: which position's next-token logits are explained if `targets` is None. Later tokens are dropped:
            they cannot matter.
        first_position: features and errors before it are no nodes (1: the beginning-of-sequence token only).
        memory: bytes of working arrays, beyond the graph itself.
        progress: called with (rows done, rows in all).

    Features that no target can read (in the layer of a feature target or above) are no nodes.

    Raises:
        InputError: an empty or overlong prompt, an unknown token, position, layer or feature, a budget below 0,
            a given feature that is not active, transcoders that do not fit the model, or effects that are not finite.
    """
    _check(model, transcoders, max_logits, logit_probability, max_feature_nodes, features, first_position)
    ids = token_batch(model, torch.as_tensor(token_ids, dtype=torch.long).view(1, -1))
    chosen_targets = target_nodes.normalise(targets)
    places = target_nodes.positions(chosen_targets, position, ids.shape[1])
    ids = ids[:, : max(places) + 1]
    logit_positions = sorted(set(places))
    local = freeze_prompt(model, transcoders.to(model.device, model.dtype), ids, positions=logit_positions)
    readouts = target_nodes.resolve(
        model,
        local,
        chosen_targets,
        places,
        logit_positions,
        max_logits=max_logits,
        logit_probability=logit_probability,
    )
    active = active_features(local, first_position, max(readout.layer for readout in readouts))
    job = _Job(local, active, readouts, first_position, memory, progress)
    given = None if features is None else _positions_of(active, features, local.n_pos)
    if given is None and (max_feature_nodes is None or max_feature_nodes >= len(active)):
        graph = _whole_graph(job)
    else:
        graph = _selected_graph(job, max_feature_nodes or 0, given)
    graph.metadata.update(_metadata(model, transcoders, job, max_logits, logit_probability, max_feature_nodes))
    residual = row_residual(graph)
    graph.metadata["row_residual"] = float(residual.max())
    if not bool(torch.isfinite(residual).all()):
        raise InputError("the graph has effects that are not finite: are the transcoders meant for this model?")
    return graph


def _check(
    model: Model,
    transcoders: TranscoderSet,
    max_logits: int,
    logit_probability: float,
    max_feature_nodes: int | None,
    features: Sequence[tuple[int, int, int]] | None,
    first_position: int,
) -> None:
    if transcoders.n_layers != model.n_layers or transcoders.d_model != model.d_model:
        raise InputError(
            f"transcoders of {transcoders.n_layers} layers and width {transcoders.d_model} do not fit model"
            f" {model.name} with {model.n_layers} layers and width {model.d_model}"
        )
    if max_logits < 1:
        raise InputError(f"max_logits must be at least 1, not {max_logits}")
    if not 0 < logit_probability <= 1:
        raise InputError(f"logit_probability must lie in (0, 1], not {logit_probability}")
    if max_feature_nodes is not None and max_feature_nodes < 0:
        raise InputError(f"max_feature_nodes must be 0 (no feature nodes) or more, not {max_feature_nodes}")
    if max_feature_nodes is not None and features is not None:
        raise InputError("give either max_feature_nodes or features, not both")
    if first_position < 0:
        raise InputError(f"first_position must be 0 or more, not {first_position}")


@dataclass(frozen=True, eq=False)
class _Job:
    local: LocalReplacement
    active: ActiveFeatures
    readouts: Sequence[Readout]
    first_position: int
    memory: int
    progress: Callable[[int, int], None] | None

    def sources(self, keep: Tensor | None = None) -> Sources:
        return sources(self.local, self.active, self.first_position, len(self.readouts), keep=keep)

    def target_readers(self) -> Readers:
        layer = torch.tensor([readout.layer for readout in self.readouts])
        pos = torch.tensor([readout.pos for readout in self.readouts])
        return Readers(layer, pos, torch.stack([readout.vector for readout in self.readouts]))

    def feature_readers(self, chosen: Tensor) -> Readers:
        """Readers of the active features at these indices, any order."""
        layer, feature = self.active.layer[chosen], self.active.feature[chosen]
        vectors = self.local.frozen.embed.new_empty(chosen.numel(), self.local.frozen.embed.shape[2])
        for index in layer.unique().tolist():
            here = layer == index
            vectors[here] = self.local.transcoders.layers[index].W_enc[feature[here]]
        return Readers(layer, self.active.pos[chosen], vectors)

    def report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def _positions_of(active: ActiveFeatures, features: Sequence[tuple[int, int, int]], n_pos: int) -> Tensor:
    """Indices of given (layer, pos, feature) among the active features."""
    index = {
        key: i
        for i, key in enumerate(zip(*(t.tolist() for t in (active.layer, active.pos, active.feature)), strict=True))
    }
    found = []
    for layer, pos, feature in features:
        key = (int(layer), int(pos) % n_pos, int(feature))
        if key not in index:
            raise InputError(f"feature {feature} of layer {layer} is not active at position {pos} of this prompt")
        found.append(index[key])
    return torch.tensor(sorted(set(found)), dtype=torch.long, device=active.layer.device)


# --------------------------------------------------------------------------------------------------------- selection
def _fill(
    job: _Job, source: Sources, readers: Readers, out: Tensor, first: int, columns: Tensor | slice = slice(None)
) -> None:
    """Write the rows of `readers` into `out` from row `first` on, restricted to `columns`."""

    def emit(index: Tensor, effects: Tensor) -> None:
        out[index + first] = effects[:, columns]

    effect_rows(job.local, source, readers, emit, memory=job.memory)


def _whole_graph(job: _Job) -> Graph:
    """Every active feature is a node; rows go straight into the adjacency matrix."""
    source = job.sources()
    every = torch.arange(len(job.active), device=job.active.layer.device)
    columns = _node_columns(source, source.feature_column)
    return _graph(job, job.active, _adjacency(job, source, every, columns))


def _adjacency(job: _Job, source: Sources, chosen: Tensor, columns: Tensor) -> Float[Tensor, "node node"]:
    """The square adjacency matrix, with the rows of the chosen features first and those of the targets last."""
    adjacency = job.local.frozen.embed.new_zeros(columns.numel(), columns.numel())
    n_targets = len(job.readouts)
    _fill(job, source, job.target_readers(), adjacency, columns.numel() - n_targets, columns)
    _fill(job, source, job.feature_readers(chosen), adjacency, 0, columns)
    job.report(chosen.numel() + n_targets, chosen.numel() + n_targets)
    return adjacency


def _selected_graph(job: _Job, budget: int, given: Tensor | None) -> Graph:
    """Some features are nodes, the rest is folded into the errors of the cells they write to."""
    source = job.sources()
    if given is None:
        rows, chosen = _select(job, source, budget)
    else:
        rows, chosen = None, given
    keep = torch.zeros(len(job.active), dtype=torch.bool, device=chosen.device)
    keep[chosen] = True
    active = job.active.subset(keep)
    if rows is None or job.local.transcoders.kind != "per_layer":
        # a cross-layer feature writes to several cells, whose shares its column does not tell: compute its rows anew
        folded = job.sources(keep)
        return _graph(job, active, _adjacency(job, folded, chosen, _node_columns(folded, folded.feature_column)))
    # a per-layer feature writes to its own cell only: the columns left out join the error columns there
    layer, place = job.active.layer[~keep], job.active.pos[~keep] - job.first_position
    rows.index_add_(1, source.stop[place, layer] - 1, rows[:, source.feature_column[~keep]])
    columns = _node_columns(source, source.feature_column[keep])
    adjacency = rows.new_zeros(columns.numel(), columns.numel())
    n_targets = len(job.readouts)
    adjacency[: chosen.numel()] = rows[n_targets:, columns]
    adjacency[columns.numel() - n_targets :] = rows[:n_targets, columns]
    return _graph(job, active, adjacency)


def _select(job: _Job, source: Sources, budget: int) -> tuple[Tensor, Int[Tensor, " chosen"]]:
    """Rows (targets first) and sorted indices of the `budget` features with the most influence on the targets.

    With few features beyond the budget all rows are computed and the choice is exact. Otherwise the best features not
    yet visited are added in steps, by their influence through the rows known so far.
    """
    n_active, n_targets = len(job.active), len(job.readouts)
    exact = 0 < budget and n_active <= ALL_ROWS_FACTOR * budget
    rows = job.local.frozen.embed.new_zeros(n_targets + (n_active if exact else budget), source.n_columns)
    _fill(job, source, job.target_readers(), rows, 0)
    job.report(n_targets, rows.shape[0])
    visited = torch.empty(0, dtype=torch.long, device=rows.device)
    step = n_active if exact else max(64, budget // 8)
    while visited.numel() < rows.shape[0] - n_targets:
        first = n_targets + visited.numel()
        strength = _feature_influence(job, source, rows[:first], visited)
        strength[visited] = -1
        chosen = strength.topk(min(step, rows.shape[0] - first)).indices
        _fill(job, source, job.feature_readers(chosen), rows, first)
        visited = torch.cat([visited, chosen])
        job.report(n_targets + visited.numel(), rows.shape[0])
    if exact:
        best = _feature_influence(job, source, rows, visited)[visited].topk(budget).indices
    else:
        best = torch.arange(budget, device=rows.device)
    best = best[visited[best].argsort()]
    return torch.cat([rows[:n_targets], rows[n_targets:][best]]), visited[best]


def _feature_influence(job: _Job, source: Sources, rows: Tensor, visited: Tensor) -> Float[Tensor, " active"]:
    """Influence of every active feature on the targets through the rows known so far (targets first, then
    `visited`)."""
    n_targets, n_columns = len(job.readouts), rows.shape[1]
    target_node = torch.arange(n_columns - n_targets, n_columns, device=rows.device)
    node = torch.cat([target_node, source.feature_column[visited]])
    depth = torch.cat([torch.full_like(target_node, job.local.n_layers), job.active.layer[visited]])
    weights = torch.zeros(n_columns, dtype=torch.float64, device=rows.device)
    for column, readout in zip(target_node.tolist(), job.readouts, strict=True):
        weights[column] = readout.weight
    return sweep_influence(rows, node, depth, weights)[source.feature_column]


def _node_columns(source: Sources, feature_column: Tensor) -> Int[Tensor, " node"]:
    """For each node, in graph order, its column: features, errors, tokens, targets."""
    tail = torch.arange(source.token_start, source.n_columns, device=feature_column.device)
    return torch.cat([feature_column, source.error_column, tail])


# ---------------------------------------------------------------------------------------------------------- assembly
def _graph(job: _Job, active: ActiveFeatures, adjacency: Tensor) -> Graph:
    """Node table, bias and pre-activations for a finished adjacency matrix."""
    local, first, n_targets = job.local, job.first_position, len(job.readouts)
    device, dtype = adjacency.device, adjacency.dtype
    n_layers, n_pos, n_features = local.n_layers, local.n_pos, len(active)
    cell_layer = torch.arange(n_layers, device=device).repeat_interleave(max(0, n_pos - first))
    cell_pos = torch.arange(first, max(first, n_pos), device=device).repeat(n_layers)
    counts = (n_features, cell_layer.numel(), n_pos, n_targets)

    def column(
        features: Tensor | None, errors: Tensor | None, tokens: Tensor | None, targets: list | None, fill, of=torch.long
    ):
        parts = []
        for part, count in zip((features, errors, tokens, targets), counts, strict=True):
            part = [fill] * count if part is None else part
            parts.append(torch.as_tensor(part, dtype=of, device=device))
        return torch.cat(parts)

    every, readouts = torch.arange(n_pos, device=device), job.readouts
    reads, last = bias_pass(local, first)
    bias = torch.zeros(n_features, dtype=dtype, device=device)
    for layer in active.layer.unique().tolist():
        here = active.layer == layer
        transcoder, feature = local.transcoders.layers[layer], active.feature[here]
        bias[here] = (transcoder.W_enc[feature] * reads[layer][active.pos[here]]).sum(1) + transcoder.b_enc[feature]
    target_bias = []
    for readout in readouts:
        seen = last if readout.layer == n_layers else reads[readout.layer]
        target_bias.append(float((readout.vector.double() * seen[readout.pos].double()).sum()) + readout.offset)
    kinds = torch.tensor([FEATURE, ERROR, TOKEN, LOGIT], dtype=torch.int8, device=device)
    target_layer = [readout.layer if readout.layer < n_layers else -1 for readout in readouts]
    return Graph(
        kind=kinds.repeat_interleave(torch.tensor(counts, device=device)),
        layer=column(active.layer, cell_layer, None, target_layer, -1),
        pos=column(active.pos, cell_pos, every, [readout.pos for readout in readouts], -1),
        feature=column(active.feature, None, None, [readout.feature for readout in readouts], -1),
        token_id=column(None, None, local.frozen.ids[local.row], [readout.token_id for readout in readouts], -1),
        activation=column(active.activation, None, None, None, 0.0, dtype),
        probability=column(None, None, None, [readout.weight for readout in readouts], 0.0, dtype),
        adjacency=adjacency,
        bias=column(bias, None, None, target_bias, 0.0, dtype),
        pre_activation=column(active.pre_activation, None, None, [r.pre_activation for r in readouts], 0.0, dtype),
    )


def _metadata(
    model: Model, transcoders: TranscoderSet, job: _Job, max_logits, logit_probability, budget
) -> dict[str, Any]:
    ids = job.local.frozen.ids[job.local.row].tolist()
    return {
        "model": model.name,
        "architecture": model.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_layers": model.n_layers,
        "n_vocab": model.n_vocab,
        "token_ids": ids,
        "tokens": [token_text(model, token) for token in ids],
        "target_labels": [readout.label for readout in job.readouts],
        "transcoders": transcoders.name,
        "transcoder_kind": transcoders.kind,
        "activation_function": transcoders.activation,
        "read_hook": transcoders.read_hook,
        "write_hook": transcoders.write_hook,
        "n_active": len(job.active),
        "first_position": job.first_position,
        "max_logits": max_logits,
        "logit_probability": logit_probability,
        "max_feature_nodes": budget,
    }
