"""One made-up attribution graph in every dialect of graph files."""

import copy
import json
from pathlib import Path

from biology.graph_files.dialects import parse_graph

FIXTURES = Path(__file__).parent / "fixtures"


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
