"""The figure that only this case needs: the cure, and what it costs."""

from __future__ import annotations

from matplotlib.figure import Figure

from biology.figures.case_figures import Case
from biology.figures.edit_figure import edit_figure
from biology.tables import Tables

COSTS = (("edit_culprit_ask", "what other lists ask about"), ("edit_culprit_check", "what other lists check"))


def edit(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Lists that are diagnosed rightly after the edit, and other answers that are lost."""
    target = ("edit_culprit", "level_top1:right", "the right disease is asked about")
    return edit_figure(tables, "the features of chills", target, COSTS)


FIGURES = {"edit": edit}
