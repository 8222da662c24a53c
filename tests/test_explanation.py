"""A case told in English: nothing of it is left out, and the page of words is the one in the docs."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from biology.__main__ import main
from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.cases.measures import FORMS
from biology.cases.mechanism import load_mechanism
from biology.cases.rules import SupernodeRule
from biology.report.explanation import case_told, mechanism_told, part_told, rule_told
from biology.scaffolds.case_words import PAGE, words_page
from biology.tables import read_table

ROOT = Path(__file__).parents[1]


def test_the_page_of_the_docs_is_what_explain_prints():
    assert (ROOT / PAGE).read_text() == words_page(), "run `biology schema`"
    assert all(f"`{form.written}` ({form.unit})" in words_page() for form in FORMS.values())


@pytest.mark.parametrize("name", discover_cases(ROOT))
def test_everything_of_a_case_is_told(name):
    case, claims = load_case(ROOT, name), load_claims(ROOT, name)
    lines = case_told(case, claims).splitlines()
    for one in (*case.prompts, *case.supernodes, *(claim.id for claim in claims)):
        assert any(line.startswith((f"{one}:", f"{one} (")) for line in lines), one
    for label, experiment in case.experiments.items():
        assert any(line.startswith(f"{label} ({experiment.kind}): on the scored prompts") for line in lines), label
        assert all(any(line.startswith(f"    {outcome} (") for line in lines) for outcome in experiment.outcomes)
    for part in (part for claim in claims for part in claim.parts):
        assert f"    - {part.name}: {part_told(part)}" in lines
    assert not [line for line in lines if "{0}" in line or "None" in line]


def test_a_case_of_too_few_clusters_is_told_so():
    case, claims = load_case(ROOT, "multi_hop"), load_claims(ROOT, "multi_hop")
    assert "Too few" not in case_told(case, claims)
    kept = [item for item in case.items if item.split == "heldout" and item.role == "score"]
    three = dict.fromkeys(item.cluster for item in kept)
    few = case.model_copy(update={"items": tuple(item for item in kept if item.cluster in list(three)[:3])})
    assert "Too few: with 3 clusters held out p is never below 0.12" in case_told(few, claims)


@pytest.mark.parametrize("name", filter(partial(load_mechanism, ROOT), discover_cases(ROOT)))
def test_every_variable_and_truth_of_a_mechanism_is_told(name):
    mechanism = load_mechanism(ROOT, name)
    assert mechanism is not None
    lines = mechanism_told(mechanism).splitlines()
    for variable, of in mechanism.variables.items():
        assert any(line.endswith(f"--> {variable}") for line in lines)
        assert any(line.startswith(f"    {of.meaning}: in what the MLPs of layer") for line in lines)
    assert any(line.endswith("--> the answer") for line in lines) and mechanism.says in lines
    assert {line.split()[0] for line in lines if line.split()[1:2] == ["is"]} >= set(mechanism.truth)


FOUND = {"at": "found", "factor": "place", "among": ["last", "factor:city"], "given": ["relation"]}


def test_a_rule_and_a_part_are_sentences():
    rule = SupernodeRule(
        factor="place",
        across=("city",),
        recall=0.5,
        false_positive_rate=0.1,
        precision=0.2,
        not_promotes=("answer",),
        top=50,
    )
    assert rule_told(rule) == (
        "the features that at the last token tell the prompt's place from others. Each fires on at least 50% of the selecting prompts "
        "with this place and on at most 10% of those with another; at least 20% of those on which it fires have this one. Chosen on "
        "development prompts that differ from the scored one in city. Each does not promote answer among its first 50 tokens."
    )
    found = rule_told(SupernodeRule.model_validate(FOUND))
    assert found.startswith(
        "the features that at a token that is found tell the prompt's place from others. Each fires"
    )
    assert found.endswith(
        " The token is found on development prompts, at the last token or at the last piece of the prompt's city, and so are the layers: "
        "where an exchange of what the MLPs wrote for that of prompts with another place most often moves the answer to the one for that "
        "place and the prompt's own relation. If hardly any does, it is at the last token, in all layers."
    )
    (claim,) = [one for one in load_claims(ROOT, "multi_hop") if one.id == "multihop-7"]
    assert part_told(claim.parts[0]) == (
        "donor_top1 of swap minus its control match is above zero by 0.5 at least; it is refuted where the interval lies below 0.25; "
        "5 times as much as donor, position and direction at least; match at most 0.05."
    )


@pytest.mark.parametrize("claim", ["multihop-5", "comp-7"])
def test_a_claim_is_told_with_what_came_out(claim, capsys, monkeypatch):
    """The committed verdict and its reason on every model, and where one was planted the truth; in one line the verdicts on its twins,
    seeds and controls."""
    monkeypatch.chdir(ROOT)
    assert main(["explain", claim]) == 0
    said = capsys.readouterr().out.partition("What came out:\n")[2].splitlines()
    row = read_table(ROOT / "reports/elegans/verdicts.csv", "verdicts").set_index("claim").loc[claim]
    (line,) = [line for line in said if line.startswith("    elegans: ")]
    (stated,) = [one for case in ("multi_hop", "components") for one in load_claims(ROOT, case) if one.id == claim]
    assert line.startswith(f"    elegans: {row['verdict']}") and line.endswith(f". {row['reason']}")
    assert ("exploratory" in line) == stated.explores("elegans")
    planted = load_mechanism(ROOT, "multi_hop").truth.get(claim)
    truth = [f"        It is {planted.truth} by construction: {planted.because}."] if planted else []
    assert [told for told in said if told.startswith("        It is ")] == truth
    (beside,) = [line for line in said if line.startswith("    Held against these: ")]
    other = {
        "multihop-5": " elegans-rote (twin, false by construction): ",
        "comp-7": " elegans-languages-neurons (dictionary): ",
    }[claim]
    assert other in beside and " elegans: " not in beside
    assert main(["explain", claim, "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    assert verdicts["elegans"]["verdict"] == row["verdict"] and verdicts["elegans"]["role"] == "model"
    assert verdicts["elegans"]["truth"] == (planted and planted.truth)


def test_explaining_starts_no_torch():
    code = (
        "import sys; from biology.__main__ import main; main(['explain', 'multi_hop']); print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.startswith("multi_hop: Introductory Example") and said.endswith("False\n")
