"""An interval misses as often as it says, on either side, with the clusters that there are; and it knows what it cannot know."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from biology.statistics import bootstrap_interval, generator, resamples
from biology.verdicts.coverage import INTERVALS, POPULATIONS, case_clusters, missed, with_table

ROOT = Path(__file__).parents[1]
KEPT = list(POPULATIONS)[:-1]
"""Populations whose tail a sample of the cases' clusters can show; the last one's it cannot (docs/explanation/statistics.md)."""
RUNS = 2500


@pytest.fixture(scope="module")
def clusters():
    """The cases' clusters, by their number."""
    return {len(sizes): sizes for sizes in case_clusters(ROOT).values()}


def at_most(rate: float, runs: int) -> float:
    """The share of runs that a true rate exceeds but once in a thousand times."""
    return float(stats.binom.ppf(0.999, runs, rate)) / runs


def at_least(rate: float, runs: int) -> float:
    return float(stats.binom.ppf(0.001, runs, rate)) / runs


@pytest.mark.parametrize("number", [28, 39, 100])
@pytest.mark.parametrize("population", KEPT)
def test_either_bound_misses_as_often_as_it_should(population, number, clusters):
    below, above = missed(population, clusters[number], ["chosen"], runs=RUNS, draws=1000)["chosen"]
    assert at_least(0.04, RUNS) <= below + above <= at_most(0.06, RUNS)
    assert at_least(0.02, RUNS) <= min(below, above) and max(below, above) <= at_most(0.03, RUNS)


def test_percentiles_miss_a_long_tail_twice_as_often(clusters):
    """What the interval replaces fails the same test."""
    found = missed("exponential clusters, skewness 2", clusters[28], ["percentile"], runs=RUNS, draws=1000)
    assert found["percentile"][1] > 2 * 0.025


def test_the_table_says_what_is_simulated_and_the_document_says_the_table(clusters):
    """Every interval of the committed table is within the bar for the chosen one, and a few runs agree with it."""
    table = pd.read_csv(ROOT / "reports/coverage.csv")
    text = (ROOT / "docs/explanation/statistics.md").read_text(encoding="utf-8")
    assert with_table(text, table) == text, "run `biology coverage`"
    assert set(table["interval"]) == set(INTERVALS) and set(table["population"]) == set(POPULATIONS)
    rows = table[(table["interval"] == "chosen") & table["population"].isin(KEPT)]
    assert rows["covered"].between(0.94, 0.96).all()
    assert rows[["below", "above"]].to_numpy().max() <= 0.03 + 2 * math.sqrt(0.03 * 0.97 / 10_000)
    worst = table[table["population"] == list(POPULATIONS)[-1]].groupby("interval")["covered"].mean()
    assert str(worst.idxmax()) == "chosen"


def interval(scores: np.ndarray, draws: int = 2000) -> np.ndarray:
    columns = scores.reshape(len(scores), -1)
    return bootstrap_interval(columns, resamples(len(columns), draws, generator("test")))


def test_columns_do_not_know_of_one_another():
    scores = np.random.default_rng(0).exponential(size=(28, 5))
    scores[:, 2] = 0.3
    together = interval(scores)
    assert all(np.allclose(together[:, k], interval(scores[:, k])[:, 0], rtol=1e-12) for k in range(5))
    assert np.allclose(interval(-scores), -together[::-1], rtol=0.1, atol=0.05)  # quantiles interpolate from one side
    assert np.allclose(interval(3 * scores + 1), 3 * together + 1)


def test_equal_clusters_have_no_interval():
    assert interval(np.zeros(30)).ravel().tolist() == [0.0, 0.0]
    third = np.full(30, 1 / 3)
    assert interval(third).ravel().tolist() == [third.mean()] * 2
    assert interval(np.array([0.25])).ravel().tolist() == [0.25, 0.25]


@pytest.mark.parametrize("rights", [1, 2, 3, 5])
def test_a_few_rights_among_many_wrongs_leave_finite_bounds_that_are_not_too_narrow(rights):
    """Most resamples of such scores have no variance. Beside them the exact bound of a share (Clopper and Pearson 1934)."""
    low, high = interval((np.arange(36) < rights).astype(float)).ravel()
    exact = stats.beta.ppf(0.975, rights + 1, 36 - rights)
    assert low < rights / 36 and 0.9 * exact < high < 1


@pytest.mark.parametrize("number", [2, 3, 4])
def test_fewer_than_a_handful_of_clusters_are_given_no_narrower_interval_than_students(number):
    scores = np.random.default_rng(number).normal(size=(number, 3000))
    low, high = interval(scores)
    assert ((low > 0) | (high < 0)).mean() <= at_most(0.05, 3000)
