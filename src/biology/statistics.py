"""Tests and intervals on clusters: sign flips, percentile bootstrap, Holm's correction.

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
from jaxtyping import Float

COVERAGE = 0.95
"""Of every interval in this project."""


def generator(*names: object) -> np.random.Generator:
    """A random generator that depends on `names` only, so that no claim's draws depend on what was judged before it."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:16]))


def _weighted(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
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
    hits = (_weighted(flips, scores) >= observed - tolerance).sum(0)
    exact = len(flips) == 2 ** scores.shape[0]
    return hits / len(flips) if exact else (1 + hits) / (1 + len(flips))


def resamples(clusters: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each cluster is drawn [draw, cluster] in `draws` bootstrap samples of all clusters."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)


def bootstrap_interval(scores: Float[np.ndarray, "cluster k"], counts: np.ndarray) -> Float[np.ndarray, "2 k"]:
    """Percentile interval of the mean for each column: its lower and its upper bound."""
    means = _weighted(counts, scores) / scores.shape[0]
    return np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)


def holm(p: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """Holm's step-down correction; a missing p (untestable) counts as 1, so that nobody gains by failing a gate."""
    adjusted, running = {}, 0.0
    ordered = sorted(p.items(), key=lambda pair: 1.0 if math.isnan(pair[1]) else pair[1])
    for rank, (name, value) in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * (1.0 if math.isnan(value) else value)))
        adjusted[name] = running
    return adjusted


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
