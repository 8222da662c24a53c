"""Token positions as a case file names them. `biology.supernodes.case_prompts` finds them in a prompt."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from biology.grammar import Parsed, unknown

FORMS = {
    "last": ("last", "the prompt's last token"),
    "index": ("<number>", "the token of this number, counted from 0; a negative one from the end (-1 is the last)"),
    "token": ("token:<text>", "the last piece of this text, which stands exactly once in the prompt"),
    "factor": ("factor:<factor>", "the last piece of the prompt's own level of this factor, such as its city"),
}
"""Every form of a position: how it is written, and what it means."""
FOUND = "found"
"""What stands for the position of a supernode that is found on each model (`site_search.py`)."""


class Position(Parsed):
    """A token position: `last`, an index such as `-2`, `token:Dallas`, or `factor:city`."""

    form: str
    """A key of `FORMS`, or a word of `also`."""
    word: str
    """The text or the factor behind the colon."""
    also: ClassVar[tuple[str, ...]] = ()
    """Further words that stand for a position."""

    def __new__(cls, text: str):  # of the class that is called: its subclass is one too
        form, _, word = text.partition(":")
        made = super().__new__(cls, text)
        made.word = word
        if text in ("last", *cls.also):
            made.form = text
        elif re.fullmatch(r"-?\d+", text):
            made.form = "index"
        elif form in ("token", "factor") and word:
            made.form = form
        else:
            raise ValueError(unknown("position", text, [*_alike(form, word), *cls.also]))
        return made

    @classmethod
    def forms(cls) -> list[dict[str, Any]]:
        patterns = {"index": r"^-?\d+$", "token": r"^token:[\s\S]+$", "factor": "^factor:.+$"}
        return [
            {"const": "last", "description": says}
            if form == "last"
            else {"type": "string", "pattern": patterns[form], "description": f"{written}: {says}"}
            for form, (written, says) in FORMS.items()
        ]

    @property
    def factor(self) -> str | None:
        """The factor that it asks for."""
        return self.word if self.form == "factor" else None

    @property
    def meaning(self) -> str:
        if self.form == "index":
            number = int(self)
            return f"at token {number} from the start" if number >= 0 else f"at token {-number} from the end"
        words = {
            "last": "at the last token",
            "token": f"at the last piece of '{self.word}'",
            "factor": f"at the last piece of the prompt's {self.word}",
        }
        return words[self.form].replace("\n", "\\n")


class PositionOrFound(Position):
    """A token position, or `found`: whichever of some positions the model itself holds the supernode's factor at."""

    also = (FOUND,)

    @classmethod
    def forms(cls) -> list[dict[str, Any]]:
        says = "found on the development prompts of each model, among the positions of `among`"
        return [{"anyOf": Position.forms()}, {"const": FOUND, "description": says}]

    @property
    def meaning(self) -> str:
        return "where it is found" if self.form == FOUND else super().meaning


def _alike(form: str, word: str) -> list[str]:
    """How positions are written, with the word that somebody gave: the nearest of these can be typed as it stands."""
    return [
        written.replace("<text>", word).replace("<factor>", word) if word else written for written, _ in FORMS.values()
    ]
