"""Facts about the prompts of a case, against which its files are checked: factors with their levels, donors, positions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from biology.arms import is_donor
from biology.cases.items import ITEM_COLUMNS, names_prompts
from biology.cases.positions import CHAT, QUESTION, Position, question_of
from biology.grammar import unknown
from biology.records import InputError

NO_LETTER = 2
"""Tokens that stand for no letter of a text: the one that begins it, and a space that some tokenizers put before it."""
NO_FACTORS = ("item", "text")
"""Columns that name and state a prompt, and are no factors of it."""
Row = Mapping[str, str]
"""A prompt with all its columns."""


@dataclass(frozen=True, eq=False)
class Facts:
    """The prompts of a case, with checks of what a case file says about them. A failed check raises an InputError with
    `path` and the place."""

    path: Path
    shown: Mapping[str, Row]
    """The named prompts."""
    items: Sequence[Row]
    """The prompt set."""
    extended: Mapping[str, Mapping[str, Sequence[str]]]
    further: Callable[[], Sequence[Row]]
    """Reads the other prompt sets of the case, so that columns and levels found only there are no mistake."""

    @cached_property
    def rows(self) -> list[Row]:
        return [*self.shown.values(), *self.items]

    @cached_property
    def _further(self) -> list[Row]:
        return list(self.further())

    @cached_property
    def _beyond(self) -> dict[str, set[str]]:
        """Columns of extended corpora, with their levels."""
        found: dict[str, set[str]] = {}
        for columns in self.extended.values():
            for column, levels in columns.items():
                found.setdefault(column, set()).update(levels)
        return found

    @cached_property
    def columns(self) -> list[str]:
        kinds = dict.fromkeys(tuple(row) for row in self.rows)  # the rows of one file have the same columns
        return list(dict.fromkeys([*ITEM_COLUMNS, *(column for kind in kinds for column in kind), *self._beyond]))

    @cached_property
    def answers(self) -> frozenset[str]:
        return frozenset(row["answer"].strip() for row in self.rows)

    def levels(self, factor: str) -> list[str]:
        """All levels of a factor, sorted."""
        if factor not in self._levels:
            found = {row.get(factor, "") for row in self.rows} - {""}
            self._levels[factor] = sorted(found | self._beyond.get(factor, set()))
        return self._levels[factor]

    @cached_property
    def _levels(self) -> dict[str, list[str]]:
        return {}

    def refuse(self, where: str, what: str) -> InputError:
        return InputError(f"{self.path}: {where}: {what if what.endswith(('.', '?')) else what + '.'}")

    def known(self, where: str, kind: str, name: str, there: Iterable[str], of: str = "") -> None:
        if name not in (names := list(there)):
            raise self.refuse(where, unknown(kind, name, names, of))

    def distinct(self, where: str, words: Collection[object]) -> None:
        """Refuses a list that repeats an entry."""
        seen: set[object] = set()
        for word in words:
            if word in seen:
                raise self.refuse(where, f"'{word}' is listed twice")
            seen.add(word)

    def factor(self, where: str, name: str) -> None:
        """Refuses a column that no prompt has, and those that are no factors: the name and the text."""
        if name in NO_FACTORS or (name not in self.columns and not any(name in row for row in self._further)):
            raise self.refuse(where, unknown("factor", name, sorted({*self.columns} - {*NO_FACTORS})))

    def of_shown(self, where: str, name: str) -> None:
        """Refuses a column that a named prompt lacks; it may be empty."""
        self.factor(where, name)
        for row in self.shown.values():
            if name not in row:
                raise self.refuse(where, f"{self.told(row)} has no factor '{name}': add it to its `factors`")

    def level(self, where: str, factor: str, level: str) -> None:
        """Refuses a level that no prompt has."""
        self.factor(where, factor)
        if level not in self.levels(factor) and not any(row.get(factor) == level for row in self._further):
            raise self.refuse(f"{where}.{factor}", unknown("level", level, self.levels(factor), factor))

    def only(self, where: str, only: Mapping[str, str]) -> None:
        """Refuses levels that no prompt has, and combinations of levels that no scored prompt has."""
        for factor, level in only.items():
            self.level(where, factor, level)
        beyond = any(level in self._beyond.get(factor, ()) for factor, level in only.items())
        if only and self.items and not beyond and not self.scored(only):
            if not any(row["role"] == "score" and meets(row, only) for row in self._further):
                told = " and ".join(f"{factor} {level}" for factor, level in only.items())
                raise self.refuse(where, f"no scored prompt has {told}")

    def scored(self, only: Mapping[str, str]) -> list[Row]:
        """The scored prompts with these levels of factors."""
        asked = tuple(sorted(only.items()))
        if asked not in self._scored:  # many experiments ask for the same prompts
            self._scored[asked] = [row for row in self._score if all(row.get(one) == level for one, level in asked)]
        return self._scored[asked]

    @cached_property
    def _scored(self) -> dict[tuple[tuple[str, str], ...], list[Row]]:
        return {}

    @cached_property
    def _score(self) -> list[Row]:
        return [row for row in self.items if row["role"] == "score"]

    def donor(self, where: str, column: str, rows: Iterable[Row]) -> None:
        """Refuses a donor column that no prompt has, and prompts without a donor."""
        if column not in self.columns:
            there = [one for one in self.columns if is_donor(one.removeprefix("wrong_"))]
            self.factor(where, column) if not there else self.known(where, "donor's column", column, there)
        for row in rows:
            if not row.get(column):
                raise self.refuse(where, f"{self.told(row)} has no donor (column '{column}')")

    def filled(self, where: str, column: str, rows: Iterable[Row]) -> None:
        """Refuses prompts without a level of this factor."""
        for row in rows:
            if not row.get(column):
                raise self.refuse(where, f"{self.told(row)} has no level of '{column}'")

    def numbers(self, where: str, column: str, rows: Iterable[Row]) -> None:
        """Refuses prompts whose level of this factor is no number."""
        self.factor(where, column)
        for row in rows:
            try:
                float(row.get(column, ""))
            except ValueError:
                raise self.refuse(
                    where, f"{self.told(row)} has no number in column '{column}', but {row.get(column, '')!r}"
                ) from None

    def spelt(self) -> None:
        """Refuses a factor of a named prompt that is no column of the prompt set, but nearly one that the prompt lacks."""
        columns = {column for row in self.items for column in row}
        for row in self.shown.values():
            for name in (one for one in row if one not in columns):
                close = difflib.get_close_matches(name, columns - row.keys(), n=1, cutoff=0.7) if self.items else []
                if close:
                    raise self.refuse(self.told(row), unknown("factor", name, sorted(columns - {*ITEM_COLUMNS})))

    def links(self) -> None:
        """Refuses a prompt that names a prompt that does not exist, that is its own donor, or whose donor is also its
        wrong donor."""
        names = {row["item"] for row in self.rows}
        columns = [one for one in self.columns if names_prompts(one)]
        for row in self.rows:
            for column in columns:
                if row.get(column) and row[column] not in names:
                    raise self.refuse(self.told(row), unknown("prompt", row[column], names, f"column {column}"))
                if not row.get(column) or not is_donor(column.removeprefix("wrong_")):
                    continue
                if row[column] == row["item"]:
                    raise self.refuse(self.told(row), f"it is its own donor (column '{column}')")
                # a named prompt is shown without this control, and a case may have a single donor
                same = column.startswith("wrong_") and row[column] == row.get(column.removeprefix("wrong_"))
                if same and row["item"] not in self.shown:
                    raise self.refuse(
                        self.told(row), f"'{row[column]}' is both its donor and its wrong donor (column '{column}')"
                    )

    def questions(self) -> None:
        """Refuses a prompt that does not end in its question."""
        for row in self.rows:
            if not row["text"].endswith(row.get(QUESTION, "")):
                raise self.refuse(self.told(row), f"its text does not end in its {QUESTION} {row[QUESTION]!r}")

    def held_out(self) -> None:
        """Refuses a prompt set that scores prompts, none of which is held out."""
        if self._score and all(row["split"] != "heldout" for row in self._score):
            raise self.refuse(
                "prompt_set", "no scored prompt is held out (split heldout), and claims are judged on these"
            )

    def shared(self, where: str, asked: Sequence[Mapping[str, str]]) -> None:
        """Refuses experiments that are compared prompt by prompt and share no scored prompt."""
        of_each = [{row["item"] for row in self.scored(only)} for only in asked]
        if all(of_each) and not set.intersection(*of_each):
            raise self.refuse(where, "these experiments score no prompt in common, so there is nothing to compare")

    def told(self, row: Row) -> str:
        """A prompt by name, and whether it is in the prompt set."""
        return f"prompt '{row['item']}'{'' if row['item'] in self.shown else ' of the prompt set'}"

    def measured(self, asked: Collection[Mapping[str, str]]) -> None:
        """Refuses a scored prompt that no experiment's `only` includes, if its level is nearly one of those asked for
        (a misspelling)."""
        let_in = {id(row) for only in asked for row in self.scored(only)}
        for row in self._score:
            if id(row) in let_in:
                continue
            for factor in dict.fromkeys(factor for only in asked for factor in only):
                levels = list(dict.fromkeys(only[factor] for only in asked if factor in only))
                if row.get(factor, "") not in levels and difflib.get_close_matches(row.get(factor, ""), levels, n=1):
                    raise self.refuse(
                        self.told(row), f"no experiment measures it: {unknown('level', row[factor], levels, factor)}"
                    )

    def position(self, where: str, at: Position, rows: Iterable[Row]) -> None:
        """Refuses a position whose word does not occur exactly once in each prompt, and a number that no tokenizer's tokens of a
        prompt reach. Prompts without the factor are skipped."""
        if at.factor is not None:
            self.factor(where, at.factor)
        if at.form == "index":
            plain = [row for row in rows if not row.get(CHAT)]  # a template may say anything around a message
            shortest = min(plain, key=lambda row: len(row["text"].encode()), default=None)
            most = len(shortest["text"].encode()) + NO_LETTER if shortest else 0
            if shortest and not -most <= int(at) < most:
                raise self.refuse(
                    where, f"position '{at}' is outside {self.told(shortest)}, which can have {most} tokens at most"
                )
        for row in rows:
            word = at.word_in(row)
            if word and (count := question_of(row).count(word)) != 1:
                absent = at.factor is None and count == 0
                close = difflib.get_close_matches(word, question_of(row).split(), n=1) if absent else []
                hint = f" Did you mean 'token:{close[0]}'?" if close else ""
                raise self.refuse(
                    where,
                    f"position '{at}' needs {word!r} exactly once in {self.told(row)}, where it stands {count} times.{hint}",
                )


def meets(row: Row, only: Mapping[str, str]) -> bool:
    """Whether a prompt has these levels of factors."""
    return all(row.get(factor) == level for factor, level in only.items())
