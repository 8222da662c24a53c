"""The figures of the addition case draw from tables alone, and their titles state the numbers of the tables."""

import itertools
from pathlib import Path

import pandas as pd
import pytest

from biology.cases.case import load_case
from biology.figures.case_figures import draw, own_figures
from biology.records import InputError
from biology.tables import table

ROOT = Path(__file__).parents[1]
CASE = load_case(ROOT, "addition")
VALUES = {"effect": 0.75, "match": 0.25, "donor": 0.2, "random": 0.2, "position": 0.1, "direction": 0.1, "shuffle": 0.5}

LESS = {
    ("swap_fruit", "donor_top1", "effect"): 0.5, ("swap_ones_iterative", "ones_swapped", "effect"): 0.5,
    ("wiring", "auc_twera", "effect"): 0.62,
}  # fmt: skip


def planted() -> dict[str, pd.DataFrame]:
    """Tables of twelve held-out sums in which every arm has one value."""
    items = [item for item in CASE.items if item.split == "heldout" and item.factors["set"] == "calc"][:12]
    prompts = [
        {
            "item": item.item, "text": item.text, "answer": item.answer, "answer_token": 1, "top1": item.answer,
            "probability": 0.9, "correct": True, "cluster": item.cluster, "split": item.split, "role": item.role,
        }
        for item in items
    ]  # fmt: skip
    evidence = [
        {
            "item": item.item, "cluster": item.cluster, "split": item.split, "experiment": name, "arm": arm, "draw": 0,
            "strength": -1.0, "outcome": outcome, "value": LESS.get((name, outcome, arm), VALUES[arm] / (6 if outcome.startswith("share:") else 1)),
        }
        for name, experiment in CASE.experiments.items()
        for item, arm, outcome in itertools.product(items, ["effect", *getattr(experiment, "controls", ("match",))], experiment.outcomes)
    ]  # fmt: skip
    operands = [
        {
            "transcoders": "own", "at": at, "layer": 0, "feature": feature, "model": "g(a+b)", "family": family, "r2": 0.9,
            "digit": "range", "width": 3, "frequency": 1, "active": 20, "activity": 1.0, "label": "sum",
        }
        for feature, (at, family) in enumerate([("-4", "add"), ("last", "add"), ("last", "lookup"), ("last", "sum"), ("last", "other")])
    ]  # fmt: skip
    plots = [
        {"at": row["at"], "layer": 0, "feature": row["feature"], "a": a, "b": b, "activation": float(a == b)}
        for row in operands
        for a, b in itertools.product(range(20), repeat=2)
    ]
    members = [
        {
            "item": items[0].item,
            "supernode": "lookup",
            "layer": 0,
            "pos": 6,
            "feature": 1,
            "activation": 1.0,
            "share": 1.0,
        }
    ]
    made = {
        "prompts": prompts,
        "evidence": evidence,
        "operands": operands,
        "operand_plots": plots,
        "supernodes": members,
    }
    return {name: table(name, rows) for name, rows in made.items()}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return planted()


@pytest.mark.parametrize(
    ("name", "title"),
    [
        (
            "operand_plots",
            "add-functions, lookups and sums hold 75% of the activity at the equals sign; 0 of 3 of them read",
        ),
        ("class_composition", "75% of the influence belongs to add-functions, lookups and sums; 50% with shuffled"),
        ("pathways", "the interaction of the two inhibitions is 0.75"),
        (
            "lookup_swap",
            "gives the donor's sum: calc 75% (matched random features 25%), the sum of 75% (matched random features 25%), apples "
            "and pears 50% (matched random features 25%); swapping lookups of ones digits its ones digit: constrained 75% "
            "(matched random features 25%), iterative 50% (matched random features 25%)",
        ),
        ("wiring", "sum features from others: area 0.75, with exchanged plots 0.50; weighted by activity 0.62, 0.50"),
        ("connectivity", "lookups give a net +75%; with families exchanged +50%"),
    ],
)
def test_a_figure_states_what_it_shows(tables, name, title):
    drawn = draw(name, tables, CASE)
    assert title in drawn["svg"].decode().replace("&apos;", "'") and drawn["png"].startswith(b"\x89PNG")
    assert draw(name, tables, CASE) == drawn


def test_the_style_file_restyles_every_figure_of_the_case(tables, restyled):
    for name in own_figures(CASE):
        restyled(draw(name, tables, CASE, forms=("svg",)))


def test_another_case_does_not_know_them(tables):
    with pytest.raises(InputError, match="unknown figure 'wiring'"):
        draw("wiring", tables, load_case(ROOT, "multi_hop"))
