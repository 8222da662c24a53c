"""A planted variable can be exchanged and an unplanted one cannot; trainer and certificate, written apart, exchange alike."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

from biology.cases.case import Case
from biology.cases.case_file import Paper
from biology.cases.found_sites import with_found_sites
from biology.cases.mechanism import CausalModel, Mechanism
from biology.cases.rules import SupernodeRule
from biology.config import StatisticsConfig
from biology.interventions.site_exchange import put
from biology.models.model import encode, load_model, run, token_batch
from biology.organisms.certificate import certify
from biology.organisms.lesson import Lesson
from biology.organisms.organism import Recipe, new_model, write_model
from biology.organisms.planting import Amounts, Planter
from biology.organisms.taps import Patch, Tap
from biology.records import InputWarning, validate
from biology.supernodes.case_prompts import CasePrompts
from biology.supernodes.planted_sites import planted_parts
from biology.supernodes.site_parts import site_parts
from biology.supernodes.site_search import exchanges, find_sites
from biology.transcoders.activations import cache_features
from biology.transcoders.neurons import neuron_set
from biology.transcoders.transcoder_set import shuffled

WIDTH, LAYERS = 32, 3
PLACES, CITIES, RELATIONS = 6, 24, 4
MECHANISM = {
    "says": "A city becomes its place at its own token, and the last token looks the answer up.",
    "variables": {
        "place": {
            "meaning": "its place", "value": "place", "at": "factor:city", "layers": [0, 1], "read": "unembedding",
            "across": ["city"], "absent": {"shares": ["relation"]},
        },
        "relation": {
            "meaning": "what is asked", "value": "relation", "at": "last", "layers": [0, 1], "subspace": 8,
            "across": ["place"], "absent": {"says": "place"},
        },
    },
    "answer": {"depends_on": ["place", "relation"]},
}  # fmt: skip


def prompts() -> pd.DataFrame:
    """Facts about made-up cities: w0 to w23 lie in w30 to w35; a quarter of what can be asked is never taught."""
    rows = []
    for city, relation in itertools.product(range(CITIES), range(RELATIONS)):
        place = city % PLACES
        split = ("train", "train", "train", "test")[(city // PLACES + relation) % 4]
        rows.append(
            {
                "text": f"w{40 + relation} w90 w{city} w91", "answer": f"w{50 + place * RELATIONS + relation}",
                "city": f"w{city}", "place": f"w{30 + place}", "relation": f"w{40 + relation}", "split": split,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of the words w0 to w95."""
    from conftest import write_tokenizer
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def grown(words, folder, planted: bool):
    """A model taught the facts, with its mechanism or without, as a directory; its lesson and planter."""
    torch.manual_seed(0)
    mechanism = validate(Mechanism, MECHANISM, "mechanism.yaml")
    model = new_model(Recipe(n_layers=LAYERS, d_model=WIDTH, n_heads=4, d_mlp=64), 100, 0)
    lesson = Lesson("toy", mechanism, prompts(), lambda text: words.encode(text).ids, WIDTH)
    planter = Planter(lesson, Amounts(plain=48, exchanged=32, absent=8, begin=0 if planted else 10**6), model)
    parameters = [*model.parameters(), *planter.probes.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.3)
    for step in range(400 if planted else 200):
        losses = planter.loss(np.random.default_rng([0, step]), step)
        if not planted:
            losses = {"answer": losses["answer"]}
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    write_model(model, words, folder)
    return load_model(folder), lesson


@pytest.fixture(scope="module")
def planted(words, tmp_path_factory):
    return grown(words, tmp_path_factory.mktemp("planted"), planted=True)


@pytest.fixture(scope="module")
def plain(words, tmp_path_factory):
    return grown(words, tmp_path_factory.mktemp("plain"), planted=False)


def measured(model, lesson):
    table = certify(model, "toy", CausalModel(lesson.mechanism, prompts(), "toy"))
    return table.set_index(["variable", "what", "arm"])["accuracy"]


def test_a_planted_variable_is_exchanged_on_prompts_that_were_never_taught(planted):
    found = measured(*planted)
    for variable in ("place", "relation"):
        for what in ("mlp", "frozen"):
            assert found[variable, what, "effect"] >= 0.95 and found[variable, what, "control"] <= 0.05
    assert found["answer", "", "effect"] >= 0.95


def test_without_planting_the_same_prompts_are_learnt_and_nothing_can_be_exchanged(plain):
    model, lesson = plain
    taught = [row for row in range(len(lesson.ids)) if lesson.causal.rows[row]["split"] == "train"]
    ids = torch.stack([lesson.ids[row] for row in taught])
    assert (run(model, ids, positions=-1)[0][:, 0].argmax(-1) == lesson.answer[taught]).float().mean() > 0.95
    found = measured(model, lesson)
    assert found["place", "mlp", "effect"] < 0.5 and found["relation", "mlp", "effect"] < 0.5


@pytest.mark.parametrize("name", ["place", "relation"])
def test_trainer_and_certificate_exchange_alike(planted, name):
    """Two programs for one intervention: hooks on the network that is trained, edits of the network that is analysed."""
    model, lesson = planted
    site, base, donor = lesson.sites[name], torch.tensor([0, 5, 30]), torch.tensor([17, 44, 61])
    network = LlamaForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    tap = Tap(network)
    rows = torch.arange(3)
    with torch.no_grad():
        outputs = tap.run(lesson.ids[donor]).outputs
        value = {layer: outputs[layer][rows, site.position[donor]] for layer in site.layers}
        hidden = tap.run(lesson.ids[base], [Patch(site, rows, site.position[base], value)]).hidden
        trained = network.lm_head(hidden[:, -1])
    names = [f"blocks.{layer}.hook_mlp_out" for layer in site.layers]
    texts = [encode(model, lesson.causal.rows[row]["text"]) for row in donor.tolist()]
    _, seen = run(model, token_batch(model, texts), reads=names)
    edits = [
        (
            hook,
            lambda tensor, hook=hook: put(
                site.position[base], seen[hook][rows, site.position[donor]], site.basis, tensor
            ),
        )
        for hook in names
    ]
    own = [encode(model, lesson.causal.rows[row]["text"]) for row in base.tolist()]
    analysed, _ = run(model, token_batch(model, own), edits=edits, positions=-1)
    torch.testing.assert_close(analysed[:, 0], trained, atol=2e-4, rtol=2e-4)
    plainly, _ = run(model, token_batch(model, own), positions=-1)
    assert (plainly[:, 0] - trained).abs().max() > 0.1  # and it is an intervention


def test_frozen_patterns_are_those_of_the_clean_pass_whatever_is_exchanged(planted):
    """With the patterns of its own clean pass a prompt is what it was; what is exchanged then moves values alone."""
    model, lesson = planted
    network = LlamaForCausalLM.from_pretrained(model.path, dtype=torch.float32, attn_implementation="eager")
    tap, ids, site = Tap(network), lesson.ids[[0, 5, 30]], lesson.sites["place"]
    rows = torch.arange(3)
    with torch.no_grad():
        clean = tap.run(ids)
        same = tap.run(ids, (), clean.patterns)
        torch.testing.assert_close(same.hidden, clean.hidden)
        value = {layer: -clean.outputs[layer][rows, site.position[[0, 5, 30]]] for layer in site.layers}
        patch = Patch(site, rows, site.position[[0, 5, 30]], value)
        live, frozen = tap.run(ids, [patch]), tap.run(ids, [patch], clean.patterns)
    moved = [part for part in live.patterns if not torch.allclose(live.patterns[part], clean.patterns[part])]
    assert moved and all(torch.equal(frozen.patterns[part], clean.patterns[part]) for part in moved)
    assert not torch.allclose(frozen.hidden, live.hidden) and not torch.allclose(frozen.hidden, clean.hidden)


def test_subspaces_of_one_place_are_orthogonal_and_depend_on_names_alone():
    from biology.organisms.variable_sites import basis

    variables = {
        name: {"meaning": "some value", "value": "x", "at": "last", "layers": [0, 0], "subspace": size}
        for name, size in (("one", 4), ("two", 6), ("three", 2))
    }
    mechanism = validate(
        Mechanism, {"says": "three at once", "variables": variables, "answer": {"value": "one"}}, "mechanism.yaml"
    )
    bases = [basis("toy", mechanism, name, 16) for name in variables]
    assert [b.shape[1] for b in bases if b is not None] == [4, 6, 2]
    together = torch.cat([b for b in bases if b is not None], 1)
    torch.testing.assert_close(together.T @ together, torch.eye(12), atol=1e-5, rtol=0)
    again = basis("toy", mechanism, "two", 16)
    assert again is not None and bases[1] is not None and torch.equal(again, bases[1])


def table_of(lesson) -> pd.DataFrame:
    """Table `prompts` of what a grown model was taught (which selects) and what it was not (which is scored)."""
    frame = prompts()
    return frame.assign(
        item=[f"i{row}" for row in range(len(frame))], role=np.where(frame["split"] == "train", "select", "score"), split="dev",
        cluster=frame["place"], correct=True, answer_token=lesson.answer.tolist(),
    )  # fmt: skip


def case_of(**rules) -> Case:
    made = {name: SupernodeRule.model_validate({"at": "found", **rule}) for name, rule in rules.items()}
    return Case(name="toy", folder=Path("toy"), paper=Paper(section="", url=""), prompts={}, supernodes=made)


PLACE = {"factor": "place", "across": ["city"], "given": ["relation"], "among": ["last", "3", "1"]}
RELATION = {"factor": "relation", "across": ["place"], "given": ["place"], "among": ["3", "1", "last"]}
CITY = "3"  # its token, in each prompt


def test_a_planted_variable_is_found_where_it_was_planted(planted):
    """By a search that knows no site; the rules that say `found` then say the planted position and layers."""
    model, lesson = planted
    case = case_of(place=PLACE, relation=RELATION)
    tried = find_sites(CasePrompts(model, case, table_of(lesson)), 0)
    found = with_found_sites(case, tried).supernodes
    assert str(int(lesson.sites["place"].position[0])) == found["place"].at == CITY and found["relation"].at == "last"
    for name, rule in found.items():
        best = tried[(tried["supernode"] == name) & tried["chosen"]]
        assert rule.layers is not None and rule.layers[0] == 0 and rule.layers[1] <= lesson.sites[name].layers[-1]
        assert len(best) == 1 and best["accuracy"].iat[0] >= 0.9 and best["n"].iat[0] >= CITIES
        assert rule.model_copy(update={"at": "found", "layers": None}) == case.supernodes[name].model_copy(
            update={"among": (), "given": ()}
        )  # all else is as it was
    assert find_sites(CasePrompts(model, case, table_of(lesson)), 0).equals(tried)
    backwards = find_sites(CasePrompts(model, case_of(relation=RELATION, place=PLACE), table_of(lesson)), 0)
    for name in found:  # whichever other rules there are
        assert (
            backwards[backwards["supernode"] == name]
            .reset_index(drop=True)
            .equals(tried[tried["supernode"] == name].reset_index(drop=True))
        )


def test_where_nothing_is_planted_nothing_is_found_and_the_first_position_is_taken(plain):
    model, lesson = plain
    case = case_of(place=PLACE | {"among": ["1", CITY]})
    with pytest.warns(
        InputWarning, match=r"supernodes.place: nothing is found \(at most \d+% of 24 exchanges of the place"
    ):
        tried = find_sites(CasePrompts(model, case, table_of(lesson)), 0)
    assert not tried["chosen"].any() and list(dict.fromkeys(tried["position"])) == ["1", CITY]
    rule = with_found_sites(case, tried).supernodes["place"]
    assert (rule.at, rule.layers) == ("1", None)
    with pytest.warns(InputWarning, match="no development prompt has an exchange of the place"):
        held = find_sites(CasePrompts(model, case, table_of(lesson).assign(split="heldout")), 0)
    assert (
        held["accuracy"].isna().all()
        and set(held["n"]) == {0}
        and with_found_sites(case, held).supernodes["place"] == rule
    )


def test_what_is_exchanged_is_of_development_prompts_that_hold_every_position(planted):
    _, lesson = planted
    frame = table_of(lesson)
    frame.loc[frame["place"] == "w31", "split"] = "heldout"
    shown = frame.iloc[[0]].assign(item="shown", role="show", split="registered", answer_token=7)
    frame = pd.concat([shown, frame], ignore_index=True)
    asked = exchanges(frame, "place", ["city"], ["relation"], np.random.default_rng(0))
    used = frame.iloc[sorted({row for one in asked for row in (one.base, *one.donors)})]
    assert set(used["split"]) == {"dev"} and "w31" not in set(used["place"])
    for one in asked:
        base, donors = frame.loc[one.base], frame.loc[list(one.donors)]
        assert base["role"] == "score" and set(donors["role"]) == {"select"} and donors["place"].nunique() == 1
        assert donors["place"].iat[0] != base["place"] and not (donors["city"] == base["city"]).any()
        same = frame[(frame["place"] == donors["place"].iat[0]) & (frame["relation"] == base["relation"])]
        assert set(same.loc[same["item"] != "shown", "answer_token"]) == {one.answer}


@pytest.mark.parametrize(("attention", "kept"), [("decides", True), ("decides", False), ("either", True)])
def test_where_attention_decides_kept_patterns_keep_the_answer(words, monkeypatch, attention, kept):
    """What is taught of an exchange: the prompt's own answer if patterns are kept and decide, and else that of the causal model."""
    monkeypatch.setattr("biology.organisms.planting.FROZEN", float(kept))
    mechanism = validate(Mechanism, {**MECHANISM, "attention": attention}, "mechanism.yaml")
    lesson = Lesson("toy", mechanism, prompts(), lambda text: words.encode(text).ids, WIDTH)
    model = new_model(Recipe(n_layers=LAYERS, d_model=WIDTH, n_heads=4, d_mlp=64), 100, 0)
    planter, taught, bases = Planter(lesson, Amounts(plain=48, exchanged=32, absent=8), model), [], []
    measure, exchange = torch.nn.functional.cross_entropy, planter._exchanges

    def watched(scores, target):
        taught.append(target)
        return measure(scores, target)

    def noted(rng, base, *more):
        found = exchange(rng, base, *more)
        bases.append((lesson.answer[torch.from_numpy(base)][torch.from_numpy(found.rows)], found.answers))
        return found

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    monkeypatch.setattr(planter, "_exchanges", noted)
    planter.loss(np.random.default_rng(0), 0)
    exchanged = [target for target in taught if target.dtype == torch.long][-2:]
    for target, (own, other) in zip(exchanged, bases, strict=True):
        assert not own.equal(other)
        assert target.equal(own if attention == "decides" and kept else other)
    absent = taught[-1]
    assert bool((absent.amax(1) == 1).all()) == (attention == "decides" and kept)


def test_words_that_mean_nothing_are_dealt_anew_to_every_prompt_with_its_answers(words, monkeypatch):
    mechanism = validate(Mechanism, {**MECHANISM, "renamed": ["city", "answer"]}, "mechanism.yaml")
    lesson = Lesson("toy", mechanism, prompts(), lambda text: words.encode(text).ids, WIDTH)
    made = lesson.dealt(np.random.default_rng(0), 5)
    fixed = torch.ones(made.shape[1], dtype=torch.bool)
    for tokens in lesson.renamed:
        fixed[tokens] = False
        assert all(sorted(row[tokens].tolist()) == tokens.tolist() for row in made)
    assert made[:, fixed].equal(torch.arange(made.shape[1])[fixed].expand(5, -1)) and not made[0].equal(made[1])

    model = new_model(Recipe(n_layers=LAYERS, d_model=WIDTH, n_heads=4, d_mlp=64), 100, 0)
    planter, seen, taught, dealt = Planter(lesson, Amounts(plain=48, exchanged=32, absent=8), model), [], [], []
    run_, measure, deal = planter.tap.run, torch.nn.functional.cross_entropy, lesson.dealt

    def ran(ids, *more):
        seen.append(ids)
        return run_(ids, *more)

    def watched(scores, target):
        taught.append(target)
        return measure(scores, target)

    monkeypatch.setattr(planter.tap, "run", ran)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    monkeypatch.setattr(lesson, "dealt", lambda rng, count: dealt.append(deal(rng, count)) or dealt[-1])
    planter.loss(np.random.default_rng(0), 0)
    back, (clean, patched) = dealt[0].argsort(1), seen
    plain = back.gather(1, clean)
    rows = [next(n for n, one in enumerate(lesson.ids) if one.equal(ids)) for ids in plain]  # each is a prompt, renamed
    assert back[torch.arange(len(rows)), taught[0]].equal(lesson.answer[rows])
    whole = {tuple(ids) for ids in clean.tolist()}
    assert all(tuple(ids) in whole for ids in patched.tolist())  # as the prompt itself was renamed


def test_exchanges_are_taught_with_values_that_change_the_answer_where_a_variable_says_so(words, monkeypatch):
    place = {**MECHANISM["variables"]["place"], "changing": True}
    variables = {**MECHANISM["variables"], "place": place}
    lesson = Lesson(
        "toy", validate(Mechanism, {**MECHANISM, "variables": variables}, "mechanism.yaml"), prompts(),
        lambda text: words.encode(text).ids, WIDTH,
    )  # fmt: skip
    model = new_model(Recipe(n_layers=LAYERS, d_model=WIDTH, n_heads=4, d_mlp=64), 100, 0)
    planter, base = Planter(lesson, Amounts(), model), lesson.taught[:40]
    own = {row: str(lesson.causal.rows[row]["answer"]) for row in base}
    after, only = lesson.causal.after, lesson.levels["place"][1]

    def of_one_value(row, changes):  # any other value leaves the answer as it was
        return after(row, changes) if changes["place"] == only else own[row]

    monkeypatch.setattr(lesson.causal, "after", of_one_value)
    donors = lesson.taught_by_level("place")
    made = planter._exchanges(np.random.default_rng(0), base, "place", donors, 40)
    for row, answer in zip(base[made.rows], made.answers, strict=True):
        there = lesson.causal.values[row]["place"] == only
        assert (answer != lesson.answer[row]) == (not there)


def test_of_a_planted_site_the_part_that_was_broken_is_found_at_fault(planted):
    """All neurons are a dictionary without an error. It keeps the variable, a rule that takes few of them does not, and a dictionary
    whose weights are shuffled loses it."""
    model, lesson = planted
    # selecting prompts of either split; of those that are scored half develop
    held = table_of(lesson).assign(split=lambda frame: np.where(frame.index % 8 < 4, "dev", "heldout"))
    ids = [encode(model, text) for text in held["text"]]
    neurons = neuron_set(model, k=None)
    every = {"precision": 0, "recall": 0, "false_positive_rate": 1, "split": "any"}
    rules = {"all": PLACE | every, "few": PLACE | every | {"max_members": 2}}
    case = case_of(**rules)
    sites = find_sites(CasePrompts(model, case, held), 0)

    def parts(transcoders):
        found = site_parts(
            model,
            transcoders,
            case,
            held,
            cache_features(model, transcoders, ids),
            sites,
            StatisticsConfig(bootstrap=100),
        )
        return found.set_index(["supernode", "arm"])

    whole = parts(neurons)
    accuracy = whole["accuracy"]
    for name in rules:
        assert accuracy[name, "mlp"] >= 0.95 and accuracy[name, "nothing"] == accuracy[name, "error"] == 0
        assert accuracy[name, "mlp"] == accuracy[name, "features"]  # there is no error
        assert set(whole.loc[name, "position"]) == {CITY} and whole.loc[name, "n"].min() >= 8
    assert accuracy["all", "members"] == accuracy["all", "features"] and accuracy["all", "others"] == 0
    assert whole.loc[("all", "members"), "number_share"] > 0.9 and whole.loc[("few", "members"), "number_share"] < 0.1
    assert accuracy["few", "members"] < 0.5 < accuracy["few", "others"]
    assert whole["fault"].groupby("supernode").first().to_dict() == {"all": "none", "few": "spread"}
    broken = parts(shuffled(neurons, 0))
    assert set(broken["fault"]) == {"dictionary"} and broken["accuracy"]["all", "features"] < 0.5
    assert broken["accuracy"]["all", "mlp"] == accuracy["all", "mlp"]


def test_a_site_that_is_fixed_is_taken_apart_where_its_variable_was_planted(planted):
    """As above, with the exchanges of the certificate: at the city's token, in the layers that the mechanism states."""
    model, lesson = planted
    frame = table_of(lesson).assign(split=lambda frame: np.where(frame["role"] == "score", "heldout", "dev"))
    place = {"at": CITY, "factor": "place", "across": ["city"]}
    every = {"precision": 0, "recall": 0, "false_positive_rate": 1, "split": "any"}
    case = case_of(
        place=place | every, few=place | every | {"max_members": 2}, elsewhere=place | every | {"at": "last"},
        relation={"at": "last", "factor": "relation"} | every,
    )  # fmt: skip
    named = {name: variable | {"supernode": name} for name, variable in MECHANISM["variables"].items()}
    told = MECHANISM | {"variables": named}
    mechanism, neurons = validate(Mechanism, told, "mechanism.yaml"), neuron_set(model, k=None)
    ids = [encode(model, text) for text in frame["text"]]

    def parts(transcoders):
        cache = cache_features(model, transcoders, ids)
        settings = StatisticsConfig(bootstrap=100)
        return planted_parts(model, transcoders, case, mechanism, prompts(), frame, cache, settings)

    whole = parts(neurons)
    assert whole.groupby("supernode", sort=False)["fault"].first().to_dict() == {
        "place": "none", "few": "spread", "relation": "none",
    }  # fmt: skip
    whole = whole.set_index(["supernode", "arm"])
    certified = measured(model, lesson)
    for name in ("place", "relation"):
        assert whole["accuracy"][name, "mlp_found"] == pytest.approx(certified[name, "mlp", "effect"], abs=0.05)
        assert whole["accuracy"][name, "nothing"] == whole["accuracy"][name, "error"] == 0
        assert whole.loc[(name, "mlp"), "layers"] == "0-1" and whole.loc[(name, "mlp"), "n"] >= 12
    assert set(parts(shuffled(neurons, 0))["fault"]) == {"dictionary"}
    frame["correct"] = False  # held-out prompts that the model does not answer are not asked
    assert set(parts(neurons)["fault"]) == {"not measured"}


def test_what_was_not_found_or_cannot_be_asked_has_no_numbers(planted):
    model, lesson = planted
    frame = table_of(lesson)
    case = case_of(place=PLACE)
    ids = [encode(model, text) for text in frame["text"]]
    neurons = neuron_set(model)
    rest = (neurons, case, frame, cache_features(model, neurons, ids))
    sites = find_sites(CasePrompts(model, case, frame), 0)
    for changed, word in (
        (sites, "not measured"),
        (sites.assign(chosen=False), "not found"),
    ):  # there is no held-out prompt
        (row,) = site_parts(model, *rest, changed, StatisticsConfig(bootstrap=100)).to_dict("records")
        assert (row["fault"], row["arm"], row["n"]) == (word, "mlp", 0) and np.isnan(row["accuracy"])
