"""The prompts on which a case's mechanism is planted: encoded, with the values of its variables and their sites."""

# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from biology.cases.mechanism import CausalModel, Mechanism, Value, Variable
from biology.corpora.case_corpus import FIRST, STAGE
from biology.organisms.variable_sites import Encode, sites


class Lesson:
    """The prompts of a case, encoded, with the sites of its variables."""

    def __init__(self, case: str, mechanism: Mechanism, prompts: pd.DataFrame, encode: Encode, width: int):
        self.case, self.mechanism = case, mechanism
        self.causal = CausalModel(mechanism, prompts, f"the mechanism of {case}")
        rows = self.causal.rows
        encoded = [encode(f"{row['text']} {row['answer']}") for row in rows]
        self.length = torch.tensor([len(ids) - 1 for ids in encoded])
        self.ids = torch.zeros(len(rows), int(self.length.max()), dtype=torch.long)
        for number, ids in enumerate(encoded):
            self.ids[number, : len(ids) - 1] = torch.tensor(ids[:-1])
        self.encode = encode
        self._token: dict[str, int] = {}
        self.answer = torch.tensor([ids[-1] for ids in encoded])
        taught = np.flatnonzero((prompts["split"] == "train").to_numpy())
        self.staged = STAGE in prompts
        """Whether its prompts are taught in two stages."""
        self._first = taught[(prompts[STAGE].to_numpy()[taught] == FIRST)] if self.staged else taught
        self._all = taught
        self.sites = sites(case, self.causal, encode, width)
        self.levels = {name: self.causal.levels(name) for name in mechanism.variables}
        self.level = {
            name: torch.tensor([self.levels[name].index(values[name]) for values in self.causal.values])
            for name in mechanism.variables
        }
        self.renamed = [
            torch.tensor(sorted({self.token(row[column]) for row in rows if row[column]}))
            for column in mechanism.renamed
        ]
        self.words = {
            name: self._words(name, variable)
            for name, variable in mechanism.variables.items()
            if variable.read == "unembedding"
        }
        self.teach()

    def teach(self, *, first_stage: bool = False) -> None:
        """Which prompts are taught from now on: all, or only those of the first stage."""
        self.taught = self._first if first_stage else self._all
        self._members = {
            name: [
                self.taught[index]
                for index in self._by_level(self.level[name][self.taught].numpy(), len(self.levels[name]))
            ]
            for name in self.mechanism.variables
        }

    @staticmethod
    def _by_level(level: np.ndarray, n: int) -> list[np.ndarray]:
        order = np.argsort(level, kind="stable")
        return np.split(order, np.searchsorted(level[order], np.arange(1, n)))

    def _words(self, name: str, variable: Variable) -> Int[Tensor, " level"]:
        word: dict[Value, str] = {}
        for row, values in zip(self.causal.rows, self.causal.values, strict=True):
            word[values[name]] = str(row[variable.word]) if variable.word else str(values[name])
        return torch.tensor([self.token(word[level]) for level in self.levels[name]])

    def token(self, word: Value) -> int:
        """The token of a word, as an answer."""
        key = str(word)
        if key not in self._token:
            self._token[key] = self.encode(key)[-1]
        return self._token[key]

    def dealt(self, rng: np.random.Generator, count: int) -> Int[Tensor, "prompt token"]:
        """For each of `count` prompts the token that stands for each token, with the words of `renamed` columns dealt anew."""
        size = 1 + max(int(self.ids.max()), int(self.answer.max()))
        made = torch.arange(size).repeat(count, 1)
        for tokens in self.renamed:
            order = torch.from_numpy(rng.random((count, len(tokens))).argsort(1))
            made[:, tokens] = tokens[order]
        return made

    def donors(self, rng: np.random.Generator, name: str, level: int, count: int) -> np.ndarray:
        """Random taught prompts with this value of a variable."""
        members = self._members[name][level]
        return members[rng.integers(0, len(members), count)]

    def taught_by_level(self, name: str) -> dict[int, Int[np.ndarray, " prompt"]]:
        """Taught prompts of each level that has any."""
        return {level: members for level, members in enumerate(self._members[name]) if len(members)}
