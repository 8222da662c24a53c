"""Every scored prompt of every part of every claim: question, expected effect, measured effect and control; nothing is
left out.

The same rows are the table `scored`, the CSV file beside a page, and the data that the page filters.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from biology.cases.case import Case
from biology.cases.claim_file import Claim, Part
from biology.cases.measures import ONE, Outcome
from biology.cases.perturbations import Exchange
from biology.findings.sentences import unit
from biology.tables import Tables, stacked, table, validate_table
from biology.verdicts.measuring import SIGN, with_absent


def scored(case: Case, claims: Iterable[Claim], tables: Tables, parts: pd.DataFrame) -> pd.DataFrame:
    """The table `scored` of a case. `parts`: the rows of table `parts` of this case, which give the strength at which
    each was judged."""
    prompts = tables["prompts"].set_index("item")
    held = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    strengths = parts.set_index(["claim", "part"])["strength"].to_dict()
    frames = [table("scored", [])]
    for claim in claims:
        for part in claim.parts:
            asked = held
            for column, level in case.experiments[part.experiment].only.items():
                asked = asked[asked[column] == level]
            rows = _measured(part, tables["evidence"], strengths.get((claim.id, part.name), float("nan")))
            rows = rows[rows.index.isin(asked.index)]
            if len(rows):
                frames.append(_told(case, claim, part, asked.loc[rows.index], rows, prompts))
    return validate_table(stacked(frames), "scored")


def _measured(part: Part, evidence: pd.DataFrame, strength: float) -> pd.DataFrame:
    """Effect, control (mean of its draws; NaN without control) and score of each item."""
    rows = with_absent(part, evidence[(evidence["experiment"] == part.experiment) & (evidence["split"] == "heldout")])
    rows = rows[(rows["outcome"] == part.outcome) & ((rows["strength"] == strength) | (rows["arm"] == "clean"))]
    means = rows.groupby(["item", "arm"])["value"].mean().unstack("arm").reindex(columns=["effect", part.control])
    found = pd.DataFrame({"effect": means["effect"], "control": means[part.control]}).dropna(subset=["effect"])
    base = 0.0 if part.control == "none" else found["control"]
    return found.assign(score=SIGN[part.direction] * (found["effect"] - base) + 0.0)


def _told(
    case: Case, claim: Claim, part: Part, held: pd.DataFrame, rows: pd.DataFrame, prompts: pd.DataFrame
) -> pd.DataFrame:
    experiment, outcome = case.experiments[part.experiment], Outcome(part.outcome)
    swapped = getattr(experiment, "injected", None) is not None or isinstance(experiment, Exchange)
    column = getattr(experiment, "donor", "donor")
    donor = held[column] if swapped and column in held else pd.Series("", index=held.index)
    line = getattr(experiment, "line", None)
    answers = prompts[line.ends] if line is not None and line.ends in prompts else prompts["answer"]
    if outcome.form.donor and swapped:
        expected = donor.map(answers).fillna("")
    elif outcome.form.name.startswith("level_") and outcome.arguments[0] in held:
        expected = held[outcome.arguments[0]]
    else:
        expected = held.index.to_series().map(answers)
    return pd.DataFrame(
        {
            "claim": claim.id, "part": part.name, "item": held.index, "cluster": held["cluster"].to_numpy(),
            "prompt": held["text"].to_numpy(), "donor": donor.map(prompts["text"]).fillna("").to_numpy(),
            "expected": pd.Series(expected).str.strip().to_numpy(), "said": held["top1"].str.strip().to_numpy(),
            "scored": held[claim.gate].to_numpy(),
            **{name: rows[name].to_numpy() for name in ("effect", "control", "score")},
        }
    )  # fmt: skip


def browsed(frame: pd.DataFrame, claims: Iterable[Claim]) -> dict[str, Any]:
    """The data of table `scored` for the script of a page: every text once, and the rows of each part as columns."""
    texts: dict[str, int] = {}
    parts = []
    for claim in claims:
        for place, part in enumerate(claim.parts):
            rows = frame[(frame["claim"] == claim.id) & (frame["part"] == part.name)]
            if not len(rows):
                continue
            made: dict[str, Any] = {"claim": claim.id, "part": part.name, "place": place}
            made["unit"] = "yes" if Outcome(part.outcome).form.unit == ONE else unit(part.outcome)
            made["margin"] = part.minimum if part.direction == "equivalent" else None
            for column in ("prompt", "donor", "expected", "said", "cluster"):
                made[column] = [texts.setdefault(text, len(texts)) for text in rows[column]]
            made["scored"] = [int(value) for value in rows["scored"]]
            for column in ("effect", "control", "score"):
                made[column] = [None if value != value else float(f"{value:.3g}") for value in rows[column]]
            parts.append(made)
    return {"texts": list(texts), "parts": parts}
