"""The strongest paths from a token to an output through the supernodes of one prompt's graph."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from biology.figures.graph_layout import UNDRAWN, drawn_edges, node


@dataclass(frozen=True)
class Chain:
    """A path through supernodes: its nodes in order, the product of its edges' |shares|, and the product of their
    signs."""

    nodes: tuple[str, ...]
    strength: float
    sign: int


def strongest_chains(
    edges: pd.DataFrame, members: pd.DataFrame, item: str, output: str, count: int, least: float = 0.002
) -> list[Chain]:
    """The strongest paths from a token to the output token `output` of one item's graph, strongest first.

    All outputs are used if none of them is `output`. A path's strength is the product, over its edges, of the edge's
    share of its target's input; paths weaker than `least` are not followed.
    """
    edges = drawn_edges(edges[edges["item"] == item], members[members["item"] == item])
    into: dict[str, list[tuple[str, float]]] = {}
    for source, target, share in zip(edges["source"], edges["target"], edges["share"], strict=True):
        if source not in UNDRAWN and share:
            into.setdefault(target, []).append((source, float(share)))
    found: list[Chain] = []
    outputs = [name for name in into if node(name)[0] == "logit"]
    wanted = [name for name in outputs if node(name)[1].strip() == output.strip()]
    open_chains = [Chain((name,), 1.0, 1) for name in wanted or outputs]
    while open_chains:
        chain = open_chains.pop()
        if node(chain.nodes[0])[0] == "token":
            found.append(chain)
        for source, share in into.get(chain.nodes[0], ()):
            strength = chain.strength * abs(share)
            if strength >= least and source not in chain.nodes:
                sign = chain.sign if share > 0 else -chain.sign
                open_chains.append(Chain((source, *chain.nodes), strength, sign))
    return sorted(found, key=lambda chain: (-chain.strength, chain.nodes))[:count]
