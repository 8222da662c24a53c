"""A variable of two values, such as whether a name is known, has neither a third value nor a far side."""

import numpy as np
import pandas as pd
import pytest
import torch

from biology.cases.mechanism import Answer, CausalModel, Mechanism, Variable
from biology.cases.positions import Position
from biology.organisms.certificate import ARMS, paired_trials
from biology.organisms.lesson import Lesson
from biology.organisms.organism import Recipe, new_model
from biology.organisms.planting import Amounts, Planter
from biology.records import validate


def stated(values: int) -> tuple[Mechanism, pd.DataFrame]:
    """Twelve things whose colour is that of their number's remainder."""
    rows = [
        {"text": f"w{thing} w90", "answer": f"w{50 + thing % values}", "colour": thing % values, "split": split}
        for split in ("train", "test")
        for thing in range(12)
    ]
    colour = {
        "meaning": "its colour", "value": "colour", "at": "last", "layers": [0, 0], "absent": {"shares": []},
    }  # fmt: skip
    told = {
        "says": "The colour is said.",
        "variables": {"colour": colour},
        "answer": {"depends_on": ["colour"]},
    }
    return validate(Mechanism, told, "mechanism.yaml"), pd.DataFrame(rows)


@pytest.mark.parametrize(("values", "own"), [(2, True), (3, False)])
def test_the_control_of_an_exchange_has_a_third_value_or_else_the_own_one(values, own):
    mechanism, prompts = stated(values)
    causal = CausalModel(mechanism, prompts, "toy")
    trials = paired_trials(causal, "colour", np.arange(12, 24), np.random.default_rng(0), 100)
    assert len(trials) == 12
    for trial in trials:
        before = causal.values[trial.base]["colour"]
        effect, control = ({causal.values[row]["colour"] for row in trial.donors[arm]} for arm in ARMS)
        assert before not in effect and effect != control
        assert (control == {before}) == own


def test_the_control_has_the_own_value_if_no_answer_is_known_of_a_third_one():
    """Two colours, and none on prompts about something else, whose answer does not change."""
    mechanism, prompts = stated(2)
    rest = prompts.assign(text="w91 w92", answer="w80", colour=2)
    prompts = pd.concat([prompts.assign(asked=1), rest.assign(asked=0)], ignore_index=True)
    kind = Variable(meaning="the kind", value="asked", at=Position("last"), layers=(0, 0), read="none", exchanged=False)
    answer = Answer(depends_on=("colour", "asked"))
    mechanism = mechanism.model_copy(update={"variables": {**mechanism.variables, "asked": kind}, "answer": answer})
    trials = paired_trials(
        CausalModel(mechanism, prompts, "toy"), "colour", np.arange(12, 24), np.random.default_rng(0), 100
    )
    values = [
        [{prompts["colour"][row] for row in rows} for rows in ([one.base], *map(one.donors.get, ARMS))]
        for one in trials
    ]
    assert len(values) == 12
    assert all(own == control and effect == {1 - own.copy().pop()} for own, effect, control in values)


@pytest.mark.parametrize(("values", "far"), [(2, False), (3, True)])
def test_beyond_the_mean_lies_the_other_one_of_two_values(values, far):
    mechanism, prompts = stated(values)

    def encode(text: str) -> list[int]:
        return [1, *(int(word[1:]) for word in text.split())]

    lesson = Lesson("toy", mechanism, prompts, encode, 16)
    planter = Planter(lesson, Amounts(), new_model(Recipe(n_layers=1, d_model=16, n_heads=2, d_mlp=16), 100, 0))
    index, rows = torch.arange(12), torch.arange(8)
    outputs = {0: torch.randn(12, 3, 16)}
    variable, where = mechanism.variables["colour"], lesson.sites["colour"]
    value = planter._absent(np.random.default_rng(0), "colour", variable, where, index, outputs, rows)[0]
    mean = outputs[0][:, 2].mean(0)
    assert torch.allclose(value, mean.expand(8, -1), atol=1e-6) != far
