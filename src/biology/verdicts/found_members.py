"""Nothing found is not nothing there: on how many prompts there is a member of what a part of a claim rests on.

A supernode is a rule, and a rule may find no feature. Where it does not, nothing is held, injected or seen, and the effect is
exactly zero: the verdict then speaks of the rule (or of the transcoders), not of the model.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from biology.cases.claim_file import Part
from biology.cases.experiments import Perturbation, Reuse, Sharing, Signs
from biology.cases.measurement import Measurement
from biology.cases.measures import Outcome

MOST = 0.5
"""Share of the prompts below which a verdict says that too little was found to speak of."""


class Need(NamedTuple):
    """A supernode that has to have a member, in the prompt itself or in the one that a column of the prompt set names."""

    supernode: str
    column: str = "item"


@dataclass(frozen=True)
class Found:
    """On which share of some prompts all that a part rests on was found; NaN if it rests on no supernode."""

    share: float = math.nan
    supernodes: tuple[str, ...] = ()
    """What it rests on."""

    @property
    def too_little(self) -> bool:
        return self.share < MOST


@dataclass(frozen=True)
class Members:
    """The experiments of a case, and which supernodes have members on which of its prompts."""

    experiments: Mapping[str, Measurement]
    supernodes: pd.DataFrame
    """Table `supernodes`."""

    def found(self, part: Part, prompts: pd.DataFrame) -> Found:
        """What a part rests on, and on which share of these rows of table `prompts` it was found."""
        ways = needs(self.experiments, part)
        if not ways:
            return Found()
        names = tuple(dict.fromkeys(need.supernode for way in ways for need in way))
        there = set(zip(self.supernodes["item"], self.supernodes["supernode"], strict=True))
        rows = prompts.to_dict("records")
        met = [
            any(all((row.get(need.column), need.supernode) in there for need in way) for way in ways) for row in rows
        ]
        return Found(sum(met) / len(met) if met else math.nan, names)


def needs(experiments: Mapping[str, Measurement], part: Part) -> list[tuple[Need, ...]]:
    """The ways in which a prompt can have what a part rests on, each a list of what has to be there; none: no supernode.

    There are several ways where any of several supernodes will do: `signs` averages over the pairs that there are, and
    `sharing` looks at the members of several supernodes together.
    """
    if part.experiment not in experiments:
        return []
    experiment, outcome = experiments[part.experiment], Outcome(part.outcome)
    ways = [way for name in (experiment.rests_on or [part.experiment]) for way in _held(experiments[name], outcome)]
    if experiment.rests_on and not isinstance(experiment, Signs):  # what is compared has to be there on both sides
        ways = [tuple(need for way in ways for need in way)]
    watched = tuple(map(Need, outcome.names("supernode")))
    return [tuple(dict.fromkeys(way + watched)) for way in ways or [()] if way + watched]


def _held(experiment: Measurement, outcome: Outcome) -> list[tuple[Need, ...]]:
    """What an experiment holds, injects, follows or looks for, as `needs`."""
    if isinstance(experiment, Perturbation):
        injected = [Need(experiment.injected, experiment.donor)] if experiment.injected else []
        return [(*map(Need, experiment.holds(1.0)), *injected)]
    if isinstance(experiment, Sharing):
        if outcome.form.controls == ("shuffle",):  # features of the whole prompt, whichever supernode they are in
            return []
        there = [(Need(name, experiment.donor),) if outcome.form.donor else () for name in experiment.of]
        return [(Need(name), *donor) for name, donor in zip(experiment.of, there, strict=True)]
    if isinstance(experiment, Reuse):
        return [(Need(experiment.of[0], "plain"),)]
    return [tuple(map(Need, experiment.held))] if experiment.held else []
