"""The lock covers what a verdict rests on, all of it and nothing else: every key of toy cases is edited, and all is measured again."""

import copy
from collections.abc import Iterable

import pytest
from edits import IDENTITY, IDLE, MOVING, Edit
from toy_repository import CASES, alone, answered, chatting, evidence_of, judged, opened, write

from biology.cases import case_file, claim_file, rules
from biology.cases.experiments import KINDS
from biology.cases.items import Item
from biology.cases.measurement import Line
from biology.verdicts.registration import registration_of

RECORDS = [
    case_file.Paper, case_file.Prompt, case_file.CaseFile, rules.SupernodeRule, rules.OperandCondition, rules.Operands, rules.Stream, Line, *KINDS,
    Item, claim_file.Claim, claim_file.Part, claim_file.Specificity, claim_file.Source, claim_file.Amendment,
]  # fmt: skip


def keys_of(record) -> set[str]:
    """The keys of a record, each as `<the class that states it>.<key>`."""
    owners = {}
    for one in reversed(record.__mro__):
        owners |= {key: one.__name__ for key in vars(one).get("__annotations__", {})}
    return {f"{owners[key]}.{key}" for key in record.model_fields if key != "kind"}


def test_every_key_of_every_record_is_edited():
    keys = set().union(*map(keys_of, RECORDS)) - IDENTITY
    keys = {key.replace("Computed.of", "Signs.of") for key in keys}
    assert keys == {*MOVING, *IDLE}


class Toys:
    """The toy cases on the tiny model, edited and judged again; what was measured once is kept."""

    def __init__(self, model, root):
        self.model, self.root, self.kept, self.measured = model, root, {}, {}
        self.stated = {name: answered(model, make()) for name, make in CASES.items()}

    def opened(self, name, *edits):
        """The case and its claims, read from edited files, and what is to be registered of these."""
        if (name, *edits) not in self.kept:
            stated = copy.deepcopy(self.stated[name])
            for edit in edits:
                edit.applied(stated)
            write(self.root, stated)
            loaded, claims = opened(self.root)
            self.kept[name, *edits] = loaded, claims, registration_of(loaded, claims)
        return self.kept[name, *edits]

    def moved(self, edit) -> list[str]:
        """The claims whose hash an edit moves."""
        before, now = (self.opened(edit.case, *edits)[2] for edits in ((), (edit,)))
        return [claim for claim in before if before[claim].changed(now[claim])]

    def numbers(self, case, claims) -> dict[str, list[float]]:
        """The numbers of claims. What is measured depends on these by their gates alone (`contrasts.gate_of`)."""
        key = case.model_dump_json(), *(claim.gate for claim in claims)
        if key not in self.measured:
            self.measured[key] = evidence_of(self.model, case, claims)
        return judged(claims, case, *self.measured[key])

    def among_others(self, name, *edits) -> dict[str, list[float]]:
        return self.numbers(*self.opened(name, *edits)[:2])

    def alone(self, name, claim, *edits) -> list[float]:
        case, claims, _ = self.opened(name, *edits)
        return self.numbers(*alone(case, claims, claim))[claim]


def same(one: list[float], other: list[float]) -> bool:
    """Whether the numbers of a claim are the same, up to what the order of sums in a batch does to them."""
    return one == pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True)


def rounds(edits: Iterable[Edit]) -> list[list[Edit]]:
    """Edits that touch different things, as many at a time as can be."""
    left, made = list(edits), []
    while left:
        chosen: list[Edit] = []
        for edit in left:
            if not any(
                f"{edit.path}/".startswith(f"{one.path}/") or f"{one.path}/".startswith(f"{edit.path}/")
                for one in chosen
            ):
                chosen.append(edit)
        left = [edit for edit in left if edit not in chosen]
        made.append(chosen)
    return made


pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def toys(tiny_model, tmp_path_factory):
    return Toys(chatting(tiny_model("llama")), tmp_path_factory.mktemp("toys"))


EVERY_CLAIM = [(name, claim) for name, make in CASES.items() for claim in make()["claims"]]


@pytest.mark.parametrize("name", CASES)
def test_what_is_only_shown_or_said_or_read_by_no_claim_moves_nothing(toys, name):
    """Neither a hash nor a number: labels, titles, named prompts, figures, experiments that no claim reads ..."""
    idle = [edit for edits in IDLE.values() for edit in edits if edit.case == name]
    assert [] == [(str(edit), toys.moved(edit)) for edit in idle if toys.moved(edit)]
    before = toys.among_others(name)
    for edits in rounds(idle):
        now = toys.among_others(name, *edits)
        assert [] == [claim for claim in before if not same(before[claim], now[claim])], list(map(str, edits))


@pytest.mark.parametrize(("name", "claim"), EVERY_CLAIM)
def test_a_claim_is_judged_alone_as_it_is_among_others(toys, name, claim):
    """Without the other claims, experiments, supernodes and named prompts of its case, none of which its hash covers."""
    assert same(toys.among_others(name)[claim], toys.alone(name, claim))


@pytest.mark.parametrize(("name", "claim"), EVERY_CLAIM)
def test_what_moves_no_hash_of_a_claim_moves_none_of_its_numbers(toys, name, claim):
    """All edits that leave the claim's hash alone are made at once, whatever they do to other claims."""
    free = [edit for edits in MOVING.values() for edit in edits if edit.case == name and claim not in toys.moved(edit)]
    before = toys.alone(name, claim)
    for edits in rounds(free):
        if not same(before, toys.alone(name, claim, *edits)):
            guilty = [str(edit) for edit in edits if not same(before, toys.alone(name, claim, edit))]
            pytest.fail(f"a number moves and no hash does: {guilty or list(map(str, edits))}")


@pytest.mark.exhaustive
@pytest.mark.parametrize("key", MOVING)
def test_what_moves_a_hash_can_move_a_number(toys, key):
    for edit in MOVING[key]:
        claims = toys.moved(edit)
        assert claims, f"{edit} moves no hash"
        assert any(not same(toys.alone(edit.case, one), toys.alone(edit.case, one, edit)) for one in claims), str(edit)
