"""The figure that only this case needs: what graphs and replacement model are worth, beside shuffled transcoders."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from matplotlib.figure import Figure

from biology.figures.case_figures import Case, canvas, captioned
from biology.figures.measure_rows import measure_rows
from biology.tables import Tables

ROWS = (
    ("replacement", "replaced_top1", "replacement model says what the model says"),
    ("replacement", "replacement", "replacement score"),
    ("replacement", "completeness", "completeness score"),
    ("pruning", "pruned_completeness", "of it left after pruning"),
    ("pruning", "pruned_away", "features pruned away"),
    ("ablation", "influence_foretells", "influence foretells ablation (rank correlation)"),
    ("ablation", "influence_over_edge", "better than direct edges by"),
    ("ablation", "edge_over_activation", "edges better than activations by"),
    ("perturbation", "knock_on:1", "perturbation one layer above (cosine)"),
    ("perturbation", "knock_on:2", "two layers above"),
    ("perturbation", "knock_on:3", "three layers above"),
    ("perturbation", "gradient_match", "gradients of model and replacement (cosine)"),
)


def faithfulness(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Every measure on the held-out prompts, with its 95 % interval, beside its control."""
    figure = canvas(6.2, 3.9, layout="constrained")
    means = measure_rows(figure, tables, ROWS)
    said = means["replaced_top1", "effect"]
    return captioned(
        figure,
        f"The replacement model says what the model says on {said:.0%} of the prompts; influence foretells ablations with a rank "
        f"correlation of {means['influence_foretells', 'effect']:.2f}",
        "Held-out prompts of the other cases that the model answers; 95 % intervals over clusters. Beside them the same with "
        "transcoders whose weights are shuffled, and influence permuted among the features of a layer.",
    )


FIGURES = {"faithfulness": faithfulness}
