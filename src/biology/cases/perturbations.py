"""Kinds of experiment that change a forward pass: features are held at chosen values (`Perturbation`), or a residual stream is
exchanged (`Exchange`). All other kinds are in `experiments.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from biology.arms import Control
from biology.cases.measurement import LAST, Line, Measurement
from biology.cases.measures import FORMS, forms_of
from biology.cases.positions import Position
from biology.grammar import unknown

BEST = "best"
"""Value of `control_position`: of the positions where the supernode does not belong, the one at which its push does most."""


class Perturbation(Measurement):
    """Features of supernodes held at multiples of their activation, on every scored prompt."""

    by_line: ClassVar[tuple[str, ...]] = ("protocol", "attention")
    """Keys that are fixed if a line is written: iterative patching, with live attention."""

    donor: str = "donor"
    """Column of the prompt set that names the donor prompt; column `wrong_<donor>` names the wrong donor."""
    strengths: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    """Multipliers M. If there are several, one is chosen on development prompts."""
    depths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    """Constrained patching: the share of the layers, from the lowest, that is held. If there are several, one is chosen
    on development prompts."""
    direction: Literal["increase", "decrease"] = "increase"
    """Direction in which the first outcome should move when strength and depth are chosen on development prompts."""
    attention: Literal["frozen", "live"] = "frozen"
    """Whether attention patterns are frozen at the clean prompt's, as in the attribution graph, or follow the
    perturbation."""
    cut_direct: bool = False
    """Whether to cut the direct path of held features to the logits, so that only their effect through later layers
    counts."""
    control_position: Position | Literal["best"] = Position("1")
    """Position (as in a supernode's `at`) of the `position` control. `best`, for lines written at `sites`: of the sites
    other than the supernodes' own, the one at which the same push moves the first outcome most on the model's
    development prompts."""
    dose: bool = False
    """Whether to run all strengths on the held-out prompts too: for the dose-response figure and for `crossover`."""
    line: Line | None = None
    """How to write the line that the outcomes are about."""
    sites: tuple[Position, ...] = ()
    """Positions, as in a supernode's `at`: a line is also written with the same push at each of them, for the sweep
    figure."""
    protocol: Literal["constrained", "iterative"] = "constrained"
    """How features are held (see `protocols.py`)."""
    controls: tuple[Control, ...] = (Control("match"),)
    """Control arms measured beside the effect."""
    prompts: tuple[str, ...] = ()
    """Named prompts to show it on."""

    def holds(self, strength: float) -> dict[str, float]:
        """The prompt's own supernodes that are held, each with the multiple of its clean activation."""
        return {}

    def push(self, strength: float) -> float:
        """Distance of a strength from the one that changes nothing."""
        return abs(strength) if self.injected else abs(strength - 1.0)

    @property
    def injected(self) -> str | None:
        """The supernode whose members, as active on the donor prompt, are injected."""
        return None

    @property
    def chooses(self) -> bool:
        """Whether development prompts choose a strength or a depth."""
        return len(self.strengths) * len(set(self.depths)) > 1

    @model_validator(mode="after")
    def _nothing_unread(self) -> Perturbation:
        stated = self.model_dump(include={"control_position", "direction"}, exclude_defaults=True)
        if "control_position" in stated and "position" not in self.controls:
            raise ValueError("`control_position` has no effect without the control 'position'")
        if "direction" in stated and not self.chooses and self.control_position != BEST:
            raise ValueError("`direction` has no effect: there is one strength and one depth, and nothing to choose")
        return self

    @model_validator(mode="after")
    def _of_a_line(self) -> Perturbation:
        wrong = [one for one in self.outcomes if one.form.line != (self.line is not None)]
        if wrong and self.line is None:
            raise ValueError(f"outcome '{wrong[0]}' is about a line: say how it is written (`line`)")
        if wrong:
            known = [FORMS[name].written for name in forms_of(type(self).kind_name(), line=True)]
            raise ValueError(unknown("outcome", wrong[0], known, "a line"))
        if self.line is None and self.sites:
            raise ValueError("`sites` needs `line`: a line is also written at each of them")
        if self.control_position == BEST and not (self.sites and self.outcomes[0].startswith("line_")):
            raise ValueError(
                f"`control_position: {BEST}` needs `sites` to choose from, a `line`, and a first outcome about how it ends (line_...)"
            )
        settled = [key for key in self.by_line if self.line is not None and key in self.model_fields_set]
        if settled:
            raise ValueError(
                f"where a line is written, features are held iteratively and attention is live: leave out `{settled[0]}`"
            )
        if self.cut_direct and (self.line is not None or self.protocol != "constrained"):
            raise ValueError("`cut_direct` needs protocol constrained and no `line`")
        if self.line is not None and "direction" in self.controls:
            raise ValueError("an experiment that writes lines has no control 'direction'")
        return self


class Inhibit(Perturbation):
    """Holds a supernode at M times its clean activation: 1 does nothing, 0 ablates, -1 flips the sign."""

    kind: Literal["inhibit"]
    inhibit: str
    """The supernode to hold."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inhibit,)

    def holds(self, strength: float) -> dict[str, float]:
        return {self.inhibit: strength}


class Inject(Perturbation):
    """Holds a supernode at M times its activation on the donor prompt."""

    kind: Literal["inject"]
    inject: str
    """The supernode, as active on the donor prompt."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inject,)

    @property
    def injected(self) -> str:
        return self.inject


class Swap(Perturbation):
    """Holds one supernode at minus M times its activation, and another at M times its activation on the donor
    prompt."""

    kind: Literal["swap"]
    inhibit: str
    """The prompt's own supernode to hold down."""
    inject: str
    """The supernode, as active on the donor prompt."""
    inhibit_share: float = Field(default=1.0, ge=0, le=1)
    """The inhibited supernode is held at minus this share of M times its clean activation."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inhibit, self.inject)

    def holds(self, strength: float) -> dict[str, float]:
        return {self.inhibit: strength * -self.inhibit_share}

    @property
    def injected(self) -> str:
        return self.inject


class Edit(Perturbation):
    """A standing edit of the model: features are held at M times their activation wherever they are active, at every token of
    every prompt. They are the members that the supernode has on the development prompts of the edit, whatever prompt is
    run; all else follows (iterative patching, with live attention)."""

    depths: ClassVar[tuple[float, ...]] = (1.0,)
    attention: ClassVar[str] = "live"
    cut_direct: ClassVar[bool] = False
    control_position: ClassVar[Position] = Position("1")
    dose: ClassVar[bool] = False
    line: ClassVar[None] = None
    sites: ClassVar[tuple[Position, ...]] = ()
    protocol: ClassVar[str] = "iterative"

    kind: Literal["edit"]
    edit: str
    """The supernode whose features are edited."""
    as_in: str | None = None
    """Another edit of the supernode: this one has its features and its strength, and measures on other prompts what it
    costs there."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.edit,)

    @property
    def rests_on(self) -> tuple[str, ...]:
        return (self.as_in,) if self.as_in else ()

    def holds(self, strength: float) -> dict[str, float]:
        return {} if self.as_in else {self.edit: strength}  # prompts of another kind need no members

    @model_validator(mode="after")
    def _settled_there(self) -> Edit:
        settled = [key for key in ("strengths", "direction") if self.as_in and key in self.model_fields_set]
        if settled:
            raise ValueError(f"`as_in` takes the strength of that edit: leave out `{settled[0]}`")
        return self


class Exchange(Measurement):
    """Replaces the residual stream at one position, in all layers, by the donor's, and writes a line; needs no
    transcoder."""

    kind: Literal["exchange"]
    line: Line
    """How to write the line that the outcomes are about."""
    at: Position = LAST
    """The position, as in a supernode's `at`."""
    control_position: Position = Position("1")
    """Position of the `position` control."""
    controls: tuple[Control, ...] = ()
    prompts: tuple[str, ...] = ()
    """Named prompts to show it on."""
