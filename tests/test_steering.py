"""`biology steer` on the shipped model: what it holds, where, and one line for every mistake."""

from argparse import Namespace

import pandas as pd
import pytest

from biology.__main__ import main
from biology.steering import Grouped, _features, _members

PROMPT = "Fact: the capital of the state containing Dallas is"


def test_features_are_read():
    assert _features(" 2/120, 3/45=-1.5 ") == {(2, 120, None): None, (3, 45, None): -1.5}
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
    held = _members(Namespace(text=text, at=at), "multi_hop/oakland/bridge", found)
    assert held == {(1, 7, where): 2.0, (1, 2, where): 2.0}


@pytest.mark.slow
def test_holding_a_feature_at_its_own_activation_changes_nothing_and_another_strength_does(capsys):
    from pathlib import Path

    from biology.activations import cache_features
    from biology.config import load_config
    from biology.model import encode
    from biology.opening import open_model

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
    assert rows and all(row[0] == row[len(row) // 2] and row[1] == row[len(row) // 2 + 1] for row in rows)
    assert main([*common, "--strength", "-30", "--everywhere"]) == 0
    moved = capsys.readouterr().out
    assert main([*common, "--tokens", "3"]) == 0  # pieces of words are joined
    assert 'by itself it writes: " Austin' in capsys.readouterr().out
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
        (["--features", "0/1=1e18", "--strength", "1e9"], "0/1 at 1e+09 times 1e+18 is too much for torch.float32"),
        (["--features", "0/1=1", "--tokens", "999"], "after the 13 tokens of the prompt elegans can write 116 at most"),
        (["--features", "99/1=1"], "feature 99/1 does not exist"),
        (["--features", "0/1=1", "--at", "99"], "--at 99: the prompt has 13 tokens"),
    ],
)
def test_a_mistake_is_one_line(options, said, capsys):
    assert main(["steer", PROMPT, "--model", "elegans", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error
