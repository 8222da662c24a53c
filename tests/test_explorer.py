"""The interactive graph's part of a page: what it embeds is the file, what it quotes is escaped, its libraries are the pinned ones."""

import base64
import gzip
import hashlib
import json
import re

import pandas as pd
import pytest
from graph_dialects import hosted, modern
from page_reader import Reader

from biology.graph_files.dialects import parse_graph
from biology.graph_files.nodes import KINDS
from biology.report.explorer import (
    SCRIPTS,
    VENDOR,
    PageGraph,
    explorer,
    feature_cards,
    features_of,
    graph_page,
    operand_plots,
    still,
)
from biology.report.pages import TEMPLATES
from biology.tables import table

pytestmark = pytest.mark.filterwarnings("ignore::biology.records.InputWarning")  # graphs that hold something unknown
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"']]>"


def parsed(graph: dict) -> dict:
    return parse_graph(json.dumps(graph), "made up")


def unpacked(data: str):
    return json.loads(gzip.decompress(base64.b64decode(data)))


def test_vendored_scripts_are_the_pinned_ones():
    packages = json.loads((VENDOR / "packages.json").read_text())
    assert {path.name for path in VENDOR.glob("*.js")} == {package["file"] for package in packages}
    for package in packages:
        data = (VENDOR / package["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == package["sha256"], package["file"]
        licence = (VENDOR / package["file"].replace(".min.js", ".LICENSE")).read_text()
        assert "Copyright" in licence and re.fullmatch(r"\d+\.\d+\.\d+", package["version"])


def test_no_script_can_end_its_element_or_ask_the_network():
    for path in [*VENDOR.glob("*.js"), *(TEMPLATES / name for name in SCRIPTS)]:
        text = path.read_text("utf-8")
        assert "</script" not in text.lower() and "<!--" not in text, path.name
        if path.parent == TEMPLATES:
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|https?://(?!www\.w3)", text
            )


def test_a_page_knows_the_same_categories_of_nodes():
    script = (TEMPLATES / "explorer_graph.js").read_text("utf-8")
    table = re.search(r"const KIND_OF = \{(.*?)\};", script, flags=re.DOTALL)
    assert table is not None and dict(re.findall(r'"([\w ]+)": "(\w+)"', table[1])) == KINDS


def test_a_page_holds_the_file_that_it_was_made_from():
    shown = explorer([PageGraph("one", parsed(modern()), called={"say b": "say B"})])
    payload = unpacked(shown.graphs[0].data)
    assert payload["graph"] == parsed(modern()) and payload["called"] == {"say b": "say B"}
    assert "influence" not in payload
    assert explorer([PageGraph("one", parsed(modern()), called={"say b": "say B"})]) == shown  # the same bytes


def test_influence_and_scores_are_worked_out_where_a_file_has_none():
    shown = explorer([PageGraph("one", parsed(hosted()))]).graphs[0]
    assert unpacked(shown.data)["influence"]["1_21712686_2"] == 0.5
    assert re.fullmatch(
        r"6 nodes, 5 links; of the pruned graph: replacement 0\.\d\d, completeness 0\.\d\d\.", shown.told
    )
    graph = modern()
    assert (
        explorer([PageGraph("one", parsed(graph))]).graphs[0].told.endswith("nodes of another category: something new.")
    )
    graph["metadata"]["info"] = {"replacement_score": 0.5, "completeness_score": 0.25}
    assert (
        explorer([PageGraph("one", parsed(graph))])
        .graphs[0]
        .told.endswith("replacement score 0.50, completeness 0.25.")
    )


def test_nothing_of_a_hostile_graph_is_markup():
    graph = modern()
    graph["metadata"] |= {"prompt": EVIL, "prompt_tokens": [EVIL, "b", "c"], "slug": EVIL, "info": {EVIL: EVIL}}
    graph["nodes"][0]["clerp"] = EVIL
    graph["qParams"]["supernodes"] = [[EVIL, "0_1_2"]]
    page = graph_page(parsed(graph))
    reader = Reader(page.replace("<noscript", "<div").replace("</noscript", "</div"))
    assert not [found for tag, found in reader.tags if tag == "img" or "onerror" in found or "src" in found]
    assert "alert(1)" in reader.words  # shown, as text
    assert len(reader.ids) == len(set(reader.ids))


def test_a_label_of_a_megabyte_does_not_make_a_page_of_megabytes():
    graph = modern()
    graph["metadata"]["info"] = {"description": "x" * 2**20}
    graph["metadata"]["prompt"] = "y" * 2**20
    graph["nodes"][0]["clerp"] = "z" * 2**20
    assert len(graph_page(parsed(graph))) < 400_000  # what repeats is packed, what is quoted is cut


def test_the_still_picture_has_every_node_and_the_strongest_links():
    picture = str(still(parsed(modern())))
    assert picture.count("<circle") == 2 and picture.count("h8v8") == 5 and picture.count("l5 5") == 3
    assert picture.count("stroke-width") == 9
    assert "&lt;|im_end|&gt;" in picture and "<|" not in picture


def test_cards_hold_what_the_atlas_knows():
    rows = [
        {
            "layer": layer, "feature": 7, "density": 0.123456, "maximum": 2.0, "raises": '["a"]', "lowers": '["b"]',
            "histogram": "3 0 1", "examples": "[[1, \"09\"], [0, \"1\"]]",
        }
        for layer in (0, 1)
    ]  # fmt: skip
    prompts = [{"prompt": i, "source": "s", "tokens": json.dumps(words)} for i, words in enumerate([["x"], ["y", "z"]])]
    cards = feature_cards(table("atlas", rows), table("atlas_prompts", prompts), {"1-7", "2-7"})
    assert cards == {
        "1-7": {
            "promotes": ["a"], "suppresses": ["b"], "density": 0.123, "maximum": 2.0, "histogram": [3, 0, 1],
            "examples": [{"tokens": ["y", "z"], "activations": [0, 9]}, {"tokens": ["x"], "activations": [1]}],
        }
    }  # fmt: skip


def test_operand_plots_are_those_of_the_features_shown():
    cells = [
        {"at": "=", "layer": at, "feature": 7, "a": a, "b": 1, "activation": 0.123456} for at in (0, 1) for a in (0, 1)
    ]
    found = operand_plots(table("operand_plots", cells), {"1-7"})
    assert found == {"1-7": [{"at": "=", "a": [0, 1], "b": [1, 1], "activation": [0.123, 0.123]}]}
    assert operand_plots(pd.DataFrame(columns=list(cells[0])), {"1-7"}) == {}


def test_features_are_named_by_layer_and_number():
    assert features_of(parsed(modern())) == {"0-1", "1-7"}


@pytest.mark.parametrize("tokens", [[""], ["only one"], ["<bos>", "a"] * 40])
def test_prompts_of_any_length(tokens):
    graph = modern()
    graph["metadata"]["prompt_tokens"] = tokens
    graph["nodes"] = [
        one | {"ctx_idx": min(one["ctx_idx"], len(tokens) - 1)} for one in graph["nodes"] if one["layer"] != "1"
    ]
    graph["links"] = []
    graph["qParams"] = {}
    assert "<svg" in graph_page(parsed(graph))
