"""The figure of sites taken apart. For each supernode of a true claim that is missed: how often the model gives the donor's answer when
one part of the supernode's site is exchanged."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from biology.figures.drawing import canvas, captioned, colour, size, statement

PARTS = {
    "mlp": ("MLPs", "axes.edgecolor", "D"),
    "features": ("features", "C0", "o"),
    "members": ("members", "C1", "s"),
    "others": ("others", "C2", "^"),
}


def figure(table: pd.DataFrame) -> Figure:
    """One row for each model and supernode (column `model` and those of table `site_parts`) at which something is at fault, the parts
    as dots with intervals."""
    measured = table[table["accuracy"].notna()]
    if measured.empty:
        return statement("Sites taken apart", "no site that a missed true claim rests on was taken apart")
    at_fault = measured[measured["fault"] != "none"]
    if at_fault.empty:
        return statement("Sites taken apart", title_of(measured))
    rows = [rest for _, rest in at_fault.groupby(["model", "supernode"], sort=False)]
    made = canvas(6.4, 0.9 + 0.28 * len(rows), layout="constrained")
    axes = made.subplots()
    labels = []
    for number, (part, (name, tint, marker)) in enumerate(PARTS.items()):
        found = [rest[rest["arm"] == part].iloc[0] for rest in rows]
        places = [place + 0.15 * (number - 1.5) for place in range(len(rows))]
        axes.hlines(
            places, [row["low"] for row in found], [row["high"] for row in found], color=colour(tint), linewidth=1.2
        )
        axes.plot(
            [row["accuracy"] for row in found], places, linestyle="", marker=marker, markersize=3.6, color=colour(tint), label=name,
            clip_on=False,
        )  # fmt: skip
    for place, rest in enumerate(rows):
        labels.append(f"{rest['model'].iat[0]}: {rest['supernode'].iat[0]}".replace("_", " "))
        word = str(rest["fault"].iat[0])
        axes.text(1.03, place, word, transform=axes.get_yaxis_transform(), fontsize=size(), va="center")
    axes.set_yticks(range(len(rows)), labels)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1), xticks=[0, 0.5, 1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handletextpad=0.3, columnspacing=1.0)
    return captioned(
        made,
        title_of(measured),
        "Supernodes that the deciding parts of missed true claims hold, with their models; those of which no part is at fault are left out. At the site that a search found on development "
        "prompts, or at which the variable was planted, one part after another of what the MLPs write is exchanged on held-out prompts for the mean of donors of another level: "
        "the share of prompts that follow. Lines are 95 % intervals over clusters. On the right: the first part that loses the variable.",
    )


def title_of(measured: pd.DataFrame) -> str:
    """Where the sites lose the variable."""
    words = measured.drop_duplicates(["model", "supernode"])["fault"].value_counts(sort=True)
    return f"Faults: {', '.join(f'{word} {count}' for word, count in words.items())}"
