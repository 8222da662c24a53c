"""What all pages share: templates, words, and the manifest of a model.

A page is one file with its style and scripts; it makes no network requests. Everything that comes from a model or a
user is escaped, and templates hold only words: numbers come from tables.
"""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from biology.cases.case import Case, discover_cases, load_case
from biology.config import Config, shipped_folder
from biology.records import InputError
from biology.report.prose import TEXTS, prose, text_files
from biology.schemas import DECIDING, VERDICTS
from biology.statistics import ALPHA
from biology.wording import MARKS, called, embed, number, percent, powers, visible

TEMPLATES = Path(__file__).with_name("templates")
MOST_BYTES = 3_000_000
"""Largest size of a page, unless a model runs in it. A page that would be larger says less, and that it does."""
BARRED = (0, 1, 0x0D, 0x3C)
"""Codes that a script element cannot hold (NUL, CR, <), and the escape mark 1. Surrogates are escaped as well."""
BARE = re.compile(r"<!--.*?-->|^!\[.*$", flags=re.MULTILINE)
"""What a text has for hosts alone: marks of numbers, and pictures, which lie in files of their own."""
BETWEEN = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|(?<=>)\s+(?=<)", flags=re.DOTALL)
TAG, PATH, QUOTED = re.compile(r"<[^>]*>"), re.compile(r'\bd="([^"]*)"'), re.compile(r"=\"([^\"']*)\"")
LONG = re.compile(r"\d+\.\d{4,}")
"""Of an SVG: what is not drawn, tags, what a path draws, other attributes, and numbers finer than anybody sees."""
SPEAKS = (
    "A verdict speaks of one model and its transcoders, and of nothing else: elegans is not Claude 3.5 Haiku, and "
    "“not replicated” does not mean that the paper is wrong about the model that it studied."
)


def light(svg: str) -> str:
    """An SVG of matplotlib that looks the same and takes fewer bytes in a page: without metadata, comments and spaces between tags, with
    coordinates of paths to a thousandth of a point, and with quotes that an address need not escape."""
    return TAG.sub(lambda tag: QUOTED.sub(r"='\1'", PATH.sub(_path, tag[0])), BETWEEN.sub("", svg))


def _path(found: re.Match[str]) -> str:
    rounded = LONG.sub(lambda one: f"{float(one[0]):.3f}".rstrip("0").rstrip("."), found[1])
    return "d='" + re.sub(r"\s*([A-Za-z])\s*", r"\1", " ".join(rounded.split())) + "'"


def planted(model: str) -> str:
    """A sentence for pages about a model with the paper's mechanisms planted."""
    return (
        f"{model} is a small language model. This project trained it, and planted mechanisms of the paper in it. So it is known which "
        "claims about them are true of it. The tests do not use that."
    )


def few_prompts(most: int) -> str:
    """A sentence for runs on a few prompts (`ModelConfig.at_most`)."""
    return f"at most {most} scored prompts of each set and split were asked. Verdicts of such a run are no verdicts on the model."


def environment() -> Environment:
    """Templates, with all their filters and words."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "percent": percent, "visible": visible, "prose": prose, "embed": embed}
    made.filters |= {"powers": powers, "called": called}
    made.globals |= {
        "marks": MARKS,
        "speaks": SPEAKS,
        "planted": planted,
        "few_prompts": few_prompts,
        "studied": "Claude 3.5 Haiku",
        "order": DECIDING,
        "alpha": ALPHA,
        "style": Markup((TEMPLATES / "style.css").read_text("utf-8")),
        "script": lambda name: Markup((TEMPLATES / name).read_text("utf-8")),
    }
    return made


def text_pages(root: Path) -> dict[str, str]:
    """The texts that other pages lead to, as pages beside the index, by their names (`TEXTS`).

    Each is that of `root`, or else that of the checkout in which the package lies: a folder of one's own has cases and no docs.
    """
    made, found = {}, text_files(root, shipped_folder())
    for name, (title, place) in TEXTS.items():
        path = found.get(name)
        text = f"There is no {place} here.\n" if path is None else path.read_text(encoding="utf-8")
        text = BARE.sub("", text)
        base = "" if path is None else Path(os.path.relpath(path.parent, root / "reports")).as_posix() + "/"
        made[name] = environment().get_template("text.html.j2").render(title=title, text=text, base=base, level=2)
    return made


def packed(data: Any) -> str:
    """Data as compressed JSON in characters: the input of `unpacked` in pages.js. The same data give the same
    characters."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode()


def packed_bytes(facts: Mapping[str, Any], data: bytes) -> str:
    """Facts and bytes, compressed, as characters of a page in UTF-16: the input of `unpackedBytes` in pages.js."""
    told = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    return as_characters(zlib.compress(struct.pack("<I", len(told)) + told + data, 9))


def as_characters(data: bytes) -> str:
    """Pairs of bytes as characters of UTF-16. A pair that is not allowed has its highest bit inverted and follows an escape
    mark."""
    odd = len(data) % 2
    units = np.frombuffer(struct.pack("<H", odd) + data + b"\0" * odd, "<u2")
    barred = np.isin(units, BARRED) | ((units >= 0xD800) & (units < 0xE000))
    place = np.arange(len(units)) + np.cumsum(barred)
    letters = np.ones(len(units) + int(barred.sum()), "<u2")
    letters[place] = np.where(barred, units ^ 0x8000, units)
    return letters.tobytes().decode("utf-16-le")


def in_utf_16(page: str) -> bytes:
    """A page as a file in UTF-16, in which nearly every pair of bytes is a character. Base64 would take a third more of it."""
    return codecs.BOM_UTF16_LE + page.encode("utf-16-le")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table."""
    return frame.to_dict("records")  # type: ignore[return-value]


def counts(verdicts: Iterable[str]) -> list[tuple[str, int]]:
    """Number of claims with each verdict, strongest verdict first."""
    listed = list(verdicts)
    return [(verdict, listed.count(verdict)) for verdict in reversed(VERDICTS) if verdict in listed]


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of a model, written by `biology load`. Raises `InputError` if it has not run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Make it with `biology load`, or with `make figures`.") from None


def quantised(manifest: Mapping[str, Any]) -> str:
    """A sentence on weights that had been quantised before they came here; empty for others."""
    return f"Its weights are {manifest['quantised']}." if "quantised" in manifest else ""


def cases_of(root: Path, config: Config, model: str) -> list[Case]:
    """The cases of a model, with its own prompts."""
    entry = config.model(model)
    names = config.cases_of(model, discover_cases(root, entry.prompts))
    return [load_case(root, name, entry.prompts, entry.at_most) for name in names]
