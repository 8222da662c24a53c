"""The contents of `case.yaml`: named prompts, rules, experiments and figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from biology.cases.experiments import Experiment
from biology.cases.rules import Operands, Stream, SupernodeRule
from biology.records import Strict


class Paper(Strict):
    """Where the paper treats this case."""

    section: str
    url: str


class Prompt(Strict):
    """One named prompt, for figures. Prompts are exploratory unless they say `split: registered`."""

    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    """The answer, a single token."""
    split: Literal["registered", "exploratory"] = "exploratory"
    factors: dict[str, str] = {}
    """What the prompt is about: values of the factor columns of `prompts.csv`, e.g. {state: Texas}."""
    chat: bool = False
    """Whether it is asked as a user's message in the model's own chat template; then the answer begins what the assistant says."""


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
