"""What a visitor of the repository meets: templates, workflows and hooks are well-formed, and run what exists here."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from biology import __version__
from biology.__main__ import CONTENTS

ROOT = Path(__file__).parents[1]
FORMS = [path for path in sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")) if path.stem != "config"]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def loaded(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path):
    return [
        step["run"].partition("#")[0].strip()
        for job in loaded(path)["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_the_host_demands(path):
    form = loaded(path)
    assert {"name", "description", "body"} <= set(form)
    named = [field["id"] for field in form["body"]]
    assert len(set(named)) == len(named) >= 3
    assert all(
        field["type"] in {"input", "textarea", "dropdown"} and field["attributes"]["label"] for field in form["body"]
    )


def test_a_wrong_verdict_is_reported_with_claim_model_and_rows():
    required = {
        field["id"]
        for field in loaded(ROOT / ".github/ISSUE_TEMPLATE/verdict.yml")["body"]
        if field.get("validations", {}).get("required")
    }
    assert {"claim", "model", "rows"} <= required


def test_commands_of_templates_exist():
    known = {name for section in CONTENTS.values() for name in section}
    texts = [*FORMS, ROOT / ".github/PULL_REQUEST_TEMPLATE.md", ROOT / "CHANGELOG.md"]
    said = [word for path in texts for word in re.findall(r"`biology ([a-z-]+)", path.read_text(encoding="utf-8"))]
    assert len(said) > 5 and set(said) <= known | {"--version"}


def test_workflows_run_what_is_here():
    assert {path.stem for path in WORKFLOWS} == {"ci", "pages"}
    assert [command.split()[-1] for command in steps(ROOT / ".github/workflows/ci.yml")] == [".ci/run"]
    assert steps(ROOT / ".github/workflows/pages.yml") == ["make figures", "make site"]
    assert {"figures", "site"} <= TARGETS
    (upload,) = [
        s
        for s in loaded(ROOT / ".github/workflows/pages.yml")["jobs"]["publish"]["steps"]
        if "upload" in s.get("uses", "")
    ]
    assert f"SITE := {upload['with']['path']}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_hook_is_make_check():
    (repository,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    assert repository["repo"] == "local" and hook["entry"] == "make check" and "check" in TARGETS


def test_one_version_everywhere():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "biology.__version__"
    }
    assert loaded(ROOT / "CITATION.cff")["version"] == __version__
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest is not None and newest[1] == __version__
