"""Graph files of every dialect in use, read into one form, and that form written for either viewer.

The canonical form is the published schema ("Anthropic Attribution Graph") with schema_version 1, error ids
`{layer}_-1_{pos}` and pins by node id, which is what `graph_json.py` writes. Read as well are: error ids `0_{layer}_{pos}`,
which collide with features of layer 0; files without a schema version, whose `feature` is a raw id or layer * 100000 + index;
pins by jsNodeId (the hosted Claude 3.5 Haiku graphs); `qParams` as strings (circuit-tracer's "Save"); missing influence.
Unknown keys and unknown types of nodes come back as they are.

Files come from anywhere: what cannot be shown faithfully is refused in one line, never dropped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from scipy import sparse

from biology.config import InputError

TYPES = {
    "cross layer transcoder": "feature", "mlp reconstruction error": "error", "embedding": "token", "logit": "logit",
}  # fmt: skip
"""What the published types of nodes are called here; per-layer features are called "cross layer transcoder" too."""
MOST_BYTES = 100 * 2**20
"""Larger files are refused; Neuronpedia's own limit."""
MOST_LAYERS = 1000
LINK_TYPES = ("both", "input", "output", "either")
SAFE = re.compile(r"[a-zA-Z0-9_.-]+")

Graph = dict[str, Any]


# -------------------------------------------------------------------------------------------------------------- reading


def read_graph(path: Path) -> Graph:
    """The graph of a file, in canonical form.

    Raises `InputError`, in one line that names the file, if it is missing, too large, no JSON, or no faithful graph: numbers
    that are not finite, links to nodes that are not there, two nodes of one id, a token that the prompt does not have.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{path}: {size / 2**20:.0f} MB; graphs above {MOST_BYTES // 2**20} MB are not read. Prune it more, as "
                "Neuronpedia asks for as well."
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
    """The graph of a JSON text, in canonical form; `where` names it in errors. See `read_graph`."""

    def refuse(number: str) -> float:
        raise InputError(f"{where}: holds the number {number[:30]}, which is not finite.")

    def whole(digits: str) -> int:
        return int(digits) if len(digits) < 20 else int(refuse(digits))

    def decimal(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits)

    try:
        data = json.loads(text, parse_constant=refuse, parse_float=decimal, parse_int=whole)
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
        raise InputError(f"{where}: no attribution graph; one has 'metadata', 'nodes' and 'links'.")
    metadata = _metadata(data["metadata"], where)
    original = _records(data["nodes"], "nodes", where)
    nodes = [_node(raw, metadata, where) for raw in original]
    seen: set[str] = set()
    for node in nodes:
        if node["node_id"] in seen:
            raise InputError(f"{where}: the node id '{_short(node['node_id'])}' is given twice.")
        seen.add(node["node_id"])
    links = _links(_records(data["links"], "links", where), original, nodes, where)
    q_params = _q_params(data.get("qParams") or {}, original, nodes, where)
    return data | {"metadata": metadata | {"schema_version": 1}, "qParams": q_params, "nodes": nodes, "links": links}


def _metadata(given: Any, where: str) -> dict[str, Any]:
    metadata = _record(given, "metadata", where)
    tokens = metadata.get("prompt_tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens) or not tokens:
        raise InputError(f"{where}: metadata.prompt_tokens is no list of texts.")
    for name, default in (("slug", "graph"), ("scan", ""), ("prompt", "".join(tokens))):
        if not isinstance(metadata.setdefault(name, default), str):
            raise InputError(f"{where}: metadata.{name} is no text.")
    if not isinstance(metadata.get("schema_version"), int | None):
        raise InputError(f"{where}: metadata.schema_version is no whole number.")
    for name in ("info", "generation_settings", "pruning_settings", "replication", "feature_details"):
        if not isinstance(metadata.get(name), dict | None):
            raise InputError(f"{where}: metadata.{name} is no mapping.")
    if not _is_number(metadata.get("node_threshold")):
        raise InputError(f"{where}: metadata.node_threshold is no number.")
    return metadata


def _node(raw: Mapping[str, Any], metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    node = dict(raw)
    identity, kind = node.get("node_id"), node.get("feature_type")
    if not isinstance(identity, str) or not isinstance(kind, str):
        raise InputError(f"{where}: a node lacks a text node_id or feature_type.")
    name = f"{where}: node '{_short(identity)}'"
    position, layer = node.get("ctx_idx"), node.get("layer")
    if not isinstance(position, int) or isinstance(position, bool):
        raise InputError(f"{name}: ctx_idx is no whole number.")
    if not 0 <= position < len(metadata["prompt_tokens"]):
        raise InputError(f"{name}: stands on token {position} of a prompt of {len(metadata['prompt_tokens'])}.")
    if not isinstance(layer, str | int) or isinstance(layer, bool):
        raise InputError(f"{name}: layer is neither a text nor a whole number.")
    node["layer"] = str(layer)
    if re.fullmatch(r"-?\d{1,9}", node["layer"]) and not 0 <= int(node["layer"]) <= MOST_LAYERS:
        raise InputError(f"{name}: there is no layer {node['layer']}.")
    for key, default in (("jsNodeId", identity), ("clerp", "")):
        node[key] = default if node.get(key) is None else node[key]
        if not isinstance(node[key], str):
            raise InputError(f"{name}: {key} is no text.")
    feature = node.setdefault("feature", None)
    if not isinstance(feature, int | None) or isinstance(feature, bool):
        raise InputError(f"{name}: feature is no whole number.")
    for key in ("influence", "activation", "token_prob"):
        if not _is_number(node.get(key)):
            raise InputError(f"{name}: {key} is no number.")

    if _is_old_error(raw):
        node |= {"node_id": f"{layer}_-1_{position}", "jsNodeId": f"{layer}_-1-{position}", "feature": -1}
    parts = re.fullmatch(r"(\d{1,18})_(\d{1,18})_\d+", identity)
    if metadata.get("schema_version") is None and TYPES.get(kind) == "feature" and parts:
        level, index = int(parts[1]), int(parts[2])
        node["feature"] = (level + index) * (level + index + 1) // 2 + index
    return node


def _is_old_error(raw: Mapping[str, Any]) -> bool:
    """Whether a node's id is an error's of the time when it looked like a feature of layer 0."""
    old = raw["node_id"] == f"0_{raw['layer']}_{raw['ctx_idx']}"
    return TYPES.get(raw["feature_type"]) == "error" and old and raw.get("feature") in (-1, None)


def _links(
    links: list[dict[str, Any]], original: list[dict[str, Any]], nodes: list[dict[str, Any]], where: str
) -> list[dict[str, Any]]:
    """The links with canonical ends. Where a feature of layer 0 and the error of layer L have one old id, a link into layer L
    or below is the feature's; of two equal links into a later layer the first is; a single one is taken as the feature's."""
    features, errors = _spaces(original, nodes)
    layer = {node["node_id"]: int(node["layer"]) for node in nodes if node["layer"].isdigit()}
    met: set[tuple[str, str]] = set()
    found = []
    for link in links:
        ends = source, target = link.get("source"), link.get("target")
        if not isinstance(source, str) or not isinstance(target, str):
            raise InputError(f"{where}: a link lacks a text source or target.")
        for end in ends:
            if end not in features and end not in errors:
                raise InputError(f"{where}: a link leads to or from '{_short(str(end))}', and there is no such node.")
        if not _is_number(link.get("weight")) or link.get("weight") is None:
            raise InputError(f"{where}: the link '{_short(source)}' -> '{_short(target)}' has no number as its weight.")
        new_target = features.get(target, errors.get(target, target))
        new_source = features.get(source, errors.get(source, source))
        if source in features and source in errors:
            late = layer.get(new_target, MOST_LAYERS + 1) > layer.get(errors[source], 0)
            if late and (source, target) in met:
                new_source = errors[source]
            met.add((source, target))
        found.append(link | {"source": new_source, "target": new_target})
    return found


def _spaces(original: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """Canonical ids by the ids of the file: of all nodes but old errors, and of old errors."""
    pairs = list(zip(original, nodes, strict=True))
    errors = {raw["node_id"]: node["node_id"] for raw, node in pairs if _is_old_error(raw)}
    return {raw["node_id"]: node["node_id"] for raw, node in pairs if not _is_old_error(raw)}, errors


# -------------------------------------------------------------------------------------- pins, supernodes, labels, links


def _q_params(given: Any, original: list[dict[str, Any]], nodes: list[dict[str, Any]], where: str) -> dict[str, Any]:
    """The saved view: lists where the file has strings, node ids where it has jsNodeIds; labels go to their nodes."""
    q_params = _record(given, "qParams", where)
    pinned = q_params.get("pinnedIds") or []
    if isinstance(pinned, str):
        pinned = [part for part in pinned.split(",") if part]
    groups = _from_text(q_params.get("supernodes") or [], "supernodes", where)
    if not isinstance(pinned, list) or not all(isinstance(one, str) for one in pinned):
        raise InputError(f"{where}: qParams.pinnedIds is no list of node ids.")
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and group and all(isinstance(part, str) for part in group) for group in groups
    ):
        raise InputError(f"{where}: qParams.supernodes is no list of lists [name, node id, ...].")
    clicked = q_params.get("clickedId")
    clicked = "" if clicked in (None, "undefined", "null") else clicked
    resolve = _resolver([*pinned, *(part for group in groups for part in group[1:])], original, nodes)
    names: set[str] = set()
    named = []
    for name, *members in groups:
        free, count = name, 2
        while free in names:
            free, count = f"{name} ({count})", count + 1
        names.add(free)
        named.append([free, *map(resolve, members)])
    if "clerps" in q_params:
        _label(_from_text(q_params.pop("clerps") or [], "clerps", where), original, nodes)
    threshold = q_params.get("pruningThreshold")
    if isinstance(threshold, str):
        try:
            q_params["pruningThreshold"] = float(threshold)
        except ValueError:
            del q_params["pruningThreshold"]
    plain = {
        "pinnedIds": list(map(resolve, pinned)),
        "supernodes": named,
        "linkType": q_params.get("linkType") if q_params.get("linkType") in LINK_TYPES else "both",
        "clickedId": resolve(clicked) if isinstance(clicked, str) else "",
        "sg_pos": q_params["sg_pos"] if isinstance(q_params.get("sg_pos"), str) else "",
    }
    return q_params | plain


def _resolver(ids: Iterable[str], original: list[dict[str, Any]], nodes: list[dict[str, Any]]):
    """From an id of the file's saved view to a node id. The file's ids are node ids or jsNodeIds: whichever finds more."""
    features, errors = _spaces(original, nodes)
    by_display: dict[str, str] = {}
    for raw, node in zip(original, nodes, strict=True):
        by_display.setdefault(str(raw.get("jsNodeId")), node["node_id"])
    canonical = {node["node_id"]: node["node_id"] for node in nodes}
    by_node = canonical | errors | features
    listed = list(ids)
    first, second = by_node, by_display
    if sum(one in by_display for one in listed) > sum(one in by_node for one in listed):
        first, second = second, first
    return lambda one: first.get(one, second.get(one, one))


def _label(clerps: Any, original: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> None:
    """Writes labels, given by node id or (older) by feature code, into their nodes. What is no label is passed over."""
    pairs = clerps.items() if isinstance(clerps, dict) else clerps if isinstance(clerps, list) else []
    texts = {str(pair[0]): pair[1] for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2}
    for raw, node in zip(original, nodes, strict=True):
        keys = [node["node_id"], raw["node_id"]]
        if TYPES.get(raw["feature_type"]) == "feature":
            keys += [str(node["feature"]), str(raw.get("feature"))]
        found = next((texts[key] for key in keys if isinstance(texts.get(key), str)), None)
        if found is not None:
            node["clerp"] = found


def with_shared_view(graph: Graph, address: str) -> Graph:
    """The graph with pins, supernodes and labels of an address of Neuronpedia's (`/gemma-2-2b/graph?slug=...&pinnedIds=...`) or
    of one of our pages (`...#graph=...&pinnedIds=...`)."""
    split = urlsplit(address)
    given = {name: values[-1] for name, values in parse_qs(split.query or split.fragment).items()}
    wanted = ("pinnedIds", "supernodes", "clerps", "clickedId", "pruningThreshold")
    if not any(name in given for name in wanted):
        raise InputError(f"'{_short(address)}' is no address of a shared graph: it has none of {', '.join(wanted)}.")
    nodes = [dict(node) for node in graph["nodes"]]
    before = dict(graph["qParams"]) if "supernodes" not in given else dict(graph["qParams"]) | {"supernodes": []}
    q_params = before | {name: given[name] for name in wanted if name in given}
    return graph | {"nodes": nodes, "qParams": _q_params(q_params, nodes, nodes, "the address")}


# -------------------------------------------------------------------------------------------------------------- writing


def graph_text(graph: Graph) -> str:
    """The file of a graph: the same graph is the same text."""
    return json.dumps(graph, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def for_circuit_tracer(graph: Graph, scan: str | None = None) -> Graph:
    """The graph for circuit-tracer's viewer; `scan` is the transcoders' Hugging Face repository or folder."""
    return _viewable(graph, graph["metadata"]["slug"], scan or graph["metadata"]["scan"])


def for_neuronpedia(graph: Graph, model: str | None = None, source_set: str | None = None) -> Graph:
    """The graph for Neuronpedia's upload; `model` and `source_set` are names that Neuronpedia knows.

    Raises `InputError` where the upload would refuse it: a model with other characters than letters, digits, `_.-`; more
    than 100 MB.
    """
    scan = model or graph["metadata"]["scan"]
    if not SAFE.fullmatch(scan):
        raise InputError(f"Neuronpedia knows no model '{_short(scan)}': name one of its models with --scan.")
    slug = re.sub(r"[^a-zA-Z0-9_.-]+", "-", graph["metadata"]["slug"]).strip("-") or "graph"
    made = _viewable(graph, slug, scan)
    if source_set:
        details = dict(made["metadata"].get("feature_details") or {}) | {"neuronpedia_source_set": source_set}
        made["metadata"] = made["metadata"] | {"feature_details": details}
    size = len(graph_text(made).encode())
    if size > MOST_BYTES:
        raise InputError(
            f"graph '{slug}': {size / 2**20:.0f} MB, and Neuronpedia takes {MOST_BYTES // 2**20}. Prune it more."
        )
    return made


def _viewable(graph: Graph, slug: str, scan: str) -> Graph:
    """The graph with what both viewers' code relies on."""
    layers = [
        int(n["layer"]) for n in graph["nodes"] if TYPES.get(n["feature_type"]) != "logit" and n["layer"].isdigit()
    ]
    if max(layers, default=0) < 1:
        raise InputError(f"graph '{slug}': all its features are of one layer, and the viewers need two layers or more.")
    nodes = []
    for node in graph["nodes"]:
        if TYPES.get(node["feature_type"]) == "logit" and "(p=" not in node["clerp"]:
            name = node["clerp"] or f'Output "{node["node_id"].split("_")[1]}"'
            node = node | {"clerp": f"{name} (p={node.get('token_prob') or 0.0:.3f})"}
        nodes.append(node)
    return graph | {"metadata": graph["metadata"] | {"slug": slug, "scan": scan}, "nodes": nodes}


# ------------------------------------------------------------------------------------------ what a file allows to work out


def _flow(graph: Graph) -> tuple[sparse.csr_array, np.ndarray, np.ndarray]:
    """Links as shares [target, source], the outputs' probabilities, and each node's influence on them through all paths."""
    place = {node["node_id"]: index for index, node in enumerate(graph["nodes"])}
    count = len(place)
    rows = np.array([place[link["target"]] for link in graph["links"]], dtype=int)
    columns = np.array([place[link["source"]] for link in graph["links"]], dtype=int)
    sizes = np.abs(np.array([link["weight"] for link in graph["links"]], dtype=float))
    total = np.bincount(rows, sizes, minlength=count)
    shares = sparse.csr_array((sizes / np.maximum(total[rows], 1e-300), (rows, columns)), shape=(count, count))
    weights = np.array([_probability(node) for node in graph["nodes"]])
    influence, passed = np.zeros(count), weights
    for _ in range(2 * len({node["layer"] for node in graph["nodes"]}) + 2):  # no path is longer
        passed = shares.T @ passed
        influence += passed
    return shares, weights, influence


def _probability(node: Mapping[str, Any]) -> float:
    if TYPES.get(node["feature_type"]) != "logit":
        return 0.0
    written = re.search(r"\(p=([\d.]+(?:e-?\d+)?)\)\s*$", node["clerp"])
    return float(node.get("token_prob") or (written[1] if written else 0.0))


def computed_influence(graph: Graph) -> dict[str, float]:
    """The cumulative influence of every node but the outputs, where a file gives none: small = important.

    It is that of the pruned graph, since nothing else is in the file.
    """
    influence = _flow(graph)[2]
    order = np.argsort(-influence, kind="stable")
    cumulative = np.empty_like(influence)
    cumulative[order] = np.minimum(influence[order].cumsum() / max(influence.sum(), 1e-300), 1.0)
    found = zip(graph["nodes"], cumulative.tolist(), strict=True)
    return {node["node_id"]: round(value, 6) for node, value in found if TYPES.get(node["feature_type"]) != "logit"}


def graph_scores(graph: Graph) -> tuple[float, float] | None:
    """Replacement and completeness (Circuit Tracing, "Evaluating graphs") of the pruned graph of a file; None where the file
    holds no error nodes, since then both would be 1 whatever the graph."""
    error = np.array([TYPES.get(node["feature_type"]) == "error" for node in graph["nodes"]])
    token = np.array([TYPES.get(node["feature_type"]) == "token" for node in graph["nodes"]])
    if not error.any():
        return None
    shares, weights, influence = _flow(graph)
    ends = influence[token].sum() + influence[error].sum()
    passed = influence + weights
    explained = 1 - np.asarray(shares[:, error].sum(axis=1)).ravel()
    if not ends or not passed.sum():
        return None
    return float(influence[token].sum() / ends), float((explained * passed).sum() / passed.sum())


# -------------------------------------------------------------------------------------------------------------- checking


def _record(given: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where}: {name} is no mapping.")
    return dict(given)


def _records(given: Any, name: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InputError(f"{where}: {name} is no list of mappings.")
    if not given and name == "nodes":
        raise InputError(f"{where}: a graph without nodes.")
    return given


def _from_text(given: Any, name: str, where: str) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: qParams.{name} is a text that is no JSON.") from None


def _is_number(value: Any) -> bool:
    """Whether a value is a number or nothing; that it is finite was checked when it was read."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
