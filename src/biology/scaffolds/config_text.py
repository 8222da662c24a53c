"""config.yaml as text: adds entries without touching its comments.

Nothing is written here. Whoever writes the text reads the file again, which checks it.
"""

from __future__ import annotations

import re

MODEL = re.compile(r"^  (?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*):", flags=re.MULTILINE)
CASES = re.compile(r"^    cases: \[(?P<listed>[^\]\n]*)\]", flags=re.MULTILINE)


def with_case(text: str, model: str, case: str) -> str | None:
    """The text with a case added to a model's list. None if the model's entry has no list of cases on one line."""
    begun = next((found for found in MODEL.finditer(text) if found["name"] == model), None)
    if begun is None:
        return None
    after = MODEL.search(text, begun.end())
    end = after.start() if after else len(text)
    listed = CASES.search(text, begun.end(), end)
    if listed is None:
        return None
    names = [name.strip() for name in listed["listed"].split(",") if name.strip()]
    if case in names:
        return text
    return f"{text[: listed.start()]}    cases: [{', '.join([*names, case])}]{text[listed.end() :]}"


def with_model(text: str, entry: str) -> str | None:
    """The text with one more model, first in the mapping `models:`. None if it has no such line.

    `entry` must be indented by two spaces and end with a line break.
    """
    found = re.search(r"^models:[ \t]*(#.*)?\n", text, flags=re.MULTILINE)
    return None if found is None else f"{text[: found.end()]}{entry}\n{text[found.end() :]}"
