"""Command-line arguments: the options of every command, numbers within bounds, and places that can be written to."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

from biology.config import Rule
from biology.records import InputError

Options = dict[str, dict[str, Any]]
SEEDS = 2**32 - 1
"""Largest seed that every generator accepts."""


class Parser(argparse.ArgumentParser):
    """A parser that reports every mistake as an `InputError` of one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} (`{self.prog} --help` lists the options)")


def prompt(text: str) -> str:
    """An option type: a text that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give the text of a prompt")
    return text


def integer(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """An option type: whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a whole number, not '{text}'") from None
        if least is not None and number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {text}")
        return number

    return read


def integer_or(word: str, least: int) -> Callable[[str], int | str]:
    """An option type: whole numbers from `least`, or one word."""
    number = integer(least)
    return lambda text: word if text == word else number(text)


def real(least: float = -math.inf, *, above: float = -math.inf) -> Callable[[str], float]:
    """An option type: finite numbers, at least `least` and greater than `above`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"takes a number, not '{text}'") from None
        if not math.isfinite(number):
            raise argparse.ArgumentTypeError(f"takes a finite number, not '{text}'")
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least:g}, not {text}")
        if number <= above:
            raise argparse.ArgumentTypeError(f"must be more than {above:g}, not {text}")
        return number

    return read


def writable_folder(folder: Path) -> Path:
    """The folder, which need not exist yet. Raises `InputError` if files cannot be written to it; leaves nothing in it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"nothing can be written to {folder}: {there} is not a folder. Name another one.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"nothing can be written to {folder}: {there}: {error.strerror}. Name another folder."
        ) from None
    return folder


def writable_file(path: Path) -> Path:
    """The path of a file, which may exist. Raises `InputError` if it is a folder, or if its folder cannot be written to."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file to write.")
    writable_folder(path.parent)
    return path


# The options of commands ------------------------------------------------------------------------------------------------
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
    "--twin": {
        "metavar": "NAME",
        "help": "with --case: grow the twin that answers alike and lacks the mechanism (experiments/<case>/twins/<name>.yaml)",
    },
    "--width": {"type": integer(1), "metavar": "N", "help": "grow a model of this width (128, a multiple of 8)"},
    "--steps": {"type": integer(1), "metavar": "N", "help": "train for this many steps (those of the recipe)"},
    "--out": {
        "metavar": "DIR",
        "help": "folder to write to (data/models/elegans, elegans-seed<n>, elegans-width<n>, elegans-<corpus>, <case>, <case>-<twin>)",
    },
}
FETCH: Options = {
    "--skip-memory-check": {"action": "store_true", "help": "it will run on another machine: look at the disk only"}
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
    "--twin": GROWTH["--twin"],
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
    "--context": {
        "type": integer(2),
        "metavar": "N",
        "help": "tokens of the longest document (1024, or the model's context)",
    },
    "--seed": {"type": integer(0, SEEDS), "metavar": "N", "default": 0, "help": "seed (%(default)s)"},
} | DEVICE
WHERE: Options = {
    "--device": {"choices": ("cpu", "cuda"), "help": "where to compute (as in config.yaml, or cpu)"},
    "--dtype": {"choices": ("float32", "bfloat16", "float64"), "help": "precision (as in config.yaml, or float32)"},
    "--offload": {"action": "store_true", "help": "leave weights in their files, and read them as they are needed"},
}
TRACE: Options = {
    "text": {"nargs": "?", "type": prompt, "metavar": "PROMPT", "help": "the prompt"},
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
    "--chat": {"action": "store_true", "help": "put the prompt as a user's message into the model's own chat template"},
    "--token-ids": {"metavar": "1,2,3", "help": "token ids instead of a prompt; no tokenizer is needed then"},
    "--target": {
        "action": "append",
        "metavar": "T",
        "help": "what to explain, may be repeated: a token, a difference 'A - B', #17, or 'feature LAYER/FEATURE@POSITION'",
    },
    "--explain": {
        "choices": ("logits", "contrast"),
        "help": "without --target: the most probable tokens, or the first minus the runner-up (of neurons: contrast)",
    },
    "--attention": {
        "choices": ("frozen", "live"),
        "default": "frozen",
        "help": "whether edges hold what runs through queries and keys, to first order (%(default)s)",
    },
    "--norms": {
        "choices": ("frozen", "live"),
        "default": "frozen",
        "help": "the same of the scales of norms (%(default)s)",
    },
    "--position": {"type": integer(), "default": -1, "metavar": "P", "help": "whose next token to explain (the last)"},
    "--max-nodes": {"type": integer(0), "metavar": "N", "help": "most feature nodes (all active features)"},
    "--max-logits": {"type": integer(1), "metavar": "N", "help": "most logit nodes (10)"},
    "--features": {
        "metavar": "FILE",
        "help": "the feature nodes: a CSV file or nodes.parquet with layer, pos, feature",
    },
    "--memory": {"type": real(above=0.0), "metavar": "GIB", "help": "memory of working arrays beside the graph (4)"},
    "--paths": {"type": integer(0), "metavar": "N", "default": 10, "help": "routes and paths to print (%(default)s)"},
    "--heads": {
        "type": integer(0),
        "metavar": "N",
        "default": 0,
        "help": "say which attention heads carry the N strongest edges between tokens (%(default)s)",
    },
    **WHERE,
    "--out": {"metavar": "DIR", "help": "where to write graph.json, graph.safetensors, nodes.parquet and graph.html"},
    "--open": {"action": "store_true", "help": "show the page of the graph in a browser"},
}
ATTEND: Options = {
    "text": {"type": prompt, "metavar": "PROMPT", "help": "the prompt"},
    **{name: TRACE[name] for name in ("--model", "--transcoders", "--k", "--rule", "--chat")},
    "--layer": {"type": integer(0), "metavar": "L", "help": "with --head: the head to take apart, counted from 0"},
    "--head": {
        "type": integer(0),
        "metavar": "H",
        "help": "its number in the layer (without both: the heads that matter)",
    },
    "--query": {"type": integer(), "metavar": "P", "help": "the token that attends (that of its largest step)"},
    "--key": {"type": integer(), "metavar": "P", "help": "the token it attends to (that of its largest step)"},
    "--against": {"type": integer(), "metavar": "P", "help": "take the difference to the score of this token apart"},
    "--target": {
        "metavar": "T",
        "help": "what heads matter for: a token, a difference 'A - B' or a feature, as in trace",
    },
    "--explain": TRACE["--explain"],
    "--top": {"type": integer(1), "metavar": "N", "default": 10, "help": "how many heads, pairs, nodes (%(default)s)"},
    **WHERE,
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
CHECK: Options = {
    "claim": {"metavar": "CLAIM", "help": "a claim, such as multihop-7"},
    "--out": {"metavar": "DIR", "help": "folder for a page with every number's origin, and the tables that it names"},
    "--cores": {"type": integer(1), "metavar": "N", "default": os.cpu_count() or 1, "help": "cores to share (all)"},
}
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
    "text": {"type": prompt, "metavar": "PROMPT", "help": "the prompt"},
    "--chat": TRACE["--chat"],
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
    **WHERE,
}

NEW_CASE: Options = {
    "name": {"metavar": "NAME", "help": "what it is to be called: letters, digits, '.', '-' and '_'"},
    "--from": {"dest": "source", "metavar": "CASE", "help": "the case to copy (the template)"},
    "--model": {"metavar": "NAME", "help": "the model that is to meet it (elegans)"},
    "--organism": {"action": "store_true", "help": "it is to be met by a model of its own, grown with its mechanism"},
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
