"""Numbers, fractions and prompts as pages print them. Quoted text is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

MARKS = {"replicated": "✓", "not replicated": "✗", "inconclusive": "?", "untestable": "–"}
"""A sign for each verdict, in the order in which boards list them."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    if "e" in text:
        head, _, power = text.partition("e")
        text = f"{head}×10{str(int(power)).translate(RAISED)}"
    return text.replace("-", "−")


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
