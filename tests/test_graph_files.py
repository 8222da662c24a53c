"""One graph in every dialect is one object, and loses nothing on its way out and in."""

import json
import warnings

import jsonschema
import pytest
from graph_dialects import DIALECTS, ERROR, FIXTURES, HEAD, SCHEMA, cantor, hosted, modern, old_errors, parsed

from biology.graph_files.dialects import for_circuit_tracer, for_neuronpedia, graph_text, parse_graph, read_graph
from biology.graph_files.flow import computed_influence, graph_scores
from biology.records import InputError, InputWarning

pytestmark = pytest.mark.filterwarnings(
    "ignore::biology.records.InputWarning"
)  # most graphs here hold something unknown


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_written_is_read_back_unchanged(name, tmp_path):
    first = parsed(DIALECTS[name])
    jsonschema.validate(first, SCHEMA)
    (tmp_path / "graph.json").write_text(graph_text(first), encoding="utf-8")
    again = read_graph(tmp_path / "graph.json")
    assert again == first and graph_text(again) == graph_text(first)


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "hosted"])
def test_all_dialects_of_one_graph_are_one_object(name):
    assert parsed(DIALECTS[name]) == parsed(modern())


@pytest.mark.parametrize("frozen", ["much", None, True, [1.0]])
def test_the_frozen_part_of_a_link_is_a_number(frozen):
    graph = modern()
    graph["links"][0]["frozen"] = -0.25
    assert parse_graph(json.dumps(graph), "made up")["links"][0]["frozen"] == -0.25
    graph["links"][0]["frozen"] = frozen
    with pytest.raises(InputError, match="^made up: the link .* has no number as its frozen part") as error:
        parse_graph(json.dumps(graph), "made up")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "heads",
    [
        *(3, [3], [{"layer": 1}], [HEAD | {"layer": 1.5}], [HEAD | {"share": "<b>"}], [HEAD | {"key": None}]),
        *([HEAD | {"attention": "<b>"}], [HEAD | {"matched": 3}], [HEAD | {"matched": [{"query": "a", "key": "b"}]}]),
        [HEAD | {"matched": [{"query": 1, "key": "b", "value": 1.0}]}],
    ],
)
def test_heads_of_a_link_are_numbers_and_what_they_match_is_text(heads):
    graph = modern()
    whole = HEAD | {"attention": 0.5, "score": -1.0, "matched": [{"query": "a", "key": "b", "value": 1}]}
    graph["links"][0]["heads"] = [HEAD, whole]
    assert parse_graph(json.dumps(graph), "made up")["links"][0]["heads"] == [HEAD, whole]
    graph["links"][0]["heads"] = heads
    with pytest.raises(InputError, match="^made up: (a head|the heads|what a head) of (a|the) link") as error:
        parse_graph(json.dumps(graph), "made up")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: graph["links"].append(dict(graph["links"][0])), "is given twice"),
        (lambda graph: graph["links"][0].update(target=graph["links"][0]["source"]), "from a node to itself"),
        (lambda graph: turned(graph["links"][-1]), "out of an output or into a token"),
        (lambda graph: node_of(graph, "logit").update(token_prob=7), "token_prob is 7, which is no probability"),
        (lambda graph: graph["nodes"][0].update(influence=-3), "influence is -3, but it is never negative"),
        (lambda graph: graph["metadata"].update(node_threshold=40), "node_threshold is not a number from 0 to 1"),
        (lambda graph: graph["qParams"].update(pruningThreshold=9), "pruningThreshold is not a number from 0 to 1"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_no_graph_can_be_is_refused(change, words):
    graph = modern()
    change(graph)
    with pytest.raises(InputError, match=words) as error:
        parse_graph(json.dumps(graph), "made up")
    assert str(error.value).startswith("made up: ") and "\n" not in str(error.value)


def node_of(graph, kind):
    return next(node for node in graph["nodes"] if node["feature_type"] == kind)


def turned(link):
    link["source"], link["target"] = link["target"], link["source"]


def test_nothing_is_lost_and_what_is_not_used_is_named():
    """A canonical file comes back as it was, unknown keys and categories of nodes included."""
    graph = modern() | {"qk_only_nodes": {}}
    graph["qParams"]["pinnedIds"] = ["0_1_2", "9_9_9"]
    graph["links"][0]["colour"] = "red"
    with pytest.warns(InputWarning) as said:
        assert parsed(graph) == graph
    assert [str(one.message) for one in said] == [
        "made up: qParams names nodes that are not in the graph: 9_9_9",
        "made up: keys that are kept but not used: file: qk_only_nodes; metadata: extra; nodes: odd, qk_tracing_results; links: colour",
        "made up: the category 'something new' (1 nodes) is not known, so no score can be worked out",
    ]


@pytest.mark.parametrize("name", ["graph_attention.json", "graph_layer_minus_one.json", "hosted"])
def test_a_known_dialect_is_read_without_a_word(name):
    graph = hosted() if name == "hosted" else json.loads((FIXTURES / name).read_text())
    graph["metadata"].pop("extra", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed(graph)


def test_a_feature_and_an_error_of_one_old_id_stay_two_nodes_with_their_own_links():
    graph = parsed(old_errors())
    assert len(graph["nodes"]) == len(modern()["nodes"])
    ends = [(link["source"], link["target"]) for link in graph["links"]]
    assert ends.count(("0_1_2", "3_40_2")) == 1 and ends.count(("1_-1_2", "3_40_2")) == 1
    assert ("0_1_2", "1_7_2") in ends  # an error of layer 1 cannot feed layer 1


def test_hosted_graphs_are_understood():
    graph = parsed(hosted())
    assert graph["qParams"]["pinnedIds"] == ["0_88001_1", "0_21712686_2", "2_40_2"]
    assert graph["qParams"]["supernodes"] == [["Texas", "0_88001_2", "0_88001_1"]]
    assert graph["qParams"]["clickedId"] == "1_21712686_2" and graph["qParams"]["linkType"] == "either"
    kinds = {one["node_id"]: one["feature_type"] for one in graph["nodes"]}
    assert kinds["0_21712686_2"] == ERROR
    codes = {one["node_id"]: one["feature"] for one in graph["nodes"]}
    assert codes["1_21712686_2"] == cantor(1, 21712686)


def test_influence_is_worked_out_where_a_file_gives_none():
    """The output takes 1/2 of its input from 1_21712686, which passes it on through one feature to one token, and 1/4 each from
    another feature and the error: of 2 in all. Cumulative in that order, nodes of equal influence as in the file."""
    expected = {"0_88001_1": 0.25, "1_21712686_2": 0.5, "E_9_1": 0.75, "0_88001_2": 0.875, "0_21712686_2": 1.0}
    assert computed_influence(parsed(hosted())) == pytest.approx(expected)


def test_scores_are_worked_out_where_the_file_has_errors():
    """One output, half its input from an error, half from a feature that a token alone feeds."""
    graph = modern()
    graph["nodes"] = [one for one in graph["nodes"] if one["node_id"] in ("E_9_1", "0_1_2", "1_-1_2", "3_40_2")]
    graph["links"] = [
        {"source": "E_9_1", "target": "0_1_2", "weight": 4.0}, {"source": "0_1_2", "target": "3_40_2", "weight": -1.0},
        {"source": "1_-1_2", "target": "3_40_2", "weight": 1.0},
    ]  # fmt: skip
    replacement, completeness = graph_scores(parsed(graph))
    assert replacement == pytest.approx(0.5)  # of what starts anywhere, half starts at the token
    # weighted by influence (0.75 each way: output 0.75, feature, token and error half of it), the output is half explained
    assert completeness == pytest.approx((0.75 * 0.5 + 3 * 0.375) / (0.75 + 3 * 0.375))
    graph["nodes"] = [one for one in graph["nodes"] if one["feature_type"] != ERROR]
    graph["links"] = graph["links"][:2]
    assert graph_scores(parsed(graph)) is None


def test_what_replaces_attention_and_its_errors_count_in_the_scores():
    """By hand: the output takes 0.4 each from 1_cro_3 and the attention error and 0.2 from a token; of what starts anywhere 0.24
    starts at tokens. (With the errors of MLPs alone: 0.75.)"""
    graph = read_graph(FIXTURES / "graph_attention.json")
    assert graph_scores(graph) == pytest.approx((0.24, 0.7076923), abs=1e-6)
    assert for_circuit_tracer(graph)["nodes"] == graph["nodes"]
    graph["links"].append({"source": "1_bias_attn_bO_2", "target": "2_42_2", "weight": 5.0})
    assert graph_scores(graph) == pytest.approx((0.24, 0.7076923), abs=1e-6)  # a bias is no part of the flow
    graph["nodes"][4]["feature_type"] = "attention error"
    with pytest.warns(InputWarning, match=r"the category 'attention error' \(1 nodes\) is not known, so no score"):
        assert graph_scores(parsed(graph)) is None


def test_tokens_and_outputs_are_in_no_layer_whatever_a_dialect_says():
    """EleutherAI's attribute has outputs in layer -1, OpenMOSS tokens; features there are refused."""
    raw = json.loads((FIXTURES / "graph_layer_minus_one.json").read_text())
    raw["nodes"][0]["layer"] = -1
    graph = parsed(raw)
    jsonschema.validate(graph, SCHEMA)
    found = [(one["node_id"], one["layer"], one["feature"]) for one in graph["nodes"]]
    assert found == [("E_1_1", "E", None), ("0_7_2", "0", cantor(0, 7)), ("1_-1_2", "1", -1), ("2_42_2", "2", None)]
    assert [link["source"] for link in graph["links"]] == ["E_1_1", "0_7_2", "1_-1_2"]
    assert graph_scores(graph) == pytest.approx((0.8, 0.9285714))
    raw["nodes"][1]["layer"] = "-1"
    with pytest.raises(InputError, match="there is no layer -1"):
        parsed(raw)


# ------------------------------------------------------------------------------------------------------------ for viewers


def test_for_neuronpedia_the_names_are_safe():
    graph = parsed(modern())
    with pytest.raises(InputError, match="--scan"):
        for_neuronpedia(graph)
    graph["metadata"]["slug"] = "a/b c"
    made = for_neuronpedia(graph, "gemma-2-2b", "gemmascope-transcoder-16k")
    assert made["metadata"]["slug"] == "a-b-c" and made["metadata"]["scan"] == "gemma-2-2b"
    assert made["metadata"]["feature_details"] == {"neuronpedia_source_set": "gemmascope-transcoder-16k"}
    jsonschema.validate(made, SCHEMA)


def test_every_output_names_its_probability():
    """Both viewers split the text at "(p=" and stop where there is none."""
    graph = modern()
    graph["nodes"][7]["clerp"] = ""
    made = for_circuit_tracer(parsed(graph))
    outputs = [one["clerp"] for one in made["nodes"] if one["feature_type"] == "logit"]
    assert all("(p=" in text and text.split("(p=")[1].split(")")[0] for text in outputs)


def test_a_graph_of_one_layer_cannot_be_opened_there():
    graph = modern()
    graph["nodes"] = [one for one in graph["nodes"] if one["layer"] in ("E", "0", "3")]
    graph["links"] = graph["links"][:2]
    with pytest.raises(InputError, match="two layers"):
        for_circuit_tracer(parsed(graph))
