"""The prompt set of a case: the rows of its `prompts.csv`, on which supernodes are selected and effects are
measured."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from biology.cases.positions import QUESTION
from biology.records import InputError, Strict, validate

ITEM_COLUMNS = ("item", "text", "answer", "cluster", "split", "role")


class Item(Strict):
    """One row of `prompts.csv`. Rules and strengths are chosen on `dev` items with role `select`; claims read `heldout`
    items."""

    item: str = Field(min_length=1)
    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    split: Literal["dev", "heldout"]
    role: Literal["select", "score"]
    factors: dict[str, str] = {}
    """The factor columns, e.g. {city: Dallas, relation: capital, place: Texas}."""

    def meets(self, only: Mapping[str, str]) -> bool:
        """Whether it has these levels of factors."""
        return all(self.factors.get(factor) == level for factor, level in only.items())


def read_items(path: Path) -> tuple[Item, ...]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets begin with a byte order mark
            return _items(path, file.read())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (named by `prompt_set` in case.yaml).") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error}).") from None


@lru_cache(maxsize=16)  # one command and its checks read a case several times
def _items(path: Path, text: str) -> tuple[Item, ...]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = list(reader.fieldnames or [])
    return items_of(path, columns, list(reader))


def items_of(path: Path, columns: list[str], rows: Sequence[Mapping[str, str]]) -> tuple[Item, ...]:
    missing = [column for column in ITEM_COLUMNS if column not in columns]
    if missing:
        hint = (
            " Columns are separated by commas, not by semicolons." if any(";" in column for column in columns) else ""
        )
        raise InputError(f"{path}: missing column(s) {', '.join(missing)}. Needed: {', '.join(ITEM_COLUMNS)}.{hint}")
    for column in columns:
        if columns.count(column) > 1 or not re.fullmatch(r"[a-z][a-z0-9_]*", column):
            raise InputError(f"{path}: bad or repeated column name '{column}'.")
    if not rows:
        raise InputError(f"{path}: no prompts below the header.")
    free = [column for column in columns if column not in ITEM_COLUMNS]
    names = [column for column in columns if column not in ("text", "answer", QUESTION)]
    said = [column for column in columns if column != "item"]
    items, seen = [], set()
    same: dict[tuple[str, ...], str] = {}
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number} does not have {len(columns)} columns.")
        for column in names:
            if row[column] != row[column].strip():
                raise InputError(f"{path}: row {number}.{column}: {row[column]!r} begins or ends with a space.")
        named = {column: row[column] for column in ITEM_COLUMNS}
        factors = {column: row[column] for column in free}
        data = {**named, "factors": factors}
        try:
            item = Item.model_validate(data)
        except ValidationError:
            item = validate(Item, data, path, where=f"row {number}")  # raises an error that says what is wrong
        if item.item in seen:
            raise InputError(f"{path}: row {number}: item '{item.item}' occurs twice.")
        seen.add(item.item)
        if (first := same.setdefault(tuple([row[column] for column in said]), item.item)) != item.item:
            raise InputError(f"{path}: row {number}: item '{item.item}' repeats item '{first}': it would count twice.")
        items.append(item)
    return tuple(items)
