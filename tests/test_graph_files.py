"""One graph in every dialect is one object, loses nothing on its way out and in, and what is no graph is refused in a line."""

import copy
import json
import warnings
from pathlib import Path

import jsonschema
import pytest

from biology.graph_files.dialects import for_circuit_tracer, for_neuronpedia, graph_text, parse_graph, read_graph
from biology.graph_files.flow import computed_influence, graph_scores
from biology.graph_files.saved_view import with_shared_view
from biology.records import InputError, InputWarning

FIXTURES = Path(__file__).parent / "fixtures"
pytestmark = pytest.mark.filterwarnings(
    "ignore::biology.records.InputWarning"
)  # most graphs here hold something unknown

# What Neuronpedia's upload asks of a graph, in our words.
_TEXT, _NUMBER, _TEXTS = {"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "string"}}
SCHEMA = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {"slug": _TEXT, "scan": _TEXT, "prompt": _TEXT, "prompt_tokens": _TEXTS, "node_threshold": _NUMBER},
        },
        "qParams": {
            "type": "object",
            "properties": {
                "pinnedIds": _TEXTS, "supernodes": {"type": "array"}, "linkType": _TEXT, "clickedId": _TEXT, "sg_pos": _TEXT,
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    "node_id": _TEXT, "feature": {"type": ["integer", "null"]}, "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": "integer"}, "feature_type": _TEXT, "jsNodeId": _TEXT, "clerp": _TEXT,
                    "influence": {"type": ["number", "null"]}, "activation": {"type": ["number", "null"]},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object", "required": ["source", "target", "weight"],
                "properties": {"source": _TEXT, "target": _TEXT, "weight": _NUMBER},
            },
        },
    },
}  # fmt: skip


def cantor(layer: int, feature: int) -> int:
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def node(identity: str, kind: str, layer: str | int, position: int, feature: int | None, **more) -> dict:
    return {
        "node_id": identity, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind,
        "jsNodeId": more.pop("jsNodeId", identity), "clerp": more.pop("clerp", ""), **more,
    }  # fmt: skip


FEATURE, ERROR = "cross layer transcoder", "mlp reconstruction error"


HEAD = {"layer": 1, "head": 2, "share": 0.75, "query": 2, "key": 1}
"""One of the heads that carry a link."""


def modern() -> dict:
    """A graph as circuit-tracer writes it today: `<bos> a b`, features 0/1 and 1/7 on `b`, errors of layers 0 and 1, two outputs.

    Feature 1 of layer 0 and the error of layer 1 had the same id before.
    """
    return {
        "metadata": {
            "slug": "made-up", "scan": "someone/transcoders", "prompt_tokens": ["<bos>", " a", "<|im_end|>"],
            "prompt": "<bos> a<|im_end|>", "schema_version": 1, "node_threshold": 0.8, "extra": {"kept": [1, None]},
        },
        "qParams": {
            "pinnedIds": ["0_1_2", "0_-1_2"], "supernodes": [["say b", "0_1_2", "1_7_2"], ["an error", "0_-1_2"]],
            "linkType": "both", "clickedId": "", "sg_pos": "10 20 30 40",
        },
        "nodes": [
            node("0_1_2", FEATURE, "0", 2, cantor(0, 1), influence=0.5, activation=1.5, jsNodeId="0_1-0", odd="kept"),
            node("1_7_2", FEATURE, "1", 2, cantor(1, 7), influence=0.2, activation=3.0, jsNodeId="1_7-0"),
            node("0_-1_2", ERROR, "0", 2, -1, influence=0.7, jsNodeId="0_-1-2"),
            node("1_-1_2", ERROR, "1", 2, -1, influence=0.6, jsNodeId="1_-1-2"),
            node("E_2_0", "embedding", "E", 0, 0), node("E_9_1", "embedding", "E", 1, 1), node("E_5_2", "embedding", "E", 2, 2),
            node("3_40_2", "logit", "3", 2, 40, clerp='Output " c" (p=0.750)', token_prob=0.75, is_target_logit=True),
            node("3_41_2", "logit", "3", 2, 41, clerp='Output """ (p=0.250)', token_prob=0.25),
            node("x1", "something new", "1", 1, None, qk_tracing_results={"pair_wise_contributors": []}),
        ],
        "links": [
            {"source": "E_9_1", "target": "0_1_2", "weight": 2.0}, {"source": "E_5_2", "target": "0_1_2", "weight": -1.0},
            {"source": "0_1_2", "target": "1_7_2", "weight": 3.0}, {"source": "0_-1_2", "target": "1_7_2", "weight": 1.0},
            {"source": "0_1_2", "target": "3_40_2", "weight": 1.0}, {"source": "1_-1_2", "target": "3_40_2", "weight": 1.0},
            {"source": "1_7_2", "target": "3_40_2", "weight": 2.0}, {"source": "1_7_2", "target": "3_41_2", "weight": -0.5},
            {"source": "x1", "target": "3_41_2", "weight": 0.25},
        ],
    }  # fmt: skip


def renamed(graph: dict, names: dict[str, str]) -> dict:
    """The graph with other node ids in its nodes, links and saved view."""
    graph = copy.deepcopy(graph)
    for one in graph["nodes"]:
        one["node_id"] = names.get(one["node_id"], one["node_id"])
    for link in graph["links"]:
        link.update({end: names.get(link[end], link[end]) for end in ("source", "target")})
    q_params = graph["qParams"]
    q_params["pinnedIds"] = [names.get(one, one) for one in q_params["pinnedIds"]]
    q_params["supernodes"] = [[name, *(names.get(one, one) for one in rest)] for name, *rest in q_params["supernodes"]]
    return graph


def old_errors() -> dict:
    """The same with error ids of the time when they collided: `0_1_2` is a feature and an error."""
    graph = renamed(modern(), {"0_-1_2": "0_0_2", "1_-1_2": "0_1_2"})
    for one in graph["nodes"]:
        if one["feature_type"] == ERROR:
            one["jsNodeId"] = f"{one['layer']}_2-0"
    return graph


def string_typed() -> dict:
    """The same as circuit-tracer's "Save" leaves it."""
    graph = modern()
    q_params = graph["qParams"]
    q_params["pinnedIds"] = ",".join(q_params["pinnedIds"])
    q_params["supernodes"] = json.dumps(q_params["supernodes"])
    return graph


def by_layer_times(graph: dict) -> dict:
    """Features coded as layer * 100000 + index, no schema version."""
    graph = copy.deepcopy(graph)
    del graph["metadata"]["schema_version"]
    for one in graph["nodes"]:
        if one["feature_type"] == FEATURE:
            layer, index, _ = one["node_id"].split("_")
            one |= {"feature": int(layer) * 100_000 + int(index), "layer": int(layer)}
    return graph


def hosted() -> dict:
    """In the manner of the hosted Claude 3.5 Haiku graphs: no schema version, raw feature ids, pins by jsNodeId, one error for all
    layers that looks like a feature of layer 0, no influence, no embedding of the first token, outputs one layer lower."""
    graph = modern()
    del graph["metadata"]["schema_version"], graph["metadata"]["node_threshold"]
    graph["metadata"]["scan"] = "jackl-circuits-runs-1-4-sofa-v3_0"
    nodes = {
        "0_88001_2": node("0_88001_2", FEATURE, "0", 2, 88001, jsNodeId="0_88001_-0", clerp="b"),
        "0_88001_1": node("0_88001_1", FEATURE, "0", 1, 88001, jsNodeId="0_88001_-1", clerp="b"),
        "1_21712686_2": node("1_21712686_2", FEATURE, "1", 2, 21712686, jsNodeId="1_21712686_-0"),
        "0_21712686_2": node("0_21712686_2", ERROR, "0", 2, 21712686, jsNodeId="0_21712686_-0"),
        "E_9_1": node("E_9_1", "embedding", "E", 1, 9, jsNodeId="E_9-1"),
        "2_40_2": node("2_40_2", "logit", "2", 2, 40, clerp='output: "Austin" (p=0.984)', jsNodeId="L_40-2"),
    }
    ends = [("E_9_1", "0_88001_1", 1.0), ("0_88001_1", "1_21712686_2", 1.0), ("1_21712686_2", "2_40_2", 2.0)]
    ends += [("0_88001_2", "2_40_2", 1.0), ("0_21712686_2", "2_40_2", 1.0)]
    graph["nodes"] = list(nodes.values())
    graph["links"] = [{"source": a, "target": b, "weight": w} for a, b, w in ends]
    graph["qParams"] = {
        "pinnedIds": ["0_88001_-1", "0_21712686_-0", "L_40-2"],
        "supernodes": [["Texas", "0_88001_-0", "0_88001_-1"]], "clickedId": "1_21712686_-0", "linkType": "either",
    }  # fmt: skip
    return graph


DIALECTS = {
    "modern": modern(), "old error ids": old_errors(), "strings": string_typed(), "hosted": hosted(),
    "layer times": by_layer_times(modern()), "layer times, old": by_layer_times(old_errors()),
}  # fmt: skip


def parsed(graph: dict) -> dict:
    return parse_graph(json.dumps(graph), "made up")


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


# ------------------------------------------------------------------------------------------------------- shared addresses

ADDRESS = (
    "https://www.neuronpedia.org/gemma-2-2b/graph?slug=made-up&pinnedIds=0_1_2%2CD25_5604_7%2C1_7_2&clickedId=undefined"
)


def test_a_shared_address_brings_its_pins_supernodes_and_labels():
    groups = [
        ["say b", "0_1_2"],
        ["say b", "1_7_2"],
        ["tokens", "E_9_1"],
    ]  # a name twice, a token as a member, unpinned
    clerps = [["0_1_2", "by node"], [str(cantor(1, 7)), "by feature"], ["9_9_9", "of no node"]]
    address = f"{ADDRESS}&supernodes={json.dumps(groups)}&clerps={json.dumps(clerps)}&pruningThreshold=0.6&densityThreshold=0.99"
    with pytest.warns(InputWarning) as said:
        graph = with_shared_view(parsed(modern() | {"metadata": modern()["metadata"] | {"slug": "other"}}), address)
    assert [str(one.message) for one in said][-4:] == [
        "the address is that of the graph 'made-up', but this one is 'other'",
        "the address: not used: densityThreshold",
        "the address: qParams names nodes that are not in the graph: D25_5604_7",
        "the address: labels of nodes that are not in the graph are left out: 9_9_9",
    ]
    q_params = graph["qParams"]
    assert q_params["pinnedIds"] == ["0_1_2", "D25_5604_7", "1_7_2"] and q_params["clickedId"] == ""
    assert q_params["supernodes"] == [["say b", "0_1_2"], ["say b (2)", "1_7_2"], ["tokens", "E_9_1"]]
    assert q_params["pruningThreshold"] == 0.6
    labels = {one["node_id"]: one["clerp"] for one in graph["nodes"]}
    assert labels["0_1_2"] == "by node" and labels["1_7_2"] == "by feature"
    assert parsed(modern())["nodes"][0]["clerp"] == ""  # the graph given is not changed


def test_an_old_address_names_errors_by_their_old_ids_and_labels_by_features():
    graph = parsed(old_errors())
    told = with_shared_view(graph, '/m/graph?pinnedIds=1_-1_2&clerps={"' + str(cantor(0, 1)) + '": "b"}')
    assert told["qParams"]["pinnedIds"] == ["1_-1_2"]
    assert told["nodes"][0]["clerp"] == "b"


@pytest.mark.parametrize("address", ["https://example.org/", "", "nonsense", "/m/graph?slug=x", "?supernodes=[1,2"])
def test_what_is_no_shared_address_is_said(address):
    with pytest.raises(InputError):
        with_shared_view(parsed(modern()), address)


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


# --------------------------------------------------------------------------------------------------------- hostile files


def changed(change) -> str:
    graph = modern()
    change(graph)
    return json.dumps(graph)


HOSTILE = {
    "weights that are no number": (changed(lambda g: g["links"][0].update(weight=float("nan"))), "not finite"),
    "an infinite weight": (json.dumps(modern()).replace('"weight": 2.0', '"weight": 1e999', 1), "not finite"),
    "an enormous whole number": (
        json.dumps(modern()).replace('"weight": 2.0', '"weight": ' + "9" * 5000, 1),
        "not finite",
    ),
    "a weight of text": (changed(lambda g: g["links"][0].update(weight="2")), "weight"),
    "a true weight": (changed(lambda g: g["links"][0].update(weight=True)), "weight"),
    "a link to nowhere": (
        changed(lambda g: g["links"][0].update(target="9_9_9")),
        "node '9_9_9', which does not exist",
    ),
    "a link from a list": (changed(lambda g: g["links"][0].update(source=["0_1_2"])), "source"),
    "an id given twice": (changed(lambda g: g["nodes"].append(g["nodes"][1])), "twice"),
    "a token beyond the prompt": (changed(lambda g: g["nodes"][0].update(ctx_idx=10**9)), "prompt of 3"),
    "a negative position": (changed(lambda g: g["nodes"][0].update(ctx_idx=-1)), "is at token"),
    "a million layers": (changed(lambda g: g["nodes"][0].update(layer="1000000")), "no layer"),
    "a label that is a list": (changed(lambda g: g["nodes"][0].update(clerp=["x"])), "clerp"),
    "tokens that are numbers": (changed(lambda g: g["metadata"].update(prompt_tokens=[1, 2])), "prompt_tokens"),
    "supernodes that are numbers": (changed(lambda g: g["qParams"].update(supernodes=[1])), "supernodes"),
    "a node without a category": (changed(lambda g: g["nodes"][0].pop("feature_type")), "has no category"),
    "an unknown version": (changed(lambda g: g["metadata"].update(schema_version=2)), "schema_version is 2"),
    "links of another kind": (changed(lambda g: g["qParams"].update(linkType="sideways")), "not one of both, input"),
    "a threshold of text": (changed(lambda g: g["qParams"].update(pruningThreshold="much")), "pruningThreshold"),
    "labels that are numbers": (changed(lambda g: g["qParams"].update(clerps=[["0_1_2", 5]])), "clerps"),
    "supernodes of broken text": (
        changed(lambda g: g["qParams"].update(supernodes="[[")),
        "qParams.supernodes is not valid JSON",
    ),
    "no nodes": (changed(lambda g: g.update(nodes=[], links=[])), "the graph has no nodes"),
    "half a character": (json.dumps(modern()).replace("made-up", "\\ud800", 1), "surrogate"),
    "a list": ("[]", "not an attribution graph"),
    "no JSON": ("<script>alert(1)</script>", "not valid JSON"),
    "nothing": ("", "not valid JSON"),
    "nested without end": ("[" * 200_000, "nested"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_graph_is_refused_in_one_line(name):
    text, said = HOSTILE[name]
    with pytest.raises(InputError, match=said) as refusal:
        parse_graph(text, "hostile.json")
    assert str(refusal.value).startswith("hostile.json: ") and len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 400


def test_a_file_of_two_hundred_megabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)  # sparse
    monkeypatch.setattr(type(path), "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(InputError, match="200 MB"):
        read_graph(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_graph(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        read_graph(tmp_path / "binary.json")
