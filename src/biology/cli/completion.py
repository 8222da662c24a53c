"""Shell completion for `biology`: scripts for bash, zsh and fish, generated from the table of commands.

    source <(biology completion bash)       # in ~/.bashrc; in ~/.zshrc with zsh
    biology completion fish | source        # in ~/.config/fish/config.fish

The script knows commands, options and the choices of options; everything else is completed as a file. It starts no
Python, so that Tab answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Known:
    """One command: its summary, its options, and the words that may follow an option (or, under "", stand alone)."""

    summary: str
    options: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]]


def known(summary: str, options: Mapping[str, Mapping[str, Any]]) -> Known:
    """A command of the table of contents."""
    choices = {
        flag if flag.startswith("-") else "": tuple(map(str, settings["choices"]))
        for flag, settings in options.items()
        if settings.get("choices")
    }
    return Known(summary, tuple(sorted(flag for flag in options if flag.startswith("-"))), choices)


def script(shell: str, commands: Mapping[str, Known]) -> str:
    """The script for one of `SHELLS`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _bash(commands: Mapping[str, Known]) -> str:
    lines = [
        "_biology() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=",
        "    COMPREPLY=()",
        "    if [ $COMP_CWORD -eq 1 ]; then",
        f"        words='{_joined(['--version', '--help', *commands])}'",
        "    else",
        '        case "${COMP_WORDS[1]} $before" in',
        *(
            f"            '{name} {flag}') words='{_joined(found)}' ;;"
            for name, command in commands.items()
            for flag, found in command.choices.items()
            if flag
        ),
        '            *) case "${COMP_WORDS[1]}" in',
        *(
            f"                {name}) words='{_joined([*command.options, '--help', *command.choices.get('', ())])}' ;;"
            for name, command in commands.items()
        ),
        "            esac ;;",
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _biology biology",
    ]
    return "\n".join(lines) + "\n"


def _zsh(commands: Mapping[str, Known]) -> str:
    """The script for zsh, which runs the one for bash."""
    return "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n" + _bash(commands)


def _fish(commands: Mapping[str, Known]) -> str:
    lines = []
    for name, command in commands.items():
        lines.append(f"complete -c biology -n __fish_use_subcommand -f -a {name} -d {_quoted(command.summary)}")
        inside = f"complete -c biology -n '__fish_seen_subcommand_from {name}'"
        for flag in command.options:
            found = command.choices.get(flag)
            lines.append(f"{inside} -l {flag.removeprefix('--')}" + (f" -x -a '{_joined(found)}'" if found else ""))
        if "" in command.choices:
            lines.append(f"{inside} -f -a '{_joined(command.choices[''])}'")
    return "\n".join(lines) + "\n"


def _joined(words: Iterable[str]) -> str:
    return " ".join(words)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
