"""The figure that only this case needs: what graphs are made of, beside graphs with what belongs together exchanged."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from matplotlib.figure import Figure

from biology.figures.case_figures import Case, canvas, captioned
from biology.figures.measure_rows import measure_rows
from biology.tables import Tables

ROWS = (
    ("tiers", "abstract_middle", "abstract in the middle layers, beyond outer ones"),
    ("tiers", "layers_skipped", "input of features that skips layers"),
    ("loops", "closed", "pairs of edges that a direct one closes"),
    ("loops", "coherent", "of these with the same sign"),
    ("last_layer", "last_layer_push", "push of the last layer on the most probable token"),
    ("last_layer", "last_layer_beyond", "beyond that of other layers"),
    ("scaffolding", "scaffold", "influence of features that are always active"),
)


def components(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Every measure on the held-out prompts, with its 95 % interval, beside its control."""
    figure = canvas(6.2, 2.9, layout="constrained")
    means = measure_rows(figure, tables, ROWS)
    return captioned(
        figure,
        f"A direct edge closes {means['closed', 'effect']:.0%} of the pairs of edges in a row, with sources exchanged "
        f"{means['closed', 'shuffle']:.0%}; the last layer pushes the most probable token by {means['last_layer_push', 'effect']:+.2f}",
        "Graphs of held-out prompts of the other cases that the model answers; 95 % intervals over clusters. Beside them graphs with "
        "the layers of features, or the sources of edges, exchanged, and as many other features.",
    )


FIGURES = {"components": components}
