"""Examines a model directory: its contents, the transcoders beside it, and the entry of config.yaml that it needs.

Headers and small files are read, but no weights. `biology load`, which loads the weights, says whether everything fits
together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from biology.config import NEURONS
from biology.grammar import refused_name
from biology.models import memory
from biology.records import InputError

HELP = "docs/tutorials/own_model.md"
GROWN = "record.json"
"""File beside the weights of a grown model, whose vocabulary is made for the cases' prompts."""


@dataclass(frozen=True)
class Found:
    """The contents of a directory."""

    path: Path
    architecture: str
    layers: int
    width: int
    vocabulary: int
    tokenizer: bool
    grown_here: bool
    transcoders: tuple[tuple[Path, str], ...]
    """Folders in a known layout, in the model's folder or beside it, with the layout's name."""
    plan: memory.Plan
    """Memory in float32 with the first of these, or with its neurons."""


def inspect_model(path: Path) -> Found:
    """The contents of a model directory.

    Raises:
        InputError: it is not a readable model directory; one line, with the page that helps.
    """
    from biology.models.bridge import ARCHITECTURES
    from biology.models.checkpoint import architecture

    try:
        kind = architecture(path, tuple(ARCHITECTURES))
        shape = memory.shape_of(path)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')} ({HELP}).") from None
    if not any(path.glob("*.safetensors")):
        other = ", ".join(sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth"))[:3])
        rest = (
            f": it has {other}, which are not read; save it with transformers (model.save_pretrained(DIR))"
            if other
            else ""
        )
        raise InputError(f"{path} holds no weights as safetensors{rest} ({HELP}).")
    found = _transcoders(path)
    return Found(
        path, kind, shape.n_layers, shape.d_model, shape.n_vocab,
        tokenizer=any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")),
        grown_here=(path / GROWN).is_file(),
        transcoders=found,
        plan=memory.of_directories(path, found[0][0] if found else None, "float32"),
    )  # fmt: skip


def _transcoders(path: Path) -> tuple[tuple[Path, str], ...]:
    """Folders in a known layout, in the model's own or beside it with a name that begins as its does."""
    from biology.transcoders.layouts import layout_of

    inside = sorted(folder for folder in path.iterdir() if folder.is_dir())
    beside = sorted(
        folder
        for folder in path.resolve().parent.glob(f"{path.resolve().name}?*")
        if folder.is_dir() and folder != path
    )
    told = ((folder, layout_of(folder)) for folder in (*inside, *beside))
    return tuple((folder, layout) for folder, layout in told if layout is not None)


def called(path: Path, name: str | None) -> str:
    """The name of the model: the one given, or its folder's. Raises InputError if it is not allowed."""
    wanted = name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-.").lower() or "mine"
    problem = refused_name(wanted)
    if problem:
        raise InputError(f"--name: {problem}.")
    return wanted


def entry(found: Found, name: str, transcoders: Path | None = None) -> str:
    """The entry of config.yaml, as text. `transcoders` are those given, else the first found, else neurons."""
    dictionary, why = transcoders, "as asked for"
    if dictionary is None:
        dictionary = found.transcoders[0][0] if found.transcoders else NEURONS
        why = (
            f"{found.transcoders[0][1]} layout"
            if found.transcoders
            else "none lie beside it: its own neurons are the features"
        )
    size = f"{found.architecture}, {found.layers} layers of {found.width}"
    lines: list[tuple[str, object, str]] = [("path", found.path, size), ("transcoders", dictionary, why)]
    if not found.grown_here:
        lines.append(("prompts", "natural", "the prompt sets for a vocabulary that was not made for ours"))
    lines.append(("device", "cpu", f"or cuda; {memory.gib(found.plan.total)} of memory, working arrays included"))
    body = "".join(f"    {f'{key}: {value}':<42} # {words}\n" for key, value, words in lines)
    return f"  {name}:\n{body}"
