"""A case on one sheet, as a talk would show it: the paper's arrows with this model's shares, the paper's best-known
intervention beside its control, and the verdicts.

It shows what the first screen of the case's page shows (`story.py`), in the look of the figures.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline

from biology.cases.case_file import OUTPUT
from biology.cases.claim_file import Claim
from biology.figures.drawing import BOLD, blank, captioned, colour, label, sentence, size, text_width, wrapped
from biology.findings.sketch import LINE, NOTHING, THICKEST, Box, curves, mark
from biology.findings.story import Story
from biology.wording import MARKS, percent

WIDTH = 9.6
COLUMN = 5.0
"""Inches from the left at which the intervention and the verdicts begin."""
PIXEL = 1 / 88
"""Inches of a pixel of the sketch."""
ROW = 0.215
BAR = 1.5
"""Inches of a probability of 1."""
TINTS = {"replicated": "C2", "not replicated": "C1", "inconclusive": "C4", "untestable": "axes.edgecolor"}


def sheet(title: str, model: str, told: Story, claims: Sequence[Claim], verdicts: Mapping[str, str]) -> Figure:
    """The sheet of the case with this title. `verdicts` holds the verdict of each claim by its id."""
    graph = max(box.y + box.height / 2 for box in told.boxes.values()) * PIXEL
    height = max(graph + 0.2, (1.45 if told.shown else 0.3) + ROW * (len(claims) + 1))
    figure, axes = blank(WIDTH, height)
    _graph(axes, told, height)
    below = _intervention(axes, told, height - 0.1)
    _verdicts(axes, claims, verdicts, below - 0.15)
    replicated = sum(verdict == "replicated" for verdict in verdicts.values())
    return captioned(
        figure,
        f"{sentence(title)}: {model} replicates {replicated} of {len(verdicts)} claims",
        "Left, the arrows that the paper draws. The number of an arrow is its share of all direct effects into its target, "
        f"in this model's graph of “{told.traced}”; what was not found is dashed. Right, what the model says on one prompt: by itself, with the "
        "intervention, and with as many other features pushed as hard. Below, the verdict of every claim.",
    )


def _graph(axes: Axes, told: Story, height: float) -> None:
    """The sketch of the page, centred in its half of the sheet."""
    boxes = told.boxes.values()
    left = min(box.x - box.width / 2 for box in boxes)
    right = max(box.x + box.width / 2 for box in boxes)
    scale = min(PIXEL, (COLUMN - 0.5) / (right - left))
    shift = (COLUMN - 0.3 - (right - left) * scale) / 2 - left * scale

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return shift + point[0] * scale, height - point[1] * scale

    taken: list[tuple[float, float]] = []
    for arrow, curve in curves(told.boxes, list(told.shares)).items():
        share = told.shares[arrow]
        found = abs(share) >= NOTHING
        tint = colour("axes.edgecolor") if not found else "C0" if share > 0 else "C1"
        width = 0.8 + 5.0 * min(abs(share), THICKEST) / THICKEST
        ends = [at(point) for point in curve]
        path = Outline(ends, [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4])
        look = {"linewidth": width, "edgecolor": tint, "alpha": 0.75, "linestyle": "-" if found else (0, (3, 2))}
        axes.add_patch(PathPatch(path, fill=False, capstyle="butt", **look))
        x, y = ends[3]
        axes.add_patch(Polygon([(x - 0.055, y), (x, y + 0.08), (x + 0.055, y)], facecolor=tint, edgecolor="none"))
        place = mark(curve, told.boxes, taken)
        taken.append(place)
        text = axes.text(
            *at(place), f"{'+' if share >= 0 else ''}{percent(share)}", ha="center", va="center", color=tint
        )
        text.set(fontsize=size(0), weight=BOLD, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    for name, box in told.boxes.items():
        _box(axes, box, at((box.x, box.y)), scale, output=name == OUTPUT, missing=name in told.missing)


def _box(axes: Axes, box: Box, middle: tuple[float, float], scale: float, *, output: bool, missing: bool) -> None:
    width, height = box.width * scale, box.height * scale
    ink = colour("axes.edgecolor") if missing else colour("text.color")
    corner = (middle[0] - width / 2, middle[1] - height / 2)
    look = {"facecolor": "white", "edgecolor": ink, "linewidth": 1.5 if output else 0.9, "zorder": 3}
    style = "round,pad=0,rounding_size=0.09"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, linestyle="--" if missing else "-", **look))
    for rank, line in enumerate(box.lines):
        y = middle[1] + ((len(box.lines) - 1) / 2 - rank) * LINE * scale
        axes.text(
            middle[0], y, label(line), ha="center", va="center", color=ink, fontsize=size(2), weight=BOLD, zorder=4
        )


def _intervention(axes: Axes, told: Story, top: float) -> float:
    """What is said by itself, with the intervention and with its control. Returns the height at which it ends."""
    if told.shown is None:
        return top
    y = top
    for text, weight in ((told.shown["prompt"], 400), (f"{sentence(told.shown['does'])}:", BOLD)):
        for line in wrapped(label(text), WIDTH - COLUMN - 0.1, size(0), weight):
            axes.text(COLUMN, y, line, va="top", fontsize=size(0), weight=weight)
            y -= 0.17
    y -= 0.05
    rows = (
        ("before", "by itself", "axes.edgecolor"),
        ("after", "with it", "C0"),
        ("control", "control", "axes.edgecolor"),
    )
    for key, words, tint in rows:
        said = told.shown[key]
        if said is None:
            continue
        text, share = said
        axes.text(COLUMN, y - 0.09, words, va="center", fontsize=size(0), color=colour("axes.edgecolor"))
        axes.add_patch(
            Rectangle((COLUMN + 0.62, y - 0.16), BAR * share, 0.14, facecolor=colour(tint), alpha=0.85, linewidth=0)
        )
        axes.text(COLUMN + 0.7 + BAR, y - 0.09, percent(share), va="center", fontsize=size(0))
        axes.text(
            COLUMN + 1.2 + BAR,
            y - 0.09,
            f"“{label(_cut(text, WIDTH - COLUMN - 1.45 - BAR, size(0)))}”",
            va="center",
            fontsize=size(0),
            weight=BOLD,
        )
        y -= ROW
    return y


def _verdicts(axes: Axes, claims: Sequence[Claim], verdicts: Mapping[str, str], top: float) -> None:
    points = size(-0.5)
    for row, claim in enumerate(claims):
        verdict = verdicts[claim.id]
        y = top - row * ROW
        axes.text(COLUMN, y, MARKS[verdict], va="center", fontsize=size(1), weight=BOLD, color=colour(TINTS[verdict]))
        title = _cut(claim.title, WIDTH - COLUMN - 0.35, points)
        axes.text(COLUMN + 0.22, y, label(title), va="center", fontsize=points)
    key = "    ".join(f"{sign} {verdict}" for verdict, sign in MARKS.items())
    y = top - len(claims) * ROW
    axes.text(COLUMN, y, key, va="center", fontsize=size(-1), color=colour("axes.edgecolor"))


def _cut(text: str, width: float, points: float) -> str:
    """The text, or as many of its words as fit, and an ellipsis."""
    kept = text
    while kept and text_width(kept if kept == text else f"{kept} …", points) > width:
        kept = kept.rpartition(" ")[0]
    return text if kept == text else f"{kept} …"
