"""Graphs of large models, cut to what a page can hold.

Pruning keeps some hundred thousand links of a graph with ten thousand nodes, which makes a page of many megabytes that no
browser shows well. A page then gets the nodes with the most influence. The file of the graph stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from biology.graph_files.flow import Graph, computed_influence
from biology.graph_files.nodes import kind_of

MOST_LINKS = 12_000


def thinned(graph: Graph, most: int = MOST_LINKS) -> Graph:
    """The graph with as many of its most influential nodes as have at most `most` links between them. A smaller graph is returned as it
    is.

    Tokens, outputs and members of supernodes are always kept. `metadata["info"]["thinned"]` says how many nodes and links
    the whole graph has.
    """
    if len(graph["links"]) <= most:
        return graph
    kept = _always(graph)
    given = {node["node_id"]: node["influence"] for node in graph["nodes"] if _is_number(node.get("influence"))}
    cumulative = given or computed_influence(graph)
    others = [node["node_id"] for node in graph["nodes"] if node["node_id"] not in kept]
    others.sort(key=lambda name: cumulative.get(name, 1.0))
    rank = dict.fromkeys(kept, 0) | {name: place for place, name in enumerate(others, 1)}
    needs = np.sort([max(rank[link["source"]], rank[link["target"]]) for link in graph["links"]])
    last = int(needs[most]) - 1  # with the node of this rank there are too many
    nodes = [node for node in graph["nodes"] if rank[node["node_id"]] <= last or node["node_id"] in kept]
    names = {node["node_id"] for node in nodes}
    links = [link for link in graph["links"] if link["source"] in names and link["target"] in names]
    metadata = graph["metadata"]
    whole = {"thinned": {"nodes": len(graph["nodes"]), "links": len(graph["links"])}}
    return graph | {
        "nodes": nodes,
        "links": links,
        "metadata": metadata | {"info": (metadata.get("info") or {}) | whole},
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _always(graph: Mapping[str, Any]) -> set[str]:
    ends = {node["node_id"] for node in graph["nodes"] if kind_of(node) in ("token", "logit")}
    grouped = {name for group in (graph.get("qParams") or {}).get("supernodes") or [] for name in group[1:]}
    return ends | (grouped & {node["node_id"] for node in graph["nodes"]})
