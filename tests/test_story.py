"""The first screen of a case: the paper's arrows with our shares, an intervention with its control, and what a case file may say."""

import re
from pathlib import Path

import pandas as pd
import pytest
from multi_hop_tables import graph_tables, panel_tables, write_repository

from biology.cases.case import load_case
from biology.figures.graph_layout import with_share
from biology.findings.sketch import Box, boxes, picture
from biology.findings.story import intervention, shares, story
from biology.records import InputError

ROOT = Path(__file__).parents[1]
ARROWS = (
    ("texas", "say_austin"),
    ("say_a_capital", "say_austin"),
    ("capital", "say_a_capital"),
    ("say_austin", "answer"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"), figures=False)


def test_shares_are_those_of_the_figure():
    made = graph_tables()
    found = shares(made["edges"], made["supernodes"], ARROWS, "Austin")
    stated = with_share(made["edges"]).set_index(["source", "target"])["share"]
    assert found["texas", "say_austin"] == pytest.approx(stated["texas", "say_austin"]) == pytest.approx(3.4 / 8.1)
    assert found["say_austin", "answer"] == pytest.approx(stated["say_austin", "logit:Austin"])
    assert shares(made["edges"], made["supernodes"], (("capital", "texas"),), "Austin") == {("capital", "texas"): 0.0}


def test_both_graphs_have_the_same_boxes_in_the_same_places(root):
    case, tables = load_case(root, "multi_hop"), graph_tables() | panel_tables()
    told = story(case, tables)
    frames = [re.findall(r"<rect[^>]*>|viewBox=\"[^\"]*\"", str(one)) for one in (told.paper, told.ours)]
    assert frames[0] == frames[1] and len(frames[0]) == 6
    assert "+42%" in told.ours and "%" not in told.paper and told.absent == ()
    there = tables["supernodes"]
    missing = story(case, tables | {"supernodes": there[there["supernode"] != "capital"]})
    assert missing.absent == ("capital",) and 'class="gone"' in missing.ours


def test_boxes_stand_above_what_leads_to_them_and_in_the_order_of_tokens():
    made = boxes(ARROWS, {"texas": "Texas"}, {"capital": 4.0, "texas": 10.0, "say_a_capital": 11.0, "say_austin": 11.0})
    assert made["answer"].y < made["say_austin"].y < made["say_a_capital"].y < made["capital"].y
    assert made["capital"].x < made["texas"].x and made["texas"].lines == ("Texas",)
    for name, box in made.items():
        assert not any(box.holds(other.x, other.y) for key, other in made.items() if key != name)


def test_a_long_label_breaks_and_whatever_it_holds_is_text():
    made = boxes((("a", "b"),), {"a": "lookup of ones digits", "b": '<b a="1">'}, {})
    assert made["a"].lines == ("lookup of", "ones digits") and Box(("小小",)).width == Box(("abcd",)).width
    drawn = picture(made, {("a", "b"): -0.25}, 'spoken <"')
    assert "<b a" not in drawn and 'class="minus"' in drawn and "−25%" in drawn and "spoken &lt;&#34;" in drawn


def test_the_intervention_stands_beside_its_control(root):
    case = load_case(root, "multi_hop")
    shown = intervention(case, panel_tables()["panel"], "inhibit_say_a_capital", "texas")
    assert shown["does"] == "With “say a capital” at −2×"
    assert (shown["before"][0], shown["after"], shown["control"][0]) == ("Austin", ("Texas", 0.71), "Austin")
    assert intervention(case, panel_tables()["panel"].iloc[:0], "inhibit_say_a_capital", "texas") is None


def test_where_both_supernodes_are_called_the_same_the_donor_is_named():
    """Texas and California have names of their own; lookups of ones digits have one."""
    for name, experiment, said, donor in (
        ("addition", "swap_ones", "With “lookup of ones digits” at −1× and that of “{}” at 1×", False),
        ("multi_hop", "swap", "With “Texas” at −1× and “California” at 1×", True),
    ):
        case = load_case(ROOT, name)
        item = case.experiments[experiment].prompts[0]
        row = {
            "item": item,
            "experiment": experiment,
            "strength": 1.0,
            "kind": "probability",
            "supernode_or_token": "x",
        }
        shown = intervention(case, pd.DataFrame([row | {"clean": 0.5, "value": 0.5, "control": 0.5}]), experiment, item)
        other = case.prompts[case.prompts[item].factors["donor"]].text
        assert shown["does"] == said.format(other) and shown["donor"] == (other if donor else "")


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("[say_austin, answer]", "[say_austin, texas]", "the arrows run in a circle"),
        ("[say_austin, answer]", "[say_austn, answer]", "unknown supernode 'say_austn'"),
        ("traced: texas", "traced: dallas", "unknown prompt 'dallas'"),
        ("experiment: inhibit_say_a_capital\n", "experiment: paths\n", "'paths' is not shown on prompt 'texas'"),
    ],
)
def test_a_story_that_does_not_fit_its_case_is_refused(tmp_path, old, new, says):
    root = write_repository(tmp_path / "repository", figures=False)
    path = root / "experiments/multi_hop/case.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=says):
        load_case(root, "multi_hop")
