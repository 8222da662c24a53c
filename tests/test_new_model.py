"""What lies in a model directory becomes an entry of config.yaml under which the model loads."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import KINDS, random_transcoders, write_tiny_model

from biology.__main__ import main
from biology.config import load_config
from biology.scaffolds.config_text import with_model
from biology.transcoders.transcoder_files import save_transcoders

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    """A folder of one's own with a configuration."""
    (tmp_path / "config.yaml").write_text(
        "# mine\nmodels:   # all of them\n  old: {path: a, transcoders: b}\n\ncases: all\n"
    )
    return tmp_path


def looked(capsys, *words):
    capsys.readouterr()
    assert main(["new-model", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["new-model", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_is_told_and_has_neurons(tiny, capsys, kind):
    told = looked(capsys, tiny(kind), "--name", "mine")
    assert (told["layers"], told["width"], told["vocabulary"]) == (3, 32, 100)
    assert told["architecture"].startswith(kind) and told["memory"] > 0 and not told["transcoders"]
    (made,) = yaml.safe_load("models:\n" + told["entry"])["models"].values()
    assert made == {"path": str(tiny(kind)), "transcoders": "neurons", "prompts": "natural", "device": "cpu"}


def test_transcoders_in_the_folder_or_beside_it_are_found_and_load(tiny, tiny_model, folder, capsys):
    model, weights = tiny_model("llama"), random_transcoders(tiny_model("llama"))
    shutil.copytree(tiny("llama"), folder / "mine")
    save_transcoders(folder / "mine-clt", weights, layout="circuit-tracer", model_name=model.name)
    told = looked(capsys, folder / "mine")
    assert told["transcoders"] == [{"path": str(folder / "mine-clt"), "layout": "circuit-tracer"}]
    save_transcoders(
        folder / "mine/dictionary",
        random_transcoders(model, activation="jumprelu"),
        layout="saelens",
        model_name=model.name,
    )
    told = looked(capsys, folder / "mine", "--name", "it", "--write", "--config", folder / "config.yaml")
    assert [one["layout"] for one in told["transcoders"]] == ["SAELens", "circuit-tracer"]
    text = (folder / "config.yaml").read_text()
    assert text.startswith("# mine\nmodels:   # all of them\n  it:\n") and text.endswith("cases: all\n")
    entry = load_config(folder / "config.yaml").models["it"]
    assert entry.path == folder / "mine" and entry.transcoders == folder / "mine/dictionary"
    assert main(["trace", "w1 w2", "--model", "it", "--config", str(folder / "config.yaml")]) == 0
    assert "'it' already" in refused(
        capsys, folder / "mine", "--name", "it", "--write", "--config", folder / "config.yaml"
    )


def test_a_model_that_was_grown_here_takes_the_prompts_of_the_cases(capsys):
    told = looked(capsys, ROOT / "data/models/elegans")
    assert told["name"] == "elegans" and "prompts:" not in told["entry"]
    assert told["transcoders"][0]["layout"] == "SAELens"


def test_what_is_no_model_directory_is_one_line_that_names_the_page(folder, capsys, tmp_path):
    page = "docs/tutorials/own_model.md"
    assert page in refused(capsys, folder / "nothing") and page in refused(capsys, folder)
    (folder / "model.gguf").touch()
    assert "biology convert" in refused(capsys, folder / "model.gguf")
    write_tiny_model(folder / "mine", "gpt2", tokenizer=False)
    assert main(["new-model", str(folder / "mine")]) == 0
    assert "It has no tokenizer" in capsys.readouterr().out
    (folder / "mine/model.safetensors").rename(folder / "mine/pytorch_model.bin")
    said = refused(capsys, folder / "mine")
    assert "no weights as safetensors: it has pytorch_model.bin" in said and page in said
    assert with_model("cases: all\n", "  a: {}\n") is None
