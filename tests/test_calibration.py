"""Truth by construction beside verdicts: what is counted as seen, as missed, and as seen where nothing is."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.cases.mechanism import load_mechanism
from biology.config import Config
from biology.figures.calibration_figure import figure
from biology.figures.drawing import caption, styled
from biology.records import validate
from biology.verdicts.calibration import KINDS, calibrated, grown_last, kind_of, pairs, pooled, rates, truths_of

ROOT = Path(__file__).parents[1]
CLAIMS = (("multihop-7", "multi_hop"), ("poem-2", "rhyme_planning"))
SAID = {
    "planted": ("replicated", "not replicated"), "twin": ("replicated", "untestable"), "null": ("not replicated", "untestable"),
    "plain": ("replicated", "replicated"), "other": ("replicated", "replicated"),
}  # fmt: skip


def entry(**more):
    return {"path": "m", "transcoders": "m/t", **more}


@pytest.fixture
def checkout(tmp_path):
    """A checkout in which a planted model, its twin and control, and a plain model with its twin have been judged."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name, verdicts in SAID.items():
        rows = [
            {
                "claim": claim, "case": case, "model": name, "transcoders": "per_layer topk", "seed": 0, "verdict": verdict,
                "statistic": 0.1, "low": 0.0, "high": 0.2, "threshold": 0.1, "control": "match", "p": 0.5, "n": 300, "found": 1.0,
                "method": "studentised-2", "amendments": 0, "reason": "so it is",
            }
            for (claim, case), verdict in zip(CLAIMS, verdicts, strict=True)
        ]  # fmt: skip
        (tmp_path / "reports" / name).mkdir(parents=True)
        pd.DataFrame(rows).to_csv(tmp_path / "reports" / name / "verdicts.csv", index=False)
    models = {
        "planted": entry(planted=True), "twin": entry(role="twin", of="planted", corpus="rote"),
        "null": entry(role="random", of="planted", shuffled=0), "plain": entry(), "other": entry(role="twin", of="plain", corpus="rote"),
        "never_judged": entry(planted=True),
    }  # fmt: skip
    return tmp_path, validate(Config, {"models": models}, "config.yaml")


def test_truth_is_the_mechanism_s_of_a_planted_model_and_false_where_nothing_can_be(checkout):
    table = pairs(*checkout).set_index(["model", "claim"])
    assert set(table.index.get_level_values("model")) == {"planted", "twin", "null"}
    for case in filter(partial(load_mechanism, ROOT), discover_cases(ROOT)):
        for claim, stated in load_mechanism(ROOT, case).truth.items():
            assert truths_of(*checkout, "planted", case)[claim] == stated
    assert table.loc["twin", "truth"].to_dict() == {"multihop-7": "false", "poem-2": "open"}  # of what twins.csv says
    assert set(table.loc["null", "truth"]) == {"false"}


def test_what_a_model_does_not_hold_makes_nothing_true(checkout):
    """A growth may fail: then the certificate says so, and no claim on the variable's supernode is true by construction."""
    root, config = checkout
    stated = truths_of(root, config, "planted", "chain_of_thought")
    (root / "m").mkdir()
    cells = {"hint": 0.59, "later": 0.97, "can": 1.0}
    rows = [("chain_of_thought", name, "mlp", "effect", value, "chain_of_thought") for name, value in cells.items()]
    rows += [
        ("chain_of_thought", "can", "mlp", "effect", 0.0, "unheeding"),
        ("chain_of_thought", "can", "mlp", "control", 0.0, "chain_of_thought"),
    ]
    columns = ["case", "variable", "what", "arm", "accuracy", "mechanism"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "m/certificate.csv", index=False)
    found = truths_of(root, config, "planted", "chain_of_thought")
    on_hint = {"cot-1", "cot-3", "cot-4", "cot-6", "cot-7", "cot-8", "cot-10"}
    assert {claim for claim in stated if found[claim] != stated[claim]} == on_hint
    assert {found[claim].truth for claim in on_hint} == {"open"} and {stated[claim].truth for claim in on_hint} == {
        "true"
    }
    assert {found[claim].because for claim in on_hint} == {
        "the certificate of this model says that it does not hold hint"
    }
    assert found["cot-9"].truth == "true"  # of what the model holds


def test_what_holds_of_any_dictionary_is_left_open_on_one_that_means_nothing(checkout):
    """Edges are exact whatever features mean: that influence foretells ablations is not false on shuffled transcoders."""
    truths = truths_of(*checkout, "null", "methods")
    asked = {claim.id: {part.control for part in claim.parts} for claim in load_claims(ROOT, "methods")}
    assert set(truths) == {claim for claim, controls in asked.items() if "random" in controls}
    assert {one.truth for one in truths.values()} == {"false"}
    assert "meth-1" in truths and "meth-8" in set(asked) - set(truths)
    assert truths_of(*checkout, "null", "components") == {}  # what graphs are made of, they may be made of there too
    entities = set(truths_of(*checkout, "null", "entities"))
    assert "ent-3" in entities and "ent-7" not in entities  # where nothing is to happen, features without meaning do
    assert {"cot-1", "cot-2"} <= set(truths_of(*checkout, "null", "chain_of_thought"))  # a part of them is an exchange
    assert "cot-7" not in truths_of(*checkout, "null", "chain_of_thought")  # where influence starts at tokens
    # the sum of all terms of a score, and its largest pairs, are what they are
    assert set(truths_of(*checkout, "null", "attention")) == {"qk-1", "qk-2", "qk-3", "qk-9"}


def test_another_dictionary_repeats_the_claims_of_its_model_and_is_not_pooled_with_them(checkout):
    table = pairs(*checkout)
    again = table[table["model"] == "planted"].assign(model="neurons", role="dictionary", verdict="not replicated")
    both = pd.concat([table, again])
    pd.testing.assert_frame_equal(rates(pooled(both)), rates(table))
    assert rates(both, ["model"]).set_index("model").loc["neurons", "sensitivity"] == 0


def test_of_a_model_and_its_seeds_the_one_that_was_grown_last_counts(checkout):
    models = {
        "planted": entry(planted=True), "planted-seed2": entry(planted=True, role="seed", of="planted", seed=2),
        "planted-seed10": entry(planted=True, role="seed", of="planted", seed=10), "planted-seed11": entry(planted=True, role="seed", of="planted", seed=11),
        "neurons": entry(planted=True, role="dictionary", of="planted"), "twin": entry(role="twin", of="planted", corpus="rote"), "other": entry(planted=True),
    }  # fmt: skip
    config = validate(Config, {"models": models}, "config.yaml")
    judged = ["planted", "planted-seed2", "planted-seed10", "neurons", "twin", "other"]  # seed 11 is not judged yet
    found = grown_last(pd.DataFrame({"model": judged}), config)
    assert list(found["model"]) == ["planted-seed10", "other"]


def test_rates_count_what_is_true_and_false_and_leave_out_what_is_open(checkout):
    (row,) = rates(pairs(*checkout)).to_dict("records")
    assert (row["sensitivity"], row["sensitivity_n"]) == (1.0, 1)  # multihop-7 on planted; poem-2 is open
    assert (row["specificity"], row["specificity_n"]) == (0.5, 2)  # the twin's multihop-7 is seen, the control's is not
    assert row["specificity_low"] == pytest.approx(0.0945, abs=1e-3) and row["specificity_high"] == pytest.approx(
        0.9055, abs=1e-3
    )
    by = rates(pairs(*checkout), ["model"]).set_index("model")
    assert by.loc["twin", "specificity"] == 0 and by.loc["null", "specificity"] == 1
    assert by.loc["twin", "sensitivity_n"] == 0 and by["sensitivity"].isna().sum() == 2


def test_a_claim_that_was_changed_after_its_verdict_speaks_of_no_sensitivity(checkout):
    """A miss could be mended away; a false one that passes stays in sight."""
    table = pairs(*checkout)
    assert set(table["exploratory"]) == {0}
    changed = table.assign(exploratory=1)
    (before,), (row,) = (rates(one).to_dict("records") for one in (table, changed))
    assert (row["sensitivity_n"], row["specificity_n"]) == (0, before["specificity_n"])


def test_a_page_says_whether_a_claim_is_true_here_and_what_its_test_sees(checkout):
    root, config = checkout
    true = load_mechanism(ROOT, "multi_hop").truth["multihop-7"].because
    assert (
        calibrated(root, config, "planted", "multi_hop")["multihop-7"]
        == f"On planted it is true by construction: {true}."
    )
    shuffled = calibrated(root, config, "null", "multi_hop")["multihop-7"]
    assert shuffled == "On null it is false by construction: shuffled features have no meaning."
    assert calibrated(root, config, "plain", "multi_hop") == calibrated(root, config, "other", "multi_hop") == {}
    pairs(root, config).to_csv(root / "reports/calibration.csv", index=False)
    seen = "Where it is true by construction it is replicated on 1 of 1 models; where it is false by construction it is replicated on 1 of 2 models."
    assert calibrated(root, config, "planted", "multi_hop")["multihop-7"].endswith(f"{true}. {seen}")
    assert calibrated(root, config, "plain", "multi_hop")["multihop-7"] == seen
    assert (
        calibrated(root, config, "plain", "rhyme_planning")["poem-2"]
        == "Of no model its truth is known by construction."
    )


def test_the_title_says_the_rates(checkout):
    with styled():
        title, text = caption(figure(pairs(*checkout)))
    assert "100% [21%, 100%] of true claims are replicated and 50% [9%, 91%] of false ones are not" in title
    assert "nothing of natural models" in text


def test_nothing_is_said_of_claims_that_are_not_there(checkout):
    table = pairs(*checkout)
    with styled():
        title, _ = caption(figure(table[table["truth"] == "true"]))
    assert "true claims are replicated" in title and "false" not in title


def test_every_claim_with_experiments_is_of_one_kind():
    """The strongest that it asks; an exchange is stronger than a path."""
    found = {}
    for name in discover_cases(ROOT):
        case = load_case(ROOT, name)
        found |= {claim.id: kind_of(case, claim) for claim in load_claims(ROOT, name, case)}
        for claim in load_claims(ROOT, name, case):
            assert found[claim.id] in KINDS or not claim.parts
    expected = {
        "add-10": "graph",
        "multihop-2": "inhibition",
        "multihop-7": "swap",
        "poem-1": "representation",
        "multi-3": "swap",
    }
    assert expected.items() <= found.items()
