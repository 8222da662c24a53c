"""Finds where a model holds a variable, by exchanges on development prompts. The search is the same for every model and assumes no
site.

At each of some positions, the MLP outputs of a range of layers are replaced by their mean over prompts that share another level of
the variable's factor and nothing else. If the model then gives the answer of that level, these MLPs hold the variable. Ranges that
begin at layer 0 show how many layers are needed. Ranges that begin higher show up to which layer all of the variable can still be
exchanged, since later layers compute with it. No transcoder is involved, but MLP outputs are what transcoders see.
"""

# pyright: reportArgumentType=false

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from biology.cases.case import Case
from biology.cases.found_sites import ENOUGH, chosen
from biology.cases.positions import FOUND
from biology.cases.rules import SupernodeRule
from biology.interventions.site_exchange import said_with, seen_at
from biology.models.continuation import SharedPrefix
from biology.models.model import Model
from biology.records import InputWarning
from biology.statistics import measuring_generator
from biology.supernodes.case_prompts import CasePrompts
from biology.supernodes.grouping import needed_rules
from biology.tables import table

DONORS = 8
"""Largest number of prompts in a mean."""


@dataclass(frozen=True)
class Exchange:
    """A development prompt, the donors whose mean it is given, and the token of the expected answer."""

    base: int
    donors: tuple[int, ...]
    answer: int


def exchanges(
    prompts: pd.DataFrame, factor: str, across: Sequence[str], given: Sequence[str], generator: np.random.Generator, most: int = 200
) -> list[Exchange]:  # fmt: skip
    """Exchanges of a factor's level on the scored development prompts that the model answers.

    `prompts` has the columns of table `prompts` and `answer_token`. Donors are development prompts that select (`role`), have the
    new level, and differ from the prompt in the columns `across`. The expected answer is that of development prompts with the new
    level and the prompt's own levels of `given`. Levels for which this answer is not unique, or is the prompt's own, are left out.
    """
    whole = prompts.reset_index(drop=True)
    frame = whole[whole["split"] == "dev"]  # named prompts are of other splits
    answers = frame.groupby([factor, *given])["answer_token"].agg(
        lambda tokens: tokens.iat[0] if tokens.nunique() == 1 else -1
    )
    settled: Mapping[tuple[str, ...], int] = answers.to_dict()
    selecting = frame[(frame["role"] == "select") & frame["correct"]]
    of_level = {level: group for level, group in selecting.groupby(factor) if level}
    scored = frame[(frame["role"] == "score") & frame["correct"] & (frame[factor] != "")]
    found: list[Exchange] = []
    for row in generator.permutation(np.array(scored.index)):
        own = frame.loc[row]
        levels = [level for level in of_level if level != own[factor]]
        for level in generator.permutation(np.array(levels, dtype=object))[:8]:
            answer = int(settled.get((level, *(own[column] for column in given)), -1))
            pool = of_level[level]
            for column in across:
                pool = pool[pool[column] != own[column]]
            if answer >= 0 and answer != own["answer_token"] and len(pool):
                donors = generator.permutation(np.array(pool.index))[:DONORS]
                found.append(Exchange(int(row), tuple(map(int, donors)), answer))
                break
        if len(found) == most:
            break
    return found


def located(
    model: Model, ids: list[list[int]], asked: Sequence[Exchange], positions: Mapping[str, Int[Tensor, " prompt"]]
) -> pd.DataFrame:
    """Columns position, first and last (of the layers exchanged), accuracy (the exchanged level's answer is given), n.

    First, ranges begin at layer 0 and end at each layer. The last end that is nearly as good as the best is then the end of ranges
    that begin at each layer.
    """
    base = [one.base for one in asked]
    answer = torch.tensor([one.answer for one in asked])
    donors = sorted({donor for one in asked for donor in one.donors})
    place = {donor: number for number, donor in enumerate(donors)}
    hooks = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.n_layers)]
    rows = []
    for name, position in positions.items():
        seen = seen_at(model, ids, donors, hooks, position)
        means = torch.stack([seen[:, [place[donor] for donor in one.donors]].mean(1) for one in asked], 1)
        starts: dict[tuple[int, ...], SharedPrefix] = {}
        said = partial(said_with, model, ids, base, position=position, starts=starts)

        def share(first: int, last: int, said: Callable = said, means: Tensor = means) -> float:
            layers = slice(first, last + 1)
            return float((said(edits=list(zip(hooks[layers], means[layers], strict=True))) == answer).double().mean())

        upto = [share(0, last) for last in range(model.n_layers)]
        end = max(last for last, reached in enumerate(upto) if reached >= ENOUGH * max(upto))
        found = [(0, last, reached) for last, reached in enumerate(upto)]
        found += [(first, end, share(first, end)) for first in range(1, end + 1)]
        rows += [
            {"position": name, "first": first, "last": last, "accuracy": reached, "n": len(asked)}
            for first, last, reached in found
        ]
    return pd.DataFrame(rows)


def find_sites(asked: CasePrompts, seed: int) -> pd.DataFrame:
    """Table `sites`: for each rule of a case with `at: found`, the exchanges tried and the one chosen.

    None is chosen if hardly any exchange moves the answer (`found_sites.LEAST`); an `InputWarning` says so.
    """
    case, needed = asked.case, needed_rules(asked.case, asked.prompts)
    searched: dict[tuple[object, ...], pd.DataFrame] = {}
    rows: list[dict[str, object]] = []
    for name, rule in case.supernodes.items():
        if rule.at != FOUND:
            continue
        key = (rule.factor, *map(frozenset, (rule.across, rule.given)), rule.among, name in needed)
        if key not in searched:  # several rules ask the same
            searched[key] = _searched(asked, rule, seed) if name in needed else _untried(asked.model, rule)
        tried = searched[key]
        found = chosen(tried)
        if found is None and name in needed:
            warnings.warn(_nothing(case, name, rule, tried), InputWarning, stacklevel=2)
        rows += [
            {"supernode": name, **row, "chosen": (row["position"], row["first"], row["last"]) == found}
            for row in tried.to_dict("records")
        ]
    return table("sites", rows)


def _searched(asked: CasePrompts, rule: SupernodeRule, seed: int) -> pd.DataFrame:
    """The result of `located` for a rule; its exchanges depend on this rule alone."""
    at = {str(one): asked.positions(one) for one in rule.among}
    everywhere = np.all([one >= 0 for one in at.values()], axis=0)
    prompts = asked.prompts.assign(correct=asked.prompts["correct"].to_numpy() & everywhere)
    generator = measuring_generator(seed, rule.factor, sorted(set(rule.across)), sorted(rule.given))
    made = exchanges(prompts, str(rule.factor), rule.across, rule.given, generator)
    if not made:
        return _untried(asked.model, rule)
    return located(asked.model, asked.ids, made, {name: torch.from_numpy(one) for name, one in at.items()})


def _untried(model: Model, rule: SupernodeRule) -> pd.DataFrame:
    last = model.n_layers - 1
    rows = [{"position": str(at), "first": 0, "last": last, "accuracy": math.nan, "n": 0} for at in rule.among]
    return pd.DataFrame(rows)


def _nothing(case: Case, name: str, rule: SupernodeRule, tried: pd.DataFrame) -> str:
    n = int(tried["n"].iat[0])
    if n:
        why = f"at most {tried['accuracy'].max():.0%} of {n} exchanges of the {rule.factor} on development prompts move the answer"
    else:
        why = f"no development prompt has an exchange of the {rule.factor} with a unique answer ({', '.join(rule.given)} kept)"
    return f"case {case.name}: supernodes.{name}: nothing is found ({why}): uses the position {rule.among[0].meaning}, in all layers"
