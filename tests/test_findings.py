"""A part of a claim in a sentence: its own numbers, in per cent and points, and the condition that decided."""

import re
import string

import pandas as pd
import pytest
from multi_hop_tables import write_repository

from biology.arms import CONTROLS
from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.cases.measures import FORMS
from biology.findings.sentences import change, finding, printed
from biology.tables import read_table
from biology.verdicts.measuring import Check

ROOT = "."
PART = {
    "part": "the answer falls", "verdict": "replicated", "experiment": "inhibit_relation", "outcome": "answer_probability",
    "strength": 0.0, "control": "match", "direction": "decrease", "threshold": 0.3, "statistic": 0.362, "low": 0.33, "high": 0.392,
    "effect": 0.152, "control_mean": 0.514, "p_holm": 0.0003, "checks": "position ratio infinite (at least 3 registered)", "reason": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def case(repository):
    return load_case(repository, "multi_hop")


@pytest.fixture(scope="module")
def repository():
    from pathlib import Path

    return Path(__file__).parents[1]


def test_a_part_is_told_with_its_control_and_what_was_needed(case):
    told = finding(case, PART)
    assert told.sentence == (
        "With “say a capital” switched off, the answer has a probability of 15%; with matched random features, 51%."
    )
    assert told.difference == "That is a fall of 36 points [33 to 39]; needed: 30 points at least."
    assert told.short == "36 points, 30 needed"
    assert told.checks == (("nothing of it with the same features at the wrong token", True),)


@pytest.mark.parametrize(
    "changes, short",
    [
        ({"verdict": "inconclusive", "statistic": 0.21}, "21 points, 30 needed"),
        ({"verdict": "inconclusive", "checks": "random ratio 0.9 (at least 2 registered)"},
         "no better than with transcoders of shuffled weights: ratio 0.9, 2 needed"),
        ({"verdict": "inconclusive", "checks": "match mean 0.212 (at most 0.04 registered)"},
         "21% with matched random features, at most 4.0% allowed"),
        ({"verdict": "inconclusive", "p_holm": 0.02}, "too few clusters agree: p 0.02, below 0.01 needed"),
        ({"verdict": "inconclusive", "low": 0.1, "high": 0.6}, "36 points, 30 needed, but too uncertain: 10 to 60"),
        ({"verdict": "not replicated", "statistic": -0.18}, "−18 points, 30 needed"),
        ({"verdict": "not replicated", "statistic": 0.2996}, "29.96 points, 30 needed"),
        ({"direction": "equivalent", "statistic": 0.00002, "threshold": 0.2, "control": "clean"}, "moved by 0 points, ±20 allowed"),
        ({"control": "none", "direction": "increase", "outcome": "path_share", "experiment": "graph", "statistic": 0.88, "threshold": 0.6,
          "checks": ""}, "88%, 60% needed"),
        ({"verdict": "untestable", "reason": "Nobody asked."}, "cannot be asked"),
    ],
)  # fmt: skip
def test_what_decided_is_named(case, changes, short):
    assert finding(case, {**PART, **changes}).short == short


def test_differences_of_shares_are_points_and_no_number_has_an_exponent(case):
    assert [change(x, "answer_top1") for x in (6.17e-07, -0.000404, 0.0212, -0.18)] == [
        "0 points", "0 points", "2.1 points", "−18 points",
    ]  # fmt: skip
    assert printed(0.9995, "activation:bridge") == "100%" and printed(3.5, "answer_log_odds") == "3.5 nats"


def test_every_outcome_is_told_with_its_mean_and_nothing_that_is_not_there():
    for form in FORMS.values():
        fields = {field for _, field, _, _ in string.Formatter().parse(form.told) if field is not None}
        asked = form.count[1] if form.about and form.separator != "+" and form.about != "outcome" else 1
        allowed = {"value", "through", "source", *(str(i) for i in range(asked if form.about else 0))}
        assert "value" in fields and fields <= allowed, form.name
        assert form.told[0].islower() or form.told[0] == "{", form.name


def test_checks_are_read_as_they_are_written():
    for check in (Check("ratio", "match", float("inf"), 3.0), Check("mean", "donor", 0.0355, 0.05)):
        assert Check.read(str(check)) == check
    assert all(not re.search(r"\s", arm) for arm in CONTROLS)


def test_every_claim_of_every_case_can_be_told(repository):
    """Also where nothing was measured like this yet: each part with made-up numbers."""
    for name in discover_cases(repository):
        case = load_case(repository, name)
        for claim in load_claims(repository, name, case):
            for part in claim.parts:
                stated = part.model_dump() | {
                    "part": part.name,
                    "threshold": part.minimum,
                    "control": str(part.control),
                }
                told = finding(case, PART | {"checks": ""} | stated)
                for text in (told.sentence, told.difference, told.short):
                    assert "{" not in text and "None" not in text and "  " not in text, (claim.id, text)


def test_the_parts_of_a_page_are_those_of_the_table(tmp_path):
    root = write_repository(tmp_path / "repository", figures=False)
    case, parts = load_case(root, "multi_hop"), read_table(root / "data/runs/elegans/parts.parquet", "parts")
    row = parts[parts["part"] == "swap"].iloc[0]
    told = finding(case, row.to_dict())
    assert printed(row["effect"], "donor_top1") in told.sentence and pd.notna(row["control_mean"])
    assert told.sentence.startswith("With “Texas” at −2× and the donor's at 2×, the donor's answer is said on ")
