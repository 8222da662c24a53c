"""The strongest paths through an attribution graph, the strongest routes through groups of its features, and both in words."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from biology.attribution.graph import CHUNK_ENTRIES, ERROR, LOGIT, ROW_FLOOR, TOKEN, Graph, depths, influence
from biology.models.text import whole_word, words


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


class Group(NamedTuple):
    """Features of one role at one token, as nodes of a graph."""

    role: str
    nodes: Sequence[int]


class Route(NamedTuple):
    """All paths from a word of the prompt to a target that pass the same groups of features."""

    word: range
    """The positions of the word's tokens."""
    groups: tuple[int, ...]
    """The groups that are passed, by number, the one next to the word first."""
    target: int
    """The target's node."""
    influence: float
    """Of the word on the target along these paths, as `graph.influence` counts it."""
    signed: float
    """The same with the signs of edges, so that opposite paths cancel."""


def strongest_routes(graph: Graph, groups: Sequence[Group], n: int = 5) -> list[Route]:
    """The n strongest routes, strongest first; exact best-first search.

    No node may be in two groups. Features in no group are passed through. A path is followed from its target
    down, and passes a group where it first meets it; so each path belongs to one route, and all routes together make the influence of
    all tokens on the targets.
    """
    group = torch.full((graph.n_nodes,), -1, device=graph.adjacency.device)
    members = [torch.tensor(list(one.nodes), device=group.device) for one in groups]
    for number, nodes in enumerate(members):
        group[nodes] = number
    starts = words(token_texts(graph))
    ticket, heap, found = itertools.count(), [], []
    for target in (graph.weights > 0).nonzero().flatten().tolist():
        weight = float(graph.weights[target])
        at = torch.tensor([target], device=group.device)
        heapq.heappush(heap, (-weight, next(ticket), (), target, at, at.new_full((2, 1), 1).double() * weight))
    while heap and len(found) < n:
        bound, _, passed, target, nodes, values = heapq.heappop(heap)
        if isinstance(nodes, range):
            found.append(Route(nodes, passed, target, -bound, values))
            continue
        stop = (group >= 0) & ~torch.isin(group, torch.tensor([-1, *passed], device=group.device))
        reached = _reached(graph, nodes, values, stop)
        for word in starts:
            size, signed = reached[:, graph.tokens][:, list(word)].sum(1).tolist()
            if size > 0:
                heapq.heappush(heap, (-size, next(ticket), passed, target, word, signed))
        for number in torch.unique(group[stop & (reached[0] > 0)]).tolist():
            here = reached[:, members[number]]
            heapq.heappush(
                heap, (-float(here[0].sum()), next(ticket), (number, *passed), target, members[number], here)
            )
    return found


def _reached(
    graph: Graph, nodes: Tensor, values: Float[Tensor, "2 start"], stop: Bool[Tensor, " node"]
) -> Float[Tensor, "2 node"]:
    """What reaches each node of influence (without and with signs) that starts at some nodes and stops at others."""
    start = torch.zeros(2, graph.n_nodes, dtype=torch.float64, device=values.device)
    start[:, nodes] = values
    return torch.stack([influence(graph, start[0], stop=stop), influence(graph, start[1], signed=True, stop=stop)])


class InWords(NamedTuple):
    """A path or a route: its share of all target weight, its sign (`+` or `-`), and its steps in words. As text: `10.3% +  "Dallas" ->
    Texas (16 features at "##s") -> "Austin"`."""

    share: float
    sign: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.share:6.2%} {self.sign}  " + " -> ".join(self.steps)


def describe_route(graph: Graph, route: Route, groups: Sequence[Group]) -> InWords:
    """One route in words."""
    tokens = token_texts(graph)
    told = [f'"{whole_word(tokens, route.word.start)}"']
    for group in (groups[number] for number in route.groups):
        count = f"{len(group.nodes)} feature{'s' * (len(group.nodes) > 1)}"
        told.append(f'{group.role} ({count} at "{tokens[int(graph.pos[group.nodes[0]])]}")')
    told.append(_target_told(graph, route.target))
    return _told(graph, route.influence, route.signed < 0, told)


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


def describe(graph: Graph, path: GraphPath, labels: Mapping[tuple[int, int], str] | None = None) -> InWords:
    """One path in words, with the sign of its product: `"##s" of "Dallas" -> Texas (2/675) -> say Austin (4/1218, at "is") ->
    "Austin"`. A feature is followed by its token if the next node is at another token."""
    tokens, told, here = token_texts(graph), [], -1
    for index in path.nodes:
        kind, layer, pos = int(graph.kind[index]), int(graph.layer[index]), int(graph.pos[index])
        at = f'at "{tokens[pos]}"' if pos != here else ""
        here = pos
        if kind == TOKEN:
            word = whole_word(tokens, pos)
            told.append(f'"{tokens[pos]}"' + (f' of "{word}"' if word != tokens[pos] else ""))
        elif kind == LOGIT:
            told.append(_target_told(graph, index))
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
    return _told(graph, path.strength, sum(edge < 0 for edge in path.edges) % 2 == 1, told)


def _told(graph: Graph, strength: float, negative: bool, steps: Sequence[str]) -> InWords:
    return InWords(strength / max(float(graph.weights.sum()), ROW_FLOOR), "-" if negative else "+", tuple(steps))


def _target_told(graph: Graph, node: int) -> str:
    output = target_labels(graph)[node - graph.logits.start]
    return f'"{output}"' if int(graph.token_id[node]) >= 0 else output


def token_texts(graph: Graph) -> list[str]:
    """The prompt's tokens as text, one per position (token ids without a tokenizer)."""
    ids = graph.token_id[graph.tokens].tolist()
    return list(graph.metadata.get("tokens") or [f"<{i}>" for i in ids])


def target_labels(graph: Graph) -> list[str]:
    """The targets as text, one per logit node."""
    ids = graph.token_id[graph.logits].tolist()
    return list(graph.metadata.get("target_labels") or [f"<{i}>" for i in ids])
