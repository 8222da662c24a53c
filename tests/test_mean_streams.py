"""A mean stream carries a level if prompts that share nothing else with the scored one make the model answer for it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biology.cases.case import Case, load_case
from biology.cases.rules import Stream
from biology.config import StatisticsConfig
from biology.evidence.contrasts import stream_contrasts
from biology.evidence.line_evidence import exchange_lines
from biology.evidence.mean_streams import exchange_means
from biology.models.model import Model, load_model
from biology.records import InputError
from biology.tables import table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(ROOT / "data/models/elegans-wild", name="elegans-wild")


@pytest.fixture(scope="module")
def case() -> Case:
    """The multi-hop case with a few development prompts, their donors, and what these places' means are made of."""
    whole = load_case(ROOT, "multi_hop")
    scored = [
        item for item in whole.items if item.split == "dev" and item.role == "score" and item.factors["set"] == "states"
    ][:6]
    named = {item.factors[column] for item in scored for column in ("donor", "wrong_donor")}
    needed = [item for item in whole.items if item.item in named]
    places = {item.factors["place"] for item in needed}
    needed += [item for item in whole.items if item.role == "select" and item.factors["place"] in places]
    alone = [
        item.model_copy(update={"role": "select"}) for item in needed if item not in scored and item.role == "score"
    ]
    unique = {item.item: item for item in (*needed, *alone, *scored)}
    return whole.model_copy(update={"items": tuple(unique.values())})


def test_the_place_is_what_cities_of_a_place_have_in_common(model, case):
    measured = exchange_means(model, case)
    rate = measured.groupby(["arm", "layer"])["value"].mean()
    assert rate["effect"].max() == 1 and rate["donor"].max() == 0
    assert rate["effect", 0] == 0  # all prompts end in one word: before the first layer there is nothing to exchange


def test_a_mean_is_apart_from_the_scored_prompt_too(model):
    """Of English donors the mean is taken over the other fold of languages: prompts of that fold ask nothing of the model."""
    whole = load_case(ROOT, "multilingual")
    items, columns = {item.item: item for item in whole.items}, ("operand_donor", "wrong_operand_donor")
    scored = [item for item in whole.items if item.role == "score" and item.split == "dev"][:8]
    donors = {item.factors[column]: items[item.factors[column]] for item in scored for column in columns}
    levels = {donor.factors["concept"] for donor in donors.values()}
    means = {item.item: item for item in whole.items if item.role == "select" and item.factors["concept"] in levels}
    part = whole.model_copy(update={"items": tuple({**means, **donors, **{one.item: one for one in scored}}.values())})
    measured = exchange_means(model, part)
    folds = {item.factors["language_fold"] for item in scored}
    assert len(folds) == 2 and {donor.factors["language_fold"] for donor in donors.values()} == {"0"}
    assert {items[item].factors["language_fold"] for item in measured["item"]} == {"0"}


def test_a_level_that_no_other_prompt_has_asks_no_model_anything(model, case):
    stream = Stream(factor="city", across=("city",), only={"set": "states"})
    with pytest.raises(InputError, match=r"streams\.city: no scored prompt has a mean.*shares city"):
        exchange_means(model, case.model_copy(update={"streams": {"city": stream}}))


def test_a_missing_column_is_named(model, case):
    stream = Stream(factor="colour")
    with pytest.raises(InputError, match="case 'multi_hop': streams.colour: the prompt set has no column 'colour'"):
        exchange_means(model, case.model_copy(update={"streams": {"colour": stream}}))


def test_development_prompts_choose_the_layer_and_held_out_ones_are_counted():
    rng = np.random.default_rng(0)
    rows = [
        {
            "case": "a", "stream": "s", "item": f"{split}{number}", "cluster": f"c{number % 8}", "split": split, "layer": layer,
            "arm": arm, "value": float(rng.random() < chance),
        }
        for split, best in (("dev", 1), ("heldout", 1))
        for number in range(200)
        for layer in range(3)
        for arm, chance in (("effect", 0.8 if layer == best else 0.3), ("donor", 0.1))
    ]  # fmt: skip
    made = stream_contrasts(table("streams", rows), StatisticsConfig()).iloc[0]
    assert (made["layer"], made["n"]) == (1, 200)
    assert made["low"] < 0.7 < made["high"] and made["high"] - made["low"] < 0.25
    assert made["difference"] == pytest.approx(made["rate"] - made["wrong"], abs=0.01)
    assert stream_contrasts(pd.DataFrame(table("streams", [])), StatisticsConfig()).empty


def test_the_newline_holds_the_line_and_the_comma_does_not(model):
    """With line 1 hidden, the exchanged newline alone decides how line 2 ends; with line 1 in sight and the words on the way
    forced, it decides nothing. No transcoder is at hand."""
    whole = load_case(ROOT, "rhyme_planning")
    items = {item.item: item for item in whole.items}
    scored = [item for item in whole.items if item.role == "score" and item.factors["set"] == "other"][:8]
    chosen = {item.item: item for item in scored} | {
        item.factors["donor"]: items[item.factors["donor"]] for item in scored
    }
    names = ("resample_hidden", "resample_forced")
    experiments = {name: whole.experiments[name] for name in names}
    part = whole.model_copy(update={"items": tuple(chosen.values()), "experiments": experiments})
    measured = exchange_lines(model, part, StatisticsConfig())
    rate = measured.groupby(["stream", "arm"])["value"].mean()
    assert rate["resample_hidden", "effect"] == 1 and rate["resample_hidden", "position"] == 0
    assert rate["resample_forced", "effect"] == 0
    assert set(measured["layer"]) == {0} and {item.item for item in scored} <= set(measured["item"])
    assert exchange_lines(model, whole.model_copy(update={"experiments": {}}), StatisticsConfig()).empty
