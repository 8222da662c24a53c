"""Which part is at fault where a true claim is not replicated, read from the tables `site_parts` of models: as sentences for a page,
and as one table of all such claims."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from biology.cases.case import Case, load_case
from biology.cases.claim_file import Claim, load_claims
from biology.cases.positions import Position
from biology.findings.sentences import names
from biology.tables import read_table
from biology.verdicts.reasons import lacks
from biology.wording import number, percent

NOT_MEASURED = "not measured"
SHOWN = ("mlp", "features", "members", "others")
"""Parts of a site whose accuracy stands beside a miss."""
MISSES = ("case", "claim", "model", "dictionary", "verdict", "part", "lacks", "supernode", "fault", "certain", *SHOWN)
FOUND_AT_FAULT = {
    "model": "Already this is too little: there the model does not hold the variable, or not by itself.",
    "search": "The search is at fault: what it exchanged brings the answer, and the layers that it leaves to the rule do not.",
    "attention": "With attention patterns kept, as experiments keep them, much of it is gone: what acts is where attention looks.",
    "dictionary": "The dictionary is at fault: its features do not carry what the MLPs write.",
    "spread": "The variable is spread over more features than the rule takes.",
    "rule": "The rule is at fault: its members do not carry what all features carry.",
    "none": "Site, dictionary and rule carry the variable: if the claim misses, look at its control, its statistic or its strength.",
}
"""What the word of a supernode says (`supernodes/site_parts.py` has the rule)."""


NUMBERS = ("accuracy", "low", "high", "number_share", "activity_share", "certain")


def read_site_parts(path: Path) -> pd.DataFrame:
    """Table `site_parts` of a model; empty if there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=["case", "supernode", "position", "layers", "arm", "fault", *NUMBERS])
    text = dict.fromkeys(("case", "supernode", "position", "layers", "arm", "fault"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, ""))


def parts_of_misses(root: Path, missed: pd.DataFrame) -> pd.DataFrame:
    """The rows of the tables `site_parts` for the supernodes of table `misses`, with the names of the models in a column `model`."""
    named = missed.loc[missed["supernode"] != "", ["model", "case", "supernode"]].drop_duplicates()
    tables = [
        read_site_parts(root / "reports" / name / "site_parts.csv").assign(model=name)
        for name in named["model"].unique()
    ]
    return named.merge(pd.concat(tables)) if tables else read_site_parts(root).assign(model="")


def held_by(case: Case, experiments: Iterable[str]) -> set[str]:
    """The supernodes that experiments hold, inject, follow or look for, and those of the experiments that they are computed from."""
    asked = [case.experiments[name] for name in experiments if name in case.experiments]
    return set().union(*({*one.held, *held_by(case, one.rests_on)} for one in asked))


def site_sentences(case: Case, parts: pd.DataFrame, supernodes: Sequence[str]) -> list[str]:
    """A sentence or two for each of these supernodes whose site was taken apart on a model."""
    told = []
    for name in supernodes:
        rows = parts[(parts["case"] == case.name) & (parts["supernode"] == name)].set_index("arm")
        if len(rows):
            told.append(_told(case, name, rows))
    return told


def _told(case: Case, name: str, rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    title, word = names(case)[name].strip("“”"), str(first["fault"])
    if word not in FOUND_AT_FAULT:
        why = "no held-out prompt has a donor with a known answer" if word == NOT_MEASURED else "the search found none"
        return f"Site of “{title}”: {why}, so nothing was exchanged there."
    start, _, end = str(first["layers"]).partition("-")
    layers = f"layers {start} to {end}" if end else f"layer {start}"
    share = rows["accuracy"].map(percent)
    mlp = rows.loc["mlp"]
    return (
        f"Site of “{title}” ({Position(str(first['position'])).meaning}, {layers}): exchanging what the MLPs write there brings the donor's "
        f"answer on {share['mlp']} [{percent(mlp['low'])}, {percent(mlp['high'])}] of held-out prompts; all features there "
        f"{share['features']}; the members {share['members']}; the other features {share['others']}. {FOUND_AT_FAULT[word]}"
        + ("" if first["certain"] else " But the interval leaves that open.")
    )


def misses(root: Path, calibration: pd.DataFrame) -> pd.DataFrame:
    """The columns `MISSES`: for each claim that is true by construction and was not replicated, the part that decides, what it
    lacks (`reasons.LACKS`), and the fault of each supernode that this part holds and whose site was taken apart (`not measured` if there is none).

    `calibration` is the table of `verdicts.calibration.pairs`.
    """
    rows: list[dict[str, object]] = []
    missed = calibration[(calibration["truth"] == "true") & (calibration["verdict"] != "replicated")]
    for model, of_model in missed.groupby("model", sort=False):
        reasons = read_table(root / "reports" / str(model) / "verdicts.csv", "verdicts").set_index(["case", "claim"])[
            "reason"
        ]
        parts = read_site_parts(root / "reports" / str(model) / "site_parts.csv")
        for row in of_model.itertuples():
            case = load_case(root, row.case)
            claim = next(one for one in load_claims(root, row.case, case) if one.id == row.claim)
            told = str(reasons.loc[(row.case, row.claim)])
            part = deciding_part(told, [one.name for one in claim.parts])
            held = held_by(case, [one.experiment for one in claim.parts if one.name == part])
            about = {column: getattr(row, column) for column in ("case", "claim", "model", "dictionary", "verdict")}
            about |= {"part": part, "lacks": " and ".join(lacks(told))}
            rows += [about | one for one in _faults(case, parts, held)]
    return pd.DataFrame(rows, columns=list(MISSES))


def deciding_part(reason: str, parts: Sequence[str]) -> str:
    """The name of the part that decides a verdict, by the verdict's reason; a reason that names none is that of the first part."""
    found = re.match(r"Part '(.*?)' decides: ", reason)
    return found[1] if found and found[1] in parts else next(iter(parts), "")


def needed(row: Mapping[str, Any], claim: Claim | None) -> str:
    """What the deciding part of a verdict had to reach; with ± where its effect was to stay within so much of nothing."""
    parts = {part.name: part for part in claim.parts} if claim else {}
    decides = parts.get(deciding_part(str(row["reason"]), list(parts)))
    return f"{'±' * (decides is not None and decides.direction == 'equivalent')}{number(row['threshold'])}"


def _faults(case: Case, parts: pd.DataFrame, held: set[str]) -> list[dict[str, object]]:
    here = parts[(parts["case"] == case.name) & parts["supernode"].isin(held)]
    found: list[dict[str, object]] = []
    for name, rows in here.groupby("supernode", sort=False):
        share = rows.set_index("arm")["accuracy"]
        told = rows[["fault", "certain"]].iloc[0].to_dict()
        found.append({"supernode": name, **told, **{arm: share.get(arm) for arm in SHOWN}})
    return found or [{"supernode": "", "fault": NOT_MEASURED}]
