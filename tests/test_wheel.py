"""The package that pip installs works far from any checkout: built, installed and run here for real."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from test_api import SNIPPET, STEPS

from biology import __version__
from biology.__main__ import main

ROOT = Path(__file__).parents[1]
FOUND = tuple(f"reports/elegans/{name}" for name in ("labels.json", "supernodes.csv", "verdicts.csv"))
SHIPPED = ("config.yaml", *FOUND, "data/models/elegans", "experiments")
SOURCES = (*SHIPPED, "src/biology", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
PROMPT = "Fact: the capital of the state containing Dallas is"


def done(*command, cwd):
    """What a command said, run without a checkout on the path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    finished = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    return finished.returncode, finished.stdout, finished.stderr


def files(root, *below):
    """The contents of all files at or below some places, by their names."""
    found = [path for name in below for path in (root / name, *(root / name).rglob("*")) if path.is_file()]
    return {path.relative_to(root): path.read_bytes() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the source distribution, so that this holds what is needed."""
    root, built = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    for name, contents in files(ROOT, *SOURCES).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(built)!r})"
    assert done(sys.executable, "-c", code, cwd=root)[0] == 0
    (source,) = built.glob("*.tar.gz")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", built)
    code, _, complaint = done(sys.executable, "-m", "pip", "wheel", *options, source, cwd=built)
    assert code == 0, complaint
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`biology` of a fresh environment that holds the wheel and sees this one's libraries, but not its biology."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    options = ("--no-deps", "--no-compile", "--quiet")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", *options, wheel)
    code, _, complaint = done(*pip, cwd=folder)
    assert code == 0, complaint
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin/biology"


def test_the_wheel_carries_the_embedded_model_and_the_cases(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    shipped = tmp_path / "biology/shipped"
    assert files(shipped, ".") == files(ROOT, *SHIPPED)


@pytest.mark.slow
def test_a_prompt_is_traced_from_anywhere_as_in_a_checkout(installed, tmp_path, monkeypatch, capsys):
    command = ("trace", PROMPT, "--model", "elegans", "--out")
    code, said, complaint = done(installed, *command, "trace", cwd=tmp_path)
    assert code == 0, complaint
    assert said.splitlines()[0].split()[1] == '"Austin"'
    monkeypatch.chdir(ROOT)
    assert main([*command, str(tmp_path / "checkout/trace")]) == 0
    assert capsys.readouterr().out.partition("\nWritten")[0] == said.partition("\nWritten")[0]
    assert files(tmp_path / "trace", ".") == files(tmp_path / "checkout/trace", ".") != {}


@pytest.mark.slow
def test_a_notebook_works_anywhere(installed, tmp_path):
    """The steps of the README; the cases, supernodes and verdicts are those that ship."""
    code = "\n".join(
        [
            *STEPS,
            'print(case.verdicts("elegans").loc["multihop-7", "verdict"], list(case.judge(model, transcoders))[0])',
        ]
    )
    code, said, complaint = done(installed.with_name("python"), "-c", code, cwd=tmp_path)
    assert code == 0, complaint
    assert "('Sacramento', 0." in said and "replicated multihop-" in said.splitlines()[-1]
    held = ("--supernode", "multi_hop/oakland/bridge", "--strength", "2", "--tokens", "1")
    code, said, complaint = done(installed, "steer", PROMPT, "--model", "elegans", *held, cwd=tmp_path)
    assert code == 0 and '"Sacramento"' in said, complaint
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_the_readme_s_notebook_finds_the_committed_verdict(installed, tmp_path):
    """All of it as it stands, in an empty folder; its last line computes a claim anew."""
    code, said, complaint = done(installed.with_name("python"), "-c", SNIPPET, cwd=tmp_path)
    assert code == 0, complaint
    verdicts = pd.read_csv(ROOT / "reports/elegans/verdicts.csv", index_col="claim")
    committed, last = verdicts.loc["multihop-7"], said.splitlines()[-1]
    assert last.startswith("multihop-7, ") and f": {committed['verdict']}. " in last
    assert f"is {committed['statistic']:.3g} [{committed['low']:.3g}, {committed['high']:.3g}]" in last
    assert not list(tmp_path.iterdir())


def test_it_says_its_version_and_where_it_comes_from(installed, tmp_path):
    assert done(installed, "--version", cwd=tmp_path)[:2] == (0, f"biology {__version__}\n")
    code = "import biology; print(biology.__file__)"
    assert str(installed.parents[1]) in done(installed.with_name("python"), "-c", code, cwd=tmp_path)[1]


@pytest.mark.parametrize(
    "command",
    [("load", "--model", "elegans"), ("judge", "--model", "elegans"), ("lock",), ("prompts", "--case", "addition")],
)
def test_what_needs_a_checkout_says_so(installed, tmp_path, command):
    code, said, complaint = done(installed, *command, cwd=tmp_path)
    assert (code, said) == (2, "")
    assert (
        complaint
        == "error: there is no config.yaml here: run this in a checkout of the repository, or give --config FILE.\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_is_named_must_be_there(installed, tmp_path):
    code, _, complaint = done(installed, "trace", "x", "--model", "elegans", "--config", "mine.yaml", cwd=tmp_path)
    assert (code, complaint) == (2, "error: mine.yaml: no such file.\n")
    code, _, complaint = done(installed, "trace", "x", "--model", "gemma", cwd=tmp_path)
    assert code == 2 and "Known models (config.yaml): attention, " in complaint
