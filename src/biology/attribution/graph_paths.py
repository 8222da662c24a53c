"""The strongest paths through an attribution graph, and its nodes and paths in words."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from biology.attribution.graph import CHUNK_ENTRIES, ERROR, LOGIT, ROW_FLOOR, TOKEN, Graph, depths
from biology.models.text import whole_word


class GraphPath(NamedTuple):
    """Node indices from the source to the target; strength = w_target * product of normalised |edges|; signed edge
    weights."""

    nodes: tuple[int, ...]
    strength: float
    edges: tuple[float, ...]


def strongest_paths(graph: Graph, n: int = 10, *, errors: bool = False) -> list[GraphPath]:
    """The n strongest paths from a token (or an error, if `errors`) to a target, strongest first; exact best-first
    search."""
    depth = depths(graph)
    leaf = (graph.kind == TOKEN) | ((graph.kind == ERROR) & errors)
    best = leaf.double()  # the strongest continuation from a node down to a leaf
    step = max(1, CHUNK_ENTRIES // max(1, graph.n_nodes))
    for level in torch.unique(depth[depth >= 0]).tolist():
        for index in (depth == level).nonzero().flatten().split(step):
            best[index] = (_normalised(graph, index) * best).amax(1)
    ticket = itertools.count()
    weights = graph.weights
    targets = (weights > 0).nonzero().flatten().tolist()
    heap: list[tuple[float, int, float, tuple[int, ...]]]
    heap = [(-float(weights[t] * best[t]), next(ticket), float(weights[t]), (t,)) for t in targets]
    heapq.heapify(heap)
    found: list[GraphPath] = []
    while heap and len(found) < n:
        bound, _, strength, path = heapq.heappop(heap)
        if bound >= 0:
            break
        if bool(leaf[path[-1]]):
            edges = tuple(float(graph.adjacency[t, s]) for t, s in itertools.pairwise(path))
            found.append(GraphPath(path[::-1], strength, edges[::-1]))
            continue
        row = _normalised(graph, torch.tensor([path[-1]], device=depth.device))[0]
        reach = (row * best).topk(min(n, row.numel()))
        for value, source in zip(reach.values.tolist(), reach.indices.tolist(), strict=True):
            heapq.heappush(heap, (-strength * value, next(ticket), strength * float(row[source]), (*path, source)))
    return found


def _normalised(graph: Graph, index: Tensor) -> Tensor:
    size = graph.adjacency[index].double().abs()
    return size / size.sum(1, keepdim=True).clamp(min=ROW_FLOOR)


def node_label(graph: Graph, index: int, labels: Mapping[tuple[int, int], str] | None = None) -> str:
    """A node in words: `"Dallas"@9`, `feature 3/120@9 (Texas)`, `error 3@9`, `output "Austin"`."""
    kind, layer, pos, feature = (int(of[index]) for of in (graph.kind, graph.layer, graph.pos, graph.feature))
    if kind == LOGIT:
        return f'output "{target_labels(graph)[index - graph.logits.start]}"'
    return source_label(kind, layer, pos, feature, token_texts(graph)[pos] if kind == TOKEN else "", labels)


def source_label(
    kind: int, layer: int, pos: int, feature: int, token: str, labels: Mapping[tuple[int, int], str] | None
) -> str:
    """A node that is not an output, in words; `token` is the text of a token node."""
    if kind == TOKEN:
        return f'"{token}"@{pos}'
    if kind == ERROR:
        return f"error {layer}@{pos}"
    named = (labels or {}).get((layer, feature))
    return f"feature {layer}/{feature}@{pos}" + (f" ({named})" if named else "")


def describe(graph: Graph, path: GraphPath, labels: Mapping[tuple[int, int], str] | None = None) -> str:
    """One path in words, with its share of all target weight and the sign of its product: `"##s" of "Dallas" -> Texas (2/675)
    -> say Austin (4/1218, at "is") -> "Austin"`. A feature is followed by its token if the next node is at another token."""
    share = path.strength / max(float(graph.weights.sum()), ROW_FLOOR)
    sign = "-" if sum(edge < 0 for edge in path.edges) % 2 else "+"
    tokens, told, here = token_texts(graph), [], -1
    for index in path.nodes:
        kind, layer, pos = int(graph.kind[index]), int(graph.layer[index]), int(graph.pos[index])
        at = f'at "{tokens[pos]}"' if pos != here else ""
        here = pos
        if kind == TOKEN:
            word = whole_word(tokens, pos)
            told.append(f'"{tokens[pos]}"' + (f' of "{word}"' if word != tokens[pos] else ""))
        elif kind == LOGIT:
            output = target_labels(graph)[index - graph.logits.start]
            told.append(f'"{output}"' if int(graph.token_id[index]) >= 0 else output)
        else:
            number = f"{layer}/{int(graph.feature[index])}"
            name = (
                (labels or {}).get((layer, int(graph.feature[index])), "")
                if kind != ERROR
                else f"error of layer {layer}"
            )
            if kind == ERROR:
                told.append(f"{name} ({at})" if at else name)
            elif name:
                told.append(f"{name} ({', '.join(filter(None, (number, at)))})")
            else:
                told.append(f"feature {number}" + (f" ({at})" if at else ""))
    return f"{share:6.2%} {sign}  " + " -> ".join(told)


def token_texts(graph: Graph) -> list[str]:
    """The prompt's tokens as text, one per position (token ids without a tokenizer)."""
    ids = graph.token_id[graph.tokens].tolist()
    return list(graph.metadata.get("tokens") or [f"<{i}>" for i in ids])


def target_labels(graph: Graph) -> list[str]:
    """The targets as text, one per logit node."""
    ids = graph.token_id[graph.logits].tolist()
    return list(graph.metadata.get("target_labels") or [f"<{i}>" for i in ids])
