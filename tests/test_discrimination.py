"""A claim that is replicated where its mechanism is lacking is marked, from verdicts and from what was said beforehand."""

from pathlib import Path

import pandas as pd
import pytest

from biology.config import Config
from biology.tables import read_table, write_table
from biology.verdicts.discrimination import discrimination

ROOT = Path(__file__).parents[1]
PATHS = {"path": "data/models/elegans", "transcoders": "data/models/elegans/transcoders"}
HOW = {"R": "replicated", "n": "not replicated", "?": "inconclusive", "-": "untestable"}
CLAIMS = ["add-2", "add-9", "add-10", "multihop-7", "multihop-9", "poem-1"]


def judged(tmp_path: Path, verdicts: dict[str, str]) -> pd.DataFrame:
    """What is said of the claims on `grown`, given the verdicts (a letter a claim) of each model."""
    (tmp_path / "experiments").mkdir()
    said = [("rote", "add-2"), ("rote", "add-9"), ("rote", "multihop-7"), ("base12", "add-2")]
    lines = [f"{twin},{claim},not replicated,why" for twin, claim in said]
    (tmp_path / "experiments/twins.csv").write_text("\n".join(["twin,claim,expected,why", *lines]) + "\n")
    shipped = read_table(ROOT / "reports/elegans/verdicts.csv", "verdicts").set_index("claim").loc[CLAIMS].reset_index()
    for model, letters in verdicts.items():
        (tmp_path / "reports" / model).mkdir(parents=True)
        frame = shipped.assign(verdict=[HOW[letter] for letter in letters], model=model)
        write_table(tmp_path / "reports" / model / "verdicts.csv", frame, "verdicts")
    models = {
        "grown": PATHS,
        "rote": {**PATHS, "role": "twin", "of": "grown", "corpus": "rote"},
        "base12": {**PATHS, "role": "twin", "of": "grown", "corpus": "base12"},
        "random": {**PATHS, "role": "random", "of": "grown", "shuffled": 0},
        "seed": {**PATHS, "role": "seed", "of": "grown"},
    }
    return discrimination(tmp_path, Config.model_validate({"models": models})).set_index("claim")


def test_claims_are_marked_by_what_twins_and_controls_do(tmp_path):
    found = judged(
        tmp_path, {"grown": "RRRnR?", "rote": "nn?nRn", "base12": "nRRnnn", "random": "nnnnn?", "seed": "RRRRRR"}
    )
    assert found["discriminates"].to_dict() == {
        "add-2": "yes",  # on neither of the two that were said to lack it
        "add-9": "partly",  # not on rote, said to lack it; on base12, of which nothing was said
        "add-10": "no",  # nothing was said of any, and base12 replicates it
        "multihop-7": "unknown",  # replicated nowhere
        "multihop-9": "no",  # rote replicates it, of which nothing was said
        "poem-1": "unknown",
    }
    assert found["why"]["multihop-9"] == "It is replicated on rote, of which nothing had been said, too."
    assert found["why"]["add-2"] == "It is replicated here, and not on rote and base12, said beforehand to lack it."
    assert set(found["model"]) == {"grown"} and found["verdict"]["multihop-7"] == "not replicated"


@pytest.mark.parametrize(
    ("model", "why"), [("rote", "said to lack it"), ("random", "with transcoders that mean nothing")]
)
def test_a_twin_that_should_not_and_a_control_make_it_say_nothing(tmp_path, model, why):
    verdicts = {"grown": "RRRRRR", "rote": "nnnnnn", "base12": "nnnnnn", "random": "nnnnnn"}
    found = judged(tmp_path, verdicts | {model: "RRnRnn"})
    assert (
        found["discriminates"][["add-2", "add-9", "multihop-7"]].tolist() == ["no"] * 3 and why in found["why"]["add-2"]
    )


def test_what_cannot_be_tested_tells_nothing(tmp_path):
    found = judged(tmp_path, {"grown": "-RR?RR", "rote": "n--nnn"})
    assert found["discriminates"].tolist() == ["unknown"] * 6
    assert found["why"]["add-2"] == "It cannot be tested here."


def test_models_that_no_twin_was_grown_for_are_told_so(tmp_path):
    assert set(judged(tmp_path, {"grown": "RRRRRR"})["discriminates"]) == {"unknown"}
