"""Supernodes: groups of features that play one role, found by rules stated before anyone looks at a graph.

A rule of `case.yaml` uses activations on prompts with role `select`, and decoders. It never uses the attribution graph
or the effect of an intervention, as both are to be tested with its members. Rules with a `factor` find one set per
level of that factor (a place, a relation): the features that are active on prompts of the level and hardly elsewhere.

`across` names columns in which the selecting prompts must differ from the scored prompt. Features of Texas that are
scored on Dallas and its capital are selected on other cities of Texas and on other relations. Otherwise an intervention
might only replace an answer by a copy of itself.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from biology.cases.case import Case
from biology.cases.experiments import Sharing
from biology.cases.perturbations import Perturbation
from biology.cases.positions import FOUND
from biology.cases.rules import SupernodeRule
from biology.models.model import Model, encode
from biology.records import InputError
from biology.supernodes.case_prompts import CasePrompts
from biology.supernodes.promotion import promoted, promoted_by
from biology.tables import donor_columns, table
from biology.transcoders.activations import FeatureCache, cache_features
from biology.transcoders.transcoder_set import TranscoderSet, shuffled


@dataclass(frozen=True)
class Selection:
    """Features of one set, with the share of the selecting prompts on which each is active."""

    layer: Int[np.ndarray, " member"]
    feature: Int[np.ndarray, " member"]
    share: Float[np.ndarray, " member"]


@dataclass(frozen=True, eq=False)
class Finder(CasePrompts):
    """The data that rules of a case use: prompts (in the order of the cache), active features and decoders."""

    transcoders: TranscoderSet
    cache: FeatureCache
    operands: pd.DataFrame | None = None
    """Table `operands`, for rules on operand plots."""
    plots: str = "own"
    """The transcoders of the operand plots (column `transcoders`)."""

    @cached_property
    def ids(self) -> list[list[int]]:
        return self.cache.prompts

    @cached_property
    def width(self) -> int:
        return max(self.transcoders.n_features)

    def active(self, at: str) -> sparse.csr_matrix:
        """Activations at one position of every prompt: [prompt, layer * width + feature]."""
        if at not in self._active:
            prompt = np.repeat(np.arange(len(self.prompts)), self.cache.offsets.diff().numpy())
            here = self.cache.pos.numpy() == self.positions(at)[prompt]
            column = self.cache.layer.numpy()[here].astype(np.int64) * self.width + self.cache.feature.numpy()[here]
            shape = (len(self.prompts), self.transcoders.n_layers * self.width)
            self._active[at] = sparse.csr_matrix(
                (self.cache.value.double().numpy()[here], (prompt[here], column)), shape
            )
        return self._active[at]

    @cached_property
    def _active(self) -> dict[str, sparse.csr_matrix]:
        return {}

    def firing(self, at: str, place: int) -> Int[np.ndarray, " column"]:
        """Columns of the features that are active at one position of a prompt."""
        active = self.active(at)
        return active.indices[active.indptr[place] : active.indptr[place + 1]]

    @cached_property
    def promoted(self) -> Int[Tensor, "column rank"]:
        """For each feature, the tokens that its decoders promote most, best first (direct effect, minus the mean over
        tokens). For a large model only those of features that are asked for are known, see `promotes`."""
        top = max([rule.top for rule in self.case.supernodes.values()], default=1)
        best = torch.full((self.transcoders.n_layers * self.width, min(top, self.model.n_vocab)), -1)
        if self.model.large:
            return best
        for layer, tokens in enumerate(promoted(self.model, self.transcoders, top)):
            best[layer * self.width : layer * self.width + len(tokens)] = tokens
        return best

    def promotes(self, columns: Int[np.ndarray, " member"], tokens: Iterable[int], top: int) -> np.ndarray:
        """Mask of the features that have one of the tokens among the `top` that they promote."""
        wanted = torch.tensor(sorted(set(tokens)), dtype=torch.long)
        if self.model.large:
            self._look_at(torch.as_tensor(columns))
        return torch.isin(self.promoted[torch.as_tensor(columns)][:, :top], wanted).any(1).numpy()

    def _look_at(self, columns: Int[Tensor, " member"]) -> None:
        """Fills in what some features promote: at first, all that are active anywhere at a position of a rule on what is promoted."""
        if not bool((self.promoted[:, 0] >= 0).any()):
            rules = needed_rules(self.case, self.prompts).values()
            there = {rule.at for rule in rules if (rule.promotes or rule.not_promotes) and rule.at != FOUND}
            active = [torch.from_numpy(self.active(at).indices).long() for at in sorted(there)]
            columns = torch.cat([columns.long(), *active]).unique()
        left = columns[self.promoted[columns, 0] < 0]
        for layer in (left // self.width).unique().tolist():
            mine = left[left // self.width == layer]
            found = promoted_by(
                self.model, self.transcoders.layers[layer], mine - layer * self.width, self.promoted.shape[1]
            )
            self.promoted[mine] = found

    def columns(self, found: Selection) -> Int[np.ndarray, " member"]:
        """The columns of `active` that hold the features of a set."""
        return found.layer * self.width + found.feature

    def plotted(self, rule: SupernodeRule) -> Int[np.ndarray, " member"]:
        """Features whose operand plot, at the position where the rule reads it, meets the rule's condition."""
        assert rule.operands is not None and self.operands is not None
        key = (rule.as_read.at, rule.operands.family, rule.operands.digit)
        if key not in self._plotted:
            found = self.operands[(self.operands["transcoders"] == self.plots) & (self.operands["at"] == key[0])]
            found = found[found["family"] == rule.operands.family]
            if rule.operands.digit:
                found = found[found["digit"].isin(rule.operands.digit)]
            self._plotted[key] = (found["layer"] * self.width + found["feature"]).to_numpy()
        return self._plotted[key]

    @cached_property
    def _plotted(self) -> dict[tuple[object, ...], Int[np.ndarray, " member"]]:
        return {}

    def answers(self, rule: SupernodeRule, level: str | None) -> list[int]:
        """Answer tokens of all prompts of a level in the prompt set; if it has none, of the named prompts of that
        level."""
        key = (rule.factor, level if rule.factor else None)
        if key not in self._answers:
            for frame in (self.asked, self.prompts):
                of_level = frame[frame[rule.factor] == level] if rule.factor else frame
                if len(of_level):
                    break
            self._answers[key] = of_level["answer_token"].astype(int).tolist()
        return self._answers[key]

    @cached_property
    def _answers(self) -> dict[tuple[str | None, str | None], list[int]]:
        return {}

    def tokens(self, words: tuple[str, ...], rule: SupernodeRule, row: Mapping[str, object]) -> list[int]:
        """Token ids of the words of a rule; `answer` is the prompt's answer, `answers` are those of all prompts of its
        level."""
        found = []
        for word in words:
            if word == "answer":
                found.append(int(row["answer_token"]))  # type: ignore[call-overload]
            elif word == "answers":
                found += self.answers(rule, str(row.get(rule.factor or "")))
            else:
                found.append(encode(self.model, word)[-1])
        return found

    def select(self, rule: SupernodeRule, name: str, row: Mapping[str, object]) -> Selection:
        """The members that a rule selects for one prompt, whether or not they are active there."""
        if rule.factor is not None:
            columns = [rule.factor, *rule.across, *filter(None, [rule.within])]
            key = (name, rule.at, *(str(row.get(column, "")) for column in columns))
            if key not in self._selected:
                self._selected[key] = self._of_level(rule, row)
            # not cached with the level: the tokens that a member may promote depend on the row's answer
            return self._kept(rule, *self._selected[key], row)
        columns = np.unique(self.firing(rule.at, self.place[str(row["item"])]))
        chosen = np.ones(len(columns), dtype=bool)
        for prompt, wanted in [(p, True) for p in rule.active_on] + [(p, False) for p in rule.silent_on]:
            chosen &= np.isin(columns, self.firing(rule.at, self.place[prompt])) == wanted
        return self._kept(rule, columns[chosen], np.ones(int(chosen.sum())), row)

    @cached_property
    def _selected(self) -> dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
        return {}

    def selecting(
        self, rule: SupernodeRule, row: Mapping[str, object]
    ) -> tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
        """Masks of the prompts that members of the row's level are selected on: those of the level, and those of other levels."""
        chosen = (self._said("role") == "select") & (self._said(rule.factor) != "")
        if rule.split == "dev":
            chosen &= self._said("split") == "dev"
        for column in rule.across:
            chosen &= self._said(column) != row[column]
        of_level = chosen & (self._said(rule.factor) == row.get(str(rule.factor)))
        return of_level, chosen & ~of_level

    def near(
        self, rule: SupernodeRule, row: Mapping[str, object], others: Bool[np.ndarray, " prompt"]
    ) -> Bool[np.ndarray, " prompt"]:
        """Of the prompts of other levels, those that share the row's value of `within`; all of them if none does, or without it."""
        near = others if rule.within is None else others & (self._said(rule.within) == row.get(rule.within))
        return near if near.any() else others

    def _of_level(self, rule: SupernodeRule, row: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the features that distinguish the row's level, and the share of the level's prompts on which each
        is active."""
        of_level, rest = self.selecting(rule, row)
        if not of_level.any():
            return np.zeros(0, dtype=int), np.zeros(0)
        fires = self.active(rule.at) > 0
        hits = np.asarray(fires[of_level].sum(0)).ravel()
        share = hits / of_level.sum()
        near = self.near(rule, row, rest)
        if rule.difference_share is not None:
            columns = self._making_the_difference(rule, of_level, near)
            return columns, share[columns]
        every = np.asarray(fires[of_level | rest].sum(0)).ravel()
        member = (share >= rule.recall) & (hits >= rule.precision * every) & (hits > 0)
        member &= column_means(fires, rest) <= rule.false_positive_rate
        if rule.within is not None:
            member &= column_means(fires, near) <= rule.false_positive_rate
        columns = np.flatnonzero(member)
        return columns, share[columns]

    def _making_the_difference(
        self, rule: SupernodeRule, of_level: Bool[np.ndarray, " prompt"], others: Bool[np.ndarray, " prompt"]
    ) -> Int[np.ndarray, " member"]:
        """The fewest columns that make up `rule.difference_share` of the difference between prompts of a level and others."""
        active = self.active(rule.at)
        more = column_means(active, of_level) - column_means(active, others)
        columns = np.flatnonzero(more > 0)
        columns = columns[self._in_layers(rule, columns)]
        written = more[columns] * self._lengths(columns)
        order = np.argsort(-written, kind="stable")
        # those before the share is reached, and the one that reaches it
        before = np.cumsum(written[order]) - written[order]
        return np.sort(columns[order[before < rule.difference_share * written.sum()]])

    def _in_layers(self, rule: SupernodeRule, columns: Int[np.ndarray, " column"]) -> Bool[np.ndarray, " column"]:
        """Mask of the features in the layers that the rule takes."""
        first, last = rule.layers or (0, self.transcoders.n_layers - 1)
        layer = columns // self.width
        return (layer >= first) & (layer <= last)

    def _lengths(self, columns: Int[np.ndarray, " column"]) -> Float[np.ndarray, " column"]:
        """The length of each feature's decoder vector, over all layers that it writes to."""
        lengths = np.zeros(len(columns))
        for layer in np.unique(columns // self.width).tolist():
            mine = columns // self.width == layer
            features = torch.from_numpy(columns[mine] % self.width).to(self.transcoders.layers[layer].b_dec.device)
            rows = self.transcoders.layers[layer].decoders(features)
            lengths[mine] = rows.double().flatten(1).norm(dim=1).cpu().numpy()
        return lengths

    def _said(self, column: str | None) -> np.ndarray:
        """A column of the prompts as a numpy array, which compares ten times as fast."""
        if column not in self._columns:
            self._columns[column] = self.prompts[column].to_numpy(object)
        return self._columns[column]

    @cached_property
    def _columns(self) -> dict[str | None, np.ndarray]:
        return {}

    def _kept(
        self, rule: SupernodeRule, columns: np.ndarray, share: np.ndarray, row: Mapping[str, object]
    ) -> Selection:
        chosen = np.ones(len(columns), dtype=bool)
        if len(columns):
            if rule.operands:
                chosen &= np.isin(columns, self.plotted(rule))
            if rule.promotes:
                chosen &= self.promotes(columns, self.tokens(rule.promotes, rule, row), rule.top)
            if rule.not_promotes:
                chosen &= ~self.promotes(columns, self.tokens(rule.not_promotes, rule, row), rule.top)
        chosen &= self._in_layers(rule, columns)
        columns, share = columns[chosen], share[chosen]
        if rule.max_members is not None and len(columns) > rule.max_members:
            best = np.sort(np.argsort(-share, kind="stable")[: rule.max_members])
            columns, share = columns[best], share[best]
        return Selection(columns // self.width, columns % self.width, share)


def column_means(values: sparse.csr_matrix, prompts: Bool[np.ndarray, " prompt"]) -> Float[np.ndarray, " column"]:
    """The mean over these prompts, column by column; 0 if there are none. Of what is active: the share of prompts on which it is."""
    return np.asarray(values[prompts].sum(0)).ravel() / max(1, int(prompts.sum()))


def random_finder(
    model: Model, transcoders: TranscoderSet, case: Case, prompts: pd.DataFrame, ids: Sequence[Sequence[int]], seed: int,
    operands: pd.DataFrame | None = None,
) -> Finder:  # fmt: skip
    """A finder with shuffled transcoders: the null of all rules that select by activations.

    `prompts`, with their token ids `ids`, may be a part of the case's; their rows are numbered anew.
    """
    null = shuffled(transcoders, seed)
    frame = prompts.reset_index(drop=True)
    cache = cache_features(model, null, ids)
    return Finder(model, case, frame, null, cache, operands, "shuffled")


def grouped_items(case: Case, prompts: pd.DataFrame) -> pd.Series:
    """Mask of the prompts that need members: named prompts, scored ones, and the donors of both."""
    donors: set[str] = set()
    asked = [experiment.donor for experiment in case.of_kind(Perturbation, Sharing).values()]
    for named in {*donor_columns(prompts), *asked}:
        for column in [column for column in (named, f"wrong_{named}") if column in prompts]:
            donors |= set(prompts.loc[prompts["role"] != "select", column])
    return prompts["item"].isin(donors | set(case.prompts)) | (prompts["role"] == "score")


def group(
    model: Model, transcoders: TranscoderSet, case: Case, prompts: pd.DataFrame, cache: FeatureCache,
    operands: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Table `supernodes`: for every scored or named prompt and every donor, the members of each supernode that are
    active there.

    `share` is the share of the selecting prompts on which the feature is active (1 for rules without a factor). Raises
    InputError if a rule names a factor that no prompt has.
    """
    finder = Finder(model, case, prompts, transcoders, cache, operands)
    rules = needed_rules(case, prompts)
    wanted = grouped_items(case, prompts)
    rows: list[dict[str, object]] = []
    for name, rule in rules.items():
        positions = finder.positions(rule.at)
        activations = finder.active(rule.at)
        for place in np.flatnonzero(wanted):
            row = finder.records[place]
            if positions[place] < 0:
                continue
            found = finder.select(rule, name, row)
            columns = finder.columns(found)
            values = np.asarray(activations[place, columns].todense()).ravel() if len(columns) else np.zeros(0)
            rows += [
                {
                    "item": row["item"], "supernode": name, "layer": int(layer), "pos": int(positions[place]),
                    "feature": int(feature), "activation": float(value), "share": float(share),
                }
                for layer, feature, share, value in zip(found.layer, found.feature, found.share, values, strict=True)
                if value > 0
            ]  # fmt: skip
    return table("supernodes", rows)


def needed_rules(case: Case, prompts: pd.DataFrame) -> dict[str, SupernodeRule]:
    """The rules of a case, except those needed only by experiments on other prompts (`only`).

    Raises InputError if one of them names a factor that no prompt has.
    """
    rules = {name: rule for name, rule in case.supernodes.items() if _needed(case, name, prompts)}
    for name, rule in rules.items():
        _check_columns(case, name, rule, prompts)
    return rules


def _needed(case: Case, name: str, prompts: pd.DataFrame) -> bool:
    """Whether some experiment that names the supernode has prompts here, or no experiment names it."""
    asking = [one.only for one in case.experiments.values() if name in one.names()]
    return not asking or any((prompts[list(only)] == pd.Series(only)).all(axis=1).any() for only in asking)


def _check_columns(case: Case, name: str, rule: SupernodeRule, prompts: pd.DataFrame) -> None:
    named = [rule.factor, rule.within, *rule.across, *rule.given, *(at.factor for at in rule.positions)]
    for column in filter(None, named):
        if column not in prompts:
            known = ", ".join(prompts.columns)
            raise InputError(
                f"case {case.name}: supernodes.{name}: no prompt has the factor '{column}'. Known: {known}."
            )
