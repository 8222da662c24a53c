"""Reads graph files of every dialect in use into one canonical form, and writes that form for either viewer.

The canonical form is the published schema ("Anthropic Attribution Graph") with schema_version 1, error ids `{layer}_-1_{pos}` and
pins by node id; `graph_json.py` writes it. These dialects are read too: error ids `0_{layer}_{pos}`, which collide with features of
layer 0; files without a schema version, whose `feature` is a raw id or layer * 100000 + index; pins by jsNodeId (the hosted Claude
3.5 Haiku graphs); `qParams` as strings (circuit-tracer's "Save"); missing influence; tokens and outputs in layer -1 (EleutherAI's
attribute, OpenMOSS). Unknown keys and unknown categories of nodes are kept unchanged.

Files may come from anywhere. What cannot be shown faithfully is refused in one line, never dropped; what is kept but not used is
named in an `InputWarning`.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biology.graph_files.nodes import (  # fmt: skip
    MOST_LAYERS,
    Node,
    checked_node,
    id_spaces,
    is_number,
    is_share,
    kind_of,
    listed,
    record,
    records,
    short,
    unknown_categories,
)
from biology.graph_files.saved_view import saved_view
from biology.records import InputError, InputWarning, once

MOST_BYTES = 100 * 2**20
"""Larger files are refused; Neuronpedia has the same limit."""
KEYS = {
    "file": {"metadata", "qParams", "nodes", "links"},
    "metadata": {
        "slug", "scan", "prompt", "prompt_tokens", "schema_version", "node_threshold", "info", "generation_settings",
        "pruning_settings", "replication", "feature_details", "transcoder_list", "title_prefix", "n_layers", "node_sep_threshold",
    },
    "qParams": {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos", "clerps", "pruningThreshold"},
    "nodes": {
        "node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "influence", "activation", "token_prob",
        "is_target_logit", "run_idx", "reverse_ctx_idx", "token",
    },
    "links": {"source", "target", "weight", "heads", "frozen"},
}  # fmt: skip
"""Keys of the published schema, of the dialects above, and our own `heads` and `frozen` of links. Each is used, or repeats another key."""
HEAD = {"layer": int, "head": int, "share": float, "query": int, "key": int}
"""Keys of each attention head in a link's `heads`, with their types (`attention.edge_heads`). Optional are its `attention`, its
`score`, and `matched`: pairs of a `query` and a `key` in words with their `value` (`attention.matches`)."""
SAFE = re.compile(r"[a-zA-Z0-9_.-]+")

Graph = dict[str, Any]


# -------------------------------------------------------------------------------------------------------------- reading


def read_graph(path: Path) -> Graph:
    """The graph of a file, in canonical form.

    Raises:
        InputError: the file is missing, too large, not JSON, or not a consistent graph: numbers that are not finite, links to
            missing nodes, two nodes with one id, a token that the prompt does not have. One line that names the file.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{path}: {size / 2**20:.0f} MB; the limit is {MOST_BYTES // 2**20} MB, as for Neuronpedia: prune the graph "
                "more."
            )
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a JSON file of UTF-8 text.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    return parse_graph(text, str(path))


def parse_graph(text: str, where: str) -> Graph:
    """The graph of a JSON text, in canonical form. Raises as `read_graph` does; `where` names the text in errors."""

    def refuse(number: str) -> float:
        raise InputError(f"{where}: holds the number {number[:30]}, which is not finite.")

    def whole(digits: str) -> int:
        return int(digits) if len(digits) < 20 else int(refuse(digits))

    def decimal(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits)

    try:
        data = json.loads(
            text, parse_constant=refuse, parse_float=decimal, parse_int=whole, object_pairs_hook=once(where)
        )
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: nested too deeply for a graph.") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half a character (a lone surrogate).") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}).") from None
    return _canonical(data, where)


def _canonical(data: Any, where: str) -> Graph:
    if not isinstance(data, dict) or not {"metadata", "nodes", "links"} <= data.keys():
        raise InputError(f"{where}: not an attribution graph: it needs 'metadata', 'nodes' and 'links'.")
    metadata = _metadata(data["metadata"], where)
    original = records(data["nodes"], "nodes", where)
    nodes = [checked_node(raw, metadata, where) for raw in original]
    seen: set[str] = set()
    for node in nodes:
        if node["node_id"] in seen:
            raise InputError(f"{where}: the node id '{short(node['node_id'])}' is given twice.")
        seen.add(node["node_id"])
    links = _links(records(data["links"], "links", where), original, nodes, where)
    q_params = saved_view(data.get("qParams") or {}, original, nodes, where)
    _warn_of_the_unknown(data, where)
    return data | {"metadata": metadata | {"schema_version": 1}, "qParams": q_params, "nodes": nodes, "links": links}


def _warn_of_the_unknown(data: Mapping[str, Any], where: str) -> None:
    """Warns of keys that are kept but not used, and of unknown categories of nodes."""
    parts = {"file": [data], "metadata": [data["metadata"]], "qParams": [data.get("qParams") or {}]}
    parts |= {"nodes": data["nodes"], "links": data["links"]}
    found = {part: sorted({str(key) for one in ones for key in one} - KEYS[part]) for part, ones in parts.items()}
    told = "; ".join(f"{part}: {listed(keys)}" for part, keys in found.items() if keys)
    if told:
        warnings.warn(f"{where}: keys that are kept but not used: {told}", InputWarning, stacklevel=4)
    for category, count in unknown_categories(data["nodes"]).items():
        message = (
            f"{where}: the category '{short(category)}' ({count} nodes) is not known, so no score can be worked out"
        )
        warnings.warn(message, InputWarning, stacklevel=4)


def _metadata(given: Any, where: str) -> dict[str, Any]:
    metadata = record(given, "metadata", where)
    tokens = metadata.get("prompt_tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens) or not tokens:
        raise InputError(f"{where}: metadata.prompt_tokens is not a list of texts.")
    for name, default in (("slug", "graph"), ("scan", ""), ("prompt", "".join(tokens))):
        if not isinstance(metadata.setdefault(name, default), str):
            raise InputError(f"{where}: metadata.{name} is not text.")
    version = metadata.get("schema_version")
    if version not in (None, 1) or isinstance(version, bool | float):
        raise InputError(
            f"{where}: metadata.schema_version is {short(repr(version))}; supported are version 1 and files without one."
        )
    for name in ("info", "generation_settings", "pruning_settings", "replication", "feature_details"):
        if not isinstance(metadata.get(name), dict | None):
            raise InputError(f"{where}: metadata.{name} is not a mapping.")
    if not is_share(metadata.get("node_threshold")):
        raise InputError(f"{where}: metadata.node_threshold is not a number from 0 to 1.")
    return metadata


def _links(links: list[dict[str, Any]], original: list[Node], nodes: list[Node], where: str) -> list[dict[str, Any]]:
    """The links with canonical ids. An old error id of layer L may also be the id of a feature of layer 0. A link with such a
    source comes from the feature if it leads to layer L or below. Of two equal links into a later layer the first comes from the
    feature, the second from the error; a single one is taken as the feature's."""
    features, errors = id_spaces(original, nodes)
    layer = {node["node_id"]: int(node["layer"]) for node in nodes if node["layer"].isdigit()}
    kinds = {node["node_id"]: kind_of(node) for node in nodes}
    met: set[tuple[str, str]] = set()
    made: set[tuple[str, str]] = set()
    found = []
    for link in links:
        ends = source, target = link.get("source"), link.get("target")
        if not isinstance(source, str) or not isinstance(target, str):
            raise InputError(f"{where}: a link needs the ids of two nodes, as source and target.")
        for end in ends:
            if end not in features and end not in errors:
                raise InputError(f"{where}: a link names the node '{short(str(end))}', which does not exist.")
        if not is_number(link.get("weight")) or link.get("weight") is None:
            raise InputError(f"{where}: the link '{short(source)}' -> '{short(target)}' has no number as its weight.")
        if "frozen" in link and (link["frozen"] is None or not is_number(link["frozen"])):
            raise InputError(
                f"{where}: the link '{short(source)}' -> '{short(target)}' has no number as its frozen part."
            )
        _check_heads(link, where)
        new_target = features.get(target, errors.get(target, target))
        new_source = features.get(source, errors.get(source, source))
        if source in features and source in errors:
            late = layer.get(new_target, MOST_LAYERS + 1) > layer.get(errors[source], 0)
            if late and (source, target) in met:
                new_source = errors[source]
            met.add((source, target))
        named = f"{where}: the link '{short(source)}' -> '{short(target)}'"
        if new_source == new_target or kinds[new_source] == "logit" or kinds[new_target] == "token":
            raise InputError(f"{named} leads from a node to itself, out of an output or into a token.")
        if (new_source, new_target) in made:
            raise InputError(f"{named} is given twice.")
        made.add((new_source, new_target))
        found.append(link | {"source": new_source, "target": new_target})
    return found


def _check_heads(link: Mapping[str, Any], where: str) -> None:
    def check(key: str, what: str, *, fits: bool) -> None:
        if not fits:
            raise InputError(f"{where}: a head of the link to '{short(link['target'])}' has no {what} as its {key}.")

    for head in records(link.get("heads", []), "the heads of a link", where):
        for key, kind in HEAD.items():
            check(key, "number", fits=head.get(key) is not None and is_number(head[key]))
            check(key, "whole number", fits=kind is float or isinstance(head[key], int))
        for key in ("attention", "score"):
            check(key, "number", fits=is_number(head.get(key)))
        for pair in records(head.get("matched", []), "what a head of a link matched", where):
            check("value", "number", fits=pair.get("value") is not None and is_number(pair["value"]))
            for key in ("query", "key"):
                check(key, "text", fits=isinstance(pair.get(key), str))


# -------------------------------------------------------------------------------------------------------------- writing


def graph_text(graph: Graph) -> str:
    """The text of a graph's file; the same graph gives the same text."""
    return json.dumps(graph, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def for_circuit_tracer(graph: Graph, scan: str | None = None) -> Graph:
    """The graph for circuit-tracer's viewer; `scan` is the transcoders' Hugging Face repository or folder."""
    return _viewable(graph, scan or graph["metadata"]["scan"])


def for_neuronpedia(graph: Graph, model: str | None = None, source_set: str | None = None) -> Graph:
    """The graph for upload to Neuronpedia; `model` and `source_set` are names that Neuronpedia knows.

    Raises:
        InputError: the upload would refuse it, as the model's name has characters other than letters, digits and `_.-`, or the
            file is larger than 100 MB.
    """
    scan = model or graph["metadata"]["scan"]
    if not SAFE.fullmatch(scan):
        raise InputError(f"Neuronpedia knows no model '{short(scan)}': name one of its models with --scan.")
    made = _viewable(graph, scan)
    if source_set:
        details = dict(made["metadata"].get("feature_details") or {}) | {"neuronpedia_source_set": source_set}
        made["metadata"] = made["metadata"] | {"feature_details": details}
    size = len(graph_text(made).encode())
    if size > MOST_BYTES:
        raise InputError(
            f"graph '{made['metadata']['slug']}': {size / 2**20:.0f} MB; the limit of Neuronpedia is {MOST_BYTES // 2**20} MB: prune it more."
        )
    return made


def _viewable(graph: Graph, scan: str) -> Graph:
    """The graph with the fields that both viewers need; its slug becomes its file name there."""
    slug = re.sub(r"[^a-zA-Z0-9_.-]+", "-", graph["metadata"]["slug"]).strip("-.") or "graph"
    layers = [int(n["layer"]) for n in graph["nodes"] if kind_of(n) != "logit" and n["layer"].isdigit()]
    if max(layers, default=0) < 1:
        raise InputError(f"graph '{slug}': all its features are of one layer, but the viewers need two layers or more.")
    nodes = []
    for node in graph["nodes"]:
        if kind_of(node) == "logit" and "(p=" not in node["clerp"]:
            name = node["clerp"] or f'Output "{node["node_id"].split("_")[1]}"'
            node = node | {"clerp": f"{name} (p={node.get('token_prob') or 0.0:.3f})"}
        nodes.append(node)
    return graph | {"metadata": graph["metadata"] | {"slug": slug, "scan": scan}, "nodes": nodes}
