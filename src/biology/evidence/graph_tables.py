"""Attribution graphs of a case, reduced to what claims and figures read: scores, edges between supernodes, shares of paths.

`measures.py` defines the outcomes of an experiment of kind `graph`, for the supernode `through` and the tokens of the factor
`source`. Influence is absolute; influence on a supernode is the mean over its members. The matched control replaces the supernode
by as many other active features of the same layers and positions.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from biology.attribution.assembly import attribute_batch
from biology.attribution.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph, influence, prune, row_residual, scores
from biology.attribution.graph_json import export_json
from biology.attribution.graph_paths import target_labels
from biology.cases.experiments import Classes, Faithfulness, Structure
from biology.cases.experiments import Graph as Paths
from biology.cases.positions import message_of, question_of
from biology.config import AttributionConfig
from biology.evidence.case_context import CaseContext
from biology.evidence.operand_tables import Plots, class_evidence, operand_evidence
from biology.interventions.matched_draw import draw_others
from biology.models.model import encode, token_text
from biology.supernodes.case_prompts import start_of_question
from biology.tables import table
from biology.validation import faithfulness, structure
from biology.validation.ablation import NODES_OF_GRAPH
from biology.validation.faithfulness import TracedPrompt, Values

ANSWER = "answer"  # the answer's logit, as a node of supernode-level tables
TOGETHER = 1 << 28  # bytes of the edges of prompts that are traced together


@dataclass(frozen=True)
class Reduced:
    """Tables `graphs`, `edges` and `evidence`, and the graphs of the named prompts in the published format."""

    graphs: pd.DataFrame
    edges: pd.DataFrame
    evidence: pd.DataFrame
    shown: dict[str, dict]


def reduce_graphs(
    context: CaseContext, settings: AttributionConfig, variables: Collection[str] = frozenset()
) -> Reduced:
    """Traces every scored prompt and every text of the named prompts of a case, with few graphs at a time in memory (`together`).
    `variables` are the supernodes that stand for variables of the case's causal model. Where no supernodes are looked for on a large
    model, all graphs have the most influential features only."""
    case = context.case
    reads_all = case.supernodes or case.of_kind(Paths, Classes)
    if context.model.large and settings.max_feature_nodes is None and not reads_all:
        settings = settings.model_copy(update={"max_feature_nodes": NODES_OF_GRAPH})
    tracing = case.of_kind(Paths, Classes, Faithfulness, Structure)
    plots = Plots(context)
    drawn = {one.text: item for item, one in reversed(case.prompts.items())}  # the donor does not affect the graph
    wanted: dict[int, list[str]] = {context.place[item]: [] for item in drawn.values()}
    for name, experiment in tracing.items():
        for place in context.items(experiment):
            wanted.setdefault(place, []).append(name)
    found: dict[int, _OfPrompt] = {}
    progress = tqdm(total=len(wanted), desc=f"{case.name}: graphs", mininterval=5)
    for places in together(context, sorted(wanted)):
        for place, graph in zip(places, traced(context, places, settings), strict=True):
            asked = {name: tracing[name] for name in wanted[place]}
            found[place] = _of_prompt(context, place, graph, asked, plots, settings, variables)
            progress.update()
    progress.close()
    in_order = [found[place] for place in sorted(found)]
    evidence = [row for one in in_order for row in one.evidence]
    parts = [part for part in (table("evidence", evidence), operand_evidence(context)) if len(part)]
    joined = pd.concat(parts, ignore_index=True) if parts else table("evidence", [])
    return Reduced(
        table("graphs", (one.scores for one in in_order)), table("edges", (row for one in in_order for row in one.edges)),
        joined, {item: shown for one in in_order for item, shown in one.shown.items()},
    )  # fmt: skip


@dataclass(frozen=True)
class _OfPrompt:
    """What is kept of the graph of one prompt: its row of table `graphs`, its rows of the other two, itself if it is shown."""

    scores: dict[str, object]
    edges: list[dict[str, object]]
    evidence: list[dict[str, object]]
    shown: dict[str, dict]


def _of_prompt(
    context: CaseContext, place: int, graph: Graph, asked: Mapping[str, Paths | Classes | Faithfulness | Structure],
    plots: Plots, settings: AttributionConfig, variables: Collection[str],
) -> _OfPrompt:  # fmt: skip
    case, row = context.case, context.records[place]
    item = str(row["item"])
    answer, named = int(context.prompts["answer_token"].iat[place]), item in case.prompts
    said = graph.token_id[graph.logits].tolist()
    if answer not in said:  # a named prompt that the model answers wrongly: show its answer beside the model's
        (graph,) = traced(context, [place], settings, [*said, answer])
    sets = node_sets(context, item, graph)
    both = OwnAndShuffled(context, place, settings)
    evidence = []
    for name, experiment in asked.items():
        if isinstance(experiment, Classes):
            evidence += class_evidence(plots, name, experiment, place, graph, settings)
        elif isinstance(experiment, Faithfulness):
            evidence += faithfulness_evidence(context, name, experiment, place, both)
        elif isinstance(experiment, Structure):
            evidence += structure_evidence(context, name, experiment, place, graph, settings)
        else:
            evidence += graph_evidence(context, name, experiment, place, graph, sets)
    node_mask, edge_mask = prune(graph, settings.node_threshold, settings.edge_threshold)
    scored, shown = scores(graph), {}
    if named:
        shown[item] = export_json(
            graph, node_mask, edge_mask, slug=f"{case.name}-{item}".replace("_", "-"), scan=context.model.name,
            prompt=message_of(row),
            supernodes={label: nodes.nonzero().flatten().tolist() for label, nodes in sets.items() if label in case.supernodes},
            pruning_settings={"node_threshold": settings.node_threshold, "edge_threshold": settings.edge_threshold},
            replication={"case": case.name},
        )  # fmt: skip
    of_graph = {
        "item": item, "n_active": int((graph.kind == FEATURE).sum()), "n_nodes": int(node_mask.sum()),
        "n_edges": int(torch.count_nonzero(edge_mask)), **scored._asdict(), "error_share": 1.0 - scored.replacement,
        "row_residual": float(row_residual(graph).max()),
    }  # fmt: skip
    edges = supernode_edges(context, item, graph, sets, variables, detailed=named)
    return _OfPrompt(of_graph, edges, evidence, shown)


def together(context: CaseContext, places: Sequence[int]) -> list[list[int]]:
    """Prompts by what can be traced together: of equal length and with the same first node, and with few enough active features for
    their edges to take `TOGETHER` bytes."""
    active = context.cache.offsets.diff().tolist()
    alike: dict[tuple[int, int], list[int]] = {}
    for place in places:
        alike.setdefault((len(context.ids[place]), context.first_position(place)), []).append(place)
    groups: list[list[int]] = []
    for several in alike.values():
        held = TOGETHER
        for place in several:
            size = 4 * active[place] ** 2
            if held + size > TOGETHER:
                groups.append([])
                held = 0
            groups[-1].append(place)
            held += size
    return groups


def traced(
    context: CaseContext, places: Sequence[int], settings: AttributionConfig, targets: Sequence[int] | None = None
) -> list[Graph]:
    """The graphs of prompts that can be traced together, for the given tokens, or for the most probable ones of a named prompt and for
    the answer of any other."""
    prompts = context.prompts
    asked = [
        targets
        or (None if prompts["item"].iat[place] in context.case.prompts else [int(prompts["answer_token"].iat[place])])
        for place in places
    ]
    return attribute_batch(
        context.model, context.transcoders, [context.ids[place] for place in places], targets=asked,
        max_logits=settings.max_logits, logit_probability=settings.logit_probability,
        max_feature_nodes=settings.max_feature_nodes, first_position=context.first_position(places[0]),
    )  # fmt: skip


def node_sets(context: CaseContext, item: str, graph: Graph) -> dict[str, Bool[Tensor, " node"]]:
    """The nodes of each supernode of a prompt, and the logit node of its answer."""
    sets = {}
    feature = graph.kind == FEATURE
    for name in context.case.supernodes:
        found = context.sites.get((item, name))
        if found is None:
            continue
        mask = torch.zeros(graph.n_nodes, dtype=torch.bool)
        for site in found:
            mask |= feature & (graph.layer == site.layer) & (graph.pos == site.pos) & (graph.feature == site.feature)
        if bool(mask.any()):
            sets[name] = mask
    answer = int(context.prompts["answer_token"].iat[context.place[item]])
    sets[ANSWER] = (graph.kind == LOGIT) & (graph.token_id == answer)
    return sets


def source_tokens(context: CaseContext, place: int, factor: str, graph: Graph) -> Bool[Tensor, " node"]:
    """Token nodes of a factor's text (all pieces of a city's name)."""
    row = context.records[place]
    start = start_of_question(row) + question_of(row).index(row[factor])
    first = len(encode(context.model, row["text"][:start].rstrip()))
    last = len(encode(context.model, row["text"][: start + len(row[factor])]))
    return (graph.kind == TOKEN) & (graph.pos >= first) & (graph.pos < last)


def graph_evidence(
    context: CaseContext,
    name: str,
    experiment: Paths,
    place: int,
    graph: Graph,
    sets: Mapping[str, Bool[Tensor, " node"]],
) -> list[dict[str, object]]:
    """Evidence rows of one prompt: effect and matched control of every outcome. A supernode without members counts as zero."""
    target = int(sets[ANSWER].nonzero()[0])
    sources = source_tokens(context, place, experiment.source, graph)
    through = sets.get(experiment.through, torch.zeros(graph.n_nodes, dtype=torch.bool))
    draws = [("effect", 0, through)]
    generator = context.generator(context.case.name, name, context.records[place]["item"])
    for draw in range(context.statistics.control_draws if "match" in experiment.controls else 0):
        draws.append(("match", draw, matched_nodes(graph, through, generator)))
    weights = torch.zeros(graph.n_nodes, dtype=torch.float64)
    weights[target] = 1.0
    sets_of = torch.stack([nodes for _, _, nodes in draws])
    # influence on the target by all paths; then, for each set, on the target around the set; then on the set
    asked = torch.cat([weights[None], weights.expand(len(draws), -1), sets_of.double()])
    removed = torch.zeros(asked.shape, dtype=torch.bool)
    removed[1 : 1 + len(draws)] = sets_of
    everything, *found = influence(graph, asked, removed=removed)
    rows = []
    for number, (arm, draw, _) in enumerate(draws):
        values = _graph_outcomes(
            experiment.outcomes, graph, sources, everything, found[number], found[number + len(draws)]
        )
        rows += [context.evidence_row(place, name, arm, outcome, value, draw=draw) for outcome, value in values.items()]
    return rows


@dataclass(frozen=True, eq=False)
class OwnAndShuffled:
    """A prompt with its own transcoders and with shuffled ones; experiments on it share their graphs."""

    context: CaseContext
    place: int
    settings: AttributionConfig

    @cached_property
    def own(self) -> TracedPrompt:
        context, place = self.context, self.place
        return TracedPrompt(
            context.model, context.transcoders, context.ids[place], context.first_position(place), self.settings
        )

    @cached_property
    def random(self) -> TracedPrompt:
        return replace(self.own, transcoders=self.context.random_transcoders)


def faithfulness_evidence(
    context: CaseContext, name: str, experiment: Faithfulness, place: int, one: OwnAndShuffled
) -> list[dict[str, object]]:
    """Evidence rows of one prompt: how well graph and replacement model represent the model, also with shuffled transcoders."""
    generator = context.generator(context.case.name, name, context.records[place]["item"])
    values = faithfulness.measured(one.own, experiment.outcomes, generator)
    if "random" in experiment.controls:
        asked = [outcome for outcome in experiment.outcomes if "random" in (outcome.form.controls or ())]
        for outcome, found in faithfulness.measured(one.random, asked, generator).items():
            values[outcome]["random"] = found["effect"]
    return _defined(context, name, experiment, place, values)


def structure_evidence(
    context: CaseContext, name: str, experiment: Structure, place: int, graph: Graph, settings: AttributionConfig
) -> list[dict[str, object]]:
    """Evidence rows of one prompt: the composition of its graph, with the controls."""
    features = graph.features
    often = context.often(experiment.template, place)[graph.layer[features].long(), graph.feature[features].long()]
    generator = context.generator(context.case.name, name, context.records[place]["item"])
    one = structure.GraphStructure(graph, settings, often, generator, context.statistics.control_draws)
    return _defined(context, name, experiment, place, structure.measured(one, experiment.outcomes))


def _defined(
    context: CaseContext, name: str, experiment: Faithfulness | Structure, place: int, values: dict[str, Values]
) -> list[dict[str, object]]:
    """Rows of the outcomes that are defined on this prompt in all arms."""
    return [
        context.evidence_row(place, name, arm, outcome, value, draw=draw)
        for outcome, arms in values.items() if np.isfinite([value for several in arms.values() for value in several]).all()
        for arm, several in arms.items() if arm in ("effect", *experiment.controls)
        for draw, value in enumerate(several)
    ]  # fmt: skip


def matched_nodes(graph: Graph, nodes: Bool[Tensor, " node"], generator: np.random.Generator) -> Bool[Tensor, " node"]:
    """As many other features of the same layers and positions, at random; fewer if there are not enough."""
    chosen = torch.zeros_like(nodes)
    own = set(nodes.nonzero().flatten().tolist())
    cells, counts = torch.unique(torch.stack([graph.layer[nodes], graph.pos[nodes]]), dim=1, return_counts=True)
    for (layer, pos), count in zip(cells.T.tolist(), counts.tolist(), strict=True):
        here = ((graph.kind == FEATURE) & (graph.layer == layer) & (graph.pos == pos)).nonzero().flatten()
        chosen[here[draw_others(here.numpy(), own, count, generator)]] = True
    return chosen


def _graph_outcomes(
    outcomes: Sequence[str], graph: Graph, sources: Bool[Tensor, " node"], everything: Float[Tensor, " node"],
    around: Float[Tensor, " node"], reached: Float[Tensor, " node"],
) -> dict[str, float]:  # fmt: skip
    """The outcomes of one node set, from the influence on the target along all paths, that along paths around the set, and the
    influence on the set."""
    leaves = (graph.kind == TOKEN) | (graph.kind == ERROR)
    values = {
        "path_share": 1.0 - _ratio(around[leaves], everything[leaves]),
        "shortcut": _ratio(around[sources], everything[sources]),
        "source_share": _ratio(reached[sources], reached[leaves]),
        "token_share": _ratio(everything[sources], everything[leaves]),
    }
    return {outcome: values[outcome] for outcome in outcomes}


def _ratio(part: Float[Tensor, " member"], whole: Float[Tensor, " node"]) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total > 0 else 0.0


def supernode_edges(
    context: CaseContext, item: str, graph: Graph, sets: Mapping[str, Bool[Tensor, " node"]],
    variables: Collection[str] = frozenset(), *, detailed: bool,
) -> list[dict[str, object]]:  # fmt: skip
    """Direct effects and signed influence between supernodes. Named prompts also get tokens, features in no supernode (`other`),
    errors and the bias.

    `direct` is the sum over members; `influence` is the signed influence on the target's members, averaged over them; `unmediated` is
    the same along paths that pass no member of a supernode in `variables`.
    """
    sources: dict[str, Bool[Tensor, " node"]] = {name: nodes for name, nodes in sets.items() if name != ANSWER}
    if detailed:
        for node in (graph.kind == TOKEN).nonzero().flatten().tolist():
            one = torch.zeros(graph.n_nodes, dtype=torch.bool)
            one[node] = True
            sources[f"token:{token_text(context.model, int(graph.token_id[node]))}@{int(graph.pos[node])}"] = one
        sources["error"] = graph.kind == ERROR
        rest = (graph.kind == FEATURE) & ~torch.stack(list(sets.values())).any(0)
        if bool(rest.any()):  # features in no supernode, so that all sources of a target are listed
            sources["other"] = rest
    targets: dict[str, Bool[Tensor, " node"]] = dict(sets)
    if detailed:
        for node, label in zip(range(graph.n_nodes)[graph.logits], target_labels(graph), strict=True):
            one = torch.zeros(graph.n_nodes, dtype=torch.bool)
            one[node] = True
            targets[f"logit:{label}"] = one
    rows = []
    targets = {target: members for target, members in targets.items() if bool(members.any())}
    weights = torch.stack([members.double() / members.sum() for members in targets.values()])
    none = torch.zeros(graph.n_nodes, dtype=torch.bool)
    between = torch.stack([none, *(nodes for name, nodes in sets.items() if name in variables)]).any(0)
    influences = influence(graph, weights, signed=True)
    stopped = bool(between.any())  # else both are the same
    unmediated = influence(graph, weights, signed=True, stop=between.expand_as(weights)) if stopped else influences
    for (target, members), reached, around in zip(targets.items(), influences, unmediated, strict=True):
        direct = graph.adjacency[members].double().sum(0)
        for source, nodes in sources.items():
            if source == target:
                continue
            rows.append(
                {
                    "item": item, "source": source, "target": target, "direct": float(direct[nodes].sum()),
                    "influence": float(reached[nodes].sum()), "unmediated": float(around[nodes].sum()),
                }
            )  # fmt: skip
        if detailed:
            bias = float(graph.bias[members].double().sum())
            rows.append(
                {"item": item, "source": "bias", "target": target, "direct": bias, "influence": 0.0, "unmediated": 0.0}
            )
    return rows
