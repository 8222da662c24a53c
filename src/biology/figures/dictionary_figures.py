"""Figures of a model's transcoders as dictionaries, drawn from the tables of `biology measure` and `biology compare-dictionaries`.

Titles state the result, with numbers from the tables. `drawing.py` and `paper.mplstyle` decide the look.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from biology.figures.drawing import FORMS, canvas, captioned, colour, draw_ridge, saved, size, styled
from biology.records import InputError
from biology.tables import read_table

DENSE = 0.1
DASHED = (0, (4, 3))
VARIANTS = {"thinned": ("", "-"), "pruned": (", pruned", DASHED)}


def _plain(axis: Axis, ticks: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at these values, written as plain numbers."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten around a range; for a narrow range also two and five times these."""
    steps = (1, 2, 5) if high / low < 30 else (1,)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [step * 10.0**power for power in powers for step in steps]


def dictionary_layers(tables: dict[str, pd.DataFrame], model: str) -> Figure:
    """L0, explained variance, loss recovered, dead and dense features, by layer."""
    frame = tables["dictionary"]
    by_layer = frame[frame["layer"] != "all"].pivot(index="layer", columns="metric", values="value")
    by_layer = by_layer.loc[sorted(by_layer.index, key=int)]
    whole = frame[frame["layer"] == "all"].set_index("metric")["value"]
    figure = canvas(8.2, 2.3, layout="constrained")
    l0, variance, loss, unused = figure.subplots(1, 4)
    places = np.arange(len(by_layer))
    l0.bar(places, by_layer["l0"], color="C0", width=0.68)
    variance.plot(places, by_layer["explained_variance"], "o-", color="C0", markersize=4, clip_on=False)
    for name, tint, text in (("recovered_from_mean", "C0", "mean"), ("recovered_from_zero", "C5", "zero")):
        loss.plot(places, by_layer[name], "o-", color=tint, markersize=4, clip_on=False)
        loss.axhline(whole[name], color=tint, linewidth=0.9, linestyle=DASHED)
        loss.plot([], [], color=tint, label=text)
    loss.legend(
        title="over ablation to", loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.0, alignment="left"
    )
    for offset, (name, tint) in zip((-0.19, 0.19), (("dead", "axes.edgecolor"), ("dense", "C1")), strict=True):
        unused.bar(places + offset, by_layer[name], width=0.36, color=colour(tint), label=name)
    unused.legend(loc="upper left", bbox_to_anchor=(0, 1.02), ncols=2)
    unused.set_ylim(0, 1.25 * max(0.01, float(by_layer[["dead", "dense"]].to_numpy().max())))
    titles = ("L0", "explained variance", "loss recovered", "dead and dense")
    for axes, title in zip((l0, variance, loss, unused), titles, strict=True):
        axes.set(title=title, xlabel="layer")
        axes.set_xticks(places if len(places) <= 8 else places[:: -(-len(places) // 8)])
        axes.set_xlim(-0.6, len(places) - 0.4)
        if axes is not l0:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    for axes, low in ((variance, by_layer["explained_variance"]), (loss, by_layer["recovered_from_mean"])):
        axes.set_ylim(min(0.9, float(low.min()) - 0.05), 1.005)
    loss.set_ylim(min(loss.get_ylim()[0], float(whole["recovered_from_mean"]) - 0.05), 1.005)
    title = (
        f"{whole['l0']:.0f} active features a token explain {whole['explained_variance']:.1%} of what the MLPs write "
        f"and recover {whole['recovered_from_mean']:.1%} of the loss"
    )
    return captioned(
        figure, f"{model}: {title}",
        f"On {int(whole['tokens']):,} held-out tokens. In panels by layer only that layer's MLP is replaced; dashed: all of "
        "them at once. Loss recovered: share of the loss by setting the MLP's output to its mean (or zero) that the "
        f"transcoder avoids. Dead features never fire, dense ones on more than {DENSE:.0%} of the tokens.",
    )  # fmt: skip


def feature_density(tables: dict[str, pd.DataFrame], model: str) -> Figure:
    """The share of tokens on which features are active: a distribution for each layer."""
    frame = tables["density"]
    living = frame[frame["density"] > 0]
    layers = sorted(set(frame["layer"]))
    figure = canvas(5.6, 1.0 + 0.42 * len(layers), layout="constrained")
    axes = figure.subplots()
    low = np.floor(np.log10(living["density"].min()))
    edges = np.linspace(low, 0, 61)
    for row, layer in enumerate(layers):
        here = living[living["layer"] == layer]["density"]
        draw_ridge(axes, np.log10(here), edges, base=-row, height=0.85, tint="C0", fill=0.35, line=1.0)
        mine = frame[frame["layer"] == layer]["density"]
        text = f"{len(mine):,} features, {(mine == 0).mean():.1%} dead, {(mine > DENSE).mean():.1%} dense"
        axes.text(1.02, 0.25 - row, text, transform=axes.get_yaxis_transform(), fontsize=size(-1), va="center")
    axes.axvline(np.log10(DENSE), color=colour("text.color"), linewidth=0.8, linestyle=DASHED)
    axes.set_yticks([0.2 - row for row in range(len(layers))], [f"layer {layer}" for layer in layers])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel="share of tokens on which a feature fires", ylim=(0.9 - len(layers), 1.0), xlim=(low, 0.02))
    axes.set_xticks(np.arange(low, 1), [f"{100 * 10.0**power:g}%" for power in np.arange(low, 1)])
    middle = float(living["density"].median())
    title = (
        f"half of the features that fire do so on fewer than {middle:.2%} of tokens; {(frame['density'] == 0).mean():.1%} are dead, "
        f"{(frame['density'] > DENSE).mean():.1%} dense"
    )
    return captioned(
        figure, f"{model}: {title}",
        "Distribution over the features of a layer that fire at all, each scaled to its peak; the dashed line marks what "
        f"counts as dense ({DENSE:.0%}).",
    )  # fmt: skip


def error_by_l0(tables: dict[str, pd.DataFrame], model: str) -> Figure:
    """The error of a token against the number of features active there, by layer."""
    frame = tables["token_errors"]
    layers = sorted(set(frame["layer"]))
    columns = min(6, len(layers))
    rows = -(-len(layers) // columns)
    figure = canvas(1.0 + 1.3 * columns, 0.9 + 1.5 * rows, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    factors = []
    for axes, layer in zip(grid, layers, strict=False):
        here = frame[frame["layer"] == layer].sort_values("l0")
        shown = here[here["tokens"] >= max(5, 0.002 * here["tokens"].sum())]
        axes.fill_between(shown["l0"], shown["low"], shown["high"], color="C0", alpha=0.25, linewidth=0)
        axes.plot(shown["l0"], shown["median"], "-", color="C0")
        axes.set(title=f"layer {layer}", yscale="log")
        share = here["tokens"].cumsum() / here["tokens"].sum()
        median = here.loc[share >= 0.5, "l0"].iloc[0]
        few, many = here[here["l0"] <= median], here[here["l0"] > median]
        if len(many):
            means = [np.average(part["error"], weights=part["tokens"]) for part in (few, many)]
            factors.append(means[1] / max(means[0], 1e-12))
    for axes in grid[len(layers) :]:
        axes.axis("off")
    grid[0].set_ylabel("relative squared error")
    grid[0].autoscale_view()
    bounds = grid[0].get_ylim()
    _plain(grid[0].yaxis, _decades(*bounds))
    grid[0].set_ylim(*bounds)
    for axes in grid[max(0, len(layers) - columns) : len(layers)]:
        axes.set_xlabel("active features")
    title = "in no layer do tokens differ enough in their active features to compare errors"
    if factors:
        factor = float(np.exp(np.mean(np.log(np.maximum(factors, 1e-12)))))
        title = f"tokens with more active features than the median have {factor:.1f} times the error of the others"
        title += f", in {len(factors)} of {len(layers)} layers" * (len(factors) < len(layers))
    return captioned(
        figure, f"{model}: {title}",
        "Squared error of a token in units of the layer's mean squared deviation, against the number of features active there: "
        "median and quartiles. The factor in the title is the geometric mean over layers in which tokens have more than the median.",
    )  # fmt: skip


def dictionary_comparison(tables: dict[str, pd.DataFrame], model: str) -> Figure:
    """FVU and loss recovered against L0 for every dictionary of the model."""
    frame = tables["comparison"]
    frame = frame[frame["fvu"] > 1e-9]  # all neurons are the model itself
    figure = canvas(7.0, 3.1, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(frame["dictionary"]))
    tints = {name: "axes.edgecolor" if name == "neurons" else f"C{index}" for index, name in enumerate(names)}
    for name in names:
        for variant, (ending, line) in VARIANTS.items():
            rows = frame[(frame["dictionary"] == name) & (frame["variant"] == variant)].sort_values("l0")
            whole = frame[(frame["dictionary"] == name) & (frame["variant"] == "shipped")]
            if rows.empty:
                continue
            if variant == "thinned" and name != "neurons":
                rows = pd.concat([rows, whole]).sort_values("l0")
            for axes, metric in ((left, "fvu"), (right, "recovered_from_mean")):
                drawn = {
                    "color": colour(tints[name]),
                    "linestyle": line,
                    "marker": ".",
                    "markersize": 4,
                    "linewidth": 1.2,
                }
                axes.plot(rows["l0"], rows[metric], **drawn, label=name + ending if axes is left else None)
                if variant == "thinned" and name != "neurons":
                    axes.plot(whole["l0"], whole[metric], "o", color=colour(tints[name]), markersize=6)
    matched = matched_l0(frame)
    for axes in (left, right):
        axes.axvline(matched, color=colour("text.color"), linewidth=0.8, linestyle=DASHED, zorder=0)
        axes.set(xscale="log", xlabel="active features a token, all layers")
        _plain(axes.xaxis, [2.0**power for power in range(12)])
        axes.set_xlim(0.9 * frame["l0"].min(), 1.1 * frame["l0"].max())
    left.set(yscale="log", ylabel="FVU, mean over layers")
    bounds = (0.7 * float(max(frame["fvu"].min(), 1e-6)), 1.3 * float(frame["fvu"].max()))
    _plain(left.yaxis, _decades(*bounds))
    left.set_ylim(*bounds)
    right.set(ylabel="loss recovered over mean ablation", ylim=(-0.03, 1.03))
    right.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    figure.legend(loc="outside lower left", ncols=4, columnspacing=1.2)
    at = frame[np.isclose(frame["l0"], matched, rtol=0.02) & (frame["variant"] != "pruned")]
    best = at.drop_duplicates("dictionary", keep="last").sort_values("recovered_from_mean", ascending=False)
    said = ", ".join(
        f"{row.dictionary} " + (f"{row.recovered_from_mean:.1%}" if row.recovered_from_mean >= 0 else "less than none")
        for row in best.itertuples()
    )
    return captioned(
        figure, f"With {matched:.0f} active features a token, loss recovered: {said}",
        "Dictionaries thinned by a cut on what an active feature writes (dots: as they are); pruned: without the features that "
        "write least, as small as the smallest set. Left: on the model's own inputs. Right: in the place of all MLPs. The dashed "
        "line is the L0 of the set that has least. No set was trained again for these sizes.",
    )  # fmt: skip


def matched_l0(comparison: pd.DataFrame) -> float:
    """The L0 at which all dictionaries are compared: the smallest of any transcoder set."""
    return float(comparison.loc[comparison["variant"] == "shipped"].query("dictionary != 'neurons'")["l0"].min())


FIGURES: dict[str, tuple[str, Callable[[dict[str, pd.DataFrame], str], Figure]]] = {
    # figure: the table it is drawn from, the function
    "dictionary_layers": ("dictionary", dictionary_layers),
    "feature_density": ("density", feature_density),
    "error_by_l0": ("token_errors", error_by_l0),
    "dictionary_comparison": ("comparison", dictionary_comparison),
}


def draw(name: str, run: Path, model: str, forms: Sequence[str] = FORMS) -> dict[str, bytes]:
    """The figure `name` from the tables in `data/runs/<model>`, as {"svg": bytes, "png": bytes}, or only the given
    forms.

    Raises InputError if there is no such figure, or its table is missing.
    """
    if name not in FIGURES:
        raise InputError(f"unknown figure '{name}' of a dictionary. Figures: {', '.join(FIGURES)}.")
    table, function = FIGURES[name]
    with styled():
        figure = function({table: read_table(run / f"{table}.parquet", table)}, model)
    return saved(figure, forms)
