"""What all kinds of experiment share (`Measurement`), and the line of a poem that some of them write (`Line`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, get_args

from pydantic import Field, GetJsonSchemaHandler, field_validator
from pydantic_core import CoreSchema

from biology.arms import Control, controls_of
from biology.cases.measures import FORMS, Outcome, alike, forms_of
from biology.cases.positions import Position
from biology.grammar import unknown
from biology.records import Strict

LAST = Position("last")


class Line(Strict):
    """How the line of a poem is written after the prompt, and which words outcomes ask about."""

    ends: str
    """Factor whose levels, over all prompts, are the words that can end a line; a prompt's own level is its planned
    word."""
    family: str
    """Factor whose level is the same for planned words that rhyme."""
    min_words: int = Field(default=1, gt=0)
    """Smallest number of words before the last one; the end of a shorter line does not count."""
    max_words: int = Field(default=12, gt=0)
    """Number of words after which an unfinished line is stopped."""
    forced: dict[int, str] = {}
    """Words that are given, not generated: number in the line (from 0), and the factor that holds the prompt's word."""
    hidden: bool = False
    """Whether attention from the new line to everything before the prompt's last token is blocked."""
    samples: int = Field(default=0, ge=0)
    """Lines sampled per prompt and arm at temperature 1 (for each matched set, only one); 0: one line, the most
    probable."""


class Measurement(Strict):
    """One measurement on every scored prompt, with its controls: the base of all kinds."""

    only: dict[str, str] = {}
    """Restricts the scored prompts to these levels of factors."""
    outcomes: tuple[Outcome, ...] = Field(min_length=1)
    """What is measured. Choices on development prompts are made by the first outcome."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A schema with only the outcomes and controls of this kind."""
        made = handler.resolve_ref_schema(handler(schema))
        properties = made["properties"]
        if "kind" in properties:
            properties["outcomes"]["items"] = {"anyOf": [FORMS[name].schema for name in forms_of(cls.kind_name())]}
        if "controls" in properties:
            properties["controls"]["items"] = {
                "anyOf": [one for one in Control.forms() if one["const"] in controls_of(cls.kind_name())]
            }
        return made

    @classmethod
    def kind_name(cls) -> str:
        """The name of this kind in case.yaml."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])

    @property
    def rests_on(self) -> tuple[str, ...]:
        """The experiments that it is computed from."""
        return ()

    @property
    def held(self) -> tuple[str, ...]:
        """The supernodes that it holds, injects, follows or looks for."""
        return ()

    def names(self, outcomes: Collection[str] | None = None) -> set[str]:
        """All supernodes that it names: those of `held`, and those in its own outcomes."""
        watched = [Outcome(one) for one in (self.outcomes if outcomes is None else outcomes)]
        return {*self.held, *(name for one in watched if one.form.about == "supernode" for name in one.arguments)}

    @field_validator("outcomes", mode="before")
    @classmethod
    def _known_outcomes(cls, value: Any) -> Any:
        for one in value if isinstance(value, list | tuple) else ():
            name, _, rest = str(one).partition(":")
            if name not in (forms := forms_of(cls.kind_name())):
                raise ValueError(unknown("outcome", one, alike(forms, rest), f"kind {cls.kind_name()}"))
        return value

    @field_validator("controls", mode="before", check_fields=False)
    @classmethod
    def _known_controls(cls, value: Any) -> Any:
        for one in value if isinstance(value, list | tuple) else ():
            if one not in (there := controls_of(cls.kind_name())):
                raise ValueError(unknown("control", one, there, f"kind {cls.kind_name()}"))
        return value
