"""Kinds of experiment: what each needs, and what it may say. A key that a kind does not know is an error.

Those that hold features (`Perturbation`) and `Exchange` change the model; `Graph`, `Faithfulness`, `Structure`, `Census`,
`Classes`, `Wiring`, `Connectivity`, `Reuse` and `Sharing` only look; `Contrast`, `Crossover`, `Signs` and `Scale` are computed from what others measured.
What they measure stands in `measures.py`, and beside which controls in `arms.py`.
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
"""As `elsewhere` of an experiment: the position at which its push does most, of those where it does not belong."""


class Perturbation(Measurement):
    """Features of supernodes held at multiples of their activation, on every scored prompt."""

    by_line: ClassVar[tuple[str, ...]] = ("protocol", "attention")
    """What is settled where a line is written: iterative, with live attention."""

    donor: str = "donor"
    """Column of the prompt set that names the donor prompt; that of the wrong donor is called `wrong_<donor>`."""
    strengths: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    """Multipliers M; where there are several, development prompts decide."""
    depths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    """Constrained patching: share of the layers that are held, from below; development prompts decide."""
    direction: Literal["increase", "decrease"] = "increase"
    """Where the first outcome is to go when development prompts decide."""
    attention: Literal["frozen", "live"] = "frozen"
    """Whether attention patterns stay as on the clean prompt, as in the attribution graph, or follow the perturbation."""
    cut_direct: bool = False
    """Whether what is held has no direct path to the logits: only what later layers make of it counts."""
    elsewhere: Position | Literal["best"] = Position("1")
    """Position (as in a supernode's `at`) of the `position` control. `best`, where lines are written at `sites`: the one of them,
    other than the supernodes' own, at which the same push moves the first outcome most on development prompts of the model."""
    dose: bool = False
    """Whether all strengths are also run on the held-out prompts, for the dose-response figure (judged by no claim)."""
    line: Line | None = None
    """How the line is written that outcomes are about."""
    sites: tuple[Position, ...] = ()
    """Positions, as in a supernode's `at`: a line is also written with the same push at each, for the sweep figure."""
    protocol: Literal["constrained", "iterative"] = "constrained"
    """How features are held (see `protocols.py`)."""
    controls: tuple[Control, ...] = (Control("match"),)
    """Control arms measured beside the effect."""
    prompts: tuple[str, ...] = ()
    """Named prompts to show it on."""

    def holds(self, strength: float) -> dict[str, float]:
        """The supernodes of the prompt itself that are held, and at which multiples of their clean activation."""
        return {}

    def push(self, strength: float) -> float:
        """How far a strength is from doing nothing."""
        return abs(strength) if self.injected else abs(strength - 1.0)

    @property
    def injected(self) -> str | None:
        """The supernode whose members on the donor prompt are injected."""
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
            raise ValueError("`sites` are where a line is also written, and there is no `line`")
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
            raise ValueError("`cut_direct` is for what a prompt says next (no `line`), by protocol constrained")
        if self.line is not None and "direction" in self.controls:
            raise ValueError("an experiment that writes lines has no control 'direction'")
        return self


class Inhibit(Perturbation):
    """Holds a supernode at M times its clean activation: 1 does nothing, 0 ablates, -1 flips the sign."""

    kind: Literal["inhibit"]
    inhibit: str
    """The supernode that is held."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inhibit,)

    def holds(self, strength: float) -> dict[str, float]:
        return {self.inhibit: strength}


class Inject(Perturbation):
    """Holds a supernode at M times its activation on the donor prompt."""

    kind: Literal["inject"]
    inject: str
    """The supernode of the donor prompt."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inject,)

    @property
    def injected(self) -> str:
        return self.inject


class Swap(Perturbation):
    """Holds a supernode at minus M times its activation, and one at M times its activation on the donor prompt."""

    kind: Literal["swap"]
    inhibit: str
    """The supernode of the prompt itself that is held down."""
    inject: str
    """The supernode of the donor prompt."""
    suppress: float = Field(default=1.0, ge=0, le=1)
    """What is inhibited is held at minus this share of M times its clean activation."""

    @property
    def held(self) -> tuple[str, ...]:
        return (self.inhibit, self.inject)

    def holds(self, strength: float) -> dict[str, float]:
        return {self.inhibit: strength * -self.suppress}

    @property
    def injected(self) -> str:
        return self.inject


class Exchange(Measurement):
    """Replaces the residual stream at a position, in all layers, by the donor's, and writes a line; no transcoder is involved."""

    kind: Literal["exchange"]
    line: Line
    """How the line is written that outcomes are about."""
    at: Position = LAST
    """The position, as in a supernode's `at`."""
    elsewhere: Position = Position("1")
    """Position of the `position` control."""
    controls: tuple[Control, ...] = ()
    prompts: tuple[str, ...] = ()
    """Named prompts to show it on."""


class Graph(Measurement):
    """Shares of the paths of the attribution graph (`graph_tables.py`)."""

    kind: Literal["graph"]
    through: str
    """The supernode that paths pass through."""
    source: str
    """The factor at whose tokens the paths of `shortcut` and `source_share` start."""
    controls: tuple[Control, ...] = (Control("match"),)

    @property
    def held(self) -> tuple[str, ...]:
        return (self.through,)


class Census(Measurement):
    """What the features at a position tell of a later word, counted (`census.py`)."""

    kind: Literal["census"]
    through: str
    """The supernode that is looked for; its rule has a factor."""
    sites: tuple[Position, ...] = ()
    """Where else it is looked for (control `position`)."""
    controls: tuple[Control, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        return (self.through,)


class Classes(Measurement):
    """What operand plots say of the features that carry the influence on the answer (`operand_tables.py`)."""

    kind: Literal["classes"]
    controls: tuple[Control, ...] = ()


class Wiring(Measurement):
    """Whether weights lead from sources to the targets that fire at the prompt's sum (`operand_tables.py`)."""

    kind: Literal["wiring"]
    of: tuple[str, ...] = Field(min_length=2, max_length=2)
    """The source and the target supernode; their rules have a condition on operand plots."""
    controls: tuple[Control, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        return self.of


class Faithfulness(Measurement):
    """How well the graph and the replacement model of a prompt stand for the model (`validation/faithfulness.py`)."""

    kind: Literal["faithfulness"]
    controls: tuple[Control, ...] = ()


class Structure(Measurement):
    """What the graph of a prompt is made of (`validation/structure.py`)."""

    kind: Literal["structure"]
    template: str
    """The factor whose levels are templates: prompts with the same one are asked in the same way."""
    controls: tuple[Control, ...] = ()


class Connectivity(Measurement):
    """How families of features at the last token are wired (`operand_tables.py`)."""

    kind: Literal["connectivity"]
    controls: tuple[Control, ...] = ()


class Reuse(Measurement):
    """How much of a supernode's activity on the plain prompt is there on this one too (`operand_tables.py`)."""

    kind: Literal["reuse"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The supernode."""
    controls: tuple[Control, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        return self.of


class Sharing(Measurement):
    """What prompts of several languages have in common (`sharing.py`)."""

    kind: Literal["sharing"]
    of: tuple[str, ...] = ()
    """The supernodes that are looked at together."""
    donor: str = "donor"
    """`closeness`: column of the prompt set that names the donor prompt."""
    controls: tuple[Control, ...] = (Control("match"),)

    @property
    def held(self) -> tuple[str, ...]:
        return self.of


class Computed(Measurement):
    """An experiment that is computed from what others measured; it has the control arms of these."""

    of: tuple[str, ...] = Field(min_length=1)

    @property
    def rests_on(self) -> tuple[str, ...]:
        return self.of


class Contrast(Computed):
    """Two experiments, item by item and arm by arm (`contrasts.py`)."""

    kind: Literal["contrast"]
    of: tuple[str, ...] = Field(min_length=2, max_length=2)
    """The two experiments."""
    share: float = Field(default=1.0, gt=0, le=1)
    """The share of the second experiment's outcome that is taken off the first one's."""


class Crossover(Computed):
    """How much the strength at which a swap takes over varies between levels of a factor (`contrasts.py`)."""

    kind: Literal["crossover"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """A swap with `dose`, whose last two outcomes are the probabilities of what takes over and of what gives way; it is computed
    on the prompts that pass the gate of the claim that asks it."""
    by: str
    """The factor whose levels are compared."""


class Signs(Computed):
    """Whether the signs of the graph foretell the effects of inhibitions (`tables.sign_agreement`)."""

    kind: Literal["signs"]
    of: tuple[str, ...] = Field(min_length=1)
    """The inhibitions whose effects are compared with the graph."""
    controls: tuple[Control, ...] = ()


class Scale(Computed):
    """One experiment on models of two sizes (`contrasts.py`)."""

    kind: Literal["scale"]
    of: tuple[str, ...] = Field(min_length=1, max_length=1)
    """The one that is compared, which has a control `shuffle`."""


KINDS = (
    Inhibit, Inject, Swap, Exchange, Graph, Faithfulness, Structure, Signs, Census, Classes, Wiring, Connectivity, Reuse, Sharing,
    Contrast, Crossover, Scale,
)  # fmt: skip
LOOKING_AT_PLOTS = (Classes, Wiring, Connectivity, Reuse)


def _known_kind(data: Any) -> Any:
    """Says which kinds there are, before one of them looks at the rest."""
    names = [kind.kind_name() for kind in KINDS]
    if isinstance(data, dict) and "kind" in data and data["kind"] not in names:
        raise ValueError(unknown("kind", data["kind"], names))
    return data


Experiment = Annotated[
    Inhibit | Inject | Swap | Exchange | Graph | Faithfulness | Structure | Signs | Census | Classes | Wiring | Connectivity | Reuse
    | Sharing | Contrast | Crossover | Scale,
    Field(discriminator="kind"),
    BeforeValidator(_known_kind),
]  # fmt: skip
"""One experiment of case.yaml."""
