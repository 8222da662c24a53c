"""An experiment measures what it says: planted effects come out, doing nothing does nothing, controls stand beside."""

import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_case import (
    EVERYONE,
    INHIBIT,
    ITEMS,
    SWAP,
    effects,
    experiment_of,
    prompts_frame,
    replace_experiment,
    toy_context,
)

from biology.cases.measurement import Line
from biology.evidence import case_evidence
from biology.evidence.case_context import Setting
from biology.evidence.case_evidence import perturbed_evidence
from biology.evidence.perturbation import arms, measure, run_experiments
from biology.interventions.feature_edits import Edits, edits
from biology.interventions.protocols import intervene
from biology.models.model import capture
from biology.records import InputError


def softmax(context, place):
    return capture(context.model, context.ids[place]).logits[0, -1].double().softmax(-1)


def test_holding_features_at_their_own_activation_changes_nothing(tiny_model):
    context = toy_context(tiny_model("llama"), {"inhibit": INHIBIT})
    rows = measure(context, "inhibit", INHIBIT, EVERYONE, Setting(1.0, 2), ("match",))
    for place in EVERYONE:
        item, answer = context.prompts["item"][place], context.prompts["answer_token"][place]
        clean = float(softmax(context, place)[answer])
        for arm in ("effect", "match"):
            assert effects(rows, "answer_probability", arm)[item] == pytest.approx(
                [clean] * (1 if arm == "effect" else 3), rel=1e-4
            )
            assert effects(rows, "activation:own", arm)[item] == pytest.approx(
                [1.0] * (1 if arm == "effect" else 3), abs=1e-4
            )
    assert np.allclose([value for (value,) in effects(rows, "activation:watched").values()], 1.0, atol=1e-4)
    ablated = measure(context, "inhibit", INHIBIT, EVERYONE, Setting(0.0, 0), ())
    assert not np.allclose([value for (value,) in effects(ablated, "activation:watched").values()], 1.0, atol=1e-2)


def swapped_by_hand(context, place, donor, strength, last_layer):
    """Edits of a swap from its definition: own members at -M times their activation, the donor's at M times theirs."""
    last = len(context.ids[place]) - 1
    held = {}
    for item, factor in ((place, -strength), (donor, strength)):
        mine = context.members[
            (context.members["item"] == context.prompts["item"][item]) & (context.members["supernode"] == "own")
        ]
        for site in mine.itertuples():
            if site.layer <= last_layer:
                held[0, site.layer, last, site.feature] = factor * site.activation
    return edits([(*site, value) for site, value in held.items()])


@pytest.mark.parametrize("last_layer", [0, 2])
def test_a_swap_is_the_intervention_written_by_hand_and_outcomes_are_their_definitions(tiny_model, last_layer):
    context = toy_context(tiny_model("llama"), {"swap": SWAP})
    some = (1, 2, ITEMS)
    rows = measure(context, "swap", SWAP, some, Setting(2.0, last_layer), ("donor",))
    tokens, relations = context.prompts["answer_token"].to_numpy(), context.prompts["relation"]
    for place in some:
        item = context.prompts["item"][place]
        donor, wrong = (context.place[context.prompts[column][place]] for column in ("donor", "wrong_donor"))
        assert len(context.ids[place]) != len(context.ids[donor])  # the injection moves to this prompt's last position
        for arm, source in (("effect", donor), ("donor", wrong)):
            held = swapped_by_hand(context, place, source, 2.0, last_layer)
            out = intervene(
                context.model, context.transcoders, context.ids, torch.tensor([place]), held, last_layer=last_layer
            )
            logits, clean = out.logits[0, 0].double(), capture(context.model, context.ids[place]).logits[0, -1].double()
            p, own = logits.softmax(-1), tokens[place]
            others = sorted(set(tokens[relations == relations[place]]) - {own})
            expected = {
                "answer_probability": p[own], "donor_probability": p[tokens[donor]], "others_probability": p[others].sum(),
                "donor_top1": float(logits.argmax() == tokens[donor]),
                "level_top1:place": float(logits.argmax() == 4 + int(context.prompts["place"][place][1:])),
                "answer_logit": logits[own] - logits.mean(),
                "advantage": (logits[own] - logits[tokens[donor]]) / (clean[own] - clean[tokens[donor]]),
            }  # fmt: skip
            found = {row["outcome"]: row["value"] for row in rows if (row["item"], row["arm"]) == (item, arm)}
            found.pop("activation:watched")
            assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-3, abs=1e-5)
        assert effects(rows, "answer_logit", "clean")[item] == pytest.approx(
            [float(clean[own] - clean.mean())], rel=1e-4
        )


def test_a_prompt_without_a_donor_has_no_outcome_about_one(tiny_model):
    """It has no answer to compare with; the first token of the vocabulary is not its donor's answer."""
    outcomes = ("answer_probability", "donor_probability", "donor_top1", "advantage")
    inhibit = replace_experiment(INHIBIT, outcomes=outcomes)
    frame = prompts_frame()
    frame.loc[1, "donor"], frame.loc[2, "wrong_donor"] = "", ""
    context = toy_context(tiny_model("llama"), {"inhibit": inhibit}, prompts=frame)
    rows = measure(context, "inhibit", inhibit, EVERYONE, Setting(0.0, 2), ())
    everyone, of_donors = set(frame["item"][1:]), set(frame["item"][2:])
    assert {outcome: set(effects(rows, outcome)) for outcome in outcomes} == {
        "answer_probability": everyone, "donor_probability": of_donors, "donor_top1": of_donors, "advantage": of_donors,
    }  # fmt: skip
    assert set(effects(rows, "advantage", "shuffle")) == of_donors - {"i1"}
    frame.loc[3, "donor"] = "nobody"
    lost = toy_context(tiny_model("llama"), {"inhibit": inhibit}, prompts=frame)
    with pytest.raises(InputError, match="case toy, prompt i2: donor 'nobody' is not a prompt of the case"):
        measure(lost, "inhibit", inhibit, EVERYONE, Setting(0.0, 2), ())


def test_a_swap_may_only_take_its_own_members_out(tiny_model):
    """`inhibit_share` is the share of M at which they are inhibited: by default all of it, at 0 they are at zero."""
    context = toy_context(tiny_model("llama"), {"swap": SWAP})
    plain, same = (
        context.edits(one, [1, 2], Setting(2.0, 2)).edits
        for one in (SWAP, SWAP.model_copy(update={"inhibit_share": 1.0}))
    )
    assert torch.equal(plain.value, same.value)
    taken_out = context.edits(SWAP.model_copy(update={"inhibit_share": 0.0}), [1], Setting(2.0, 2)).edits
    mine = {(site.layer, site.feature) for site in context.sites["i0", "own"]}
    theirs = {(site.layer, site.feature) for site in context.sites[context.prompts["donor"][1], "own"]}
    held = zip(taken_out.layer.tolist(), taken_out.feature.tolist(), taken_out.value.tolist(), strict=True)
    assert {(layer, feature) for layer, feature, value in held if value == 0} == mine - theirs


def test_the_most_probable_token_is_recognised(tiny_model):
    """Top-1 outcomes are 1 where the donor's answer, or the word of the prompt's level, is the most probable token."""
    model, frame = tiny_model("llama"), prompts_frame()
    clean = toy_context(model, {}).cache.logits.argmax(-1).tolist()
    words = {place: token for place, token in enumerate(clean) if token >= 4}
    place = next(place for place in words if place > 0)
    frame.loc[frame["item"] == frame["donor"][place], "answer_token"] = clean[place]
    frame.loc[place, "place"] = f"w{clean[place] - 4}"
    same = experiment_of(kind="inhibit", inhibit="own", strengths=(1.0,), outcomes=("donor_top1", "level_top1:place"))
    context = toy_context(model, {"same": same}, prompts=frame)
    rows = measure(context, "same", same, [place], Setting(1.0, 2), ())
    assert {row["outcome"]: row["value"] for row in rows} == {"donor_top1": 1.0, "level_top1:place": 1.0}


def test_every_control_stands_beside_every_item(tiny_model):
    context = toy_context(tiny_model("llama"), {"swap": SWAP}, draws=3)
    frame = pd.DataFrame(measure(context, "swap", SWAP, EVERYONE, Setting(2.0, 2), SWAP.controls))
    for outcome in ("answer_probability", "donor_top1", "activation:watched"):
        counts = frame[frame["outcome"] == outcome].groupby(["arm", "item"]).size().unstack()
        assert counts.loc["match"].tolist() == [3] * ITEMS
        assert all(counts.loc[arm].tolist() == [1] * ITEMS for arm in ("effect", "donor", "position", "direction"))
    values = {
        arm: np.concatenate(list(effects(frame, "answer_logit", arm).values())) for arm in ("effect", *SWAP.controls)
    }
    for arm in SWAP.controls:  # each control is another perturbation
        repeats = 3 if arm == "match" else 1
        assert not np.isclose(values[arm], np.repeat(values["effect"], repeats), rtol=1e-3).any(), arm


def test_the_same_seed_is_the_same_table(tiny_model):
    """Another seed draws other controls and leaves the effect as it is."""
    both = {"swap": replace_experiment(SWAP, strengths=(1.0, 2.0), controls=("match",), prompts=("shown",))}
    first, again, other = (run_experiments(toy_context(tiny_model("llama"), both, seed=seed)) for seed in (0, 0, 1))
    assert first[0].equals(again[0]) and first[1].equals(again[1])
    one, two = (
        frame[frame["experiment"].str.startswith("swap/dev")].set_index("arm")["value"]
        for frame in (first[0], other[0])
    )
    assert one["effect"].tolist() == two["effect"].tolist()
    assert one["match"].tolist() != two["match"].tolist()


def test_an_experiment_is_about_scored_prompts_that_the_model_answers(tiny_model):
    frame = prompts_frame()
    frame.loc[frame["item"] == "i2", "correct"] = False
    frame.loc[frame["item"] == "i4", "role"] = "select"
    only = replace_experiment(INHIBIT, only={"relation": "r0"})
    context = toy_context(tiny_model("llama"), {}, prompts=frame)
    assert [context.prompts["item"][place] for place in context.items(INHIBIT)] == ["i0", "i1", "i3", "i5"]
    assert [context.prompts["item"][place] for place in context.items(only)] == ["i0", "i1"]


# What is shown, and what is refused ----------------------------------------------------------------------------------


def test_the_panel_shows_named_prompts(tiny_model):
    shown = replace_experiment(SWAP, controls=(), outcomes=("answer_probability",), prompts=("shown",))
    context = toy_context(tiny_model("llama"), {"swap": shown})
    panel = run_experiments(context)[1]
    assert set(panel["item"]) == {"shown"} and set(panel["strength"]) == {2.0}
    activation = panel[panel["kind"] == "activation"].set_index("supernode_or_token")["value"]
    assert set(activation.index) == {"own", "watched"}
    held = swapped_by_hand(context, 0, context.place["i0"], 2.0, 2)
    after = (
        intervene(context.model, context.transcoders, context.ids, torch.tensor([0]), held, last_layer=2)
        .logits[0, 0]
        .double()
    )
    clean, moved = softmax(context, 0), after.softmax(-1)
    tokens = panel[panel["kind"] == "probability"].set_index("supernode_or_token")
    assert 5 <= len(tokens) <= 10
    for token in {*clean.topk(5).indices.tolist(), *moved.topk(5).indices.tolist()}:
        row = tokens.loc[context.model.tokenizer.decode([token])]
        assert row["clean"] == pytest.approx(float(clean[token]), rel=1e-3, abs=1e-6)
        assert row["value"] == pytest.approx(float(moved[token]), rel=1e-3, abs=1e-6)


def test_the_panel_shows_the_mean_of_matched_sets(tiny_model):
    """The same draws, run one by one."""
    shown = replace_experiment(
        SWAP, controls=("match", "position"), outcomes=("answer_probability",), prompts=("shown",)
    )
    context = toy_context(tiny_model("llama"), {"swap": shown})
    panel = run_experiments(context)[1]
    place, setting = context.place["shown"], Setting(2.0, 2)
    matched = arms(context, "swap/shown", shown, [place], setting, ("match",))["match"]
    sums = torch.zeros(context.model.n_vocab, dtype=torch.float64)
    for draw in range(matched.repeats):
        mine = matched.edits.row == draw
        held = Edits(*(getattr(matched.edits, name)[mine] for name in ("row", "layer", "pos", "feature", "value")))
        held = replace(held, row=torch.zeros_like(held.row))
        out = intervene(context.model, context.transcoders, context.ids, torch.tensor([place]), held, last_layer=2)
        sums += out.logits[0, 0].double().softmax(-1)
    tokens = panel[panel["kind"] == "probability"].set_index("supernode_or_token")
    for token in softmax(context, place).topk(5).indices.tolist():
        found = tokens.loc[context.model.tokenizer.decode([token]), "control"]
        assert found == pytest.approx(float(sums[token]) / matched.repeats, rel=1e-3, abs=1e-6)
    without = toy_context(tiny_model("llama"), {"swap": replace_experiment(shown, controls=())})
    assert run_experiments(without)[1]["control"].isna().all()


def test_what_is_missing_is_named(tiny_model):
    frame = prompts_frame()
    frame.loc[frame["item"] == "i1", "donor"] = "nobody"
    with pytest.raises(InputError, match="case toy, prompt i1: donor 'nobody' is not a prompt of the case"):
        run_experiments(toy_context(tiny_model("llama"), {"swap": SWAP}, prompts=frame))


def test_a_swap_may_hold_back_the_old_features_less_and_take_donors_from_another_column(tiny_model):
    frame = prompts_frame()
    frame["other_donor"], frame["wrong_other_donor"] = frame["wrong_donor"], frame["donor"]
    lenient = replace_experiment(SWAP, inhibit_share=0.5, donor="other_donor", outcomes=("answer_probability",))
    context = toy_context(tiny_model("llama"), {"swap": lenient}, prompts=frame)
    push = context.edits(lenient, [1], Setting(2.0, 2)).edits
    wrong = context.edits(lenient, [1], Setting(2.0, 2), wrong=True).edits
    mine = {(site.layer, site.feature): site.activation for site in context.sites["i0", "own"]}
    for column, held in (("wrong_donor", push), ("donor", wrong)):
        donor = {(site.layer, site.feature): site.activation for site in context.sites[frame[column][1], "own"]}
        expected = {key: -1.0 * value for key, value in mine.items()} | {k: 2.0 * v for k, v in donor.items()}
        found = zip(held.layer.tolist(), held.feature.tolist(), held.value.tolist(), strict=True)
        assert {(layer, feature): value for layer, feature, value in found} == pytest.approx(expected)


def test_what_is_lost_is_one_minus_the_share_that_is_left(tiny_model):
    both = replace_experiment(INHIBIT, outcomes=("activation:watched", "lost:watched"))
    rows = measure(toy_context(tiny_model("llama"), {"x": both}), "x", both, EVERYONE, Setting(-2.0, 1), ())
    left, lost = (effects(rows, outcome) for outcome in both.outcomes)
    for item, (value,) in left.items():
        assert lost[item] == pytest.approx([1 - value])


def test_live_attention_is_another_intervention_and_the_one_that_it_says(tiny_model):
    frozen = replace_experiment(INHIBIT, outcomes=("answer_logit",))
    live = replace_experiment(frozen, attention="live")
    context = toy_context(tiny_model("llama"), {"frozen": frozen, "live": live})
    setting = Setting(-3.0, 0)
    found = [effects(measure(context, "x", one, [1], setting, ()), "answer_logit")["i0"][0] for one in (frozen, live)]
    held = context.edits(live, [1], setting).edits
    out = intervene(
        context.model, context.transcoders, context.ids, torch.tensor([1]), held, last_layer=0, live_attention=True
    )
    logits = out.logits[0, 0].double()
    assert found[1] == pytest.approx(float(logits[context.prompts["answer_token"][1]] - logits.mean()), rel=1e-4)
    assert found[0] != pytest.approx(found[1], rel=1e-4)


def test_an_outcome_about_a_level_that_the_prompt_lacks_is_refused(tiny_model):
    frame = prompts_frame().assign(expected="")
    asked = replace_experiment(INHIBIT, outcomes=("level_probability:expected",))
    with pytest.raises(InputError, match="has no level of 'expected', which an outcome needs"):
        measure(toy_context(tiny_model("llama"), {"x": asked}, prompts=frame), "x", asked, [1], Setting(0.0, 1), ())


EDIT = experiment_of(kind="edit", edit="own", only={"relation": "r0"}, strengths=(0.5, -2.0), outcomes=("answer_logit", "answer_lost"))  # fmt: skip
COST = experiment_of(kind="edit", edit="own", as_in="edit", only={"relation": "r1"}, outcomes=("answer_lost",))


def test_an_edit_is_of_the_members_on_development_prompts_whatever_prompt_is_run(tiny_model):
    frame = prompts_frame()
    frame.loc[frame["item"] == "i2", "correct"] = False
    context = toy_context(tiny_model("llama"), {"cost": COST, "edit": EDIT}, prompts=frame)
    members = context.members[context.members["item"].isin(["i0", "i1"]) & (context.members["supernode"] == "own")]
    wanted = sorted({*zip(members["layer"], members["feature"], strict=True)})
    assert context.edited_features(EDIT) == context.edited_features(COST) == wanted
    held = context.edits(COST, [5], Setting(-2.0, 2))
    assert {*zip(held.edits.layer.tolist(), held.edits.feature.tolist(), strict=True)} <= {*wanted}
    assert set(held.pool_prompt.tolist()) == {5} and torch.equal(held.pool_pos, held.edits.pos)
    clean = context.cache.at(held.pool_prompt, held.edits.layer, held.edits.pos, held.edits.feature)
    assert torch.allclose(held.edits.value, -2.0 * clean.double()) and bool((clean > 0).all())
    assert len(set(held.edits.pos.tolist())) > 1  # feature 0 is active at every token


def test_what_an_edit_costs_is_measured_at_the_strength_chosen_for_it(tiny_model):
    """Wherever it stands in the case."""
    for order in (["cost", "edit"], ["edit", "cost"]):
        both = {name: {"edit": EDIT, "cost": COST}[name] for name in order}
        evidence, _ = run_experiments(toy_context(tiny_model("llama"), both))
        chosen = evidence[evidence["experiment"] == "edit"]
        cost = evidence[evidence["experiment"] == "cost"]
        assert set(cost["strength"]) == set(chosen["strength"]) and len(set(cost["strength"])) == 1
        assert set(cost["item"]) == {"i3", "i4", "i5"} and set(cost["arm"]) == {"effect", "match"}


def test_processes_that_share_the_experiments_measure_what_one_does(tiny_model):
    """To the last bit and row: edits with those that take their strength, two of them interleaved; lines; a panel."""
    line = Line(ends="place", family="relation", max_words=6)
    line = experiment_of(
        kind="swap", inhibit="own", inject="own", strengths=(1.0, 2.0), line=line, outcomes=("line_ends_donor",)
    )
    asked = {
        "cost": COST, "swap": replace_experiment(SWAP, prompts=("shown",)), "edit": EDIT,
        "other": replace_experiment(EDIT, prompts=("shown",)), "written": line,
        "other_cost": experiment_of(kind="edit", edit="own", as_in="other", outcomes=("answer_lost",)),
        "cost_again": COST, "last": replace_experiment(INHIBIT, prompts=("shown",)),
    }  # fmt: skip
    context = toy_context(tiny_model("llama"), asked)
    alone, shared = (perturbed_evidence(context, cores) for cores in (1, 3))
    assert [*map(len, alone)] == [*map(len, shared)] and set(alone[0]["experiment"].str.partition("/")[0]) == {*asked}
    for one, other in zip(alone, shared, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_process_that_dies_is_one_line(tiny_model, monkeypatch):
    context = toy_context(tiny_model("llama"), {"swap": SWAP, "edit": EDIT})
    monkeypatch.setattr(case_evidence, "_perturbed", lambda context: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        InputError, match="^case toy: a process that perturbed .* for lack of memory: give it fewer cores$"
    ):
        perturbed_evidence(context, 2)


def test_an_answer_is_lost_where_it_is_no_longer_the_most_probable_token(tiny_model):
    model, frame = tiny_model("llama"), prompts_frame()
    frame["answer_token"] = toy_context(model, {}).cache.logits.argmax(-1).tolist()
    context = toy_context(model, {"edit": EDIT}, prompts=frame)
    lost = {
        strength: effects(measure(context, "edit", EDIT, EVERYONE, Setting(strength, 2), ()), "answer_lost")
        for strength in (1.0, -8.0)
    }
    assert {value for (value,) in lost[1.0].values()} == {0.0}
    held = context.edits(EDIT, EVERYONE, Setting(-8.0, 2)).edits
    prompt = torch.tensor(EVERYONE)
    out = intervene(context.model, context.transcoders, context.ids, prompt, held, protocol="iterative", live_attention=True)  # fmt: skip
    said = out.logits[:, 0].argmax(-1).tolist()
    assert {frame["item"][place]: [float(token != frame["answer_token"][place])] for place, token in zip(EVERYONE, said, strict=True)} == lost[-8.0]  # fmt: skip
    assert 1.0 in {value for (value,) in lost[-8.0].values()}


def test_an_edit_of_nothing_changes_nothing(tiny_model):
    nothing = replace_experiment(EDIT, edit="nobody", strengths=(0.0,))
    context = toy_context(tiny_model("llama"), {"edit": nothing})
    rows = measure(context, "edit", nothing, EVERYONE, Setting(0.0, 2), ("match",))
    for place in EVERYONE:
        item, logits = context.prompts["item"][place], capture(context.model, context.ids[place]).logits[0, -1].double()
        clean = float(logits[context.prompts["answer_token"][place]] - logits.mean())
        for arm in ("effect", "match"):
            assert effects(rows, "answer_logit", arm)[item] == pytest.approx([clean] * len(effects(rows, "answer_logit", arm)[item]), rel=1e-4)  # fmt: skip
