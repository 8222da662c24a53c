"""pyproject.toml, requirements.lock, environment.yml and the running environment agree."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK_LINES = [
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
]
LOCK = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LOCK_LINES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STATED = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def test_lock_holds_exact_versions_and_nothing_else():
    for line in LOCK_LINES:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.!]+", line), f"requirements.lock: {line}"
    assert len(LOCK) == len(LOCK_LINES)
    assert not [name for name in LOCK if name.startswith(("nvidia", "triton", "cuda"))]


@pytest.mark.parametrize("requirement", STATED, ids=lambda requirement: requirement.name)
def test_lock_meets_what_pyproject_asks_for(requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_lock_holds_exactly_what_is_needed():
    """The closure of pyproject.toml's dependencies in the installed metadata is the lock: nothing missing, nothing
    extra."""
    needed, ahead = set(), [(requirement.name, tuple(requirement.extras)) for requirement in STATED]
    while ahead:
        name, extras = ahead.pop()
        if (canonicalize_name(name), extras) in needed:
            continue
        needed.add((canonicalize_name(name), extras))
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
                ahead.append((requirement.name, tuple(requirement.extras)))
    names = {name for name, _ in needed if not name.startswith(("nvidia", "triton", "cuda"))}  # torch builds with CUDA
    assert names == set(LOCK)


def test_environment_yml_has_the_same_pins():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pip[0] == "--constraint requirements.lock"
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in pip if "==" in line}
    assert pins == {canonicalize_name(r.name): LOCK[canonicalize_name(r.name)] for r in STATED}


def test_the_running_environment_is_the_locked_one():
    different = {}
    for name, locked in LOCK.items():
        try:
            found = version(name).split("+")[0]
        except PackageNotFoundError:
            found = "missing"
        if found != locked:
            different[name] = f"{found} instead of {locked}"
    assert not different


def test_python_versions_agree():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "python=3.11" in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
