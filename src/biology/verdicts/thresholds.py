"""Thresholds at which a verdict would change: the registered rule over a grid of thresholds.

A threshold is a judgement, so a reader may ask for the verdict at another one. The rule, the interval and the corrected
p stay as registered. Only the threshold of one part moves (as with `biology judge --threshold CLAIM/PART=X`), and with
it the p of an equivalence test, which asks whether the score lies outside the margin.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from biology.cases.claim_file import UNREGISTERED
from biology.config import StatisticsConfig
from biology.statistics import generator, holm, sign_flip_p, sign_flips
from biology.verdicts.claims import rule

STEPS = (20, 10, 5, 2, 1)
"""Numbers of grid steps between zero and the registered threshold; the largest that reaches far enough is used."""
MOST = 120
"""Largest number of thresholds in a grid."""


@dataclass(frozen=True)
class ThresholdSweep:
    """Thresholds of one part, ascending, each with the corrected p and the verdict on the part."""

    thresholds: tuple[float, ...]
    p_holm: tuple[float, ...]
    verdicts: tuple[str, ...]
    registered: int
    """Index of the registered threshold."""

    @property
    def zones(self) -> list[tuple[str, int, int]]:
        """Runs of neighbouring thresholds with one verdict: verdict, index of the first and of the last."""
        zones: list[tuple[str, int, int]] = []
        for index, verdict in enumerate(self.verdicts):
            if zones and zones[-1][0] == verdict:
                zones[-1] = (verdict, zones[-1][1], index)
            else:
                zones.append((verdict, index, index))
        return zones


def family(parts: pd.DataFrame) -> dict[tuple[str, str], float]:
    """The uncorrected p of every registered claim of a model, by (case, claim): the largest of its parts."""
    found: dict[tuple[str, str], float] = {}
    for (case, claim), rows in parts[parts["reason"] != f"{UNREGISTERED}."].groupby(["case", "claim"], sort=False):
        untestable = (rows["verdict"] == "untestable").any()
        found[str(case), str(claim)] = math.nan if untestable else float(rows["p"].max())
    return found


def thresholds(registered: float, reach: float) -> tuple[list[float], int]:
    """A grid from one step above zero to beyond `reach`, and the index of the registered threshold in it."""
    steps = next((n for n in STEPS if math.ceil(n * reach / registered) <= MOST), STEPS[-1])
    count = max(2 * steps, min(MOST, math.ceil(steps * reach / registered) + 1))
    grid = [float(f"{registered * k / steps:.6g}") for k in range(1, count + 1)]  # numbers that are easy to type
    grid[steps - 1] = registered
    return grid, steps - 1


def threshold_sweep(
    part: pd.Series, scores: np.ndarray, others: Mapping[tuple[str, str], float], settings: StatisticsConfig
) -> ThresholdSweep:
    """The verdicts on a part (a row of table `parts`) at other thresholds.

    Args:
        scores: its cluster scores [cluster], in the order of table `clusters`.
        others: `family` of the model's parts.
    """
    equivalent = part["direction"] == "equivalent"
    reach = 1.2 * max(abs(part["low"]), abs(part["high"])) if equivalent else 2.2 * max(part["high"], part["statistic"])
    grid, registered = thresholds(part["threshold"], reach)
    if equivalent:
        rng = generator(settings.seed, part["claim"], part["part"], "permutation")
        flips, margins = sign_flips(len(scores), settings.permutations, rng), np.array(grid)[None]
        column = scores[:, None]
        raw = np.maximum(sign_flip_p(margins - column, flips), sign_flip_p(margins + column, flips))
        name = (part["case"], part["claim"])
        corrected = [holm({**others, name: float(p)})[name] for p in raw]
    else:
        corrected = [float(part["p_holm"])] * len(grid)
    measured = (part["statistic"], part["low"], part["high"])
    verdicts = [
        rule(part["direction"], threshold, *measured, p, bool(part["checks_hold"]))
        for threshold, p in zip(grid, corrected, strict=True)
    ]
    return ThresholdSweep(tuple(grid), tuple(corrected), tuple(verdicts), registered)
