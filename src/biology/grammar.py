"""Words with a grammar, as used in case files (outcomes, positions, controls): parsed, or refused with the nearest
known word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""Allowed names of models and cases. They become folder names, and appear in commands and addresses."""
LISTED = 30
"""Largest number of known words that a message lists."""


def nearest(word: object, there: Iterable[str]) -> str:
    """A question that names the nearest of these words, with a space before it; nothing if none is near."""
    close = difflib.get_close_matches(str(word), list(there), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: object, there: Iterable[str], of: str = "") -> str:
    """The message for an unknown word (`of` something): the nearest known word, and the first `LISTED` known ones."""
    words = list(dict.fromkeys(map(str, there)))
    rest = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return f"unknown {kind} '{word}'{f' of {of}' if of else ''}.{nearest(word, words)} Known: {', '.join(words[:LISTED]) or 'none'}{rest}."


def refused_name(name: str) -> str | None:
    """Why `name` is not allowed, with a name that would be; None if it is allowed."""
    if re.fullmatch(NAME, name) and ".." not in name:
        return None
    better = re.sub(r"\.\.+", ".", re.sub(r"[^A-Za-z0-9._-]+", "_", name)).lstrip(".-").rstrip("_")
    hint = f", for instance to '{better}'" if better else ""
    return f"'{name}' is not a valid name (letters, digits, '.', '-' and '_', the first neither '.' nor '-', no '..'): rename it{hint}"


def steps_to(loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The keys that lead to a mistake, without pydantic's names for the branches of unions. An entry of a list is
    called by its `name` if it has one."""
    steps, tag = [], None
    for step in (one for one in loc if "[" not in str(one)):
        if tag is None and isinstance(data, dict) and data.get("kind") == step:
            tag = step
            continue
        name = None
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
            name = data.get("name") if isinstance(data, dict) else None
        else:
            data = None
        steps.append(name if isinstance(name, str) and name else str(step))
        tag = None
    return steps


EXPECTED = {
    "string_type": "a name or text", "float_type": "a number", "float_parsing": "a number", "int_type": "a whole number",
    "int_parsing": "a whole number", "int_from_float": "a whole number", "bool_type": "true or false",
    "bool_parsing": "true or false", "tuple_type": "a list", "dict_type": "a mapping", "model_type": "a mapping",
    "model_attributes_type": "a mapping", "date_type": "a date (2026-01-31)", "date_parsing": "a date (2026-01-31)",
    "date_from_datetime_parsing": "a date (2026-01-31)",
}  # fmt: skip
"""The expected type in words, by pydantic's name of the mistake."""


def expected(mistake: str, found: Any) -> str | None:
    """The message for a value of a wrong type; None if the mistake is of another kind."""
    if mistake not in EXPECTED:
        return None
    kinds = {
        bool: "the truth value",
        int: "the number",
        float: "the number",
        str: "the text",
        list: "a list",
        dict: "a mapping",
    }
    what = "nothing" if found is None else kinds.get(type(found), f"the {type(found).__name__}")
    if isinstance(found, bool):
        what += f" {str(found).lower()}"
    elif isinstance(found, int | float | str):
        what += f" {found!r}"
    return f"{EXPECTED[mistake]} is expected here, not {what}"


class Parsed(str):
    """Text with a grammar. The constructor raises ValueError for text that does not parse. Equal to the same plain
    text."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(), serialization=plain)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": cls.forms()}

    @classmethod
    def forms(cls) -> list[dict[str, Any]]:
        """All its forms as JSON Schemas: a word (`const`) or a `pattern`, each with its meaning."""
        raise NotImplementedError
