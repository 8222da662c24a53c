"""Every scored prompt is listed, and what a verdict rests on can be computed again from the list."""

import json

import pandas as pd
import pytest
from multi_hop_tables import write_repository

from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.findings.comparisons import comparisons
from biology.findings.scored_prompts import browsed
from biology.report.case_report import scored_prompts
from biology.tables import read_table, read_tables, write_table
from biology.wording import percent


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"), figures=False)


@pytest.fixture(scope="module")
def frame(root):
    return scored_prompts(root, "elegans", load_case(root, "multi_hop"))


def test_the_statistic_of_every_part_follows_from_the_listed_prompts(root, frame):
    parts = read_table(root / "data/runs/elegans/parts.parquet", "parts")
    parts = parts[parts["verdict"] != "untestable"]
    assert len(parts) == 3
    for part in parts.itertuples():
        rows = frame[(frame["claim"] == part.claim) & (frame["part"] == part.part) & frame["scored"]]
        assert len(rows) == part.n
        assert rows.groupby("cluster")["score"].mean().mean() == pytest.approx(part.statistic)
        assert rows.groupby("cluster")["effect"].mean().mean() == pytest.approx(part.effect)


def test_a_prompt_that_fails_the_precondition_is_listed_as_such(root, tmp_path):
    again = write_repository(tmp_path / "failing", figures=False)
    path = again / "data/runs/elegans/multi_hop/prompts.parquet"
    prompts = read_table(path, "prompts")
    failing = prompts.loc[prompts["split"] == "heldout", "item"].iloc[0]
    prompts.loc[prompts["item"] == failing, "correct"] = False
    write_table(path, prompts, "prompts")
    rows = scored_prompts(again, "elegans", load_case(again, "multi_hop"))
    assert set(rows.loc[~rows["scored"], "item"]) == {failing}


def test_the_page_reads_the_same_rows(root, frame):
    claims = load_claims(root, "multi_hop")
    data = json.loads(json.dumps(browsed(frame, claims), allow_nan=False))
    assert sum(len(part["effect"]) for part in data["parts"]) == len(frame)
    first = data["parts"][0]
    rows = frame[(frame["claim"] == first["claim"]) & (frame["part"] == first["part"])]
    assert [data["texts"][number] for number in first["prompt"]] == list(rows["prompt"])
    assert (first["unit"], first["margin"]) == ("yes", None)


def test_other_strengths_are_read_beside_the_one_that_is_judged(root):
    case, tables = load_case(root, "multi_hop"), read_tables(root / "data/runs/elegans/multi_hop")
    part = read_table(root / "data/runs/elegans/parts.parquet", "parts").iloc[0].to_dict()
    evidence = tables["evidence"]
    dose = evidence[evidence["experiment"] == "swap_state"].assign(experiment="swap_state/dose")
    items = set(tables["prompts"].query("split == 'heldout'")["item"])
    found = comparisons(case, pd.concat([evidence, dose]), items, part, {"swap_state"})
    assert [one.words for one in found] == ["at 0.5×", "at 1×", "at 1.5×", "at 3×", "at 4×"]
    half = dose[(dose["strength"] == 0.5) & (dose["arm"] == "effect")]
    assert found[0].effect == percent(half.groupby("cluster")["value"].mean().mean())
    assert comparisons(case, evidence, items, part, {"swap_state"}) == []
