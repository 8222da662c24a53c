"""How well a prompt's graph and its replacement model represent the model: the method's claims about itself, prompt by prompt.

`cases/measures.py` defines each outcome. The *replacement model* has transcoders instead of all MLPs, without their errors. The
*local* replacement model adds the errors on this prompt, and freezes attention patterns and norm scales. Both are compared with the
model with everything live. Control `random` repeats the measurement with transcoders whose weights are shuffled. Control `shuffle`
permutes influence among the features of a layer: what the layer alone would predict.

Sources: "Circuit Tracing" (Ameisen et al., 2025): replacement model, graph evaluation, pruning, and the appendices on ablation and
on perturbations; Jacobians: "A Toy Model of Mechanistic (Un)Faithfulness" (Transformer Circuits, 2025).
"""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from biology.attribution.assembly import attribute
from biology.attribution.graph import Graph, Scores, prune, scores
from biology.config import AttributionConfig
from biology.models.model import Edit, Model, capture, freeze, run, token_batch
from biology.transcoders.neurons import Neurons
from biology.transcoders.splicing import spliced
from biology.transcoders.transcoder_set import TranscoderSet, decoder, reconstruct_all
from biology.validation.ablation import (
    NODES_OF_GRAPH,
    NODES_OF_LARGE,
    ablation_effects,
    predictions,
    reaching,
    sampled,
    spearman,
)
from biology.validation.ablation_prediction import Linearisation, embedding_gradient

PERTURBED, PERTURBED_OF_LARGE = 16, 4
"""Number of features of a prompt that are ablated for `knock_on`; the second of a large model (`Model.large`)."""
ROUNDING = 1000
"""A change smaller than this many rounding errors counts as none."""
Values = dict[str, list[float]]
"""By arm (`effect` or a control), one value for each draw."""


@dataclass(frozen=True, eq=False)
class TracedPrompt:
    """One prompt, the first position that graphs explain, and the settings of graphs."""

    model: Model
    transcoders: TranscoderSet
    ids: list[int]
    first_position: int
    settings: AttributionConfig

    @cached_property
    def graph(self) -> Graph:
        """The graph of the most probable outputs; for a large model, with only the most influential features."""
        most = self.settings.max_feature_nodes
        return attribute(
            self.model, self.transcoders, self.ids, max_logits=self.settings.max_logits,
            logit_probability=self.settings.logit_probability, first_position=self.first_position,
            max_feature_nodes=NODES_OF_GRAPH if most is None and self.model.large else most,
        )  # fmt: skip

    @cached_property
    def scores(self) -> Scores:
        return scores(self.graph)

    @cached_property
    def kept(self) -> Bool[Tensor, " node"]:
        """The nodes that pruning keeps."""
        return prune(self.graph, self.settings.node_threshold, self.settings.edge_threshold)[0]

    def correlations(self, generator: np.random.Generator) -> Values:
        """For each prediction of `ablation.PREDICTORS`, its rank correlations with the effects of ablations."""
        nodes = reaching(self.graph)
        nodes = sampled(self.graph, nodes, NODES_OF_LARGE, generator) if self.model.large else nodes
        effects = ablation_effects(self.model, self.transcoders, self.ids, self.graph, nodes)
        made = predictions(self.transcoders, self.graph, nodes, generator)
        return {name: [spearman(predicted, effects) for predicted in several] for name, several in made.items()}


ABLATING = ("influence_foretells", "influence_over_edge", "edge_over_activation")
"""Outcomes that are computed from the same ablations."""


def measured(one: TracedPrompt, outcomes: Sequence[str], generator: np.random.Generator) -> dict[str, Values]:
    """Values of the requested outcomes, without control `random`. NaN where nothing can be measured, e.g. with fewer than two
    active features."""
    found = one.correlations(generator) if set(outcomes) & set(ABLATING) else {}
    return {outcome: _values(one, outcome, found, generator) for outcome in outcomes}


def _values(one: TracedPrompt, outcome: str, found: Values, generator: np.random.Generator) -> Values:
    name, _, about = outcome.partition(":")
    match name:
        case "replaced_top1":
            value = replaced_top1(one.model, one.transcoders, one.ids)
        case "replacement" | "completeness":
            value = getattr(one.scores, name)
        case "pruned_completeness":
            value = scores(one.graph, one.kept).completeness / one.scores.completeness
        case "pruned_away":
            features = one.kept[one.graph.features]
            value = 1 - float(features.double().mean()) if len(features) else float("nan")
        case "influence_foretells":
            return {"effect": found["influence"], "shuffle": found["permuted_influence"]}
        case "influence_over_edge" | "edge_over_activation":
            better, worse = {
                "influence_over_edge": ("influence", "direct_edge"),
                "edge_over_activation": ("direct_edge", "activation"),
            }[name]
            value = found[better][0] - found[worse][0]
        case "knock_on":
            value = knock_on(one.model, one.transcoders, one.ids, one.graph, int(about), generator)
        case "gradient_match":
            value = gradient_match(one.model, one.transcoders, one.ids)
        case _:
            raise KeyError(outcome)
    return {"effect": [value]}


def replaced_top1(model: Model, transcoders: TranscoderSet, ids: Sequence[int]) -> float:
    """1 if the replacement model, with live attention, has the model's most probable next token, else 0."""
    tokens = token_batch(model, ids)
    said, _ = run(model, tokens, positions=-1)
    replaced, _ = run(model, tokens, edits=spliced(model, transcoders), positions=-1)
    return float(said.argmax() == replaced.argmax())


def knock_on(
    model: Model, transcoders: TranscoderSet, ids: Sequence[int], graph: Graph, distance: int, generator: np.random.Generator
) -> float:  # fmt: skip
    """Mean cosine between the changes that an ablation causes in the model and in the local replacement model. Changes are those of
    the MLP output `distance` layers above the feature, at all positions; the mean is over some ablated features. Features whose
    ablation changes nothing there in the model are left out; NaN if none is left."""
    nodes = torch.arange(graph.features.start, graph.features.stop)
    nodes = nodes[(graph.layer[nodes] < model.n_layers - distance) & (graph.pos[nodes] > 0)]
    most = PERTURBED_OF_LARGE if model.large else PERTURBED
    nodes = nodes[torch.from_numpy(np.sort(generator.permutation(len(nodes))[:most]))]
    if not len(nodes):
        return float("nan")
    tokens = token_batch(model, ids).expand(len(nodes) + 1, -1)  # the last row is not edited
    clean = capture(model, tokens[:1], read_hook=transcoders.read_hook, write_hook=transcoders.write_hook, positions=-1)
    _, made = reconstruct_all(transcoders, [x[0] for x in clean.read])
    errors = [(written[0] - one).to(written.dtype) for written, one in zip(clean.write, made, strict=True)]
    ablating = _ablating(model, transcoders, graph, nodes)
    above = [int(graph.layer[node]) + distance for node in nodes]
    names = [f"blocks.{layer}.{transcoders.write_hook}" for layer in range(model.n_layers)]
    rows = torch.zeros(len(tokens), dtype=torch.long)
    local = [*freeze(model, clean, mlps=False, rows=rows), *spliced(model, transcoders, errors=errors)]
    changes = []
    for hooks in (ablating, [*local, *ablating]):
        _, seen = run(model, tokens, edits=hooks, reads=names, positions=-1)
        rows_of = [seen[names[layer]][[row, -1]].double().flatten(1) for row, layer in enumerate(above)]
        changes.append(torch.stack([changed - left for changed, left in rows_of]))
    live, told = changes
    size = torch.stack([clean.write[layer].double().norm() for layer in above])
    moved = live.norm(dim=1) > ROUNDING * torch.finfo(model.dtype).eps * size
    return float(torch.cosine_similarity(live[moved], told[moved], dim=1).mean()) if bool(moved.any()) else float("nan")


def _ablating(model: Model, transcoders: TranscoderSet, graph: Graph, nodes: Tensor) -> list[tuple[str, Edit]]:
    """Edits that subtract each node's output from the MLP outputs, each in a row of its own."""

    def take(row: Tensor, pos: Tensor, vector: Tensor) -> Edit:
        return lambda tensor: tensor.index_put((row, pos), -vector.to(tensor.dtype), accumulate=True)

    hooks: list[tuple[str, Edit]] = []
    for layer in graph.layer[nodes].unique().tolist():
        mine = (graph.layer[nodes] == layer).nonzero().flatten()
        chosen = nodes[mine]
        for target in range(layer, model.n_layers):
            written = decoder(transcoders, layer, target, graph.feature[chosen].to(model.device))
            if written is not None:
                activation = graph.activation[chosen].to(written)[:, None]
                vectors = take(mine, graph.pos[chosen], activation * written)
                hooks.append((f"blocks.{target}.{transcoders.write_hook}", vectors))
    return hooks


def gradient_match(model: Model, transcoders: TranscoderSet, ids: Sequence[int]) -> float:
    """Cosine between two gradients of the most probable token's logit (minus the mean logit), with respect to all embeddings but
    the first: of the model, and of its linearisation with attention and norms frozen."""
    rule = "half" if isinstance(transcoders.layers[0], Neurons) else "encoder"
    live, told = (
        embedding_gradient(model, transcoders, ids, how).double()[1:].flatten() for how in (None, Linearisation(rule))
    )
    return float(torch.cosine_similarity(live, told, dim=0))
