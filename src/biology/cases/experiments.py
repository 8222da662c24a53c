"""Kinds of experiment: the keys that each needs and allows. A key that a kind does not know is an error.

Those that change the model, on features (`Perturbation`) or by an `Exchange`, are in `perturbations.py`. `Graph`, `Structure`, `Census`,
`Classes`, `Wiring`, `Connectivity`, `Reuse` and `Sharing` only observe. `Attention` and `Faithfulness` observe and also perturb. `Contrast`, `Crossover`,
`Separation`, `Signs` and `Scale` are computed from other experiments. The outcomes of all kinds are defined in `measures.py`, the controls in
`arms.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from biology.arms import Control
from biology.cases.measurement import LAST, Measurement
from biology.cases.measures import DRAWN, SIDES
from biology.cases.perturbations import Edit, Exchange, Inhibit, Inject, Swap
from biology.cases.positions import Position
from biology.grammar import unknown


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


class Attention(Measurement):
    """Takes the scores apart by which heads attend from one token to another, and changes them before softmax (`score_evidence.py`)."""

    kind: Literal["attention"]
    key: Position
    """The token that is attended to, as in a supernode's `at`."""
    query: Position = LAST
    """The token that attends, as in a supernode's `at`."""
    of: tuple[str, ...] = ()
    """Supernodes on the side of the key."""
    by: tuple[str, ...] = ()
    """Supernodes on the side of the query."""
    heads: float = Field(default=0.1, gt=0, le=1)
    """The share of all heads that is looked at: those whose attention there the answers to development prompts lose most by."""
    pairs: float = Field(default=0.05, gt=0, le=0.5)
    """The share of all pairs of nodes, the largest of a score, that leaves it."""
    strength: float = Field(default=-1.0, lt=1)
    """The multiple of their activation at which the features of `of` stand in the keys."""
    undrawn: tuple[str, ...] = ()
    """Further supernodes of which control `match` draws no features: what the answer needs as well."""
    controls: tuple[Control, ...] = (Control("match"),)

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.of, *self.by)))

    @model_validator(mode="after")
    def _of_supernodes(self) -> Attention:
        for one in self.outcomes:
            for key in (key for key in SIDES if one in SIDES[key] and not getattr(self, key)):
                raise ValueError(f"outcome '{one}' is about supernodes: name them in `{key}`")
        if self.undrawn and not ("match" in self.controls and {*self.outcomes} & {*DRAWN}):
            raise ValueError(
                "`undrawn` is read by nothing here: control `match` draws features for outcomes " + ", ".join(DRAWN)
            )
        for name in self.undrawn:
            if name in (*self.of, *self.by):
                raise ValueError(f"`undrawn` names '{name}', whose features are not drawn as it is")
        return self

    def needs(self, outcome: str) -> tuple[str, ...]:
        """The supernodes that an outcome rests on."""
        return tuple(dict.fromkeys(name for key in SIDES if outcome in SIDES[key] for name in getattr(self, key)))

    def names(self, outcomes: Collection[str] | None = None) -> set[str]:
        asked = self.outcomes if outcomes is None else outcomes
        return {name for one in asked for name in (*self.needs(one), *(self.undrawn if one in DRAWN else ()))}


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
    """How much of a supernode on the plain prompt is also there on this prompt (`operand_tables.py`)."""

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
    Inhibit, Inject, Swap, Edit, Exchange, Graph, Faithfulness, Structure, Signs, Census, Attention, Classes, Wiring, Connectivity, Reuse, Sharing,
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
    Inhibit | Inject | Swap | Edit | Exchange | Graph | Faithfulness | Structure | Signs | Census | Attention | Classes | Wiring
    | Connectivity | Reuse | Sharing | Contrast | Crossover | Separation | Scale,
    Field(discriminator="kind"),
    BeforeValidator(_known_kind),
]  # fmt: skip
"""One experiment of case.yaml."""
