"""What `case.yaml` says: prompts that are shown, rules, experiments and figures."""

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
    """One prompt shown by name. Prompts are exploratory unless they say `split: registered`."""

    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    """The answer, one token."""
    split: Literal["registered", "exploratory"] = "exploratory"
    factors: dict[str, str] = {}
    """What the prompt is about, under the names of the free columns of `prompts.csv`, e.g. {state: Texas}."""


OUTPUT = "answer"
"""What the output is called among supernodes."""


class Story(Strict):
    """How the page of a case opens: written down from the paper, not from results."""

    arrows: tuple[tuple[str, str], ...] = Field(min_length=1)
    """The arrows that the paper draws, from supernode to supernode; `answer` is the output."""
    traced: str
    """The named prompt whose graph stands beside them."""
    experiment: str
    """The intervention by which the paper's case is known, one that holds features or exchanges a stream."""
    shown: str
    """The named prompt on which it is shown."""


class CaseFile(Strict):
    """A case study: how things are measured and shown."""

    paper: Paper
    prompts: dict[str, Prompt]
    """Prompts that are shown by name."""
    prompt_set: str | None = None
    """The file with the prompts that claims are judged on, such as prompts.csv."""
    prompt_sets: dict[str, str] = {}
    """Further prompt sets by name, for models that say `prompts: <name>`."""
    extended: dict[str, dict[str, tuple[str, ...]]] = {}
    """What only models of an extended corpus are asked: by corpus, the columns that its prompts have and the files lack, and
    the further levels of these (none: its names of prompts are looked up when it is met)."""
    supernodes: dict[str, SupernodeRule] = {}
    """Rules by which the members of a supernode are found."""
    experiments: dict[str, Experiment] = {}
    """What is measured, under names of your own."""
    operands: Operands | None = None
    streams: dict[str, Stream] = {}
    """What is asked of mean residual streams, without transcoders."""
    story: Story | None = None
    """How its page opens."""
    figures: tuple[str, ...] = ()
    """What is drawn: a figure, or a figure and its subject (a prompt or an experiment) behind a hyphen."""
