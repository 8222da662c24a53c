"""A quick look asks a few prompts of each kind, whole in what they name, and nobody can take its verdicts for those on all."""

from collections import Counter
from pathlib import Path

import pytest
from toy_repository import CASES, answered, write

from biology.cases.case import load_case
from biology.cases.items import first_items, items_of, names_prompts
from biology.config import few_of, load_config
from biology.records import InputError
from biology.report.scoreboard import columns, judged
from biology.tables import read_table, write_table

ROOT = Path(__file__).parents[1]
CASE_SETS = [("addition", None), ("addition", "few_shot"), ("multi_hop", "few_shot"), ("multilingual", None), ("rhyme_planning", None)]  # fmt: skip
COLUMNS = ["item", "text", "answer", "cluster", "split", "role", "set", "donor", "gated_by"]


def items(*rows):
    return items_of(Path("here"), COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in rows])


def test_prompts_are_taken_cluster_by_cluster_with_those_that_they_name():
    every = items(
        ("a", "1", "x", "one", "dev", "score", "s", "d", ""),
        ("b", "2", "x", "one", "dev", "score", "s", "a", ""),
        ("c", "3", "x", "two", "dev", "score", "s", "b", ""),
        ("d", "4", "x", "three", "dev", "score", "s", "c", "g"),
        ("e", "5", "x", "two", "dev", "select", "s", "", ""),
        ("f", "6", "x", "three", "dev", "select", "s", "", ""),
        ("g", "7", "x", "four", "dev", "select", "s", "", ""),
        ("h", "8", "x", "one", "heldout", "score", "s", "h2", ""),
        ("h2", "9", "x", "one", "heldout", "score", "t", "h", ""),
    )
    found = {one.item: (one.role, one.factors["donor"]) for one in first_items(every, 2)}
    assert found == {
        "a": ("score", "d"),  # the first of its cluster, then the first of the next one
        "b": ("donor", ""),  # what c names, and naming nothing itself
        "c": ("score", "b"),
        "d": ("donor", ""),
        "e": ("select", ""),  # of a cluster that is scored; f is not, as `three` is scored in the file alone
        "g": ("select", ""),  # of a cluster that is never scored
        "h": ("score", "h2"),  # one of each set
        "h2": ("score", "h"),
    }
    assert first_items(every, 99) == every


@pytest.mark.parametrize(("case", "prompts"), CASE_SETS)
def test_a_shipped_case_has_its_first_prompts_and_all_that_they_name(case, prompts):
    whole, few = (load_case(ROOT, case, prompts, most).items for most in (None, 3))
    count = Counter((one.split, one.factors.get("set")) for one in few if one.role == "score")
    assert set(count) == {(one.split, one.factors.get("set")) for one in whole if one.role == "score"}
    assert max(count.values()) <= 3
    there = {one.item for one in few} | set(load_case(ROOT, case).prompts)
    assert [one.item for one in few] == [one.item for one in whole if one.item in there]  # in the order of the file
    for one in few:
        named = {value for column, value in one.factors.items() if names_prompts(column) and value}
        assert named <= there, one.item


def test_any_model_can_be_asked_a_few_prompts_by_its_name():
    assert few_of("elegans") == ("elegans", None) and few_of("a-at-most-12") == ("a", 12)
    for name in ("elegans", "smollm2-135m-instruct"):
        config = load_config(ROOT / "config.yaml", f"{name}-at-most-3")
        entry = config.model(f"{name}-at-most-3")
        assert entry.at_most == 3 and entry.path == load_config(ROOT / "config.yaml", name).model(name).path
        assert f"{name}-at-most-3" not in config.calibrated
    with pytest.raises(InputError, match="unknown model 'nobody-at-most-3'"):
        load_config(ROOT / "config.yaml", "nobody-at-most-3").model("nobody-at-most-3")


@pytest.mark.parametrize("entry", ["a: {path: x, transcoders: y, at_most: 3}", "a-at-most-3: {path: x, transcoders: y}", "a-at-most-3: {path: x, transcoders: y, at_most: 4}"])  # fmt: skip
def test_the_name_says_of_how_many_prompts_a_run_is(tmp_path, entry):
    (tmp_path / "config.yaml").write_text(f"models: {{{entry}}}\n")
    with pytest.raises(InputError, match="the name of a model with `at_most` ends in `-at-most-<number>`"):
        load_config(tmp_path / "config.yaml")


def test_all_prompts_have_the_identity_that_they_had():
    config = load_config(ROOT / "config.yaml", "elegans-at-most-3")
    assert (
        "at_most" not in config.model("elegans").identity
        and '"at_most":3' in config.model("elegans-at-most-3").identity
    )


def test_a_quick_look_is_not_among_all_verdicts(tmp_path, tiny_model):
    stated = answered(tiny_model("llama"), CASES["places"]())
    del stated["case"]["supernodes"]["own"]["label"]  # which asks for a factor that a named prompt lacks
    write(tmp_path, stated)
    (tmp_path / "config.yaml").write_text("models: {a: {path: x, transcoders: y}}\n")
    judged_once = read_table(ROOT / "reports/refusals/verdicts.csv", "verdicts").head(1)
    for name in ("a", "a-at-most-3"):
        write_table(tmp_path / "reports" / name / "verdicts.csv", judged_once.assign(model=name), "verdicts")
    config = load_config(tmp_path / "config.yaml")
    assert [one.name for one in columns(tmp_path, config)] == ["a", "a-at-most-3"]
    assert [one.name for one in judged(tmp_path, config)] == ["a"]
