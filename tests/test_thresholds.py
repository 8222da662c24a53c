"""Another threshold gives the verdict that `biology judge --threshold` gives, at every place of the grid."""

import numpy as np
import pytest
from multi_hop_tables import claim, evidence_rows, prompt_rows, swap

from biology.config import StatisticsConfig
from biology.schemas import DECIDING
from biology.tables import table
from biology.verdicts.claims import judge_all, with_thresholds
from biology.verdicts.measuring import Meta, measure
from biology.verdicts.thresholds import family, threshold_sweep, thresholds

SETTINGS = StatisticsConfig(permutations=2000, bootstrap=2000)
RULE = {"specificity": {"arms": ["donor", "position"], "ratio": 5}, "ceiling": {"match": 0.05}}


def noisy(mean: float, spread: float, seed: int):
    """Tables of an effect that varies between clusters, beside ten draws of a control around zero."""
    rng = np.random.default_rng(seed)
    prompts = table("prompts", prompt_rows(12, 6))
    of_cluster = {name: rng.normal(mean, spread) for name in prompts["cluster"].unique()}
    arms = {
        "effect": lambda row: [of_cluster[row.cluster] + rng.normal(0, 0.05)],
        "match": lambda row: rng.normal(0, 0.02, 10),
    }
    return prompts, table("evidence", evidence_rows(prompts, arms))


@pytest.mark.parametrize(
    "tables, parts",
    [
        (swap(effect=0.9), [RULE]),
        (swap(effect=0.6), [{"minimum": 0.5}]),
        (swap(effect=0.9, null=0.2), [RULE]),
        (noisy(0.02, 0.05, 1), [{"direction": "equivalent", "minimum": 0.1}]),
        (noisy(0.3, 0.2, 2), [{"direction": "equivalent", "minimum": 0.2}]),
        (noisy(-0.4, 0.3, 3), [{"direction": "decrease", "minimum": 0.2}]),
        (noisy(0.1, 0.2, 4), [{"minimum": 0.1}, {"name": "stays", "direction": "equivalent", "minimum": 0.3}]),
    ],
)
def test_verdicts_on_the_grid_are_those_of_judge(tables, parts):
    prompts, evidence = tables
    named = [{"name": f"part {i}"} | part for i, part in enumerate(parts)]
    claims = [claim(*named, minimum_n=10), claim({"minimum": 0.3}, id="other-1", minimum_n=10)]
    meta = Meta("multi_hop", "elegans", "plt")
    judged = judge_all(measure(claims, evidence, prompts, meta, SETTINGS))
    rows = judged.parts[judged.parts["claim"] == claims[0].id]
    for number, row in enumerate(rows.to_dict("records")):
        mine = judged.clusters[(judged.clusters["claim"] == row["claim"]) & (judged.clusters["part"] == row["part"])]
        swept = threshold_sweep(rows.iloc[number], mine["score"].to_numpy(), family(judged.parts), SETTINGS)
        assert swept.thresholds[swept.registered] == row["threshold"]
        assert swept.verdicts[swept.registered] == row["verdict"]
        for index in sorted({0, 1, swept.registered, *range(2, len(swept.thresholds), 7)}):
            wanted = f"{row['claim']}/{row['part']}={swept.thresholds[index]}"
            again = judge_all(measure(with_thresholds(claims, [wanted]), evidence, prompts, meta, SETTINGS))
            part = again.parts[(again.parts["claim"] == row["claim"]) & (again.parts["part"] == row["part"])].iloc[0]
            assert swept.verdicts[index] == part["verdict"], wanted
            assert swept.p_holm[index] == pytest.approx(part["p_holm"])
            others = [v for i, v in enumerate(rows["verdict"]) if i != number]
            whole = again.verdicts.set_index("claim").loc[row["claim"], "verdict"]
            assert min([swept.verdicts[index], *others], key=DECIDING.index) == whole


def test_clusters_hold_what_the_statistic_is_the_mean_of():
    prompts, evidence = swap()
    judged = judge_all(measure([claim(minimum_n=10)], evidence, prompts, Meta("multi_hop", "e", "plt"), SETTINGS))
    assert judged.clusters["score"].mean() == pytest.approx(judged.parts["statistic"].iloc[0])
    assert judged.clusters["items"].sum() == judged.parts["n"].iloc[0]
    difference = judged.clusters["effect"] - judged.clusters["control"]
    assert np.allclose(difference, judged.clusters["score"])


@pytest.mark.parametrize("registered, reach", [(0.1, 0.3), (0.01, 0.2), (1.0, 5.8), (2.0, 58.0), (0.5, -0.1)])
def test_the_grid_holds_the_registered_threshold_and_numbers_that_can_be_typed(registered, reach):
    grid, index = thresholds(registered, reach)
    assert grid[index] == registered and grid == sorted(set(grid)) and grid[0] > 0
    assert all(float(str(value)) == value and len(f"{value:g}") <= 8 for value in grid)
    assert len(grid) <= 121 and grid[-1] >= min(reach, 10 * registered)


def test_zones_cover_the_grid():
    prompts, evidence = swap(effect=0.6)
    judged = judge_all(measure([claim(minimum_n=10)], evidence, prompts, Meta("multi_hop", "e", "plt"), SETTINGS))
    scores = judged.clusters["score"].to_numpy()
    swept = threshold_sweep(judged.parts.iloc[0], scores, family(judged.parts), SETTINGS)
    assert [v for v, _, _ in swept.zones] == ["replicated", "inconclusive", "not replicated"]
    assert [i for _, first, last in swept.zones for i in range(first, last + 1)] == list(range(len(swept.verdicts)))
