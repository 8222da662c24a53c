"""Control arms: what is measured beside an effect, so that its size can be judged. Each arm is specified here and
nowhere else, and so are the names of columns that hold donor prompts (`is_donor`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from biology.grammar import Parsed, unknown


@dataclass(frozen=True)
class Arm:
    """One kind of control."""

    brief: str
    """Its name in a legend."""
    words: str
    """What a page calls it."""
    beside: str
    """The phrase that compares an effect with it."""
    says: str
    """What is done, in one sentence."""
    kinds: tuple[str, ...] = ()
    """Kinds of experiment that may list it. An arm that no kind lists is added automatically
    (`measures.Form.beside`)."""
    where: Mapping[str, str] = field(default_factory=dict)
    """What the arm is for each kind of experiment, or outcome that brings it along, where one sentence does not say it for all."""


CONTROLS: dict[str, Arm] = {
    "match": Arm(
        "matched random features",
        "matched random features",
        "with matched random features",
        "other features, drawn at random, active in the same layers, as many and pushed as hard, take the place of the members",
        ("inhibit", "inject", "swap", "edit", "graph", "structure", "sharing", "attention"),
    ),
    "donor": Arm(
        "wrong donor",
        "the wrong donor",
        "with the wrong donor",
        "what is injected, or compared with, comes from the wrong donor (column `wrong_<donor>`, `wrong_plain`)",
        ("inject", "swap", "reuse"),
    ),
    "position": Arm(
        "wrong position",
        "the same features at the wrong token",
        "with the same features at the wrong token",
        "the same is done, or looked for, at another token (`control_position`, `sites`)",
        ("inhibit", "inject", "swap", "exchange", "census"),
    ),
    "shuffle": Arm(
        "shuffled",
        "the same with the pairing shuffled",
        "with what belongs together shuffled",
        "what belongs together is exchanged at random: labels, pairs of prompts, or the weights of the transcoders",
        ("faithfulness", "structure", "classes", "wiring", "connectivity", "sharing", "census", "signs"),
        {
            "faithfulness": "the influences are permuted among the features",
            "structure": "for `abstract_middle` the layers are permuted among the features; for `closed` and `coherent` the sources are "
            "exchanged among the edges between two cells (layer and token)",
            "classes": "the transcoders have shuffled weights (elsewhere that is `random`); for `decimal_share` and `dozenal_share` as "
            "many neighbouring frequencies are asked for instead",
            "wiring": "the operand plots are permuted among the targets",
            "connectivity": "the families are permuted among the features of each layer",
            "sharing": "an unrelated prompt of the same language takes the place of the translation",
            "census": "the features looked for are those of another cluster's level; for `probe` it is the chance of guessing the level "
            "from the cluster alone; for `follows` the activity of every other level",
            "signs": "the value that is expected when the signs of a prompt are permuted among its pairs",
            "advantage": "the answer of the wrong donor takes the place of the prompt's own",
            "auc_prompts": "one half, which is expected of prompts that do not differ",
        },
    ),
    "direction": Arm(
        "random direction",
        "random directions of the same size",
        "with random directions of the same size",
        "random vectors of the same length are added to the stream where the members write",
        ("inhibit", "inject", "swap"),
    ),
    "clean": Arm("clean", "no perturbation", "with nothing done", "nothing is done to the prompt"),
    "random": Arm(
        "shuffled transcoders",
        "what the same rule finds with transcoders of shuffled weights",
        "with transcoders of shuffled weights",
        "transcoders with shuffled weights, among whose features the same rule finds its members, take the place of the set",
        ("census", "reuse", "faithfulness"),
    ),
    "smaller": Arm(
        "smaller model",
        "the smaller model",
        "in the smaller model",
        "the same is measured on the smaller of two models",
    ),
}
"""Control arms of the `evidence` table, in the order of the figures. The only other arm is `effect`."""


class Control(Parsed):
    """The name of a control arm."""

    def __new__(cls, text: str) -> Control:
        if text not in CONTROLS:
            raise ValueError(unknown("control", text, CONTROLS))
        return super().__new__(cls, text)

    @classmethod
    def forms(cls) -> list[dict[str, Any]]:
        return [{"const": name, "description": arm.says} for name, arm in CONTROLS.items()]

    @property
    def arm(self) -> Arm:
        return CONTROLS[self]


def controls_of(kind: str) -> list[str]:
    """The controls that experiments of a kind may list."""
    return [name for name, arm in CONTROLS.items() if kind in arm.kinds]


def is_donor(column: str) -> bool:
    """Whether a column holds donor prompts: `donor` or `<what>_donor`. Wrong donors are in `wrong_<column>`."""
    return (column == "donor" or column.endswith("_donor")) and not column.startswith(("wrong_", "correct_with_"))
