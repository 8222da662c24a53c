"""The share of prompts on which the supernodes that a part of a claim depends on have members.

A supernode is a rule, and a rule may find no feature. Then nothing is held, injected or watched, and the effect is
exactly zero: the verdict is about the rule (or the transcoders), not about the model.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from biology.cases.claim_file import Part
from biology.cases.experiments import Attention, Reuse, Sharing, Signs
from biology.cases.measurement import Measurement
from biology.cases.measures import Outcome
from biology.cases.perturbations import Perturbation

MOST = 0.5
"""Below this share of the prompts, a verdict says that too little was found."""


class RequiredSupernode(NamedTuple):
    """A supernode that must have a member, on the prompt itself or on the prompt named in a column of the prompt
    set."""

    supernode: str
    column: str = "item"


@dataclass(frozen=True)
class Found:
    """The share of prompts on which everything that a part depends on was found; NaN if it depends on no supernode."""

    share: float = math.nan
    supernodes: tuple[str, ...] = ()
    """The supernodes that the part depends on."""

    @property
    def too_little(self) -> bool:
        return self.share < MOST


@dataclass(frozen=True)
class Members:
    """The experiments of a case, and the members of its supernodes on each prompt."""

    experiments: Mapping[str, Measurement]
    supernodes: pd.DataFrame
    """Table `supernodes`."""

    def found(self, part: Part, prompts: pd.DataFrame) -> Found:
        """The supernodes that a part depends on, and the share of these rows of table `prompts` on which they were
        found."""
        ways = required_supernodes(self.experiments, part)
        if not ways:
            return Found()
        rows = prompts.to_dict("records")
        met = [
            any(all((row.get(need.column), need.supernode) in self._there for need in way) for way in ways)
            for row in rows
        ]
        return Found(sum(met) / len(met) if met else math.nan, supernodes_of(self.experiments, part))

    @cached_property
    def _there(self) -> set[tuple[str, str]]:
        """Prompts and the supernodes that have members on them. The table has a row for each member, a hundred times as many."""
        found = self.supernodes[["item", "supernode"]].drop_duplicates()
        return set(zip(found["item"].tolist(), found["supernode"].tolist(), strict=True))


def required_supernodes(experiments: Mapping[str, Measurement], part: Part) -> list[tuple[RequiredSupernode, ...]]:
    """Alternative lists of what a prompt must have for a part; empty if it needs no supernode.

    There are several alternatives if any of several supernodes is enough: `signs` averages over the pairs that exist,
    and `sharing` compares the members of several supernodes together.
    """
    if part.experiment not in experiments:
        return []
    experiment, outcome = experiments[part.experiment], Outcome(part.outcome)
    from_others = () if isinstance(experiment, Perturbation) else experiment.rests_on
    ways = [way for name in (from_others or [part.experiment]) for way in _held(experiments[name], outcome)]
    if from_others and not isinstance(experiment, Signs):  # both sides of a comparison need their members
        ways = [tuple(need for way in ways for need in way)]
    watched = tuple(map(RequiredSupernode, outcome.names("supernode")))
    return [tuple(dict.fromkeys(way + watched)) for way in ways or [()] if way + watched]


def supernodes_of(experiments: Mapping[str, Measurement], part: Part) -> tuple[str, ...]:
    """The supernodes that a part depends on, in any of the ways of `required_supernodes`."""
    return tuple(dict.fromkeys(need.supernode for way in required_supernodes(experiments, part) for need in way))


def _held(experiment: Measurement, outcome: Outcome) -> list[tuple[RequiredSupernode, ...]]:
    """The supernodes that an experiment holds, injects, follows or looks for, in the form of `required_supernodes`."""
    if isinstance(experiment, Perturbation):
        injected = [RequiredSupernode(experiment.injected, experiment.donor)] if experiment.injected else []
        return [(*map(RequiredSupernode, experiment.holds(1.0)), *injected)]
    if isinstance(experiment, Sharing):
        if outcome.form.controls == ("shuffle",):  # features of the whole prompt, whichever supernode they are in
            return []
        there = [(RequiredSupernode(name, experiment.donor),) if outcome.form.donor else () for name in experiment.of]
        return [(RequiredSupernode(name), *donor) for name, donor in zip(experiment.of, there, strict=True)]
    if isinstance(experiment, Attention):
        return [tuple(map(RequiredSupernode, needed))] if (needed := experiment.needs(outcome)) else []
    if isinstance(experiment, Reuse):
        return [(RequiredSupernode(experiment.of[0], "plain"),)]
    return [tuple(map(RequiredSupernode, experiment.held))] if experiment.held else []
