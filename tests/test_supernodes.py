"""Rules find planted features and no decoys, on the prompts that they may see and on no others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_transcoders
from toy_case import experiment_of

from biology.cases.case import Case
from biology.cases.case_file import Paper, Prompt
from biology.cases.rules import SupernodeRule
from biology.records import InputError
from biology.supernodes import promotion
from biology.supernodes.case_prompts import position
from biology.supernodes.grouping import Finder, group, grouped_items
from biology.transcoders.activations import FeatureCache
from biology.transcoders.neurons import neuron_set

LAYER, LAST = 1, 3  # features are planted in this layer; every prompt is <bos> and three words
DEV_SELECT, HELD_SELECT = 10, 6  # prompts of each place


def prompts_frame() -> pd.DataFrame:
    """Two places: prompts that select (development and held-out ones, folds alternating), and two that are scored."""
    rows = []
    for p, place in enumerate(("texas", "california")):
        for i in range(DEV_SELECT + HELD_SELECT + 2):
            scored = i >= DEV_SELECT + HELD_SELECT
            rows.append(
                {
                    "item": f"{place}{i}", "text": f"w{10 + i} w{30 + p} w40", "answer": f"w{50 + i % 4 + 10 * p}", "top1": "",
                    "answer_token": 54 + i % 4 + 10 * p, "probability": 1.0, "correct": True, "cluster": place,
                    "split": "dev" if i < DEV_SELECT else "heldout", "role": "score" if scored else "select",
                    "place": place, "city": f"w{10 + i}", "fold": str(i % 2),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


FRAME = prompts_frame()
TEXAS, CALIFORNIA = (FRAME["place"] == place for place in ("texas", "california"))
SELECT, SCORE, DEV = FRAME["role"] == "select", FRAME["role"] == "score", FRAME["split"] == "dev"
NUMBER = FRAME["item"].str.extract(r"(\d+)")[0].astype(int)
FOLD = FRAME["fold"] == "0"


def fires(planted: dict[int, pd.Series], pos: int = LAST, layer: int = LAYER) -> list[tuple[int, int, int, int, float]]:
    """Cache entries of features, each active on the prompts of a mask (and on everything scored)."""
    return [
        (int(prompt), layer, pos, feature, 1.0 + feature + prompt / 100)
        for feature, mask in planted.items()
        for prompt in np.flatnonzero(mask | SCORE)
    ]


def cache_of(entries: list[tuple[int, int, int, int, float]], n_prompts: int = len(FRAME)) -> FeatureCache:
    ordered = sorted(entries)
    columns = torch.tensor([entry[:4] for entry in ordered], dtype=torch.int32).reshape(-1, 4)
    counts = torch.bincount(columns[:, 0], minlength=n_prompts)
    return FeatureCache(
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        lengths=torch.full((n_prompts,), LAST + 1), ids=torch.zeros(n_prompts * (LAST + 1), dtype=torch.long), layer=columns[:, 1], pos=columns[:, 2], feature=columns[:, 3],
        value=torch.tensor([entry[4] for entry in ordered]), logits=torch.zeros(n_prompts, 100),
        shape=torch.tensor([n_prompts, 3, LAST + 1, 48]),
    )  # fmt: skip


def finder_of(model, rules: dict[str, SupernodeRule], entries, *, transcoders=None, named: tuple[str, ...] = ()):
    prompts = {item: Prompt(text="w1", answer="w2") for item in named}
    case = Case(name="toy", folder=Path("toy"), paper=Paper(section="", url=""), prompts=prompts, supernodes=rules)
    return Finder(model, case, FRAME, transcoders or random_transcoders(model), cache_of(entries))


def chosen(finder: Finder, rule: SupernodeRule, item: str) -> dict[int, float]:
    """Features of the planted layer that a rule selects for a prompt, with their shares."""
    found = finder.select(rule, str(rule), FRAME[FRAME["item"] == item].iloc[0].to_dict())
    assert set(found.layer.tolist()) <= {LAYER}
    return dict(zip(found.feature.tolist(), found.share.tolist(), strict=True))


def test_a_planted_feature_is_found_and_decoys_are_not(tiny_model):
    rule = SupernodeRule(factor="place", precision=0.8, recall=0.7, split="dev")
    planted = {
        7: TEXAS,
        8: TEXAS & (NUMBER < 7),  # exactly the recall that is asked for
        10: TEXAS & (NUMBER < 6),  # below recall
        11: TEXAS | CALIFORNIA,  # fires everywhere
        12: CALIFORNIA,  # another level
        13: TEXAS | (CALIFORNIA & (NUMBER < 2)),  # 10 of 12: precise enough
        14: TEXAS | (CALIFORNIA & (NUMBER < 3)),  # 10 of 13: not precise enough
    }
    elsewhere = fires({15: TEXAS}, pos=1)
    finder = finder_of(tiny_model("llama"), {"texas": rule}, fires(planted) + elsewhere)
    assert chosen(finder, rule, "texas16") == {7: 1.0, 8: 0.7, 13: 1.0}
    assert chosen(finder, rule, "california16") == {12: 1.0}
    there = SupernodeRule(at="1", factor="place", precision=0.8, recall=0.7)
    assert chosen(finder_of(tiny_model("llama"), {"there": there}, elsewhere), there, "texas16") == {15: 1.0}


def test_where_a_rule_looks_is_part_of_what_it_finds(tiny_model):
    """One rule at two positions, asked under one name, as operand plots are."""
    rule = SupernodeRule(factor="place", precision=0.8, recall=0.7)
    finder = finder_of(tiny_model("llama"), {"texas": rule}, fires({7: TEXAS}) + fires({15: TEXAS}, pos=1))
    row = FRAME[FRAME["item"] == "texas16"].iloc[0].to_dict()
    for at, feature in (("last", 7), ("1", 15)):
        assert finder.select(rule.model_copy(update={"at": at}), "texas", row).feature.tolist() == [feature]


def test_development_prompts_decide_where_the_rule_says_so(tiny_model):
    planted = {
        20: TEXAS & DEV,
        21: TEXAS & ~DEV,
        22: TEXAS | (CALIFORNIA & ~DEV),  # would be imprecise, were held-out prompts seen
    }
    dev = SupernodeRule(factor="place", precision=0.9, recall=0.9, split="dev")
    every = SupernodeRule(factor="place", precision=0.6, recall=0.3, split="any")
    finder = finder_of(tiny_model("llama"), {"dev": dev, "any": every}, fires(planted))
    assert chosen(finder, dev, "texas16") == {20: 1.0, 22: 1.0}
    assert chosen(finder, every, "texas16") == {20: 10 / 16, 21: 6 / 16, 22: 1.0}


def test_apart_excludes_prompts_that_share_the_column(tiny_model):
    """For a prompt of fold 0 only prompts of fold 1 select, and the reverse."""
    planted = {
        30: TEXAS & FOLD,  # fires on its own fold only
        31: TEXAS & ~FOLD,
        32: TEXAS | (CALIFORNIA & FOLD),  # imprecise, but only on the fold that is left out
    }
    apart = SupernodeRule(factor="place", split="any", across=("fold",), precision=0.9, recall=0.9)
    finder = finder_of(tiny_model("llama"), {"apart": apart}, fires(planted))
    assert chosen(finder, apart, "texas16") == {31: 1.0, 32: 1.0}
    assert chosen(finder, apart, "texas17") == {30: 1.0}
    together = apart.model_copy(update={"across": ()})
    assert chosen(finder_of(tiny_model("llama"), {"together": together}, fires(planted)), together, "texas16") == {}


def test_the_fewest_features_that_make_up_a_share_of_a_level_s_difference(tiny_model):
    """What counts is how much more a feature writes on the level's prompts, whether or not it tells the level by itself."""
    model = tiny_model("llama")
    means = {  # activation on prompts of Texas and of California, length of the decoder vector; the difference in what is written
        1: (5.0, 3.0, 2.0),  # 4: fires everywhere
        2: (1.0, 0.0, 3.0),  # 3: would be a member by precision and recall
        3: (2.0, 1.5, 4.0),  # 2
        4: (9.0, 9.0, 9.0),  # 0
        5: (1.0, 0.0, 1.0),  # 1
        6: (0.0, 7.0, 1.0),  # of California
    }
    entries = [
        (prompt, LAYER, LAST, feature, value)
        for feature, (texas, california, _) in means.items()
        for prompt in range(len(FRAME))
        if (value := texas if TEXAS[prompt] else california)
    ]
    transcoders = random_transcoders(model)
    W_dec = transcoders.layers[LAYER].W_dec.clone()
    for feature, (*_, length) in means.items():
        W_dec[feature] *= length / W_dec[feature].norm()
    layers = list(transcoders.layers)
    layers[LAYER] = replace(layers[LAYER], W_dec=W_dec)
    transcoders = replace(transcoders, layers=tuple(layers))

    def members(item: str, **rule) -> set[int]:
        rule = SupernodeRule(factor="place", split="any", **rule)
        return set(chosen(finder_of(model, {"rule": rule}, entries, transcoders=transcoders), rule, item))

    shares = {0.1: {1}, 0.39: {1}, 0.41: {1, 2}, 0.69: {1, 2}, 0.71: {1, 2, 3}, 0.95: {1, 2, 3, 5}, 1.0: {1, 2, 3, 5}}
    assert {share: members("texas16", difference_share=share) for share in shares} == shares
    assert members("california16", difference_share=1.0) == {6}
    assert members("texas16", difference_share=1.0, layers=(2, 2)) == set()
    assert members("texas16", precision=0.9) == {2, 5}


def test_levels_that_share_a_column_are_told_apart_within_it(tiny_model):
    """What all answers of Texas share says Texas, and not which answer it is."""
    model, answers = tiny_model("llama"), NUMBER % 4
    masks = {7: TEXAS, 8: TEXAS & (answers == 0), 9: TEXAS & (answers <= 1)}
    entries = [
        (int(prompt), LAYER, LAST, feature, 1.0) for feature, mask in masks.items() for prompt in np.flatnonzero(mask)
    ]
    by_difference = SupernodeRule(factor="answer", split="any", difference_share=1.0)
    by_firing = SupernodeRule(factor="answer", split="any", precision=0, false_positive_rate=0.2)
    for rule, everywhere, within in ((by_difference, {7, 8, 9}, {8, 9}), (by_firing, {8, 9}, {8})):
        for stated, members in ((rule, everywhere), (rule.model_copy(update={"within": "place"}), within)):
            assert set(chosen(finder_of(model, {"rule": stated}, entries), stated, "texas16")) == members
    alone = by_difference.model_copy(update={"within": "item"})  # nobody shares it: compared with all
    assert set(chosen(finder_of(model, {"rule": alone}, entries), alone, "texas16")) == {7, 8, 9}


def test_the_prompts_that_are_scored_never_select(tiny_model):
    rule = SupernodeRule(factor="place", split="any", precision=0.9, recall=0.9)
    finder = finder_of(tiny_model("llama"), {"rule": rule}, fires({7: TEXAS & SELECT, 8: TEXAS & SCORE}))
    assert chosen(finder, rule, "texas16") == {7: 1.0}


def planted_decoders(model, promoted: dict[int, int]):
    """Random transcoders whose given features write the direction that promotes a token most."""
    transcoders = random_transcoders(model)
    W_dec = transcoders.layers[LAYER].W_dec.clone()
    unembed = (model.weights.W_U - model.weights.W_U.mean(0)) * model.weights.ln_final.gain
    for feature, token in promoted.items():
        W_dec[feature, 0] = unembed[token]
    layers = list(transcoders.layers)
    layers[LAYER] = replace(layers[LAYER], W_dec=W_dec)
    return replace(transcoders, layers=tuple(layers))


def test_promoted_tokens_are_those_whose_logits_a_decoder_raises_most(tiny_model):
    model = tiny_model("llama")
    transcoders = planted_decoders(model, {5: 42})
    finder = finder_of(model, {"rule": SupernodeRule(promotes=("w1",), top=3)}, [], transcoders=transcoders)
    for layer, weights in enumerate(transcoders.layers):
        for feature in range(0, 48, 5):
            effect = (weights.W_dec[feature, 0] * model.weights.ln_final.gain) @ model.weights.W_U.T
            assert finder.promoted[layer * 48 + feature].tolist() == effect.topk(3).indices.tolist()
    assert int(finder.promoted[LAYER * 48 + 5, 0]) == 42


@pytest.mark.parametrize("large", [False, True])
def test_promotes_and_spares(tiny_model, large):
    """Also where only those features are looked at that are asked for, as on a large model."""
    model = replace(tiny_model("llama"))
    vars(model)["large"] = large
    answer = {row["item"]: row["answer_token"] for row in FRAME.to_dict("records")}
    own, mate, foreign = answer["texas16"], answer["texas17"], answer["california16"]
    assert len({own, mate, foreign}) == 3
    transcoders = planted_decoders(model, {1: own, 2: mate, 3: foreign, 4: 90})
    entries = fires(dict.fromkeys((1, 2, 3, 4), TEXAS))
    level = {"factor": "place", "precision": 0.9, "recall": 0.9}

    def found(**fields) -> set[int]:
        rule = SupernodeRule(**fields)
        return set(chosen(finder_of(model, {"rule": rule}, entries, transcoders=transcoders), rule, "texas16"))

    assert found(**level) == {1, 2, 3, 4}
    level |= {"top": 1}
    assert found(**level, promotes=("answer",)) == {1}
    assert found(**level, promotes=("w86", "answers")) == {1, 2, 4}
    assert found(**level, not_promotes=("answer",)) == {2, 3, 4}
    assert found(**level, not_promotes=("answers",)) == {3, 4}  # all answers of the level, whoever's they are
    assert found(promotes=("answer",), top=1) == {1}  # without a factor: of what is active on the prompt itself


@pytest.mark.parametrize("at_once", [promotion.AT_ONCE, 8])
def test_what_neurons_promote_and_suppress_is_found_from_both_sides(tiny_model, monkeypatch, at_once):
    """Where one half of the features is worked out from the other, and where each is looked at by itself."""
    model = tiny_model("llama")
    neurons = neuron_set(model, k=4)
    half = neurons.n_features[0] // 2
    assert at_once > half or 2 * at_once <= half
    monkeypatch.setattr(promotion, "AT_ONCE", at_once)
    up, down = promotion.promoted_and_suppressed(model, neurons, 3)
    for layer, weights in enumerate(neurons.layers):
        effects = model.weights.logits(
            weights.decoders(torch.arange(2 * half)).sum(1), demeaned=True, gain=model.weights.ln_final.gain
        )
        assert torch.equal(up[layer], effects.topk(3, dim=1).indices)
        assert torch.equal(down[layer], effects.topk(3, dim=1, largest=False).indices)
        assert torch.equal(up[layer][half:], down[layer][:half])
        some = torch.tensor([0, half + 1, 2 * half - 1])
        assert torch.equal(promotion.promoted_by(model, weights, some, 3), up[layer][some])
    assert all(torch.equal(a, b) for a, b in zip(up, promotion.promoted(model, neurons, 3), strict=True))


def test_what_a_member_may_promote_is_asked_of_every_prompt_and_not_of_the_first_of_its_level(tiny_model):
    """Prompts of one level and fold share what fires there, and nothing of what follows from their answers."""
    model = tiny_model("llama")
    answer = {row["item"]: row["answer_token"] for row in FRAME.to_dict("records")}
    transcoders = planted_decoders(model, {1: answer["texas16"], 2: answer["texas17"], 3: 90})
    entries = fires(dict.fromkeys((1, 2, 3), TEXAS))
    level = {"factor": "place", "precision": 0.9, "recall": 0.9, "top": 1}
    for limits, expected in (
        ({"not_promotes": ("answer",)}, ({2, 3}, {1, 3})),
        ({"promotes": ("answer",)}, ({1}, {2})),
    ):
        rule = SupernodeRule(**level, **limits)
        finder = finder_of(model, {"rule": rule}, entries, transcoders=transcoders)
        assert tuple(set(chosen(finder, rule, item)) for item in ("texas16", "texas17")) == expected


def test_rules_on_named_prompts_layers_and_the_most(tiny_model):
    model = tiny_model("llama")
    only = {item: FRAME["item"] == item for item in ("texas0", "california0")}
    entries = fires({1: only["texas0"], 2: only["california0"], 3: only["texas0"] | only["california0"]})
    named = tuple(only)
    rule = SupernodeRule(active_on=("texas0",), silent_on=("california0",))
    assert set(chosen(finder_of(model, {"r": rule}, entries, named=named), rule, "texas16")) == {1}
    deep = SupernodeRule(layers=(2, 2))
    assert chosen(finder_of(model, {"r": deep}, entries), deep, "texas16") == {}
    assert len(chosen(finder_of(model, {"r": deep}, entries), SupernodeRule(layers=(0, 1)), "texas16")) == 3
    entries = fires({4: TEXAS & (NUMBER < 8), 5: TEXAS, 6: TEXAS & (NUMBER < 9)})
    best = SupernodeRule(factor="place", recall=0.5, max_members=2)
    assert chosen(finder_of(model, {"r": best}, entries), best, "texas16") == {5: 1.0, 6: 0.9}


def test_the_table_lists_members_where_they_are_active(tiny_model):
    model = tiny_model("llama")
    rules = {
        "place": SupernodeRule(factor="place"),
        "city": SupernodeRule(at="factor:city", promotes=("answer",), top=100),
    }
    silent = FRAME["item"] == "texas17"
    entries = [entry for entry in fires({7: TEXAS, 12: CALIFORNIA}) if not (entry[0] == np.flatnonzero(silent)[0])]
    entries += fires({9: TEXAS & SCORE}, pos=1)
    case = finder_of(model, rules, []).case
    members = group(model, random_transcoders(model), case, FRAME, cache_of(entries))
    assert set(members["item"]) == set(FRAME.loc[SCORE, "item"])  # nothing for prompts that only select
    place = members[members["supernode"] == "place"].set_index("item")
    assert place["feature"].to_dict() == {"texas16": 7, "california16": 12, "california17": 12}
    for item, row in place.iterrows():
        value = next(e[4] for e in entries if FRAME["item"][e[0]] == item and e[3] == row["feature"])
        assert row["activation"] == pytest.approx(value) and (row["layer"], row["pos"], row["share"]) == (
            LAYER,
            LAST,
            1.0,
        )
    city = members[members["supernode"] == "city"]
    assert set(city["feature"]) == {9} and set(city["pos"]) == {1}


def test_named_prompts_and_donors_get_members_too(tiny_model):
    frame = FRAME.assign(donor="", wrong_donor="")
    frame.loc[frame["item"] == "texas16", ["donor", "wrong_donor"]] = ["california3", "california4"]
    frame.loc[frame["item"] == "texas1", "donor"] = "california5"  # of a prompt that selects: not needed
    case = finder_of(tiny_model("llama"), {}, [], named=("texas2",)).case
    wanted = set(frame.loc[grouped_items(case, frame), "item"])
    assert wanted == {"texas16", "texas17", "california16", "california17", "california3", "california4", "texas2"}


@pytest.mark.parametrize(
    ("at", "expected"),
    [("last", 5), ("0", 0), ("2", 2), ("-2", 4), ("token:w3", 3), ("factor:city", 2), ("factor:word", 1)],
)
def test_positions(tiny_model, at, expected):
    """A name of two words ends at its last."""
    factors = {"city": "w1 w2", "word": "w1"}
    assert position(tiny_model("llama"), "w1 w2 w3 w4 w5", 6, at, factors, "") == expected


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("token:w9", "case toy, prompt dallas: position 'token:w9' needs 'w9' exactly once in the prompt 'w1 w2 w1'"),
        ("token:w1", "needs 'w1' exactly once"),
        ("factor:city", "needs 'w7' exactly once"),
        ("factor:town", "case toy, prompt dallas: position 'factor:town'"),
        ("4", "case toy, prompt dallas: position '4'"),
        ("-5", "position '-5'"),
    ],
)
def test_positions_that_are_not_there(tiny_model, at, message):
    with pytest.raises(InputError) as caught:
        position(tiny_model("llama"), "w1 w2 w1", 4, at, {"city": "w7"}, "case toy, prompt dallas")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "rule",
    [SupernodeRule(factor="plaice"), SupernodeRule(factor="place", across=("flod",)), SupernodeRule(at="factor:cty")],
)
def test_a_factor_that_no_prompt_has_is_refused(tiny_model, rule):
    """It would else be a supernode without members, and a claim that fails without a reason."""
    model = tiny_model("llama")
    case = finder_of(model, {"bridge": rule}, []).case
    with pytest.raises(InputError, match="case toy: supernodes.bridge: .*(plaice|flod|cty).*Known: .*place"):
        group(model, random_transcoders(model), case, FRAME, cache_of([]))


def test_a_rule_that_only_other_prompts_need_is_left_out(tiny_model):
    """A model that is not asked about states needs no column that only those prompts have; one that is asked does."""
    model = tiny_model("llama")
    rules = {"bridge": SupernodeRule(factor="state"), "place": SupernodeRule(factor="place")}
    case = finder_of(model, rules, []).case
    asked = experiment_of(kind="inhibit", inhibit="bridge", only={"place": "oregon"}, outcomes=("answer_top1",))
    found = group(
        model, random_transcoders(model), case.model_copy(update={"experiments": {"ask": asked}}), FRAME,
        cache_of(fires({7: TEXAS})),
    )  # fmt: skip
    assert set(found["supernode"]) == {"place"}
    here = case.model_copy(update={"experiments": {"ask": asked.model_copy(update={"only": {"place": "texas"}})}})
    with pytest.raises(InputError, match="no prompt has the factor 'state'"):
        group(model, random_transcoders(model), here, FRAME, cache_of([]))
