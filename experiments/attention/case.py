"""The figure that only this case needs: what is lost when scores are changed, beside its control."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from biology.figures.case_figures import Case, canvas, captioned, colour
from biology.figures.figure_data import interval, scored
from biology.tables import Tables

CHANGES = {
    ("keys", "scaled"): "title and first name\nscaled in the keys",
    ("title_alone", "scaled"): "title alone",
    ("first_alone", "scaled"): "first name alone",
    ("keys", "pairs"): "largest pairs\nleave the scores",
}
"""By experiment and first word of the outcome."""
READ = {"attention": "share of the attention to the name lost", "answer": "share of the answer's probability lost"}
ARMS = {"effect": ("these", "C0", "o"), "match": ("as many others", "C7", "D")}


def lost(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Shares of attention and of the answer's probability that changed scores take, and what the same does with others."""
    found = {name: scored(tables, name) for name, _ in CHANGES}
    figure = canvas(6.2, 2.4, layout="constrained")
    panels = figure.subplots(1, len(READ), sharey=True)
    means: dict[tuple[str, str, str, str], float] = {}
    for axes, (read, label) in zip(panels, READ.items(), strict=True):
        for row, (name, word) in enumerate(CHANGES):
            for (arm, (_, tint, marker)), above in zip(ARMS.items(), (0.15, -0.15), strict=True):
                rows = found[name]
                rows = rows[(rows["outcome"] == f"{word}_{read}") & (rows["arm"] == arm)]
                middle, low, high = interval(rows)
                axes.plot([low, high], [above - row] * 2, color=colour(tint))
                axes.plot(middle, above - row, linestyle="none", marker=marker, color=colour(tint))
                means[name, word, read, arm] = middle
        axes.axvline(0, color="0.7", linewidth=0.6, zorder=0)
        axes.set(xlabel=label, ylim=(0.6 - len(CHANGES), 0.6))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks([-row for row in range(len(CHANGES))], list(CHANGES.values()))
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour(tint), label=told)
        for told, tint, marker in ARMS.values()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    scaled, others = (means["keys", "scaled", "answer", arm] for arm in ARMS)
    pairs, random = (means["keys", "pairs", "answer", arm] for arm in ARMS)
    return captioned(
        figure,
        f"Features of title and first name, scaled in the keys alone, take {scaled:.0%} of the answer's probability, as many others "
        f"{others:.0%}; without the largest pairs it loses {pairs:.0%}, without others of their sizes {random:.0%}",
        "Scores of the chosen heads, from the last token to the name, change before softmax; all else follows. Marks are means over "
        "held-out prompts with 95 % intervals over clusters.",
    )


FIGURES = {"lost": lost}
