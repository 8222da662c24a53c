"""Numbers, fractions, prompts and prose as pages print them. Whatever is quoted is escaped."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from markupsafe import Markup, escape


def number(value: float | int, digits: int = 3) -> str:
    """A number in print: so many significant digits, a true minus sign, a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,.{digits}g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}".replace("-", "−")


def plain(value: float) -> str:
    """A number in a reason, which is read in tables and terminals too: three significant digits in ASCII."""
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def percent(value: float) -> str:
    """A fraction in per cent, to a tenth below ten per cent and near a hundred."""
    if math.isnan(value):
        return "–"
    return f"{value:.1%}" if 0 < value < 0.1 or 0.95 < value < 1 else f"{value:.0%}"


def visible(text: str) -> str:
    """A prompt or token with its line breaks shown."""
    return text.replace("\n", "↵")


def prose(text: str) -> Markup:
    """Paragraphs, headings, lists, `code` and *emphasis* of a plain Markdown text, escaped. The title is left out."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("#"):
            first, _, rest = block.partition("\n")
            level, _, title = first.partition(" ")
            blocks += [f"<h3>{_inline(title)}</h3>"] if len(level) > 1 else []
            blocks += [str(prose(rest))] if rest.strip() else []
        elif re.match(r"[*-] ", block):
            points = [point for point in re.split(r"(?:^|\n)[*-] ", block) if point.strip()]
            blocks.append("<ul>" + "".join(f"<li>{_inline(point)}</li>" for point in points) + "</ul>")
        elif block:
            blocks.append(f"<p>{_inline(block)}</p>")
    return Markup("\n".join(blocks))


def _inline(text: str) -> str:
    pieces = re.split(r"`([^`]+)`", str(escape(" ".join(text.split()))))
    words = [re.sub(r"(\*{1,2})([^*]+)\1", r"<em>\2</em>", piece) for piece in pieces[::2]]
    code = [f"<code>{piece}</code>" for piece in pieces[1::2]] + [""]
    return "".join(word + piece for word, piece in zip(words, code, strict=True))


def embed(data: Any) -> Markup:
    """Data as JSON inside a script element; nothing in it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
