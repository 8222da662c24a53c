"""Influence, replacement score and completeness score of a graph file, computed from its links where the file lacks them.

Definitions are those of `graph.py` (Circuit Tracing, "Evaluating graphs" and the appendix on pruning), applied to the pruned
graph, as the file holds nothing else. Biases carry no influence in `graph.py`; where a file has them as nodes they are left out
here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from biology.graph_files.nodes import kind_of, unknown_categories

Graph = dict[str, Any]


def _flow(graph: Graph) -> tuple[sparse.csr_array, Float[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    """Links as normalised absolute edges [target, source], output probabilities, and each node's influence on the outputs
    through all paths."""
    place = {node["node_id"]: index for index, node in enumerate(graph["nodes"])}
    biases = {node["node_id"] for node in graph["nodes"] if kind_of(node) == "bias"}
    links = [link for link in graph["links"] if link["source"] not in biases]
    count = len(place)
    rows = np.array([place[link["target"]] for link in links], dtype=int)
    columns = np.array([place[link["source"]] for link in links], dtype=int)
    sizes = np.abs(np.array([link["weight"] for link in links], dtype=float))
    total = np.bincount(rows, sizes, minlength=count)
    shares = sparse.csr_array((sizes / np.maximum(total[rows], 1e-300), (rows, columns)), shape=(count, count))
    weights = np.array([_probability(node) for node in graph["nodes"]])
    influence, passed = np.zeros(count), weights
    for _ in range(2 * len({node["layer"] for node in graph["nodes"]}) + 2):  # no path is longer
        passed = shares.T @ passed
        influence += passed
    return shares, weights, influence


def _probability(node: Mapping[str, Any]) -> float:
    if kind_of(node) != "logit":
        return 0.0
    written = re.search(r"\(p=([\d.]+(?:e-?\d+)?)\)\s*$", node["clerp"])
    return float(node.get("token_prob") or (written[1] if written else 0.0))


def computed_influence(graph: Graph) -> dict[str, float]:
    """The cumulative influence of every node but the outputs, for files that give none. Small means important."""
    influence = _flow(graph)[2]
    order = np.argsort(-influence, kind="stable")
    cumulative = np.empty_like(influence)
    cumulative[order] = np.minimum(influence[order].cumsum() / max(influence.sum(), 1e-300), 1.0)
    found = zip(graph["nodes"], cumulative.tolist(), strict=True)
    return {node["node_id"]: round(value, 6) for node, value in found if kind_of(node) != "logit"}


def graph_scores(graph: Graph) -> tuple[float, float] | None:
    """Replacement score and completeness score of a file's pruned graph.

    None if the file has no error nodes, since both scores would then be 1 for any graph, or if it has unknown categories, since
    these may be errors or not.
    """
    error = np.array([kind_of(node) == "error" for node in graph["nodes"]])
    token = np.array([kind_of(node) == "token" for node in graph["nodes"]])
    if not error.any() or unknown_categories(graph["nodes"]):
        return None
    shares, weights, influence = _flow(graph)
    ends = influence[token].sum() + influence[error].sum()
    passed = influence + weights
    explained = 1 - np.asarray(shares[:, error].sum(axis=1)).ravel()
    if not ends or not passed.sum():
        return None
    return float(influence[token].sum() / ends), float((explained * passed).sum() / passed.sum())
