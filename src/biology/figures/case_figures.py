"""The figures of a case, drawn from its tables alone.

`FIGURES` maps the names that `case.yaml` may list to functions from tables to a matplotlib figure; `draw` gives bytes.
`figure_data.py` reads the tables; `drawing.py` and `paper.mplstyle` decide the look.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from biology.cases.case import Case
from biology.figures.drawing import (
    BOLD,
    FORMS,
    NothingToDraw,
    canvas,
    captioned,
    colour,
    draw_ridge,
    label,
    saved,
    sentence,
    signed,
    size,
    statement,
    styled,
    words,
)
from biology.figures.figure_data import (
    ARM,
    arm_style,
    by_level,
    experiments,
    interval,
    judged_doses,
    judged_outcome,
    with_donor_kind,
)
from biology.figures.prompt_figures import inhibition_panel, judged_parts, judged_strength, supernode_graph
from biology.records import InputError
from biology.schemas import ARMS
from biology.tables import Tables

DASHED = (0, (4, 3))


# ---------------------------------------------------------------------------------------- effects beside their controls


def swap_panel(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """How often a swap gives the donor's answer on held-out items, by relation and donor, for the effect and every
    control arm."""
    found = experiments(tables, subject, "swap_panel", lambda rows: {"effect", "donor"} <= set(rows["arm"]))
    groups: list[tuple[str, int, pd.DataFrame]] = []
    marks = []
    for experiment, rows in found.items():
        rows = rows[rows["outcome"] == judged_outcome(tables, experiment, rows, case)]
        rows = rows[rows["strength"] == judged_strength(tables, experiment, rows["strength"])]
        begin = len(groups)
        groups.append((f"{words(experiment)}, M = {signed(rows['strength'].iloc[0])}", 0, rows))
        groups += [(name, 1, part) for name, part in by_level(rows, "relation")]
        groups += [(f"donor: {name}", 1, part) for name, part in by_level(with_donor_kind(rows, tables), "donor_kind")]
        judged = judged_parts(tables, experiment, rows["outcome"].iloc[0])
        minima = judged.loc[judged["direction"] == "increase", "threshold"]
        marks += [(float(minimum), begin, len(groups)) for minimum in dict.fromkeys(minima)]
    arms = [arm for arm in ARMS if arm != "clean" and any(arm in set(rows["arm"]) for _, _, rows in groups)]
    figure = canvas(6.8, 0.9 + 0.34 * len(groups), layout="constrained")
    axes = figure.subplots()
    for row, (_, depth, rows) in enumerate(groups):
        if depth == 0:
            axes.axhspan(-row - 0.5, -row + 0.5, color=colour("grid.color"), alpha=0.55, linewidth=0)
        present = [arm for arm in arms if arm in set(rows["arm"])]
        for arm, offset in zip(present, np.linspace(0.27, -0.27, len(present)), strict=True):
            draw_interval(axes, rows[rows["arm"] == arm], arm, float(offset) - row)
        effect = rows[rows["arm"] == "effect"]
        count = f"{effect['item'].nunique()} items, {effect['cluster'].nunique()} clusters"
        text = axes.text(1.01, -row, count, transform=axes.get_yaxis_transform(), va="center", fontsize=size(-1.5))
        text.set_color(colour("axes.edgecolor"))
    for minimum, begin, end in marks:
        axes.plot([minimum] * 2, [0.5 - begin, 0.5 - end], color=colour("text.color"), linewidth=0.8, linestyle=DASHED)
    axes.set_yticks([-row for row in range(len(groups))], [label(name) for name, _, _ in groups])
    for tick, (_, depth, _) in zip(axes.get_yticklabels(), groups, strict=True):
        tick.set_fontweight(BOLD if depth == 0 else 400)
    axes.tick_params(axis="y", length=0)
    outcomes = list(dict.fromkeys(words(rows["outcome"].iloc[0]) for _, _, rows in groups))
    axes.set(ylim=(-len(groups) + 0.5, 0.5), xlabel=", ".join(outcomes))
    if all(rows["value"].between(0, 1).all() for _, _, rows in groups):
        axes.set_xlim(-0.02, 1.02)
    handles = legend_marks(axes, arms)
    figure.legend(handles=handles, loc="outside upper right", ncols=len(arms), columnspacing=1.1, handletextpad=0.2)
    told: dict[str, list[str]] = {}
    for rows in [rows for _, depth, rows in groups if depth == 0]:
        name, outcome = (words(rows[column].iloc[0]) for column in ("experiment", "outcome"))
        told.setdefault(outcome, []).append(f"{name} {beside(rows)}")
    return captioned(
        figure,
        sentence("; ".join(f"{outcome}: {'; '.join(parts)}" for outcome, parts in told.items())),
        f"Mean {', '.join(outcomes)} on held-out prompts that the model answers correctly, with 95 % intervals over "
        "clusters. The dashed line is the smallest effect, minus its control, that the claim was registered to need.",
    )


def beside(rows: pd.DataFrame) -> str:
    """The mean of the effect and of its first control, if it has one, for a title."""
    arms = [arm for arm in ARMS if arm in set(rows["arm"])]
    share = bool(rows["value"].between(0, 1).all())
    means = {arm: interval(rows[rows["arm"] == arm])[0] for arm in arms[:2]}
    shown = {arm: f"{mean:.0%}" if share else signed(round(mean, 2)) for arm, mean in means.items()}
    return ", ".join(text if arm == "effect" else f"{ARM[arm][0]} {text}" for arm, text in shown.items())


def draw_interval(axes: Axes, rows: pd.DataFrame, arm: str, y: float) -> None:
    """Draws the mean of an arm and its interval as a horizontal line at height `y`."""
    mean, low, high = interval(rows)
    axes.plot([low, high], [y, y], color=arm_style(arm)["color"], linewidth=1.5 if arm == "effect" else 0.9)
    axes.plot(mean, y, linestyle="none", **arm_style(arm))


def dose_response(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Outcome against the multiple M of the clean activation, for the effect and its controls, with intervals."""
    several = lambda rows: rows.loc[rows["arm"] == "effect", "strength"].nunique() > 1  # noqa: E731
    found = experiments(tables, subject, "dose_response", several)
    figure = canvas(1.6 + 2.3 * len(found), 2.9, layout="constrained")
    grid = figure.subplots(1, len(found), squeeze=False)[0]
    shown: dict[str, Any] = {}
    told = []
    for axes, (experiment, rows) in zip(grid, found.items(), strict=True):
        outcome = judged_outcome(tables, experiment, rows, case)
        rows = rows[rows["outcome"] == outcome]
        for arm in [arm for arm in reversed(ARMS) if arm in set(rows["arm"]) and arm != "clean"]:
            here = rows[rows["arm"] == arm]
            doses = sorted(set(here["strength"]))
            mean, low, high = np.array([interval(here[here["strength"] == dose]) for dose in doses]).T
            axes.fill_between(doses, low, high, color=arm_style(arm)["color"], alpha=0.18, linewidth=0)
            shown[arm] = axes.plot(doses, mean, linewidth=1.8 if arm == "effect" else 1.1, **arm_style(arm))[0]
        judged = judged_doses(tables["evidence"], experiment)
        if len(judged) == 1:
            axes.axvline(judged[0], color=colour("text.color"), linewidth=0.8, linestyle=DASHED, zorder=0)
        doses = sorted(set(rows["strength"]))
        far = max(doses, key=lambda dose: abs(dose - 1))
        name, dose = words(experiment.partition("/")[0]), judged[0] if len(judged) == 1 and judged[0] in doses else far
        axes.set(title=name, xlabel="multiple M", ylabel=words(outcome))
        told.append(f"{name}, {words(outcome)} at M = {signed(dose)}: {beside(rows[rows['strength'] == dose])}")
    order = [arm for arm in ARMS if arm in shown]
    names = [ARM[arm][0] for arm in order]
    figure.legend([shown[arm] for arm in order], names, loc="outside lower left", ncols=3, columnspacing=1.2)
    return captioned(
        figure,
        sentence("; ".join(told)),
        "Means over held-out prompts that the model answers correctly, by the multiple M at which supernodes are "
        "held (no change at one, ablation at zero), with 95 % bands over clusters. The dashed line is the strength "
        "that was chosen on development prompts and judged.",
    )


def path_share(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """Share of the influence on the answer along each kind of path, item by item, with matched control sets."""
    shares = lambda rows: rows["outcome"].str.contains("share|shortcut").any()  # noqa: E731
    experiment, rows = next(iter(experiments(tables, subject, "path_share", shares).items()))
    rows = rows[rows["outcome"].str.contains("share|shortcut")] if shares(rows) else rows
    listed = case.experiments[experiment].outcomes if case and experiment in case.experiments else ()
    names = [name for name in dict.fromkeys([*listed, *rows["outcome"]]) if name in set(rows["outcome"])]
    figure = canvas(6.0, 0.8 + 0.82 * len(names), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(min(0.0, rows["value"].min()), max(1.0, rows["value"].max()), 41)
    for base, outcome in zip(range(0, -len(names), -1), names, strict=True):
        found = rows[rows["outcome"] == outcome]
        effect = found[found["arm"] == "effect"]
        for arm in [arm for arm in ("match", "effect") if arm in set(found["arm"])]:
            here = found[found["arm"] == arm]
            tint = arm_style(arm)["color"]
            fill = 0.4 if arm == "effect" else 0.25
            draw_ridge(axes, here["value"], bins, base=base, height=0.62, tint=tint, fill=fill, line=1.1)
            draw_interval(axes, here, arm, base - 0.09)
            mean = interval(here)[0]
            if arm == "effect" or abs(mean - interval(effect)[0]) > 0.05:  # else the numbers would overlap
                axes.text(mean, base + 0.7, f"{mean:.0%}", color=tint, ha="center", fontsize=size(-1), weight=BOLD)
    axes.set_yticks([0.3 - row for row in range(len(names))], [label(words(name)) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(ylim=(-len(names) + 0.8, 0.95), xlabel="share of |influence|")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    arms = [arm for arm in ("effect", "match") if arm in set(rows["arm"])]
    handles = legend_marks(axes, arms)
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return captioned(
        figure,
        sentence("; ".join(f"{words(name)} {beside(rows[rows['outcome'] == name])}" for name in names)),
        "How much of the absolute influence takes the paths named on the left: distribution over held-out prompts, "
        "for the supernode (effect) and for matched random sets of features in its place. Below each, the mean and "
        "its 95 % interval over clusters.",
    )


# ------------------------------------------------------------------------------------------------------------- fidelity


def fidelity(tables: Tables, subject: str | None = None, case: Case | None = None) -> Figure:
    """How well the transcoders replace the MLPs: by layer, and for the whole replacement model by behaviour."""
    frame = tables["fidelity"]
    titles = {"fvu": "FVU", "l0": "L0", "dead": "dead features", "loss_recovered": "loss recovered"}
    layered = frame[(frame["layer"] != "all") & (frame["behaviour"] == "all")]
    shown = [metric for metric in titles if metric in set(layered["metric"])]
    agreement = frame[(frame["layer"] == "all") & (frame["metric"] == "top1_agreement")]
    wide = [1.0] * len(shown) + [1.6] * (len(agreement) > 0)
    if not wide:
        raise InputError("figure 'fidelity': table 'fidelity' has no measure by layer and no top1_agreement.")
    figure = canvas(1.5 * sum(wide), 2.2, layout="constrained")
    grid = figure.subplots(1, len(wide), squeeze=False, width_ratios=wide)[0]
    for axes, metric in zip(grid, shown, strict=False):
        rows = layered[layered["metric"] == metric]
        if metric == "loss_recovered":  # close to one, so no bars from zero
            axes.plot(rows["layer"], rows["value"], "o-", color="C0", clip_on=False)
        else:
            axes.bar(rows["layer"], rows["value"], color="C0", width=0.68)
        axes.set(title=titles[metric], xlabel="layer")
        if metric != "l0":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    if len(agreement):
        axes, names = grid[-1], [label(words(name)) for name in agreement["behaviour"]]
        least = 0.9 if float(agreement["value"].min()) > 0.9 else 0.0
        axes.hlines(range(len(names)), least, agreement["value"], color=colour("grid.color"))
        axes.plot(agreement["value"], range(len(names)), "o", color="C0")
        for row, value in enumerate(agreement["value"]):
            place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": size(-1.5)}
            axes.annotate(f"{value:.1%}", (value, row), **place, annotation_clip=False)
        axes.set_yticks(range(len(names)), names)
        reach = 1 - least
        axes.set(title="top-1 agreement", xlim=(least, 1 + 0.02 * reach), ylim=(len(names) - 0.5, -0.5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.tick_params(axis="y", length=0)
    unexplained = layered.loc[layered["metric"] == "fvu", "value"]
    told = [f"transcoders leave {unexplained.mean():.1%} of the variance unexplained"] * (len(unexplained) > 0)
    whole = agreement.loc[agreement["behaviour"] == "all", "value"]
    told += [f"with all MLPs replaced the model says the same in {whole.mean():.1%}"] * (len(whole) > 0)
    if not told and shown:
        told = [
            f"{titles[shown[0]]} is {layered.loc[layered['metric'] == shown[0], 'value'].mean():.3g}, mean over layers"
        ]
    elif not told:
        least, most = agreement["value"].min(), agreement["value"].max()
        told = [f"with all MLPs replaced the model says the same in {least:.1%} to {most:.1%}, by behaviour"]
    return captioned(
        figure,
        sentence("; ".join(told)),
        "On held-out prompts, by layer: the fraction of the MLP output's variance that the transcoder leaves "
        "unexplained (FVU), the number of features active at a token (L0), the fraction of features that never are. On "
        "the right: how often the model with every MLP replaced has the same most probable token as the model itself.",
    )


# --------------------------------------------------------------------------------------------------- what figures share


def legend_marks(axes: Axes, arms: Iterable[str], names: Mapping[str, str] | None = None) -> list[Line2D]:
    """The marks of arms, for a legend; `names` replaces their names in ARM."""
    named = names or {arm: name for arm, (name, *_) in ARM.items()}
    return [axes.plot([], [], linestyle="none", label=named[arm], **arm_style(arm))[0] for arm in arms]


def draw_matrix(
    axes: Axes, shares: pd.DataFrame, tints: Sequence[str], least: float = 0.0
) -> list[tuple[int, int, float, str]]:
    """Draws a matrix of shares, shaded between `tints` from `least` to one; returns row, column, share and a legible
    text colour for each cell with a share."""
    values = shares.to_numpy(float)
    shades = LinearSegmentedColormap.from_list("shares", [colour(tint) for tint in tints])
    axes.imshow(values, cmap=shades, vmin=least, vmax=1, aspect="auto")
    axes.set_xticks(range(shares.shape[1]), list(shares.columns))
    axes.set_yticks(range(shares.shape[0]), list(shares.index))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return [
        (row, column, float(share), colour("figure.facecolor" if abs(share) > 0.6 else "text.color"))
        for (row, column), share in np.ndenumerate(values)
        if np.isfinite(share)
    ]


FIGURES: dict[str, Callable[..., Figure]] = {
    "supernode_graph": supernode_graph,
    "inhibition_panel": inhibition_panel,
    "swap_panel": swap_panel,
    "dose_response": dose_response,
    "path_share": path_share,
    "fidelity": fidelity,
}


def own_figures(case: Case | None) -> dict[str, Callable[..., Figure]]:
    """`FIGURES` of the case's own `case.py`; none without such a file."""
    path = case.folder / "case.py" if case is not None else None
    if path is None or not path.is_file():
        return {}
    return dict(runpy.run_path(str(path))["FIGURES"])


def draw(name: str, tables: Tables, case: Case | None = None, forms: Sequence[str] = FORMS) -> dict[str, bytes]:
    """The figure `name` of `case.yaml` as {"svg": bytes, "png": bytes}, or only the given forms.

    A name may have a subject after a hyphen: the prompt of a graph or a panel, the experiment of the others, as in
    `supernode_graph-oakland`. If `tables` holds table `parts`, thresholds and gates of the claims are used. If no claim
    of the case could be tested for lack of prompts, or the prompts are the natural ones for other models, a figure
    without rows says so in words. Raises `InputError` if there is no such figure, or the tables hold nothing to draw.
    """
    kind, _, subject = name.partition("-")
    known = FIGURES | own_figures(case)
    if kind not in known:
        raise InputError(f"unknown figure '{name}'. Figures: {', '.join(known)}.")
    if case is not None and "parts" in tables:
        tables = {**tables, "parts": tables["parts"][tables["parts"]["case"] == case.name]}
    try:
        with styled():
            figure = known[kind](tables, subject or None, case)
    except NothingToDraw:
        untested = "parts" in tables and not set(tables["parts"]["verdict"]) - {"untestable"}
        if not untested and not (case is not None and case.first_token):
            raise
        why = (
            "Too few prompts pass their gates on this model" if untested else "This model cannot be asked what it shows"
        )
        figure = statement(f"{sentence(words(kind))}: nothing to show", f"{why}: there is nothing to show.")
    return saved(figure, forms)
