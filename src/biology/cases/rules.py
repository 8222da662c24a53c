"""Rules of a case: how members of supernodes are found, and over which prompts residual streams are averaged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from biology.cases.positions import FOUND, Position, PositionOrFound
from biology.records import Strict


class OperandCondition(Strict):
    """A condition on a feature's operand plot (see `operands.py`): its family, and what the plot depends on."""

    family: Literal["add", "lookup", "sum"]
    digit: tuple[Literal["ones", "range", "periodic"], ...] = ()
    """Any of these digits; empty: any."""
    at: Position | None = None
    """Position at which the operand plot is read; by default the supernode's."""


class Operands(Strict):
    """The prompts that form the grid of two operands on which features are read, and the factors that hold the operands."""

    first: str
    second: str
    only: dict[str, str] = {}
    """Restricts the grid to prompts with these levels of factors; the grid consists of prompts with role `select`."""


TELLING = ("precision", "recall", "false_positive_rate")
"""Keys of a rule by which each member tells a level from others."""


class SupernodeRule(Strict):
    """A rule that finds the members of a supernode from activations and decoders, never from the graph or an effect.

    A feature is a member if it meets all the conditions given.
    """

    at: PositionOrFound = PositionOrFound("last")
    """Token position, as in `positions.py`. `found`: the position and layers at which the model's MLPs hold the factor, found
    by exchanging MLP outputs between development prompts (`site_search.py`)."""
    among: tuple[Position, ...] = ()
    """With `at: found`, the positions to try. If a claim fixes the position, list it alone; then only the layers are found. If
    nothing is found, the first position is used, with all layers."""
    given: tuple[str, ...] = ()
    """With `at: found`, columns that, together with the factor, determine a prompt's answer, such as its relation."""
    factor: str | None = None
    """Selects the features that distinguish the levels of this factor (one set per level): active on prompts of the level,
    silent on others, by `precision` and `recall` over prompts with role `select`."""
    precision: float = Field(default=0.9, ge=0, le=1)
    """Of the selecting prompts on which a member is active, the smallest share that is of its level."""
    recall: float = Field(default=0.9, ge=0, le=1)
    """Of the selecting prompts of its level, the smallest share on which a member is active."""
    false_positive_rate: float = Field(default=1.0, ge=0, le=1)
    """Of the selecting prompts of other levels, the largest share on which a member may be active."""
    within: str | None = None
    """A column. `false_positive_rate` must then also hold among the levels that share the scored prompt's value of it; and
    `difference_share` compares with these levels alone (with all, if none shares it). With `within: place` a feature of Dallas must
    distinguish it from the other cities of Texas; else it is a feature of Texas."""
    difference_share: float | None = Field(default=None, gt=0, le=1)
    """In place of `precision`, `recall` and `false_positive_rate`: members are the fewest features that make up this share of the
    difference that the level makes. A feature's difference is how much more it writes (activation times length of its decoder vector)
    in the mean over selecting prompts of the level than over those of other levels; it counts if it is positive. For variables that a
    dictionary spreads over many features, of which none tells the level by itself."""
    split: Literal["dev", "any"] = "dev"
    """Which prompts select: only those of development clusters, or any (then name columns in `across`)."""
    across: tuple[str, ...] = ()
    """Columns in which every selecting prompt must differ from the scored prompt."""
    active_on: tuple[str, ...] = ()
    """Named prompts on which the feature must be active at that position."""
    silent_on: tuple[str, ...] = ()
    """Named prompts on which the feature must not be active there."""
    operands: OperandCondition | None = None
    """Condition on the feature's operand plot (needs `operands:` in case.yaml)."""
    promotes: tuple[str, ...] = ()
    """Tokens; at least one must be among the `top` tokens that the decoder promotes. `answer` is the prompt's own answer,
    `answers` are those of all prompts of the level."""
    not_promotes: tuple[str, ...] = ()
    """Tokens that must not be among the `top` promoted ones (`answer`, `answers` as above), so that an injection is not simply
    an injection of the answer."""
    top: int = Field(default=10, gt=0)
    layers: tuple[int, int] | None = None
    """First and last layer, both inclusive."""
    max_members: int | None = Field(default=None, gt=0)
    """Largest number of members; those with the largest recall are kept."""
    label: str = ""
    """Title in figures. Factors of the prompt and `answer` may be given in braces: `say a {relation}`, `say {answer}`."""

    @model_validator(mode="after")
    def _fits_together(self) -> SupernodeRule:
        for key in ("precision", "recall", "false_positive_rate", "within", "difference_share", "split", "across"):
            if key in self.model_fields_set and self.factor is None:
                raise ValueError(f"`{key}` has no effect without `factor`")
            if key in TELLING and self.difference_share and key in self.model_fields_set:
                raise ValueError(
                    f"`{key}` has no effect with `difference_share`, which takes the place of {', '.join(TELLING)}"
                )
        if "top" in self.model_fields_set and not (self.promotes or self.not_promotes):
            raise ValueError("`top` has no effect without `promotes` or `not_promotes`")
        if self.factor is not None and (self.active_on or self.silent_on):
            raise ValueError("a rule with `factor` selects by levels: leave out `active_on` and `silent_on`")
        if self.within is not None and not self.difference_share and "false_positive_rate" not in self.model_fields_set:
            raise ValueError(
                "`within` has no effect without `difference_share` or `false_positive_rate`, which it applies to the levels that share a column"
            )
        if self.within is not None and self.within == self.factor:
            raise ValueError(f"within: all levels of '{self.factor}' differ in it: give another column")
        self._found_fits_together()
        if self.layers is not None and not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(
                f"layers: {list(self.layers)} is not a range: give the first layer, then the last, counted from 0"
            )
        return self

    def _found_fits_together(self) -> None:
        if self.at != FOUND:
            for key in ("among", "given"):
                if getattr(self, key):
                    raise ValueError(f"`{key}` has no effect without `at: {FOUND}`")
            return
        if self.factor is None:
            raise ValueError(f"`at: {FOUND}` needs `factor`, whose levels are exchanged")
        if len(set(self.among)) < max(1, len(self.among)):
            raise ValueError(f"`at: {FOUND}` needs `among`: one or more positions, without repetition")
        if not self.given:
            raise ValueError(
                f"`at: {FOUND}` needs `given`: columns that determine the answer together with '{self.factor}'"
            )
        if self.factor in self.given:
            raise ValueError(f"given: leave out '{self.factor}', whose level is exchanged")
        if self.layers is not None:
            raise ValueError(f"`at: {FOUND}` finds the layers: leave out `layers`")

    @property
    def positions(self) -> tuple[Position, ...]:
        """The positions at which members may be found."""
        return self.among if self.at == FOUND else (self.at,)

    @property
    def as_read(self) -> SupernodeRule:
        """The same rule at the position where its operand plots are read."""
        return self.model_copy(update={"at": (self.operands and self.operands.at) or self.at})


class Stream(Strict):
    """A question without transcoders: does the mean residual stream of prompts that share a level carry that level and nothing
    else?

    The mean is taken at the last token over prompts with role `select`. It replaces the scored prompt's own residual stream.
    """

    factor: str
    """Factor whose level the mean carries: the donor's, such as the place that its answer is about."""
    across: tuple[str, ...] = ()
    """Columns in which the averaged prompts must differ from the scored prompt *and* from its donor, so that they share only
    the level with the donor."""
    donor: str = "donor"
    """Column that names the donor; `wrong_<donor>` names the control's donor."""
    expected: str | None = None
    """Factor that holds the answer to count; by default the donor's own answer."""
    only: dict[str, str] = {}
