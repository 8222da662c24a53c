"""A standing edit: what it does on the prompts that it is for, and what it costs on all others."""

# pyright: reportArgumentType=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from biology.figures.drawing import canvas, captioned
from biology.figures.figure_data import interval, scored
from biology.figures.measure_rows import measure_rows
from biology.tables import Tables


def edit_figure(tables: Tables, what: str, target: tuple[str, str, str], costs: Sequence[tuple[str, str]]) -> Figure:
    """Draws the outcome that an edit is to bring about, and the answers that are lost elsewhere, beside matched features.

    `what` names the features. `target` is an experiment, its outcome and this in words; `costs` are experiments, each with its
    prompts in words.
    """
    figure = canvas(6.2, 1.2 + 0.42 * len(costs), layout="constrained")
    measure_rows(figure, tables, [target, *((name, "answer_lost", f"lost: {words}") for name, words in costs)])

    def mean(experiment: str, outcome: str, arm: str = "effect") -> float:
        rows = scored(tables, experiment)
        return interval(rows[(rows["outcome"] == outcome) & (rows["arm"] == arm)])[0]

    experiment, outcome, words = target
    lost = max(mean(name, "answer_lost") for name, _ in costs)
    return captioned(
        figure,
        f"With {what} edited, {words} on {mean(experiment, outcome):.0%} of the prompts, with matched features on "
        f"{mean(experiment, outcome, 'match'):.0%}; of the answers to others at most {lost:.1%} are lost",
        "Held-out prompts that the model answers by itself, with 95 % intervals over clusters. The features are held down wherever they "
        "are active, at every token; for the control as many other active features are pushed as hard at the same places.",
    )
