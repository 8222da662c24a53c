"""A rule that says `at: found` is settled by a table alone, and until then nothing can be looked for by it."""

from pathlib import Path

import pytest
from toy_case import toy_context

from biology.cases.case import Case
from biology.cases.case_file import Paper
from biology.cases.found_sites import chosen, found_sites, with_found_sites
from biology.cases.rules import SupernodeRule
from biology.records import InputError
from biology.supernodes.grouping import group
from biology.tables import table

FOUND = {"factor": "place", "at": "found", "among": ["last", "factor:city"], "given": ["relation"]}


def case_of(**rules) -> Case:
    made = {name: SupernodeRule.model_validate(rule) for name, rule in rules.items()}
    return Case(name="toy", folder=Path("toy"), paper=Paper(section="", url=""), prompts={}, supernodes=made)


def sites_of(name: str, last: list[float], city: list[float], onward: tuple[tuple[int, int, float], ...] = ()):
    """Table `sites` of a supernode: shares of answers moved by exchanges of layers 0 to 0, 0 to 1 ...; `onward` the city's others."""
    ranges = [
        (at, 0, end, share)
        for at, shares in (("last", last), ("factor:city", city))
        for end, share in enumerate(shares)
    ]
    ranges += [("factor:city", *one) for one in onward]
    rows = [
        {"supernode": name, "position": at, "first": first, "last": end, "accuracy": share, "n": 40}
        for at, first, end, share in ranges
    ]
    best = chosen(table("sites", [row | {"chosen": False} for row in rows]))
    return table("sites", [row | {"chosen": (row["position"], row["first"], row["last"]) == best} for row in rows])


@pytest.mark.parametrize(
    ("last", "city", "onward", "expected"),
    [
        ([0.0, 0.2, 0.2], [0.5, 0.9, 0.94], (), ("factor:city", (0, 1))),  # 0.9 is more than 95% of 0.94
        ([0.0, 0.2, 0.2], [0.5, 0.85, 0.94], (), ("factor:city", (0, 2))),
        (
            [0.3, 0.9, 0.2],
            [0.9, 0.9, 0.9],
            (),
            ("last", (0, 1)),
        ),  # the first of equals, and no layer that undoes it again
        ([0.1, 0.0, 0.0], [0.0, 0.0, 0.0], (), ("last", (0, 0))),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.09], (), ("last", None)),  # too few: nothing is found
        # What is put into layer 0 is computed on; from layer 1 on all is still to be had, from layer 2 on it is not.
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], ((1, 2, 0.98), (2, 2, 0.4)), ("factor:city", (0, 1))),
        (
            [0.0, 0.0, 0.0],
            [0.2, 1.0, 1.0],
            ((1, 2, 0.4), (2, 2, 0.0)),
            ("factor:city", (0, 1)),
        ),  # both layers are needed
    ],
)
def test_position_and_layers_are_those_of_the_best_exchange(last, city, onward, expected):
    case = case_of(bridge=FOUND, plain={"at": "factor:city"})
    sites = sites_of("bridge", last, city, onward)
    rule = with_found_sites(case, sites).supernodes["bridge"]
    assert (rule.at, rule.layers) == expected
    assert with_found_sites(case, sites).supernodes["plain"] == case.supernodes["plain"]


def test_what_a_page_says_of_it():
    case = case_of(bridge=FOUND, plain={})
    (shown,) = found_sites(case, sites_of("bridge", [0.0, 0.2, 0.1], [0.5, 0.9, 0.94]))
    assert shown["name"] == "bridge" and shown["found"] and shown["n"] == 40 and shown["accuracy"] == 0.9
    assert (shown["other"], shown["other_accuracy"]) == ("last", 0.2)
    (shown,) = found_sites(case, sites_of("bridge", [0.0, 0.0, 0.02], [0.0, 0.05, 0.0]))
    assert not shown["found"] and (shown["accuracy"], shown["other"], shown["other_accuracy"]) == (
        0.02,
        "factor:city",
        0.05,
    )


def test_a_table_of_other_rules_is_refused():
    for name, among in (("another", FOUND["among"]), ("bridge", ["last", "-2"]), ("bridge", ["factor:city", "last"])):
        with pytest.raises(InputError, match="supernodes.bridge: the table `sites` was made with other positions"):
            with_found_sites(case_of(bridge=FOUND | {"among": among}), sites_of(name, [0.5] * 3, [0.1] * 3))


def test_nothing_is_looked_for_by_a_rule_that_is_not_settled(tiny_model):
    model = tiny_model("llama")
    context = toy_context(model, {})
    case = case_of(bridge=FOUND)
    said = "position 'found' is not known before the stage `group` has run"
    with pytest.raises(InputError, match=said):
        group(model, context.transcoders, case, context.prompts, context.cache)
    with pytest.raises(InputError, match=said):
        context.position("found", 0)
    members = group(
        model,
        context.transcoders,
        with_found_sites(case, sites_of("bridge", [0.0], [0.9])),
        context.prompts,
        context.cache,
    )
    assert set(members["supernode"]) <= {"bridge"}
