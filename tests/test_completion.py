"""What a shell completes is what the program knows: asked of the shells themselves, where they are installed."""

import shlex
import shutil
import subprocess

import pytest

from biology.__main__ import CONTENTS, main
from biology.cli.completion import SHELLS

COMMANDS = {name for section in CONTENTS.values() for name in section}


@pytest.fixture(scope="module")
def scripts():
    """The script of each shell, as `biology completion` prints it."""
    import io
    from contextlib import redirect_stdout

    def printed(shell):
        with redirect_stdout(io.StringIO()) as said:
            assert main(["completion", shell]) == 0
        return said.getvalue()

    return {shell: printed(shell) for shell in SHELLS}


def completed(script, *words):
    """What bash offers after these words, the last of which is being typed."""
    asked = (
        f"{script}\nCOMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; _biology\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    said = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert not said.stderr
    return set(said.stdout.split())


def test_bash_knows_commands_options_and_choices(scripts):
    script = scripts["bash"]
    assert completed(script, "biology", "") == COMMANDS | {"--version", "--help"}
    assert completed(script, "biology", "tr") == {"trace", "train-transcoders"}
    assert completed(script, "biology", "trace", "--js") == {"--json"}
    assert completed(script, "biology", "grow", "--co") == {"--corpus", "--config"}
    assert completed(script, "biology", "trace", "--rule", "") == {"half", "frozen", "gradient"}
    assert completed(script, "biology", "trace", "--rule", "f") == {"frozen"}
    assert completed(script, "biology", "completion", "z") == {"zsh"}
    assert completed(script, "biology", "nothing", "") == set()


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_every_shell_that_is_here_takes_its_script(scripts, shell):
    options = ["-f"] if shell == "zsh" else ["--no-config"] if shell == "fish" else ["--norc"]
    said = subprocess.run([shell, *options], input=scripts[shell], capture_output=True, text=True)
    assert said.returncode == 0 and not said.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes(scripts):
    asked = scripts["fish"] + 'complete -C"biology tr"\ncomplete -C"biology trace --rule "\n'
    said = subprocess.run(["fish", "--no-config"], input=asked, capture_output=True, text=True, check=True).stdout
    assert {line.split("\t")[0] for line in said.splitlines()} == {
        "trace",
        "train-transcoders",
        "half",
        "frozen",
        "gradient",
    }
