"""What all kinds of experiment have in common (`Measurement`), and the line of a poem that some of them write."""

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
    """The line of a poem that is written after the prompt, and what its words are asked about."""

    ends: str
    """Factor whose levels (of all prompts) are the words that can end a line; a prompt's own level is the one it plans."""
    family: str
    """Factor whose level planned words that rhyme share."""
    least: int = Field(default=1, gt=0)
    """Words that stand before the last one at least; a line that ends sooner has no end that counts."""
    most: int = Field(default=12, gt=0)
    """Words at which an unfinished line is given up."""
    forced: dict[int, str] = {}
    """Words that are not left to the model: number in the line (from 0), and the factor that holds the prompt's word."""
    hidden: bool = False
    """Whether the line is written without sight of what stands before the prompt's last token."""
    samples: int = Field(default=0, ge=0)
    """Lines sampled for a prompt and arm at temperature 1 (of matched sets one each); 0: one line, the most probable."""


class Measurement(Strict):
    """One measurement on every scored prompt, with its controls beside it: what all kinds have in common."""

    only: dict[str, str] = {}
    """Restricts the scored prompts to those with these levels of factors."""
    outcomes: tuple[Outcome, ...] = Field(min_length=1)
    """What is measured; where development prompts decide, the first does."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """With the outcomes and controls of this kind alone."""
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
        """What case.yaml calls this kind."""
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
        """All supernodes that it names: those of `held`, and those that `outcomes` (its own) watch."""
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
