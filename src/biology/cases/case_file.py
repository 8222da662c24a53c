"""The contents of `case.yaml`: named prompts, rules, experiments and figures, and what of them can be checked without the
prompt set. `case_checks.py` holds them against its prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from biology.cases.experiments import Experiment
from biology.cases.measurement import Measurement
from biology.cases.perturbations import Perturbation
from biology.cases.rules import Operands, Stream, SupernodeRule
from biology.grammar import unknown
from biology.records import Strict

NAMED = "[a-z0-9_-]+"
"""Allowed names of prompts, supernodes and experiments."""


class Paper(Strict):
    """Where the paper treats this case."""

    section: str
    url: str


class Prompt(Strict):
    """One named prompt, for figures and pages. It moves no verdict; `split` says whether it was fixed before results were seen."""

    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    """The answer, a single token."""
    split: Literal["registered", "exploratory"] = "exploratory"
    factors: dict[str, str] = {}
    """What the prompt is about: values of the factor columns of `prompts.csv`, e.g. {state: Texas}."""
    chat: bool = False
    """Whether it is asked as a user's message in the model's own chat template; then the answer begins what the assistant says."""


EXTENDED = ("brackets",)
"""Corpora that teach more than that of elegans (`biology.corpora.twins`)."""
OUTPUT = "answer"
"""Name of the output among supernodes."""


class Story(Strict):
    """The opening of a case's page: written from the paper, not from results."""

    arrows: tuple[tuple[str, str], ...] = Field(min_length=1)
    """The arrows of the paper's figure, from supernode to supernode; `answer` is the output."""
    traced: str
    """The named prompt whose graph is shown beside them."""
    experiment: str
    """The paper's best-known intervention of this case; it holds features or exchanges a residual stream."""
    shown: str
    """The named prompt on which the intervention is shown."""


class CaseFile(Strict):
    """A case study: how things are measured and shown."""

    paper: Paper
    prompts: dict[str, Prompt]
    """Named prompts, for figures."""
    prompt_set: str | None = None
    """The file of prompts on which claims are judged, such as prompts.csv."""
    prompt_sets: dict[str, str] = {}
    """Further prompt sets by name, for models that say `prompts: <name>`."""
    extended: dict[str, dict[str, tuple[str, ...]]] = {}
    """What only models of an extended corpus are asked: by corpus, the columns that its prompts have and the files
    lack, and the further levels of each. An empty list means: the levels are names of prompts, checked when the model
    runs."""
    supernodes: dict[str, SupernodeRule] = {}
    """Rules that find the members of supernodes."""
    experiments: dict[str, Experiment] = {}
    """What is measured, each under a name of your own."""
    operands: Operands | None = None
    streams: dict[str, Stream] = {}
    """Questions about mean residual streams, without transcoders."""
    story: Story | None = None
    """The opening of its page."""
    figures: tuple[str, ...] = ()
    """What to draw: a figure, or a figure and its subject (a prompt or an experiment) joined by a hyphen."""

    @model_validator(mode="after")
    def _fits_together(self) -> CaseFile:
        """Refuses, with its place, what contradicts the rest of the file or has no effect."""
        for where, what in self._mistakes():
            raise ValueError(f"{where}: {what}")
        return self

    def _mistakes(self) -> Iterator[tuple[str, str]]:
        for key in ("prompts", "supernodes", "experiments"):
            for name in getattr(self, key):
                if not re.fullmatch(NAMED, name):
                    told = "use small letters, digits, '-' and '_', as it becomes a file name"
                    yield key, f"'{name}' is not allowed: {told}"
        yield from (
            (f"prompts.{name}.answer", "is blank") for name, one in self.prompts.items() if not one.answer.strip(" ")
        )
        if self.operands is not None and self.operands.first == self.operands.second:
            yield "operands.second", f"'{self.operands.second}' is the first operand too: name the other one"
        for name, rule in self.supernodes.items():
            yield from ((f"supernodes.{name}.{key}", what) for key, what in _mistakes_of_a_rule(rule))
        for name, stream in self.streams.items():
            yield from ((f"streams.{name}.{key}", what) for key, what in _mistakes_across(stream))
        for name, experiment in self.experiments.items():
            yield from ((f"experiments.{name}.{key}", what) for key, what in _mistakes_of_an_experiment(experiment))
        if self.story is not None:
            yield from self._mistakes_of_the_story(self.story)

    def _mistakes_of_the_story(self, story: Story) -> Iterator[tuple[str, str]]:
        named: list[tuple[str, str, str, Any]] = [
            ("arrows", "supernode", one, (*self.supernodes, OUTPUT)) for arrow in story.arrows for one in arrow
        ]
        named += [(key, "prompt", getattr(story, key), self.prompts) for key in ("traced", "shown")]
        named += [("experiment", "experiment", story.experiment, self.experiments)]
        for key, kind, name, there in named:
            if name not in there:
                yield f"story.{key}", unknown(kind, name, there)
        left = list(story.arrows)
        while left:  # boxes that nothing leads to are removed repeatedly, until nothing or a circle is left
            targets = {target for _, target in left}
            if not any(source not in targets for source, _ in left):
                yield "story.arrows", f"the arrows run in a circle: {', '.join(map(' -> '.join, left))}"
                break
            left = [arrow for arrow in left if arrow[0] in targets]
        if story.shown not in getattr(self.experiments.get(story.experiment), "prompts", ()):
            yield "story.shown", f"experiment '{story.experiment}' is not shown on prompt '{story.shown}'"


def _mistakes_across(one: SupernodeRule | Stream) -> Iterator[tuple[str, str]]:
    """Of columns in which prompts must differ."""
    yield from _mistakes_of_a_list("across", one.across)
    if one.factor in one.across:
        yield "across", f"leave out '{one.factor}': prompts that share its level cannot differ in it"


def _mistakes_of_a_list(key: str, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for number, word in enumerate(words):
        if not word:
            yield key, "an entry is empty"
        if word in words[:number]:
            yield key, f"'{word}' is listed twice"


def _mistakes_of_a_rule(rule: SupernodeRule) -> Iterator[tuple[str, str]]:
    yield from _mistakes_across(rule)
    for key in ("given", "active_on", "silent_on", "promotes", "not_promotes"):
        yield from _mistakes_of_a_list(key, getattr(rule, key))
    for key, opposite in (("silent_on", "active_on"), ("not_promotes", "promotes")):
        for word in getattr(rule, key):
            if word in getattr(rule, opposite):
                yield key, f"'{word}' is listed in `{opposite}` too: no feature can be a member"


def _mistakes_of_an_experiment(one: Measurement) -> Iterator[tuple[str, str]]:
    for outcome in one.outcomes:
        names = outcome.arguments
        if outcome.form.about == "layer" and not all(name.isdecimal() for name in names):
            yield "outcomes", f"outcome '{outcome}': a layer is a whole number, counted from 0"
        if outcome.form.separator in "+," and len(set(names)) < len(names):
            yield "outcomes", f"outcome '{outcome}' names the same {outcome.form.about} twice"
    if isinstance(one, Perturbation) and "depths" in one.model_fields_set and one.protocol != "constrained":
        yield "depths", "iterative patching holds nothing up to a layer: leave out `depths`"
