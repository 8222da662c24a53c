"""What figures read from the tables of a case: rows of scored held-out prompts, means and intervals, the look of each
arm.

Rates and intervals are those of the claims: items are averaged within clusters, and the 95 % interval is a studentised
bootstrap over clusters (`statistics.py`).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from biology.arms import CONTROLS
from biology.cases.case import Case
from biology.figures.drawing import NothingToDraw, colour, words
from biology.figures.prompt_figures import judged_parts
from biology.statistics import COVERAGE, bootstrap_interval, generator, resamples
from biology.tables import Tables

ARM = {
    # printed name, colour, marker, size of the marker
    "effect": ("effect", "C0", "o", 5.5),
    "match": (CONTROLS["match"].brief, "axes.edgecolor", "s", 3.6),
    "donor": (CONTROLS["donor"].brief, "C1", "^", 4.2),
    "position": (CONTROLS["position"].brief, "C2", "D", 3.6),
    "direction": (CONTROLS["direction"].brief, "C3", "P", 4.2),
    "shuffle": (CONTROLS["shuffle"].brief, "C4", "v", 4.2),
    "clean": (CONTROLS["clean"].brief, "text.color", "x", 4.2),
    "random": (CONTROLS["random"].brief, "C5", "p", 4.2),
    "smaller": (CONTROLS["smaller"].brief, "C5", "<", 4.2),
}


RESAMPLES = 2000


def experiments(
    tables: Tables, subject: str | None, figure: str, wanted: Callable[[pd.DataFrame], bool]
) -> dict[str, pd.DataFrame]:
    """Evidence on scored held-out items, by experiment: the one requested (or its `<name>/dose`), or all that fit."""
    prompts, evidence = tables["prompts"], tables["evidence"]
    items = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    found = {}
    for experiment in dict.fromkeys(evidence["experiment"]):
        if subject is not None and experiment.partition("/")[0] != subject:
            continue
        gates = [gate for gate in judged_parts(tables, experiment)["gate"] if gate in items]
        passing = items[items[gates[0] if gates else "correct"]]
        factors = [column for column in passing if column == "item" or column not in evidence]
        rows = evidence[evidence["experiment"] == experiment].merge(passing[factors], on="item", how="inner")
        if len(rows) and wanted(rows):
            found[experiment] = rows
    if not found:
        known = ", ".join(dict.fromkeys(evidence["experiment"])) or "none"
        raise NothingToDraw(f"figure '{figure}': no fitting held-out rows in table 'evidence' (experiments: {known}).")
    return found


def judged_doses(evidence: pd.DataFrame, experiment: str) -> list[float]:
    """Strengths at which the experiment of a dose curve was itself run on held-out items."""
    rows = evidence[(evidence["experiment"] == experiment.partition("/")[0]) & (evidence["split"] == "heldout")]
    return sorted(set(rows.loc[rows["arm"] == "effect", "strength"]))


def judged_outcome(tables: Tables, experiment: str, rows: pd.DataFrame, case: Case | None) -> str:
    """The outcome that a claim uses, or else the experiment's first."""
    base = experiment.partition("/")[0]
    listed = case.experiments[base].outcomes if case and base in case.experiments else ()
    wanted = [*judged_parts(tables, experiment)["outcome"], *listed, *rows["outcome"]]
    return next(outcome for outcome in wanted if outcome in set(rows["outcome"]))


def by_level(rows: pd.DataFrame, by: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each level of a factor, with its name in words; empty if there is only one."""
    levels = list(dict.fromkeys(rows[by])) if by in rows else []
    return [(words(str(level)), rows[rows[by] == level]) for level in levels] if len(levels) > 1 else []


def with_donor_kind(rows: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """The rows with a column `donor_kind`, the kind of each donor's prompt, if prompts have kinds."""
    prompts = tables["prompts"]
    if "donor" not in rows or "kind" not in prompts:
        return rows
    kinds = dict(zip(prompts["item"], prompts["kind"], strict=True))
    return rows.assign(donor_kind=rows["donor"].map(kinds))


def interval(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over clusters of the means over items, and its interval."""
    if not len(rows):
        raise NothingToDraw("no held-out item has rows in table 'evidence' for one of the intervals of this figure.")
    items = rows.groupby(["cluster", "item"], sort=True)["value"].mean()
    means = items.groupby(level="cluster", sort=True).mean().to_numpy()[:, None]
    low, high = bootstrap_interval(means, _drawn(len(means)))
    return float(means.mean()), float(low[0]), float(high[0])


@functools.lru_cache(maxsize=8)
def _drawn(clusters: int) -> np.ndarray:
    """The resamples of so many clusters, which all intervals share."""
    counts = resamples(clusters, RESAMPLES, generator("figure", clusters))
    counts.setflags(write=False)
    return counts


def rank_correlation(rows: pd.DataFrame, one: str, other: str) -> tuple[float, float, float]:
    """Spearman's rank correlation of two columns over all rows, with percentiles over resampled clusters."""
    values = rows[[one, other]].to_numpy(float)
    places = list(rows.groupby("cluster", sort=True).indices.values())
    counts = resamples(len(places), RESAMPLES, generator("figure", len(places)), share=1.0)
    often = [[np.tile(at, times) for times in range(counts.max() + 1)] for at in places]

    def correlation(found: np.ndarray) -> float:
        return float(pd.DataFrame(found).corr(method="spearman").to_numpy()[0, 1])

    drawn = [
        correlation(values[np.concatenate([of[n] for of, n in zip(often, times, strict=True)])]) for times in counts
    ]
    low, high = np.nanquantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return correlation(values), float(low), float(high)


def arm_style(arm: str) -> dict[str, Any]:
    """Colour and marker of an arm, for `Axes.plot`."""
    _, tint, marker, points = ARM[arm]
    return {"color": colour(tint), "marker": marker, "markersize": points}


def scored(tables: Tables, experiment: str) -> pd.DataFrame:
    """Evidence of one experiment (or `<name>/dose`) on the scored held-out items that pass its gate, with their factors."""
    found = experiments(tables, experiment.partition("/")[0], experiment, lambda _: True)
    if experiment not in found:
        raise NothingToDraw(f"table 'evidence' has no held-out rows of '{experiment}', only of {', '.join(found)}.")
    return found[experiment]
