"""The page holds what fits, the features that fire most before others, and shows examples that its cases try."""

import json
import struct
import zlib
from pathlib import Path

import pandas as pd
import pytest
from test_lab_weights import bytes_of

from biology.__main__ import main
from biology.cases.case import load_case
from biology.config import load_config
from biology.report import lab_page
from biology.report.lab_page import examples, featured, firing
from biology.report.lab_page import lab_page as written
from biology.supernodes.named_members import shipped_members
from biology.tables import write_table

ROOT = Path(__file__).parents[1]
PROMPTS = pd.DataFrame(
    [
        {"prompt": place, "source": "toy", "tokens": json.dumps(["<bos>", "calc", word])}
        for place, word in enumerate(["Da", "##s"])
    ]
)


def atlas_row(layer, feature, density, shown):
    return {
        "layer": layer, "feature": feature, "density": density, "maximum": 1.0, "raises": "[]", "lowers": "[]", "histogram": "",
        "examples": json.dumps(shown),
    }  # fmt: skip


def test_firing_leaves_out_the_first_token():
    """Of 6 tokens: one feature fires on both first tokens and one other, one on two others, one never."""
    rows = [
        atlas_row(0, 0, 3 / 6, [[0, "909"], [1, "300"]]),
        atlas_row(0, 1, 2 / 6, [[1, "097"]]),
        atlas_row(1, 0, 0.0, []),
    ]
    assert firing(pd.DataFrame(rows), PROMPTS) == {(0, 0): 1, (0, 1): 2, (1, 0): 0}


@pytest.fixture
def root(tmp_path):
    """The shipped model with an atlas in which every third feature of a layer fires more than others."""
    for folder in ("data/models", "experiments", "reports"):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(ROOT / folder)
    widths = [640, 2048, 2048, 2048, 2047, 2047]
    rows = [
        atlas_row(layer, feature, (4 if feature % 3 == 0 else 1) / 6, [[1, "097"]])
        for layer, width in enumerate(widths) for feature in range(width)
    ]  # fmt: skip
    write_table(tmp_path / "data/runs/elegans/atlas.parquet", pd.DataFrame(rows), "atlas")
    write_table(tmp_path / "data/runs/elegans/atlas_prompts.parquet", PROMPTS, "atlas_prompts")
    return tmp_path


def test_a_page_that_is_full_holds_members_of_supernodes_and_what_fires_most(root, monkeypatch):
    monkeypatch.setattr(lab_page, "MOST_BYTES", 5_500_000)
    config = load_config(ROOT / "config.yaml")
    page = written(root, config, "elegans")
    assert len(page) <= 5_500_000
    text = page.decode("utf-16")
    letters = text.partition('id="model-data">')[2].partition("</script>")[0]
    data = zlib.decompress(bytes_of(letters))
    (length,) = struct.unpack("<I", data[:4])
    facts = json.loads(data[4 : 4 + length])
    kept = {(layer, feature) for layer, features in enumerate(facts["features"]) for feature in features}
    members = pd.read_csv(ROOT / "reports/elegans/supernodes.csv")[["layer", "feature"]]
    named = set(map(tuple, members.to_numpy().tolist()))
    assert named < kept and all(feature % 3 == 0 or (layer, feature) in named for layer, feature in kept)
    assert len(facts["largest"]) == len(facts["seen"]) == len(kept) and f"{len(kept):,}" in text
    weights = (len(data) - 4 - length) / 2
    shape = facts["shape"]
    assert weights == 1_945_728 + len(kept) * (2 * shape["width"] + 2)
    assert written(root, config, "elegans") == page


def test_examples_are_swaps_of_the_cases_under_their_prompts():
    config = load_config(ROOT / "config.yaml")
    listed = []
    for name in ("multi_hop", "addition"):
        case = load_case(ROOT, name)
        members = shipped_members(ROOT, config.model("elegans"), "elegans", case)
        assert members is not None
        listed.append(examples(case, members))
    dallas, calc, _ = (example for shown in listed for example in shown)
    assert dallas["holds"][0] == (
        "California",
        "prompt=Fact%3A%20the%20capital%20of%20the%20state%20containing%20Dallas%20is&hold=multi_hop/oakland/bridge*2",
    )
    assert [title for title, _ in calc["holds"]] == ["lookup for 39+59", "lookup of ones digits of calc: 39+59="]
    shown = featured(listed)
    assert [one["title"] for one in shown] == ["California", "lookup for 39+59", "California at every token"]
    assert shown[-1]["address"] == f"{shown[0]['address']}&every=1&write=12"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("elegans-neurons", "model 'elegans-neurons' has no page lab: a page runs trained transcoders"),
        (
            "smollm2-135m-instruct",
            "has no page lab: a page holds models of at most 4 million parameters that this project grew",
        ),
        ("nobody", "unknown model 'nobody'"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(model, said, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["lab", "--model", model]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
