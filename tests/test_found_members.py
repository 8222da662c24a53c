"""What a claim rests on is known from the case, and that nothing of it was found is said beside the verdict."""

import math
from pathlib import Path

import pandas as pd
import pytest
from multi_hop_tables import claim, prompt_rows, swap

from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.config import StatisticsConfig
from biology.tables import table
from biology.verdicts.claims import judge_all
from biology.verdicts.found_members import Members, required_supernodes
from biology.verdicts.measuring import Meta, measure

ROOT = Path(__file__).parents[1]
QUICK = StatisticsConfig(permutations=4000, bootstrap=1000)
META = Meta("multi_hop", "elegans", "plt")


def rests_on(case: str, claim_id: str, part: str) -> set[frozenset[str]]:
    """The ways of `required_supernodes` of a part of a registered claim, as names, `name@column` where another prompt has to have it."""
    parts = {(one.id, p.name): p for one in load_claims(ROOT, case) for p in one.parts}
    ways = required_supernodes(load_case(ROOT, case).experiments, parts[claim_id, part])
    return {frozenset(n.supernode if n.column == "item" else f"{n.supernode}@{n.column}" for n in way) for way in ways}


@pytest.mark.parametrize(
    ("where", "ways"),
    [
        (("multi_hop", "multihop-7", "the donor's answer is said"), [{"bridge", "bridge@donor"}]),
        (("multi_hop", "multihop-8", "the donor's answer is said"), [{"bridge", "container@donor"}]),
        (("multi_hop", "multihop-6", "the bridge falls"), [{"city", "bridge"}]),
        (("multi_hop", "multihop-1", "paths run through the bridge"), [{"bridge"}]),
        (("multi_hop", "multihop-9", "signs agree"), [{"city"}, {"relation_word"}, {"bridge"}, {"relation"}]),
        (("attention", "qk-1", "the answer goes"), [{"title", "first"}]),
        (("attention", "qk-3", "two interactions"), [{"title", "first", "asked_title", "asked_first"}]),
        (("attention", "qk-8", "the answer goes"), []),
        (("addition", "add-3", "double dissociation"), [{"ones_a", "range_a"}]),
        (("addition", "add-9", "weights to the right sums"), [{"lookup", "sum"}]),
        (("addition", "add-11", "on the sum of a and b"), [{"lookup@plain"}]),
        (("addition", "add-2", "decimal frequencies"), []),
        (("multilingual", "multi-3", "the predicted cell is said"), [{"operation", "operation@operation_donor"}]),
        (("multilingual", "multi-1", "members are active in the other languages"), [{"operation"}, {"operand"}, {"say"}]),
        (("multilingual", "multi-11", "encoders point the same way"), [{"operation", "operation@operation_native_donor"}]),
        (("multilingual", "multi-10", "frozen patterns take half of the operation's effect"), [{"operation", "say"}]),
        (("multilingual", "multi-8", "the middle is above unrelated prompts"), []),
        (("rhyme_planning", "poem-1", "they are this word's and not another's"), [{"plan"}]),
        (("rhyme_planning", "poem-7", "resampling the newline's stream loses the ending"), []),
    ],
)  # fmt: skip
def test_what_a_part_rests_on_is_read_off_its_experiment(where, ways):
    assert rests_on(*where) == set(map(frozenset, ways))


def members(rows: list[tuple[str, str]]) -> pd.DataFrame:
    fixed = {"layer": 0, "pos": 3, "feature": 1, "activation": 1.0, "share": 1.0}
    return table("supernodes", [{"item": item, "supernode": name} | fixed for item, name in rows])


def test_members_count_where_they_are_used():
    """A swap needs the bridge on the prompt and on its donor; each of two prompts is the other's donor."""
    part = next(one for one in load_claims(ROOT, "multi_hop") if one.id == "multihop-7").parts[0]
    prompts = table("prompts", [row | {"donor": ""} for row in prompt_rows(4, 1)])
    names = prompts["item"].tolist()
    prompts["donor"] = [names[1], names[0], names[3], ""]
    experiments = load_case(ROOT, "multi_hop").experiments

    def share(*having: int) -> float:
        rows = [(names[number], "bridge") for number in having] + [(name, "city") for name in names]
        return Members(experiments, members(rows)).found(part, prompts).share

    assert [share(), share(0), share(0, 1), share(0, 1, 2), share(0, 1, 2, 3)] == [0.0, 0.0, 0.5, 0.5, 0.75]


@pytest.mark.parametrize(("having", "said"), [(0, "only 0% of the 300"), (100, "only 33% of the 300"), (290, "")])
def test_a_verdict_says_that_too_little_was_found(having, said):
    prompts, evidence = swap(effect=0.02)
    case = load_case(ROOT, "multi_hop")
    table_ = members([(item, "bridge") for item in prompts["item"][:having]])
    named = claim({"experiment": "swap", "name": "swaps"})
    evidence, prompts = evidence.assign(experiment="swap"), prompts.assign(donor=prompts["item"])
    judged = judge_all(measure([named], evidence, prompts, META, QUICK, Members(case.experiments, table_)))
    verdict, part = judged.verdicts.iloc[0], judged.parts.iloc[0]
    assert verdict["verdict"] == "not replicated" and verdict["found"] == part["found"] == pytest.approx(having / 300)
    wanted = f"{said} prompts have members of 'bridge': where nothing is found, nothing is held or seen"
    assert all((wanted in row["reason"]) == bool(said) for row in (verdict, part))
    without = judge_all(measure([named], evidence, prompts, META, QUICK)).verdicts.iloc[0]
    assert math.isnan(without["found"]) and without.drop(["found", "reason"]).equals(verdict.drop(["found", "reason"]))
