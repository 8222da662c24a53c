"""Tests and intervals on clusters: a p by hand, the level of the test, the interval of normal clusters, noise taken apart."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from biology.statistics import (
    bootstrap_interval,
    generator,
    holm,
    resamples,
    score_noise,
    sign_flip_p,
    sign_flips,
)


def test_permutation_p_of_three_clusters_by_hand():
    # Scores 3, 1, -2 sum to 2. The eight flips sum to 6, 4, 2, 0, 0, -2, -4, -6: three of them reach 2.
    flips = sign_flips(3, 100, generator("hand"))
    assert sorted(map(tuple, flips)) == sorted(itertools.product([-1, 1], repeat=3))
    assert sign_flip_p(np.array([[3.0], [1.0], [-2.0]]), flips) == pytest.approx([3 / 8])
    assert sign_flip_p(np.array([[3.0], [1.0], [2.0]]), flips) == pytest.approx([1 / 8])


def test_enumeration_ends_where_it_costs_more_than_the_draws():
    assert len(sign_flips(16, 100_000, generator())) == 2**16
    assert len(sign_flips(17, 100_000, generator())) == 100_000
    assert len(sign_flips(6, 64, generator())) == 64 and len(sign_flips(6, 63, generator())) == 63


def test_random_flips_agree_with_enumeration_and_are_never_zero():
    scores = np.random.default_rng(0).normal(0.4, 1, size=(14, 3))
    exact = sign_flip_p(scores, sign_flips(14, 2**14, generator("a")))
    assert sign_flip_p(scores, sign_flips(14, 16_000, generator("a"))) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(np.ones((40, 1)), sign_flips(40, 999, generator())) == pytest.approx([1 / 1000])


def test_permutation_test_keeps_its_level():
    scores = np.random.default_rng(2).normal(size=(12, 4000))
    assert np.mean(sign_flip_p(scores, sign_flips(12, 4096, generator())) <= 0.05) == pytest.approx(0.05, abs=0.01)


def test_bootstrap_interval_is_the_normal_one_for_many_normal_clusters():
    scores = np.random.default_rng(2).normal(0.3, 1, size=(400, 1))
    low, high = bootstrap_interval(scores, resamples(400, 10_000, generator("b")))
    assert [low[0], high[0]] == pytest.approx(
        [scores.mean() - 1.96 * scores.std() / 20, scores.mean() + 1.96 * scores.std() / 20], abs=0.01
    )


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.5 x 1, and never smaller than the one before
    assert holm({"a": 0.03, "b": 0.01, "c": 0.5, "d": 0.02}) == pytest.approx(
        {"b": 0.04, "d": 0.06, "a": 0.06, "c": 0.5}
    )
    assert holm({"a": math.nan, "b": 0.004}) == pytest.approx({"b": 0.008, "a": 1.0})


def test_noise_is_taken_apart_into_between_and_within():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(300), 5)
    frame = pd.DataFrame({"cluster": owner.astype(str), "score": rng.normal(0, 2, 300)[owner] + rng.normal(0, 1, 1500)})
    between, residuals = score_noise(frame)
    assert between == pytest.approx(2, abs=0.25) and residuals.std() == pytest.approx(1, abs=0.08)
