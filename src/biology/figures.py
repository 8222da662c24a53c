"""The figures of a case, drawn from its tables and from nothing else.

`FIGURES` maps the names that `case.yaml` may list to functions from tables to a matplotlib figure; `draw` gives the bytes.
The look lies in `paper.mplstyle` alone. The same tables are the same bytes: glyphs are drawn as paths from fonts that come
with pinned packages, ids have a fixed salt, and no date is written. Text is never read as mathematics, and a character that
none of the fonts has is written as its code point, so that any token of any model can be printed.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import functools
import io
import json
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, fontManager, get_font
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve
from matplotlib.patheffects import Stroke, Normal
from matplotlib.textpath import TextPath

from biology.case import Case
from biology.config import InputError
from biology.statistics import bootstrap_interval, generator, resamples
from biology.tables import ARMS, Tables
from biology.viewer import Arrow, Box, Layout, layout, node, point

STYLE = Path(__file__).with_name("paper.mplstyle")
FONTS = {
    # family in paper.mplstyle: (package that brings the files, {weight: file})
    "Biology Sans": ("font_source_sans_pro", {400: "files/SourceSansPro-Regular.ttf", 600: "files/SourceSansPro-Semibold.ttf"}),
    "Biology CJK": ("notojp_matplotlib", {400: "fonts/NotoSansCJKjp-Regular.otf"}),
    "Biology Symbols": ("matplotlib", {400: "mpl-data/fonts/ttf/DejaVuSans.ttf"}),
}
BOLD = 600
LOOK = {"effect": ("C0", "o"), "match": ("axes.edgecolor", "s"), "donor": ("C1", "^"), "position": ("C2", "D"), "direction": ("C3", "P"), "shuffle": ("C4", "v"), "clean": ("text.color", "x")}
"""Colour (a place in the style's cycle, or the name of a style entry) and marker of each arm."""


# ------------------------------------------------------------------------------------------------------- text and style


@functools.cache
def register_fonts() -> dict[str, list[Path]]:
    """Makes the fonts known to matplotlib under names of our own, so that no font of the machine takes their place."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # silent where a fallback font has no bold
    files: dict[str, list[Path]] = {}
    for family, (package, weights) in FONTS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise InputError(f"figures need the Python package '{package}' for its fonts: install the pinned requirements.")
        for weight, name in weights.items():
            path = Path(spec.origin).parent / name
            fontManager.ttflist.append(
                FontEntry(fname=str(path), name=family, style="normal", variant="normal", weight=weight, stretch="normal", size="scalable")
            )
            files.setdefault(family, []).append(path)
    return files


@functools.cache
def printable() -> frozenset[int]:
    """Code points that one of the fonts has."""
    return frozenset().union(*(get_font(paths[0]).get_charmap() for paths in register_fonts().values()))


def label(text: str) -> str:
    """A token as it is printed: line breaks and tabs as signs, one leading space dropped, what no font has as its code."""
    if text.startswith(" ") and text.strip(" ") and not text.startswith("  "):
        text = text[1:]
    if not text.strip(" ") or text.startswith(" "):
        text = text.replace(" ", "␣")
    signs = {"\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(
        signs.get(c) or (c if ord(c) in printable() and unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}") for c in text
    )


@contextmanager
def styled() -> Iterator[None]:
    """The style of the house, whatever the user's own settings of matplotlib are."""
    register_fonts()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["backend"] = "agg"
        mpl.style.use(STYLE)
        yield


def colour(name: str) -> Any:
    return mpl.rcParams[name] if "." in name else name


@functools.cache
def _width(text: str, size: float, weight: int) -> float:
    if not text:
        return 0.0
    return TextPath((0, 0), text, size=size, prop=FontProperties(family=mpl.rcParams["font.family"], weight=weight)).get_extents().width / 72


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose only axes, invisible, have inches as their unit."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def _size(step: float = 0.0) -> float:
    return mpl.rcParams["font.size"] + step


# ------------------------------------------------------------------------------------------------------ supernode graph


def supernode_graph(tables: Tables, subject: str | None = None) -> Figure:
    """The simplified attribution graph of one prompt (`subject`, by default the first), in the manner of the paper."""
    item, edges = _item(tables["edges"], subject, "supernode_graph")
    members = tables["supernodes"][tables["supernodes"]["item"] == item]
    prompt = tables["prompts"][tables["prompts"]["item"] == item]
    sizes = {"title": (_size(0.5), BOLD), "note": (_size(-2), 400), "token": (_size(), 400)}
    arranged = layout(
        edges,
        members,
        [label(token) for token in _tokens(prompt, edges)],
        _probabilities(tables, item, prompt),
        lambda text, role: _width(label(text), *sizes[role]),
    )
    margin = 0.08
    figure, axes = blank(arranged.width + 2 * margin, arranged.height + 2 * margin)
    axes.set(xlim=(-margin, arranged.width + margin), ylim=(-margin, arranged.height + margin))
    for arrow in sorted(arranged.arrows, key=lambda arrow: abs(arrow.share)):
        _draw_arrow(axes, arrow)
    linked = {arrow.source for arrow in arranged.arrows}
    for box in arranged.boxes:
        _draw_box(axes, box, box.name in linked)
    for arrow in arranged.arrows:
        _draw_share(axes, arrow)
    _draw_key(axes, 0.0, arranged.height - 0.1)
    return _captioned(
        figure,
        f"Simplified attribution graph: {item}",
        "Boxes are supernodes, groups of transcoder features found by the rules of the case; tokens of the prompt are below, outputs "
        "on top. An arrow is the direct effect of one on the other, as a share of all direct effects into the target: plus and a "
        "pointed end where it excites, minus and a flat end where it inhibits. Small shares are not drawn. Errors and biases, not "
        f"drawn either, make up {arranged.undrawn:.0%} of the direct effects into the outputs shown.",
    )


def _tokens(prompt: pd.DataFrame, edges: pd.DataFrame) -> list[str]:
    if len(prompt) and "tokens" in prompt:
        return [str(token) for token in json.loads(prompt["tokens"].iloc[0])]
    at = {position: text for kind, text, position in map(node, edges["source"]) if kind == "token"}
    return [at.get(position, "·") for position in range(max(at, default=-1) + 1)]


def _probabilities(tables: Tables, item: str, prompt: pd.DataFrame) -> dict[str, float]:
    panel = tables["panel"] if "panel" in tables else pd.DataFrame({"item": [], "kind": []})
    rows = panel[(panel["item"] == item) & (panel["kind"] == "probability")]
    found = dict(zip(rows["supernode_or_token"], rows["clean"], strict=True)) if len(rows) else {}
    return found | (dict(zip(prompt["top1"], prompt["probability"], strict=True)) if len(prompt) else {})


def _sign_colour(share: float) -> str:
    return "C0" if share > 0 else "C1"


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    width = 0.6 + 6.5 * abs(arrow.share)
    (x, y), (bx, by) = arrow.curve[3], arrow.curve[2]
    along = np.array([x - bx, y - by]) / np.hypot(x - bx, y - by)
    across = np.array([-along[1], along[0]])
    head, half = 0.075 + 0.012 * width, 0.035 + 0.0105 * width
    tip = np.array([x, y])
    neck = tip - along * (head if arrow.share > 0 else 0.0)
    path = Curve([*arrow.curve[:3], tuple(neck)], [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    tint = _sign_colour(arrow.share)
    for line, ink in ((width + 1.6, colour("figure.facecolor")), (width, tint)):
        axes.add_patch(PathPatch(path, fill=False, linewidth=line, edgecolor=ink, capstyle="butt", alpha=None if ink != tint else 0.75))
    if arrow.share > 0:
        axes.add_patch(Polygon([tip, neck + across * half, neck - across * half], facecolor=tint, edgecolor="none"))
    else:
        axes.plot(*zip(tip + across * (half + 0.02), tip - across * (half + 0.02), strict=True), color=tint, linewidth=1.8, solid_capstyle="butt")


def _draw_share(axes: Axes, arrow: Arrow) -> None:
    x, y = point(arrow.curve, arrow.mark)
    sign = "+" if arrow.share > 0 else "−"
    text = axes.text(x, y, f"{sign}{abs(arrow.share):.0%}", fontsize=_size(-2), weight=BOLD, color=_sign_colour(arrow.share), ha="center", va="center")
    text.set_path_effects([Stroke(linewidth=2.2, foreground=colour("figure.facecolor")), Normal()])


def _draw_key(axes: Axes, x: float, y: float) -> None:
    for row, (share, text) in enumerate([(0.12, "excites"), (-0.12, "inhibits")]):
        line = ((x, y - 0.2 * row), (x + 0.1, y - 0.2 * row), (x + 0.2, y - 0.2 * row), (x + 0.34, y - 0.2 * row))
        _draw_arrow(axes, Arrow("", "", share, line))
        axes.text(x + 0.46, y - 0.2 * row, text, va="center_baseline", fontsize=_size(-1))
    note = "width and number: share of the\ndirect effects into the target"
    axes.text(x, y - 0.36, note, va="top", fontsize=_size(-1), color=colour("axes.edgecolor"), linespacing=1.25)


def _draw_box(axes: Axes, box: Box, linked: bool) -> None:
    edge, face, ink = colour("axes.edgecolor"), colour("figure.facecolor"), colour("text.color")
    left, bottom = box.x - box.width / 2, box.y - box.height / 2
    rounding = f"round,pad=0,rounding_size={0.05 if box.kind == 'token' else 0.09}"
    if box.features > 1:  # a second card behind the first: several features
        axes.add_patch(FancyBboxPatch((left + 0.035, bottom - 0.035), box.width, box.height, boxstyle=rounding, facecolor=face, edgecolor=edge, linewidth=0.7))
    strong = box.kind == "logit"
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), box.width, box.height, boxstyle=rounding, linewidth=1.3 if strong else 0.8,
            facecolor="0.96" if box.kind == "token" else face, edgecolor=ink if strong else edge if linked or box.kind != "token" else colour("grid.color"),
        )
    )  # fmt: skip
    if box.kind == "token":
        axes.text(box.x, box.y, box.text, ha="center", va="center_baseline", color=ink if linked else edge)
        return
    lift = 0.075 if box.note else 0.0
    axes.text(box.x, box.y + lift, label(box.text), ha="center", va="center", fontsize=_size(0.5), weight=BOLD)
    axes.text(box.x, box.y - 0.095, box.note, ha="center", va="center", fontsize=_size(-2), color=edge)


# ---------------------------------------------------------------------------------------------------------------- output


def _captioned(figure: Figure, title: str, caption: str) -> Figure:
    figure.set_label(f"{title}\n{caption}")
    return figure


def _item(frame: pd.DataFrame, subject: str | None, figure: str) -> tuple[str, pd.DataFrame]:
    known = list(dict.fromkeys(frame["item"]))
    if not known or (subject and subject not in known):
        raise InputError(f"figure '{figure}': no rows for prompt '{subject or 'any'}'. Prompts: {', '.join(known) or 'none'}.")
    return subject or known[0], frame[frame["item"] == (subject or known[0])]


FIGURES: dict[str, Callable[..., Figure]] = {
    "supernode_graph": supernode_graph,
}


def caption(figure: Figure) -> tuple[str, str]:
    """Title and caption of a figure made by one of `FIGURES`."""
    title, _, text = str(figure.get_label()).partition("\n")
    return title, text


def svg(figure: Figure) -> bytes:
    """The figure as SVG, with its title and caption in the metadata."""
    title, text = caption(figure)
    with styled():
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Title": title, "Description": text, "Date": None, "Creator": None})
    return stream.getvalue()


def png(figure: Figure) -> bytes:
    with styled():
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def draw(name: str, tables: Tables, case: Case | None = None) -> dict[str, bytes]:
    """The figure `name` of `case.yaml` as {"svg": bytes, "png": bytes}.

    A name may carry a subject behind a hyphen: the prompt of a graph or a panel, the experiment of the others, as in
    `supernode_graph-california`. `InputError` if there is no such figure, or the tables hold nothing to draw.
    """
    kind, _, subject = name.partition("-")
    if kind not in FIGURES:
        raise InputError(f"unknown figure '{name}'. Figures: {', '.join(FIGURES)}.")
    with styled():
        figure = FIGURES[kind](tables, subject or None)
    return {"svg": svg(figure), "png": png(figure)}
