"""The lock: a registered claim, and what it rests on, changes by amendment only; the lock of the shipped cases covers what is read."""

import copy
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from copied_case import HEADER, copied, edit
from pydantic import TypeAdapter, ValidationError
from readings import READINGS

from biology.cases import case_file, claim_file, rules
from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import UNREGISTERED, load_claims
from biology.cases.experiments import Experiment
from biology.cases.items import Item
from biology.cases.mechanism import mechanism_path, twins_of
from biology.cases.positions import FOUND
from biology.corpora.twins import prompts_of
from biology.records import InputError, read_yaml
from biology.verdicts.claim_basis import digest, prompt_sets, rests_on
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
    edit(root, "claims.yaml", "minimum_n: 256", f"minimum_n: 256\n  amended: {amendment('0' * 64)}")
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
    (root / "experiments/mine/prompts.csv").write_text(HEADER + "a,b e,c,d,heldout,score,e\n")
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
    (root / "experiments/mine/prompts.csv").write_text(HEADER + "a,b e,c,d,heldout,score,e\n")
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


# ------------------------------------------------------------------------------- the shipped cases, against what is stated by hand


class Reading:
    """A line of `READINGS`: what a claim reads of which experiments, and its supernodes."""

    def __init__(self, text: str):
        *experiments, nodes = text.strip().split(";") if text.strip() else [""]
        self.nodes, self.words, self.arms = nodes.split(), {}, {}
        for stated in experiments:
            name, *words = stated.partition("|")[0].split()
            self.words[name], self.arms[name] = words, stated.partition("|")[2].split()

    def reads(self, section: str, label: str, key: str, rest: list, listed: list) -> bool:
        """Whether the claim reads what stands under a key of a record; `rest` is where, and `listed` all that stands there."""
        if label not in {"supernodes": self.nodes, "experiments": self.words}.get(section, ()):
            return False
        if section == "supernodes":
            return key != "label"
        words, arms = self.words[label], self.arms[label]
        decided = any(word.startswith("<") for word in words)
        if key in ("outcomes", "controls"):
            read = {word.lstrip("<?") for word in words} | set(arms)
            return listed[rest[0]] in read or (key == "outcomes" and rest[0] == 0 and decided)
        return {
            "prompts": False, "dose": "dose" in words, "sites": "sites" in words, "direction": decided, "control_position": "position" in arms,
        }.get(key, True)  # fmt: skip


def leaves(value, path=()):
    """Every value of nested mappings and lists that is none of these, with where it stands."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def others(value, names: list[str]) -> list:
    """Values that may stand in the place of one: the first that is allowed there is taken."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, 0.7 * value + 0.05, value - 1]
    words = [
        "1",
        "2",
        "live",
        "frozen",
        "iterative",
        "constrained",
        "increase",
        "decrease",
        "dev",
        "any",
        "ones",
        "range",
        "add",
        "sum",
        "exploratory",
    ]
    return [word for word in (*names, *words) if word != value]


SECTIONS = {
    "supernodes": rules.SupernodeRule,
    "experiments": Experiment,
    "prompts": case_file.Prompt,
    "streams": rules.Stream,
}
ADAPTERS = {kind: TypeAdapter(kind) for kind in (*SECTIONS.values(), rules.Operands, claim_file.Claim, Item)}


def edited(record, kind, path, value, names):
    """A record in which a leaf is another; an element of a list of words is taken out."""
    stated = copy.deepcopy(record)
    *ahead, last = path
    inner = stated
    for key in ahead:
        inner = inner[key]
    if ahead[-1:] in (["outcomes"], ["controls"], ["prompts"]):
        del inner[last]
        return ADAPTERS[kind].validate_python(stated)
    if value == FOUND:  # what says where it may be found goes with it
        stated = {key: one for key, one in stated.items() if key not in ("among", "given")}
        inner = stated
    for new in others(value, names):
        inner[last] = new
        try:
            return ADAPTERS[kind].validate_python(stated)
        except ValidationError:
            continue
    raise AssertionError(f"nothing else can stand at {path}")


@pytest.mark.parametrize("name", READINGS)
def test_the_lock_of_a_shipped_case_covers_what_its_claims_read(name, monkeypatch):
    """Every leaf of its case.yaml and claims.yaml is edited: the hashes move of those claims that read it, by hand (`READINGS`)."""
    monkeypatch.setattr("biology.verdicts.claim_basis.prompts_of", lambda *_: pd.DataFrame({"item": ["one"]}))
    loaded = load_case(ROOT, name)
    claims, sets = load_claims(ROOT, name, loaded), prompt_sets(loaded)
    loaded = loaded.model_copy(update={"items": loaded.items[::20]})
    lines = (line.strip().partition(":")[::2] for line in READINGS[name].strip().splitlines())
    readings = {claim: Reading(text) for claim, text in lines}
    assert list(readings) == [claim.id for claim in claims]
    before = {claim.id: rests_on(loaded, claim, sets) for claim in claims}

    def moved(now, asked) -> set[str]:
        found = {claim.id: rests_on(now, claim, sets) for claim in asked}
        return {
            claim
            for claim, records in found.items()
            if records != before[claim] and digests(records) != digests(before[claim])
        }

    file = read_yaml(loaded.folder / "case.yaml")
    wrong, met, quiet = [], set(), {section: dict(getattr(loaded, section)) for section in ("prompts", "streams")}
    for path, value in leaves({section: file.get(section, {}) for section in SECTIONS}):
        section, label, *inner = path
        stated = file[section][label]
        if inner == ["kind"] or (inner[:1] == ["outcomes"] and len(stated["outcomes"]) == 1):
            continue
        names = [*(file["supernodes"] if value in file["supernodes"] else file["experiments"])]
        new = edited(stated, SECTIONS[section], inner, value, names)
        if section in quiet:  # all at once, as they are many and nobody reads them
            quiet[section][label] = quiet[section][label].model_copy(update={inner[0]: getattr(new, inner[0])})
            continue
        expected = {
            claim for claim, one in readings.items() if one.reads(section, label, inner[0], inner[1:], stated[inner[0]])
        }
        # what does not read a record at all is asked once of each
        asked = [
            claim
            for claim in claims
            if label not in met or label in (*readings[claim.id].nodes, *readings[claim.id].words)
        ]
        met.add(label)
        found = moved(loaded.model_copy(update={section: {**getattr(loaded, section), label: new}}), asked)
        if found != expected:
            wrong.append(("/".join(map(str, path)), sorted(found ^ expected)))
    for path, value in leaves(file.get("operands", {})):
        new = edited(file["operands"], rules.Operands, list(path), value, [])
        assert moved(loaded.model_copy(update={"operands": new}), claims) == {
            claim for claim, one in readings.items() if one.words
        }
    assert wrong == []
    assert moved(loaded.model_copy(update=quiet | {"figures": (), "paper": None}), claims) == set()
    silent = {"title", "paper_says", "source", "registered", "amended", "untestable"}
    words = {"experiment": list(loaded.experiments), "outcome": ["path_share", "answer_top1"]}
    for claim in claims:
        stated = json.loads(claim.model_dump_json())
        for path, value in leaves(stated):
            if path != ("id",) and value is not None:
                new = edited(
                    stated,
                    claim_file.Claim,
                    list(path),
                    value,
                    words.get(
                        path[-1], ["match", "position", "direction", "2026-11-30", "0" * 64, "primary", "memory"]
                    ),
                )
                assert moved(loaded, [new]) == (set() if path[0] in silent else {claim.id}), (claim.id, path)


def digests(records: dict) -> dict[str, str]:
    return {name: digest(stated) for name, stated in records.items()}


@pytest.mark.parametrize("name", READINGS)
def test_every_cell_of_a_shipped_prompt_set_is_covered(name):
    """One cell of each column of each file is edited; the order of rows counts, and that of columns does not."""
    loaded = load_case(ROOT, name)
    few = loaded.model_copy(update={"items": loaded.items[:3], "prompt_sets": {}})
    before = prompt_sets(few).digests
    for path, value in leaves(few.items[1].model_dump()):
        new = edited(few.items[1].model_dump(), Item, list(path), value, ["heldout", "select", "score"])
        assert (
            prompt_sets(few.model_copy(update={"items": (few.items[0], new, few.items[2])})).digests != before
        ) is True, path
    assert prompt_sets(few.model_copy(update={"items": few.items[::-1]})).digests != before
    turned = tuple(one.model_copy(update={"factors": dict(reversed(one.factors.items()))}) for one in few.items)
    assert prompt_sets(few.model_copy(update={"items": turned})).digests == before
    assert {*prompt_sets(loaded).digests} == {
        "the prompt set",
        *(f"the prompt set '{one}'" for one in loaded.prompt_sets),
    }
