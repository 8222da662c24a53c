"""Profiles say only what Snakemake and the rules know, their plugins are pinned, and the pages about them are what was measured."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stage_rules import RULES, SNAKEFILE

ROOT = Path(__file__).parents[1]
PROFILES = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
CLUSTERS = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/requirements.lock"))


def profile(name):
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))


def pins(path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.!]+", line) for line in lines), path
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_is_an_option(name):
    from snakemake.cli import get_argument_parser

    options = {option for action in get_argument_parser()._actions for option in action.option_strings}
    own = f"{profile(name).get('executor')}-"
    unknown = [key for key in profile(name) if f"--{key}" not in options and not key.startswith(own)]
    assert not unknown
    assert {"default", "kubernetes", "slurm"} <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_rules_that_are_named_exist(name):
    named = [entry.partition("=")[0] for entry in profile(name).get("groups", [])]
    assert set(named) | set(profile(name).get("set-resources") or {}) <= set(RULES)


@pytest.mark.parametrize("name", CLUSTERS)
def test_plugins_are_pinned_beside_the_lock(name):
    """Nothing that the lock holds already, and what pyproject.toml asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    held = pins(ROOT / "profiles" / name / "requirements.lock")
    assert not set(held) & set(pins(ROOT / "requirements.lock"))
    for requirement in map(Requirement, extras[name]):
        assert requirement.specifier.contains(held[canonicalize_name(requirement.name)])


def test_every_rule_fits_a_partition():
    """On a node without a GPU, and on one with: what rules ask for at most is within the limits of both."""
    asked = {key: max(map(int, re.findall(rf"{key}=(\d+)", SNAKEFILE))) for key in ("mem_mb", "runtime")}
    partitions = yaml.safe_load((ROOT / "profiles/slurm/partitions.yaml").read_text())["partitions"]
    assert {bool(limits.get("max_gpu")) for limits in partitions.values()} == {True, False}
    for limits in partitions.values():
        assert all(limits[f"max_{key}"] >= value for key, value in asked.items())


def test_one_machine_runs_one_model_on_its_gpu(tmp_path):
    """Two jobs that ask for a GPU run one after the other, two that do not side by side."""
    shutil.copytree(ROOT / "profiles/default", tmp_path / "profiles/default")
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: expand("{kind}{n}", kind=["gpu", "cpu"], n=[0, 1])\n'
        'rule job:\n    output: "{kind}{n}"\n    resources: gpu=lambda w: int(w.kind == "gpu")\n'
        '    shell: "date +%s.%N > {output}; sleep 2; date +%s.%N >> {output}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "4"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    spans = {
        name: tuple(map(float, (tmp_path / name).read_text().split())) for name in ("gpu0", "gpu1", "cpu0", "cpu1")
    }

    def together(one, other):
        return spans[one][0] < spans[other][1] and spans[other][0] < spans[one][1]

    assert not together("gpu0", "gpu1")
    assert together("cpu0", "cpu1")


def test_the_log_of_the_slurm_run_is_a_log():
    """It shows the lost job and node and the equal files, and nothing of the machine that it was made on."""
    page = (ROOT / "docs/how_to/clusters.md").read_text(encoding="utf-8")
    log = page.split("<!-- slurm -->")[1].split("<!-- /slurm -->")[0]
    for shown in (r"drained", r"n[12] drain", r"Trying to restart job \d+", r"(CANCELLED|FAILED) .*intervene"):
        assert re.search(shown, log), shown
    files = re.findall(r"^  (\d+) files$", log, flags=re.MULTILINE)
    assert len(files) == 2 and files[0] == files[1]
    assert re.search(r"equal: [0-9a-f]{64}\n", log)
    assert not re.search(r"(^|[\s=:])/\w", log)


def test_the_page_of_costs_is_what_was_measured(monkeypatch):
    pytest.importorskip("biology.models.memory")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import json

    import costs

    from biology.config import known_models

    measured, engine = (json.loads((ROOT / "benchmarks" / name).read_text()) for name in ("costs.json", "results.json"))
    assert costs.PAGE.read_text(encoding="utf-8") == costs.page(measured, engine, known_models())
    assert 1 <= costs._check(engine) <= 1.5
