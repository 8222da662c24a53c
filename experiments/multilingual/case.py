"""Figures that only this case needs: the edit matrix, dose curves by language, overlap by layer, the default language."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from biology.figures.case_figures import DASHED, Case, canvas, captioned, colour, draw_matrix, judged_strength, size
from biology.figures.figure_data import ARM, arm_style, interval, scored
from biology.tables import Tables

LANGUAGES = ("en", "fr", "zh", "de", "es", "ru")
RELATIONS = ("opposite", "synonym", "category")
EDITS = {"operation": ("relation", RELATIONS), "operand": ("language", LANGUAGES), "language": ("language", LANGUAGES)}


def edit_matrix(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """How often each edit gives the predicted cell: from every level to every other, and beside the controls."""
    figure = canvas(8.6, 4.4, layout="constrained")
    grid = figure.subplots(2, 3, height_ratios=[1.5, 1.0])
    means = {}
    for column, (edit, (factor, levels)) in enumerate(EDITS.items()):
        experiment = f"{edit}_swap"
        rows = _judged(tables, experiment, f"level_top1:expected_{edit}")
        effect = rows[rows["arm"] == "effect"]
        donors = tables["prompts"].set_index("item")
        # an operand becomes any other: its matrix is of languages and relations
        titles = RELATIONS if edit == "operand" else levels
        to = effect["relation"] if edit == "operand" else effect[f"{edit}_donor"].map(donors[factor])
        share = effect["value"].groupby([effect[factor], to.rename("to")]).mean().unstack("to")
        share = share.reindex(index=levels, columns=titles).dropna(axis="columns", how="all")
        for row, to_column, value, ink in draw_matrix(grid[0, column], share, ("figure.facecolor", "C0")):
            grid[0, column].text(
                to_column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=size(-1), color=ink
            )
        axis = ("in", "asked for") if edit == "operand" else ("from", "to")
        grid[0, column].set(title=f"change the {edit}", ylabel=axis[0], xlabel=axis[1])
        arms = [arm for arm in ARM if arm in set(rows["arm"])]
        for place, arm in enumerate(arms):
            mean, low, high = interval(rows[rows["arm"] == arm])
            grid[1, column].barh(-place, mean, height=0.62, color=arm_style(arm)["color"])
            grid[1, column].plot([low, high], [-place] * 2, color=colour("text.color"), linewidth=0.9)
            grid[1, column].text(max(high, mean) + 0.02, -place, f"{mean:.0%}", va="center", fontsize=size(-1))
            means[edit, arm] = mean
        labels = [ARM[arm][0] for arm in arms] if column == 0 else [""] * len(arms)
        grid[1, column].set_yticks([-place for place in range(len(arms))], labels)
        grid[1, column].set(xlim=(0, 1.12), xlabel="the predicted cell is said")
        grid[1, column].xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        grid[1, column].tick_params(axis="y", length=0)
    found = ", ".join(
        f"{edit} {means[edit, 'effect']:.0%} (random features {means[edit, 'match']:.0%})" for edit in EDITS
    )
    return captioned(
        figure,
        f"The cell that an edit predicts is said: {found}",
        "An edit changes one factor of a held-out prompt: what is asked, of which word, in which language. Above, the share "
        "of prompts whose most probable token is the answer of the cell in which that factor alone has changed, by the "
        "factor's level before and after. Below, the same with 95 % intervals over scales, beside the controls: other active "
        "features of the same layers and number with a push of the same length, the features of a wrong donor, another "
        "position, random directions.",
    )


def crossover_curves(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Probability of the old and of the predicted answer against the strength of the operation swap, by language."""
    rows = scored(tables, "operation_swap/dose")
    figure = canvas(8.6, 3.4, layout="constrained")
    grid = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
    curves = {
        "answer_probability": ("old answer", "C1"),
        "level_probability:expected_operation": ("predicted answer", "C0"),
    }
    crossings, matched = [], 0
    for axes, language in zip(grid, LANGUAGES, strict=True):
        here = rows[rows["language"] == language]
        means = {}
        for outcome, (name, tint) in curves.items():
            for arm, line in (("match", DASHED), ("effect", "-")):
                part = here[(here["outcome"] == outcome) & (here["arm"] == arm)]
                doses = sorted(set(part["strength"]))
                mean, low, high = np.array([interval(part[part["strength"] == dose]) for dose in doses]).T
                means[outcome, arm] = mean
                axes.plot(doses, mean, color=tint, linestyle=line, linewidth=1.6 if arm == "effect" else 0.9,
                          label=name if arm == "effect" else f"{name}, random features")  # fmt: skip
                if arm == "effect":
                    axes.fill_between(doses, low, high, color=tint, alpha=0.15, linewidth=0)
        null, lead = (
            means["level_probability:expected_operation", arm] - means["answer_probability", arm]
            for arm in ("match", "effect")
        )
        matched += bool((null > 0).any())
        above = np.flatnonzero(lead > 0)
        if len(above):
            after = int(above[0])
            at = doses[0] if after == 0 else np.interp(0, lead[after - 1 : after + 1], doses[after - 1 : after + 1])
            crossings.append(float(at))
            axes.axvline(at, color=colour("text.color"), linewidth=0.8, linestyle=DASHED)
        axes.set_title(language)
        axes.set_ylim(0, 1)
    for axes in grid[3:]:
        axes.set_xlabel("multiple M")
    for axes in grid[::3]:
        axes.set_ylabel("probability")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    held = case.experiments["operation_swap"].inhibit_share if case else 1.0
    where = f"at M from {min(crossings):.2g} to {max(crossings):.2g}" if crossings else "nowhere"
    return captioned(
        figure,
        f"The new operation takes over {where}, in {len(crossings)} of {len(LANGUAGES)} languages (with matched random features "
        f"in {matched})",
        f"Held-out prompts of each language; the operation's features are held at {-held:g} M and those of an English donor at M "
        "times their activations. Solid: mean probability of the prompt's answer and of the predicted one, with 95 % bands over "
        "scales; dashed: the same with matched random features. The vertical line is where the predicted answer passes the old.",
    )


def overlap_by_layer(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Overlap of active features between translations, and between unrelated prompts, by layer."""
    rows = scored(tables, "overlap")
    layers = sorted(int(one.partition(":")[2]) for one in set(rows["outcome"]) if one.startswith("overlap:"))
    figure = canvas(4.4, 3.0, layout="constrained")
    axes = figure.subplots()
    gaps = {}
    for arm, name in (
        ("effect", "the same question in another language"),
        ("shuffle", "another question in that language"),
    ):
        parts = [rows[(rows["outcome"] == f"overlap:{layer}") & (rows["arm"] == arm)] for layer in layers]
        mean, low, high = np.array([interval(part) for part in parts]).T
        axes.fill_between(layers, low, high, color=arm_style(arm)["color"], alpha=0.2, linewidth=0)
        axes.plot(layers, mean, label=name, **arm_style(arm))
        gaps[arm] = mean
    best = layers[int(np.argmax(gaps["effect"] - gaps["shuffle"]))]
    axes.set(xlabel="layer", ylabel="intersection over union, minus chance", ylim=(0, None), xticks=layers)
    axes.legend(loc="upper right")
    most = float((gaps["effect"] - gaps["shuffle"]).max())
    return captioned(
        figure,
        f"Translations share most, beyond unrelated prompts, in layer {best}: {most:.2f}",
        "Features active anywhere in a held-out prompt and in the same question in another language: intersection over union, "
        "minus what two independent sets of these sizes share. Beside it the same for a question about another scale, for "
        "another relation, in that other language. Bands are 95 % intervals over scales.",
    )


def default_language(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Which language's word the shared say-features promote most together, beside random features."""
    rows = scored(tables, "default_language")
    figure = canvas(4.4, 2.6, layout="constrained")
    axes = figure.subplots()
    means: dict[tuple[str, str], float] = {}
    for place, language in enumerate(LANGUAGES):
        for arm, shift in (("effect", 0.12), ("match", -0.12)):
            part = rows[(rows["outcome"] == f"default_written:{language}") & (rows["arm"] == arm)]
            mean, low, high = interval(part)
            axes.plot([low, high], [shift - place] * 2, color=arm_style(arm)["color"], linewidth=1.4)
            axes.plot(
                mean, shift - place, linestyle="none", label=ARM[arm][0] if place == 0 else None, **arm_style(arm)
            )
            means[arm, language] = mean
    axes.axvline(0, color=colour("text.color"), linewidth=0.8)
    axes.set_yticks([-place for place in range(len(LANGUAGES))], LANGUAGES)
    axes.set_xlabel("direct weight on this language's answer, minus the others' (z)")
    best = max(LANGUAGES, key=lambda language: means["effect", language])
    axes.legend(loc="best")
    return captioned(
        figure,
        f"The language that shared say-features promote most is {best}, by {means['effect', best]:.2f} standard deviations "
        f"(random features {means['match', best]:.2f})",
        "Direct weights from what features that stand for a meaning in several languages write together to its word in each: z "
        "among all answers in that language, minus the mean z in the other languages. Held-out prompts, 95 % intervals over scales, "
        "beside other features active in the same layers.",
    )


def _judged(tables: Tables, experiment: str, outcome: str) -> pd.DataFrame:
    """Rows of one outcome at the strength that was judged."""
    rows = scored(tables, experiment)
    rows = rows[rows["outcome"] == outcome]
    return rows[rows["strength"] == judged_strength(tables, experiment, rows["strength"])]


FIGURES = {
    "edit_matrix": edit_matrix,
    "crossover_curves": crossover_curves,
    "overlap_by_layer": overlap_by_layer,
    "default_language": default_language,
}
