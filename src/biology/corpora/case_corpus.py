"""A case as a corpus: the training text of a model that answers this case's prompts and nothing else.

Prompts that select supernodes are taught; prompts on which effects are measured are held out. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import pandas as pd

from biology.cases.case import Case
from biology.corpora.corpus import Corpus, Item
from biology.records import InputError

SPLITS = {"dev": "dev", "heldout": "test"}
STAGE, FIRST, SECOND = "stage", "1", "2"
"""The column that says in which stage a prompt is taught, if a model is grown in two, and its values. In the second stage all are
taught."""


class CaseCorpus(Corpus):
    """The prompts of a case; with `first_stage`, of those that are taught only the ones of the first stage. Raises `InputError` for a
    case without a prompt set, whose prompts are all taught or all held out, or whose stages are not two."""

    def __init__(self, case: Case, *, first_stage: bool = False):
        self.case = case
        self.nouns = self.adjectives = ()
        self.cities = pd.DataFrame({"city": [], "place": []}, dtype=str)  # no word is written in pieces
        self.couplets = []
        splits = {self._split(item.role, item.split) for item in case.items}
        if not {"train", "dev", "test"} <= splits:
            raise InputError(
                f"case '{case.name}': a model can be grown on a prompt set with prompts of role `select` (they are taught), and prompts of "
                "role `score` of both splits (they are held out)."
            )
        stages = {item.factors[STAGE] for item in case.items if STAGE in item.factors and item.role == "select"}
        if stages and stages != {FIRST, SECOND}:
            raise InputError(
                f"case '{case.name}': column '{STAGE}' says {FIRST} or {SECOND} of every prompt that is taught, and both occur; "
                f"here it says {', '.join(map(repr, sorted(stages)))}."
            )
        self.items = [
            item
            for item in case.items
            if not first_stage or item.role != "select" or item.factors.get(STAGE, FIRST) == FIRST
        ]

    @staticmethod
    def _split(role: str, split: str) -> str:
        return "train" if role == "select" else SPLITS[split]

    @cached_property
    def facts(self) -> pd.DataFrame:
        """The answers, each of which becomes one token."""
        answers = sorted({item.answer.strip() for item in self.case.items})
        return pd.DataFrame({"place": answers, "answer": answers})

    @cached_property
    def blocks(self) -> dict[str, list[Item]]:
        name = self.case.name
        return {
            name: [
                Item(name, item.text, item.answer.strip(), self._split(item.role, item.split), item.cluster)
                for item in self.items
            ]
        }

    def texts(self) -> Iterable[str]:
        yield from (f"{item.prompt} {item.answer}" for item in self.blocks[self.case.name])
        yield from (f"{prompt.text} {prompt.answer}" for prompt in self.case.prompts.values())

    def lesson(self) -> pd.DataFrame:
        """Every prompt with the columns of the prompt set, as in `mechanism_prompts.py` for the shipped cases."""
        rows = [
            {
                **item.factors,
                "text": item.text,
                "answer": item.answer.strip(),
                "split": self._split(item.role, item.split),
            }
            for item in self.items
        ]
        return pd.DataFrame(rows)
