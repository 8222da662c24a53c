"""The sources of the site: nothing of the package or the commands is left out, and a link that leads nowhere stops it."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from biology.__main__ import CONTENTS

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "site/requirements.lock").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def assemble():
    """site/assemble.py as a module; the standard library has one called `site`."""
    spec = importlib.util.spec_from_file_location("assemble", ROOT / "site/assemble.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(assemble, tmp_path_factory):
    """The sources, made once."""
    into = tmp_path_factory.mktemp("site") / "source"
    assemble.main(into)
    return into


def test_every_text_has_a_place_and_every_place_is_in_the_navigation(source):
    settings = yaml.safe_load((source / "mkdocs.yml").read_text(encoding="utf-8"))

    def listed(entry):
        if isinstance(entry, str):
            return [entry]
        return [place for one in (entry.values() if isinstance(entry, dict) else entry) for place in listed(one)]

    there = {str(path.relative_to(source / "pages")) for path in source.rglob("*.md")}
    assert set(listed(settings["nav"])) == there
    texts = [path for path in ROOT.glob("docs/**/*.md") if "own_model" not in path.parts]
    assert len(texts) > 20 and {str(path.relative_to(ROOT / "docs")) for path in texts} <= there
    assert {
        "reference/glossary.md",
        "results/verdicts.md",
        "results/cases/multi_hop.md",
        "reference/cards/elegans.md",
    } <= there
    assert settings["theme"]["font"] is False and settings["use_directory_urls"] is False


def test_every_module_and_every_command_has_its_place(source):
    pages = "".join(path.read_text(encoding="utf-8") for path in (source / "pages/api").rglob("*.md"))
    modules = [path for path in (ROOT / "src/biology").rglob("*.py") if path.stem not in ("__init__", "__main__")]
    for path in modules:
        assert f"::: {'.'.join(path.relative_to(ROOT / 'src').with_suffix('').parts)}\n" in pages, path
    commands = (source / "pages/reference/commands.md").read_text(encoding="utf-8")
    for name, (_, options) in ((name, one) for section in CONTENTS.values() for name, one in section.items()):
        shown = commands.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert all(f"| `{flag}` |" in shown for flag in options), name


def test_links_lead_to_where_pages_and_files_are_in_the_site(assemble, tmp_path):
    pages = {
        ROOT / "docs/index.md": "index.md",
        ROOT / "docs/tutorials/own_model.md": "tutorials/own_model.md",
        ROOT / "GLOSSARY.md": "reference/glossary.md",
    }
    text = "[a](../../GLOSSARY.md#x) [b](https://example.org/a.md) [c](#here) `[d](nowhere)` ![e](../../figures/calibration.svg)\n```\n[f](nowhere)\n```\n"
    made = assemble.with_links(text, ROOT / "docs/tutorials/own_model.md", pages, tmp_path)
    assert made == text.replace("../../GLOSSARY.md", "../reference/glossary.md").replace(
        "../../figures", "../files/figures"
    )
    assert (tmp_path / "files/figures/calibration.svg").is_file()
    for wrong in ("[a](nowhere.md)", "[a](/etc/passwd)", "[a](../../../../outside)"):
        with pytest.raises(SystemExit, match="docs/index.md: .* leads nowhere"):
            assemble.with_links(wrong, ROOT / "docs/index.md", pages, tmp_path)


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
def test_links_of_pages_lead_to_where_texts_are_in_the_site(assemble, tmp_path, monkeypatch, coding):
    """Tables beside a page come along; a link to nowhere stops it; bytes without such a link stay as they are."""
    root, out = tmp_path / "root", tmp_path / "out"
    for place in ("docs/a.md", "experiments/c/claims.yaml", "reports/m/c_prompts.csv", "reports/index.html"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text("x")
    monkeypatch.setattr(assemble, "ROOT", root)
    page, texts = root / "reports/m/c.html", {root / "docs/a.md": "how_to/a.md"}

    def made(*links):
        page.write_bytes("".join(f'<a class="x" href="{link}">é</a>' for link in links).encode(coding))
        assemble.report_pages(out, texts)
        return re.findall('href="([^"]*)"', (out / "reports/m/c.html").read_bytes().decode(coding))

    kept = ["#here", "c_prompts.csv", "../index.html#m", "https://example.org/a.md", "c.html#x"]
    assert made(*kept) == kept and (out / "reports/m/c.html").read_bytes() == page.read_bytes()
    assert made("../../docs/a.md#b", "../../experiments/c/claims.yaml") == [
        "../../how_to/a.html#b", "../../files/experiments/c/claims.yaml.txt",
    ]  # fmt: skip
    assert (out / "reports/m/c_prompts.csv").is_file() and (out / "files/experiments/c/claims.yaml.txt").is_file()
    for wrong in ("steer.html", "../../docs/gone.md", "/etc/passwd"):
        with pytest.raises(SystemExit, match="reports/m/c.html: .* leads nowhere"):
            made(wrong)


def test_a_list_begins_after_an_empty_line(assemble):
    assert assemble.with_lists("a\n* b\n  c\n* d\ne\n- f\n") == "a\n\n* b\n  c\n* d\ne\n- f\n"
    assert assemble.with_lists("```\na\n* b\n```\n# h\n1. b\n") == "```\na\n* b\n```\n# h\n\n1. b\n"


def test_what_is_installed_for_it_is_locked_and_is_no_torch():
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LOCK if not line.startswith("#")}
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in LOCK if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["optional-dependencies"]["site"]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    assert not {"torch", "biology"} & set(pins) and not any(name.startswith("nvidia") for name in pins)
