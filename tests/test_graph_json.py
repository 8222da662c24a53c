"""Exported graphs follow the published schema and say what the graph says."""

import json

import pytest
import torch
from peer_graphs import NAMES, peer_graph
from test_graph import EDGES, KINDS, LAYERS, make_graph

from biology.attribution.graph import FEATURE, LOGIT, TOKEN, cumulative_scores, influence, prune
from biology.attribution.graph_json import arrays, cantor, export_json, nodes_table
from biology.graph_files.dialects import parse_graph

NODE_FIELDS = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
}
TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


def check_schema(graph: dict) -> None:
    """What the published schema and the two viewers require."""
    assert {"metadata", "qParams", "nodes", "links"} <= graph.keys()
    metadata = graph["metadata"]
    for name, kind in (("slug", str), ("scan", str), ("prompt", str), ("prompt_tokens", list), ("schema_version", int)):
        assert isinstance(metadata[name], kind), name
    assert all(isinstance(token, str) for token in metadata["prompt_tokens"])
    assert all(isinstance(metadata[block], dict) for block in ("info", "generation_settings", "pruning_settings"))
    params = graph["qParams"]
    assert isinstance(params["pinnedIds"], list) and isinstance(params["supernodes"], list)
    ids = set()
    for node in graph["nodes"]:
        for name, kind in NODE_FIELDS.items():
            assert isinstance(node[name], kind), (name, node)
        assert node["feature_type"] in TYPES
        assert node["node_id"] not in ids
        ids.add(node["node_id"])
        assert 0 <= node["ctx_idx"] < len(metadata["prompt_tokens"])
        if node["feature_type"] == "logit":
            assert node["influence"] is None and "(p=" in node["clerp"]
        else:
            assert 0 <= node["influence"] <= 1
        if node["feature_type"] == "cross layer transcoder":
            layer, feature, pos = map(int, node["node_id"].split("_"))
            assert node["feature"] == cantor(layer, feature) and node["layer"] == str(layer) and node["ctx_idx"] == pos
    sinks = {
        node["node_id"] for node in graph["nodes"] if node["feature_type"] in ("embedding", "mlp reconstruction error")
    }
    for link in graph["links"]:
        assert link["source"] in ids and link["target"] in ids - sinks
        assert isinstance(link["weight"], float)
    json.dumps(graph, allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_exported_graphs_follow_the_schema(name):
    graph, run, _ = peer_graph(name)
    nodes, edges = prune(graph)
    exported = export_json(graph, nodes, edges, slug="peer", scan="tiny", prompt="a b c")
    check_schema(exported)
    assert parse_graph(json.dumps(exported), name) == json.loads(json.dumps(exported))  # it is the canonical form
    assert len(exported["nodes"]) == int(nodes.sum()) and len(exported["links"]) == int(edges.sum())
    assert sum(node["is_target_logit"] for node in exported["nodes"]) == 1


def test_nodes_say_what_they_are():
    graph = make_graph(KINDS, LAYERS, EDGES, probability=[0.5])
    everything = prune(graph, 1.0, 1.0)
    exported = export_json(
        graph, *everything, slug="s", scan="m", prompt="Dallas", labels={(1, 11): "Texas"}, supernodes={"state": [1]},
        info={"description": "by hand"}, pruning_settings={"node_threshold": 1.0}, replication={"case": "multi_hop"},
    )  # fmt: skip
    check_schema(exported)
    feature, labelled, error, _, token, logit = exported["nodes"]
    assert feature["node_id"] == "0_10_1" and feature["feature"] == 65 and feature["activation"] == 2.0
    assert labelled["clerp"] == "Texas"
    assert error["node_id"] == "0_-1_1" and error["jsNodeId"] == "0_-1-1" and error["feature"] == -1
    assert token["node_id"] == "E_54_1" and token["clerp"] == 'Emb: "Dallas"'
    assert logit["node_id"] == "3_55_1" and logit["clerp"] == 'Output "Austin" (p=0.500)' and logit["is_target_logit"]
    assert exported["qParams"]["supernodes"] == [["state", "1_11_1"]] and exported["qParams"]["pinnedIds"] == ["1_11_1"]
    assert exported["metadata"]["node_threshold"] == 1.0 and exported["metadata"]["replication"] == {
        "case": "multi_hop"
    }
    scores = cumulative_scores(influence(graph)).tolist()
    assert [node["influence"] for node in exported["nodes"][:5]] == scores[:5]
    assert {"source": "0_10_1", "target": "1_11_1", "weight": -3.0} in exported["links"]


def test_an_error_and_a_feature_with_the_same_numbers_have_different_ids():
    # layer 0, feature 3, position 5 and the error of layer 3, position 5 share an id in older files
    kinds, layers = [FEATURE, 1, TOKEN, LOGIT], [0, 3, -1, -1]
    graph = make_graph(kinds, layers, {(0, 2): 1.0, (3, 0): 1.0, (3, 1): 1.0}, positions=[5, 5, 0, 5])
    graph.feature[0] = 3
    graph.metadata["tokens"] = list("abcdef")
    exported = export_json(graph, *prune(graph, 1.0, 1.0), slug="s", scan="m", prompt="")
    assert [node["node_id"] for node in exported["nodes"]][:2] == ["0_3_5", "3_-1_5"]


def test_targets_that_are_no_token_get_an_index_beyond_the_vocabulary():
    graph = make_graph([TOKEN, LOGIT], [-1, -1], {(1, 0): 1.0})
    graph.token_id[1] = -1
    exported = export_json(graph, *prune(graph, 1.0, 1.0), slug="s", scan="m", prompt="")
    assert exported["nodes"][1]["feature"] == 100


def test_cantor_pairs_are_the_published_ones():
    assert cantor(18, 5495) == 15204836
    assert len({cantor(layer, feature) for layer in range(20) for feature in range(50)}) == 1000


def test_arrays_and_table_are_in_graph_order():
    graph, run, _ = peer_graph("gpt2_relu")
    nodes, edges = prune(graph)
    written = arrays(graph, nodes, edges)
    assert set(written) == {"adjacency", "bias", "pre_activation", "influence", "node_mask", "edge_mask"}
    torch.testing.assert_close(written["influence"], run["node_influence"], rtol=1e-5, atol=1e-7)
    table = nodes_table(graph)
    assert list(table) == ["kind", "layer", "pos", "feature", "token_id", "activation", "label", "probability"]
    assert all(len(column) == graph.n_nodes for column in table.values())
    token = graph.tokens.start
    assert (table["kind"][token], table["layer"][token], table["feature"][token]) == ("token", -1, -1)
    assert table["activation"][token] == -1 and table["probability"][token] == -1 and table["kind"][-1] == "logit"
