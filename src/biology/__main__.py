"""`biology <command>`: the table of contents, the arguments, and what happens when something is wrong.

One stage of the Snakefile is one command. Only the commands (`stages`, `table_stages`, `tracing`, `growth`, `training`, `dictionaries`,
`fetching`, `housekeeping`) read arguments, write files, set seeds and pick devices; all other modules are functions of
their arguments.
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
from typing import Any, get_args

from biology import __version__, artefacts
from biology.about import about
from biology.cli import (
    beginnings,
    checking,
    completion,
    fetching,
    growth,
    housekeeping,
    stages,
    steering,
    table_stages,
    tracing,
)
from biology.cli import dictionary_commands as dictionaries
from biology.cli import graph_io as interchange
from biology.cli import transcoder_training as training
from biology.cli.arguments import SEEDS, Parser, integer, integer_or, real
from biology.config import Rule
from biology.printing import JSON, print_json
from biology.records import InputError

Arguments = argparse.Namespace
Options = dict[str, dict[str, Any]]


MODEL: Options = {"--model": {"required": True, "metavar": "NAME", "help": "a model of config.yaml"}}
CASE: Options = {"--case": {"required": True, "metavar": "NAME", "help": "a folder of experiments/"}}
EXPLAIN: Options = {
    "case": {
        "nargs": "?",
        "metavar": "CASE|CLAIM",
        "help": "a folder of experiments/, or a claim such as multihop-7 (none: what case files may say)",
    },
    "--prompts": {"metavar": "NAME", "help": "one of its prompt_sets in the place of its prompt_set"},
}
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
    "--page": {"choices": ("atlas", "steer"), "help": "a page of the model"},
}
GROWTH: Options = {
    "--seed": {"type": integer(0, SEEDS), "metavar": "N", "default": 0, "help": "seed (%(default)s, the shipped one)"},
    "--corpus": {
        "metavar": "NAME",
        "help": "grow it on another corpus: that of elegans-languages (languages), with nothing planted (wild), as a twin that lacks the "
        "mechanisms (rote, base12, mod113), as one with mechanisms of its own (improviser, dozens, dictionaries), or taught more "
        "(brackets)",
    },
    "--case": {
        "metavar": "CASE",
        "help": "grow it on the prompts of a case, with the mechanism that this states (docs/explanation/planting.md)",
    },
    "--width": {"type": integer(1), "metavar": "N", "help": "grow a model of this width (128, a multiple of 8)"},
    "--out": {
        "metavar": "DIR",
        "help": "folder to write to (data/models/elegans, elegans-seed<n>, elegans-width<n>, elegans-<corpus>, <case>)",
    },
}
FETCH: Options = {
    "--elsewhere": {"action": "store_true", "help": "it will run on another machine: look at the disk only"}
}
MODELS: Options = {"--write": {"action": "store_true", "help": "write the table into docs/reference/models.md"}}
TEXT: Options = {
    "--text": {"nargs": "+", "metavar": "FILE", "help": "held-out text (that of the training, or the held-out prompts)"}
}
DEVICE: Options = {
    "--device": {"choices": ("cpu", "cuda"), "help": "where to compute (cpu)"},
    "--dtype": {"choices": ("float32", "bfloat16"), "help": "precision of the model (float32)"},
}
TRAINING: Options = {
    "--model": {"metavar": "NAME|DIR", "help": "a Hugging Face directory, or a model of config.yaml"},
    "--text": {"nargs": "+", "metavar": "FILE", "help": "text to train on; documents end at a line <|endoftext|>"},
    "--kind": {
        "choices": ("plt", "clt", "skip"),
        "default": "plt",
        "help": "per layer, cross layer, or per layer with a skip connection (%(default)s)",
    },
    "--out": {"metavar": "DIR", "help": "folder to write to (beside the model, for elegans)"},
    "--seed": {"type": integer(0, SEEDS), "metavar": "N", "default": 0, "help": "seed (%(default)s)"},
    "--corpus": GROWTH["--corpus"],
    "--case": GROWTH["--case"],
    "--width": GROWTH["--width"],
    "--features": {
        "type": integer(1),
        "metavar": "N",
        "help": "features of a layer (8 times the model's width, at least 1024)",
    },
    "--l0": {
        "type": integer(1),
        "metavar": "N",
        "help": "active features per token and layer; with clt, at most so many (16)",
    },
    "--sparsity": {"type": real(0.0), "metavar": "X", "help": "clt: coefficient of the sparsity penalty"},
    "--tokens": {"type": integer(1), "metavar": "N", "help": "read at most so much text to train on (all of it)"},
    "--steps": {"type": integer(1), "metavar": "N", "help": "training steps (1500 per layer; clt 2000)"},
    "--batch": {"type": integer(1), "metavar": "N", "help": "tokens of a step (2048; clt 1024)"},
    "--context": {"type": integer(2), "metavar": "N", "help": "tokens of a sequence (256, or the model's context)"},
    "--memory": {"type": real(above=0.0), "metavar": "GIB", "help": "memory for activations (2)"},
} | DEVICE
SAMPLE: Options = {
    "--model": {"required": True, "metavar": "NAME|DIR", "help": "a Hugging Face directory, or a model of config.yaml"},
    "--out": {"required": True, "metavar": "FILE", "help": "text file to write"},
    "--tokens": {"type": integer(1), "metavar": "N", "default": 1_000_000, "help": "how much text (%(default)s)"},
    "--seed": {"type": integer(0, SEEDS), "metavar": "N", "default": 0, "help": "seed (%(default)s)"},
} | DEVICE
TRACE: Options = {
    "text": {"nargs": "?", "metavar": "PROMPT", "help": "the prompt"},
    "--model": {"required": True, "metavar": "NAME|DIR", "help": "a model of config.yaml, or a Hugging Face directory"},
    "--transcoders": {
        "metavar": "DIR|neurons",
        "help": "directory of transcoders (those named in config.yaml), or neurons: those of the model itself are the features",
    },
    "--k": {
        "type": integer_or("all", 1),
        "metavar": "K|all",
        "help": "of neurons: how many are active at a token and layer, those that write most (32)",
    },
    "--rule": {"choices": get_args(Rule), "help": "of neurons: how what they read is linearised (half)"},
    "--token-ids": {"metavar": "1,2,3", "help": "token ids instead of a prompt; no tokenizer is needed then"},
    "--target": {
        "action": "append",
        "metavar": "T",
        "help": "what to explain, may be repeated: a token, a difference 'A - B', #17, or 'feature LAYER/FEATURE@POSITION'",
    },
    "--position": {"type": integer(), "default": -1, "metavar": "P", "help": "whose next token to explain (the last)"},
    "--max-nodes": {"type": integer(0), "metavar": "N", "help": "most feature nodes (all active features)"},
    "--max-logits": {"type": integer(1), "metavar": "N", "help": "most logit nodes (10)"},
    "--features": {
        "metavar": "FILE",
        "help": "the feature nodes: a CSV file or nodes.parquet with layer, pos, feature",
    },
    "--memory": {"type": real(above=0.0), "metavar": "GIB", "help": "memory of working arrays beside the graph (4)"},
    "--paths": {"type": integer(0), "metavar": "N", "default": 10, "help": "how many paths to print (%(default)s)"},
    "--device": {"choices": ("cpu", "cuda"), "help": "where to compute (as in config.yaml, or cpu)"},
    "--dtype": {"choices": ("float32", "bfloat16", "float64"), "help": "precision (as in config.yaml, or float32)"},
    "--out": {"metavar": "DIR", "help": "where to write graph.json, graph.safetensors, nodes.parquet and graph.html"},
    "--open": {"action": "store_true", "help": "show the page of the graph in a browser"},
}

EXPORT: Options = {
    "--prompt": {"metavar": "NAME", "help": "one named prompt of the case (all)"},
    "--for": {
        "dest": "viewer",
        "choices": ("neuronpedia", "circuit-tracer"),
        "default": "circuit-tracer",
        "help": "which viewer is to open them (%(default)s)",
    },
    "--scan": {
        "metavar": "NAME",
        "help": "Neuronpedia's name of the model, or circuit-tracer's transcoders (the model)",
    },
    "--source-set": {"metavar": "NAME", "help": "Neuronpedia's source set in which the features are"},
    "--out": {"required": True, "metavar": "DIR", "help": "folder to write to"},
}
CHECK: Options = {"claim": {"metavar": "CLAIM", "help": "a claim, such as multihop-7"}}
CONVERT: Options = {
    "file": {"metavar": "FILE.gguf", "help": "a GGUF file: llama, qwen3, gemma2 or gemma3"},
    "--out": {"required": True, "metavar": "DIR", "help": "folder to write the directory to"},
}
IMPORT: Options = {
    "file": {"metavar": "FILE", "help": "a graph of Neuronpedia, circuit-tracer, `biology trace` or `biology export`"},
    "--link": {"metavar": "URL", "help": "a shared address whose pins, supernodes and labels are to be shown"},
    "--out": {"metavar": "FILE", "help": "page.html, or graph.json (a page beside the graph)"},
}
STEER: Options = {
    "text": {"metavar": "PROMPT", "help": "the prompt"},
    "--model": TRACE["--model"],
    "--transcoders": TRACE["--transcoders"],
    "--k": TRACE["--k"],
    "--rule": TRACE["--rule"],
    "--supernode": {
        "action": "append",
        "metavar": "CASE/PROMPT/NAME",
        "help": "hold a supernode with its members and activations on that prompt; may be repeated",
    },
    "--suppress": {
        "action": "append",
        "metavar": "CASE/PROMPT/NAME",
        "help": "hold another one at minus the strength, as the swap experiments do; may be repeated",
    },
    "--features": {"metavar": "L/F,L/F=X", "help": "hold single features, at X or at their activation on the prompt"},
    "--strength": {
        "type": real(),
        "default": 1.0,
        "metavar": "M",
        "help": "multiplier of all activations (%(default)s)",
    },
    "--at": {
        "type": integer(),
        "metavar": "P",
        "help": "the token at which they are held (where the supernode is, on a prompt of its case; the last otherwise)",
    },
    "--everywhere": {"action": "store_true", "help": "hold them at every token, new ones included"},
    "--tokens": {"type": integer(1), "default": 8, "metavar": "N", "help": "how many tokens to write (%(default)s)"},
    "--top": {"type": integer(1), "default": 5, "metavar": "N", "help": "how many next tokens to show (%(default)s)"},
    "--device": TRACE["--device"],
    "--dtype": TRACE["--dtype"],
}

NEW_CASE: Options = {
    "name": {"metavar": "NAME", "help": "what it is to be called: letters, digits, '.', '-' and '_'"},
    "--from": {"dest": "source", "metavar": "CASE", "help": "the case to copy (the template)"},
    "--model": {"metavar": "NAME", "default": "elegans", "help": "the model that is to meet it (%(default)s)"},
}
NEW_MODEL: Options = {
    "directory": {"metavar": "DIR", "help": "a Hugging Face directory"},
    "--name": {"metavar": "NAME", "help": "what it is to be called (as its folder)"},
    "--transcoders": {
        "metavar": "DIR|neurons",
        "help": "its features (transcoders that lie in the directory or beside it, else its neurons)",
    },
    "--write": {"action": "store_true", "help": "put the entry into config.yaml"},
}
ONE_MODEL: Options = {"--model": {"metavar": "NAME", "help": "one model of config.yaml (all that `figures/all` runs)"}}
CORES: Options = {"--cores": {"type": integer(1), "metavar": "N", "default": 1, "help": "cores to share (%(default)s)"}}
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
        "measure": (dictionaries.measure, MODEL | TEXT),
        "compare-dictionaries": (dictionaries.compare_dictionaries, MODEL | TEXT),
        "cache": (stages.cache, MODEL | CASE),
        "group": (stages.group, MODEL | CASE),
        "attribute": (stages.attribute, MODEL | CASE),
        "intervene": (stages.intervene, MODEL | CASE),
        "exchange": (stages.exchange, MODEL),
        "sweep": (stages.sweep, MODEL | CASE),
        "atlas": (stages.atlas, MODEL),
        "tabulate": (table_stages.tabulate, MODEL | CASE),
        "judge": (table_stages.judge, MODEL | THRESHOLD | JSON),
        "compare": (table_stages.compare, JSON),
        "calibrate": (housekeeping.calibrate, JSON),
        "draw": (table_stages.draw, MODEL | CASE | FIGURE),
        "draw-dictionary": (dictionaries.draw_dictionary, MODEL | FIGURE),
        "write": (table_stages.write, PAGE),
        "members": (stages.members, MODEL),
    },
    "Known models of the Hub": {
        "models": (fetching.models, MODELS | JSON),
        "fetch": (fetching.fetch, MODEL | FETCH),
        "convert": (fetching.convert, CONVERT),
    },
    "One claim": {"check": (checking.check, CHECK | MODEL | JSON)},
    "One prompt": {"trace": (tracing.trace, TRACE | JSON), "steer": (steering.steer, STEER | JSON)},
    "A model of your own (docs/tutorials/own_model.md)": {
        "new-model": (beginnings.new_model, NEW_MODEL | JSON),
        "sample": (training.sample, SAMPLE),
        "train-transcoders": (training.train_transcoders, TRAINING),
    },
    "Graphs of ours elsewhere, graphs of others here": {
        "export": (interchange.export_graphs, MODEL | CASE | EXPORT),
        "import": (interchange.import_graph, IMPORT),
    },
    "The embedded model": {
        "evaluate": (growth.evaluate, MODEL | JSON),
        "organism": (growth.organism, GROWTH),
        "grow": (growth.grow, GROWTH),
        "certify": (growth.certify, GROWTH | JSON),
        "cards": (growth.cards, GROWTH),
        "prompts": (growth.prompts, CASE),
    },
    "Case files": {
        "new-case": (beginnings.new_case, NEW_CASE),
        "explain": (housekeeping.explain, EXPLAIN | JSON),
        "lock": (housekeeping.lock, {}),
        "schema": (housekeeping.schema, {}),
    },
    "Housekeeping": {
        "plan": (housekeeping.plan, ONE_MODEL | CORES | JSON),
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
    """What `biology --help` prints."""
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
            command = commands.add_parser(name, description=_summary(function))
            for flag, settings in options.items():
                command.add_argument(flag, **settings)
            command.add_argument("--config", **CONFIG)
            command.set_defaults(function=function)
    return parser


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """What is wrong with a user's input and not fatal is one line on stderr, without the line of code that says so."""
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
    """Runs one command. A mistake of the user's is one line on stderr and exit code 2."""
    given = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show is written as \u0645
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
            sys.stdout.flush()  # here, where a closed pipe is understood
    except InputError as error:
        return _refused(str(error))
    except BrokenPipeError:  # whoever read the output has seen enough
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
    except (MemoryError, RuntimeError) as error:  # torch's are RuntimeErrors
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
