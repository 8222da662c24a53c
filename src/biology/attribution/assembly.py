"""The attribution graph of one or many prompts: targets, features, edges, assembly.

Edges are direct effects in the local replacement model (attention patterns and norm scales frozen). Whole graphs of per-layer
transcoders are computed from both sides (`whole_graph`), all others row by row (`selection`, `reader_gradients`); the edges are the
same.

Position 0 is the beginning-of-sequence token. Its features and errors are not nodes; its MLP outputs belong to the bias. A word
in its place is treated the same, with a warning: whatever its token, the first position gathers attention, and transcoders are not
trained on it.

`bias` comes from an affine pass with all sources zero, `pre_activation` from the unmodified forward pass. So "incoming edges + bias
= pre-activation" is a check of every row; the largest residual is in the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution import targets as target_nodes
from biology.attribution.direct_effects import ActiveFeatures, batch_active_features, warn_without_bos
from biology.attribution.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph, empty_edges, row_residual
from biology.attribution.graph_memory import Estimate, OnEstimate, Sizes, forward_pass, row_by_row, sizes_of
from biology.attribution.graph_memory import whole as whole_memory
from biology.attribution.live_effects import FrozenOrLive, LiveEffects, with_remainders
from biology.attribution.reader_gradients import effect_rows
from biology.attribution.replacement import LocalReplacement, bias_pass, freeze_prompt
from biology.attribution.requests import Settings, check, prepared
from biology.attribution.selection import Job, selected_adjacency, whole_adjacency
from biology.attribution.targets import Explained, Readout, Target
from biology.attribution.whole_graph import both_sides, fill_edges, meeting_layer
from biology.models.model import Model, token_text
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet

MEMORY = 4 << 30  # bytes
SMALL_BYTES = 1 << 26  # sources may take this on their way up, or a quarter of the graphs' own size if that is more
SMALL = 4000  # prompts with fewer active features are traced row by row: two sides would gain little
BATCH = 1 << 16  # elements in one layer's residual streams of prompts that are traced together


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
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
    on_estimate: OnEstimate | None = None,
    attention: FrozenOrLive = "frozen",
    norms: FrozenOrLive = "frozen",
    explain: Explained = "logits",
) -> Graph:
    """The attribution graph of one prompt.

    Args:
        targets: what to explain (see `biology.attribution.targets`; an int is a token). None: the most probable tokens after
            `position`, the shortest list that reaches `logit_probability`, at most `max_logits`.
        max_feature_nodes: budget of feature nodes, chosen by influence; None for all active features, 0 for none.
        features: the feature nodes, as (layer, pos, feature), instead of a budget; each must be active.
        position: the position whose next-token logits are explained if `targets` is None. Later tokens are dropped:
            they have no effect on it.
        first_position: features and errors before it are not nodes (1: leaves out the beginning-of-sequence token only). Warns
            if the prompt's first token is a word.
        memory: bytes of working arrays, beyond the graph itself. If the rows for a budget do not fit, only their
            largest entries are kept for the choice, and the rows of the chosen features are computed again.
        progress: called with (rows done, rows in all).
        on_estimate: called with the estimated memory before the forward pass, and again before the graph is built; may raise
            (`graph_memory.require`).
        attention, norms: "live" includes in the edges, to first order, the effects through attention patterns or norm scales
            (`live_effects`). The bias is then the remainder.
        explain: what to explain if `targets` is None: the logits of the most probable tokens, or the first one's logit minus the
            second one's, which predicts ablations better (`validation.ablation_prediction`).

    Features that no target can read (in the layer of a feature target or above) are not nodes.

    Raises:
        InputError: an empty or overlong prompt, an unknown token, position, layer or feature, a budget below 0,
            a given feature that is not active, transcoders that do not fit the model, or effects that are not finite.
    """
    settings = Settings(
        max_logits, logit_probability, max_feature_nodes, first_position, memory, progress, on_estimate, attention, norms,
        explain,
    )  # fmt: skip
    check(model, transcoders, settings, features)
    ids, chosen, places = prepared(model, token_ids, targets, position)
    warn_without_bos(model, [ids], first_position)
    return _trace(model, transcoders, ids, [chosen], [places], [features], settings, alone=True)[0]


def attribute_batch(
    model: Model,
    transcoders: TranscoderSet,
    prompts: Sequence[Int[Tensor, " pos"] | Sequence[int]],
    *,
    targets: Sequence[Sequence[Target | int] | None] | None = None,
    max_logits: int = 10,
    logit_probability: float = 0.95,
    max_feature_nodes: int | None = None,
    features: Sequence[Sequence[tuple[int, int, int]] | None] | None = None,
    position: int = -1,
    first_position: int = 1,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> list[Graph]:
    """The attribution graphs of many prompts: the same as `attribute` gives, in less time.

    Prompts of equal length share forward passes and matrix products. `targets` and `features` are given per prompt, all other
    arguments hold for all; `progress` is called with (prompts done, prompts in all). Raises as `attribute` does.
    """
    settings = Settings(max_logits, logit_probability, max_feature_nodes, first_position, memory, None)
    every_target = [None] * len(prompts) if targets is None else list(targets)
    every_feature = [None] * len(prompts) if features is None else list(features)
    if not len(prompts) == len(every_target) == len(every_feature):
        raise InputError(
            f"{len(prompts)} prompts, but {len(every_target)} lists of targets, {len(every_feature)} of features"
        )
    asked = []
    for ids, wanted, given in zip(prompts, every_target, every_feature, strict=True):
        check(model, transcoders, settings, given)
        asked.append((*prepared(model, ids, wanted, position), given))
    warn_without_bos(model, [ids for ids, *_ in asked], first_position)
    by_length: dict[int, list[int]] = {}
    for index, (ids, *_) in enumerate(asked):
        by_length.setdefault(ids.shape[1], []).append(index)
    graphs: dict[int, Graph] = {}
    for n_pos, indices in by_length.items():
        step = max(1, BATCH // (n_pos * model.d_model))
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            rows, chosen, places, given = zip(*(asked[index] for index in part), strict=True)
            traced = _trace(model, transcoders, torch.cat(rows), chosen, places, given, settings, alone=False)
            graphs.update(zip(part, traced, strict=True))
            if progress is not None:
                progress(len(graphs), len(prompts))
    return [graphs[index] for index in range(len(prompts))]


def _trace(
    model: Model,
    transcoders: TranscoderSet,
    ids: Int[Tensor, "prompt pos"],
    targets: Sequence[list[Target] | None],
    places: Sequence[list[int]],
    features: Sequence[Sequence[tuple[int, int, int]] | None],
    settings: Settings,
    *,
    alone: bool,
) -> list[Graph]:
    """Graphs of prompts of equal length."""
    read_at = sorted({place for of_prompt in places for place in of_prompt})
    transcoders = transcoders.to(model.device, model.precision)
    if settings.on_estimate is not None:
        sizes = _sizes(model, transcoders, ids.shape[1], settings)
        settings.on_estimate(sizes, forward_pass(sizes))
    local = freeze_prompt(model, transcoders, ids, positions=read_at)
    limits = {"max_logits": settings.max_logits, "logit_probability": settings.logit_probability}
    limits |= {"explain": settings.explain}
    readouts = [
        target_nodes.resolve(model, replace(local, row=row), wanted, where, read_at, **limits)
        for row, (wanted, where) in enumerate(zip(targets, places, strict=True))
    ]
    whole = settings.max_feature_nodes is None and all(given is None for given in features) and not settings.live
    simple = all(
        {readout.layer for readout in of_prompt} == {model.n_layers} and where == sorted(where)
        for of_prompt, where in zip(readouts, ([readout.pos for readout in each] for each in readouts), strict=True)
    )
    both = replace(local, row=slice(None))
    prompt, active = batch_active_features(both, settings.first_position)
    traced = _Traced(model, both, prompt, active, readouts, bias_pass(both, settings.first_position), settings)
    if (
        whole
        and simple
        and transcoders.kind == "per_layer"
        and 0 < settings.first_position < ids.shape[1]
        and not (alone and len(active) < SMALL)
    ):
        return traced.whole()
    return [traced.one(row, given) for row, given in enumerate(features)]


@dataclass(frozen=True, eq=False)
class _Traced:
    """Prompts of equal length with their active features, sorted by (layer, prompt, pos, feature)."""

    model: Model
    local: LocalReplacement
    prompt: Int[Tensor, " active"]
    active: ActiveFeatures
    readouts: Sequence[Sequence[Readout]]
    bias: tuple[list[Tensor], Tensor]
    settings: Settings

    def one(self, row: int, given: Sequence[tuple[int, int, int]] | None) -> Graph:
        """The graph of one prompt, row by row."""
        settings, readouts = self.settings, self.readouts[row]
        below = max(readout.layer for readout in readouts)
        active = self.active.subset((self.prompt == row) & (self.active.layer < below))
        local = replace(self.local, row=row)
        job = Job(local, active, readouts, settings.first_position, settings.memory, settings.progress)
        if settings.live:
            job = replace(job, effects=LiveEffects(self.model, local, settings.attention, settings.norms))
        budget = settings.max_feature_nodes
        self.report_estimate(active, row, row_by_row, budget if given is None else len(given), given is not None)
        if given is None and (budget is None or budget >= len(active)):
            chosen, adjacency = torch.arange(len(active), device=active.layer.device), whole_adjacency(job)
        else:
            at = None if given is None else active.index(given, local.n_pos)
            chosen, adjacency = selected_adjacency(job, budget or 0, at)
        nodes, frozen = active.subset(chosen), None
        if settings.live:  # the same edges once more, with everything frozen
            frozen = selected_adjacency(replace(job, effects=effect_rows, progress=None), 0, chosen)[1]
        return self.graph(row, nodes, len(active), adjacency, self.feature_bias(row, nodes), frozen)

    def whole(self) -> list[Graph]:
        """Whole graphs from both sides."""
        local, active, first = self.local, self.active, self.settings.first_position
        n_prompts, n_pos = local.frozen.ids.shape
        device, embed = self.prompt.device, local.frozen.embed
        counts = torch.bincount(self.prompt, minlength=n_prompts)
        order = self.prompt.argsort(stable=True)  # by prompt, then as in a graph
        node = torch.empty_like(order)
        node[order] = torch.arange(len(active), device=device) - (counts.cumsum(0) - counts)[self.prompt[order]]
        token = counts + local.n_layers * (n_pos - first)
        n_nodes = token + n_pos + torch.tensor([len(of_prompt) for of_prompt in self.readouts], device=device)
        starts = (counts, token, token + n_pos)
        tokens, sources, readers = both_sides(local, self.prompt, active, self.readouts, first, node, starts)
        held = max(embed.element_size() * int(n_nodes.square().sum()) // 4, SMALL_BYTES)
        meeting = meeting_layer(local, sources, readers, first, min(self.settings.memory, held))
        self.report_estimate(active, 0, lambda sizes: whole_memory(sizes, meeting), None)
        out = [empty_edges(n, n, embed.dtype, embed.device) for n in n_nodes.tolist()]
        done, total = 0, sum(len(of_layer.prompt) for of_layer in readers)

        def report(rows: int) -> None:
            nonlocal done
            done += rows
            if self.settings.progress is not None:
                self.settings.progress(done, total)

        fill_edges(local, tokens, sources, readers, out, first, meeting, report)
        ordered, bias = active.subset(order), self.feature_bias(self.prompt, active)[order]
        ends = counts.cumsum(0).tolist()
        of_prompt = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        return [
            self.graph(row, ordered.subset(here), here.stop - here.start, out[row], bias[here])
            for row, here in enumerate(of_prompt)
        ]

    def graph(
        self,
        row: int,
        active: ActiveFeatures,
        n_active: int,
        adjacency: Tensor,
        bias: Tensor,
        frozen: Tensor | None = None,
    ) -> Graph:
        """The graph of a finished adjacency matrix: node table, bias and pre-activations. `active` are the feature nodes, `bias`
        their bias, `frozen` the part of the edges through frozen attention and norms."""
        local, first, readouts = self.local, self.settings.first_position, self.readouts[row]
        device, dtype = adjacency.device, adjacency.dtype
        n_layers, n_pos = local.n_layers, local.n_pos
        n_cells = max(0, n_pos - first)
        counts = (len(active), n_layers * n_cells, n_pos, len(readouts))
        none = torch.full((sum(counts[1:]),), -1, device=device)
        cell_layer = torch.arange(n_layers, device=device).repeat_interleave(n_cells)
        cell_pos = torch.arange(first, first + n_cells, device=device).repeat(n_layers)

        def of_targets(values: list, like: Tensor) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=device)

        target_layer = [readout.layer if readout.layer < n_layers else -1 for readout in readouts]
        zeros = torch.zeros(sum(counts[1:3]), dtype=dtype, device=device)
        target_bias = []
        for readout in readouts:
            seen = self.bias[1] if readout.layer == n_layers else self.bias[0][readout.layer]
            seen = seen[row, readout.pos].double()
            target_bias.append(float(readout.vector.double() @ seen) + readout.offset)
        kinds = torch.tensor([FEATURE, ERROR, TOKEN, LOGIT], dtype=torch.int8, device=device)
        graph = Graph(
            kind=kinds.repeat_interleave(torch.tensor(counts, device=device)),
            layer=torch.cat([active.layer, cell_layer, none[:n_pos], of_targets(target_layer, none)]),
            pos=torch.cat(
                [active.pos, cell_pos, torch.arange(n_pos, device=device), of_targets([r.pos for r in readouts], none)]
            ),
            feature=torch.cat(
                [active.feature, none[: counts[1] + n_pos], of_targets([r.feature for r in readouts], none)]
            ),
            token_id=torch.cat(
                [none[:1].expand(len(active) + counts[1]), local.frozen.ids[row], of_targets([r.token_id for r in readouts], none)]
            ),
            activation=torch.cat([active.activation, zeros, zeros.new_zeros(counts[3])]),
            probability=torch.cat([zeros.new_zeros(len(active)), zeros, of_targets([r.weight for r in readouts], zeros)]),
            adjacency=adjacency,
            bias=torch.cat([bias, zeros, of_targets(target_bias, zeros)]),
            pre_activation=torch.cat(
                [active.pre_activation, zeros, of_targets([r.pre_activation for r in readouts], zeros)]
            ),
            frozen=frozen,
        )  # fmt: skip
        if self.settings.live:
            graph = with_remainders(graph)
        residual = row_residual(graph).max()
        if not bool(torch.isfinite(residual)):
            raise InputError("the graph has effects that are not finite: are the transcoders meant for this model?")
        graph.metadata.update(_metadata(self, row, n_active), row_residual=float(residual))
        return graph

    def report_estimate(
        self,
        active: ActiveFeatures,
        row: int,
        estimated: Callable[[Sizes], Estimate],
        budget: int | None,
        given: bool = False,
    ) -> None:
        """Reports the memory that the graph of a single prompt will need."""
        local, settings = self.local, self.settings
        if settings.on_estimate is not None:
            counts = torch.bincount(active.layer, minlength=local.n_layers).tolist()
            sizes = _sizes(self.model, local.transcoders, local.n_pos, settings)
            sizes = replace(
                sizes,
                n_targets=len(self.readouts[row]),
                active=tuple(counts),
                budget=budget,
                given=given,
                live=settings.live,
            )
            settings.on_estimate(sizes, estimated(sizes))

    def feature_bias(self, prompt: Tensor | int, active: ActiveFeatures) -> Float[Tensor, " active"]:
        """Each feature's pre-activation in the affine pass without sources, its own bias included. Features are sorted by layer."""
        bias = active.pre_activation.new_empty(len(active))
        layers, counts = active.layer.unique_consecutive(return_counts=True)
        stop = 0
        for layer, count in zip(layers.tolist(), counts.tolist(), strict=True):
            here = slice(stop, stop := stop + count)
            transcoder, feature = self.local.transcoders.layers[layer], active.feature[here]
            of = prompt if isinstance(prompt, int) else prompt[here]
            vectors, offsets = transcoder.readers(feature, self.local.frozen.read[layer][of, active.pos[here]])
            bias[here] = (vectors * self.bias[0][layer][of, active.pos[here]]).sum(1) + offsets
        return bias

    @cached_property
    def texts(self) -> dict[int, str]:
        """The tokens of the prompts as text."""
        return {token: token_text(self.model, token) for token in self.local.frozen.ids.unique().tolist()}


def _sizes(model: Model, transcoders: TranscoderSet, n_pos: int, settings: Settings) -> Sizes:
    return sizes_of(model, transcoders, n_pos, first_position=settings.first_position, memory=settings.memory)


def _metadata(traced: _Traced, row: int, n_active: int) -> dict[str, Any]:
    model, local, settings = traced.model, traced.local, traced.settings
    ids, transcoders = local.frozen.ids[row].tolist(), local.transcoders
    return {
        "model": model.name,
        "architecture": model.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_layers": model.n_layers,
        "n_vocab": model.n_vocab,
        "token_ids": ids,
        "tokens": [traced.texts[token] for token in ids],
        "target_labels": [readout.label for readout in traced.readouts[row]],
        "contrasts": [readout.contrast and list(readout.contrast) for readout in traced.readouts[row]],
        "transcoders": transcoders.name,
        "transcoder_kind": transcoders.kind,
        "activation_function": transcoders.activation,
        "read_hook": transcoders.read_hook,
        "write_hook": transcoders.write_hook,
        "n_active": n_active,
        "first_position": settings.first_position,
        "max_logits": settings.max_logits,
        "logit_probability": settings.logit_probability,
        "max_feature_nodes": settings.max_feature_nodes,
        "attention": settings.attention,
        "norms": settings.norms,
        "explain": settings.explain,
    }
