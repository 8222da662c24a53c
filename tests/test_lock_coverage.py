"""The lock of the shipped cases covers what their claims read, and nothing else: held against what is stated by hand (`readings.py`)."""

import copy
import json
from pathlib import Path

import pandas as pd
import pytest
from pydantic import TypeAdapter, ValidationError
from readings import READINGS

from biology.cases import case_file, claim_file, rules
from biology.cases.case import load_case
from biology.cases.claim_file import load_claims
from biology.cases.experiments import Experiment
from biology.cases.items import Item
from biology.cases.positions import FOUND
from biology.records import read_yaml
from biology.verdicts.claim_basis import digest, prompt_sets, rests_on

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("unchecked")


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
        if "position" not in stated.get("controls", ()):  # nothing would read where it stands
            stated.pop("control_position", None)
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
