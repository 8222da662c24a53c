"""Options of commands: values that are no numbers, options that are unknown, and those that would have no effect, are refused."""

from pathlib import Path

import pytest
from complaints import complaint

from biology.__main__ import CONTENTS

ROOT = Path(__file__).parents[1]


NUMBERS = [
    (name, flag)
    for section in CONTENTS.values()
    for name, (_, options) in section.items()
    for flag, settings in options.items()
    if "type" in settings and flag.startswith("-")
]


@pytest.mark.parametrize("command, flag", NUMBERS)
def test_what_is_no_number_is_refused_in_one_line(capsys, command, flag):
    for wrong in ("1.2.3", "nan", "inf", "1e400", "", "x"):
        assert f"error: {flag}: takes a" in complaint(capsys, command, f"{flag}={wrong}")
    if flag not in ("--position", "--at", "--strength", "--query", "--key", "--against"):
        assert f"error: {flag}: must be " in complaint(capsys, command, f"{flag}=-1")


def test_an_unknown_option_is_one_line_that_says_where_to_look(capsys):
    assert "unrecognized arguments: --depth (`biology --help` lists" in complaint(
        capsys, "trace", "x", "--model", "a", "--depth"
    )
    assert "required: --model (`biology steer --help` lists" in complaint(capsys, "steer", "x")


@pytest.mark.parametrize(("arguments", "told"), [
    (["trace", " ", "--model", "elegans"], "is empty: give the text of a prompt"),
    (["attend", "", "--model", "elegans"], "is empty: give the text of a prompt"),
    (["trace", "--token-ids", "1,2", "--chat", "--model", "elegans"], "--chat puts a prompt into the chat template"),
    (["trace", "a", "--target", "b", "--max-logits", "3", "--model", "elegans"], "leave out --explain and --max-logits"),
    (["trace", "a", "--model", "elegans", "--max-node", "3"], "--max-node"),
    (["attend", "a", "--layer", "1", "--head", "0", "--query", "1", "--key", "0", "--target", "b", "--model", "elegans"], "choose --query and --key"),
    (["steer", "a", "--features", "1/2", "--at", "1", "--everywhere", "--model", "elegans"], "either --at or --everywhere"),
    (["steer", "a", "--features", ",", "--model", "elegans"], "with commas between, not ''"),
    (["steer", "a", "--features", "1/2=3,1/2=9", "--model", "elegans"], "feature 1/2 is given twice"),
    (["steer", "a", "--supernode", "multi_hop/dallas/bridge", "--suppress", "multi_hop/dallas/bridge", "--model", "elegans"], "is named twice"),
    (["explain", "multihop-7", "--prompts", "natural"], "about a case, not about a claim"),
    (["explain", "--prompts", "natural"], "--prompts is about a case"),
])  # fmt: skip
def test_an_option_that_would_have_no_effect_is_refused(capsys, monkeypatch, arguments, told):
    monkeypatch.chdir(ROOT)
    assert told in complaint(capsys, *arguments)
