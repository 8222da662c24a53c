"""Texts in Markdown: what GitHub shows of them, a page shows too, and nothing in them becomes HTML of their own."""

import html
import re
from pathlib import Path

import pytest

from biology.report.prose import prose

ROOT = Path(__file__).parents[1]
READMES = sorted(ROOT.glob("experiments/[a-z]*/README.md"))


def test_code_keeps_its_stars_tables_are_tables_and_lists_are_lists():
    made = prose(
        "# Title\n\n`(4+5)*3=`, **bold** *words*\n\n| a | b |\n|---|--:|\n| 1 | `x*y` |\n\n- one\n- two\n  more\n"
    )
    assert "Title" not in made and "<code>(4+5)*3=</code>" in made
    assert "<strong>bold</strong> <em>words</em>" in made
    assert re.search(r'<div class="scroll" tabindex="0".*<table>.*</table></div>', made, re.S) and "---" not in made
    assert '<th style="text-align:right">b</th>' in made and made.count("<li>") == 2


def test_headings_stand_below_those_of_the_page():
    assert "<h3>Why</h3>" in prose("## Why\n") and "<h4>More</h4>" in prose("### More\n")
    assert "<h4>Why</h4>" in prose("# Title\n\n## Why\n", level=4)


def test_addresses_are_those_of_the_page():
    made = prose(
        "[a](claims.yaml) [b](../../docs/x.md#y) [c](https://example.org/a) [d](#here)", "../../experiments/c/"
    )
    assert re.findall('href="([^"]*)"', made) == [
        "../../experiments/c/claims.yaml", "../../docs/x.md#y", "https://example.org/a", "#here",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://example.org/x.png)", "&lt;b&gt;"]
)
def test_nothing_in_a_text_becomes_html_or_asks_the_network(evil):
    made = prose(f"# t\n\n{evil}\n\n- {evil}\n\n| {evil} |\n|---|\n| {evil} |\n\n## {evil}\n")
    assert not re.search(r"<(script|img|b)\b|href=.javascript", made)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_every_case_reads_as_it_was_meant(path):
    """No mark of Markdown is left in the words, and all code is there to the letter."""
    source = path.read_text(encoding="utf-8")
    made = str(prose(source))
    words = re.sub(r"<code>.*?</code>", "", made, flags=re.S)
    assert not re.search(r"\*\w|\w\*|\|---|^[-#] ", re.sub(r"<[^>]+>", "", words), re.M)
    shown = [html.unescape(code).split() for code in re.findall(r"<code>(.*?)</code>", made, re.S)]
    stated = re.findall(r"((?:^    .*\n)+)|`([^`]+)`", source, re.M)  # a block, or code in a line
    assert shown == [(block or code).split() for block, code in stated]
