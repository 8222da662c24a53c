"""Rules of a case: how the members of supernodes are found, and what mean streams are taken of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from biology.cases.positions import FOUND, Position, PositionOrFound
from biology.records import Strict


class OperandCondition(Strict):
    """What a feature's operand plot must show (see `operands.py`): its family, and what its condition is about."""

    family: Literal["add", "lookup", "sum"]
    digit: tuple[Literal["ones", "range", "periodic"], ...] = ()
    """Any of these; empty: whatever it is about."""
    at: Position | None = None
    """Where the operand plot is read; by default where the supernode is."""


class Operands(Strict):
    """Which prompts form the grid of two operands on which features are read, and under which factors these stand."""

    first: str
    second: str
    only: dict[str, str] = {}
    """Restricts the grid to prompts with these levels of factors; prompts with role `select` fill it."""


class SupernodeRule(Strict):
    """How to find the members of a supernode: a rule over activations and decoders, never over the graph or an effect.

    A feature is a member if it meets all conditions that are given.
    """

    at: PositionOrFound = PositionOrFound("last")
    """Token position, as in `positions.py`. `found`: position and layers are those at which the MLPs of the model hold the factor,
    by exchange on development prompts (`site_search.py`)."""
    among: tuple[Position, ...] = ()
    """With `at: found`, the positions that are tried; one alone where the position is what a claim is about, and only the layers are
    found. The first is taken, with all layers, where nothing is found."""
    keeps: tuple[str, ...] = ()
    """With `at: found`, columns whose levels, together with that of the factor, settle a prompt's answer, such as its relation."""
    factor: str | None = None
    """The features that tell the levels of this factor apart (one set per level): active on prompts of the level,
    silent elsewhere, by `precision` and `recall` over prompts with role `select`."""
    precision: float = Field(default=0.9, ge=0, le=1)
    """Of the selecting prompts on which a member fires, the share that is of its level."""
    recall: float = Field(default=0.9, ge=0, le=1)
    """Of the selecting prompts of its level, the share on which a member fires."""
    elsewhere: float = Field(default=1.0, ge=0, le=1)
    """Of the selecting prompts of other levels, the largest share on which a member may fire."""
    within: str | None = None
    """A column in which `elsewhere` is also asked of the levels that share the scored prompt's value: a feature of Dallas has to tell
    it from the other cities of Texas (`within: place`), or it is one of Texas."""
    split: Literal["dev", "any"] = "dev"
    """Which prompts select: those of development clusters only, or any (then name columns in `apart`)."""
    apart: tuple[str, ...] = ()
    """Columns in which every selecting prompt must differ from the prompt that is scored."""
    active_on: tuple[str, ...] = ()
    """Named prompts on which the feature must be active at that position."""
    silent_on: tuple[str, ...] = ()
    """Named prompts on which it must not be."""
    operands: OperandCondition | None = None
    """Condition on the feature's operand plot (needs `operands:` in case.yaml)."""
    promotes: tuple[str, ...] = ()
    """Tokens, one of which must be among the `top` tokens that the decoder promotes. `answer` stands for the
    prompt's own answer, `answers` for those of all prompts of the level."""
    spares: tuple[str, ...] = ()
    """Tokens that must not be among the `top` promoted ones (`answer`, `answers` as above), so that an injection
    does not simply inject the answer."""
    top: int = Field(default=10, gt=0)
    layers: tuple[int, int] | None = None
    """First and last layer, both included."""
    most: int | None = Field(default=None, gt=0)
    """Keeps so many with the largest recall."""
    label: str = ""
    """What figures call it; factors of the prompt and `answer` may stand in braces: `say a {relation}`, `say
    {answer}`."""

    @model_validator(mode="after")
    def _fits_together(self) -> SupernodeRule:
        for key in ("precision", "recall", "elsewhere", "within", "split", "apart"):
            if key in self.model_fields_set and self.factor is None:
                raise ValueError(f"`{key}` says nothing without `factor`")
        if "top" in self.model_fields_set and not (self.promotes or self.spares):
            raise ValueError("`top` says nothing without `promotes` or `spares`")
        if self.factor is not None and (self.active_on or self.silent_on):
            raise ValueError("a rule with a `factor` is chosen by levels: leave out `active_on` and `silent_on`")
        if self.within is not None and "elsewhere" not in self.model_fields_set:
            raise ValueError(
                "`within` says nothing without `elsewhere`, which it asks of the levels that share a column"
            )
        if self.within is not None and self.within == self.factor:
            raise ValueError(f"within: no two levels of '{self.factor}' share it")
        self._found_fits_together()
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(f"layers: {list(self.layers)} is no range: the first layer comes first, from 0")
        return self

    def _found_fits_together(self) -> None:
        if self.at != FOUND:
            for key in ("among", "keeps"):
                if getattr(self, key):
                    raise ValueError(f"`{key}` says nothing without `at: {FOUND}`")
            return
        if self.factor is None:
            raise ValueError(f"`at: {FOUND}` needs `factor`: whose levels are exchanged")
        if len(set(self.among)) < max(1, len(self.among)):
            raise ValueError(f"`at: {FOUND}` needs `among`: a position or several, each of them once")
        if not self.keeps:
            raise ValueError(f"`at: {FOUND}` needs `keeps`: what settles the answer together with '{self.factor}'")
        if self.factor in self.keeps:
            raise ValueError(f"keeps: the level of '{self.factor}' is what is exchanged, so it is not kept")
        if self.layers is not None:
            raise ValueError(f"`layers` are found where `at: {FOUND}`: leave them out")

    @property
    def positions(self) -> tuple[Position, ...]:
        """Where members may be looked for."""
        return self.among if self.at == FOUND else (self.at,)

    @property
    def as_read(self) -> SupernodeRule:
        """The same rule where its operand plots are read."""
        return self.model_copy(update={"at": (self.operands and self.operands.at) or self.at})


class Stream(Strict):
    """A question without transcoders: does the mean residual stream of prompts that share a level carry that level alone?

    The mean is taken at the last token over prompts with role `select`, and put in the place of the scored prompt's own.
    """

    factor: str
    """Whose level the donor's mean is of, such as the place that the donor's answer is about."""
    apart: tuple[str, ...] = ()
    """Columns in which the prompts of the mean must differ from the scored prompt *and* from its donor, so that the level is all that
    they share with it."""
    donor: str = "donor"
    """Column with the donor; `wrong_<donor>` names the control's."""
    expected: str | None = None
    """Factor with the answer that is counted; by default the donor's own answer."""
    only: dict[str, str] = {}
