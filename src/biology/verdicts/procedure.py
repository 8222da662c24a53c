"""Error rates of the decision rule `claims.rule`, by simulation with real clusters.

Requirements: `replicated` in at most 1 % of runs without an effect, and in at least 90 % of runs with an effect of 1.5
times the stated minimum. The simulation draws scores of items in clusters of the sizes that a part really has, and
passes them through the same functions as measured scores. The noise is the measured one (`procedure_table`) or, before
anything is measured, the largest noise at which the requirements must hold (`registered_table`).
"""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from biology.cases.case import Case
from biology.cases.claim_file import UNREGISTERED, Claim, Part
from biology.config import StatisticsConfig
from biology.schemas import VERDICTS
from biology.statistics import bootstrap_interval, generator, resamples, score_noise, sign_flips
from biology.verdicts.claims import rule
from biology.verdicts.measuring import Check, Measured, estimate

NOISE = 1 / 8
"""Largest standard error of a part's mean, in units of its minimum, for which the power is required."""
LOUD = 8.0
"""Standard error, in the same units, beside which the minimum is negligible: noise then most often looks like an
effect."""


@dataclass(frozen=True)
class Simulation:
    """Runs of the decision rule on one part of a claim."""

    part: Part
    sizes: Sequence[int]
    """Number of items of each cluster."""
    between: float
    """Standard deviation of the true score between clusters."""
    residuals: Float[np.ndarray, " residual"]
    """Pool of items' deviations from their cluster's mean (centred here); drawing from it preserves skewness."""
    runs: int
    settings: StatisticsConfig
    rng: np.random.Generator

    @cached_property
    def flips(self) -> np.ndarray:
        return sign_flips(len(self.sizes), self.settings.permutations, self.rng)

    @cached_property
    def counts(self) -> np.ndarray:
        return resamples(len(self.sizes), self.settings.bootstrap, self.rng)

    def scores(self, effect: float) -> Float[np.ndarray, "cluster run"]:
        """Scores of the clusters for a true mean of `effect`."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(int)
        items = self.rng.choice(self.residuals - self.residuals.mean(), size=(int(np.sum(self.sizes)), self.runs))
        within = np.add.reduceat(items, starts, axis=0) / np.asarray(self.sizes)[:, None]
        return effect + self.rng.normal(0.0, self.between, within.shape) + within

    def rates(self, effect: float, factor: int) -> dict[str, float]:
        """How often each verdict is given, with p multiplied by `factor` for Holm's correction; control arms have no
        effect."""
        scores, specificity = self.scores(effect), self.part.specificity
        others = [self.scores(0.0).mean(0).tolist() for _ in (specificity.arms if specificity else ())]
        low, high = bootstrap_interval(scores, self.counts)
        mean, low, high = scores.mean(0).tolist(), low.tolist(), high.tolist()

        def judged(k: int, p: float) -> str:
            ratios = [mean[k] / other[k] if other[k] > 0 else math.inf for other in others]
            holds = all(Check("ratio", "", ratio, specificity.ratio).holds for ratio in ratios)
            return rule(self.part.direction, self.part.minimum, mean[k], low[k], high[k], p, holds)

        verdicts = [judged(k, 0.0) for k in range(self.runs)]
        # sign flips are the most expensive: only runs that the smallest p would make `replicated` get them
        shown = [k for k, verdict in enumerate(verdicts) if verdict == "replicated"]
        if shown:
            p = estimate(self.part, scores[:, shown], self.flips, self.counts)[3].tolist()
            for k, value in zip(shown, p, strict=True):
                verdicts[k] = judged(k, min(1.0, factor * value))
        return {verdict: verdicts.count(verdict) / self.runs for verdict in VERDICTS}

    def false_positive(self, fewest: int) -> float:
        """Rate of `replicated` without an effect (`equivalent`: with an effect as large as the margin)."""
        return self.rates(self.part.minimum if self.part.direction == "equivalent" else 0.0, fewest)["replicated"]

    def found(self, family: int) -> dict[str, float]:
        """Rates of the verdicts with an effect of 1.5 times the minimum (`equivalent`: without an effect)."""
        return self.rates(0.0 if self.part.direction == "equivalent" else 1.5 * self.part.minimum, family)


def procedure_check(
    claim: Claim,
    part: Part,
    sizes: Sequence[int],
    between: float,
    residuals: Float[np.ndarray, " residual"],
    *,
    family: int = 1,
    fewest: int = 1,
    simulations: int = 1000,
    settings: StatisticsConfig | None = None,
) -> dict[str, float]:
    """How often the decision rule errs on one part of a claim; arguments as in `Simulation`.

    Args:
        family: number of claims in Holm's correction: the strictest factor of a p.
        fewest: one more than the number of claims that no model can be asked (their p is 1): the mildest factor.

    Returns:
        `false_positive`, with the mildest correction, which is the worst case; `at_half`: the same at half the minimum;
        `power`: rate of `replicated` at 1.5 times the minimum with the strictest correction, again the worst case;
        `missed`: rate of `not replicated` there.
    """
    settings = settings or StatisticsConfig()
    rng = generator(settings.seed, claim.id, part.name, "procedure")
    simulation = Simulation(part, sizes, between, residuals, simulations, settings, rng)
    found = simulation.found(family)
    at_half = math.nan if part.direction == "equivalent" else simulation.rates(part.minimum / 2, fewest)["replicated"]
    return {
        "false_positive": simulation.false_positive(fewest),
        "at_half": at_half,
        "power": found["replicated"],
        "missed": found["not replicated"],
    }


def procedure_table(
    measured: Sequence[Measured], *, simulations: int = 1000, settings: StatisticsConfig | None = None
) -> pd.DataFrame:
    """`procedure_check` for every testable part, with the part's own clusters and noise: one row per part."""
    reasons = {(one.meta.case, one.claim.id): one.claim.untestable for one in measured}
    reasons = {name: reason for name, reason in reasons.items() if reason != UNREGISTERED}
    family, fewest = len(reasons), 1 + sum(reason is not None for reason in reasons.values())
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
            fewest=fewest,
            simulations=simulations,
            settings=settings,
        )
        row = {"claim": one.claim.id, "part": one.part.name, "clusters": len(sizes), "items": int(sizes.sum())}
        rows.append(row | {"between": between, "within": float(np.std(residuals))} | rates)
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ before anything is measured


def scored_clusters(case: Case, part: Part) -> tuple[int, ...]:
    """Number of held-out scored items of a part's experiment in each cluster."""
    only = case.experiments[part.experiment].only
    return tuple(
        Counter(
            item.cluster for item in case.items if (item.split, item.role) == ("heldout", "score") and item.meets(only)
        ).values()
    )


def noise(sizes: Sequence[int], error: float, tail: int) -> tuple[float, Float[np.ndarray, " residual"]]:
    """`between` and `residuals` of a simulation in which the mean has the standard error `error`.

    Half of the variance is between clusters; items are exponential, with the long tail above (`tail` 1) or below (-1).
    """
    of_a_cluster = error * math.sqrt(len(sizes) / 2)
    item = of_a_cluster / math.sqrt(np.mean(1 / np.asarray(sizes)))
    quantiles = -np.log(1 - (np.arange(1000) + 0.5) / 1000) - 1
    return of_a_cluster, tail * item * quantiles


def registered_table(
    cases: Mapping[str, tuple[Case, Sequence[Claim]]], *, simulations: int, settings: StatisticsConfig
) -> pd.DataFrame:
    """Error rates of every part of every registered claim, with the clusters of its case's prompts: one row per part.

    Holm's family is all these claims, with the corrections of `procedure_check`. A decrease is an increase whose noise
    has its long tail on the other side, so both tails are simulated and the worse one counts. Parts of the same
    structure are simulated once, with their minimum as the unit. The power takes only a quarter of `simulations`.
    """
    claims = [claim for _, listed in cases.values() for claim in listed]
    family, fewest = len(claims), 1 + sum(not claim.parts for claim in claims)
    found: dict[tuple[object, ...], dict[str, float]] = {}
    rows = []
    for name, (case, listed) in cases.items():
        for claim, part in [(one, part) for one in listed for part in one.parts]:
            sizes = scored_clusters(case, part)
            if not sizes:
                continue  # a case without a prompt set, or prompts asked only of models of an extended corpus
            structure = (sizes, part.direction == "equivalent", part.specificity)
            if structure not in found:
                found[structure] = _structure_rates(part, sizes, family, fewest, simulations, settings)
            row = {"case": name, "claim": claim.id, "part": part.name, "direction": part.direction}
            rows.append(row | {"clusters": len(sizes), "items": sum(sizes)} | found[structure])
    return pd.DataFrame(rows)


def _structure_rates(
    part: Part, sizes: Sequence[int], family: int, fewest: int, simulations: int, settings: StatisticsConfig
) -> dict[str, float]:
    unit, rng = part.model_copy(update={"minimum": 1.0}), generator(settings.seed, sizes, part.name, "registered")

    def tails(error: float, runs: int) -> list[Simulation]:
        return [Simulation(unit, sizes, *noise(sizes, error, tail), runs, settings, rng) for tail in (1, -1)]

    # in loud noise no interval lies within a margin, but an effect is often seen without one
    worst = NOISE if part.direction == "equivalent" else LOUD
    return {
        "false_positive": max(one.false_positive(fewest) for one in tails(worst, simulations)),
        "power": min(one.found(family)["replicated"] for one in tails(NOISE, simulations // 4)),
    }
