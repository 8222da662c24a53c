"""Token positions as written in a case file. `biology.supernodes.case_prompts` finds them in a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from biology.grammar import Parsed, unknown

FORMS = {
    "last": ("last", "the prompt's last token"),
    "index": ("<number>", "the token of this number, counted from 0; a negative one from the end (-1 is the last)"),
    "token": (
        "token:<text>",
        "the last piece of this text, which stands exactly once in the prompt (in its question, if it has one; in a chat, in the user's message)",
    ),
    "factor": ("factor:<factor>", "the last piece of the prompt's own level of this factor, such as its city"),
}
"""Every form of a position, with its meaning."""
FOUND = "found"
"""Written in place of a position: it is found on each model (`site_search.py`)."""


QUESTION = "question"
"""Column of a prompt set: the last part of a text that begins with worked examples. Words are searched only in it."""


CHAT = "chat"
"""Column of a prompt set: `true` if a prompt is asked as a user's message in the model's own chat template. Once a model is known, it
holds the user's message, and the text is what the template makes of it (`case_prompts.in_chats`)."""


def message_of(row: Mapping[str, str]) -> str:
    """The text of a prompt as its author wrote it, also where a chat template is around it."""
    return row.get(CHAT) or row["text"]


def question_of(row: Mapping[str, str]) -> str:
    """The part of a prompt in which words are searched: its question if it has one, else its whole text."""
    return row.get(QUESTION) or row["text"]


class Position(Parsed):
    """A token position: `last`, an index such as `-2`, `token:Dallas`, or `factor:city`."""

    form: str
    """A key of `FORMS`, or a word of `also`."""
    word: str
    """The text, or the name of the factor, behind the colon."""
    also: ClassVar[tuple[str, ...]] = ()
    """Further words that are positions here."""

    def __new__(cls, text: str):  # an instance of the class that is called, which may be a subclass
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
        """The factor that it names, if it has the form `factor:`."""
        return self.word if self.form == "factor" else None

    def word_in(self, row: Mapping[str, Any]) -> str | None:
        """The word of a prompt at whose last piece the position is: '' if the prompt has no level of the factor, None if the position
        is not that of a word."""
        return str(row.get(self.word, "")) if self.form == "factor" else self.word if self.form == "token" else None

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
    """A token position, or `found`: the one of several positions at which the model holds the supernode's factor."""

    also = (FOUND,)

    @classmethod
    def forms(cls) -> list[dict[str, Any]]:
        says = "found on the development prompts of each model, among the positions of `among`"
        return [{"anyOf": Position.forms()}, {"const": FOUND, "description": says}]

    @property
    def meaning(self) -> str:
        return "where it is found" if self.form == FOUND else super().meaning


def _alike(form: str, word: str) -> list[str]:
    """Positions that may have been meant, with the given word filled in, so that the nearest can be copied."""
    return [
        written.replace("<text>", word).replace("<factor>", word) if word else written for written, _ in FORMS.values()
    ]
