"""The documentation: every link leads somewhere, headings included, and every command that a page shows exists."""

import re
import shlex
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from biology.__main__ import CONTENTS

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
