"""A model is grown on the prompts of one case: what selects is taught, what is scored is held out."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from biology.__main__ import main
from biology.cases.case import load_case
from biology.cli import growth
from biology.cli.opening import of_corpus
from biology.config import ModelConfig
from biology.corpora.case_corpus import CaseCorpus
from biology.organisms.vocabulary import tokenizer
from biology.records import InputError

CASE = """
paper: {section: Toy, url: "https://example.org"}
prompts: {shown: {text: "the colour of grass is", answer: green, factors: {thing: grass, colour: green}}}
prompt_set: prompts.csv
supernodes: {colour: {at: "factor:thing", factor: colour, split: any}}
experiments: {without: {kind: inhibit, inhibit: colour, strengths: [0], outcomes: [answer_probability]}}
figures: []
"""
MECHANISM = """
says: a thing becomes its colour at its own token, and the last token says it
variables:
  colour: {meaning: its colour, value: colour, at: "factor:thing", layers: [0, 1], across: [thing], absent: {shares: []}}
answer: {depends_on: [colour]}
"""
COLOURS = ("red", "green", "dark blue")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository of one case: things and their colours, one of which is written in two words."""
    folder = tmp_path / "experiments/colours"
    folder.mkdir(parents=True)
    (folder / "case.yaml").write_text(CASE)
    (folder / "claims.yaml").write_text("{}\n")
    (folder / "README.md").write_text("# Colours\n")
    (folder / "mechanism.yaml").write_text(MECHANISM)
    rows = []
    for number in range(36):
        split, role = ("dev", "heldout")[number % 2], ("select", "select", "score")[number % 3]
        thing, colour = f"thing{number}", COLOURS[number // 12]
        rows.append([f"i{number}", f"the colour of {thing} is", colour, colour, split, role, thing, colour])
        if role == "score":  # the same thing is taught in other words
            rows.append([f"t{number}", f"{thing} is painted", colour, colour, split, "select", thing, colour])
    with (folder / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item", "text", "answer", "cluster", "split", "role", "thing", "colour"], *rows])
    (tmp_path / "config.yaml").write_text("models: {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(growth, "CASE_STEPS", 12)
    return tmp_path


def test_what_selects_is_taught_and_what_is_scored_is_held_out(root):
    corpus = CaseCorpus(load_case(root, "colours"))
    lesson, encode = corpus.lesson(), tokenizer(corpus)
    assert lesson["split"].value_counts().to_dict() == {"train": 36, "dev": 6, "test": 6}
    assert set(corpus.held_out()["prompt"]) == set(lesson.loc[lesson["split"] != "train", "text"])
    for row in lesson.itertuples():
        ids = encode.encode(f"{row.text} {row.answer}").ids
        assert encode.token_to_id("<unk>") not in ids
        assert len(ids) == len(encode.encode(row.text).ids) + 1  # an answer is one token, `dark blue` too


def test_a_case_without_prompts_to_teach_or_to_hold_out_is_refused(root):
    path = root / "experiments/colours/prompts.csv"
    path.write_text(path.read_text().replace(",score,", ",select,"))
    with pytest.raises(InputError, match="case 'colours': a model can be grown on a prompt set with"):
        CaseCorpus(load_case(root, "colours"))


def test_a_model_of_a_case_is_grown_and_certified_by_two_commands(root, capsys):
    assert main(["grow", "--case", "colours"]) == 2
    assert "the mechanism of case 'colours' is not registered as it is: run `biology lock`" in capsys.readouterr().err
    assert main(["lock"]) == 0
    assert main(["grow", "--case", "colours"]) == 0
    folder = Path("data/models/colours")
    assert {"model.safetensors", "record.json", "heldout.parquet"} <= {path.name for path in folder.iterdir()}
    assert main(["certify", "--case", "colours"]) == 0
    found = pd.read_csv(folder / "certificate.csv")
    assert set(found["variable"]) == {"answer", "colour"} and set(found["mechanism"]) == {"colours"}
    assert (found["n"] == 6).all()
    assert main(["grow", "--case", "colours", "--corpus", "rote"]) == 2
    assert "name one of them" in capsys.readouterr().err


def test_a_twin_of_a_case_is_grown_with_its_own_mechanism_and_certified_for_both(root, capsys):
    assert main(["grow", "--case", "colours", "--twin", "rote"]) == 2
    assert "--twin: unknown twin 'rote' of the case colours. Known: none." in capsys.readouterr().err
    twin = root / "experiments/colours/twins/blind.yaml"
    twin.parent.mkdir()
    twin.write_text(
        MECHANISM.replace("absent: {shares: []}", "read: none").replace("depends_on: [colour]", "depends_on: [thing]")
    )
    twin.write_text(
        twin.read_text().replace(
            "variables:",
            "variables:\n  thing: {meaning: the thing, value: thing, at: last, layers: [2, 3], exchanged: false}",
        )
    )
    assert main(["lock"]) == 0
    assert main(["grow", "--case", "colours", "--twin", "blind"]) == 0
    folder = Path("data/models/colours-blind")
    assert json.loads((folder / "record.json").read_text())["twin"] == "blind"
    assert main(["certify", "--case", "colours", "--twin", "blind"]) == 0
    assert set(pd.read_csv(folder / "certificate.csv")["mechanism"]) == {"colours", "blind"}
    entry = ModelConfig(path=folder, transcoders=folder, role="twin", of="colours", corpus="blind", cases=("colours",))
    case = load_case(root, "colours")
    assert of_corpus(case, entry, root) is case  # the same prompts and answers
