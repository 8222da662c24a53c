"""Changes attention scores in a forward pass, and works out by how much a score changes when some of its terms are taken out.

A score is a sum of terms (`score_terms`). To take a term out, its value is subtracted before softmax, in the model itself: the
scores of chosen heads at one query and one key are moved, and everything else follows, later scores too. So a feature can be held at
a multiple in the key of a single head, while all its other paths stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attention.score_terms import QKAttribution
from biology.attention.stream_effects import SourceNodes
from biology.attribution.graph import FEATURE, ROW_FLOOR
from biology.models.model import Edit, Model, run

HIDDEN = -1e4
"""Change of a score that leaves no attention."""
Head = tuple[int, int]
"""Layer and head."""
Feature = tuple[int, int, int]
"""Layer, position and feature."""


# ---------------------------------------------------------------------------------------------------- the forward pass
class Changed(NamedTuple):
    """What a model does with changed scores: logits at the last position, and the attention of each head from query to key."""

    logits: Float[Tensor, "row vocab"]
    attention: Float[Tensor, "row head"]


def run_changed(
    model: Model,
    ids: Int[Tensor, " pos"] | Sequence[int],
    heads: Sequence[Head],
    query: int,
    key: int,
    change: Float[Tensor, "row head"],
) -> Changed:
    """Runs one prompt in as many rows as `change` has, with the score of `heads[n]` from position `query` to `key` moved by
    `change[row, n]` before softmax. Of a model that caps its scores, the score before the cap is moved."""
    batch = torch.as_tensor(ids, dtype=torch.long).view(1, -1).expand(len(change), -1).contiguous()
    layers = {layer: [n for n, head in enumerate(heads) if head[0] == layer] for layer, _ in heads}
    edits: list[tuple[str, Edit]] = []
    for layer, places in layers.items():
        edits += _moving(model, layer, [heads[n][1] for n in places], query, key, change[:, places])
    patterns = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in layers}
    logits, seen = run(model, batch, edits=edits, reads=list(patterns.values()), positions=-1)
    attention = [seen[patterns[layer]][:, head, query, key] for layer, head in heads]
    return Changed(logits[:, -1], torch.stack(attention, 1))


def _moving(
    model: Model, layer: int, heads: Sequence[int], query: int, key: int, change: Float[Tensor, "row head"]
) -> list[tuple[str, Edit]]:
    cap = getattr(model.bridge.blocks[layer].attn.original_component, "attn_logit_softcapping", None)
    kept: list[Tensor] = []

    def move(scores: Tensor) -> Tensor:
        there = scores[:, heads, query, key].double()
        before = there if cap is None else cap * torch.atanh(there / cap)
        after = before + change.to(before)
        moved = scores.clone()
        moved[:, heads, query, key] = (after if cap is None else cap * torch.tanh(after / cap)).to(scores)
        kept[:] = [moved]
        return moved

    def attend(pattern: Tensor) -> Tensor | None:
        # a model in double precision takes its softmax of scores that were noted before this change (`bridge`)
        return kept.pop().softmax(-1) if pattern.dtype == torch.float64 else None

    return [(f"blocks.{layer}.attn.hook_attn_scores", move), (f"blocks.{layer}.attn.hook_pattern", attend)]


# ---------------------------------------------------------------------------------------------------- terms as changes
def indices(nodes: SourceNodes, features: Iterable[Feature]) -> Int[Tensor, " member"]:
    """The indices of features among the nodes of one side; features that do not reach it are left out."""
    wanted = set(features)
    columns = (nodes.kind, nodes.layer, nodes.pos, nodes.feature)
    there = enumerate(zip(*(column.tolist() for column in columns), strict=True))
    return torch.tensor([n for n, (kind, *at) in there if kind == FEATURE and tuple(at) in wanted], dtype=torch.long)


def strongest_pairs(score: QKAttribution, share: float) -> tuple[Float[Tensor, " strongest"], Float[Tensor, " rest"]]:
    """The pairs of a score, one at least and this share of all at most, that are largest in size, and all others."""
    pairs = score.matrix.double().flatten()
    order = pairs.abs().argsort(descending=True, stable=True)
    count = max(1, int(share * len(pairs)))
    return pairs[order[:count]], pairs[order[count:]]


def other_pairs(
    strongest: Float[Tensor, " strongest"], rest: Float[Tensor, " rest"], generator: np.random.Generator
) -> float:
    """The sum of as many other pairs, each with its own sign and the size of the strong pair that it stands for."""
    chosen = torch.from_numpy(generator.permutation(len(rest))[: len(strongest)])
    signs = rest[chosen].sign()
    return float((signs * strongest[: len(chosen)].abs()).sum())


def scaled(
    score: QKAttribution, members: Int[Tensor, " member"], strength: float, like: Int[Tensor, " like"] | None = None
) -> float:
    """By how much a score moves if nodes of the key stand in it at a multiple `strength`. With `like` the vector by which the key
    changes is made as long as it is for those nodes."""
    change = (strength - 1.0) * float(score.key_marginals[members].double().sum())
    if like is None:
        return change
    long, own = (float(score.key_vectors[some].double().sum(0).norm()) for some in (like, members))
    return change * long / own if own > ROW_FLOOR else 0.0


def between(
    score: QKAttribution, queries: Sequence[Int[Tensor, " _"]], keys: Sequence[Int[Tensor, " _"]]
) -> Float[Tensor, "query_group key_group"]:
    """What each group of nodes of the query adds to a score together with each group of nodes of the key."""
    query = torch.stack([score.query_vectors[members].double().sum(0) for members in queries])
    key = torch.stack([score.key_vectors[members].double().sum(0) for members in keys])
    return query @ key.T


def interactions(matrix: Float[Tensor, "query_group key_group"], share: float) -> int:
    """How many singular values it takes to hold this share of their sum: the number of independent interactions."""
    values = torch.linalg.svdvals(matrix)
    if float(values.sum()) <= ROW_FLOOR:
        return 0
    return int((values.cumsum(0) < share * values.sum() - 1e-12).sum()) + 1
