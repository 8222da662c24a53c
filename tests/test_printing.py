"""With --json a command prints one document and nothing else; what stands in a bug report starts no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import random_transcoders

from biology import __version__
from biology.__main__ import CONTENTS, main
from biology.printing import print_json, print_table
from biology.transcoders.transcoder_files import save_transcoders

ROOT = Path(__file__).parents[1]


@pytest.fixture
def said(capsys, monkeypatch):
    """The document that a command prints."""
    monkeypatch.chdir(ROOT)

    def run(*words):
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def directories(tiny, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcoders")
    save_transcoders(folder, random_transcoders(tiny_model("llama")))
    return ["--model", tiny("llama"), "--transcoders", folder]


def test_a_traced_prompt_as_data(said, directories, tmp_path, capsys):
    told = said("trace", "w1 w2 w3", *directories, "--out", tmp_path / "out", "--paths", 3)
    assert told["prompt"] == "w1 w2 w3" and len(told["paths"]) == 3 and told["row_residual"] < 1e-5
    assert told["routes"] == []  # nothing has a role there
    assert 0 < told["completeness_score"] <= 1 and 0 < told["replacement_score"] <= 1
    assert told["outputs"] and all({"label", "token", "probability"} <= set(output) for output in told["outputs"])
    assert all(Path(file).is_file() for file in told["files"]) and len(told["files"]) == 4
    assert main(["trace", "w1 w2 w3", *map(str, directories), "--paths", "3"]) == 0
    words = capsys.readouterr().out
    assert all(" -> ".join(path["steps"]) in words and path["sign"] in "+-" for path in told["paths"])
    assert f"{told['paths'][0]['share']:.2%}" in words


def test_a_steered_prompt_as_data(said, directories):
    told = said("steer", "w1 w2 w3", *directories, "--features", "1/3=2,0/5=1", "--tokens", 2, "--top", 3)
    assert (told["features"], told["strength"], told["at"]) == (2, 1.0, [{"pos": 3, "token": "w3"}])
    for arm in ("by_itself", "steered", "control"):
        likely = [one["probability"] for one in told[arm]["next"]]
        assert len(likely) == 3 and likely == sorted(likely, reverse=True) and told[arm]["writes"]


def test_a_case_and_the_words_of_cases_as_data(said):
    told = said("explain", "multi_hop")
    assert told["name"] == "multi_hop" and told["prompts"]["dallas"]["answer"] == "Austin"
    assert {"multihop-1", "multihop-7"} <= {claim["id"] for claim in told["claims"]} and told["prompt_count"] > 1000
    claim = said("explain", "multihop-7")
    assert claim["case"] == "multi_hop" and "swap" in claim["done"] and claim["parts"][0]["experiment"] == "swap"
    assert set(said("explain")) == {"case.schema.json", "claims.schema.json", "mechanism.schema.json"}
    assert {"name", "memory"} <= set(said("models")["models"][0])


def test_what_is_no_number_is_null(capsys):
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": pd.Series([1])[0], "d": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": 1, "d": "x"}
    print_table(pd.DataFrame({"x": [1, 2], "y": ["a", float("nan")]}), True)
    assert json.loads(capsys.readouterr().out) == [{"x": 1, "y": "a"}, {"x": 2, "y": None}]


def test_a_bug_report_starts_no_torch_and_says_what_was_found(tmp_path):
    code = "import sys; from biology.__main__ import main; main(['--version', '--json']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    document, _, started = done.rpartition("}")
    told = json.loads(document + "}")
    assert started.split() == ["False"] and told["biology"] == __version__ and told["packages"]["torch"]
    assert told["python"] == sys.version.split()[0] and "elegans" in told["config"]["models"]
    (tmp_path / "config.yaml").write_text("models: {a: {path: x}}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "transcoders" in json.loads(done.rpartition("}")[0] + "}")["config"]["error"]


def test_what_a_script_would_read_has_the_option():
    known = {name: options for section in CONTENTS.values() for name, (_, options) in section.items()}
    wanted = "trace steer check explain models evaluate certify judge compare calibrate plan summary".split()
    assert all("--json" in known[name] for name in wanted)
