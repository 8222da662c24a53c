"""For each edge, the head that carries most of it, and why that head attends there: the pairs of nodes that its query and key match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biology.attention.edge_heads import EdgeByHeads
from biology.attention.qk import qk_attribution
from biology.attention.score_terms import Pair
from biology.attention.stream_effects import SourceNodes, features_among
from biology.attribution.graph import Graph
from biology.models.model import Model
from biology.transcoders.transcoder_set import TranscoderSet

MOST = 3
"""Number of pairs in a match."""


@dataclass(frozen=True, eq=False)
class Match:
    """A head's attention at one step, its score before softmax, and the pairs of nodes that contribute most to the
    score."""

    attention: float
    score: float
    pairs: tuple[Pair, ...]
    query_nodes: SourceNodes
    key_nodes: SourceNodes

    def features(self) -> list[tuple[int, int, int]]:
        """The features among the pairs, as (layer, feature, position)."""
        ends = [(self.query_nodes, pair.query) for pair in self.pairs]
        ends += [(self.key_nodes, pair.key) for pair in self.pairs]
        return features_among(ends)

    def told(self, labels: Mapping[tuple[int, int], str] | None = None) -> list[tuple[str, str, float]]:
        """The pairs in words: the node of the query, the node of the key, and their contribution to the score."""
        return [
            (self.query_nodes.label(pair.query, labels), self.key_nodes.label(pair.key, labels), pair.value)
            for pair in self.pairs
        ]


def matches(
    model: Model, transcoders: TranscoderSet, graph: Graph, carried: Sequence[EdgeByHeads]
) -> list[Match | None]:
    """For each edge, the match of its first head at its largest step; None if no head carries enough of the edge.

    Raises InputError as `qk_attribution` does.
    """
    found: dict[tuple[int, int, int, int], Match] = {}
    steps = [(*edge.heads[0][:2], edge.heads[0].query, edge.heads[0].key) if edge.heads else None for edge in carried]
    for step in sorted({step for step in steps if step}):
        first = graph.metadata["first_position"]
        one = qk_attribution(model, transcoders, graph.metadata["token_ids"], *step, first_position=first)
        found[step] = Match(one.attention, one.score, tuple(one.top_pairs(MOST)), one.query_nodes, one.key_nodes)
    return [None if step is None else found[step] for step in steps]
