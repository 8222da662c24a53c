"""Figures of the addition case: operand plots, classes of features, pathways, swaps and wiring."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biology.figures.case_figures import (
    NothingToDraw,
    canvas,
    captioned,
    colour,
    draw_interval,
    draw_matrix,
    legend_marks,
    signed,
    size,
    words,
)
from biology.figures.figure_data import ARM, arm_style, interval
from biology.tables import Tables

FAMILIES = ("add", "lookup", "sum", "constant", "other", "error")
FAMILY_TITLE = {
    "add": "add-function: depends on one number, or adds up", "lookup": "lookup: a condition on a and one on b",
    "sum": "sum: depends on a + b only", "constant": "constant", "other": "other",
}  # fmt: skip
TOKEN = {"-4": "at a", "-2": "at b", "last": "at ="}


def _heldout(tables: Tables, experiment: str) -> pd.DataFrame:
    """Evidence of an experiment on scored held-out items that the model answers correctly; NothingToDraw if there is none."""
    prompts = tables["prompts"]
    chosen = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score") & prompts["correct"]]
    evidence = tables["evidence"]
    found = evidence[(evidence["experiment"] == experiment) & evidence["item"].isin(chosen["item"])]
    if not len(found):
        raise NothingToDraw(f"no held-out rows of experiment '{experiment}' in table 'evidence'.")
    return found


def _of(rows: pd.DataFrame, outcome: str, arm: str) -> pd.DataFrame:
    return rows[(rows["outcome"] == outcome) & (rows["arm"] == arm)]


def operand_plots(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """100 x 100 heat maps of the most active features of each family, by position."""
    operands, plots = tables["operands"], tables["operand_plots"]
    own = operands[operands["transcoders"] == "own"]
    shown = plots.drop_duplicates(["at", "layer", "feature"])[["at", "layer", "feature"]].merge(own)
    order = {family: rank for rank, family in enumerate(FAMILIES)}
    groups = sorted(
        shown.groupby(["at", "family"]), key=lambda pair: (list(TOKEN).index(pair[0][0]), order[pair[0][1]])
    )
    figure = canvas(6.6, 1.76 * len(groups), layout="constrained")
    grid = figure.subplots(len(groups), 4, squeeze=False)
    for line, ((at, family), group) in zip(grid, groups, strict=True):
        for axes in line:
            axes.axis("off")
        line[0].set_title(f"{TOKEN[at]}, {FAMILY_TITLE[family]}", loc="left", fontsize=size(-0.5))
        for axes, row in zip(line, group.sort_values("activity", ascending=False).itertuples(), strict=False):
            cells = plots[(plots["at"] == at) & (plots["layer"] == row.layer) & (plots["feature"] == row.feature)]
            image = np.full((100, 100), np.nan)
            image[cells["b"], cells["a"]] = cells["activation"]
            axes.axis("on")
            axes.imshow(image, origin="lower", cmap="magma", interpolation="nearest", vmin=0, rasterized=True)
            what = {"ones": "ones digit", "range": f"band of {row.width}", "periodic": f"{row.frequency} × per 100"}
            condition = f"{what[row.digit]}, " if row.digit in what else ""
            axes.set(xticks=[0, 50, 99], yticks=[0, 50, 99])
            axes.set_xlabel(f"layer {row.layer}, {row.feature}:\n{condition}R² {row.r2:.2f}")
            axes.xaxis.label.set_fontsize(size(-2))
            axes.tick_params(labelsize=size(-3), length=2)
    at_end = own[own["at"] == "last"]
    fitted = at_end[at_end["family"].isin(("add", "lookup", "sum"))]
    share = fitted["activity"].sum() / at_end["activity"].sum()
    ones = int((fitted["digit"] == "ones").sum())
    return captioned(
        figure,
        f"Operand plots: add-functions, lookups and sums hold {share:.0%} of the activity at the equals sign; {ones} of {len(fitted)} of them read ones digits",
        "Activation on calc: a+b= by a (across) and b (up), for the most active features of each family and token; R² is "
        "that of the family's model on cells it was not fitted to. Below each, what its condition is about: the ones digit, the "
        "narrowest band of numbers that holds it, or how often it repeats. White cells are sums that the model was never taught.",
    )


def class_composition(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """Influence on the answer by family of features, beside weight-shuffled transcoders."""
    rows = _heldout(tables, "classes")
    figure = canvas(6.6, 3.4, layout="constrained")
    left, right = figure.subplots(2, 1, height_ratios=[1, 1.3])
    tints = dict(zip(FAMILIES, ("C2", "C0", "C1", "C4", "C5", "grid.color"), strict=True))
    names = {"effect": "transcoders", "shuffle": "weights shuffled\n(control)"}
    for y, (arm, _) in enumerate(names.items()):
        start = 0.0
        for family in FAMILIES:
            value = interval(_of(rows, f"share:{family}", arm))[0]
            left.barh(-y, value, left=start, color=colour(tints[family]), height=0.6, label=family if y == 0 else None)
            if value > 0.06:
                left.text(start + value / 2, -y, f"{value:.0%}", ha="center", va="center", fontsize=size(-1))
            start += value
    left.set_yticks([0, -1], list(names.values()))
    left.set(xlim=(0, 1), xlabel="share of influence on the answer, last token")
    handles, shown = left.get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside upper right", ncols=6, columnspacing=0.8, handlelength=0.9)
    _compare(right, rows, ("class_share", "class_fraction", "decimal_share"), ("effect", "shuffle"))
    right.legend(handles=legend_marks(right, names, names), loc="center left", bbox_to_anchor=(1.0, 0.5))
    share, null = (interval(_of(rows, "class_share", arm))[0] for arm in ("effect", "shuffle"))
    return captioned(
        figure,
        f"{share:.0%} of the influence belongs to add-functions, lookups and sums; {null:.0%} with shuffled transcoders",
        "Above: influence on the answer's logit of features and errors at the last token, by family of operand plot. Below: "
        "the three families' share of it, their share of active features, and the share of their conditions that repeats "
        "2, 4, 10, 20 or 50 times per hundred (shuffled: beside 3, 5, 11, 21 or 49 times).",
    )


def _compare(axes: Axes, rows: pd.DataFrame, outcomes: tuple[str, ...], arms: tuple[str, ...]) -> None:
    for y, outcome in enumerate(outcomes):
        for arm, offset in zip(arms, np.linspace(0.14, -0.14, len(arms)), strict=True):
            draw_interval(axes, _of(rows, outcome, arm), arm, offset - y)
    axes.set_yticks([-y for y in range(len(outcomes))], [words(outcome) for outcome in outcomes])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-0.03, 1.03), ylim=(-len(outcomes) + 0.5, 0.5))


def pathways(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """What inhibiting ones digits or magnitudes does to ones digit and magnitude of the answer, beside controls."""
    experiments = {"inhibit_ones_a": "ones digit of a", "inhibit_ones_b": "ones digit of b", "inhibit_range_a": "magnitude of a",
                   "inhibit_lookup": "lookups", "inhibit_sum": "sums"}  # fmt: skip
    outcomes = ("ones_right", "near_right")
    figure = canvas(6.6, 2.9, layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    arms = ("effect", "match", "position")
    members = tables["supernodes"]["supernode"].value_counts()
    names = []
    for y, (experiment, name) in enumerate(experiments.items()):
        rows = _heldout(tables, experiment)
        strength = rows.loc[rows["arm"] == "effect", "strength"].iloc[0]
        supernode = experiment.removeprefix("inhibit_")
        names.append(f"{name}, M = {signed(strength)}" if members.get(supernode, 0) else f"{name}: no such feature")
        for axes, outcome in zip(grid, outcomes, strict=True):
            for arm, offset in zip(arms, (0.22, 0.0, -0.22), strict=True):
                if len(_of(rows, outcome, arm)):
                    draw_interval(axes, _of(rows, outcome, arm), arm, offset - y)
    for axes, title in zip(grid, ("ones digit right", "at most 5 off"), strict=True):
        axes.set(title=title, xlim=(-0.03, 1.03), xlabel="share of held-out sums")
    grid[0].set_yticks([-y for y in range(len(names))], names)
    grid[0].tick_params(axis="y", length=0)
    handles = legend_marks(grid[0], arms)
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    contrast = _heldout(tables, "dissociation")
    value = interval(_of(contrast, "interaction:ones_right,near_right", "effect"))[0]
    return captioned(
        figure,
        f"Ones digits and magnitudes: the interaction of the two inhibitions is {signed(round(value, 2))} (two pathways: below zero)",
        "Share of held-out sums whose ones digit is still right, and whose value is at most five off, when features of one "
        "kind are inhibited, with 95 % intervals over pairs of ones digits.",
    )


def lookup_swap(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """How often a swap of lookups gives the donor's ones digit, or the donor's sum, beside every control."""
    lines = [
        ("swap_ones", "ones_swapped", "ones lookups, constrained:\ndonor's ones digit"),
        ("swap_ones_iterative", "ones_swapped", "ones lookups, iterative:\ndonor's ones digit"),
        ("swap", "donor_top1", "all lookups, calc:\ndonor's sum"),
        ("swap_sum_of", "donor_top1", "all lookups, the sum of:\ndonor's sum"),
        ("swap_fruit", "donor_top1", "all lookups, apples and pears:\ndonor's sum"),
    ]
    arms = ("effect", "match", "donor", "position", "direction")
    figure = canvas(6.6, 3.4, layout="constrained")
    axes = figure.subplots()
    for y, (experiment, outcome, _) in enumerate(lines):
        rows = _heldout(tables, experiment)
        for arm, offset in zip(arms, np.linspace(0.3, -0.3, len(arms)), strict=True):
            draw_interval(axes, _of(rows, outcome, arm), arm, offset - y)
    axes.set_yticks([-y for y in range(len(lines))], [name for *_, name in lines])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-0.03, 1.03), xlabel="share of held-out sums")
    handles = legend_marks(axes, arms)
    figure.legend(handles=handles, loc="outside upper center", ncols=5, columnspacing=1.0, handletextpad=0.2)
    told = {}
    for experiment, outcome, name in lines:
        rows = _heldout(tables, experiment)
        mean, matched = (interval(_of(rows, outcome, arm))[0] for arm in ("effect", "match"))
        how = name.partition(",")[2].partition(":")[0].strip()
        told.setdefault(outcome, []).append(f"{how} {mean:.0%} (matched random features {matched:.0%})")
    return captioned(
        figure,
        f"Swapping all lookups gives the donor's sum: {', '.join(told['donor_top1'])}; swapping lookups of ones digits its ones "
        f"digit: {', '.join(told['ones_swapped'])}",
        "The prompt's lookups are inhibited and the donor's injected at the last token. Where no lookup reads ones digits, the "
        "swap of those is no intervention.",
    )


def wiring(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """How well weights from a prompt's lookups tell its sums from other sums."""
    rows = _heldout(tables, "wiring")
    figure = canvas(6.6, 2.4, layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    bins = np.linspace(0, 1, 51)
    for axes, (outcome, title) in zip(
        grid, (("auc_virtual", "virtual weights"), ("auc_twera", "weighted by activity (TWERA)")), strict=True
    ):
        for arm in ("shuffle", "effect"):
            values = _of(rows, outcome, arm)["value"]
            axes.hist(
                values,
                bins,
                weights=np.full(len(values), 1 / max(1, len(values))),
                color=arm_style(arm)["color"],
                alpha=0.6,
                label=ARM[arm][0],
            )
        axes.axvline(0.5, color=colour("axes.edgecolor"), linewidth=0.8)
        axes.set(title=title, xlabel="area under the curve, by prompt")
    grid[0].set_ylabel("share of prompts")
    grid[0].legend(loc="upper left")
    areas = {
        outcome: [f"{interval(_of(rows, outcome, arm))[0]:.2f}" for arm in ("effect", "shuffle")]
        for outcome in ("auc_virtual", "auc_twera")
    }
    return captioned(
        figure,
        "Weights from a sum's lookups tell its sum features from others: area {}, with exchanged plots {}; weighted by "
        "activity {}, {}".format(*areas["auc_virtual"], *areas["auc_twera"]),
        "For every held-out sum: are the weights from its active lookups larger to those sum features whose operand plot fires "
        "at its value than to the others? One half is chance.",
    )


def connectivity(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """What features of a family take in from those of another by virtual weights, beside exchanged families."""
    rows = _heldout(tables, "connectivity")
    families = ("lookup", "sum", "other")
    cells = {
        arm: [[_of(rows, f"input:{of}>{to}", arm) for to in families] for of in families]
        for arm in ("effect", "shuffle")
    }
    share, null = (  # a family that no prompt has above the first layer takes nothing in
        np.array([[interval(cell)[0] if len(cell) else np.nan for cell in line] for line in cells[arm]])
        for arm in cells
    )
    figure = canvas(4.6, 2.6, layout="constrained")
    axes = figure.subplots()
    sides = [[f"{way} {name}" for name in families] for way in ("from", "towards")]
    for row, column, value, ink in draw_matrix(
        axes, pd.DataFrame(share, *sides), ("C1", "figure.facecolor", "C0"), -1.0
    ):
        axes.text(column, row, f"{value:+.0%}", ha="center", va="bottom", weight="bold", color=ink)
        beside = f"exchanged {null[row, column]:+.0%}"
        axes.text(column, row, beside, ha="center", va="top", fontsize=size(-2), color=ink)
    fed, chance = (interval(cells[arm][0][1])[0] for arm in cells)
    return captioned(
        figure,
        f"Of what a sum's features take in from earlier ones, lookups give a net {fed:+.0%}; with families exchanged {chance:+.0%}",
        "Active features at the equals sign of held-out sums, by family of operand plot: virtual weight times the source's "
        "activation, as a share of all that a feature takes in from features of earlier layers; what pushes it down counts as "
        "negative. Below, the same when the sources of a layer exchange families. Add-functions stand at the numbers: "
        "attention brings them here, which virtual weights leave out.",
    )


FIGURES = {
    "operand_plots": operand_plots, "class_composition": class_composition, "pathways": pathways,
    "lookup_swap": lookup_swap, "wiring": wiring, "connectivity": connectivity,
}  # fmt: skip
