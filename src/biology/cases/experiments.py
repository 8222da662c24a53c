"""Kinds of experiment: the keys that each needs and allows. A key that a kind does not know is an error.

Experiments that hold features (`Perturbation`) and `Exchange` change the model. `Graph`, `Faithfulness`, `Structure`,
`Census`, `Classes`, `Wiring`, `Connectivity`, `Reuse` and `Sharing` only observe. `Contrast`, `Crossover`, `Separation`,
`Signs` and `Scale` are computed from other experiments. Their outcomes are defined in `measures.py`, their controls in `arms.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from biology.arms import Control
from biology.cases.measurement import LAST, Line, Measurement
from biology.cases.measures import FORMS, forms_of
from biology.cases.positions import Position
from biology.grammar import unknown

BEST = "best"
"""Value of `elsewhere`: of the positions where the supernode does not belong, the one at which its push does most."""


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
    elsewhere: Position | Literal["best"] = Position("1")
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
        if self.elsewhere == BEST and not (self.sites and self.outcomes[0].startswith("line_")):
            raise ValueError(
                f"`elsewhere: {BEST}` needs `sites` to choose from, a `line`, and a first outcome about how it ends (line_...)"
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
    suppress: float = Field(default=1.0, ge=0, le=1)
    """The inhibited supernode is held at minus this share of M times its clean activation."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inhibit, self.inject)

    def holds(self, strength: float) -> dict[str, float]:
        return {self.inhibit: strength * -self.suppress}

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
    elsewhere: ClassVar[Position] = Position("1")
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
    elsewhere: Position = Position("1")
    """Position of the `position` control."""
    controls: tuple[Control, ...] = ()
    prompts: tuple[str, ...] = ()
    """Named prompts to show it on."""


class Graph(Measurement):
    """Shares of influence along paths of the attribution graph (`graph_tables.py`)."""

    kind: Literal["graph"]
    through: str
    """The supernode through which paths pass."""
    source: str
    """The factor whose tokens are the start of the paths for `shortcut` and `source_share`."""
    controls: tuple[Control, ...] = (Control("match"),)

    @property
    def held(self) -> tuple[str, ...]:
        return (self.through,)


class Census(Measurement):
    """Counts the features at a position that tell a later word (`census.py`)."""

    kind: Literal["census"]
    through: str
    """The supernode to look for; its rule has a factor."""
    sites: tuple[Position, ...] = ()
    """Other positions at which to look for it (control `position`)."""
    controls: tuple[Control, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        return (self.through,)


class Classes(Measurement):
    """The operand-plot families of the features that carry the influence on the answer (`operand_tables.py`)."""

    kind: Literal["classes"]
    controls: tuple[Control, ...] = ()


class Wiring(Measurement):
    """Whether weights lead from source features to the target features that are active at the prompt's sum
    (`operand_tables.py`)."""

    kind: Literal["wiring"]
    of: tuple[str, ...] = Field(min_length=2, max_length=2)
    """The source and the target supernode; the rule of each has a condition on operand plots."""
    controls: tuple[Control, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        return self.of


class Faithfulness(Measurement):
    """How well a prompt's graph and its replacement model represent the model (`validation/faithfulness.py`)."""

    kind: Literal["faithfulness"]
    controls: tuple[Control, ...] = ()


class Structure(Measurement):
    """The composition of a prompt's graph (`validation/structure.py`)."""

    kind: Literal["structure"]
    template: str
    """The factor whose levels are templates: prompts with the same level share their wording."""
    controls: tuple[Control, ...] = ()


class Connectivity(Measurement):
    """How the operand-plot families of features at the last token are connected (`operand_tables.py`)."""

    kind: Literal["connectivity"]
    controls: tuple[Control, ...] = ()


class Reuse(Measurement):
    """How much of a supernode's activity on the plain prompt is also present on this prompt (`operand_tables.py`)."""

    kind: Literal["reuse"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The supernode."""
    controls: tuple[Control, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        return self.of


class Sharing(Measurement):
    """What prompts in several languages have in common (`sharing.py`)."""

    kind: Literal["sharing"]
    of: tuple[str, ...] = ()
    """The supernodes to compare together."""
    donor: str = "donor"
    """For `closeness`: column of the prompt set that names the donor prompt."""
    controls: tuple[Control, ...] = (Control("match"),)

    @property
    def held(self) -> tuple[str, ...]:
        return self.of


class Computed(Measurement):
    """An experiment computed from other experiments; it has their control arms."""

    of: tuple[str, ...] = Field(min_length=1)

    @property
    def rests_on(self) -> tuple[str, ...]:
        return self.of


class Contrast(Computed):
    """The first experiment minus a share of the second, item by item and arm by arm (`contrasts.py`)."""

    kind: Literal["contrast"]
    of: tuple[str, ...] = Field(min_length=2, max_length=2)
    """The two experiments."""
    share: float = Field(default=1.0, gt=0, le=1)
    """The share of the second experiment's outcome that is subtracted from the first one's."""


class Crossover(Computed):
    """How much the strength at which a swap takes over differs between levels of a factor (`contrasts.py`)."""

    kind: Literal["crossover"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """A swap with `dose`. Its last two outcomes are the probabilities of the answer that takes over and of the one that
    gives way. Computed on the prompts that pass the gate of the claim that asks for it."""
    by: str
    """The factor whose levels are compared."""


class Separation(Computed):
    """How well what another experiment measures tells the prompts of `only` from those of `against`
    (`contrasts.separations`)."""

    kind: Literal["separation"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The experiment; its first outcome is compared."""
    against: dict[str, str] = Field(min_length=1)
    """The prompts compared with: scored prompts of the same split with these levels of factors."""


class Signs(Computed):
    """Whether the signs of the graph predict the effects of inhibitions (`contrasts.sign_agreement`)."""

    kind: Literal["signs"]
    of: tuple[str, ...] = Field(min_length=1)
    """The inhibitions whose effects are compared with the graph."""
    controls: tuple[Control, ...] = ()


class Scale(Computed):
    """One experiment compared between models of two sizes (`contrasts.py`)."""

    kind: Literal["scale"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The experiment to compare; it must have a control `shuffle`."""


KINDS = (
    Inhibit, Inject, Swap, Edit, Exchange, Graph, Faithfulness, Structure, Signs, Census, Classes, Wiring, Connectivity, Reuse, Sharing,
    Contrast, Crossover, Separation, Scale,
)  # fmt: skip
LOOKING_AT_PLOTS = (Classes, Wiring, Connectivity)


def _known_kind(data: Any) -> Any:
    """Refuses an unknown kind, listing the known ones, before any kind checks the other keys."""
    names = [kind.kind_name() for kind in KINDS]
    if isinstance(data, dict) and "kind" in data and data["kind"] not in names:
        raise ValueError(unknown("kind", data["kind"], names))
    return data


Experiment = Annotated[
    Inhibit | Inject | Swap | Edit | Exchange | Graph | Faithfulness | Structure | Signs | Census | Classes | Wiring | Connectivity | Reuse
    | Sharing | Contrast | Crossover | Separation | Scale,
    Field(discriminator="kind"),
    BeforeValidator(_known_kind),
]  # fmt: skip
"""One experiment of case.yaml."""
