"""Evidence from evidence: planted differences and planted crossovers are found, and nothing where there is none."""

from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from multi_hop_tables import claim, judge
from safetensors.torch import save_file

from biology.cases.case import load_case
from biology.cli.table_stages import beside_another_size
from biology.config import Config, StatisticsConfig
from biology.evidence.contrasts import (
    contrasts,
    crossing,
    crossovers,
    gate_of,
    scaled,
    separations,
    sign_agreement,
    squared_variation,
)
from biology.records import InputError
from biology.statistics import generator, resamples, sign_flips
from biology.tables import table, validate_table, write_table
from biology.verdicts.measuring import Meta, estimate

ROOT = Path(__file__).parents[1]
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
    return pd.concat(frames, ignore_index=True), pd.DataFrame(items, columns=["item", "language"]).assign(correct=True)


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


def test_what_tells_two_kinds_of_prompts_apart_is_the_area_under_the_curve():
    evidence = rows("graph", "token_share", {"a-1": 0.5, "a-2": 0.2, "b-1": 0.1, "b-2": 0.2, "c-1": 0.9, "d-1": 0.0})
    evidence["split"] = evidence["item"].map(lambda item: "dev" if item == "d-1" else "heldout")
    kinds = {"a-1": "hint", "a-2": "hint", "b-1": "none", "b-2": "none", "c-1": "third", "d-1": "none"}
    prompts = pd.DataFrame({"item": list(kinds), "kind": list(kinds.values())})
    asked = ("apart", "graph", "token_share", evidence, prompts)
    found = separations(*asked, {"kind": "hint"}, {"kind": "none"}).set_index(["item", "arm"])["value"]
    assert found.to_dict() == {
        ("a-1", "effect"): 1.0, ("a-2", "effect"): 0.75, ("a-1", "shuffle"): 0.5, ("a-2", "shuffle"): 0.5,
    }  # fmt: skip
    back = separations(*asked, {"kind": "none"}, {"kind": "hint"})
    assert back.loc[back["arm"] == "effect", "value"].mean() == 1 - found.xs("effect", level="arm").mean()
    assert separations(*asked, {"kind": "hint"}, {"kind": "fourth"}).empty


def test_equal_crossovers_vary_by_nothing():
    evidence, prompts = dose_curves({"en": 2.5, "fr": 2.5, "zh": 2.5})
    found = crossovers("crossover", "swap", OUTCOMES, evidence, prompts, "language", "correct")
    assert found["value"].abs().max() < 1e-9
    assert len(found) == len(prompts)


def test_crossovers_that_differ_give_their_squared_coefficient_of_variation():
    planted = {"en": 1.5, "fr": 2.5, "zh": 3.5}
    evidence, prompts = dose_curves(planted, noise=0.1)
    found = crossovers("crossover", "swap", OUTCOMES, evidence, prompts, "language", "correct")
    at = np.array(list(planted.values()))
    assert set(found["outcome"]) == {"crossover_cv2"}
    assert found["value"].mean() == pytest.approx(at.var(ddof=1) / at.mean() ** 2, abs=0.02)
    assert found.groupby("cluster")["value"].nunique().max() == 1


def test_a_language_that_never_crosses_is_not_hidden():
    evidence, prompts = dose_curves({"en": 1.2, "fr": 1.2, "zh": 9.0})
    assert crossovers("crossover", "swap", OUTCOMES, evidence, prompts, "language", "correct")["value"].mean() > 0.09


def test_only_prompts_that_pass_the_gate_of_the_claim_cross():
    """A language whose prompts all fail the gate, and a cluster whose prompts do, are as if they had not been asked."""
    evidence, prompts = dose_curves({"en": 1.2, "fr": 1.2, "zh": 3.9}, noise=0.1)
    prompts["answered"] = (prompts["language"] != "zh") & ~prompts["item"].str.startswith("c3-")
    claims = (claim({"experiment": "crossover"}).model_copy(update={"gate": "answered"}), claim({"experiment": "swap"}))
    asked = (evidence, prompts, "language", gate_of("crossover", claims))
    found = crossovers("crossover", "swap", OUTCOMES, *asked)
    assert set(found["item"]) == set(prompts.loc[prompts["answered"], "item"]) and found["value"].mean() < 0.01
    prompts["answered"] = prompts["language"] == "zh"
    assert crossovers("crossover", "swap", OUTCOMES, *asked).empty  # one language varies by nothing that could be told
    assert gate_of("crossover", claims[1:]) == "correct"
    with pytest.raises(InputError, match="gates of its claims differ: answered .*, correct"):
        gate_of("crossover", (claims[0], claim({"experiment": "crossover"})))
    with pytest.raises(InputError, match="gate 'answered' is not a column"):
        crossovers("crossover", "swap", OUTCOMES, evidence, prompts.drop(columns="answered"), "language", "answered")


@pytest.mark.parametrize("cv", [0.0, 0.15, 0.3])
def test_the_interval_of_how_much_crossovers_vary_covers_what_is_planted(cv):
    """With the clusters, languages and noise that elegans is asked with: a language's strength is known to a sixth of it."""
    case = load_case(ROOT, "multilingual")
    cells = Counter(
        (item.cluster, item.factors["language"])
        for item in case.items
        if (item.split, item.role) == ("heldout", "score")
    )
    clusters, languages = (sorted(set(column)) for column in zip(*cells, strict=True))
    items = np.array([[cells[cluster, language] for language in languages] for cluster in clusters])
    rng, runs = np.random.default_rng(round(100 * cv)), 400
    spread = np.linspace(-1, 1, len(languages))
    at = 2 * (1 + cv * rng.permutation(spread) / spread.std(ddof=1))
    noise = 2 * np.sqrt(len(clusters)) / 6 * (rng.exponential(size=(runs, *items.shape)) - 1)  # a long tail above
    strengths = np.array([0.01, 10.0])
    sums = items[..., None] * (strengths - (at + noise)[..., None])
    scores = np.array([squared_variation(one, items, strengths) for one in sums]).T
    part = claim({"direction": "equivalent", "minimum": 0.09}).parts[0]
    chance = generator("crossovers")
    flips, counts = sign_flips(len(clusters), 1000, chance), resamples(len(clusters), 1000, chance)
    mean, low, high, _ = estimate(part, scores, flips, counts)
    assert len(clusters) == 28 and mean.mean() == pytest.approx(cv**2, abs=0.01)
    assert ((low <= cv**2) & (cv**2 <= high)).mean() >= 0.94
    assert (high < cv**2).mean() <= 0.05 and (low > cv**2).mean() <= 0.03


def test_a_crossover_needs_dose_rows_and_a_factor():
    evidence, prompts = dose_curves({"en": 2.0, "fr": 2.0})
    for of, by in (("other", "language"), ("swap", "colour")):
        with pytest.raises(InputError, match="needs `by`, a factor, and `of`"):
            crossovers("crossover", of, OUTCOMES, evidence, prompts, by, "correct")


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


def overlaps(above: float, n: int = 300, noise: float = 0.02) -> pd.DataFrame:
    """An experiment on n items of 30 clusters whose outcome is so much above its shuffled control."""
    rng = np.random.default_rng([n, round(1000 * above)])
    chance = dict(zip((f"c{k % 30}-{k}" for k in range(n)), rng.uniform(0, 0.3, n), strict=True))
    found = {item: value + above + noise * rng.normal() for item, value in chance.items()}
    frames = [rows("overlap", "overlap:2", found), rows("overlap", "overlap:2", chance).assign(arm="shuffle")]
    return table("evidence", pd.concat(frames).to_dict("records"))


def answered(evidence: pd.DataFrame) -> pd.DataFrame:
    """The prompts of some evidence, all answered correctly."""
    items = evidence[["item", "cluster", "split"]].drop_duplicates()
    fixed = {"text": "t", "answer": "a", "answer_token": 7, "top1": "a", "probability": 0.9, "correct": True}
    return validate_table(items.assign(**fixed, role="score"), "prompts")


@pytest.mark.parametrize("gain,verdict", [(0.1, "replicated"), (0.0, "not replicated"), (-0.1, "not replicated")])
def test_what_a_larger_model_shares_more_is_found(gain, verdict):
    found = scaled("scale", "overlap", ["overlap:2"], overlaps(0.2 + gain), overlaps(0.2, n=280))
    assert found["item"].nunique() == 280 and set(found["arm"]) == {"effect", "smaller"}
    arms = found.groupby("arm")["value"].mean()
    assert arms["effect"] - arms["smaller"] == pytest.approx(gain, abs=0.01)
    prompts = answered(found)
    part = {"experiment": "scale", "outcome": "overlap:2", "control": "smaller", "minimum": 0.05}
    meta, quick = Meta("multilingual", "wide", "plt"), StatisticsConfig(permutations=2000, bootstrap=500)
    assert judge([claim(part)], found, prompts, meta, quick)["verdict"].tolist() == [verdict]
    alone = judge([claim(part)], overlaps(0.2, n=280), prompts, meta, quick).iloc[0]
    assert alone["verdict"] == "untestable" and "this model is no further size of another" in alone["reason"]


def test_a_scale_needs_what_was_measured():
    for without in ("overlap:1", "overlap:2"):
        with pytest.raises(InputError, match=f"does not measure '{without}' with the control 'shuffle'"):
            rest = overlaps(0.2)
            scaled("scale", "overlap", [without], rest[rest["arm"] == "effect"], rest)


@pytest.mark.parametrize("width", [4, 16])
def test_the_larger_of_two_models_has_more_parameters(tmp_path, width):
    """Whichever of both is called the other's size; of the other, only prompts count that it answers correctly."""
    names = {"first": 8, "second": width}
    for name, size in names.items():
        (tmp_path / name).mkdir()
        save_file({"w": torch.zeros(size, size)}, tmp_path / name / "model.safetensors")
    entries = {name: {"path": Path(name), "transcoders": Path(name)} for name in names}
    config = Config.model_validate(
        {"models": entries | {"second": entries["second"] | {"role": "size", "of": "first"}}}
    )
    other, own = overlaps(0.3), overlaps(0.1)
    items = answered(other)
    items.loc[items.index[:7], "correct"] = False
    folder = tmp_path / "data/runs/first/multilingual"
    write_table(folder / "prompts.parquet", items, "prompts")
    write_table(folder / "evidence.parquet", other, "evidence")
    sizes = beside_another_size(config, tmp_path, Namespace(model="second", case="multilingual"), own)
    found = scaled("scale", "overlap", ("overlap:2",), *sizes).groupby("arm")["value"]
    assert found.size().tolist() == [293, 293]
    effect, smaller = (0.1, 0.3) if width == 16 else (0.3, 0.1)
    assert found.mean().to_dict() == pytest.approx({"effect": effect, "smaller": smaller}, abs=0.01)


def test_sign_agreement_by_hand():
    """The graph says: the city excites the bridge, and holds the answer down; inhibiting the city should undo both."""

    def measured(item, outcome, value, arm="effect", experiment="inhibit_city"):
        return {
            "item": item, "cluster": f"c-{item}", "split": "heldout", "experiment": experiment, "arm": arm, "draw": 0,
            "strength": -1.0, "outcome": outcome, "value": value,
        }  # fmt: skip

    def pair(item, bridge, answer):
        """Activation of the bridge over its clean one, and the answer's logit, whose clean value is 3."""
        return [
            measured(item, "activation:bridge", bridge), measured(item, "answer_logit", answer),
            measured(item, "answer_logit", 3.0, "clean"),
        ]  # fmt: skip

    evidence = (
        pair("as foretold", 0.4, 3.5)
        + pair("the opposite", 1.6, 2.5)
        + pair("half", 0.4, 2.5)
        + pair("still", 1.0, 3.0)
    )
    evidence += [
        measured("as foretold", "activation:bridge", 9.0, "match"),  # controls foretell nothing
        measured("as foretold", "activation:bridge", 9.0, experiment="inhibit_city/dev2"),
        measured("as foretold", "activation:unlinked", 9.0),  # no influence in the graph
        measured("as foretold", "answer_probability", 0.1),
        measured("the opposite", "activation:bridge", 0.1, experiment="inhibit_other"),  # not asked for
    ]
    items = ("as foretold", "the opposite", "half", "still")
    strengths = {
        ("city", "bridge"): 0.7,
        ("city", "answer"): -0.2,
        ("city", "unlinked"): 0.0,
        ("bridge", "answer"): 0.9,
    }
    edges = table("edges", [
        {"item": item, "source": source, "target": target, "direct": -influence, "influence": influence, "unmediated": 0.0}
        for item in items for (source, target), influence in strengths.items()
    ])  # fmt: skip
    found = sign_agreement("signs", {"inhibit_city": "city"}, edges, table("evidence", evidence))
    value = found.pivot(index="item", columns="arm", values="value").to_dict()
    assert value["effect"] == {"as foretold": 1.0, "the opposite": -1.0, "half": 0.0, "still": 0.0}
    # one foretold rise and one foretold fall: dealt out anew, they foretell nothing
    assert value["shuffle"] == {"as foretold": 0.0, "the opposite": 0.0, "half": 0.0, "still": 0.0}
    assert set(found["experiment"]) == {"signs"} and set(found["outcome"]) == {"agreement"}
    assert found["cluster"].tolist() == [f"c-{item}" for item in found["item"]]


def test_sign_agreement_joins_several_inhibitions():
    """An item's value is the mean over its pairs, whichever experiment they come from; each has its own clean logit."""
    rows = [
        {"experiment": experiment, "arm": arm, "value": value}
        for experiment, arm, value in [
            ("inhibit_a", "effect", 1.0), ("inhibit_a", "clean", 2.0), ("inhibit_b", "effect", 5.0),
            ("inhibit_b", "clean", 4.0), ("inhibit_c", "effect", 1.0), ("inhibit_c", "clean", 4.0),
        ]
    ]  # fmt: skip
    same = {"item": "x", "cluster": "c", "split": "dev", "draw": 0, "strength": 0.0, "outcome": "answer_logit"}
    edge = {"item": "x", "target": "answer", "direct": 0.0, "influence": 1.0, "unmediated": 0.0}
    edges = table("edges", [edge | {"source": source} for source in ("a", "b", "c")])
    of = {"inhibit_a": "a", "inhibit_b": "b", "inhibit_c": "c"}
    found = sign_agreement("signs", of, edges, table("evidence", [same | row for row in rows]))
    value = found.set_index("arm")["value"].to_dict()
    assert value == pytest.approx(
        {"effect": 1 / 3, "shuffle": 1 / 3}
    )  # all are foretold to fall: no pair in particular
