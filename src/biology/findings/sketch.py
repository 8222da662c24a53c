"""A small graph of named boxes as SVG in the colours of a page, so that two of them fit side by side.

Tokens are ordered to the right and steps upwards, as in the figures. Labels break into two lines so that a picture fits half a
page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from markupsafe import Markup, escape

from biology.figures.graph_arrows import side_by_side
from biology.figures.graph_layout import spread
from biology.wording import percent, visible

LETTER, LINE, PAD, GAP, ROW = 7.0, 15.0, 12.0, 12.0, 82.0
"""Pixels: width of a letter, height of a line of text, padding left and right of it, gap between boxes, distance between
rows."""
WIDTH = 400.0
LONGEST = 13
"""Largest number of letters of a label on one line."""
THICKEST = 0.4
"""Share of a target's input above which arrows get no thicker."""
NOTHING = 0.005
"""Share below which an arrow is drawn as missing."""
BENDS = sorted(
    product((0.0, 45.0, -45.0, 90.0, -90.0, 140.0, -140.0), repeat=2), key=lambda two: abs(two[0]) + abs(two[1])
)
MARKS = (0.5, 0.62, 0.38, 0.74, 0.26, 0.84)
"""Points along an arrow, from its source on, at which its share may be written."""
MARK = 21.0
"""Half the printed width of a share."""

Arrow = tuple[str, str]
Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class Box:
    """A node; (`x`, `y`) is its centre, in pixels from the upper left."""

    lines: tuple[str, ...]
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return max(map(_length, self.lines)) * LETTER + 2 * PAD

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 12

    def holds(self, x: float, y: float, margin: float = 0.0) -> bool:
        return abs(x - self.x) < self.width / 2 + margin and abs(y - self.y) < self.height / 2 + margin


def boxes(arrows: Sequence[Arrow], labels: Mapping[str, str], place: Mapping[str, float]) -> dict[str, Box]:
    """The boxes at the ends of arrows that form no circle, each in a row above all boxes that lead to it.

    Args:
        labels: the text of a box; by default its name.
        place: order of boxes from left to right, in any unit (token positions); boxes without a place go to the right end.
    """
    inside = list(dict.fromkeys(one for arrow in arrows for one in arrow))
    row = dict.fromkeys(inside, 0)
    for _ in inside:
        for source, target in arrows:
            row[target] = max(row[target], row[source] + 1)
    known = [place[name] for name in inside if name in place] or [0.0]
    low, reach = min(known), max(max(known) - min(known), 1e-9)
    top, made = max(row.values()), {}
    for level in range(top + 1):
        here = [name for name in inside if row[name] == level]
        bare = [Box(_lines(visible(labels.get(name, name.replace("_", " "))))) for name in here]
        wanted = [WIDTH * (0.15 + 0.7 * (place.get(name, low + reach) - low) / reach) for name in here]
        middles = spread(wanted, [box.width for box in bare], 0.0, WIDTH, GAP)
        for name, box, x in zip(here, bare, middles, strict=True):
            made[name] = replace(box, x=x, y=30 + ROW * (top - level))
    return made


def picture(
    made: Mapping[str, Box],
    arrows: Mapping[Arrow, float | None],
    spoken: str,
    output: str = "",
    absent: Collection[str] = (),
) -> Markup:
    """Boxes and arrows as SVG. An arrow with a share has a thickness to match, and its share written on it; a missing arrow is
    dashed.

    Args:
        spoken: description of the picture for screen readers; its arrows are added.
        output: the box that is drawn as the output.
        absent: boxes for which nothing was found.
    """
    parts, marks, taken = [], [], []
    ways = curves(made, list(arrows))
    for arrow, share in sorted(arrows.items(), key=lambda pair: -abs(pair[1] or 0.0)):
        curve = ways[arrow]
        kind = "told" if share is None else "none" if abs(share) < NOTHING else "plus" if share > 0 else "minus"
        size = 0.25 if share is None else min(abs(share), THICKEST) / THICKEST
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = ((round(x), round(y)) for x, y in curve)
        parts.append(
            f'<path class="{kind}" d="M{x0} {y0}C{x1} {y1} {x2} {y2} {x3} {y3}" stroke-width="{1.2 + 5.5 * size:.1f}"/>'
            f'<path class="{kind} head" d="M{x3 - 5} {y3}L{x3} {y3 - 7}L{x3 + 5} {y3}Z"/>'
        )
        if share is not None:
            x, y = mark(curve, made, taken)
            taken.append((x, y))
            sign = "+" if kind == "plus" else ""
            marks.append(f'<text class="mark" x="{x:.0f}" y="{y + 4:.0f}">{sign}{percent(share)}</text>')
    for name, box in made.items():
        x, y, kind = box.x - box.width / 2, box.y - box.height / 2, "gone" if name in absent else ""
        kind = "output" if name == output else kind
        first = box.y - (len(box.lines) - 1) * LINE / 2 + 4.5
        parts.append(
            f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{box.width:.0f}" height="{box.height}" rx="9"/>'
        )
        parts += [
            f'<text class="{kind}" x="{box.x:.0f}" y="{first + LINE * rank:.0f}">{escape(line)}</text>'
            for rank, line in enumerate(box.lines)
        ]
    reach = [_at(curve, step / 20)[0] for curve in ways.values() for step in range(21)]
    reach += [box.x + side * box.width / 2 for box in made.values() for side in (-1, 1)]
    reach = [min(reach) - MARK, max(reach) + MARK]  # room for shares, so that a picture without them has the same width
    left, width = min(reach) - 4, max(reach) - min(reach) + 8
    height = max(box.y + box.height / 2 for box in made.values()) + 4
    told = "; ".join(
        f"{' '.join(made[a].lines)} to {' '.join(made[b].lines)}" + ("" if share is None else f" {percent(share)}")
        for (a, b), share in arrows.items()
    )
    return Markup(
        f'<svg class="sketch" viewBox="{left:.0f} 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(f"{spoken}: {told}")}">{"".join(parts)}{"".join(marks)}</svg>'
    )


def _length(text: str) -> int:
    """Number of letters of a text; East Asian ones count double."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _lines(text: str) -> tuple[str, ...]:
    """A label on one line, or on two lines of about equal length."""
    words = text.split(" ")
    if _length(text) <= LONGEST or len(words) == 1:
        return (text,)
    cuts = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
    return min(cuts, key=lambda pair: max(map(_length, pair)))


def curves(made: Mapping[str, Box], arrows: Sequence[Arrow]) -> dict[Arrow, Curve]:
    """The curve of each arrow, bent no more than needed to pass beside the boxes in between."""
    starts, ends = (_ports(made, arrows, end) for end in (0, 1))
    found = {}
    for arrow in arrows:
        source, target = (made[name] for name in arrow)
        others = [box for name, box in made.items() if name not in arrow]
        y0, y1 = source.y - source.height / 2, target.y + target.height / 2 + 7
        pull = 0.5 * (y0 - y1)
        ways = [
            ((starts[arrow], y0), (starts[arrow] + a, y0 - pull), (ends[arrow] + b, y1 + pull), (ends[arrow], y1))
            for a, b in BENDS
        ]
        hidden = [sum(box.holds(*_at(way, step / 20), 4.0) for step in range(1, 20) for box in others) for way in ways]
        found[arrow] = ways[hidden.index(min(hidden))]
    return found


def _ports(made: Mapping[str, Box], arrows: Sequence[Arrow], end: int) -> dict[Arrow, float]:
    """Where each arrow leaves its source (end 0) or enters its target (1), side by side in the order of the boxes at the other
    end."""
    places = {}
    for name, box in made.items():
        here = sorted((arrow for arrow in arrows if arrow[end] == name), key=lambda arrow: made[arrow[1 - end]].x)
        places |= zip(here, side_by_side(box.x, len(here), 0.6 * box.width, 26.0), strict=True)
    return places


def _at(curve: Curve, t: float) -> tuple[float, float]:
    """The point of a cubic Bezier curve at 0 <= t <= 1."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x, y = (sum(weight * point[axis] for weight, point in zip(weights, curve, strict=True)) for axis in (0, 1))
    return x, y


def mark(curve: Curve, made: Mapping[str, Box], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where the share of an arrow is most legible: away from all boxes and from shares already placed."""

    def crowding(t: float) -> int:
        x, y = _at(curve, t)
        near = sum(abs(x - a) < 2 * MARK and abs(y - b) < 14 for a, b in taken)
        return 2 * near + 3 * sum(box.holds(x, y, 8.0) for box in made.values())

    return _at(curve, min(MARKS, key=crowding))
