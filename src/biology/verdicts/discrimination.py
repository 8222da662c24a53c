"""Can a claim distinguish a model that has a mechanism from one that lacks it? Compares verdicts with those on twins and
controls.

A claim proves nothing if models without the mechanism replicate it too. Twins give the same answers and lack mechanisms. A *listed*
twin is one that should not replicate the claim, by `experiments/twins.csv`, by the claim's `expected`, or by its own mechanism; all
were stated before it was trained. With shuffled transcoders nothing should be replicated. A claim *distinguishes* the model from a twin
if it is replicated on the model, and can be tested and is not replicated on the twin.

`yes`      it distinguishes the model from a listed twin, and no twin and no control replicates it
`partly`   it distinguishes the model from a listed twin, but a twin that is not listed replicates it
`no`       a listed twin or a control replicates it; or another twin does, and no listed twin is distinguished
`unknown`  no twin and no control replicates it, and no listed twin is distinguished: it is not replicated here, or no listed twin was
           judged; or it cannot be tested here
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from biology.cases.case import discover_cases
from biology.cases.claim_file import load_claims
from biology.config import SHOWN_ROLES, Config
from biology.tables import read_table
from biology.verdicts.robustness import false_by_construction, read_expected
from biology.wording import listed

COLUMNS = ["model", "case", "claim", "verdict", "discriminates", "why"]


def discrimination(root: Path, config: Config) -> pd.DataFrame:
    """One row for each claim and each judged model or organism: verdict, whether the claim discriminates, and why."""
    rows = []
    said = _said(root, config)
    for name, entry in config.models.items():
        if entry.role not in SHOWN_ROLES or not _path(root, name).is_file():
            continue
        others = {
            other: one.role
            for other, one in config.models.items()
            if one.role in ("twin", "random") and one.of in config.siblings(name) and _path(root, other).is_file()
        }
        verdicts = {other: _verdicts(root, other) for other in others}
        for row in read_table(_path(root, name), "verdicts").itertuples():
            here = {other: found[row.claim] for other, found in verdicts.items() if row.claim in found}
            lacking = {other for other in here if (other, row.claim) in said}
            rows.append(
                {"model": name, "case": row.case, "claim": row.claim, "verdict": row.verdict}
                | _judged(str(row.verdict), here, lacking, others)
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def answers(told: pd.DataFrame, model: str) -> dict[str, dict[str, str]]:
    """What `discrimination` says of each claim of one model: `discriminates`, and `why`."""
    return told[told["model"] == model].set_index("claim")[["discriminates", "why"]].to_dict("index")  # pyright: ignore[reportReturnType,reportCallIssue]


def _judged(verdict: str, elsewhere: Mapping[str, str], lacking: set[str], roles: Mapping[str, str]) -> dict[str, str]:
    """Whether a claim with this verdict distinguishes the model from the others, given their verdicts."""
    too = [name for name, found in elsewhere.items() if found == "replicated"]
    apart = [name for name in lacking if elsewhere[name] in ("not replicated", "inconclusive")]
    apart = [name for name in elsewhere if name in apart and verdict == "replicated"]
    unsaid = [name for name in too if roles[name] == "twin" and name not in lacking]
    if verdict == "untestable":
        return {"discriminates": "unknown", "why": "It cannot be tested here."}
    if too:
        kinds = {
            "said to lack it": [name for name in too if name in lacking],
            "with transcoders that mean nothing": [name for name in too if roles[name] == "random"],
            "of which nothing had been said": unsaid,
        }
        shared = (
            f"replicated on {'; '.join(f'{listed(names)}, {kind}' for kind, names in kinds.items() if names)}, too."
        )
        if apart and too == unsaid:
            return {"discriminates": "partly", "why": f"It tells the model from {listed(apart)}, but is {shared}"}
        return {"discriminates": "no", "why": f"It is {shared}"}
    if apart:
        return {
            "discriminates": "yes",
            "why": f"It is replicated here, and not on {listed(apart)}, said beforehand to lack it.",
        }
    if lacking and verdict != "replicated":
        others = listed([name for name in elsewhere if name in lacking])
        return {
            "discriminates": "unknown",
            "why": f"It is replicated neither here nor on {others}, said beforehand to lack it.",
        }
    return {"discriminates": "unknown", "why": "Of no twin that was judged it had been said that it lacks this."}


def _said(root: Path, config: Config) -> set[tuple[str, str]]:
    """The (twin, claim) pairs for which it was written, before the twin was trained, that the twin does not replicate the
    claim."""
    path = root / "experiments/twins.csv"
    rows = read_expected(path) if path.is_file() else []
    said = {
        (name, row["claim"])
        for name, entry in config.models.items()
        for row in rows
        if entry.role == "twin" and entry.corpus == row["twin"] and row["expected"] == "not replicated"
    }
    said |= {
        (name, claim)
        for name, entry in config.models.items()
        if entry.role == "twin"
        for claim, *_ in false_by_construction(root, entry)
    }
    claims = [claim for case in discover_cases(root) for claim in load_claims(root, case)]
    return said | {
        (name, claim.id) for claim in claims for name, verdict in claim.expected.items() if verdict == "not replicated"
    }


def _path(root: Path, model: str) -> Path:
    return root / "reports" / model / "verdicts.csv"


def _verdicts(root: Path, model: str) -> dict[str, str]:
    found = read_table(_path(root, model), "verdicts")
    return dict(zip(found["claim"], found["verdict"], strict=True))
