"""Measures of a case, one per row: means over held-out prompts with their intervals, and their controls."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from biology.figures.drawing import colour
from biology.figures.figure_data import ARM, arm_style, interval, scored
from biology.tables import Tables


def measure_rows(figure: Figure, tables: Tables, rows: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str], float]:
    """Draws a row for each (experiment, outcome, words); returns the mean of each (outcome, arm)."""
    axes = figure.subplots()
    means: dict[tuple[str, str], float] = {}
    for place, (experiment, outcome, _) in enumerate(rows):
        found = scored(tables, experiment)
        found = found[found["outcome"] == outcome]
        for number, arm in enumerate(one for one in ARM if one in set(found["arm"])):
            mean, low, high = interval(found[found["arm"] == arm])
            height = -place - 0.24 * number
            named = any(arm == other for _, other in means)
            axes.plot([low, high], [height] * 2, color=arm_style(arm)["color"], linewidth=1.4)
            axes.plot(mean, height, linestyle="none", label=None if named else ARM[arm][0], **arm_style(arm))
            means[outcome, arm] = mean
    axes.axvline(0, color=colour("text.color"), linewidth=0.8)
    axes.set_yticks([-place for place in range(len(rows))], [words for *_, words in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean over held-out prompts")
    figure.legend(loc="outside lower center", ncols=3)
    return means
