"""The view saved in a graph file, or shared as an address: pins, supernodes, labels, and the clicked node.

Values may be lists or, as circuit-tracer's "Save" writes them, texts. Nodes are given by node id or (the hosted Claude 3.5 Haiku
graphs) by jsNodeId. Ids of no node in the graph are named in an `InputWarning` and kept, since viewers skip them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from biology.graph_files.nodes import Node, id_spaces, is_share, kind_of, listed, record, short
from biology.records import InputError, InputWarning

LINK_TYPES = ("both", "input", "output", "either")
SHARED = ("pinnedIds", "supernodes", "clerps", "clickedId", "pruningThreshold")
"""Parameters of an address that describe the view."""


def saved_view(given: Any, original: list[Node], nodes: list[Node], where: str) -> dict[str, Any]:
    """`qParams` in canonical form, with texts parsed to lists and jsNodeIds replaced by node ids. Labels are written into their
    nodes.

    Raises `InputError` for values that cannot be read; warns of ids of no node.
    """
    view = record(given, "qParams", where)
    pinned = view.get("pinnedIds") or []
    if isinstance(pinned, str):
        pinned = [part for part in pinned.split(",") if part]
    groups = _from_text(view.get("supernodes") or [], "supernodes", where)
    if not isinstance(pinned, list) or not all(isinstance(one, str) for one in pinned):
        raise InputError(f"{where}: qParams.pinnedIds is not a list of node ids.")
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and group and all(isinstance(part, str) for part in group) for group in groups
    ):
        raise InputError(f"{where}: qParams.supernodes is not a list of lists [name, node id, ...].")
    clicked = view.get("clickedId")
    clicked = "" if clicked in (None, "undefined", "null") else clicked
    places, links = view.get("sg_pos"), view.get("linkType")
    if not isinstance(clicked, str) or not isinstance(places, str | None):
        raise InputError(f"{where}: qParams.{'sg_pos' if isinstance(clicked, str) else 'clickedId'} is not text.")
    if links not in (None, *LINK_TYPES):
        raise InputError(f"{where}: qParams.linkType is {short(str(links))!r}, not one of {', '.join(LINK_TYPES)}.")
    members = [part for group in groups for part in group[1:]]
    resolve = _resolver([*pinned, *members], original, nodes)
    there = {node["node_id"] for node in nodes}
    asked: list[str] = [*pinned, *members, *filter(None, [clicked])]
    absent = [one for one in dict.fromkeys(asked) if resolve(one) not in there]
    if absent:
        _warn(f"{where}: qParams names nodes that are not in the graph: {listed(absent)}")
    names: set[str] = set()
    named = []
    for name, *group in groups:
        free, count = name, 2
        while free in names:
            free, count = f"{name} ({count})", count + 1
        names.add(free)
        named.append([free, *map(resolve, group)])
    if "clerps" in view:
        _label(_from_text(view.pop("clerps") or [], "clerps", where), original, nodes, where)
    if isinstance(view.get("pruningThreshold"), str):
        try:
            view["pruningThreshold"] = float(view["pruningThreshold"])
        except ValueError:
            raise InputError(f"{where}: qParams.pruningThreshold is not a number.") from None
    if not is_share(view.get("pruningThreshold")):
        raise InputError(f"{where}: qParams.pruningThreshold is not a number from 0 to 1.")
    return view | {
        "pinnedIds": list(map(resolve, pinned)), "supernodes": named, "linkType": links or "both",
        "clickedId": resolve(clicked), "sg_pos": places or "",
    }  # fmt: skip


def _resolver(ids: Iterable[str], original: list[Node], nodes: list[Node]) -> Callable[[str], str]:
    """A function from an id in the file's saved view to a node id. Ids are read as node ids or as jsNodeIds, whichever matches more
    nodes."""
    features, errors = id_spaces(original, nodes)
    by_display: dict[str, str] = {}
    for raw, node in zip(original, nodes, strict=True):
        by_display.setdefault(str(raw.get("jsNodeId")), node["node_id"])
    canonical = {node["node_id"]: node["node_id"] for node in nodes}
    by_node = canonical | errors | features
    given = list(ids)
    first, second = by_node, by_display
    if sum(one in by_display for one in given) > sum(one in by_node for one in given):
        first, second = second, first
    return lambda one: first.get(one, second.get(one, one))


def _label(clerps: Any, original: list[Node], nodes: list[Node], where: str) -> None:
    """Writes labels into their nodes; they are given by node id or, in older files, by feature code."""
    pairs = list(clerps.items()) if isinstance(clerps, dict) else clerps
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], str) for pair in pairs
    ):
        raise InputError(f"{where}: qParams.clerps is not a list of [node id, label].")
    texts, used = {str(key): text for key, text in pairs}, set()
    for raw, node in zip(original, nodes, strict=True):
        keys = [node["node_id"], raw["node_id"]]
        if kind_of(node) == "feature":
            keys += [str(node["feature"]), str(raw.get("feature"))]
        found = next((key for key in keys if key in texts), None)
        if found is not None:
            node["clerp"] = texts[found]
            used.add(found)
    idle = [key for key in texts if key not in used]
    if idle:
        _warn(f"{where}: labels of nodes that are not in the graph are left out: {listed(idle)}")


def with_shared_view(graph: dict[str, Any], address: str) -> dict[str, Any]:
    """The graph with pins, supernodes and labels from an address of Neuronpedia (`/gemma-2-2b/graph?slug=...&pinnedIds=...`) or of
    one of our pages (`...#graph=...&pinnedIds=...`).

    Raises `InputError` if the address holds no view; warns if it belongs to another graph, or holds parameters that are not read.
    """
    split = urlsplit(address)
    given = {name: values[-1] for name, values in parse_qs(split.query or split.fragment).items()}
    if not any(name in given for name in SHARED):
        raise InputError(
            f"'{short(address)}' is not the address of a shared graph: it has none of {', '.join(SHARED)}."
        )
    slug, own = given.get("slug"), graph["metadata"]["slug"]
    if slug not in (None, own):
        _warn(f"the address is that of the graph '{short(str(slug))}', but this one is '{short(own)}'")
    idle = sorted(given.keys() - {*SHARED, "slug", "graph"})
    if idle:
        _warn(f"the address: not used: {listed(idle)}")
    nodes = [dict(node) for node in graph["nodes"]]
    before = dict(graph["qParams"]) | ({"supernodes": []} if "supernodes" in given else {})
    view = saved_view(before | {name: given[name] for name in SHARED if name in given}, nodes, nodes, "the address")
    return graph | {"nodes": nodes, "qParams": view}


def _from_text(given: Any, name: str, where: str) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: qParams.{name} is not valid JSON.") from None


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)
