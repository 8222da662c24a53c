"""The figure of calibration: how often verdicts are right where the truth is known."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from biology.figures.drawing import canvas, captioned, colour, size
from biology.verdicts.calibration import GROUPS, pooled, rates


def figure(table: pd.DataFrame) -> Figure:
    """Sensitivity and specificity with the models' own transcoders, of all verdicts and by case and kind of claim; then of
    all verdicts by dictionary and by model."""
    own = pooled(table)
    parts = [("all", rates(own))]
    parts += [(by, rates(own if by in ("case", "kind") else table, [by])) for by in GROUPS]
    rows = [
        (part, "all claims" if part == "all" else str(row[part]), row)
        for part, frame in parts
        for _, row in frame[frame["sensitivity_n"] + frame["specificity_n"] > 0].iterrows()
    ]
    made = canvas(7.4, 1.1 + 0.2 * (len(rows) + len(parts)), layout="constrained")
    panels = made.subplots(1, 2, sharey=True)
    places, place, last = [], 0.0, "all"
    for part, _, _ in rows:
        place += 1.0 if part == last else 1.6
        places.append(place)
        last = part
    for axes, name, meaning in zip(
        panels,
        ("sensitivity", "specificity"),
        ("true claims that are replicated", "false claims that are not"),
        strict=True,
    ):
        for at, (part, _, row) in zip(places, rows, strict=True):
            n = int(row[f"{name}_n"])
            if n:
                tint = colour("C0" if part == "all" else "axes.edgecolor")
                axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [at, at], color=tint, linewidth=1.4)
                axes.plot(row[name], at, "o", color=tint, markersize=4.5, clip_on=False)
            axes.text(1.03, at, f"{n}", transform=axes.get_yaxis_transform(), fontsize=size(-1), va="center")
        axes.set(title=f"{name}: {meaning}", xlim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.text(1.03, 1.0, "n", transform=axes.transAxes, fontsize=size(-1), va="bottom")
    panels[0].set_yticks(places, [label for _, label, _ in rows])
    panels[0].set_ylim(places[-1] + 0.8, places[0] - 0.8)
    whole = parts[0][1].iloc[0]
    told = [
        f"{_told(whole, name)} of the claims that are {truth} are {verdict}"
        for name, truth, verdict in (
            ("sensitivity", "true", "replicated"), ("specificity", "false", "not replicated"),
        )
        if whole[f"{name}_n"]
    ]  # fmt: skip
    return captioned(
        made, f"Planted mechanisms: {', '.join(told) or 'no claim was judged whose truth is known'}",
        "A claim is true or false by construction (mechanism.yaml, twins.csv; all are false with shuffled transcoders). Lines: Wilson's "
        "95 % interval, as if pairs were independent. Planted models show what the method sees, and nothing of natural models.",
    )  # fmt: skip


def _told(row: pd.Series, name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
