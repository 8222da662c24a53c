"""`biology steer` on the shipped model: what it holds, where, and one line for every mistake."""

from argparse import Namespace

import pandas as pd
import pytest

from biology.__main__ import main
from biology.cli.steering import Grouped, _features, _members
from biology.interventions.held_features import HeldFeature

PROMPT = "Fact: the capital of the state containing Dallas is"


def test_features_are_read():
    assert _features(" 2/120, 3/45=-1.5 ") == {(2, 120): HeldFeature(), (3, 45): HeldFeature(-1.5)}
    assert _features(None) == {}


@pytest.mark.parametrize(
    ("text", "at", "where"), [(PROMPT, None, 9), (PROMPT, 3, None), ("Fact: another prompt is", None, None)]
)
def test_members_are_held_where_those_of_the_prompt_are_unless_a_token_is_named(text, at, where):
    rows = [("oakland", 8, 7), ("oakland", 8, 2), ("dallas", 9, 5)]
    members = pd.DataFrame(
        [
            {"item": item, "supernode": "bridge", "layer": 1, "pos": pos, "feature": feature, "activation": 2.0}
            for item, pos, feature in rows
        ]
    )
    found = {
        "multi_hop": Grouped(
            members, {"oakland": "Fact: the capital of the state containing Oakland is", "dallas": PROMPT}
        )
    }
    held = _members(Namespace(text=text, chat=False, at=at), "multi_hop/oakland/bridge", found)
    taken = ("Fact: the capital of the state containing Oakland is", 8)
    assert held == {(1, feature): HeldFeature(2.0, where, taken=taken) for feature in (7, 2)}


@pytest.mark.slow
def test_holding_a_feature_at_its_own_activation_changes_nothing_and_another_strength_does(capsys):
    from pathlib import Path

    from biology.cli.opening import open_model
    from biology.config import load_config
    from biology.models.model import encode
    from biology.transcoders.activations import cache_features

    config = load_config("config.yaml")
    model, transcoders = open_model(config.model("elegans"), Path(), "elegans", 1)
    ids = encode(model, PROMPT)
    cache = cache_features(model, transcoders, [ids])
    layer, (features, values) = 3, cache.cell(0, 3, len(ids) - 1)
    feature = int(features[values.argmax()])
    common = ["steer", PROMPT, "--model", "elegans", "--features", f"{layer}/{feature}", "--tokens", "1"]
    assert main([*common, "--strength", "1"]) == 0
    same = capsys.readouterr().out
    rows = [line.split() for line in same.splitlines() if "%" in line]
    assert rows and all(row[:2] == row[2:4] == row[4:6] for row in rows)  # nor does its control
    assert main([*common, "--strength", "-30", "--everywhere"]) == 0
    moved = capsys.readouterr().out
    assert main([*common, "--tokens", "3"]) == 0  # pieces of words are joined
    assert 'by itself it writes:         " Austin' in capsys.readouterr().out
    assert "every token" in moved and moved.splitlines()[3:] != same.splitlines()[3:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, said",
    [
        ([], "say what to hold: --supernode CASE/PROMPT/NAME or --features"),
        (["--supernode", "bridge"], "a supernode is named CASE/PROMPT/NAME"),
        (["--supernode", "nothing/dallas/bridge"], "unknown case 'nothing'"),
        (["--features", "two"], "--features takes LAYER/FEATURE"),
        (["--features", "0/1=1.2.3"], "--features 0/1=1.2.3: a feature's activation takes a number"),
        (["--features", "0/1=1e400"], "--features 0/1=1e400: a feature's activation takes a finite number"),
        (["--features", "0/1=1e18", "--strength", "1e9"], "0/1 at 1e+09 times 1e+18 is too large for torch.float32"),
        (["--features", "0/1=1", "--tokens", "999"], "after the 13 tokens of the prompt elegans can write at most 116"),
        (["--features", "99/1=1"], "feature 99/1 does not exist"),
        (["--features", "0/1=1", "--at", "99"], "--at 99: the prompt has 13 tokens"),
    ],
)
def test_a_mistake_is_one_line(options, said, capsys):
    assert main(["steer", PROMPT, "--model", "elegans", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.slow
def test_the_first_experiment_of_the_readme(capsys):
    """California's features in the prompt about Dallas make it say Sacramento; others, pushed as hard, leave Austin."""
    command = ["steer", PROMPT, "--model", "elegans", "--supernode", "multi_hop/oakland/bridge", "--strength", "2"]
    assert main([*command, "--tokens", "1"]) == 0
    said = capsys.readouterr()
    first = next(line for line in said.out.splitlines() if "%" in line)
    assert [word.strip('"') for word in first.split()[1::2]] == ["Austin", "Sacramento", "Austin"]
    assert "finding its supernodes" not in said.err  # they ship


def test_members_that_ship_are_those_of_these_weights_rules_and_prompts(tmp_path):
    from biology.cases.case import load_case
    from biology.config import ModelConfig
    from biology.supernodes.named_members import key_of, shipped_members

    entry = ModelConfig(path="model", transcoders="model/transcoders")
    (tmp_path / "model/transcoders").mkdir(parents=True)
    weights = [tmp_path / "model/model.safetensors", tmp_path / "model/transcoders/layer_0.safetensors"]
    for file in weights:
        file.write_bytes(b"one")
    case = load_case(".", "multi_hop")
    row = ["multi_hop", key_of(tmp_path, entry, case), "dallas", "bridge", 1, 9, 5, 2.0]
    members = pd.DataFrame([row], columns=["case", "key", "item", "supernode", "layer", "pos", "feature", "activation"])
    (tmp_path / "reports/mine").mkdir(parents=True)
    members.to_csv(tmp_path / "reports/mine/supernodes.csv", index=False)
    assert len(shipped_members(tmp_path, entry, "mine", case)) == 1
    assert shipped_members(tmp_path, entry, "other", case) is None
    rules = {**case.supernodes, "bridge": case.supernodes["bridge"].model_copy(update={"recall": 0.4})}
    assert shipped_members(tmp_path, entry, "mine", case.model_copy(update={"supernodes": rules})) is None
    assert shipped_members(tmp_path, entry, "mine", case.model_copy(update={"items": case.items[1:]})) is None
    for file in weights:
        before = file.read_bytes()
        file.write_bytes(b"two")
        assert shipped_members(tmp_path, entry, "mine", case) is None
        file.write_bytes(before)
