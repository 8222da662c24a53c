"""Numbers, fractions and prompts as pages print them. Only `embed` escapes (JSON for a script element); templates escape the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

MARKS = {"replicated": "✓", "not replicated": "✗", "inconclusive": "?", "untestable": "–"}
"""A sign for each verdict, in the order in which boards list them."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SMALL = re.compile(r"\b(\d+(?:\.\d+)?)e([+-]\d+)\b")
KINDS = {"per_layer": "per-layer", "cross_layer": "cross-layer", "jumprelu": "JumpReLU", "relu": "ReLU", "topk": "TopK"}
"""What a transcoder set is, in tables and in print."""


def number(value: float | int, digits: int = 3) -> str:
    """A number in print: `digits` significant digits, a true minus sign, tiny values as 4.1×10⁻⁷, a dash for None or
    NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.{digits}g}"
    return powers(text).replace("-", "−")


def powers(text: str) -> str:
    """A text with its numbers of the form 6.17e-07 as 6.17×10⁻⁷."""
    return SMALL.sub(lambda found: f"{found[1]}×10{str(int(found[2])).translate(RAISED)}", text)


def plain(value: float) -> str:
    """A number in a verdict's reason, which tables and terminals show too: three significant digits in ASCII."""
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def percent(value: float) -> str:
    """A fraction in per cent, with one decimal below ten per cent and near a hundred."""
    if math.isnan(value):
        return "–"
    size = abs(value)
    text = f"{size:.1%}" if 0.0005 <= size < 0.1 or 0.95 < size < 1 else f"{size:.0%}"
    text = text.replace("100.0%", "100%")
    return f"−{text}" if value < 0 and text != "0%" else text


def points(value: float) -> str:
    """A difference of two fractions in percentage points, with one decimal below ten."""
    size = 100 * abs(value)
    text = f"{size:.1f}" if 0.05 <= size < 9.95 else f"{size:.0f}"
    return f"−{text}" if value < 0 and text != "0" else text


def called(label: str) -> str:
    """A transcoder set as tables name it, in words: `per_layer jumprelu` is "per-layer JumpReLU transcoders"."""
    words = re.sub(r"\w+", lambda found: KINDS.get(found[0], found[0]), label)
    if words.startswith("neurons"):
        return words
    kind, comma, rest = words.partition(",")
    return f"{kind} transcoders{comma}{rest}"


def visible(text: str) -> str:
    """A prompt or token with its line breaks made visible."""
    return text.replace("\n", "↵")


def listed(words: Iterable[object], last: str = "and") -> str:
    """Words in a row: "a, b and c"; "nothing" if there are none."""
    *rest, end = [str(word) for word in words] or ["nothing"]
    return f"{', '.join(rest)} {last} {end}" if rest else end


def embed(data: Any) -> Markup:
    """Data as JSON for a script element. Nothing in it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
