"""Strict, frozen records read from files, and the one error that a user's mistake raises.

An unknown key is an error, not a silent default: a misspelt threshold that is ignored would change a result without a
trace. `read_yaml` reads a file, `validate` turns its contents into a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from biology.grammar import expected, steps_to, unknown


class InputError(ValueError):
    """A mistake in what the user gave (a file, a name, a prompt), told in one line that says what to do."""


class InputWarning(UserWarning):
    """Something the user gave is ignored, or may not be used as intended. Told in one line; work goes on."""


class Strict(BaseModel):
    """Base of every record read from a file: frozen, and an unknown key is an error that lists the allowed ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields  # looked up once, because pydantic is slow
        for key in data:
            if key not in fields:
                raise ValueError(unknown("key", key, fields))
        return data


def once(where: str | Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """An `object_pairs_hook` for JSON in which a repeated key is an `InputError` (plain JSON silently keeps the last one)."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            raise InputError(f"{where}: key '{next(name for name in names if names.count(name) > 1)}' is given twice.")
        return made

    return unique


class _UniqueKeys(yaml.constructor.SafeConstructor):
    """Safe YAML in which a repeated key is an error (plain YAML silently keeps the last one)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):  # {{placeholder}} is a mapping with a mapping as its key
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Loader(_UniqueKeys, yaml.SafeLoader):
    """The slow loader, whose error messages show the line."""


_Libyaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _FastLoader(_UniqueKeys, _Libyaml):
    """A loader that takes a tenth of the time, if PyYAML was built with libyaml."""


def read_yaml(path: str | Path) -> Any:
    """The contents of a YAML file. Raises `InputError` if it is missing, malformed, or repeats a key."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None
    mistakes = (yaml.YAMLError, ValueError, AttributeError)  # the latter two: no such date, no such number
    try:
        return yaml.load(text, Loader=_FastLoader)  # noqa: S506 (a SafeLoader)
    except mistakes:
        pass  # the other loader gives the same message on every machine
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except mistakes as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


Record = TypeVar("Record", bound=BaseModel)


def validate(record: type[Record], data: Any, path: str | Path, where: str = "") -> Record:
    """`data` as a `record`. Raises `InputError` with the file, the place in it, and the first mistake."""
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        steps = steps_to(first["loc"], data)
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = f"the key '{steps.pop()}' is missing"
        if first["type"] == "literal_error":
            message = unknown(
                "value", first["input"], re.findall(r"'(.*?)'", str(first.get("ctx", {}).get("expected")))
            )
        place = ".".join([where, *steps] if where else steps)
        message = expected(first["type"], first["input"]) or message
        raise InputError(f"{path}: {place + ': ' if place else ''}{message.rstrip('.')}.") from None


def known(path: Path, where: str, kind: str, name: str, there: Iterable[str], of: str = "") -> None:
    """Raises InputError if `name` is not one of `there`; the message gives the nearest and all of them. `where` is the
    place in the file."""
    if name not in (names := list(there)):
        raise InputError(f"{path}: {where}: {unknown(kind, name, names, of)}")
