"""Seeds are held to the reference's verdicts, twins to what was written down before they were trained, controls to nothing found."""

from pathlib import Path

import pandas as pd
import pytest

from biology.config import Config
from biology.records import InputError
from biology.tables import read_table, write_table
from biology.verdicts.robustness import compare, summary

ROOT = Path(__file__).parents[1]
PATHS = {"path": "data/models/elegans", "transcoders": "data/models/elegans/transcoders"}


@pytest.fixture
def root(tmp_path) -> Path:
    """Three claims of the shipped verdicts, judged on the reference, a seed, a twin and a control."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/twins.csv").write_text(
        "twin,claim,expected,why\nrote,multihop-1,not replicated,no bridge\nrote,multihop-7,not replicated,no bridge\n"
    )
    shipped = read_table(ROOT / "reports/elegans/verdicts.csv", "verdicts")
    for model, verdicts in {
        "grown": ("replicated", "not replicated", "replicated"),
        "seed": ("replicated", "inconclusive", "replicated"),
        "twin": ("not replicated", "replicated", "untestable"),
        "random": ("inconclusive", "not replicated", "replicated"),
        "wide": ("replicated", "replicated", "replicated"),
    }.items():
        frame = shipped.set_index("claim").loc[["multihop-1", "multihop-3", "multihop-7"]].reset_index()
        (tmp_path / "reports" / model).mkdir(parents=True)
        write_table(
            tmp_path / "reports" / model / "verdicts.csv", frame.assign(verdict=list(verdicts), model=model), "verdicts"
        )
    return tmp_path


def config(**changed: dict) -> Config:
    models = {
        "grown": PATHS,
        "seed": {**PATHS, "role": "seed", "of": "grown", "seed": 1},
        "twin": {**PATHS, "role": "twin", "of": "grown", "corpus": "rote"},
        "random": {**PATHS, "role": "random", "of": "grown", "shuffled": 0},
        "wide": {**PATHS, "role": "size", "of": "grown"},  # of which nothing is expected
    }
    return Config.model_validate({"models": models | changed})


def test_each_role_has_its_expectation(root):
    found = compare(root, config()).set_index(["model", "claim"])["as_expected"].to_dict()
    assert found == {
        ("seed", "multihop-1"): True, ("seed", "multihop-3"): False, ("seed", "multihop-7"): True,
        ("twin", "multihop-1"): True, ("twin", "multihop-7"): False,  # untestable is no pass; multihop-3 is not listed
        ("random", "multihop-1"): True, ("random", "multihop-3"): True, ("random", "multihop-7"): False,
    }  # fmt: skip


def test_the_reference_stands_beside(root):
    """A verdict that the model shares tells no twin from it."""
    found = compare(root, config()).set_index(["model", "claim"])["reference"]
    assert found["twin"].to_dict() == {"multihop-1": "replicated", "multihop-7": "replicated"}
    assert found["seed"]["multihop-3"] == "not replicated"


def test_the_summary_counts(root):
    made = summary(compare(root, config())).set_index("model")
    assert made.loc["seed", "as_expected"] == pytest.approx(2 / 3)
    assert made.loc["twin", ["claims", "replicated", "untestable"]].tolist() == [2, 0, 1]
    assert made.loc["random", "replicated"] == 1
    assert summary(pd.DataFrame(compare(root, Config.model_validate({"models": {"grown": PATHS}})))).empty


def test_what_is_missing_is_named(root):
    for role in ("seed", "size", "extended", "twin", "random"):
        with pytest.raises(ValueError, match=f"models.alone: role {role} needs `of: <model>`"):
            config(alone={**PATHS, "role": role})
    (root / "experiments/twins.csv").unlink()
    with pytest.raises(InputError, match="twins.csv: no such file"):
        compare(root, config())
    (root / "reports/grown/verdicts.csv").unlink()
    with pytest.raises(InputError, match="judge 'grown' first"):
        compare(root, config())
