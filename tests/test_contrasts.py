"""Evidence from evidence: planted differences and planted crossovers are found, and nothing where there is none."""

import numpy as np
import pandas as pd
import pytest

from biology.config import InputError
from biology.contrasts import contrasts, crossing, crossovers
from biology.tables import table

STRENGTHS = (1.0, 2.0, 3.0, 4.0)
OUTCOMES = ["level_top1:x", "level_probability:x", "answer_probability"]


def rows(experiment: str, outcome: str, values: dict[str, float], strength: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "item": item, "cluster": item.split("-")[0], "split": "heldout", "experiment": experiment,
                "arm": "effect", "draw": 0, "strength": strength, "outcome": outcome, "value": value,
            }
            for item, value in values.items()
        ]
    )  # fmt: skip


def dose_curves(
    crossings: dict[str, float], clusters: int = 12, noise: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves of one item per cluster and language, that cross where they are told to."""
    rng = np.random.default_rng(0)
    items = [(f"c{number}-{language}", language) for number in range(clusters) for language in crossings]
    at = {item: crossings[language] + noise * rng.normal() for item, language in items}
    frames = []
    for strength in STRENGTHS:
        new = {item: 0.5 + 0.2 * (strength - at[item]) for item, _ in items}
        frames.append(rows("swap/dose", OUTCOMES[1], new, strength))
        frames.append(rows("swap/dose", OUTCOMES[2], {item: 1 - value for item, value in new.items()}, strength))
    return pd.concat(frames, ignore_index=True), pd.DataFrame(items, columns=["item", "language"])


def test_a_contrast_is_the_first_minus_a_share_of_the_second():
    evidence = pd.concat([rows("a", "o", {"x-1": 0.9, "x-2": 0.5}), rows("b", "o", {"x-1": 1.0, "x-3": 1.0})])
    found = contrasts("ab", ["a", "b"], ["difference:o"], evidence, share=0.8)
    assert found["item"].tolist() == ["x-1"]
    assert found["value"].tolist() == pytest.approx([0.1])
    assert found["outcome"].tolist() == ["difference:o"]


def test_a_contrast_of_something_unmeasured_is_an_error():
    evidence = pd.concat([rows("a", "o", {"x-1": 0.9}), rows("b", "p", {"x-1": 1.0})])
    with pytest.raises(InputError, match="'b' does not measure 'o'"):
        contrasts("ab", ["a", "b"], ["difference:o"], evidence)
    with pytest.raises(InputError, match="unknown outcome 'o' of a contrast of a, b"):
        contrasts("ab", ["a", "b"], ["o"], evidence)


def test_a_lead_crosses_where_it_becomes_positive():
    strengths = np.array([1.0, 2.0, 4.0])
    assert crossing(np.array([-1.0, 1.0, 1.0]), strengths) == 1.5
    assert crossing(np.array([1.0, 1.0, 1.0]), strengths) == 1.0
    assert crossing(np.array([-1.0, -1.0, -1.0]), strengths) == 4.0


def test_equal_crossovers_vary_by_nothing():
    evidence, prompts = dose_curves({"en": 2.5, "fr": 2.5, "zh": 2.5})
    found = crossovers("crossover", "swap", OUTCOMES, evidence, prompts, "language")
    assert found["value"].abs().max() < 1e-9
    assert len(found) == len(prompts)


def test_crossovers_that_differ_give_their_coefficient_of_variation():
    planted = {"en": 1.5, "fr": 2.5, "zh": 3.5}
    evidence, prompts = dose_curves(planted, noise=0.1)
    found = crossovers("crossover", "swap", OUTCOMES, evidence, prompts, "language")
    at = np.array(list(planted.values()))
    assert found["value"].mean() == pytest.approx(at.std(ddof=1) / at.mean(), abs=0.05)
    assert found.groupby("cluster")["value"].nunique().max() == 1


def test_a_language_that_never_crosses_is_not_hidden():
    evidence, prompts = dose_curves({"en": 1.2, "fr": 1.2, "zh": 9.0})
    assert crossovers("crossover", "swap", OUTCOMES, evidence, prompts, "language")["value"].mean() > 0.3


def test_a_crossover_needs_dose_rows_and_a_factor():
    evidence, prompts = dose_curves({"en": 2.0, "fr": 2.0})
    for of, by in (("other", "language"), ("swap", "colour")):
        with pytest.raises(InputError, match="needs `by`, a factor, and `of`"):
            crossovers("crossover", of, OUTCOMES, evidence, prompts, by)


def test_contrasts_by_hand():
    def row(experiment, outcome, value, arm="effect", draw=0):
        return {
            "item": "i", "cluster": "c", "split": "dev", "experiment": experiment, "arm": arm, "draw": draw,
            "strength": -1.0, "outcome": outcome, "value": value,
        }  # fmt: skip

    rows = [row("a", "ones", 0.1), row("a", "near", 0.9), row("b", "ones", 0.8), row("b", "near", 0.3)]
    rows += [row(e, o, 1.0, "match", draw) for e in "ab" for o in ("ones", "near") for draw in (0, 1)]
    evidence = table("evidence", rows)
    found = contrasts("x", ["a", "b"], ["difference:ones", "interaction:ones,near"], evidence)
    effect = found[found["arm"] == "effect"].set_index("outcome")["value"]
    assert effect.to_dict() == pytest.approx({"difference:ones": -0.7, "interaction:ones,near": -0.8 - 0.5})
    match = found[found["arm"] == "match"]
    assert len(match) == 4 and (match["value"] == 0).all() and set(found["experiment"]) == {"x"}
    for outcomes, message in ((["ratio:ones"], "unknown outcome"), (["difference:tens"], "does not measure 'tens'")):
        with pytest.raises(InputError, match=message):
            contrasts("x", ["a", "b"], outcomes, evidence)
