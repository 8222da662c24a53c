"""How many features a dictionary finds as their number grows beyond the width (table `superposition`), and the claim
about it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from biology.figures.drawing import canvas, captioned, colour
from biology.statistics import wilson

ASKED = 4.0
"""Features per dimension at which the claim is judged (`experiments/superposition/README.md`)."""
NEEDED = 0.8
"""Smallest share of the features kept by the toy models that must be found, by the lower bound of its interval."""
LINES = {
    "found": ("a dictionary", "C0", "o"),
    "found_components": ("principal components", "C1", "^"),
    "found_random": ("random directions", "axes.edgecolor", "s"),
}


def share(table: pd.DataFrame, column: str, per_dimension: float) -> tuple[float, float, float]:
    """Of the features kept by toy models of one size, all seeds together, the share that is found, with Wilson's
    interval."""
    rows = table[table["features"] == per_dimension * table["dimensions"]]
    return wilson(int(rows[column].sum()), int(rows["kept"].sum()))


def verdict(table: pd.DataFrame) -> str:
    """`replicated`, `not replicated` or `inconclusive`, from the interval of the share found at `ASKED`, beyond the
    better control."""
    _, low, high = share(table, "found", ASKED)
    control = max(share(table, column, ASKED)[0] for column in ("found_components", "found_random"))
    if low - control >= NEEDED:
        return "replicated"
    return "not replicated" if high - control < NEEDED / 2 else "inconclusive"


def figure(table: pd.DataFrame) -> Figure:
    """The share found by the number of features per dimension, with its controls and the share that toy models keep."""
    made = canvas(4.6, 3.0, layout="constrained")
    axes = made.subplots()
    sizes = sorted(set(table["features"] / table["dimensions"]))
    for column, (name, tint, marker) in LINES.items():
        mean, low, high = zip(*(share(table, column, size) for size in sizes), strict=True)
        axes.fill_between(sizes, low, high, color=colour(tint), alpha=0.2, linewidth=0)
        axes.plot(sizes, mean, marker=marker, markersize=4, color=colour(tint), label=name)
    axes.axvline(1, color=colour("text.color"), linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set(xlabel="features of each dimension", ylabel="found, of those that the toy keeps", ylim=(-0.03, 1.03))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="center right")
    mean, low, high = share(table, "found", ASKED)
    best = max(share(table, column, ASKED)[0] for column in ("found_components", "found_random"))
    toys = table["seed"].nunique()
    return captioned(
        made,
        f"With {ASKED:g} features in each dimension a dictionary finds {mean:.0%} of them [{low:.0%}, {high:.0%}], the better control {best:.0%}: "
        f"{verdict(table)} ({NEEDED:.0%} needed)",
        f"Toys of superposition with {int(table['dimensions'].iat[0])} dimensions, {toys} of each size: sparse features are written into few dimensions "
        "and read back. A dictionary is trained on what is written alone; a feature is found if a direction is nearly "
        "its own. Bands are 95 % intervals (Wilson). The dotted line is where there are as many features as dimensions.",
    )
