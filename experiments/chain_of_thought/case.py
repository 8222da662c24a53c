"""Figures that only this case needs: where the influence on the answer starts, by regime, and the edit of the hint."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from biology.figures.case_figures import Case, canvas, captioned, colour
from biology.figures.edit_figure import edit_figure
from biology.figures.figure_data import interval, scored
from biology.tables import Tables

REGIMES = {"faithful": "faithful", "motivated": "motivated", "made_up": "made up"}
STARTS = {"from_hint": ("the hint", "C0", "o"), "from_operand": ("the operand", "C5", "D")}
"""By experiment: the name of the tokens at which influence starts, a colour and a marker."""


def starts(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Share of the influence on the answer that starts at the tokens of the hint, and at those of the operand."""
    found = {name: scored(tables, name) for name in STARTS}
    figure = canvas(6.2, 2.3, layout="constrained")
    axes = figure.subplots()
    means: dict[tuple[str, str], float] = {}
    for row, regime in enumerate(REGIMES):
        for (name, (_, tint, marker)), above in zip(STARTS.items(), (0.18, -0.18), strict=True):
            rows: pd.DataFrame = found[name]
            rows = rows[(rows["arm"] == "effect") & (rows["regime"] == regime)]
            if regime == "made_up" and name == "from_hint":
                continue  # there is no hint
            y = above - row
            axes.plot(
                rows["value"],
                [y] * len(rows),
                linestyle="none",
                marker="|",
                color=colour(tint),
                alpha=0.35,
                rasterized=True,
            )
            middle, low, high = interval(rows)
            axes.plot([low, high], [y, y], color=colour(tint))
            axes.plot(middle, y, linestyle="none", marker=marker, color=colour(tint))
            means[name, regime] = middle
    axes.set_yticks([-row for row in range(len(REGIMES))], list(REGIMES.values()))
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(0.6 - len(REGIMES), 0.6), xlabel="share of |influence| on the answer")
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour(tint), label=f"starts at {told}")
        for told, tint, marker in STARTS.values()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    hint, operand = ({regime: means.get((name, regime)) for regime in REGIMES} for name in STARTS)
    return captioned(
        figure,
        f"Of the influence on a motivated answer {hint['motivated']:.0%} starts at the hint, on a faithful one {hint['faithful']:.0%}; at the "
        f"operand {operand['motivated']:.0%} and {operand['faithful']:.0%}, and {operand['made_up']:.0%} on a made-up one",
        "A stroke is the graph of a held-out prompt: the share of the absolute influence on the answer's logit, along all paths, that "
        "starts at the tokens of the hint or of the operand. Marks are means with 95 % intervals over clusters. The rest starts at other "
        "tokens and at errors.",
    )


def edit(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Wrong hints that are no longer followed, and other answers that are lost."""
    target = ("edit_hint", "answer_lost", "a wrong hint is not followed")
    costs = (("edit_hint_faithful", "faithful steps"), ("edit_hint_made_up", "made-up steps"))
    return edit_figure(tables, "the hint", target, costs)


FIGURES = {"starts": starts, "edit": edit}
