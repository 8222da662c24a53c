"""Cases with an organism of their own: prompts.py makes the committed prompts, and the pipeline grows the organism when it is asked for."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from biology.__main__ import main
from biology.cases.mechanism import twins_of
from biology.config import load_config
from biology.workflow.targets import Targets

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(ROOT.glob("experiments/*/prompts.py"))
CONFIG = load_config(ROOT / "config.yaml")
ORGANISMS = sorted(name for name, entry in CONFIG.models.items() if entry.role == "organism")


def planned(*arguments: str) -> str:
    command = [Path(sys.executable).with_name("snakemake"), *arguments, "--dry-run", "--quiet", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_the_script_of_a_case_makes_its_prompts(script, tmp_path):
    shutil.copy(script, tmp_path)
    runpy.run_path(str(tmp_path / script.name), run_name="__main__")
    assert (tmp_path / "prompts.csv").read_bytes() == script.with_name("prompts.csv").read_bytes()


@pytest.mark.parametrize("name", ORGANISMS)
def test_an_organism_meets_the_case_that_states_its_mechanism_and_has_a_twin(name):
    (case,) = CONFIG.models[name].cases or ()
    assert (ROOT / "experiments" / case / "mechanism.yaml").is_file()
    lacking = {entry.corpus for entry in CONFIG.models.values() if entry.role == "twin" and entry.of == name}
    assert lacking and lacking <= set(twins_of(ROOT, case))


@pytest.mark.skipif(not ORGANISMS, reason="no case has an organism")
def test_an_organism_is_grown_when_it_is_asked_for_and_never_else():
    name = ORGANISMS[0]
    if (ROOT / CONFIG.models[name].path / "model.safetensors").is_file():
        pytest.skip(f"{name} is grown here")
    assert f"{name}: growing and certifying it" in planned("figures/all", "--config", f"model={name}")
    everything = planned("figures/all", "robustness/all", "extensions/all", "calibration/all")
    assert not [one for one in CONFIG.on_request if f" {one}:" in everything or f" {one}," in everything]


def test_a_twin_may_be_read_in_its_neurons(tmp_path, monkeypatch):
    """Nothing is trained for it, so that no record of a training is waited for."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "experiments", "experiments")
    entry = "path: data/models/{}, transcoders: neurons, cases: [refusals]"
    Path("config.yaml").write_text(
        f"models:\n  refusals: {{{entry.format('refusals')}, role: organism, planted: true}}\n"
        f"  twin: {{{entry.format('twin')}, role: twin, of: refusals, corpus: word_list}}\n"
    )
    needed = Targets("twin", ROOT / "src/biology").weights(SimpleNamespace(model="twin"))
    assert needed == [f"data/models/twin/{file}" for file in ("model.safetensors", "record.json", "heldout.parquet")]


@pytest.mark.skipif(not ORGANISMS, reason="no case has an organism")
def test_a_model_that_is_not_grown_yet_says_how(tmp_path, capsys):
    name = ORGANISMS[0]
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert main(["trace", "x", "--model", name, "--config", str(tmp_path / "config.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: model '{name}' does not ship and is not grown yet") and said.count("\n") == 1
