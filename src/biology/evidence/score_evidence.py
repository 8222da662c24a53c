"""Why heads attend from one token of a prompt to another, and what changes when they no longer do.

Heads are chosen on development prompts. The attention of one head after another, from query to key, is set to zero. The heads without
which the answer's log-probability falls most are chosen. Their scores are split into pairs of a query node and a key node (`attention.qk`). The
scores of all chosen heads are then changed at once, before softmax; all else is live (`attention.score_edits`).

    score_error       the largest difference of the sum of all terms from its score, over the score
    pair_share        what pairs between the supernodes of `by` and those of `of` add to the scores, over the sum of all positive pairs
    interactions      what these supernodes add, pair by pair, is a matrix: the number of singular values that hold nearly all of it
    pairs_attention   the share of the attention from query to key that is lost without the largest pairs of nodes
    pairs_answer      the share of the answer's probability that is lost without them
    scaled_attention  as `pairs_attention`, if instead the features of `of` are held at a multiple in the keys of these heads alone
    scaled_answer     as `pairs_answer`, in the same way

Control `match`: as many other active features of the same layers and tokens, but none of the supernodes that the experiment lists as `undrawn`. For pairs, as many other pairs: each keeps
its own sign and takes the size of the pair that it replaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.attention.qk import qk_attribution
from biology.attention.score_edits import (
    HIDDEN,
    Feature,
    Head,
    between,
    indices,
    interactions,
    other_pairs,
    run_changed,
    scaled,
    strongest_pairs,
)
from biology.attention.score_terms import QKAttribution
from biology.cases.experiments import Attention
from biology.cases.measures import HOLDING
from biology.evidence.case_context import CaseContext
from biology.interventions.matched_draw import draw_others
from biology.tables import table

Groups = Sequence[Sequence[Feature]]
"""The members of supernodes, group by group."""


def run_attention(context: CaseContext) -> pd.DataFrame:
    """Table `evidence` of the experiments of kind `attention`."""
    rows: list[dict[str, object]] = []
    for name, experiment in context.case.of_kind(Attention).items():
        places = context.items(experiment)
        dev = [place for place in places if context.prompts["split"].iat[place] == "dev"]
        heads = chosen_heads(context, experiment, dev)
        told = ", ".join(f"L{layer}H{head}" for layer, head in heads) or "none"
        share = len(heads) / len(all_heads(context))
        tqdm.write(f"{name}: heads {told} ({share:.0%} of all), chosen on {len(dev)} development prompts")
        for place in places if heads else ():
            rows += [
                context.evidence_row(place, name, arm, outcome, value, draw=draw)
                for outcome, arm, draw, value in ScoredPrompt(context, name, experiment, place, heads).values()
                if np.isfinite(value)
            ]
    return table("evidence", rows)


def all_heads(context: CaseContext) -> list[Head]:
    """All heads of the model, as (layer, head)."""
    layers = context.model.weights.layers
    return [(layer, head) for layer, weights in enumerate(layers) for head in range(len(weights.W_Q))]


def chosen_heads(context: CaseContext, experiment: Attention, dev: Sequence[int]) -> list[Head]:
    """The share of all heads, one at least, whose attention from query to key the answers to development prompts lose most by."""
    if not dev:
        return []
    heads = all_heads(context)
    without = torch.cat([torch.zeros(1, len(heads)), HIDDEN * torch.eye(len(heads))])
    lost = torch.zeros(len(heads), dtype=torch.float64)
    for place in dev:
        query, key = (context.position(at, place) for at in (experiment.query, experiment.key))
        logits, _ = run_changed(context.model, context.ids[place], heads, query, key, without)
        said = logits.double().log_softmax(-1)[:, int(context.records[place]["answer_token"])].cpu()
        lost += said[0] - said[1:]
    count = max(1, round(experiment.heads * len(heads)))
    best = lost.argsort(descending=True, stable=True)[:count].tolist()
    return sorted(heads[n] for n in best)


class ScoredPrompt:
    """One prompt: its scores taken apart, and what is measured of them."""

    def __init__(self, context: CaseContext, name: str, experiment: Attention, place: int, heads: Sequence[Head]):
        self.context, self.name, self.experiment, self.place, self.heads = context, name, experiment, place, heads
        self.query, self.key = (context.position(at, place) for at in (experiment.query, experiment.key))
        self.scores: list[QKAttribution] = [
            qk_attribution(
                context.model, context.transcoders, context.ids[place], *head, self.query, self.key,
                first_position=context.first_position(place),
            )
            for head in heads
        ]  # fmt: skip
        self.draws = context.statistics.control_draws if "match" in experiment.controls else 0

    def values(self) -> list[tuple[str, str, int, float]]:
        """Outcome, arm, draw and value."""
        asked, found = {outcome.form.name for outcome in self.experiment.outcomes}, []
        if "score_error" in asked:
            found.append(("score_error", "effect", 0, max(score.relative_error for score in self.scores)))
        of, by = self.members(self.experiment.of), self.members(self.experiment.by)
        if "interactions" in asked:
            found.append(("interactions", "effect", 0, float(interactions(self.together(by, of), HOLDING))))
        if "pair_share" in asked:
            found.append(("pair_share", "effect", 0, self.share(by, of)))
            found += [
                ("pair_share", "match", draw, self.share(self.others(by, "query", draw), self.others(of, "key", draw)))
                for draw in range(self.draws)
            ]
        for word, changes in (("pairs", self.without_pairs), ("scaled", self.with_scaled)):
            outcomes = [one for one in (f"{word}_attention", f"{word}_answer") if one in asked]
            if outcomes:
                lost = dict(zip((f"{word}_attention", f"{word}_answer"), self.lost(changes()).T, strict=True))
                for outcome in outcomes:
                    effect, *match = lost[outcome].tolist()
                    found.append((outcome, "effect", 0, effect))
                    found += [(outcome, "match", draw, value) for draw, value in enumerate(match)]
        return found

    def members(self, supernodes: Sequence[str]) -> Groups:
        return [
            [(one.layer, one.pos, one.feature) for one in self.context.sites.get((self.place_name, supernode), ())]
            for supernode in supernodes
        ]

    def others(self, groups: Groups, side: str, draw: int) -> Groups:
        """For each group as many other features, active in the same layers and at the same tokens, in no group and not in `undrawn`."""
        generator = self.context.generator(self.context.case.name, self.name, self.place_name, side, draw)
        taken: dict[tuple[int, int], set[int]] = {}
        spared = self.members(self.experiment.undrawn)
        for layer, pos, feature in (one for group in (*groups, *spared) for one in group):
            taken.setdefault((layer, pos), set()).add(feature)
        made = []
        for group in groups:
            drawn: list[Feature] = []
            for (layer, pos), count in sorted(Counter((layer, pos) for layer, pos, _ in group).items()):
                there = self.context.cache.cell(self.place, layer, pos)[0].numpy()
                chosen = draw_others(there, taken[layer, pos], count, generator)
                drawn += [(layer, pos, one) for one in there[chosen].tolist()]
            made.append(drawn)
        return made

    @property
    def place_name(self) -> str:
        return self.context.identity[self.place][0]

    # ------------------------------------------------------------------------------------------------ what is there
    def together(self, by: Groups, of: Groups) -> Float[Tensor, "query_group key_group"]:
        """What each supernode of the query adds to the scores with each of the key, all heads together."""
        total = torch.zeros(len(by), len(of), dtype=torch.float64)
        for score in self.scores:
            queries = [indices(score.query_nodes, group) for group in by]
            keys = [indices(score.key_nodes, group) for group in of]
            total += between(score, queries, keys).cpu()
        return total

    def share(self, by: Groups, of: Groups) -> float:
        positive = sum(float(score.matrix.clamp(min=0).double().sum()) for score in self.scores)
        merged = [[feature for group in groups for feature in group] for groups in (by, of)]
        return float(self.together(merged[:1], merged[1:])) / positive if positive else 0.0

    # ------------------------------------------------------------------------------------------ what is done to scores
    def without_pairs(self) -> Float[Tensor, "row head"]:
        """The change of each score: without the strongest pairs, and without others in their place."""
        columns = []
        for head, score in zip(self.heads, self.scores, strict=True):
            strongest, rest = strongest_pairs(score, self.experiment.pairs)
            key = (self.context.case.name, self.name, self.place_name, "pairs", head)
            others = [other_pairs(strongest, rest, self.context.generator(*key, draw)) for draw in range(self.draws)]
            columns.append([-float(strongest.sum()), *(-value for value in others)])
        return torch.tensor(columns, dtype=torch.float64).T

    def with_scaled(self) -> Float[Tensor, "row head"]:
        """The change of each score: with the members in the key scaled, and with others in their place."""
        groups, strength = self.members(self.experiment.of), self.experiment.strength
        drawn = [self.others(groups, "key", draw) for draw in range(self.draws)]
        columns = []
        for score in self.scores:
            own, *rest = (self.of_key(score, some) for some in (groups, *drawn))
            columns.append([scaled(score, own, strength), *(scaled(score, one, strength, own) for one in rest)])
        return torch.tensor(columns, dtype=torch.float64).T

    def of_key(self, score: QKAttribution, groups: Groups) -> Int[Tensor, " member"]:
        return indices(score.key_nodes, [feature for group in groups for feature in group])

    def lost(self, change: Float[Tensor, "row head"]) -> Float[np.ndarray, "row two"]:
        """For each change, the shares that are lost of the attention from query to key and of the answer's probability."""
        nothing = torch.zeros(1, len(self.heads), dtype=change.dtype)
        logits, attention = run_changed(
            self.context.model, self.context.ids[self.place], self.heads, self.query, self.key, torch.cat([nothing, change])
        )  # fmt: skip
        answer = int(self.context.records[self.place]["answer_token"])
        left = torch.stack([attention.double().sum(1), logits.double().softmax(-1)[:, answer]], 1).cpu()
        return (1.0 - left[1:] / left[:1]).numpy()
