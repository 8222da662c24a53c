"""Every command of the README does what it says: light ones are run here, the others by `.ci/run`."""

import re
import shlex
from pathlib import Path

import pytest

from biology.__main__ import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.strip() for block in BLOCKS for line in block.splitlines() if line.strip() and not line.startswith("#")
]
LIGHT = ".venv/bin/biology "


def run(words):
    """The exit code of a command."""
    try:
        return main(words)
    except SystemExit as ended:  # --help
        return ended.code


def test_every_command_is_run_by_something():
    assert len(COMMANDS) >= 5
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    for command in COMMANDS:
        assert command.startswith(LIGHT) or (command.startswith("make ") and command in ci), command


def test_long_commands_are_spelt_as_the_program_knows_them(capsys):
    """Blocks of `sh` take too long for a test; their commands, options and models still have to exist."""
    lines = re.findall(r"^```sh\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in lines for line in block.splitlines()]
    assert len(commands) >= 4
    for program, command, *arguments in commands:
        options = [word for word in arguments if word.startswith("--")]
        if program == LIGHT.strip():
            assert run([command, "--help"]) == 0
            said = capsys.readouterr().out
            assert all(option in said for option in options), (command, options)
        else:
            assert program == ".venv/bin/snakemake" and f'"{command}"' in (ROOT / "Snakefile").read_text(
                encoding="utf-8"
            )
            assert "model={}".format(*re.findall(r"^  (elegans-seed\d):", TEXT, flags=re.MULTILINE)) in arguments


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, flags=re.MULTILINE))
    assert named and named <= targets


def test_every_local_link_leads_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in link:
            assert (ROOT / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(LIGHT)])
def test_light_commands_run(command, capsys, monkeypatch, tmp_path):
    """In the repository, by this interpreter; what they would write there goes to a temporary folder."""
    words = shlex.split(command.removeprefix(LIGHT))
    out = None
    if "--out" in words:
        place = words.index("--out") + 1
        out = tmp_path / words[place]
        words[place] = str(out)
    monkeypatch.chdir(ROOT)
    assert run(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.strip()
    if words[0] == "trace":
        prompt = words[1]
        answer = {"Fact": "Austin", "calc": "95"}[prompt.partition(":")[0]]
        first, contrast = said.splitlines()[0], "--target" in words
        shown = rf" *\+\d+\.\d+  {answer} - \w+$" if contrast else rf' *\d+\.\d+%  "{answer}"  #\d+$'
        assert re.match(shown, first), said
        assert f'-> output "{answer}' in said
    if words[0] == "evaluate":
        behaviours = {line.split()[0] for line in said.splitlines()[1:]}
        assert {"two_hop", "addition", "couplet_last"} <= behaviours
    if out is not None:
        promised = set(re.findall(r"`trace/([\w.]+)`", TEXT))
        assert promised and promised == {path.name for path in out.iterdir()}
