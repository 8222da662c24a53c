"""The lock: a registered claim, and what it rests on, changes by amendment only."""

import json
import shutil
from pathlib import Path

import pytest
from copied_case import HEADER, copied, edit

from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import UNREGISTERED, load_claims
from biology.cases.mechanism import mechanism_path, twins_of
from biology.corpora.twins import prompts_of
from biology.records import InputError
from biology.verdicts.registration import (
    check_lock,
    check_mechanism,
    read_lock,
    refreshed_lock,
    registered,
    registration_of,
)

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def root(tmp_path):
    return copied(tmp_path)


def lock(root):
    (root / "experiments/claims.lock").write_text(refreshed_lock(root).text())


def hash_of(root):
    return read_lock(root).claims["mine"]["template-1"].hash


def test_all_claims_of_the_repository_are_registered_as_they_stand():
    check_lock(ROOT)
    for name in discover_cases(ROOT):
        claims = load_claims(ROOT, name)
        assert registered(ROOT, name, claims) == claims
        for twin in ("", *twins_of(ROOT, name)) if mechanism_path(ROOT, name).is_file() else ():
            check_mechanism(ROOT, name, twin)


@pytest.mark.parametrize("data", [b"[]", b"\xff", b'{"version": 2, "claims": {"mine": 3}}', b"{", b"null"])
def test_a_damaged_lock_is_named(root, data):
    (root / "experiments/claims.lock").write_bytes(data)
    with pytest.raises(InputError, match=r"claims\.lock") as error:
        check_lock(root)
    assert "\n" not in str(error.value)


def test_a_lock_that_covers_other_things_accuses_nobody(root):
    """What the first version wrote: a hash of the claim, and one of what it was thought to rest on."""
    old = {"mine": {"template-1": "0" * 64}, "mine/rules": {"template-1": "1" * 64}}
    for found in (old, {"version": 3}):
        (root / "experiments/claims.lock").write_text(json.dumps(found))
        with pytest.raises(
            InputError, match=r"claims\.lock was written by another version .* run `biology lock`"
        ) as error:
            check_lock(root)
        assert "template-1" not in str(error.value) and "\n" not in str(error.value)


def test_the_hash_of_a_claim_does_not_depend_on_layout_or_amendments(root):
    lock(root)
    before = hash_of(root)
    edit(root, "claims.yaml", "minimum: 0.3  ", "minimum: 0.30\n  ")
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {amendment(before)}")
    lock(root)
    assert hash_of(root) == before


def amendment(previous):
    return f'{{date: 2026-02-01, reason: "the unit was wrong", previous: "{previous}"}}'


def test_a_claim_is_asked_of_no_model_until_it_is_registered(root):
    claims = load_claims(root, "mine")
    check_lock(root)
    (silent,) = registered(root, "mine", claims)
    assert silent.untestable == UNREGISTERED and not silent.parts and silent.title == claims[0].title
    lock(root)
    check_lock(root)
    assert registered(root, "mine", claims) == claims
    shutil.copytree(ROOT / "experiments/_template", root / "experiments/yours")
    theirs = root / "experiments/yours/claims.yaml"
    theirs.write_text(theirs.read_text().replace("template-1:", "template-2:"))
    check_lock(root)
    assert registered(root, "mine", claims) == claims and registered(root, "yours", claims) == (silent,)


def test_a_registered_claim_changes_only_by_amendment(root):
    lock(root)
    before = read_lock(root)
    edit(root, "claims.yaml", "minimum: 0.3", "minimum: 0.1")
    for check in (check_lock, refreshed_lock):
        with pytest.raises(InputError, match="'template-1' of case 'mine': the claim was changed without amendment"):
            check(root)
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {amendment(hash_of(root))}")
    with pytest.raises(InputError, match="amended but not locked"):
        check_lock(root)
    lock(root)
    check_lock(root)
    assert read_lock(root).news(before) == ["mine: template-1 amended (the claim)"]
    edit(root, "claims.yaml", "minimum: 0.1", "minimum: 0.05")
    shutil.copytree(
        ROOT / "experiments/_template", root / "experiments/yours"
    )  # a new claim does not hide a changed one
    with pytest.raises(InputError, match="changed without amendment"):
        check_lock(root)


MECHANISM = """
says: a city becomes its place, and the answer follows
variables:
  place: {meaning: its place, value: city, at: "factor:city", layers: [0, 1], across: [city]}
answer: {depends_on: [place]}
truth:
  template-1: {truth: true, because: the place is a variable}
"""


def test_a_mechanism_is_planted_as_it_was_registered_and_changes_only_by_amendment(root):
    path = root / "experiments/mine/mechanism.yaml"
    path.write_text(MECHANISM)
    check_lock(root)  # it concerns no verdict
    with pytest.raises(InputError, match="mechanism of case 'mine' is not registered as it is"):
        check_mechanism(root, "mine")
    before = read_lock(root)
    lock(root)
    check_mechanism(root, "mine")
    assert "mine: mechanism registered" in read_lock(root).news(before)
    edit(root, "mechanism.yaml", "a city becomes its place, and the answer follows", "said in other words")
    edit(root, "mechanism.yaml", "the place is a variable", "said in other words")
    check_lock(root)
    for old, new in (("[0, 1]", "[0, 2]"), ("truth: true", "truth: false"), ("value: city", "value: state")):
        path.write_text(MECHANISM.replace(old, new))
        for check in (check_lock, refreshed_lock):
            with pytest.raises(InputError, match="mechanism of case 'mine' was changed without amendment"):
                check(root)
        with pytest.raises(InputError, match="mechanism of case 'mine'"):
            check_mechanism(root, "mine")
    path.write_text(path.read_text() + f"amended: [{amendment(read_lock(root).mechanisms['mine'])}]\n")
    with pytest.raises(InputError, match="amended but not locked"):
        check_lock(root)
    lock(root)
    check_lock(root)
    check_mechanism(root, "mine")
    (root / "experiments/mine/twins").mkdir()
    (root / "experiments/mine/twins/lazy.yaml").write_text(MECHANISM.replace("template-1", "template-9"))
    with pytest.raises(InputError, match=r"twins/lazy\.yaml: truth: unknown claim 'template-9'"):
        check_lock(root)
    (root / "experiments/mine/twins/lazy.yaml").write_text(MECHANISM)
    with pytest.raises(InputError, match="mechanism of case 'mine/lazy' is not registered"):
        check_mechanism(root, "mine", "lazy")
    lock(root)
    check_mechanism(root, "mine", "lazy")
    path.unlink()
    with pytest.raises(InputError, match="'mine' is registered but gone"):
        check_lock(root)


CHANGES = [
    ("strengths: [0, -1, -2]", "strengths: [0, -1, -4]", "experiment 'inhibit_texas' was"),
    ("# prompt_set: prompts.csv", "prompt_set: prompts.csv", "the prompt set was"),
    ("containing Oakland is", "holding Oakland is", "prompt 'oakland' was"),
    ("city: Oakland, state", "city: containing Oakland, state", "prompt 'oakland' was"),
    ("    silent_on: [oakland]\n", "", "prompt 'oakland', supernode 'texas' were"),
]


@pytest.mark.parametrize(("model", "told"), [
    ("elegnas", "template-1.amended.seen_on: unknown model 'elegnas'. Did you mean 'elegans'?"),
    ("elegans", ""),
    ("gemma-2-2b", ""),  # of the Hub, so without an entry
    ("left", ""),  # judged once, and no longer in config.yaml
])  # fmt: skip
def test_a_new_amendment_names_models_that_there_are(root, model, told):
    """Old ones may name models of whoever wrote them, of which a later config.yaml knows nothing."""
    lock(root)
    (root / "config.yaml").write_text("models: {elegans: {path: here, transcoders: there}}\n")
    (root / "reports/left").mkdir(parents=True)
    (root / "reports/left/verdicts.csv").write_text("claim\n")
    seen = amendment(hash_of(root)).replace("}", f", seen_on: [{model}]}}")
    edit(root, "claims.yaml", "minimum: 0.3", "minimum: 0.1")
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {seen}")
    if told:
        with pytest.raises(InputError) as refused:
            refreshed_lock(root)
        assert told in str(refused.value) and "\n" not in str(refused.value)
        return
    lock(root)
    (root / "config.yaml").write_text("models: {mine: {path: here, transcoders: there}}\n")
    shutil.rmtree(root / "reports")
    check_lock(root)


def test_an_expected_verdict_is_of_a_model_that_has_an_entry(root):
    """It may be grown later; what is misspelt would never be compared with anything."""
    (root / "config.yaml").write_text("models: {elegans: {path: here, transcoders: there}}\n")
    edit(root, "claims.yaml", "minimum_n: 256", "minimum_n: 256\n  expected: {elegnas: not replicated}")
    with pytest.raises(InputError, match=r"template-1\.expected: unknown model 'elegnas'\. Did you mean 'elegans'\?"):
        refreshed_lock(root)
    edit(root, "claims.yaml", "elegnas: not", "elegans: not")
    lock(root)


def test_what_a_claim_rests_on_changes_only_by_amendment(root):
    """Strengths, rules, the prompts that a rule names, scored prompts; what is only shown, or judged by nobody, may change."""
    lock(root)
    (root / "experiments/mine/prompts.csv").write_text(HEADER + "a,b e,c,d,heldout,score,e\nf,g e,c,h,dev,score,e\n")
    for old, new in (
        ("    prompts: [dallas] ", "    prompts: [oakland] "),
        ("    outcomes: [answer_probability]", "    outcomes: [answer_probability, answer_logit]"),
        ("    promotes: ", "    top: 3\n    promotes: "),  # of a supernode that the experiment does not hold
        ("figures: [", "figures: [fidelity, "),
    ):
        edit(root, "case.yaml", old, new)
        check_lock(root)
    shutil.copy(root / "experiments/mine/case.yaml", root / "before.yaml")
    for old, new, what in CHANGES:
        edit(root, "case.yaml", old, new)
        with pytest.raises(InputError, match=f"'template-1' of case 'mine': {what} changed without amendment"):
            check_lock(root)
        shutil.copy(root / "before.yaml", root / "experiments/mine/case.yaml")
        check_lock(root)
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {amendment(hash_of(root))}")
    edit(root, "case.yaml", *CHANGES[0][:2])
    with pytest.raises(InputError, match="amended but not locked"):
        check_lock(root)
    lock(root)
    check_lock(root)
    edit(root, "case.yaml", "strengths: [0, -1, -4]", "strengths: [0, -1, -8]")  # once, not for ever
    with pytest.raises(InputError, match="experiment 'inhibit_texas' was changed without"):
        check_lock(root)


def test_prompts_for_other_models_are_registered_and_change_nothing_that_was(root):
    (root / "experiments/mine/prompts.csv").write_text(HEADER + "a,b e,c,d,heldout,score,e\nf,g e,c,h,dev,score,e\n")
    edit(root, "case.yaml", "# prompt_set: prompts.csv", "prompt_set: prompts.csv")
    lock(root)
    before = read_lock(root)
    (root / "experiments/mine/more.csv").write_text(HEADER + "a,b f,c,d,heldout,score,f\n")
    edit(root, "case.yaml", "prompt_set: prompts.csv", "prompt_set: prompts.csv\nprompt_sets: {natural: more.csv}")
    with pytest.raises(
        InputError, match="'template-1' of case 'mine' is not registered on all prompt sets: run `biology lock`"
    ):
        check_lock(root)
    lock(root)
    check_lock(root)
    assert read_lock(root).news(before) == ["mine: template-1 registered on further prompts"]
    (root / "experiments/mine/more.csv").write_text(HEADER + "a,b g,c,d,heldout,score,g\n")
    with pytest.raises(
        InputError, match="'template-1' of case 'mine': the prompt set 'natural' was changed without amendment"
    ):
        check_lock(root)


@pytest.mark.parametrize(("old", "new", "told"), [
    ("seen_on: [elegans]", "seen_on: []", "`registered` or an entry of `amended` was changed or removed"),
    ("  registered: 2026", "  registered: 2025", "`registered` or an entry of `amended` was changed or removed"),
    ("reason: it was", "reason: it surely was", ""),  # words may be mended
])  # fmt: skip
def test_what_is_on_record_of_a_claim_stays(root, old, new, told):
    """Whoever drops a model from `seen_on` would have an exploratory verdict called a registered one."""
    (root / "config.yaml").write_text("models: {elegans: {path: here, transcoders: there}}\n")
    lock(root)
    seen = amendment(hash_of(root)).replace("}", ", seen_on: [elegans]}").replace("reason: ", "reason: it was ")
    edit(root, "claims.yaml", "minimum: 0.3", "minimum: 0.1")
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {seen}")
    lock(root)
    edit(root, "claims.yaml", old, new)
    if told:
        with pytest.raises(InputError, match="amended but not locked|was changed or removed"):
            check_lock(root)
        with pytest.raises(InputError, match=told):
            refreshed_lock(root)
    else:
        check_lock(root)


def test_an_amendment_names_what_was_registered(root):
    lock(root)
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {amendment('ab' * 32)}")
    with pytest.raises(InputError, match="names the hash abababababab"):
        refreshed_lock(root)


def test_two_cases_share_no_claim(root):
    shutil.copytree(root / "experiments/mine", root / "experiments/yours")
    with pytest.raises(InputError, match="template-1: case 'mine' has a claim of this name"):
        refreshed_lock(root)


def test_a_registered_claim_cannot_be_removed(root):
    lock(root)
    edit(root, "claims.yaml", "template-1:", "template-2:")
    with pytest.raises(InputError, match="'template-1' of case 'mine' is registered but gone"):
        check_lock(root)


def test_the_lock_binds_the_prompts_of_an_extended_corpus(monkeypatch):
    """Of the claims that ask for them, and of no other."""
    loaded = load_case(ROOT, "addition")
    claims = load_claims(ROOT, "addition", loaded)
    before = registration_of(loaded, claims)
    other = prompts_of("addition", "brackets").assign(donor="")
    monkeypatch.setattr("biology.verdicts.claim_basis.prompts_of", lambda *_: other)
    after = registration_of(loaded, claims)
    assert {claim: before[claim].changed(after[claim]) for claim in before if before[claim] != after[claim]} == {
        "add-14": ["the prompt set of the corpus brackets"]
    }
