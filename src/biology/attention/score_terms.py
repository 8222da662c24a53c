"""An attention score as the sum of its terms: pairs of nodes, and nodes with biases (`qk` computes them).

The matrix of pairs is the product of two thin matrices, [query node, d_head] and [d_head, key node]. Only these are stored;
sums over nodes are sums of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from biology.attention.stream_effects import SourceNodes

ROWS = 256
"""Query nodes that are multiplied at a time."""
ROUNDING = 1e-4
"""Relative amount by which rounding may put a product above its bound."""


class Parts(NamedTuple):
    """The four parts of a score: pairs of nodes, query nodes with the bias of the key, key nodes with the bias of the
    query, and bias with bias."""

    pairs: float
    key_bias: float
    query_bias: float
    bias: float


class Pair(NamedTuple):
    """The contribution of one query node and one key node (indices) to a score."""

    query: int
    key: int
    value: float


@dataclass(frozen=True, eq=False)
class QKAttribution:
    """One attention score and its terms: score = matrix.sum() + key_bias.sum() + query_bias.sum() + bias.

    `query_vectors` are the sources' parts of the rotated query, times the score's scaling; `key_vectors` those of the
    rotated key. `score` is the model's own, before any soft-cap; `attention` is the pattern after softmax. With `against`,
    score, attention and key vectors are differences to that key position. `row` is the attention from the query to every
    position.
    """

    layer: int
    head: int
    query: int
    key: int
    against: int | None
    query_nodes: SourceNodes
    key_nodes: SourceNodes
    query_vectors: Float[Tensor, "query_node d_head"]
    key_vectors: Float[Tensor, "key_node d_head"]
    query_constant: Float[Tensor, " d_head"]
    key_constant: Float[Tensor, " d_head"]
    score: float
    attention: float
    soft_cap: float | None
    row: Float[Tensor, " key"]

    @property
    def matrix(self) -> Float[Tensor, "query_node key_node"]:
        """All pairs. Its size is the product of the numbers of nodes (`top_pairs` does not build it)."""
        return self.query_vectors @ self.key_vectors.T

    @property
    def key_bias(self) -> Float[Tensor, " query_node"]:
        """Term of each query node with the bias of the key."""
        return self.query_vectors @ self.key_constant

    @property
    def query_bias(self) -> Float[Tensor, " key_node"]:
        """Term of the query's bias with each key node: what makes a key attractive to any query."""
        return self.key_vectors @ self.query_constant

    @property
    def bias(self) -> float:
        """Term of bias with bias."""
        return float(self.query_constant.double() @ self.key_constant.double())

    @property
    def query_marginals(self) -> Float[Tensor, " query_node"]:
        """How far the score falls without a node of the query: its row of the matrix plus its term with the key's bias."""
        return self.query_vectors @ (self.key_vectors.sum(0) + self.key_constant)

    @property
    def key_marginals(self) -> Float[Tensor, " key_node"]:
        """How far the score falls without a node of the key."""
        return self.key_vectors @ (self.query_vectors.sum(0) + self.query_constant)

    @property
    def parts(self) -> Parts:
        """The sums of the matrix and of the terms with a bias; the matrix is not built."""
        query, key = self.query_vectors.double().sum(0), self.key_vectors.double().sum(0)
        of_query, of_key = self.query_constant.double(), self.key_constant.double()
        return Parts(float(query @ key), float(query @ of_key), float(of_query @ key), float(of_query @ of_key))

    @property
    def total(self) -> float:
        """The sum of all terms, which the score must equal."""
        return sum(self.parts)

    @property
    def residual(self) -> float:
        """|total - score| / the sum of the |parts|, as for the rows of graphs."""
        size = sum(abs(part) for part in self.parts)
        return abs(self.total - self.score) / max(size, torch.finfo(torch.float64).tiny)

    @property
    def relative_error(self) -> float:
        """|total - score| / |score|."""
        return abs(self.total - self.score) / max(abs(self.score), torch.finfo(torch.float64).tiny)

    def top_pairs(self, count: int, *, memory: int = 1 << 26) -> list[Pair]:
        """The `count` pairs of largest absolute value, largest first, zeros left out; `memory` bounds working bytes.

        A pair is at most the product of its vectors' lengths. The longest vectors therefore come first, and vectors too
        short to be among the best pairs are never multiplied.
        """
        if not len(self.query_nodes) or not len(self.key_nodes) or count < 1:
            return []
        queries, query_order, query_length = _by_length(self.query_vectors)
        keys, key_order, key_length = _by_length(self.key_vectors)
        found: list[Pair] = []
        first, least = 0, 0.0
        while first < len(queries):
            n_keys = int((key_length * query_length[first] >= least * (1 - ROUNDING)).sum())
            if not n_keys:
                break
            rows = max(1, min(ROWS, memory // (2 * n_keys * keys.element_size())))
            block = (queries[first : first + rows] @ keys[:n_keys].T).flatten()
            best = block.abs().topk(min(count, block.numel())).indices
            for place, value in zip(best.tolist(), block[best].tolist(), strict=True):
                if value:
                    query, key = query_order[first + place // n_keys], key_order[place % n_keys]
                    found.append(Pair(int(query), int(key), value))
            found = sorted(found, key=lambda pair: (-abs(pair.value), pair.query, pair.key))[:count]
            least = abs(found[-1].value) if len(found) == count else 0.0
            first += rows
        return found

    def by_token(self) -> Float[Tensor, "query_token key_token"]:
        """The sum of the pairs between each two tokens, over all nodes at these tokens, in float64: many small terms can
        come from one token."""
        n_pos = len(self.query_nodes.tokens)
        sums = [
            vectors.new_zeros(n_pos, vectors.shape[1], dtype=torch.float64).index_add_(0, nodes.pos, vectors.double())
            for nodes, vectors in ((self.query_nodes, self.query_vectors), (self.key_nodes, self.key_vectors))
        ]
        return sums[0] @ sums[1].T

    def strongest(self, side: Literal["query", "key"], count: int) -> list[tuple[int, float]]:
        """The `count` nodes of one side with the largest |marginals|, largest first: index and marginal."""
        values = self.query_marginals if side == "query" else self.key_marginals
        best = values.abs().argsort(descending=True, stable=True)[:count].tolist()
        return [(index, float(values[index])) for index in best]


def _by_length(vectors: Float[Tensor, "node d_head"]) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, the longest first, with their indices and lengths."""
    length = vectors.norm(dim=1)
    order = length.argsort(descending=True, stable=True)
    return vectors[order], order, length[order]
