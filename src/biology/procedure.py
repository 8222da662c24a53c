"""Does the decision rule keep its promises? Error rates of `claims.part_verdict`, by simulation with real clusters.

Required of it: `replicated` in at most 1 % of runs where there is no effect, and in at least 90 % of runs where the
effect is 1.5 times the stated minimum. The simulation draws items' scores in clusters of the sizes, and with the noise,
that a measured part really has, and sends them through the same functions as the measured scores.
"""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from biology.case import Claim, Part
from biology.claims import Check, Measured, Meta, estimate, part_verdict
from biology.config import StatisticsConfig
from biology.statistics import generator, resamples, score_noise, signs
from biology.tables import VERDICTS


def procedure_check(
    claim: Claim,
    part: Part,
    sizes: Sequence[int],
    between: float,
    residuals: Float[np.ndarray, " residual"],
    *,
    family: int = 1,
    simulations: int = 1000,
    settings: StatisticsConfig | None = None,
) -> dict[str, float]:
    """How often the decision rule errs on one part of a claim.

    Args:
        sizes: number of items of each cluster.
        between: standard deviation of the true score between clusters.
        residuals: pool of items' deviations from their cluster (centred here); drawing from it keeps skew.
        family: number of claims that Holm's correction is over.

    Returns:
        `false_positive`: rate of `replicated` without an effect (`equivalent`: with one as large as the margin),
        uncorrected, which is the worst case; `at_half`: the same at half the minimum; `power`: rate of `replicated` at
        1.5 times the minimum (`equivalent`: without an effect) with the sharpest correction, again the worst case;
        `missed`: rate of `not replicated` there. Control arms are simulated without effect.
    """
    settings = settings or StatisticsConfig()
    rng = generator(settings.seed, claim.id, part.name, "procedure")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    flips = signs(len(sizes), settings.permutations, rng)
    counts = resamples(len(sizes), settings.bootstrap, rng)
    arms = part.specificity.arms if part.specificity else ()
    residuals = residuals - residuals.mean()

    def cluster_scores(effect: float) -> Float[np.ndarray, "cluster simulation"]:
        items = rng.choice(residuals, size=(int(np.sum(sizes)), simulations))
        within = np.add.reduceat(items, starts, axis=0) / np.asarray(sizes)[:, None]
        return effect + rng.normal(0.0, between, within.shape) + within

    def rates(effect: float, claims: int) -> dict[str, float]:
        columns = np.stack(estimate(part, cluster_scores(effect), flips, counts), axis=1).tolist()
        others = [cluster_scores(0.0).mean(0).tolist() for _ in arms]
        tally = dict.fromkeys(VERDICTS, 0)
        for index, (statistic, low, high, p) in enumerate(columns):
            ratios = [statistic / other[index] if other[index] > 0 else math.inf for other in others]
            checks = tuple(Check("ratio", arm, r, part.specificity.ratio) for arm, r in zip(arms, ratios, strict=True))
            numbers = {"statistic": statistic, "low": low, "high": high, "p": p}
            measured = Measured(claim, part, Meta("", "", ""), passed=0, attempted=0, checks=checks, **numbers)
            tally[part_verdict(measured, min(1.0, claims * p))] += 1
        return {verdict: count / simulations for verdict, count in tally.items()}

    equivalent = part.direction == "equivalent"
    found = rates(0.0 if equivalent else 1.5 * part.minimum, family)
    return {
        "false_positive": rates(part.minimum if equivalent else 0.0, 1)["replicated"],
        "at_half": math.nan if equivalent else rates(part.minimum / 2, 1)["replicated"],
        "power": found["replicated"],
        "missed": found["not replicated"],
    }


def procedure_table(
    measured: Sequence[Measured], *, simulations: int = 1000, settings: StatisticsConfig | None = None
) -> pd.DataFrame:
    """`procedure_check` for every testable part, with the part's own clusters and noise: a row a part."""
    family = len({(part.meta.case, part.claim.id) for part in measured})
    rows = []
    for one in measured:
        if one.scores is None:
            continue
        sizes = one.scores.groupby("cluster").size()
        between, residuals = score_noise(one.scores)
        rates = procedure_check(
            one.claim,
            one.part,
            list(sizes),
            between,
            residuals,
            family=family,
            simulations=simulations,
            settings=settings,
        )
        row = {"claim": one.claim.id, "part": one.part.name, "clusters": len(sizes), "items": int(sizes.sum())}
        rows.append(row | {"between": between, "within": float(np.std(residuals))} | rates)
    return pd.DataFrame(rows)
