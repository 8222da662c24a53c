"""Edges of graphs against edges of a causal model: what is an edge, how they are ranked, which prompts show all parents first."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biology.cases.mechanism import Mechanism, load_mechanism
from biology.config import load_config
from biology.records import validate
from biology.statistics import auc
from biology.verdicts.graph_calibration import (
    causal_edges,
    graph_truth,
    measured,
    open_pairs,
    parents_first,
    scored_pairs,
)

ROOT = Path(__file__).parents[1]
MECHANISM = validate(
    Mechanism,
    {
        "says": "a city becomes its place; the answer is that of the place and what is asked",
        "variables": {
            "city": {"meaning": "the city", "value": "name", "at": "factor:city", "layers": [0, 0], "supernode": "town"},
            "place": {"meaning": "its place", "depends_on": ["city"], "column": "place", "at": "factor:city", "layers": [1, 1], "supernode": "bridge"},
            "mood": {"meaning": "no one sees it", "value": "mood", "at": "last", "layers": [0, 0]},
            "asked": {"meaning": "what is asked", "value": "relation", "at": "last", "layers": [0, 0], "supernode": "asked"},
        },
        "answer": {"depends_on": ["place", "asked", "mood"]},
    },
    "mechanism.yaml",
)  # fmt: skip


def edges(**unmediated):
    """Edges of one graph: `source__target=influence past all other variables`."""
    rows = [
        {"source": a, "target": b, "direct": 0.0, "influence": 0.0, "unmediated": value}
        for (a, b), value in ((name.split("__"), v) for name, v in unmediated.items())
    ]
    return pd.DataFrame(rows)


def graphs(*several):
    return pd.concat([one.assign(item=f"i{number}") for number, one in enumerate(several)], ignore_index=True)


GOOD = edges(
    town__bridge=3.0,
    asked__bridge=0.0,
    bridge__answer=2.0,
    asked__answer=1.0,
    town__answer=0.5,
    other__answer=9.0,
    bridge__town=0.0,
    town__asked=0.0,
    asked__town=0.0,
    bridge__asked=0.0,
)
LOOKED_UP = edges(town__bridge=-1.0, asked__bridge=2.0, bridge__answer=0.1, asked__answer=1.0, town__answer=3.0)


def test_edges_lead_from_what_a_variable_is_computed_from_and_into_the_answer():
    assert causal_edges(MECHANISM) == {("town", "bridge"), ("bridge", "answer"), ("asked", "answer")}
    assert causal_edges(load_mechanism(ROOT, "multi_hop")) == {
        ("city", "bridge"), ("relation_word", "relation"), ("bridge", "answer"), ("relation", "answer"),
    }  # fmt: skip


def test_a_variable_without_a_supernode_is_passed_through():
    """No supernode stands for the magnitude of a sum, so the answer rests on what that is computed from."""
    assert causal_edges(load_mechanism(ROOT, "addition")) == {
        ("ones_a", "sum_ones"), ("ones_b", "sum_ones"), ("sum_ones", "answer"), ("range_a", "answer"), ("range_b", "answer"),
    }  # fmt: skip


def test_what_decides_while_a_parent_is_absent_is_a_parent_too():
    """Without the planned word a word of its family is said."""
    assert causal_edges(load_mechanism(ROOT, "rhyme_planning")) == {("plan", "answer"), ("rhyme", "answer")}


def test_where_some_prompts_have_a_shortcut_the_pair_is_left_out():
    mechanism = load_mechanism(ROOT, "multi_hop")
    assert open_pairs(mechanism) == {("city", "answer")} and not open_pairs(MECHANISM)
    found = scored_pairs(mechanism, graphs(edges(city__answer=1.0, bridge__answer=0.5, relation_word__answer=0.1)))
    assert set(zip(found["source"], found["edge"], strict=True)) == {("bridge", True), ("relation_word", False)}


def test_scores_are_the_influence_that_passes_no_other_variable():
    found = scored_pairs(MECHANISM, graphs(GOOD)).set_index(["source", "target"])
    assert "other" not in found.index.get_level_values("source")
    assert found["score"]["bridge", "answer"] == 2.0 and found["edge"]["bridge", "answer"]
    assert found["score"]["town", "answer"] == 0.5 and not found["edge"]["town", "answer"]


def test_the_area_is_the_chance_that_an_edge_scores_higher():
    rng = np.random.default_rng(0)
    score, edge = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    pairs = [(a, b) for a in score[edge] for b in score[~edge]]
    assert auc(score, edge) == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert np.isnan(auc(score, np.zeros(60, dtype=bool)))


def test_parents_come_first_where_the_answer_is_read_from_them():
    missing = GOOD[GOOD["source"] != "asked"]
    found = parents_first(scored_pairs(MECHANISM, graphs(GOOD, LOOKED_UP, missing)))
    assert found.to_dict() == {"i0": True, "i1": False, "i2": False}
    (good, bad) = (measured(scored_pairs(MECHANISM, graphs(*[one] * 20)), 0) for one in (GOOD, LOOKED_UP))
    assert good["auc"] == good["auc_low"] == 1.0 and good["first"] == 1.0 and good["prompts"] == 20
    assert bad["auc"] < 0.5 and bad["first"] == 0.0


def test_rows_of_graphs_that_are_not_there_stay(tmp_path):
    """A checkout brings the table and no graphs: what the table says of them is kept, and nothing else."""
    known = pd.DataFrame({"case": ["multi_hop", "multi_hop"], "model": ["elegans", "gone"], "auc": [0.9, 0.8]})
    config = load_config(ROOT / "config.yaml")
    assert graph_truth(tmp_path, config, known).to_dict("records") == known.head(1).to_dict("records")
    assert graph_truth(tmp_path, config).empty
    (tmp_path / "data/runs/elegans/multi_hop").mkdir(parents=True)
    (tmp_path / "data/runs/elegans/multi_hop/edges.parquet").touch()  # made anew: the old row goes
    assert graph_truth(tmp_path, config, known).empty  # this folder states no mechanism
