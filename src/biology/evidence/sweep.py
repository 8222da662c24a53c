"""Steering on a grid, for the page `steer`: the model's answers when a supernode is held at multiples of its
activation.

On every named prompt of a case, the supernodes of all its named prompts are tried. `hold` holds the members at M times
their activation on the prompt that they come from; `swap` also holds the prompt's own members of that supernode at -M
times theirs, as the swap experiments do. The model runs with its own attention and MLPs (protocol `iterative`): this is
the effect of clamping, not the prediction of a graph.
"""

# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from biology.cases.perturbations import Exchange, Perturbation
from biology.evidence.case_context import CaseContext
from biology.interventions.feature_edits import Edits, edits
from biology.interventions.generation import generate
from biology.interventions.protocols import intervene
from biology.models.model import token_text
from biology.records import InputError
from biology.tables import table

STRENGTHS = (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
TOP = 5
NODE_STRENGTHS = (-4.0, -2.0, 0.0, 1.0, 2.0, 4.0)
NODES = 60
"""Number of features of a graph that are steered one by one: the most influential."""
Site = tuple[int, int, int]


class SteeringSetup(NamedTuple):
    """One way to steer one prompt: the features to hold, with their activations at M = 1."""

    item: str
    source: str
    supernode: str
    mode: str
    pos: int
    held: dict[Site, float]


def sweep(context: CaseContext, progress: bool = False) -> pd.DataFrame:
    """Table `steering`: the most probable next tokens, and the text written, at every strength."""
    setups = list(_setups(context))
    rows = [(setup, strength) for setup in setups for strength in STRENGTHS]
    prompt = torch.tensor([context.place[setup.item] for setup, _ in rows], dtype=torch.long)
    held = edits(
        (row, *site, strength * value)
        for row, (setup, strength) in enumerate(rows)
        for site, value in setup.held.items()
    )
    clean = _clean(context)
    made: list[dict[str, object]] = [
        {"item": item, "source": "", "supernode": "", "mode": "clean", "pos": 0, "strength": 1.0, **row}
        for item, found in clean.items()
        for row in found
    ]
    if not rows:
        return table("steering", made)
    top = _most_probable(context, prompt, held, progress)
    texts = _continued(context, [setup.item for setup, _ in rows], prompt, held)
    for number, (setup, strength) in enumerate(rows):
        shared = {
            "item": setup.item,
            "source": setup.source,
            "supernode": setup.supernode,
            "mode": setup.mode,
            "pos": setup.pos,
        }
        made += [shared | {"strength": strength} | row for row in [*top[number], *texts.get(number, [])]]
    return table("steering", made)


def sweep_nodes(context: CaseContext, graphs: Mapping[str, Mapping[str, Any]], progress: bool = False) -> pd.DataFrame:
    """Table `node_steering`: a named prompt's answer while one feature of its graph is held at M times its activation.

    `graphs` are those of the named prompts, as `attribute` wrote them; a node's `influence` is cumulative, so a small
    one is important.
    """
    chosen: list[tuple[str, Site, float]] = []
    for item, graph in graphs.items():
        nodes = [node for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]
        for node in sorted(nodes, key=lambda node: (node["influence"], node["node_id"]))[:NODES]:
            layer, feature, pos = map(int, node["node_id"].split("_"))
            chosen.append((item, (layer, pos, feature), node["activation"]))
    rows = [(item, site, strength, value) for item, site, value in chosen for strength in NODE_STRENGTHS]
    if not rows:
        return table("node_steering", [])
    prompt = torch.tensor([context.place[item] for item, *_ in rows], dtype=torch.long)
    held = edits((row, *site, strength * value) for row, (_, site, strength, value) in enumerate(rows))
    made = []
    for (item, (layer, pos, feature), strength, _), top in zip(
        rows, _most_probable(context, prompt, held, progress), strict=True
    ):
        best = {key: top[0][key] for key in ("text", "value")}
        made.append({"item": item, "layer": layer, "pos": pos, "feature": feature, "strength": strength} | best)
    return table("node_steering", made)


def _setups(context: CaseContext) -> Iterator[SteeringSetup]:
    """Every way to steer every named prompt. The same set of members from several prompts is tried once."""
    texts: set[str] = set()
    for item, shown in context.case.prompts.items():
        if shown.text in texts:
            continue
        texts.add(shown.text)
        for name in context.case.supernodes:
            try:
                there = context.position_of(name, context.place[item])
            except InputError:
                continue  # this prompt has no such position
            own = {site[:3]: site.activation for site in context.sites.get((item, name), ())}
            seen: set[frozenset[tuple[int, int]]] = set()
            for source in [item, *(other for other in context.case.prompts if other != item)]:
                members = context.sites.get((source, name), ())
                which = frozenset((site.layer, site.feature) for site in members)
                if not members or which in seen:
                    continue
                seen.add(which)
                held = {(site.layer, there, site.feature): site.activation for site in members}
                yield SteeringSetup(item, source, name, "hold", there, held)
                if source != item and own:
                    yield SteeringSetup(
                        item, source, name, "swap", there, {key: -value for key, value in own.items()} | held
                    )


def _most_probable(
    context: CaseContext, prompt: Int[Tensor, " row"], held: Edits, progress: bool = False
) -> list[list[dict[str, object]]]:
    """For each row, the most probable next tokens."""

    def readout(logits: Tensor, rows: Tensor) -> Tensor:
        best = logits[:, 0].double().softmax(-1).topk(TOP)
        return torch.stack([best.values, best.indices.double()], 1)

    outcome = intervene(
        context.model, context.transcoders, context.ids, prompt, held, protocol="iterative", live_attention=True,
        readout=readout, progress=progress,
    )  # fmt: skip
    return [
        _merged((token_text(context.model, int(token)), float(p)) for p, token in zip(*row.tolist(), strict=True))
        for row in outcome.logits
    ]


def _merged(pairs: Iterator[tuple[str, float]]) -> list[dict[str, object]]:
    """Adds up tokens of the same text."""
    found: dict[str, float] = {}
    for text, probability in pairs:
        found[text] = found.get(text, 0.0) + probability
    return [{"kind": "token", "text": text, "value": value} for text, value in found.items()]


def _clean(context: CaseContext) -> dict[str, list[dict[str, object]]]:
    items = list({shown.text: item for item, shown in reversed(context.case.prompts.items())}.values())[::-1]
    prompt = torch.tensor([context.place[item] for item in items], dtype=torch.long)
    nothing = edits([])
    top = _most_probable(context, prompt, nothing)
    texts = _continued(context, items, prompt, nothing)
    return {item: [*top[i], *texts.get(i, [])] for i, item in enumerate(items)}


def _continued(
    context: CaseContext, items: Sequence[str], prompt: Int[Tensor, " row"], held: Edits
) -> dict[int, list[dict[str, object]]]:
    """The line written after each prompt that ends a line, by row; it ends with a word that can end one."""
    written = context.case.of_kind(Perturbation, Exchange).values()
    line = next((experiment.line for experiment in written if experiment.line), None)
    starts = [row for row, item in enumerate(items) if context.case.prompts[item].text.endswith("\n")]
    if line is None or not starts:
        return {}
    place = {row: number for number, row in enumerate(starts)}
    mine = torch.tensor([int(row) in place for row in held.row], dtype=torch.bool)
    columns = [getattr(held, name)[mine] for name in ("layer", "pos", "feature", "value")]
    renumbered = torch.tensor([place[int(row)] for row in held.row[mine]], dtype=torch.long)
    prompts = [context.ids[int(prompt[row])] for row in starts]
    written = generate(context.model, context.transcoders, prompts, Edits(renumbered, *columns), line.max_words)
    ends = set(context.prompts[line.ends])
    found = {}
    for row, tokens in zip(starts, written, strict=True):
        words = [token_text(context.model, token) for token in tokens]
        last = next((number for number, word in enumerate(words) if word in ends), len(words) - 1)
        found[row] = [{"kind": "line", "text": " ".join(words[: last + 1]), "value": 1.0}]
    return found
