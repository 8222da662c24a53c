"""What other ways of measuring say of a claim: the same intervention at other strengths, or by other means.

Examples: without the direct paths, with features held iteratively, with another donor. Each has matched random sets of its own.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from biology.cases.case import Case
from biology.cases.perturbations import Perturbation
from biology.findings.sentences import Row, printed
from biology.wording import number

OTHERWISE = {
    "cut_direct": ("with direct paths to the output", "with direct paths to the output cut"),
    "hidden": ("in sight of what stands before", "with all before the line out of sight"),
    "forced": ("all words left to the model", "with the words on the way as they were"),
}
"""Words for keys of an experiment that are true or false."""


@dataclass(frozen=True)
class Comparison:
    """One such measurement: how it differs, the mean effect and the mean of its random sets, ready to print."""

    words: str
    effect: str
    control: str


def comparisons(
    case: Case, evidence: pd.DataFrame, items: Collection[str], part: Row, judged: Collection[str]
) -> list[Comparison]:
    """Other measurements of a part of a claim, on the same prompts (`items`). `judged`: experiments that the claim is judged
    by."""
    chosen = case.experiments.get(part["experiment"])
    if not isinstance(chosen, Perturbation) or part["verdict"] == "untestable":
        return []
    rows = evidence[(evidence["outcome"] == part["outcome"]) & evidence["item"].isin(items)]
    found = []
    dose = rows[rows["experiment"] == f"{part['experiment']}/dose"]
    for strength in sorted(set(dose["strength"]) - {part["strength"]}):
        found.append(_comparison(f"at {number(strength)}×", dose[dose["strength"] == strength], part["outcome"]))
    for name, other in case.experiments.items():
        same = type(other) is type(chosen) and other.held == chosen.held and other.only == chosen.only
        here = rows[rows["experiment"] == name]
        if same and name not in judged and len(here):
            found.append(_comparison(", ".join(_apart(chosen, other)) or name.replace("_", " "), here, part["outcome"]))
    return found


def _comparison(words: str, rows: pd.DataFrame, outcome: str) -> Comparison:
    items = rows.groupby(["arm", "cluster", "item"])["value"].mean()
    means = items.groupby(["arm", "cluster"]).mean().groupby("arm").mean().to_dict()
    control = printed(means["match"], outcome) if "match" in means else "–"
    return Comparison(words, printed(means["effect"], outcome), control)


def _apart(chosen: Perturbation, other: Any) -> list[str]:
    """How another experiment differs."""
    told = []
    for key in ("protocol", "attention"):
        if getattr(other, key) != getattr(chosen, key):
            told.append(
                {"protocol": f"held by protocol {other.protocol}", "attention": f"with {other.attention} attention"}[
                    key
                ]
            )
    if other.donor != chosen.donor:
        told.append(f"with the donor of column {other.donor}")
    if getattr(other, "inhibit_share", None) != getattr(chosen, "inhibit_share", None):
        told.append(f"with the own ones held at −{number(other.inhibit_share)} M")
    pairs = [("cut_direct", chosen.cut_direct, other.cut_direct)]
    if chosen.line is not None and other.line is not None:
        pairs += [
            (key, bool(getattr(chosen.line, key)), bool(getattr(other.line, key))) for key in ("hidden", "forced")
        ]
    return told + [OTHERWISE[key][there] for key, here, there in pairs if here != there]
