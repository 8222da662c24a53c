"""`biology <command>`: the table of contents, the arguments, and what happens when something is wrong.

One stage of the Snakefile is one command. Only the commands (`stages`, `tracing`, `growth`, `fetching` and the few below) read
arguments, write files, set seeds and pick devices; all other modules are functions of their arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biology import artefacts, fetching, growth, stages, tracing

Arguments = argparse.Namespace
Options = dict[str, dict[str, Any]]


def lock(args: Arguments) -> None:
    """register new and amended claims in experiments/claims.lock"""
    from biology.case import read_lock, refreshed_lock

    root = Path(args.config).parent
    before, after = read_lock(root), refreshed_lock(root)
    artefacts.write_text(root / "experiments/claims.lock", json.dumps(after, indent=2, sort_keys=True) + "\n")
    for case, hashes in after.items():
        for claim, digest in hashes.items():
            old = before.get(case, {}).get(claim)
            if old != digest:
                print(f"{case}: {claim} {'registered' if old is None else 'amended'}")


def scoreboard(args: Arguments) -> None:
    """write the verdicts of all models into the generated block of README.md"""
    from biology.report import with_scoreboard

    root = Path(args.config).parent
    artefacts.write_text(root / "README.md", with_scoreboard((root / "README.md").read_text(encoding="utf-8"), root))


MODEL: Options = {"--model": {"required": True, "metavar": "NAME", "help": "a model of config.yaml"}}
CASE: Options = {"--case": {"required": True, "metavar": "NAME", "help": "a folder of experiments/"}}
THRESHOLD: Options = {
    "--threshold": {
        "action": "append",
        "metavar": "CLAIM=X",
        "help": "show the verdict with a threshold of your own (CLAIM/PART=X for one part) and write nothing",
    }
}
FIGURE: Options = {"--figure": {"required": True, "metavar": "NAME", "help": "a figure of case.yaml"}}
PAGE: Options = {
    "--model": {"metavar": "NAME", "help": "a model of config.yaml"},
    "--case": {"metavar": "NAME", "help": "a folder of experiments/"},
}
GROWTH: Options = {
    "--seed": {"type": int, "metavar": "N", "default": 0, "help": "seed (%(default)s, the shipped one)"},
    "--twin": {"metavar": "NAME", "help": "grow a twin that lacks the mechanisms (rote, base12 or mod113)"},
    "--out": {"metavar": "DIR", "help": "folder to write to (data/models/elegans, elegans-seed<n>, elegans-<twin>)"},
}
FETCH: Options = {
    "--elsewhere": {"action": "store_true", "help": "it will run on another machine: look at the disk only"}
}
MODELS: Options = {"--write": {"action": "store_true", "help": "write the table into docs/models.md"}}
KIND: Options = {
    "--kind": {"choices": ("plt", "clt"), "default": "plt", "help": "per layer or cross layer (%(default)s)"}
}
TRACE: Options = {
    "text": {"nargs": "?", "metavar": "PROMPT", "help": "the prompt"},
    "--model": {"required": True, "metavar": "NAME|DIR", "help": "a model of config.yaml, or a Hugging Face directory"},
    "--transcoders": {"metavar": "DIR", "help": "directory of transcoders (those named in config.yaml)"},
    "--token-ids": {"metavar": "1,2,3", "help": "token ids instead of a prompt; no tokenizer is needed then"},
    "--target": {
        "action": "append",
        "metavar": "T",
        "help": "what to explain, may be repeated: a token, a difference 'A - B', #17, or 'feature LAYER/FEATURE@POSITION'",
    },
    "--position": {"type": int, "default": -1, "metavar": "P", "help": "whose next token to explain (the last)"},
    "--max-nodes": {"type": int, "metavar": "N", "help": "most feature nodes (all active features)"},
    "--max-logits": {"type": int, "metavar": "N", "help": "most logit nodes (10)"},
    "--features": {
        "metavar": "FILE",
        "help": "the feature nodes: a CSV file or nodes.parquet with layer, pos, feature",
    },
    "--memory": {"type": float, "metavar": "GIB", "help": "memory of working arrays beside the graph (4)"},
    "--paths": {"type": int, "metavar": "N", "default": 10, "help": "how many paths to print (%(default)s)"},
    "--device": {"choices": ("cpu", "cuda"), "help": "where to compute (as in config.yaml, or cpu)"},
    "--dtype": {"choices": ("float32", "bfloat16", "float64"), "help": "precision (as in config.yaml, or float32)"},
    "--out": {"metavar": "DIR", "help": "where to write graph.json, graph.safetensors and nodes.parquet"},
}

Command = tuple[Callable[[Arguments], None], Options]
CONTENTS: dict[str, dict[str, Command]] = {
    "The pipeline, in order (snakemake runs it; results go to data/runs/<model>/<case>/)": {
        "load": (stages.load, MODEL),
        "cache": (stages.cache, MODEL | CASE),
        "group": (stages.group, MODEL | CASE),
        "attribute": (stages.attribute, MODEL | CASE),
        "intervene": (stages.intervene, MODEL | CASE),
        "exchange": (stages.exchange, MODEL),
        "tabulate": (stages.tabulate, MODEL | CASE),
        "judge": (stages.judge, MODEL | THRESHOLD),
        "compare": (stages.compare, {}),
        "draw": (stages.draw, MODEL | CASE | FIGURE),
        "write": (stages.write, PAGE),
    },
    "Known models of the Hub": {
        "models": (fetching.models, MODELS),
        "fetch": (fetching.fetch, MODEL | FETCH),
    },
    "One prompt": {"trace": (tracing.trace, TRACE)},
    "The embedded model": {
        "evaluate": (growth.evaluate, MODEL),
        "organism": (growth.organism, GROWTH),
        "grow": (growth.grow, GROWTH),
        "train-transcoders": (growth.train_transcoders, GROWTH | KIND),
        "cards": (growth.cards, GROWTH),
        "prompts": (growth.prompts, CASE),
    },
    "Housekeeping": {"lock": (lock, {}), "scoreboard": (scoreboard, {})},
}
CONFIG: dict[str, Any] = {"default": "config.yaml", "metavar": "FILE", "help": "configuration (%(default)s)"}


def _summary(function: Callable[[Arguments], None]) -> str:
    return (function.__doc__ or "").splitlines()[0]


def _contents() -> str:
    """What `biology --help` prints."""
    lines = ["usage: biology <command> [options]      (biology <command> --help for its options)", ""]
    lines += ["Every case study of On the Biology of a Large Language Model, with a computed verdict for every claim."]
    for section, commands in CONTENTS.items():
        lines += ["", section, *(f"  {name:<18} {_summary(function)}" for name, (function, _) in commands.items())]
    lines += [
        "",
        "Everything at once: make figures. New here? README.md. Words: GLOSSARY.md. Extend it: CONTRIBUTING.md",
    ]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="biology", usage="biology <command> [options]")
    parser.format_help = _contents  # type: ignore[method-assign]
    commands = parser.add_subparsers(metavar="<command>", required=True, prog="biology")
    for section in CONTENTS.values():
        for name, (function, options) in section.items():
            command = commands.add_parser(name, description=_summary(function))
            for flag, settings in options.items():
                command.add_argument(flag, **settings)
            command.add_argument("--config", **CONFIG)
            command.set_defaults(function=function)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command. A mistake of the user's is one line on stderr and exit code 2."""
    given = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(given or ["--help"])
    from biology.config import InputError

    try:
        args.function(args)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in artefacts.FULL:
            raise
        print("error: the disk is full, and nothing was written: make room, then run it again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
