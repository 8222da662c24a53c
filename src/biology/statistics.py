"""Tests and intervals on clusters: sign flips, studentised bootstrap, Holm's correction.

The interval of a mean is the bootstrap-t interval (Efron 1982, section 10.10; Hall 1988, Annals of Statistics 16,
927-953; DiCiccio and Efron 1996, Statistical Science 11, section 4). Clusters are few and their scores are skewed.
Percentiles of resampled means are then too narrow: few clusters rarely include the long tail, so the bound on that side,
which decides a verdict, misses the true mean twice as often as it should. Resampling the mean *over its standard
error* corrects for the skewness of the sample. A sample is less skewed than its population, so too
little is corrected. Resamples of a share `DRAWN` of the clusters are more skewed, by about what is missing (m out of n,
Bickel, Goetze and van Zwet 1997, Statistica Sinica 7, 1-31). `coverage.py` measures the coverage of each interval.

`sign_flip_p` and `bootstrap_interval` take scores as [cluster, k], k columns at once. A claim (k = 1) and the simulation that checks the
procedure (k = number of simulations) therefore use the same code.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

ALPHA = 0.01
"""Largest Holm-corrected p at which a claim is replicated."""
COVERAGE = 0.95
"""Nominal coverage of every interval in this project."""
DRAWN = 0.8
"""Share of the clusters in each resample of the bootstrap-t; chosen on simulated scores (`coverage.py`) before any
verdict."""
FEWEST = 5
"""Below this many clusters, resamples are too alike to estimate variation; no interval is then narrower than
Student's."""
METHODS = {
    "percentile-1": "intervals were percentiles of resampled means, which promise too much where clusters are few and skewed, "
    "and nothing was said of supernodes without members",
    "studentised-2": "intervals are studentised",
}
"""Names of the rules behind committed verdicts and intervals, oldest first, with what distinguishes each."""
METHOD = "studentised-2"
"""The current rule: this module and `claims.py`."""


def generator(*names: object) -> np.random.Generator:
    """A random generator seeded by `names` alone, so that a claim's draws do not depend on which claims were judged
    before."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:16]))


def measuring_generator(*key: object) -> np.random.Generator:
    """The same for what is drawn while evidence is measured. It keeps the seeds under which the committed evidence was drawn."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("|".join(map(str, key)).encode()).digest()[:8]))


def weighted(
    weights: Int[np.ndarray, "draw cluster"], scores: Float[np.ndarray, "cluster k"]
) -> Float[np.ndarray, "draw k"]:
    """Weighted sums of the scores over clusters."""
    # einsum and not `@`: its sum does not depend on the number of BLAS threads
    blocks = np.array_split(weights, max(1, weights.size // 10**6))
    return np.concatenate([np.einsum("dc,ck->dk", block.astype(float), scores) for block in blocks])


def sign_flips(clusters: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Sign flips [draw, cluster] of the permutation test: all of them if there are at most `draws`, else `draws` random
    ones."""
    if 2**clusters <= draws:
        return (((np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1) * 2 - 1).astype(np.int8)
    return (rng.integers(0, 2, size=(draws, clusters), dtype=np.int8) * 2 - 1).astype(np.int8)


def sign_flip_p(scores: Float[np.ndarray, "cluster k"], flips: np.ndarray) -> Float[np.ndarray, " k"]:
    """One-sided p of "the mean is not above zero" for each column: the share of sign flips whose mean is at least the
    observed one.

    With random flips the observed signs are counted too, (1 + hits) / (1 + draws), so that p is never zero.
    """
    observed = scores.sum(0)
    tolerance = 1e-9 * np.abs(scores).sum(0)  # the same subset of clusters summed in another order is a tie
    # with that tolerance the last bits of a sum do not matter, so many columns may use `@`, which is five times as fast
    many = scores.shape[1] > 1
    blocks = np.array_split(flips, max(1, flips.size // 10**5 if many else 1))
    hits = np.zeros(scores.shape[1], dtype=int)
    for block in blocks:
        sums = block.astype(float) @ scores if many else weighted(block, scores)
        hit = (sums >= observed - tolerance).view(np.uint8)
        for start in range(0, len(hit), 255):  # sums of so few fit into a byte, which is several times as fast
            hits += np.add.reduce(hit[start : start + 255], axis=0, dtype=np.uint8)
    exact = len(flips) == 2 ** scores.shape[0]
    return hits / len(flips) if exact else (1 + hits) / (1 + len(flips))


def resamples(
    clusters: int, draws: int, rng: np.random.Generator, share: float = DRAWN
) -> Int[np.ndarray, "draw cluster"]:
    """How often each cluster is drawn in each of `draws` bootstrap samples; a sample has `share` of the number of
    clusters, at least two."""
    return rng.multinomial(max(2, round(share * clusters)), np.full(clusters, 1 / clusters), size=draws)


def bootstrap_interval(
    scores: Float[np.ndarray, "cluster k"], counts: Int[np.ndarray, "draw cluster"]
) -> Float[np.ndarray, "2 k"]:
    """Lower and upper bound of the mean of each column, by the studentised bootstrap over the resamples `counts`.

    A resample of few distinct clusters has almost no variance, which would make the bounds arbitrarily wide. Its
    variance is therefore taken to be at least 1/n of the variance over all n clusters (after Polansky 2000, Canadian
    Journal of Statistics 28, 501-516). If there is only one cluster, or all have the same score, both bounds are the
    mean: the variation is unknown.
    """
    clusters, drawn = len(scores), int(counts[0].sum())
    means = scores.mean(0)
    centred = scores - means
    variance = (centred**2).mean(0)
    equal = variance <= (1e-12 * np.abs(scores).max(0)) ** 2  # within the rounding of their mean
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
    """Holm's step-down correction. A missing p (untestable) counts as 1, so that failing a gate is no advantage."""
    adjusted, running = {}, 0.0
    ordered = sorted(p.items(), key=lambda pair: 1.0 if math.isnan(pair[1]) else pair[1])
    for rank, (name, value) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * (1.0 if math.isnan(value) else value)))
        adjusted[name] = running
    return adjusted


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """The share of hits among `n` and its Wilson interval: (share, low, high); (NaN, 0, 1) if `n` is 0."""
    if not n:
        return float("nan"), 0.0, 1.0
    found = stats.binomtest(hits, n)
    low, high = found.proportion_ci(confidence_level=COVERAGE, method="wilson")
    return found.statistic, low, high


def score_noise(scores: pd.DataFrame) -> tuple[float, Float[np.ndarray, " residual"]]:
    """Standard deviation of the true score between clusters, and the deviations of items from their cluster's mean.

    `scores` has the columns cluster and score. Method of moments for a one-way random-effects model; the deviations are
    scaled up because the cluster mean is itself estimated.
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


def auc(score: Float[np.ndarray, " case"], positive: Bool[np.ndarray, " case"]) -> float:
    """Area under the ROC curve: the probability that a positive case has a larger score than a negative one; ties count half.
    NaN if all cases are of one kind."""
    n, rest = int(positive.sum()), int((~positive).sum())
    if not n or not rest:
        return math.nan
    return float((stats.rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * rest))
