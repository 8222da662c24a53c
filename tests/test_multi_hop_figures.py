"""The figure of the multi-hop case that is its own: a planted rank correlation is found, and a null is not."""

import re
from pathlib import Path

import numpy as np
import pytest
from multi_hop_tables import evidence_rows, prompt_rows

from biology.cases.case import load_case
from biology.figures.case_figures import draw, own_figures
from biology.records import InputError
from biology.tables import table

CASE = load_case(Path(__file__).parents[1], "multi_hop")


def tables_with(lost):
    """Prompts whose shares of paths are drawn; `lost` gives the logit lost under inhibition from a share."""
    rng = np.random.default_rng(0)
    prompts = table("prompts", prompt_rows(20, 4))
    arms = ("effect", "match")
    share = {(item, arm): rng.random() for item in prompts["item"] for arm in arms}
    kept = {"effect": lambda found: 10 * (1 - lost(found)), "match": lambda found: 10 * rng.random()}
    rows = evidence_rows(
        prompts,
        {arm: lambda row, arm=arm: [share[row.item, arm]] for arm in arms},
        experiment="graph",
        outcome="path_share",
    )
    logits = {arm: lambda row, arm=arm: [kept[arm](share[row.item, arm])] for arm in arms} | {
        "clean": lambda row: [10.0]
    }
    rows += evidence_rows(prompts, logits, experiment="inhibit_bridge", outcome="answer_logit", strength=-1.0)
    return {"prompts": prompts, "evidence": table("evidence", rows)}


def correlations(tables):
    drawn = draw("foretold", tables, CASE)
    assert drawn["png"].startswith(b"\x89PNG") and draw("foretold", tables, CASE) == drawn
    title = re.search(r"<dc:title>(.*?)</dc:title>", drawn["svg"].decode()).group(1).replace("−", "-")
    return [float(number) for number in re.findall(r"-?\d\.?\d*", title)]  # middle, low, high; matched


def test_what_grows_with_the_share_of_paths_has_rank_correlation_one_and_matched_sets_none():
    middle, low, high, matched = correlations(tables_with(lost=lambda share: share**3))
    assert middle == low == high == 1 and abs(matched) < 0.3


def test_what_falls_with_the_share_is_said_to_fall():
    assert correlations(tables_with(lost=lambda share: -share))[0] == -1


def test_an_effect_that_the_graph_does_not_foretell_has_an_interval_around_zero():
    rng = np.random.default_rng(1)
    middle, low, high, _ = correlations(tables_with(lost=lambda share: rng.random()))
    assert low < 0 < high and low < middle < high


def test_a_model_without_a_bridge_has_no_correlation_and_the_figure_says_so():
    tables = tables_with(lost=lambda share: 0.0)
    assert "no rank correlation is defined" in draw("foretold", tables, CASE, forms=("svg",))["svg"].decode()


def test_the_style_file_restyles_it(restyled):
    for name in own_figures(CASE):
        restyled(draw(name, tables_with(lost=lambda share: share), CASE, forms=("svg",)))


@pytest.mark.parametrize("missing", ["graph", "inhibit_bridge"])
def test_it_asks_for_both_experiments(missing):
    tables = tables_with(lost=lambda share: share)
    tables["evidence"] = tables["evidence"][tables["evidence"]["experiment"] != missing]
    with pytest.raises(InputError, match=missing):
        draw("foretold", tables, CASE)
