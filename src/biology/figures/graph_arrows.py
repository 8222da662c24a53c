"""The arrows of a simplified attribution graph: curves from box to box that avoid the boxes between.

All lengths are inches, the origin is the lower left corner.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float

BENDS = (0.0, 0.3, -0.3, 0.6, -0.6, 1.0, -1.0, 1.5, -1.5)


STRAIGHTEST = sorted(product(BENDS, repeat=2), key=lambda bend: (abs(bend[0]) + abs(bend[1]), -bend[0]))
"""Sideways pulls at the two ends of an arrow, ordered from the straightest to the most bent."""


@dataclass(frozen=True)
class Box:
    """A supernode, a token of the prompt or an output; (`x`, `y`) is its centre."""

    name: str
    kind: str
    text: str
    note: str
    x: float
    y: float
    width: float
    height: float
    features: int = 0


@dataclass(frozen=True)
class Arrow:
    """An edge: its signed share of all direct effects into its target, the four points of its cubic curve, and the
    point along it (0 to 1) at which the share is written."""

    source: str
    target: str
    share: float
    curve: tuple[tuple[float, float], ...]
    mark: float = 0.5


def routed(edges: pd.DataFrame, boxes: Mapping[str, Box]) -> list[Arrow]:
    """Curves from the source to the target that avoid the boxes in between.

    Ends on the same side of a box are ordered first by where the edges come from, then by the way they bend.
    """
    pairs = list(zip(edges["source"].astype(str), edges["target"].astype(str), strict=True))
    bends: dict[tuple[str, str], tuple[float, float]] = {}
    ports = _ports(pairs, boxes, {(s, t): (boxes[t].x, boxes[s].x) for s, t in pairs})
    for source, target in pairs:
        obstacles = [box for box in boxes.values() if box.name not in (source, target)]
        least = None
        for bend in STRAIGHTEST:
            hidden = _overlap(_curve(boxes[source], boxes[target], ports[source, target], bend), obstacles)
            if least is None or hidden < least:
                least, bends[source, target] = hidden, bend
            if not hidden:
                break
    leaning = {pair: (boxes[pair[1]].x + 4 * bend[0], boxes[pair[0]].x + 4 * bend[1]) for pair, bend in bends.items()}
    ports = _ports(pairs, boxes, leaning)
    curves = [_curve(boxes[s], boxes[t], ports[s, t], bends[s, t]) for s, t in pairs]
    arrows = [
        Arrow(*pair, float(share), curve) for pair, share, curve in zip(pairs, edges["share"], curves, strict=True)
    ]
    return _marked(arrows, list(boxes.values()))


def _ports(
    pairs: Sequence[tuple[str, str]], boxes: Mapping[str, Box], keys: Mapping[tuple[str, str], tuple[float, float]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Where each edge leaves its source and enters its target. On each side of a box, edges are next to each other in
    the order of their keys."""
    places: dict[tuple[str, str], list[float]] = {pair: [0.0, 0.0] for pair in pairs}
    sides: dict[tuple[str, bool], list[tuple[tuple[str, str], int]]] = {}
    for pair in pairs:
        up = _goes_up(boxes[pair[0]], boxes[pair[1]])
        for end in (0, 1):
            sides.setdefault((pair[end], up == (end == 0)), []).append((pair, end))
    for (name, _), ends in sides.items():
        here = sorted(ends, key=lambda one: keys[one[0]][one[1]])
        along = side_by_side(boxes[name].x, len(here), 0.62 * boxes[name].width, 0.17)
        for (pair, end), x in zip(here, along, strict=True):
            places[pair][end] = x
    return {pair: (start, end) for pair, (start, end) in places.items()}


def side_by_side(centre: float, count: int, room: float, gap: float) -> list[float]:
    """Places next to each other about a centre, a `gap` apart or as far as the `room` allows."""
    wide = min(room, gap * (count - 1))
    return [centre + wide * (rank / (count - 1) - 0.5) for rank in range(count)] if count > 1 else [centre] * count


def _goes_up(source: Box, target: Box) -> bool:
    """Whether an edge follows the order of rows: it then leaves at the top and enters at the bottom; otherwise the
    reverse."""
    return target.y > source.y


def _curve(
    source: Box, target: Box, port: tuple[float, float], bend: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    up = 1 if _goes_up(source, target) else -1
    y0, y1 = source.y + up * source.height / 2, target.y - up * (target.height / 2 + 0.02)
    pull = up * 0.55 * abs(y1 - y0)
    return (port[0], y0), (port[0] + bend[0], y0 + pull), (port[1] + bend[1], y1 - pull), (port[1], y1)


def _marked(arrows: Sequence[Arrow], boxes: Sequence[Box]) -> list[Arrow]:
    """The same arrows, with their shares written where they hide neither a box nor each other; strong arrows choose
    first."""
    places: dict[int, float] = {}
    taken: list[tuple[float, float]] = []
    for index in sorted(range(len(arrows)), key=lambda i: -abs(arrows[i].share)):

        def crowding(t: float, curve: tuple[tuple[float, float], ...] = arrows[index].curve) -> float:
            x, y = points(curve, [t])[0]
            near = sum(max(0.0, 1 - abs(x - a) / 0.34) * max(0.0, 1 - abs(y - b) / 0.14) for a, b in taken)
            inside = sum(abs(x - b.x) < b.width / 2 + 0.12 and abs(y - b.y) < b.height / 2 + 0.06 for b in boxes)
            return 4 * near + 4 * inside + abs(t - 0.5)

        places[index] = min((0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82), key=crowding)
        taken.append(tuple(points(arrows[index].curve, [places[index]])[0]))
    return [replace(arrow, mark=places[index]) for index, arrow in enumerate(arrows)]


def points(curve: Sequence[tuple[float, float]], t: Sequence[float] | np.ndarray) -> Float[np.ndarray, "t 2"]:
    """The points of a cubic Bezier curve at 0 <= t <= 1."""
    t = np.asarray(t, dtype=float)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return (weights[:, :, None] * np.array(curve)).sum(1)


def _overlap(curve: Sequence[tuple[float, float]], obstacles: Sequence[Box], margin: float = 0.05) -> int:
    """How many of 39 points of a curve are behind a box, or too close to one."""
    places = points(curve, np.linspace(0, 1, 41)[1:-1])[:, None]
    middle = np.array([(box.x, box.y) for box in obstacles]).reshape(-1, 2)
    reach = np.array([(box.width, box.height) for box in obstacles]).reshape(-1, 2) / 2 + margin
    return int((np.abs(places - middle) < reach).all(-1).sum())
