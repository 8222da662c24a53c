"""The prompt set of a case: the rows of its `prompts.csv`, on which supernodes are selected and effects are
measured."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from biology.arms import is_donor
from biology.cases.positions import CHAT, QUESTION
from biology.records import InputError, Strict, validate

ITEM_COLUMNS = ("item", "text", "answer", "cluster", "split", "role")
LINKS = ("plain", "wrong_plain", "spoken", "gated_by")
"""Columns that name another prompt, beside the donors' columns."""


class Item(Strict):
    """One row of `prompts.csv`. Rules and strengths are chosen on `dev` items with role `select`; claims read `heldout`
    items."""

    item: str = Field(min_length=1)
    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    split: Literal["dev", "heldout"]
    role: Literal["select", "score", "donor"]
    """`donor`: it is there for the prompts that name it, and neither selects features nor is scored."""
    factors: dict[str, str] = {}
    """The factor columns, e.g. {city: Dallas, relation: capital, place: Texas}."""

    def meets(self, only: Mapping[str, str]) -> bool:
        """Whether it has these levels of factors."""
        return all(self.factors.get(factor) == level for factor, level in only.items())


def read_items(path: Path) -> tuple[Item, ...]:
    """The prompts of a prompt set (CSV in UTF-8). Raises `InputError` for a mistake in it, with its row."""
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
    """The prompts of a table that was read from `path`. Raises `InputError` for a mistake in it, with its row."""
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
    answers: dict[tuple[str, str], str] = {}
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
        if row.get(CHAT, "") not in ("", "true"):
            raise InputError(f"{path}: row {number}.{CHAT}: {row[CHAT]!r}: `true` is expected here, or nothing.")
        if not item.answer.strip(" "):
            raise InputError(f"{path}: row {number}.answer: is blank.")
        if item.answer.endswith(" "):
            raise InputError(f"{path}: row {number}.answer: {item.answer!r} ends in a space, which no answer does.")
        if item.item in seen:
            raise InputError(f"{path}: row {number}: item '{item.item}' occurs twice.")
        seen.add(item.item)
        told = (item.text.rstrip(), *(row[column] for column in said if column != "text"))
        if (first := same.setdefault(told, item.item)) != item.item:
            raise InputError(f"{path}: row {number}: item '{item.item}' repeats item '{first}': it would count twice.")
        asked = (item.text, row.get(QUESTION, ""))
        if item.role != "donor" and answers.setdefault(asked, item.answer) != item.answer:
            raise InputError(
                f"{path}: row {number}: answer {item.answer!r}: the same text has the answer {answers[asked]!r} before."
            )
        items.append(item)
    return tuple(items)


def names_prompts(column: str) -> bool:
    """Whether a column holds names of other prompts."""
    return column in LINKS or is_donor(column.removeprefix("wrong_"))


def first_items(items: Sequence[Item], most: int) -> tuple[Item, ...]:
    """A small part of a prompt set, in its order: of each split and `set` the first `most` scored prompts, each of a cluster of its
    own while there are enough clusters.

    With them stay the prompts that they name (with role `donor`, and naming no further ones, unless they are among the first
    themselves), and the selecting prompts of their clusters or of clusters that are never scored.
    """
    scored = [item for item in items if item.role == "score"]
    rank: Counter[tuple[str, ...]] = Counter()
    groups: dict[tuple[str, str], list[tuple[int, Item]]] = {}
    for item in scored:
        group = (item.split, item.factors.get("set", ""))
        groups.setdefault(group, []).append((rank[*group, item.cluster], item))
        rank[*group, item.cluster] += 1
    kept = {
        item.item: item
        for group in groups.values()
        for _, item in sorted(group, key=lambda pair: pair[0])[:most]  # stable: in the order of the file
    }
    left_out = {item.cluster for item in scored} - {item.cluster for item in kept.values()}
    by_name = {item.item: item for item in items}
    ahead = [*kept.values()]
    while ahead:
        named = {value for column, value in ahead.pop().factors.items() if names_prompts(column)}
        for item in (by_name[name] for name in sorted(named & by_name.keys() - kept.keys())):
            alone = {column: "" for column in item.factors if names_prompts(column) and column != "gated_by"}
            role = "donor" if item.role == "score" else item.role
            kept[item.item] = item.model_copy(update={"role": role, "factors": item.factors | alone})
            ahead.append(kept[item.item])
    selecting = {item.item: item for item in items if item.role == "select" and item.cluster not in left_out}
    kept = selecting | kept
    return tuple(kept[item.item] for item in items if item.item in kept)
