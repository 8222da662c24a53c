"""Compares the verdicts on a model with those on other models: further seeds should agree; twins and random controls
should not replicate.

A seed has the same mechanisms by the same recipe, so its verdicts should be the reference's. A twin should give the verdicts of
`experiments/twins.csv`, written before it was trained (there `untestable` is a failure of the twin), and replicate no claim that its
own mechanism makes false (there `untestable` passes). With shuffled transcoders nothing should be replicated.

Verdicts made by different rules (`statistics.METHODS`) are compared too, and marked.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from biology.cases.case import discover_cases
from biology.cases.claim_file import load_claims
from biology.cases.mechanism import load_mechanism, twins_of
from biology.config import HELD_ROLES, Config, ModelConfig
from biology.records import InputError, known
from biology.schemas import VERDICTS
from biology.tables import read_table

EXPECTED = ["twin", "claim", "expected", "why"]
"""Columns of `experiments/twins.csv`."""
COLUMNS = [
    "model", "role", "of", "claim", "reference", "verdict", "expected", "as_expected", "why", "method", "reference_method",
]  # fmt: skip


def compare(root: Path, config: Config) -> pd.DataFrame:
    """One row for each claim and each judged model of role seed, twin or random: what was expected, and whether it came
    true.

    `reference` is the verdict on the model that it is compared with: a claim that fails there too cannot tell the two
    apart.

    Raises InputError if the reference (`of`) of such a model has not been judged.
    """
    rows = []
    for name, entry in config.models.items():
        if entry.role not in HELD_ROLES:
            continue
        path = root / "reports" / name / "verdicts.csv"
        if path.is_file():
            judged, references = (
                table.set_index("claim") for table in (read_table(path, "verdicts"), _reference(root, entry))
            )
            verdicts, reference = judged["verdict"], references["verdict"]
            rows += [
                {
                    "model": name, "role": entry.role, "of": entry.of, "claim": claim,
                    "reference": reference.get(claim, ""), "verdict": verdicts[claim],
                    "expected": expected,
                    "as_expected": verdicts[claim] == expected if expected else verdicts[claim] != "replicated",
                    "why": why, "method": judged["method"][claim], "reference_method": references["method"].get(claim, ""),
                }
                for claim, expected, why in _expected(root, entry)
                if claim in verdicts
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def false_by_construction(root: Path, entry: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """The same from the mechanism that a twin of an organism states: what is false of it may not be replicated."""
    for case in entry.cases or ():
        if entry.corpus is None or entry.corpus not in twins_of(root, case):
            continue
        mechanism = load_mechanism(root, case, entry.corpus)
        for claim, one in (mechanism.truth if mechanism else {}).items():
            if one.truth == "false":
                yield claim, "", one.because


def _expected(root: Path, entry: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """Claim, expected verdict ('': any except replicated) and reason."""
    if entry.role == "twin":
        for row in read_expected(root / "experiments/twins.csv"):
            if row["twin"] == entry.corpus:
                yield row["claim"], row["expected"], row["why"]
        yield from false_by_construction(root, entry)
        return
    for row in _reference(root, entry).itertuples():
        if entry.role == "seed":
            yield row.claim, row.verdict, f"the verdict of {entry.of}"
        else:
            yield row.claim, "", "transcoders without meaning"


def _reference(root: Path, entry: ModelConfig) -> pd.DataFrame:
    """The verdicts on the model that an entry is compared with."""
    path = root / "reports" / str(entry.of) / "verdicts.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file: judge '{entry.of}' first; other models are compared with it.")
    return read_table(path, "verdicts")


def read_expected(path: Path) -> list[dict[str, str]]:
    """The rows of `experiments/twins.csv`: twin, claim, expected, why. Raises `InputError` for a mistake in it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: it must say which verdicts are expected of twins.") from None
    if columns != EXPECTED:
        raise InputError(f"{path}: its columns are {', '.join(columns)}; needed: {', '.join(EXPECTED)}.")
    claims = [claim.id for case in discover_cases(path.parents[1]) for claim in load_claims(path.parents[1], case)]
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number} does not have {len(EXPECTED)} columns.")
        known(path, f"row {number}.claim", "claim", row["claim"], claims or [row["claim"]])
        known(path, f"row {number}.expected", "verdict", row["expected"], VERDICTS)
        if (row["twin"], row["claim"]) in seen:
            raise InputError(f"{path}: row {number}: {row['claim']} of {row['twin']} is listed twice.")
        seen.add((row["twin"], row["claim"]))
    return rows


def across_methods(compared: pd.DataFrame) -> list[str]:
    """Models that were judged by another rule than the models they are compared with."""
    judged_there = compared["reference_method"] != ""
    differ = judged_there & (compared["method"] != compared["reference_method"])
    return list(dict.fromkeys(compared.loc[differ, "model"]))


def summary(compared: pd.DataFrame) -> pd.DataFrame:
    """Per model: claims compared, share as expected, and how many are replicated, inconclusive and untestable."""
    rows = []
    for (model, role), found in compared.groupby(["model", "role"], sort=False):
        counts = found["verdict"].value_counts()
        rows.append(
            {"model": model, "role": role, "claims": len(found), "as_expected": found["as_expected"].mean()}
            | {verdict: int(counts.get(verdict, 0)) for verdict in ("replicated", "inconclusive", "untestable")}
        )
    return pd.DataFrame(rows)
