"""A model is grown on the prompts of one case: what selects is taught, what is scored is held out."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from biology.__main__ import main
from biology.cases.case import load_case
from biology.cases.mechanism import load_mechanism
from biology.cli import growth
from biology.cli.opening import of_corpus
from biology.config import ModelConfig
from biology.corpora.case_corpus import CaseCorpus
from biology.models.model import load_model
from biology.organisms import organism
from biology.organisms.planting import Amounts, Planter
from biology.organisms.vocabulary import tokenizer
from biology.records import InputError
from biology.transcoders.transcoder_files import load_transcoders

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


def test_layers_that_the_model_will_not_have_are_refused_before_it_is_grown(root, capsys):
    (root / "experiments/colours/mechanism.yaml").write_text(MECHANISM.replace("layers: [0, 1]", "layers: [0, 9]"))
    assert main(["lock"]) == 0 and main(["grow", "--case", "colours"]) == 2
    assert "variables.colour.layers: layer 9 is not there: such a model has layers 0 to 5." in capsys.readouterr().err
    assert not Path("data/models/colours/config.json").exists()


def test_a_model_of_a_case_is_grown_and_certified_by_two_commands(root, capsys):
    assert main(["grow", "--case", "colours"]) == 2
    assert "the mechanism of case 'colours' is not registered as it is: run `biology lock`" in capsys.readouterr().err
    assert main(["lock"]) == 0
    assert main(["grow", "--case", "colours"]) == 0
    folder = Path("data/models/colours")
    assert {"model.safetensors", "record.json", "heldout.parquet"} <= {path.name for path in folder.iterdir()}
    capsys.readouterr()
    assert main(["certify", "--case", "colours"]) == 0
    assert (
        "colours: colour is not held where it was planted (below 0.9)" in capsys.readouterr().err
    )  # after a dozen steps
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
    entries = {
        name: f"{{path: data/models/{name}, transcoders: neurons, role: organism, planted: true, width: {width}, steps: 8, cases: [colours]}}"
        for name, width in (("colours", 32), ("colours-blind", 16))
    }
    (root / "config.yaml").write_text("models:\n" + "".join(f"  {name}: {entry}\n" for name, entry in entries.items()))
    assert main(["grow", "--case", "colours", "--twin", "blind", "--steps", "9"]) == 0
    folder = Path("data/models/colours-blind")
    record = json.loads((folder / "record.json").read_text())
    assert (record["twin"], record["recipe"]["d_model"], record["recipe"]["steps"]) == (
        "blind",
        16,
        9,
    )  # an option goes first
    assert main(["certify", "--case", "colours", "--twin", "blind"]) == 0
    assert set(pd.read_csv(folder / "certificate.csv")["mechanism"]) == {"colours", "blind"}
    entry = ModelConfig(path=folder, transcoders=folder, role="twin", of="colours", corpus="blind", cases=("colours",))
    case = load_case(root, "colours")
    assert of_corpus(case, entry, root) is case  # the same prompts and answers


# Two stages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def staged(root):
    """The same, where things are painted in the first stage and asked for in the second."""
    path = root / "experiments/colours/prompts.csv"
    frame = pd.read_csv(path)
    frame["stage"] = ["1" if text.endswith("painted") else "2" for text in frame["text"]]
    frame.to_csv(path, index=False)
    assert main(["lock"]) == 0
    return root


def grown_in_two_stages(root, folder, monkeypatch, interrupt_at=()):
    """The record of a growth, which begins again after each interruption; and what was taught in each step."""
    corpus, taught, saved = CaseCorpus(load_case(root, "colours")), {}, organism.save
    recipe = replace(organism.Planting(), n_layers=2, d_model=16, d_mlp=16, n_heads=2, steps=10, batch={})
    recipe = replace(recipe, lessons={"colours": Amounts(plain=8, exchanged=4, begin=2)})
    lessons = {"colours": (load_mechanism(root, "colours"), corpus.lesson())}
    left, loss = list(interrupt_at), Planter.loss

    def interrupted(path, identity, model, optimiser, step, curve):
        saved(path, identity, model, optimiser, step, curve)
        if left and step == left[0]:
            left.pop(0)
            raise KeyboardInterrupt

    def noted(planter, rng, step):
        taught[step] = {planter.lesson.causal.rows[row]["stage"] for row in planter.lesson.taught}
        return loss(planter, rng, step)

    with monkeypatch.context() as patch:
        patch.setattr(organism, "save", interrupted)
        patch.setattr(Planter, "loss", noted)
        while True:
            try:
                work, out = folder / "work", folder / "out"
                return organism.grow(
                    corpus, recipe, 0, out, work, checkpoint_every=1, progress=False, lessons=lessons
                ), taught
            except KeyboardInterrupt:
                continue


def test_the_second_stage_comes_after_the_first_and_rehearses_it(staged, monkeypatch):
    record, taught = grown_in_two_stages(staged, staged / "once", monkeypatch)
    assert record["first_stage"] == {"steps": 4}
    assert [taught[step] for step in range(10)] == [{"1"}] * 4 + [{"1", "2"}] * 6
    first, last = (
        load_file(staged / "once/out" / name) for name in ("first_stage/model.safetensors", "model.safetensors")
    )
    assert first.keys() == last.keys() and any(not torch.equal(first[name], last[name]) for name in first)


def test_a_growth_in_two_stages_that_is_interrupted_ends_at_the_same_two_models(staged, monkeypatch):
    grown_in_two_stages(staged, staged / "once", monkeypatch)
    grown_in_two_stages(staged, staged / "often", monkeypatch, interrupt_at=(2, 4, 5, 9))
    for name in ("first_stage/model.safetensors", "model.safetensors", "first_stage/tokenizer.json"):
        assert (staged / "once/out" / name).read_bytes() == (staged / "often/out" / name).read_bytes()
    assert not list((staged / "often/work").iterdir())


def test_transcoders_of_the_first_stage_see_its_prompts_alone(staged, monkeypatch):
    monkeypatch.setattr(
        growth, "CASE_DICTIONARY", {"n_features": 16, "n_features_first": 16, "k": 4, "steps": 4, "batch": 16}
    )
    assert main(["grow", "--case", "colours", "--width", "16", "--out", "model"]) == 0
    seen = []
    prompts = organism.dictionary_prompts
    monkeypatch.setattr(
        organism, "dictionary_prompts", lambda corpus, *rest: seen.append(corpus) or prompts(corpus, *rest)
    )
    assert main(["train-transcoders", "--out", "model/first_stage"]) == 0
    assert main(["train-transcoders", "--out", "model"]) == 0
    texts = [{item.prompt for item in corpus.blocks["colours"] if corpus.taught(item)} for corpus in seen]
    assert all(text.endswith("painted") for text in texts[0]) and texts[0] < texts[1]
    stored = load_transcoders(Path("model/first_stage/transcoders"), load_model(Path("model")))
    assert len(stored.n_features) == 6


def test_stages_are_two(staged):
    path = staged / "experiments/colours/prompts.csv"
    path.write_text(path.read_text().replace(",2\n", ",3\n"))
    with pytest.raises(InputError, match="column 'stage' says 1 or 2 of every prompt that is taught, .*'1', '3'"):
        CaseCorpus(load_case(staged, "colours"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("value: colour", "value: colours", "variables.colour: 'colours' is neither a column of the prompts nor an earlier variable"),
        ("value: colour,", "value: 1 // 0,", "variables.colour: '1 // 0' divides by zero"),
        ("depends_on: [colour]", "depends_on: [colur]", "'colur'"),
        ('at: "factor:thing"', 'at: "token:thingy"', "variables.colour.at: 'token:thingy' does not stand in 'the colour of thing0 is'"),
        ("meaning: its colour", "supernode: color, meaning: its colour", "variables.colour.supernode: unknown supernode 'color'"),
        ("answer: {", "truth: {colours-1: {truth: true, because: it is a variable}}\nanswer: {", "truth: unknown claim 'colours-1'"),
    ],
)  # fmt: skip
def test_a_mechanism_is_held_against_its_case_before_anything_is_grown(root, capsys, old, new, told):
    path = root / "experiments/colours/mechanism.yaml"
    assert old in MECHANISM
    path.write_text(MECHANISM.replace(old, new, 1))
    for command in (["explain", "colours"], ["lock"]):
        assert main([*command, "--config", str(root / "config.yaml")]) != 0
        said = capsys.readouterr().err.strip()
        assert "mechanism.yaml" in said and told in said and "\n" not in said
