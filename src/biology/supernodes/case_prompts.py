"""The prompts of a case as token ids, and the token positions in them that a case file names."""

# pyright: reportReturnType=false

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from biology.cases.case import Case
from biology.cases.positions import CHAT, FOUND, QUESTION, question_of
from biology.models.model import Model, encode
from biology.models.tokenizer import in_chat
from biology.records import InputError


@dataclass(frozen=True, eq=False)
class CasePrompts:
    """The prompts of a case, one row each. A prompt's `place` is its row number."""

    model: Model
    case: Case
    prompts: pd.DataFrame

    @cached_property
    def ids(self) -> list[list[int]]:
        """The token ids of each prompt: computed here, or those that a cache of the prompts holds."""
        return [encode(self.model, text) for text in self.prompts["text"]]

    @cached_property
    def place(self) -> dict[str, int]:
        return {item: place for place, item in enumerate(self.prompts["item"])}

    @cached_property
    def asked(self) -> pd.DataFrame:
        """The rows of the prompt set. Outcomes and rules that look up other prompts look only here, so that a prompt that is
        only shown by name changes no number."""
        return self.prompts[self.prompts["role"] != "show"]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Every prompt with all its columns."""
        return self.prompts.to_dict("records")

    def position(self, at: str, place: int) -> int:
        """The token position that `at` names in a prompt, see `position`. Raises InputError if there is none."""
        key = (at, place)
        if key not in self._positions:
            row = self.records[place]
            where = f"case {self.case.name}, prompt {row['item']}"
            self._positions[key] = position(self.model, row["text"], len(self.ids[place]), at, row, where)
        return self._positions[key]

    def positions(self, at: str) -> Int[np.ndarray, " prompt"]:
        """The position in each prompt; -1 if `at` names a factor that the prompt lacks."""
        kind, _, value = at.partition(":")
        return np.array(
            [
                self.position(at, place) if kind != "factor" or row.get(value) else -1
                for place, row in enumerate(self.records)
            ]
        )

    def first_position(self, place: int) -> int:
        """The first token of a prompt that is a node of its graph: after its first token, after its worked examples, and after what a
        chat template puts before the user's message."""
        row = self.records[place]
        examples = row["text"][: start_of_question(row)].rstrip(" ")
        return len(encode(self.model, examples)) if examples else 1

    @cached_property
    def _positions(self) -> dict[tuple[str, int], int]:
        return {}


def in_chats(model: Model, case: Case) -> Case:
    """The case as this model is asked it: prompts with `chat` stand in its chat template.

    Their text is what the template makes of the user's message, their question the message (or the question that they had), and their
    factor `chat` the message. A case without such prompts is returned as it is.

    Raises InputError, with case and prompt, if the model has no template, or one that changes the message.
    """

    def asked(name: str, text: str, factors: Mapping[str, str]) -> dict[str, Any]:
        where, question = f"case {case.name}, prompt {name}", question_of({**factors, "text": text})
        try:
            made = in_chat(model.tokenizer, model.name, text, asked_by="`chat: true`")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        found = next(
            (part for part in (question, question.strip()) if part in made), None
        )  # many templates strip a message
        if found is None:
            raise InputError(f"{where}: the chat template of model {model.name} does not leave {question!r} as it is")
        return {"text": made, "factors": {**factors, QUESTION: found, CHAT: text}}

    prompts = {
        name: one.model_copy(update=asked(name, one.text, one.factors)) if one.chat else one
        for name, one in case.prompts.items()
    }
    items = tuple(
        one.model_copy(update=asked(one.item, one.text, one.factors)) if one.factors.get(CHAT) else one
        for one in case.items
    )
    chats = any(one.chat for one in case.prompts.values()) or any(one.factors.get(CHAT) for one in case.items)
    return case.model_copy(update={"prompts": prompts, "items": items}) if chats else case


def start_of_question(row: Mapping[str, str]) -> int:
    """Where in a prompt's text its question begins: the last place at which it stands."""
    return row["text"].rindex(question_of(row))


def position(model: Model, text: str, n_tokens: int, at: str, factors: Mapping[str, str], where: str) -> int:
    """The token position that `at` names in a prompt of `n_tokens` tokens: `last`, an index, `token:Dallas`, or `factor:city` (its
    last piece).

    Words are searched in the prompt's question (`positions.question_of`). Raises InputError unless they occur exactly once;
    `where` names case and prompt.
    """
    kind, _, value = at.partition(":")
    if at == FOUND:
        raise InputError(f"{where}: position '{at}' is not known before the stage `group` has run")
    if at == "last":
        return n_tokens - 1
    if kind in ("token", "factor"):
        word = factors.get(value, "") if kind == "factor" else value
        question = question_of({**factors, "text": text})
        if question.count(word) != 1:
            raise InputError(f"{where}: position '{at}' needs '{word}' exactly once in the prompt {question!r}")
        end = start_of_question({**factors, "text": text}) + question.index(word) + len(word)
        return n_tokens - 1 if end == len(text) else len(encode(model, text[:end])) - 1
    if not re.fullmatch(r"-?\d+", at) or not -n_tokens <= int(at) < n_tokens:
        raise InputError(
            f"{where}: position '{at}' is neither last, token:<word>, factor:<column> nor one of {n_tokens} tokens"
        )
    return int(at) % n_tokens
