"""How well attributions predict ablations: the summary of table `ablation_prediction`, and its figure."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from biology.figures.drawing import canvas, captioned, colour

DIGITS = 4
WAY = ["target", "rule", "attention", "norms"]
TITLES = {
    "logit": "the answer's logit,\nmean of all removed",
    "contrast": "the answer's logit minus\nthe runner-up's",
    "feature": "another feature, what\nlies between held",
}


def summary(measured: pd.DataFrame) -> pd.DataFrame:
    """For each linearisation, the median over prompts with its 95 % interval (order statistics): its own columns, then median,
    low, high, prompts."""
    rows = []
    for way, group in measured.groupby(WAY, sort=False):
        values = group["spearman"].dropna().to_numpy()
        interval = stats.quantile_test(values, p=0.5).confidence_interval()
        found = {"median": float(np.median(values)), "low": float(interval.low), "high": float(interval.high)}
        rows.append({**dict(zip(WAY, way, strict=True)), **found, "prompts": len(values)})
    return pd.DataFrame(rows).round(DIGITS)


def figure(found: pd.DataFrame, model: str) -> Figure:
    """The median correlation of each linearisation in a summary, one panel per target."""
    ways = list(found[WAY[1:]].drop_duplicates().itertuples(index=False, name=None))
    made = canvas(8.4, 1.2 + 0.24 * len(ways), layout="constrained")
    panels = made.subplots(1, len(TITLES), sharey=True)
    edges = found["target"] == "feature"
    best, edge = (found.loc[found.loc[of, "median"].idxmax()] for of in (~edges, edges))
    for axes, (target, title) in zip(panels, TITLES.items(), strict=True):
        of_target = found[found["target"] == target].set_index(WAY[1:])
        for place, way in enumerate(ways):
            row = of_target.loc[way]
            tint = colour("C0" if way[1:] == ("frozen", "frozen") else "C5")
            axes.plot([row["low"], row["high"]], [place, place], color=tint, linewidth=1.4)
            axes.plot(row["median"], place, "o", color=tint, markersize=4.5, clip_on=False)
        axes.set(title=title, xlim=(min(0.0, found["low"].min()), 1), ylim=(len(ways) - 0.4, -0.6))
    panels[0].set_yticks(range(len(ways)), [_named(*way) for way in ways])
    n = int(found["prompts"].max())
    return captioned(
        made,
        f"{model}: attribution foretells ablation best ({best['median']:.2f}) as {_named(*best[WAY[1:]])}, target {best['target']}; "
        f"edges foretell patching best ({edge['median']:.2f}) as {_named(*edge[WAY[1:]])}",
        "Spearman's correlation, over some sixty features of a prompt (right: over the pairs of them), of activation times gradient with what "
        f"ablating the feature does: median of {n} prompts, with its 95 % interval. Dark: attention patterns and norm scales frozen, as in the papers.",
    )


def _named(rule: str, attention: str, norms: str) -> str:
    live = [name for name, held in (("attention", attention), ("norms", norms)) if held == "live"]
    return f"{rule}, {' and '.join(live)} live" if live else f"{rule}, frozen"
