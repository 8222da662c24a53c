"""The opening of a case's page: the paper's graph beside ours, and the paper's best-known intervention with its control.

case.yaml (`story`) states the paper's arrows and its intervention, written from the paper, not from results. Both graphs are
drawn with the same boxes in the same places, ordered like their tokens. Everything else in our graph is in the case's figure.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from biology.cases.case import Case, title_on, titles
from biology.cases.case_file import OUTPUT
from biology.cases.perturbations import Exchange, Perturbation
from biology.figures.graph_layout import node, repeated, with_share
from biology.findings.sentences import doing
from biology.findings.sketch import Box, boxes, picture
from biology.tables import Tables


@dataclass(frozen=True)
class Story:
    """The first screen of a case's page."""

    paper: Markup
    """A picture of the paper's arrows."""
    ours: Markup
    """The same picture with our results; empty if the prompt has no graph."""
    boxes: Mapping[str, Box]
    """The boxes of both pictures by the names of their supernodes."""
    shares: Mapping[tuple[str, str], float]
    """Our shares of the arrows; empty if the prompt has no graph."""
    missing: tuple[str, ...]
    """Supernodes without members there."""
    traced: str
    """The prompt of our graph."""
    absent: tuple[str, ...]
    """The titles of the missing supernodes."""
    shown: dict[str, Any] | None
    """The intervention: `prompt`, `does`, `donor`, and the most probable text `before`, `after` and with the `control`, each
    (text, share)."""


def story(case: Case, tables: Tables) -> Story | None:
    """The opening of a case's page; None if its file has no `story`."""
    told = case.story
    if told is None:
        return None
    edges, members = (tables[name] for name in ("edges", "supernodes"))
    edges, members = edges[edges["item"] == told.traced], members[members["item"] == told.traced]
    label = {**titles(case, told.traced), OUTPUT: case.prompts[told.traced].answer.strip()}
    made = boxes(told.arrows, label, _places(members))
    absent = [name for name in made if name != OUTPUT and name not in set(members["supernode"])]
    found = shares(edges, members, told.arrows, label[OUTPUT]) if len(edges) else {}
    ours = picture(made, found, "The same arrows in the graph of this model", OUTPUT, absent) if found else Markup("")
    return Story(
        paper=picture(made, dict.fromkeys(told.arrows), "The arrows that the paper draws", OUTPUT),
        ours=ours,
        boxes=made,
        shares=found,
        missing=tuple(absent),
        traced=case.prompts[told.traced].text,
        absent=tuple(label.get(name, name) for name in absent),
        shown=intervention(case, tables["panel"], told.experiment, told.shown),
    )


def _places(members: pd.DataFrame) -> dict[str, float]:
    """The token position of each supernode, weighted by activation."""
    weight = members["activation"].abs() + 1e-12
    sums = members.assign(at=members["pos"] * weight, weight=weight).groupby("supernode")[["at", "weight"]].sum()
    return {str(name): float(row["at"] / row["weight"]) for name, row in sums.iterrows()}


def shares(
    edges: pd.DataFrame, members: pd.DataFrame, arrows: Sequence[tuple[str, str]], answer: str
) -> dict[tuple[str, str], float]:
    """For each arrow, its share of all direct effects into its target, as in the figure: supernodes that repeat another one do
    not count twice, and the output is the token of the answer, or else the most probable one."""
    again = [name for name in repeated(members) if not any(name in arrow for arrow in arrows)]
    edges = with_share(edges[~edges["source"].isin(again) & ~edges["target"].isin(again)])
    outputs = [name for name in edges["target"].unique() if node(name)[0] == "logit"]
    output = next((name for name in outputs if node(name)[1].strip() == answer), (*outputs, OUTPUT)[0])
    known = edges.set_index(["source", "target"])["share"].to_dict()
    return {(a, b): float(known.get((a, output if b == OUTPUT else b), 0.0)) for a, b in arrows}


def intervention(case: Case, panel: pd.DataFrame, name: str, item: str) -> dict[str, Any] | None:
    """The effect of an experiment on a named prompt: the text said or written before, after, and with the control."""
    rows = panel[(panel["experiment"] == name) & (panel["item"] == item)]
    experiment = case.experiments[name]
    if not len(rows) or not isinstance(experiment, Perturbation | Exchange):
        return None
    lines = rows[rows["kind"] == "line"]
    said = lines if len(lines) else rows[rows["kind"] == "probability"]
    first = case.prompts[item]
    source = first.factors.get(getattr(experiment, "donor", "donor"), "")
    donor, injected = case.prompts.get(source), getattr(experiment, "injected", None)
    there = title_on(case, injected, source) if donor and injected else ""
    own = titles(case, item)
    alike = donor is not None and there in (own.get(held, "") for held in experiment.held)
    told = doing(experiment, float(rows["strength"].iloc[0]), {n: f"“{title}”" for n, title in own.items()})
    if donor and there:  # where both are called the same, the prompt tells them apart
        told = told.replace("the donor's", f"that of “{donor.text}”" if alike else f"“{there}”")
    return {
        "prompt": first.text,
        "does": told,
        "donor": donor.text if donor and not alike and (injected or isinstance(experiment, Exchange)) else "",
        "line": bool(len(lines)),
        **{
            key: _most(said, column)
            for key, column in (("before", "clean"), ("after", "value"), ("control", "control"))
        },
    }


def _most(said: pd.DataFrame, column: str) -> tuple[str, float] | None:
    """The most probable text and its share; None if nothing was measured."""
    there = said[said[column].notna() & (said[column] > 0)]
    if not len(there):
        return None
    row = there.sort_values(column, ascending=False, kind="stable").iloc[0]
    return str(row["supernode_or_token"]).strip(), float(row[column])
