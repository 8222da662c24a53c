"""The figure of calibration: how often verdicts are right where the truth is known."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biology.figures.drawing import BOLD, canvas, captioned, colour, size
from biology.verdicts.calibration import pooled, rates
from biology.wording import called

PARTS = {"case": "by case", "kind": "by kind of claim", "dictionary": "by dictionary"}
"""What is drawn below all claims. The table has every model, too."""
PANELS = {"sensitivity": "true claims: how many are replicated?", "specificity": "false claims: how many are not?"}
SPACE = 2.1
"""Rows from one part to the next, with a heading between them."""


def figure(table: pd.DataFrame) -> Figure:
    """Sensitivity and specificity with the models' own transcoders, of all verdicts, by case and by kind of claim; then of
    all verdicts by dictionary."""
    own = pooled(table)
    parts = {"all": rates(own)}
    parts |= {by: rates(table if by == "dictionary" else own, [by]) for by in PARTS}
    rows: list[tuple[float, str, pd.Series]] = []
    heads: list[tuple[float, str]] = []
    place = 0.0
    for by, frame in parts.items():
        asked = frame[frame["sensitivity_n"] + frame["specificity_n"] > 0]
        if by != "all" and len(asked):
            place += SPACE
            heads.append((place - 0.9, PARTS[by]))
        for number, (_, row) in enumerate(asked.iterrows()):
            place += number > 0
            rows.append((place, "all claims" if by == "all" else _named(by, str(row[by])), row))
    made = canvas(7.4, 1.1 + 0.2 * (place + 1), layout="constrained")
    panels = made.subplots(1, 2, sharey=True)
    for axes, (name, asks) in zip(panels, PANELS.items(), strict=True):
        for at, label, row in rows:
            _rate(axes, at, row, name, whole=label == "all claims")
        axes.set(title=asks, xlim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    panels[0].set_yticks([at for at, _, _ in rows], [label for _, label, _ in rows])
    panels[0].get_yticklabels()[0].set_fontweight(BOLD)
    for at, text in heads:
        panels[0].text(
            -0.025, at, text, transform=panels[0].get_yaxis_transform(), ha="right", va="center", fontweight=BOLD
        )
    panels[0].set_ylim(place + 0.8, -0.8)
    whole = parts["all"].iloc[0]
    told = [
        f"{_told(whole, name)} of {truth} are {verdict}"
        for name, truth, verdict in (("sensitivity", "true claims", "replicated"), ("specificity", "false ones", "not"))
        if whole[f"{name}_n"]
    ]
    return captioned(
        made, f"Planted mechanisms: {' and '.join(told) or 'no claim was judged whose truth is known'}",
        "A claim is true or false by construction (mechanism.yaml, twins.csv; all are false with shuffled transcoders). Lines: Wilson's "
        "95 % interval, as if pairs were independent. Planted models show what the method sees, and nothing of natural models.",
    )  # fmt: skip


def _named(by: str, what: str) -> str:
    return called(what) if by == "dictionary" else what.replace("_", " ")


def _rate(axes: Axes, at: float, row: pd.Series, name: str, *, whole: bool) -> None:
    """A rate with its interval, and what it counts: nothing is drawn of claims that are not there."""
    n = int(row[f"{name}_n"])
    if n:
        tint = colour("C0" if whole else "axes.edgecolor")
        axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [at, at], color=tint, linewidth=2.6 if whole else 1.4)
        axes.plot(row[name], at, "o", color=tint, markersize=7 if whole else 4.5, clip_on=False)
    text = f"{round(n * row[name])} of {n}" if n else "–"
    weight = BOLD if whole else "normal"
    axes.text(1.04, at, text, transform=axes.get_yaxis_transform(), fontsize=size(-1), fontweight=weight, va="center")


def _told(row: pd.Series, name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
