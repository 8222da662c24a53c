"""The figure of the multi-hop case that is its own: do graphs foretell, prompt by prompt, what an inhibition costs?"""

import pandas as pd
from matplotlib.figure import Figure

from biology.figures.case_figures import NothingToDraw, canvas, captioned, legend_marks, signed, statement
from biology.figures.figure_data import ARM, arm_style, rank_correlation, scored
from biology.tables import Tables

SHOWN = ("effect", "match")
BEYOND = "effect minus matched"


def _pairs(tables: Tables) -> dict[str, pd.DataFrame]:
    """By arm, a row for each prompt: cluster, share of influence through the set, and the share of the answer's logit that
    is lost when the set is inhibited (means over matched sets)."""
    share = _means(tables, "graph", "path_share")
    logit = _means(tables, "inhibit_bridge", "answer_logit")
    pairs = {
        arm: pd.DataFrame({"share": share[arm], "lost": 1 - logit[arm] / logit["clean"]}).dropna() for arm in SHOWN
    }
    pairs[BEYOND] = (pairs["effect"] - pairs["match"]).dropna()
    return {arm: rows.reset_index() for arm, rows in pairs.items()}


def _means(tables: Tables, experiment: str, outcome: str) -> pd.DataFrame:
    """Mean over draws of every held-out prompt [cluster and item, arm]."""
    rows = scored(tables, experiment)
    rows = rows[rows["outcome"] == outcome]
    if not set(SHOWN) <= set(rows["arm"]):
        raise NothingToDraw(
            f"experiment '{experiment}' has no {outcome} of the bridge and of matched sets on held-out prompts."
        )
    return rows.pivot_table(index=["cluster", "item"], columns="arm", values="value", sort=True)


def foretold(tables: Tables, subject: str | None = None, case: object = None) -> Figure:
    """Share of paths through the bridge against what its inhibition costs, prompt by prompt, beside matched sets."""
    pairs = _pairs(tables)
    if any(rows[column].nunique() < 2 for rows in pairs.values() for column in ("share", "lost")):
        # a model without a bridge: nothing runs through it, and nothing is lost with it
        return statement(
            "What the graph foretells cannot be ranked on this model",
            "Shares or losses are the same in every prompt: no rank correlation is defined.",
        )
    told = {arm: rank_correlation(rows, "share", "lost") for arm, rows in pairs.items()}
    figure = canvas(6.6, 2.9, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    for arm in reversed(SHOWN):
        style = arm_style(arm) | {"markersize": 2.2, "alpha": 0.55, "markeredgewidth": 0}
        left.plot(pairs[arm]["share"], pairs[arm]["lost"], linestyle="none", rasterized=True, **style)
    left.set(
        xlabel="share of |influence| through the set", ylabel="share of the answer's logit\nlost when it is inhibited"
    )
    names = {arm: ARM[arm][0] if arm in ARM else arm for arm in told}
    for y, (arm, (middle, low, high)) in enumerate(told.items()):
        style = arm_style(arm if arm in ARM else "effect")
        right.plot([low, high], [-y, -y], color=style["color"])
        right.plot(middle, -y, linestyle="none", **style)
    right.axvline(0, color=arm_style("clean")["color"], linewidth=0.8)
    right.set_yticks([-y for y in range(len(told))], list(names.values()))
    right.tick_params(axis="y", length=0)
    right.set(xlim=(-1.02, 1.02), ylim=(0.5 - len(told), 0.5), xlabel="rank correlation")
    figure.legend(handles=legend_marks(left, SHOWN), loc="outside upper right", ncols=2)
    (middle, low, high), (null, *_) = told["effect"], told["match"]
    return captioned(
        figure,
        "Rank correlation of the graph's share of paths through the bridge with what its inhibition takes from the answer: "
        f"{signed(round(middle, 2))} ({signed(round(low, 2))} to {signed(round(high, 2))}); matched random features {signed(round(null, 2))}",
        "A point is a held-out prompt: across, how much of the absolute influence on the answer runs through the bridge in its graph; "
        "up, which share of the answer's logit (less the mean of all tokens) is gone once the bridge is inhibited; grey, the means over matched sets. "
        "On the right Spearman's rank correlation over prompts with its 95 % interval over states: for the bridge, for matched "
        "sets, and for what the bridge has beyond them. Reported beside the claims; no claim rests on it.",
    )


FIGURES = {"foretold": foretold}
