"""The four commands of docs/tutorials/own_model.md on a random checkpoint: text, transcoders, a graph, and every stage to the report."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_tiny_model

from biology.__main__ import CONTENTS, main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorials/own_model.md").read_text(encoding="utf-8")
STAGES = ("load", "measure", "compare-dictionaries")
CASE_STAGES = ("cache", "group", "attribute", "intervene", "tabulate")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The folder of the page, with a random model of 96 words in which the story is told."""
    folder = tmp_path_factory.mktemp("own") / "mine"
    shutil.copytree(ROOT / "docs/own_model", folder)
    write_tiny_model(folder / "model", "llama")
    case = folder / "experiments/story/case.yaml"
    text = case.read_text(encoding="utf-8")
    for story, words in {
        "Once upon a time, there was a little": "w1 w2 w3", " named": " w9", "answer: \" Lily\"": "answer: w20",
        "answer: \" Timmy\"": "answer: w21", "who: girl": "who: w7", "who: boy": "who: w8", " girl w9": " w7 w9",
        " boy w9": " w8 w9",
    }.items():  # fmt: skip
        assert story in text
        text = text.replace(story, words)
    case.write_text(text, encoding="utf-8")
    return folder


def test_the_commands_are_those_of_the_page():
    block = re.search(r"```bash\n(.*?)```", PAGE, re.S)
    assert block is not None
    made, *commands = block[1].strip().splitlines()
    assert made.startswith("cp -r docs/own_model mine") and len(commands) == 4
    known = {name: options for section in CONTENTS.values() for name, (_, options) in section.items()}
    for command in commands[:3]:
        name = command.split()[1]
        assert command.split()[0] == "biology" and set(re.findall(r"--[a-z-]+", command)) <= set(known[name])
    assert commands[3] == "snakemake --cores 2 --directory mine figures/all"


def test_from_a_checkpoint_to_a_report(mine, capsys):
    model, config = ["--model", str(mine / "model")], ["--config", str(mine / "config.yaml")]
    assert main(["sample", *model, "--out", str(mine / "text.txt"), "--tokens", "12000"]) == 0
    sizes = ["--features", "64", "--steps", "20", "--batch", "128", "--l0", "8", "--context", "32"]
    done = main(
        ["train-transcoders", *model, "--text", str(mine / "text.txt"), "--out", str(mine / "transcoders"), *sizes]
    )
    assert done == 0
    traced = ["trace", "w1 w2 w3", *model, "--transcoders", str(mine / "transcoders"), "--out", str(mine / "trace")]
    assert main(traced) == 0
    for stage in STAGES:
        assert main([stage, "--model", "mine", *config]) == 0, stage
    for stage in CASE_STAGES:
        assert main([stage, "--model", "mine", "--case", "story", *config]) == 0, stage
    assert main(["exchange", "--model", "mine", *config]) == 0
    assert main(["judge", "--model", "mine", *config]) == 0
    for figure in ("supernode_graph-girl", "inhibition_panel-girl", "fidelity"):
        assert main(["draw", "--model", "mine", "--case", "story", "--figure", figure, *config]) == 0, figure
    for figure in ("dictionary_layers", "feature_density", "error_by_l0", "dictionary_comparison"):
        assert main(["draw-dictionary", "--model", "mine", "--figure", figure, *config]) == 0, figure
    assert main(["atlas", "--model", "mine", *config]) == 0
    assert main(["sweep", "--model", "mine", "--case", "story", *config]) == 0
    assert main(["write", "--model", "mine", "--case", "story", *config]) == 0
    assert main(["write", *config]) == 0
    page = (mine / "reports/mine/story.html").read_text(encoding="utf-8")
    assert "story on mine" in page and page.count("data:image/svg+xml") == 3
    assert (mine / "reports/index.html").is_file() and "error" not in capsys.readouterr().err.lower()


def test_snakemake_has_all_that_the_last_command_asks_for(mine):
    """The folder has models and cases; texts that pages lead to come from the checkout."""
    shutil.copytree(ROOT / "data/models/elegans/transcoders", mine / "transcoders", dirs_exist_ok=True)
    words = ["--cores", "2", "--directory", str(mine), "figures/all", "--dry-run", "--quiet", "all"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
