"""A claim that is computed anew asks for what it rests on, and for nothing else."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tqdm import tqdm

from biology.__main__ import main
from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.cli import checking
from biology.cli.checking import reduced
from biology.config import load_config
from biology.supernodes.grouping import needed_rules
from biology.tables import read_table

ROOT = Path(__file__).parents[1]
SHIPPED = ("elegans", "elegans-languages")
CONFIG = load_config(ROOT / "config.yaml")
ASKED = sorted({case for model in SHIPPED for case in CONFIG.cases_of(model, discover_cases(ROOT))})


@pytest.mark.parametrize("name", ASKED)
def test_every_claim_of_a_model_that_ships_can_be_asked_alone(name):
    """Rules that only other experiments need may name a factor that this model's prompts lack."""
    case = load_case(ROOT, name)
    prompts = pd.DataFrame([item.model_dump() | item.factors for item in case.items])
    claims = load_claims(ROOT, name, case)
    assert claims
    for claim in claims:
        alone = reduced(case, claim)
        rules = needed_rules(alone, prompts)
        named = {one for experiment in alone.experiments.values() for one in experiment.names()}
        assert set(alone.supernodes) == named & set(case.supernodes) and set(rules) <= named
        assert {part.experiment for part in claim.parts} <= set(alone.experiments)


def test_with_json_standard_output_holds_one_document(capsys, monkeypatch):
    """Whatever experiments say on their way, and the committed row agrees with itself."""
    rows = read_table(ROOT / "reports/elegans/verdicts.csv", "verdicts")
    judgement = SimpleNamespace(verdicts=rows[rows["claim"] == "multihop-7"], parts=pd.DataFrame())

    def computed(*_):
        tqdm.write("swap: chosen on development prompts")
        return SimpleNamespace(judgement=judgement)

    monkeypatch.setattr(checking, "open_model", lambda *_: (None, None))
    monkeypatch.setattr(checking, "with_tables", computed)
    monkeypatch.chdir(ROOT)
    assert main(["check", "multihop-7", "--model", "elegans", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["agrees"] is True and "swap: chosen" in said.err


def test_a_number_agrees_with_the_six_digits_that_are_committed_of_it():
    """And with no other six digits."""
    for value in np.random.default_rng(0).uniform(1, 10, 200).tolist():
        assert checking._same(value, float(f"{value:.6g}"))
        assert not checking._same(value * (1 + 3e-5), value) and not checking._same(value, float("nan"))
    assert checking._same(float("nan"), float("nan"))
