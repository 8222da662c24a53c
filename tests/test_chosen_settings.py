"""Strength and layer of a perturbation are chosen on development prompts: the best beyond the control, and no more than is needed."""

from dataclasses import replace

import numpy as np
import pytest
from toy_case import (
    INHIBIT,
    SWAP,
    experiment_of,
    members_of,
    prompts_frame,
    replace_experiment,
    toy_context,
    transcoders_of,
)

from biology.evidence.case_context import Setting
from biology.evidence.perturbation import choose, run_experiments


def test_the_planted_best_setting_is_chosen(tiny_model):
    """The best is the largest effect beyond the matched control; the largest effect and the last of the grid are decoys."""
    planted = {
        (0.0, 0): (0.5, 0.4),
        (-1.0, 0): (0.1, 0.4),
        (0.0, 2): (0.4, 0.4),
        (-1.0, 2): (0.0, 0.05),
    }  # effect, match
    seen = []

    def fake(context, name, experiment, places, setting, controls, draws=None):
        seen.append(list(places))
        pair = zip(("effect", "match"), planted[setting.strength, setting.last_layer], strict=True)
        first = [
            {"experiment": name, "outcome": "answer_probability", "arm": arm, "value": value} for arm, value in pair
        ]
        return first + [{**row, "outcome": "activation:own", "value": -9 * setting.strength} for row in first]

    context = toy_context(tiny_model("llama"), {})
    grid = replace_experiment(INHIBIT, strengths=(0.0, -1.0), depths=(0.1, 1.0), direction="decrease")
    kept = []
    assert choose(context, "inhibit", grid, [1, 2, 3], kept, fake) == Setting(-1.0, 0)
    assert seen == [[1, 2, 3]] * 4 and len(kept) == 16
    assert {row["experiment"] for row in kept} == {"inhibit/dev0", "inhibit/dev2"}
    increase = replace_experiment(grid, direction="increase")
    assert choose(context, "inhibit", increase, [1, 2, 3], [], fake) == Setting(0.0, 0)
    assert choose(context, "inhibit", grid, [], [], fake) == Setting(0.0, 0)  # nobody to ask: the first of the grid
    one = replace_experiment(INHIBIT, strengths=(-1.0,), depths=(1.0,))
    assert choose(context, "inhibit", one, [1, 2, 3], [], fake) == Setting(-1.0, 2)


def test_the_weakest_push_that_does_nearly_as_well_is_taken(tiny_model):
    """At 0.96 of the best, M = 2 is weak enough and M = 1 is not; of its layers the one that does most, the lowest of equals."""
    does = {(1.0, 0): 0.3, (2.0, 0): 0.48, (2.0, 1): 0.49, (2.0, 2): 0.49, (4.0, 1): 0.5, (8.0, 2): 0.4}

    def fake(context, name, experiment, places, setting, controls, draws=None):
        effect = does.get((setting.strength, setting.last_layer), 0.0)
        rows = {"effect": 0.2 + effect, "match": 0.2}
        return [
            {"experiment": name, "outcome": experiment.outcomes[0], "arm": arm, "value": value}
            for arm, value in rows.items()
        ]

    context = toy_context(tiny_model("llama"), {})
    grid = replace_experiment(SWAP, strengths=(8.0, 4.0, 2.0, 1.0), depths=(0.1, 0.6, 1.0))
    assert choose(context, "swap", grid, [1, 2, 3], [], fake) == Setting(2.0, 1)
    assert [INHIBIT.push(strength) for strength in (1.0, 0.0, -1.0)] == [0.0, 1.0, 2.0]
    assert [SWAP.push(strength) for strength in (1.0, 2.0)] == [1.0, 2.0]


def planted_context(model, experiments):
    """Feature 0 of the last layer, always active, writes what promotes w60: the answer of every development prompt.

    The answer of the held-out prompts is the token that it promotes least, so that they would choose the opposite.
    """
    transcoders = transcoders_of(model)
    promoted = (model.weights.W_U - model.weights.W_U.mean(0)) * model.weights.ln_final.gain
    W_dec = transcoders.layers[2].W_dec.clone()
    W_dec[0, 0] = 2 * promoted[64] / promoted[64].norm()
    transcoders = replace(transcoders, layers=(*transcoders.layers[:2], replace(transcoders.layers[2], W_dec=W_dec)))
    frame = prompts_frame()
    heldout = frame["split"] == "heldout"
    frame["answer_token"] = np.where(heldout, int((promoted @ promoted[64]).argmin()), 64)
    context = toy_context(model, experiments, transcoders=transcoders, prompts=frame)
    members = members_of(frame, context.cache)
    planted = members[(members["supernode"] == "watched") & (members["feature"] == 0)].assign(supernode="own")
    assert len(planted) == len(frame)
    return replace(context, members=planted)


def test_a_planted_effect_beats_its_control_and_development_prompts_choose(tiny_model):
    push = experiment_of(
        kind="inhibit",
        inhibit="own",
        strengths=(1.0, 6.0),
        depths=(0.4, 1.0),
        outcomes=("answer_logit",),
        dose=True,
    )
    context = planted_context(tiny_model("llama"), {"push": push})
    evidence, _ = run_experiments(context)
    trials = evidence[evidence["experiment"].str.startswith("push/dev")]
    assert set(trials["split"]) == {"dev"} and set(trials["strength"]) == {1.0, 6.0}
    assert set(trials["experiment"]) == {"push/dev1", "push/dev2"}
    final = evidence[evidence["experiment"] == "push"]
    assert set(final["strength"]) == {6.0} and set(final["split"]) == {"dev", "heldout"}
    dose = evidence[evidence["experiment"] == "push/dose"]
    assert set(dose["split"]) == {"heldout"} and set(dose["strength"]) == {1.0, 6.0}
    means = final[final["split"] == "dev"].groupby("arm")["value"].mean()
    assert means["effect"] - means["clean"] > 2 * abs(means["match"] - means["clean"])
    contrary = final[final["split"] == "heldout"].groupby("arm")["value"].mean()
    assert contrary["effect"] < contrary["clean"]  # the held-out prompts would have chosen M = 1
    below = trials[trials["experiment"] == "push/dev1"].groupby("arm")["value"].mean()
    assert below["effect"] == pytest.approx(below["clean"])  # the feature lies above the range that is held
