"""The figure that only this case needs: refusals edited away, and what that costs."""

from __future__ import annotations

from matplotlib.figure import Figure

from biology.figures.case_figures import Case
from biology.figures.edit_figure import edit_figure
from biology.tables import Tables

COSTS = (
    ("edit_harmful_allowed", "adverts for pairs that do nothing"),
    ("edit_harmful_alone", "adverts for either alone"),
    ("edit_harmful_asked", "what happens"),
)


def edit(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Harmful requests that are no longer refused, and other answers that are lost."""
    target = ("edit_harmful", "answer_lost", "a harmful request is not refused")
    return edit_figure(tables, "the harmful request", target, COSTS)


FIGURES = {"edit": edit}
