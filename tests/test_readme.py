"""Every command of the README does what it says: light ones are run here, the others by `.ci/run`. It stays short."""

import re
import shlex
from pathlib import Path

import pytest
from stage_rules import SNAKEFILE

from biology.__main__ import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GROW = (ROOT / "docs/how_to/grow.md").read_text(encoding="utf-8")


def blocks(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.strip()
    for block in blocks(TEXT, "bash")
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
LIGHT = ".venv/bin/biology "


def run(words):
    """The exit code of a command."""
    try:
        return main(words)
    except SystemExit as ended:  # --help
        return ended.code


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 130


def test_every_command_is_run_by_something():
    assert len(COMMANDS) >= 5
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    for command in COMMANDS:
        assert command.startswith(LIGHT) or (command.startswith("make ") and command in ci), command


@pytest.mark.parametrize(("text", "least"), [(TEXT, 6), (GROW, 6)], ids=["README", "grow"])
def test_long_commands_are_spelt_as_the_program_knows_them(text, least, capsys):
    """Blocks of `sh` take too long for a test; their commands, options and models still have to exist."""
    commands = [shlex.split(line, comments=True) for block in blocks(text, "sh") for line in block.splitlines()]
    assert len(commands) >= least
    for program, command, *arguments in commands:
        options = [word for word in arguments if word.startswith("--")]
        if program == LIGHT.strip():
            assert run([command, "--help"]) == 0
            said = capsys.readouterr().out
            assert all(option in said for option in options), (command, options)
        else:
            assert program == ".venv/bin/snakemake" and f'"{command}"' in SNAKEFILE
            named = re.findall(r"^  (elegans-seed\d):", text, flags=re.MULTILINE)
            said = {f"model={named[0]}", "model=<case>", "model=<case>-<twin>"} if named else set()
            assert "--config" not in arguments or said & set(arguments)


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, flags=re.MULTILINE))
    assert named and named <= targets


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(LIGHT)])
def test_light_commands_run(command, capsys, monkeypatch):
    """In the repository, by this interpreter; none of them writes anything. What the README shows is what is said."""
    words = shlex.split(command.removeprefix(LIGHT))
    assert "--out" not in words
    monkeypatch.chdir(ROOT)
    assert run(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.strip()
    if words[0] == "trace":
        first = r' *\d+\.\d+%  "Austin"  #\d+   \(graph: \d+% from the prompt, the rest from errors\)$'
        assert re.match(first, said.splitlines()[0]), said
        (route,) = re.findall('`("Dallas" -> .*?)`', TEXT)
        assert route in said
    if words[0] == "steer":
        (shown,) = blocks(TEXT, "text")
        assert shown in said
        by_itself, steered, control = re.findall(r'%  "(\w+)"', shown)
        assert by_itself == control != steered == "Sacramento"
    if words[0] == "explain":
        assert said.startswith(f"{words[1]}: ")
