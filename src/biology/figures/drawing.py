"""Text, fonts, style and bytes of every figure.

The look is defined in `paper.mplstyle` alone. The same figure gives the same bytes: glyphs are drawn as paths from
fonts that come with pinned packages (never from the machine), ids have a fixed salt, and no date is written. Text is
never parsed as mathematics, and characters missing from the fonts are written as code points: any token of any model
can be printed.
"""

from __future__ import annotations

import functools
import io
import logging
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, fontManager, get_font
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from biology.records import InputError

STYLE = Path(__file__).with_name("paper.mplstyle")
FONTS = {
    # family of paper.mplstyle: (package that brings the files, {weight: file})
    "Biology Sans": (
        "font_source_sans_pro",
        {400: "files/SourceSansPro-Regular.ttf", 600: "files/SourceSansPro-Semibold.ttf"},
    ),
    "Biology CJK": ("notojp_matplotlib", {400: "fonts/NotoSansCJKjp-Regular.otf"}),
    "Biology Symbols": ("matplotlib", {400: "mpl-data/fonts/ttf/DejaVuSans.ttf"}),
}
BOLD = 600
FORMS = ("svg", "png")
SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}


class NothingToDraw(InputError):
    """The tables hold no rows for the figure."""


@functools.cache
def register_fonts() -> tuple[Path, ...]:
    """Makes the fonts known to matplotlib, under names of our own so that no font of the machine replaces them.

    Returns the regular file of each family. Raises `InputError` if a package is missing.
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # no warning if a fallback font has no bold
    regular = []
    for family, (package, weights) in FONTS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise InputError(
                f"figures take fonts from the Python package '{package}': install the pinned requirements."
            )
        for weight, name in weights.items():
            path = str(Path(spec.origin).parent / name)
            shape: dict[str, Any] = {"style": "normal", "variant": "normal", "stretch": "normal", "size": "scalable"}
            fontManager.ttflist.append(FontEntry(fname=path, name=family, weight=weight, **shape))
        regular.append(Path(spec.origin).parent / weights[400])
    return tuple(regular)


@functools.cache
def printable() -> frozenset[int]:
    """Code points that at least one of the fonts has."""
    return frozenset(code for path in register_fonts() for code in get_font(path).get_charmap())


def label(text: str) -> str:
    """A token for print: line breaks and tabs as signs, one leading space dropped, further ones as ␣. Invisible
    characters and those that no font has become code points."""
    if text.startswith(" ") and text.strip(" ") and not text.startswith("  "):
        text = text[1:]
    if not text.strip(" ") or text.startswith(" "):
        text = text.replace(" ", "␣")
    shown = [SIGNS.get(c, c) for c in text]
    hidden = [unicodedata.category(c)[0] == "C" or ord(c) not in printable() for c in shown]
    return "".join(f"\\u{ord(c):04x}" if hide else c for c, hide in zip(shown, hidden, strict=True))


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def words(name: str) -> str:
    """A name of the configuration as words."""
    return name.replace("_", " ").replace(":", ": ")


def signed(value: float | int) -> str:
    """A number with a minus sign as wide as its digits."""
    return f"{value:g}".replace("-", "−")


@contextmanager
def styled() -> Iterator[None]:
    """Applies the project's style, whatever the user's own settings of matplotlib."""
    register_fonts()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["backend"] = "agg"
        matplotlib.style.use(STYLE)
        yield


def colour(name: Any) -> Any:
    """A colour of the style, by its number in the cycle (`C0`) or the name of a style entry (`axes.edgecolor`)."""
    return mpl.rcParams[name] if "." in name else name


def size(step: float | int = 0) -> float:
    """The style's font size in points, or one relative to it."""
    return mpl.rcParams["font.size"] + step


@functools.cache
def text_width(text: str, points: float, weight: int = 400) -> float:
    """Width of a printed text in inches."""
    if not text:
        return 0.0
    face = FontProperties(family=mpl.rcParams["font.family"], weight=weight)
    return float(_ends(TextPath((0, 0), text, size=points, prop=face)).get_extents().width) / 72


def _ends(path: Outline) -> Outline:
    """Outlines of the first and last letters, which alone may reach a text's left or right end. matplotlib takes long
    for the extents of a curve, and a line of text has about a thousand curves."""
    codes, vertices = np.asarray(path.codes), np.asarray(path.vertices)
    starts = np.flatnonzero(codes == Outline.MOVETO)
    across = vertices[:, 0]
    across = np.where(codes == Outline.CLOSEPOLY, np.roll(across, 1), across)  # the point of this code has no meaning
    # a curve lies between its control points, and an outline goes through its start
    low, high = np.minimum.reduceat(across, starts), np.maximum.reduceat(across, starts)
    kept = (low <= across[starts].min()) | (high >= across[starts].max())
    kept = np.repeat(kept, np.diff(np.append(starts, len(codes))))
    return Outline(vertices[kept], codes[kept])


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with a single invisible axes whose unit is the inch."""
    figure = canvas(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def statement(title: str, text: str) -> Figure:
    """A figure that says in words why there is nothing to show."""
    with styled():
        width = max(3.0, text_width(text, size()) + 0.4)
        figure, axes = blank(width, 0.7)
        axes.text(width / 2, 0.35, text, ha="center", va="center")
    return captioned(figure, title, text)


def canvas(width: float, height: float, **options: Any) -> Figure:
    """An empty figure without a window."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def draw_ridge(
    axes: Axes,
    values: ArrayLike,
    bins: np.ndarray,
    *,
    base: float | int,
    height: float,
    tint: str,
    fill: float,
    line: float,
) -> None:
    """A distribution as a filled curve on a base line: a smoothed histogram whose highest value is `height`; `fill` is the opacity below
    it, `line` the width of the curve."""
    counts = np.convolve(np.histogram(values, bins)[0], [0.25, 0.5, 0.25], mode="same")
    heights = base + height * counts / max(counts.max(), 1e-12)
    centres = (bins[1:] + bins[:-1]) / 2
    axes.fill_between(centres, base, heights, color=tint, alpha=fill, linewidth=0)
    axes.plot(centres, heights, color=tint, linewidth=line)


def captioned(figure: Figure, title: str, text: str) -> Figure:
    """The same figure with its title above it, and a caption that is stored but not drawn."""
    _settle(figure)
    above = figure.transFigure + ScaledTranslation(0, 8 / 72, figure.dpi_scale_trans)
    lines = wrapped(label(title), float(figure.get_figwidth()), size(0.5), BOLD)
    figure.text(0, 1, "\n".join(lines), transform=above, va="bottom", fontsize=size(0.5), weight=BOLD, linespacing=1.25)
    figure.set_label(f"{title}\n{text}")
    return figure


def _settle(figure: Figure) -> None:
    """Lays the figure out once and freezes the layout: a legend outside the axes would otherwise move over a title
    above it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for legend in figure.legends:
        corner = figure.transFigure.inverted().transform(legend.get_window_extent().p0)
        legend.set_loc("lower left")
        legend.set_bbox_to_anchor(tuple(corner), transform=figure.transFigure)


def wrapped(text: str, width: float, points: float, weight: int = 400) -> list[str]:
    """The text in lines of at most `width` inches."""
    lines, left = [], text.split(" ")
    started = left[0].strip()
    while left:
        begun = [started]  # what the line is with one word, with two, ...
        for word in left[1:]:
            begun.append(f"{begun[-1]} {word}".strip())
        count = _words_that_fit(begun, width, points, weight)
        lines.append(begun[count - 1])
        left = left[count:]
        started = left[0] if left else ""
    return lines


def _words_that_fit(begun: list[str], width: float, points: float, weight: int) -> int:
    """How many words a line holds, at least one. To measure a text takes long: it begins where a line of letters half as wide as high
    would end."""

    def fits(words: int) -> bool:
        return not begun[words - 2] or text_width(begun[words - 1], points, weight) <= width

    count = max(1, sum(len(line) <= int(144 * width / points) for line in begun))
    while count > 1 and not fits(count):
        count -= 1
    while count < len(begun) and fits(count + 1):
        count += 1
    return count


def caption(figure: Figure) -> tuple[str, str]:
    """Title and caption of a figure."""
    title, _, text = str(figure.get_label()).partition("\n")
    return title, text


def svg(figure: Figure) -> bytes:
    """The figure as SVG, with its title and caption in the metadata."""
    title, text = caption(figure)
    metadata = {"Title": title, "Description": text, "Date": None, "Creator": None}
    return _saved(figure, "svg", metadata)


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    return _saved(figure, "png", {"Software": None})


def saved(figure: Figure, forms: Iterable[str]) -> dict[str, bytes]:
    """The figure in each of the forms, by name."""
    return {form: {"svg": svg, "png": png}[form](figure) for form in forms}


def _saved(figure: Figure, form: str, metadata: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format=form, metadata=metadata)
    return stream.getvalue()
