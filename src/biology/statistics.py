"""Tests and intervals on clusters: sign flips, studentised bootstrap, Holm's correction.

The interval of a mean is the bootstrap-t one (Efron 1982, section 10.10; Hall 1988, Annals of Statistics 16, 927-953; DiCiccio and
Efron 1996, Statistical Science 11, section 4). Clusters are few and their scores are skewed, and then the percentiles of
resampled means promise too much: a sample knows too little of its long tail, so the bound on that side is missed twice as
often as promised, and it is the bound on which a verdict rests. Resampling the mean *over its standard error* corrects for the
skewness that the sample has; resamples that hold only `DRAWN` of the clusters (m out of n, Bickel, Goetze and van Zwet 1997, Statistica
Sinica 7, 1-31) are as much more skewed as a sample is less skewed than what it comes from. `coverage.py` measures what each
interval covers.

All functions take scores as [cluster, k], k columns at once, so that a claim (k = 1) and the simulation that checks the
procedure (k = number of simulations) run through the same lines.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

ALPHA = 0.01
"""Largest Holm-corrected p of a replicated claim."""
COVERAGE = 0.95
"""Of every interval in this project."""
DRAWN = 0.8
"""Share of the clusters that a resample of the bootstrap-t holds; set on simulated scores (`coverage.py`), before any verdict."""
FEWEST = 5
"""Clusters below which resamples are too alike to tell how a mean varies; there no interval is narrower than Student's."""
METHODS = {
    "percentile-1": "intervals were percentiles of resampled means, which promise too much where clusters are few and skewed, "
    "and nothing was said of supernodes without members",
    "studentised-2": "intervals are studentised",
}
"""Names of the rules by which committed verdicts and intervals were made, oldest first, and what sets each apart."""
METHOD = "studentised-2"
"""The present rule: that of this module and of `claims.py`."""


def generator(*names: object) -> np.random.Generator:
    """A random generator that depends on `names` only, so that no claim's draws depend on what was judged before it."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:16]))


def weighted(
    weights: Int[np.ndarray, "draw cluster"], scores: Float[np.ndarray, "cluster k"]
) -> Float[np.ndarray, "draw k"]:
    """Sums of the scores over clusters, with weights."""
    # einsum and not `@`: the sum is then the same whatever the number of BLAS threads
    blocks = np.array_split(weights, max(1, weights.size // 10**6))
    return np.concatenate([np.einsum("dc,ck->dk", block.astype(float), scores) for block in blocks])


def signs(clusters: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Sign flips [draw, cluster] of the permutation test: all of them if that is at most `draws`, else random ones."""
    if 2**clusters <= draws:
        return (((np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1) * 2 - 1).astype(np.int8)
    return (rng.integers(0, 2, size=(draws, clusters), dtype=np.int8) * 2 - 1).astype(np.int8)


def sign_flip_p(scores: Float[np.ndarray, "cluster k"], flips: np.ndarray) -> Float[np.ndarray, " k"]:
    """One-sided p of "the mean is not above zero" for each column: how often flipped signs give a mean as large.

    Random flips are counted together with the observed signs, (1 + hits) / (1 + draws), so that p is never zero.
    """
    observed = scores.sum(0)
    tolerance = 1e-9 * np.abs(scores).sum(0)  # the same subset of clusters summed in another order is a tie
    # with that tolerance the last bits of a sum say nothing, so many columns may be summed by `@`, which takes a fifth of the time
    many = scores.shape[1] > 1
    blocks = np.array_split(flips, max(1, flips.size // 10**5 if many else 1))
    sums = (block.astype(float) @ scores if many else weighted(block, scores) for block in blocks)
    hits = np.sum([(one >= observed - tolerance).sum(0) for one in sums], axis=0)
    exact = len(flips) == 2 ** scores.shape[0]
    return hits / len(flips) if exact else (1 + hits) / (1 + len(flips))


def resamples(
    clusters: int, draws: int, rng: np.random.Generator, share: float = DRAWN
) -> Int[np.ndarray, "draw cluster"]:
    """How often each cluster is drawn in `draws` bootstrap samples that hold a share of all clusters (two at least)."""
    return rng.multinomial(max(2, round(share * clusters)), np.full(clusters, 1 / clusters), size=draws)


def bootstrap_interval(
    scores: Float[np.ndarray, "cluster k"], counts: Int[np.ndarray, "draw cluster"]
) -> Float[np.ndarray, "2 k"]:
    """Lower and upper bound of the mean of each column, by the studentised bootstrap over the resamples `counts`.

    A resample of few distinct clusters has next to no variance, and would make the bounds as wide as one likes. Its variance
    counts as at least the n-th part of that of all n clusters, as wide as one cluster can make it (after Polansky 2000,
    Canadian Journal of Statistics 28, 501-516). Where all clusters have the same score, or there is only one, both bounds are
    the mean: nothing says how it varies.
    """
    clusters, drawn = len(scores), int(counts[0].sum())
    means = scores.mean(0)
    centred = scores - means
    variance = (centred**2).mean(0)
    equal = variance <= (1e-12 * np.abs(scores).max(0)) ** 2  # the rounding of their mean
    shift = weighted(counts, centred) / drawn
    resampled = np.maximum(weighted(counts, centred**2) / drawn - shift**2, variance / clusters)
    pivot = shift / np.sqrt(np.where(equal, 1.0, resampled) / (drawn - 1))
    low, high = np.quantile(np.where(equal, 0.0, pivot), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    if 1 < clusters < FEWEST:
        student = np.where(equal, 0.0, stats.t.ppf((1 + COVERAGE) / 2, clusters - 1))
        low, high = np.minimum(low, -student), np.maximum(high, student)
    error = np.sqrt(variance / max(1, clusters - 1))
    return np.stack([means - high * error, means - low * error])


def holm(p: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """Holm's step-down correction; a missing p (untestable) counts as 1, so that nobody gains by failing a gate."""
    adjusted, running = {}, 0.0
    ordered = sorted(p.items(), key=lambda pair: 1.0 if math.isnan(pair[1]) else pair[1])
    for rank, (name, value) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * (1.0 if math.isnan(value) else value)))
        adjusted[name] = running
    return adjusted


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """The share of hits among `n`, and Wilson's interval of it; without any, no share and all of 0 to 1."""
    if not n:
        return float("nan"), 0.0, 1.0
    found = stats.binomtest(hits, n)
    low, high = found.proportion_ci(confidence_level=COVERAGE, method="wilson")
    return found.statistic, low, high


def score_noise(scores: pd.DataFrame) -> tuple[float, Float[np.ndarray, " residual"]]:
    """Standard deviation of the true score between clusters, and the items' deviations from their cluster.

    `scores` has columns cluster and score. Method of moments for a one-way random-effects model; the deviations are
    scaled up for the mean that was taken out.
    """
    groups = scores.groupby("cluster")["score"]
    sizes, means = groups.size(), groups.mean()
    several = scores["cluster"].map(sizes) > 1
    size = scores["cluster"].map(sizes)[several]
    residuals = (scores["score"] - scores["cluster"].map(means))[several].to_numpy() * np.sqrt(
        size / (size - 1)
    ).to_numpy()
    within = float(np.mean(residuals**2)) if len(residuals) else 0.0
    between = float(np.var(means.to_numpy(), ddof=1)) - within * float(np.mean(1 / sizes.to_numpy()))
    return math.sqrt(max(0.0, between)), residuals if len(residuals) else np.zeros(1)
