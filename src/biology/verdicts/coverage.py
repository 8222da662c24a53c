"""Coverage of intervals of a mean when clusters are few and skewed: simulated with the cluster sizes of the cases'
prompts.

An interval of 95 % should miss the true mean in 2.5 % of runs on either side. The interval of the verdicts
(`statistics.bootstrap_interval`) is compared with the candidates from which it was chosen. All populations have their
long tail above. For a tail below, exchange the two sides: every interval here is mirrored when its scores change sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.config import StatisticsConfig
from biology.statistics import COVERAGE, DRAWN, bootstrap_interval, generator, resamples, weighted
from biology.verdicts.measuring import NO_PART
from biology.verdicts.procedure import Simulation, noise, scored_clusters

Scores = Float[np.ndarray, "cluster run"]
Bounds = Float[np.ndarray, "2 run"]
Counts = Int[np.ndarray, "draw cluster"]
TAILS = np.array([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])

# ------------------------------------------------------------------------------------------------------- populations


def _items(sizes: Sequence[int], runs: int, rng: np.random.Generator) -> Scores:
    """Exponential items in normal clusters: the noise of `procedure.registered_table`."""
    between, residuals = noise(sizes, 1.0, 1)
    return Simulation(NO_PART, sizes, between, residuals, runs, StatisticsConfig(), rng).scores(0.0)


def _clusters(shape: float) -> Callable[[Sequence[int], int, np.random.Generator], Scores]:
    """Gamma-distributed clusters, with exponential items of half their spread within."""

    def draw(sizes: Sequence[int], runs: int, rng: np.random.Generator) -> Scores:
        between = (rng.gamma(shape, size=(len(sizes), runs)) - shape) / np.sqrt(shape)
        scale = 0.5 / np.sqrt(np.mean(1 / np.asarray(sizes)))
        within = [scale * (rng.gamma(size, size=runs) / size - 1) for size in sizes]
        return between + np.stack(within)

    return draw


def _rights(sizes: Sequence[int], runs: int, rng: np.random.Generator) -> Scores:
    """Prompts that are right or wrong, one in ten right, at rates that differ between clusters (beta-binomial)."""
    rate, spread = 0.1, 9.0
    rates = rng.beta(rate * spread, (1 - rate) * spread, size=(len(sizes), runs))
    count = np.asarray(sizes)[:, None]
    return rng.binomial(count, rates) / count - rate


def _heavy(sizes: Sequence[int], runs: int, rng: np.random.Generator) -> Scores:
    """Lognormal clusters."""
    sigma = 0.75
    return np.exp(sigma * rng.normal(size=(len(sizes), runs))) - np.exp(sigma**2 / 2)


POPULATIONS: Mapping[str, Callable[[Sequence[int], int, np.random.Generator], Scores]] = {
    "exponential items": _items,
    "gamma clusters, skewness 1": _clusters(4.0),
    "exponential clusters, skewness 2": _clusters(1.0),
    "one in ten right": _rights,
    "lognormal clusters, skewness 3.3": _heavy,
}
"""Functions from the clusters' numbers of items to scores [cluster, run] with mean zero."""

# --------------------------------------------------------------------------------------------------------- intervals


def _moments(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error and the skewness of each column."""
    centred = scores - scores.mean(0)
    variance = np.maximum((centred**2).mean(0), 1e-300)
    return scores.mean(0), np.sqrt(variance / (len(scores) - 1)), (centred**3).mean(0) / variance**1.5


def student(scores: Scores, counts: Counts) -> Bounds:
    """Student's t."""
    mean, error, _ = _moments(scores)
    return mean + stats.t.ppf(TAILS, len(scores) - 1)[:, None] * error


def johnson(scores: Scores, counts: Counts) -> Bounds:
    """Student's t, shifted for skewness (Johnson 1978, Journal of the American Statistical Association 73, 536-544)."""
    mean, error, skewness = _moments(scores)
    t = stats.t.ppf(TAILS, len(scores) - 1)[:, None]
    return mean + error * (t + skewness * (1 + 2 * t**2) / (6 * np.sqrt(len(scores))))


def percentile(scores: Scores, counts: Counts) -> Bounds:
    """Percentiles of resampled means."""
    return np.quantile(weighted(counts, scores) / counts[0].sum(), TAILS, axis=0)


def bca(scores: Scores, counts: Counts) -> Bounds:
    """Percentiles, corrected for bias and acceleration (Efron 1987, same journal 82, 171-185)."""
    mean, _, skewness = _moments(scores)
    drawn = np.sort(weighted(counts, scores) / counts[0].sum(), axis=0)
    below = ((drawn < mean - 1e-12).mean(0) + (drawn <= mean + 1e-12).mean(0)) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    z = bias + stats.norm.ppf(TAILS)[:, None]
    level = stats.norm.cdf(bias + z / (1 - skewness / (6 * np.sqrt(len(scores))) * z))
    return np.take_along_axis(drawn, np.round(level * (len(drawn) - 1)).astype(int), axis=0)


def hall(scores: Scores, counts: Counts) -> Bounds:
    """Bootstrap-t of a cubic transform that removes skewness (Hall 1992, Journal of the Royal Statistical Society B 54,
    221-228)."""
    mean, error, skewness = _moments(scores)
    root, centred = np.sqrt(len(scores)), scores - mean
    first, second, third = (weighted(counts, centred**power) / counts[0].sum() for power in (1, 2, 3))
    variance = np.maximum(second - first**2, (centred**2).mean(0) / len(scores))
    lean = (third - 3 * first * second + 2 * first**3) / variance**1.5 / root
    t = first / np.sqrt(variance) * root
    low, high = np.quantile(t + lean * t**2 / 3 + lean**2 * t**3 / 27 + lean / 6, TAILS, axis=0)
    lean = np.where(np.abs(skewness) < 1e-9, 1e-9, skewness) / root
    back = [3 / lean * (np.cbrt(1 + lean * (level - lean / 6)) - 1) for level in (high, low)]
    return mean - error * np.sqrt(1 - 1 / len(scores)) * np.stack(back)


INTERVALS: Mapping[str, tuple[Callable[[Scores, Counts], Bounds], float]] = {
    "Student": (student, 1.0),
    "Johnson": (johnson, 1.0),
    "percentile": (percentile, 1.0),
    "BCa": (bca, 1.0),
    "Hall": (hall, 1.0),
    "bootstrap-t": (bootstrap_interval, 1.0),
    "chosen": (bootstrap_interval, DRAWN),
}
"""Functions that give the bounds of the mean of each column, and the share of the clusters in their resamples. Verdicts
use the last."""


# -------------------------------------------------------------------------------------------------------- simulation


def missed(
    population: str, sizes: Sequence[int], intervals: Sequence[str], *, runs: int, draws: int, at_once: int = 500
) -> dict[str, tuple[float, float]]:
    """For each interval, the shares of runs in which the true mean is below its lower bound, and above its upper
    bound."""
    rng = generator("coverage", population, tuple(sizes))
    counted = {name: np.zeros(2) for name in intervals}
    for _ in range(runs // at_once):
        scores = POPULATIONS[population](sizes, at_once, rng)
        shares = dict.fromkeys(INTERVALS[name][1] for name in intervals)
        counts = {share: resamples(len(sizes), draws, rng, share) for share in shares}
        for name in intervals:
            bounds, share = INTERVALS[name]
            low, high = bounds(scores, counts[share])
            counted[name] += [(low > 0).sum(), (high < 0).sum()]
    return {name: tuple((count / (runs // at_once * at_once)).tolist()) for name, count in counted.items()}


def coverage_table(clusters: Mapping[str, Sequence[int]], *, runs: int, draws: int) -> pd.DataFrame:
    """`missed` for every population and interval; `clusters` holds the numbers of items in the clusters of each case.

    Columns: case, clusters, population, interval, below, above, covered.
    """
    rows = [
        {"case": case, "clusters": len(sizes), "population": population, "interval": interval, "below": below,
         "above": above, "covered": 1 - below - above}
        for case, sizes in clusters.items()
        for population in POPULATIONS
        for interval, (below, above) in missed(population, sizes, list(INTERVALS), runs=runs, draws=draws).items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------------------------------------- docs

BEGIN, END = "<!-- coverage -->", "<!-- /coverage -->"


def case_clusters(root: Path) -> dict[str, tuple[int, ...]]:
    """The numbers of scored items in the clusters of every case with a prompt set, for the items of its first claim."""
    cases = {name: load_case(root, name) for name in discover_cases(root)}
    first = {name: next(claim.parts[0] for claim in load_claims(root, name) if claim.parts) for name in cases}
    found = {name: scored_clusters(case, first[name]) for name, case in cases.items()}
    return {name: sizes for name, sizes in sorted(found.items(), key=lambda pair: len(pair[1])) if sizes}


def markdown(table: pd.DataFrame) -> str:
    """The table of docs/explanation/statistics.md: one row per population and case, below / above in per cent for every
    interval."""
    names = list(dict.fromkeys(table["interval"]))
    lines = ["| scores | clusters | " + " | ".join(names) + " |", "|---|---:|" + "---|" * len(names)]
    for (population, clusters), rows in table.groupby(["population", "clusters"], sort=False):  # type: ignore[misc]
        found = rows.set_index("interval")[["below", "above"]]
        told = [f"{100 * found.at[name, 'below']:.1f} / {100 * found.at[name, 'above']:.1f}" for name in names]
        lines.append(f"| {population} | {clusters} | {' | '.join(told)} |")
    return "\n".join(lines)


def with_table(text: str, table: pd.DataFrame) -> str:
    """`text` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{markdown(table)}\n{END}{rest.partition(END)[2]}"
