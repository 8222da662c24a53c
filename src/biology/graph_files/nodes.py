"""Nodes of graph files: their categories, their checks, and one form for the ids, layers and codes of every dialect."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from biology.records import InputError

KINDS = {
    "cross layer transcoder": "feature", "lorsa": "feature", "mlp reconstruction error": "error", "lorsa error": "error",
    "embedding": "token", "logit": "logit", "bias": "bias",
}  # fmt: skip
"""Kinds of node by the categories in use. Per-layer features are called "cross layer transcoder" too; "lorsa" are features that
replace attention, with their errors. A node of any other category is drawn, but the graph gets no scores."""
MOST_LAYERS = 1000

Node = dict[str, Any]


def kind_of(node: Mapping[str, Any]) -> str | None:
    """feature, error, token, logit or bias; None for an unknown category."""
    return KINDS.get(node["feature_type"])


def unknown_categories(nodes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The number of nodes in each unknown category."""
    return dict(Counter(node["feature_type"] for node in nodes if kind_of(node) is None))


def checked_node(raw: Mapping[str, Any], metadata: Mapping[str, Any], where: str) -> Node:
    """A node in canonical form. Raises `InputError`, with its id, if it is not valid."""
    node = dict(raw)
    identity, category = node.get("node_id"), node.get("feature_type")
    if not isinstance(identity, str):
        raise InputError(f"{where}: a node has no text node_id.")
    name = f"{where}: node '{short(identity)}'"
    if not isinstance(category, str) or not category:
        raise InputError(f"{name}: has no category (a text feature_type).")
    position, layer = node.get("ctx_idx"), node.get("layer")
    if not isinstance(position, int) or isinstance(position, bool):
        raise InputError(f"{name}: ctx_idx is not a whole number.")
    if not 0 <= position < len(metadata["prompt_tokens"]):
        raise InputError(f"{name}: is at token {position} of a prompt of {len(metadata['prompt_tokens'])} tokens.")
    if not isinstance(layer, str | int) or isinstance(layer, bool):
        raise InputError(f"{name}: layer is neither text nor a whole number.")
    node["layer"] = _layer(node)
    if re.fullmatch(r"-?\d{1,9}", node["layer"]) and not 0 <= int(node["layer"]) <= MOST_LAYERS:
        raise InputError(f"{name}: there is no layer {node['layer']}.")
    for key, default in (("jsNodeId", identity), ("clerp", "")):
        node[key] = default if node.get(key) is None else node[key]
        if not isinstance(node[key], str):
            raise InputError(f"{name}: {key} is not text.")
    feature = node.setdefault("feature", None)
    if not isinstance(feature, int | None) or isinstance(feature, bool):
        raise InputError(f"{name}: feature is not a whole number.")
    for key in ("influence", "activation", "token_prob"):
        if not is_number(node.get(key)):
            raise InputError(f"{name}: {key} is not a number.")
    if not is_share(node.get("token_prob")):
        raise InputError(f"{name}: token_prob is {node['token_prob']:g}, which is no probability.")
    if (node.get("influence") or 0.0) < 0:
        raise InputError(f"{name}: influence is {node['influence']:g}, but it is never negative.")

    if is_old_error(raw):
        node |= {"node_id": f"{layer}_-1_{position}", "jsNodeId": f"{layer}_-1-{position}", "feature": -1}
    parts = re.fullmatch(r"(\d{1,18})_(\d{1,18})_\d+", identity)
    if metadata.get("schema_version") is None and kind_of(node) == "feature" and parts:
        level, index = int(parts[1]), int(parts[2])
        node["feature"] = (level + index) * (level + index + 1) // 2 + index
    return node


def _layer(node: Mapping[str, Any]) -> str:
    """The layer as a text. Tokens and outputs have none, and some dialects write -1: tokens become "E", outputs take the layer in
    their ids."""
    layer, kind = str(node["layer"]), kind_of(node)
    if layer != "-1" or kind not in ("token", "logit"):
        return layer
    above = re.match(r"(\d{1,9})_", node["node_id"])
    return "E" if kind == "token" else above[1] if above else "output"


def is_old_error(raw: Mapping[str, Any]) -> bool:
    """Whether an error node has the old id `0_{layer}_{pos}`, which looks like a feature of layer 0."""
    old = raw["node_id"] == f"0_{raw['layer']}_{raw['ctx_idx']}"
    return kind_of(raw) == "error" and old and raw.get("feature") in (-1, None)


def id_spaces(original: list[Node], nodes: list[Node]) -> tuple[dict[str, str], dict[str, str]]:
    """Canonical ids by the ids in the file: one mapping for all nodes but old errors, one for old errors."""
    pairs = list(zip(original, nodes, strict=True))
    errors = {raw["node_id"]: node["node_id"] for raw, node in pairs if is_old_error(raw)}
    return {raw["node_id"]: node["node_id"] for raw, node in pairs if not is_old_error(raw)}, errors


# --------------------------------------------------------------------------------------------------------- plain checks


def record(given: Any, name: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises `InputError` if it is none."""
    if not isinstance(given, dict):
        raise InputError(f"{where}: {name} is not a mapping.")
    return dict(given)


def records(given: Any, name: str, where: str) -> list[dict[str, Any]]:
    """A list of JSON objects. Raises `InputError` if it is none, or if it has no nodes."""
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InputError(f"{where}: {name} is not a list of mappings.")
    if not given and name == "nodes":
        raise InputError(f"{where}: the graph has no nodes.")
    return given


def is_number(value: Any) -> bool:
    """Whether a value is a finite number or None."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def is_share(value: Any) -> bool:
    """Whether a value is a number between 0 and 1, up to rounding, or None."""
    return is_number(value) and (value is None or -1e-6 <= value <= 1 + 1e-6)


def short(text: str) -> str:
    """The text, cut after 60 characters."""
    return text if len(text) <= 60 else text[:59] + "…"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    given = [short(name) for name in names]
    return ", ".join(given[:most]) + (f" and {len(given) - most} more" if len(given) > most else "")
