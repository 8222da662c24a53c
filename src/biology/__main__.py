"""`biology <command>`: the table of commands, the arguments, and how errors are reported.

Each stage of the Snakefile is one command. Only commands (room `cli`) read arguments, and decide what is written where, with which
seed and on which device. Other modules get this as arguments.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from biology import __version__, artefacts
from biology.cli import (
    attending,
    checking,
    completion,
    dictionary_commands,
    fetching,
    graph_io,
    growth,
    housekeeping,
    stages,
    steering,
    table_stages,
    tracing,
    transcoder_training,
)
from biology.cli.arguments import (
    ATTEND,
    CASE,
    CHECK,
    CONVERT,
    CORES,
    EXPLAIN,
    EXPORT,
    FETCH,
    FIGURE,
    GROWTH,
    IMPORT,
    MODEL,
    MODELS,
    NEW_CASE,
    NEW_MODEL,
    ONE_MODEL,
    PAGE,
    SAMPLE,
    STEER,
    TEXT,
    THRESHOLD,
    TRACE,
    TRAINING,
    Options,
    Parser,
)
from biology.printing import JSON, print_json
from biology.provenance import about
from biology.records import InputError

Arguments = argparse.Namespace


SHELL: Options = {"shell": {"choices": completion.SHELLS, "help": "which shell"}}


def complete(args: Arguments) -> None:
    """print what a shell completes: source <(biology completion bash)"""
    commands = {
        name: completion.known(_summary(function), options | {"--config": CONFIG})
        for section in CONTENTS.values()
        for name, (function, options) in section.items()
    }
    print(completion.script(args.shell, commands), end="")


Command = tuple[Callable[[Arguments], None], Options]
CONTENTS: dict[str, dict[str, Command]] = {
    "The pipeline, in order (snakemake runs it; results go to data/runs/<model>/<case>/)": {
        "load": (stages.load, MODEL),
        "measure": (dictionary_commands.measure, MODEL | TEXT),
        "compare-dictionaries": (dictionary_commands.compare_dictionaries, MODEL | TEXT),
        "predict-ablations": (dictionary_commands.predict_ablations, MODEL),
        "superpose": (dictionary_commands.superpose, {}),
        "cache": (stages.cache, MODEL | CASE),
        "group": (stages.group, MODEL | CASE),
        "decompose": (stages.decompose, MODEL),
        "attribute": (stages.attribute, MODEL | CASE),
        "intervene": (stages.intervene, MODEL | CASE | CORES),
        "exchange": (stages.exchange, MODEL),
        "sweep": (stages.sweep, MODEL | CASE),
        "atlas": (stages.atlas, MODEL),
        "tabulate": (table_stages.tabulate, MODEL | CASE),
        "passing": (table_stages.passing, MODEL),
        "judge": (table_stages.judge, MODEL | THRESHOLD | JSON),
        "card": (table_stages.card, MODEL),
        "compare": (table_stages.compare, JSON),
        "calibrate": (housekeeping.calibrate, JSON),
        "draw": (table_stages.draw, MODEL | CASE | FIGURE),
        "draw-story": (table_stages.draw_story, MODEL | CASE),
        "draw-dictionary": (dictionary_commands.draw_dictionary, MODEL | FIGURE),
        "write": (table_stages.write, PAGE),
        "members": (stages.members, MODEL),
        "lab": (table_stages.lab, MODEL),
    },
    "Known models of the Hub": {
        "models": (fetching.models, MODELS | JSON),
        "fetch": (fetching.fetch, MODEL | FETCH),
        "convert": (fetching.convert, CONVERT),
    },
    "One claim": {"check": (checking.check, CHECK | MODEL | JSON)},
    "One prompt": {
        "trace": (tracing.trace, TRACE | JSON),
        "attend": (attending.attend, ATTEND | JSON),
        "steer": (steering.steer, STEER | JSON),
    },
    "A model of your own (docs/tutorials/own_model.md)": {
        "new-model": (fetching.new_model, NEW_MODEL | JSON),
        "sample": (transcoder_training.sample, SAMPLE),
        "train-transcoders": (transcoder_training.train_transcoders, TRAINING),
    },
    "Graphs of ours elsewhere, graphs of others here": {
        "export": (graph_io.export_graphs, MODEL | CASE | EXPORT),
        "import": (graph_io.import_graph, IMPORT),
    },
    "The embedded model": {
        "evaluate": (growth.evaluate, MODEL | JSON),
        "organism": (growth.organism, GROWTH),
        "grow": (growth.grow, GROWTH),
        "certify": (growth.certify, GROWTH | JSON),
        "cards": (growth.cards, GROWTH),
        "prompts": (housekeeping.prompts, CASE),
    },
    "Case files": {
        "new-case": (housekeeping.new_case, NEW_CASE),
        "explain": (housekeeping.explain, EXPLAIN | JSON),
        "lock": (housekeeping.lock, {}),
        "schema": (housekeeping.schema, {}),
    },
    "Housekeeping": {
        "plan": (housekeeping.plan, ONE_MODEL | CORES | JSON),
        "progress": (housekeeping.progress, CORES),
        "summary": (housekeeping.summary, ONE_MODEL | JSON),
        "scoreboard": (housekeeping.scoreboard, {}),
        "coverage": (housekeeping.coverage, {}),
        "completion": (complete, SHELL),
    },
}
CONFIG: dict[str, Any] = {"default": "config.yaml", "metavar": "FILE", "help": "configuration (%(default)s)"}


def _summary(function: Callable[[Arguments], None]) -> str:
    return (function.__doc__ or "").splitlines()[0]


def _contents() -> str:
    """The text that `biology --help` prints."""
    lines = [
        "usage: biology <command> [options]      (biology <command> --help for its options; biology --version [--json])",
        "",
    ]
    lines += ["Every case study of On the Biology of a Large Language Model, with a computed verdict for every claim."]
    for section, commands in CONTENTS.items():
        lines += ["", section, *(f"  {name:<20} {_summary(function)}" for name, (function, _) in commands.items())]
    lines += [
        "",
        "Everything at once: make figures. New here? README.md. Words: GLOSSARY.md. Extend it: CONTRIBUTING.md",
    ]
    return "\n".join(lines) + "\n"


def _parser() -> Parser:
    parser = Parser(prog="biology", usage="biology <command> [options]")
    parser.format_help = _contents  # type: ignore[method-assign]
    parser.add_argument("--version", action="version", version=f"biology {__version__}")
    commands = parser.add_subparsers(metavar="<command>", required=True, prog="biology")
    for section in CONTENTS.values():
        for name, (function, options) in section.items():
            command = commands.add_parser(name, description=_summary(function), allow_abbrev=False)
            for flag, settings in options.items():
                command.add_argument(flag, **settings)
            command.add_argument("--config", **CONFIG)
            command.set_defaults(function=function)
    return parser


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Prints an `InputWarning` as one line on stderr, without the source line that Python adds."""
    from biology.records import InputWarning

    def say(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        own = issubclass(category, InputWarning)
        text = f"warning: {' '.join(str(message).split())}\n"
        sys.stderr.write(text if own else warnings.formatwarning(message, category, filename, lineno))

    with warnings.catch_warnings():
        warnings.showwarning = say  # type: ignore[assignment]
        yield


TOO_LARGE = "this takes more memory than there is: ask for less (a shorter text, fewer features), or run it elsewhere"


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code. A user's mistake prints one line on stderr and returns 2."""
    given = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # characters that the terminal cannot show are written as \u0645
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if sorted(given) == ["--json", "--version"]:
            print_json(about())
            return 0
        args = _parser().parse_args(given or ["--help"])
        with _warnings_in_one_line():
            args.function(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a closed pipe is handled
    except InputError as error:
        return _refused(str(error))
    except BrokenPipeError:  # the reader of the output has closed the pipe
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno in artefacts.FULL:
            return _refused("the disk is full, and nothing was written: make room, then run it again")
        if error.errno in artefacts.BARRED and error.filename is not None:
            return _refused(f"{error.filename}: {error.strerror}")
        if error.errno == errno.ENOMEM:
            return _refused(TOO_LARGE)
        raise
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeErrors
        if isinstance(error, MemoryError) or re.search("allocate memory|out of memory", str(error)):
            return _refused(TOO_LARGE)
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _refused(reason: str) -> int:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
