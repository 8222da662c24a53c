"""Everything that the numbers of a claim depend on, and nothing else, as JSON to be hashed:

* the claim: gate, smallest number of items, parts in their order and with their names (which seed the draws), and the verdict expected
  on models that lack the mechanism; not its words, its source and its dates;
* the experiments that its parts name, and those that these are computed from. For each: its action, the outcomes that are read,
  the outcome that chooses its strength, and the control arms that are read; for a crossover, which outcomes take over and give
  way. What is only drawn (named prompts, dose curves, sweeps) is left out, as are outcomes and arms that are not read;
* the supernodes that these hold, inject, follow or watch: the whole rule without its label;
* named prompts, if such a rule or a row of the prompt set names them; and the grid of operands, if one is read;
* the prompt sets, each whole and in its order: any row can be scored, select features, be a donor, or be in the pool of
  matched features. Claims only about prompts of an extended corpus depend on these prompts too.

Nothing else in a case changes a number. Two things depend on the whole model, not on a claim: Holm's correction counts all
registered claims, and no claim is judged if the graph of a scored prompt does not add up (`measuring.EXACT`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from biology.cases.case import FORMERLY, Case
from biology.cases.claim_file import Claim
from biology.cases.experiments import (
    Attention,
    Census,
    Classes,
    Connectivity,
    Contrast,
    Crossover,
    Scale,
    Separation,
    Sharing,
    Signs,
    Wiring,
)
from biology.cases.items import LINKS, Item, read_items
from biology.cases.measurement import Measurement
from biology.cases.measures import DRAWN, SIDES, Outcome
from biology.cases.perturbations import BEST, Edit, Perturbation
from biology.cases.positions import QUESTION
from biology.cases.rules import SupernodeRule
from biology.corpora.prompts import PROMPT_SETS
from biology.corpora.twins import EXTENDED, prompts_of
from biology.records import InputError

ROWS = "the prompt set"
FURTHER = f"{ROWS} '"
"""`ROWS` is the record name of the case's own prompts; record names of prompt sets for other models begin with `FURTHER`."""
UNORDERED = ("across", "active_on", "arms", "depths", "digit", "given", "not_promotes", "promotes", "silent_on")
"""Lists in which order and repetitions have no meaning."""


@dataclass
class _Read:
    """The parts of one experiment that a claim reads."""

    experiment: Measurement
    outcomes: set[Outcome] = field(default_factory=set)
    arms: set[str] = field(default_factory=set)
    dose: bool = False
    """Whether its dose curve is read."""
    absent: bool = False
    """Whether prompts without members of a watched supernode count (`measuring.with_absent`)."""

    @property
    def controls(self) -> set[str]:
        """The control arms that are read and that the experiment lists."""
        return self.arms & set(getattr(self.experiment, "controls", ()))

    @property
    def at_best(self) -> bool:
        """Whether the position control is read and uses the best of several sites."""
        return getattr(self.experiment, "control_position", None) == BEST and "position" in self.controls

    @property
    def deciding(self) -> tuple[Outcome, ...]:
        """The outcome by which development prompts choose a strength, a depth or a site; empty if there is nothing to choose."""
        one = self.experiment
        return one.outcomes[:1] if self.at_best or (isinstance(one, Perturbation) and one.chooses) else ()

    @property
    def by_others(self) -> tuple[Outcome, ...]:
        """All outcomes, if all of them watch a supernode: then they show which prompts lack members of one of these."""
        watching = all(one.form.unchanged is not None for one in self.experiment.outcomes)
        return self.experiment.outcomes if self.absent and watching else ()

    @property
    def supernodes(self) -> set[str]:
        return self.experiment.names({*self.outcomes, *self.deciding, *self.by_others})


def rests_on(case: Case, claim: Claim, sets: PromptSets) -> dict[str, Any]:
    """Everything that the numbers of a claim depend on, as JSON by the name of the record."""
    stated = claim.model_dump(mode="json", include={"gate", "minimum_n", "parts", "expected"})
    records: dict[str, Any] = {"the claim": stated | {"untestable": bool(claim.untestable)}}
    if not claim.parts:
        return records
    readings = _readings(case, claim)
    records |= {f"experiment '{name}'": _experiment(case, read) for name, read in readings.items()}
    named = set().union(*(read.supernodes for read in readings.values()))
    rules = {name: rule for name, rule in case.supernodes.items() if name in named}
    records |= {f"supernode '{name}'": rule.model_dump(mode="json", exclude={"label"}) for name, rule in rules.items()}
    records |= {f"prompt '{name}'": one for name, one in _named_prompts(case, rules.values(), readings, sets).items()}
    looking = any(isinstance(read.experiment, Classes | Wiring | Connectivity) for read in readings.values())
    if case.operands and (looking or any(rule.operands for rule in rules.values())):
        records["operands"] = case.operands.model_dump(mode="json")
    return records | sets.digests | _extended(case, claim)


def _readings(case: Case, claim: Claim) -> dict[str, _Read]:
    """The parts that are read of each experiment: by the claim's parts, and by experiments computed from others."""
    found: dict[str, _Read] = {}

    def read(
        name: str, outcomes: Iterable[Outcome], arms: Collection[str], dose: bool = False, absent: bool = False
    ) -> None:
        experiment, outcomes = case.experiments[name], list(outcomes)
        before = found.get(name, _Read(experiment))
        flags = {"dose": before.dose or dose, "absent": before.absent or absent}
        mine = _Read(experiment, before.outcomes | set(outcomes), before.arms | set(arms), **flags)
        if found.get(name) == mine:
            return  # nothing new: ends the recursion if experiments name each other
        found[name] = mine
        for other in experiment.rests_on:
            listed = case.experiments[other].outcomes
            if isinstance(experiment, Contrast):
                read(other, [Outcome(term) for one in outcomes for term in one.arguments], arms)
            elif isinstance(experiment, Crossover):
                read(other, listed[-2:], (), dose=True)
            elif isinstance(experiment, Separation):
                read(other, listed[:1], ())
            elif isinstance(experiment, Signs):
                read(other, [one for one in listed if one.form.name in ("activation", "answer_logit")], ())
            elif isinstance(experiment, Scale):
                read(other, outcomes, {"shuffle"})
            elif isinstance(experiment, Edit):
                read(other, (), ())

    for part in claim.parts:
        outcome = Outcome(part.outcome)
        arms = {part.control, *(part.specificity.arms if part.specificity else ()), *part.ceiling}
        watched = outcome.form.unchanged is not None and part.direction != "equivalent"
        read(part.experiment, [outcome], arms, absent=watched)
    return found


def _experiment(case: Case, read: _Read) -> dict[str, Any]:
    """An experiment without what is only drawn or not read."""
    experiment, controls = read.experiment, read.controls
    stated = experiment.model_dump(mode="json", exclude={"prompts", "dose"})
    if isinstance(experiment, Sharing):
        may = {arm for one in read.outcomes for arm in one.form.controls or ()}
        controls |= {"match"} & may & set(experiment.controls)  # a prompt with nothing to match is left out in all arms
        if "shuffle" in may:  # unrelated prompts are drawn by row number, and named prompts are the first rows
            stated["named prompts"] = len(case.prompts)
    stated |= {
        "outcomes": sorted(read.outcomes & set(experiment.outcomes)),
        "controls": sorted(controls),
        "decides": list(read.deciding),
    }
    stated["dose"] = read.dose and getattr(experiment, "dose", False)
    stated["absent"] = sorted(read.by_others) if read.by_others else read.absent
    unread = {
        "direction": not read.deciding,
        "control_position": "position" not in controls,
        "sites": not (read.at_best or (isinstance(experiment, Census) and "position" in read.arms)),
        "donor": not getattr(experiment, "injected", None)
        and not any(one.form.donor for one in {*read.outcomes, *read.deciding}),
    }
    if isinstance(experiment, Attention):
        asked = {one.partition("_")[0] for one in read.outcomes}
        unread |= {"pairs": "pairs" not in asked, "strength": "scaled" not in asked}
        unread |= {side: not read.outcomes & {*outcomes} for side, outcomes in SIDES.items()}
        unread["undrawn"] = not (experiment.undrawn and "match" in controls and read.outcomes & {*DRAWN})
    if isinstance(experiment, Crossover):
        stated["takes over, gives way"] = case.experiments[experiment.of[0]].outcomes[-2:]
    if isinstance(experiment, Signs):
        stated["of"] = sorted(set(experiment.of))
    return {key: value for key, value in stated.items() if not unread.get(key)}


@dataclass(frozen=True)
class PromptSets:
    """The prompt sets of a case, as claims depend on them."""

    digests: dict[str, Any]
    """Digest of all rows in their order, by the name of the record."""
    named: dict[str, set[str]]
    """By column, the prompts of case.yaml that rows name in it."""


def prompt_sets(case: Case) -> PromptSets:
    """All prompt sets of a case: its own, and those for other models. Raises `InputError` for one that cannot be read."""
    sets = {ROWS: case.items} if case.prompt_set else {}
    sets |= {f"{FURTHER}{name}'": read_items(case.folder / file) for name, file in case.prompt_sets.items()}
    named: dict[str, set[str]] = {}
    for item in (item for items in sets.values() for item in items):
        for column, value in item.factors.items():
            if value in case.prompts:
                named.setdefault(column, set()).add(value)
    digests: dict[str, Any] = {name: _hash([_row(item) for item in items]) for name, items in sets.items()}
    if case.operands:  # for a model of natural language, a number of several tokens is not a right answer
        digests |= {name: {"rows": rows, "numbers": True} for name, rows in digests.items() if name != ROWS}
    return PromptSets(digests, named)


def _row(item: Item) -> list[Any]:
    """A row in canonical form, independent of the order of its columns."""
    factors = sorted((column, value) for column, value in item.factors.items() if value)
    return [item.item, item.text, item.answer, item.cluster, item.split, item.role, factors]


def _named_prompts(
    case: Case, rules: Iterable[SupernodeRule], readings: Mapping[str, _Read], sets: PromptSets
) -> dict[str, Any]:
    """What is read of the prompts of case.yaml that rules name (their text, and where to look in it) or that rows of a prompt set
    name."""
    found: dict[str, Any] = {}
    for rule in rules:
        factors = {one for at in (*rule.positions, rule.as_read.at) if (one := at.factor) is not None} | {QUESTION}
        for prompt in (*rule.active_on, *rule.silent_on):
            stated = found.setdefault(prompt, {"text": case.prompts[prompt].text, "factors": {}})
            stated["factors"] |= {one: case.prompts[prompt].factors.get(one, "") for one in factors}
            stated["chat"] = case.prompts[prompt].chat
    donors = {str(getattr(read.experiment, "donor", "donor")) for read in readings.values()}
    donors |= {f"wrong_{one}" for one in donors}
    linked = [there for column, there in sets.named.items() if column in {*LINKS, *donors} or column.endswith("donor")]
    for prompt in set().union(*linked):
        gate = case.prompts[prompt].factors.get("gated_by", "")
        for one in {prompt, gate} & set(case.prompts):
            found[one] = case.prompts[one].model_dump(mode="json", exclude={"split"})
    return found


def _extended(case: Case, claim: Claim) -> dict[str, Any]:
    """The prompts of extended corpora, if an experiment of a part has none of the case's own."""
    asked = [case.experiments[part.experiment].only for part in claim.parts]
    mine = case.items and case.name in PROMPT_SETS
    if not mine or all(any(item.meets(only) for item in case.items) for only in asked):
        return {}
    words = case.folder.parents[1] / "data/words"
    if not words.is_dir():
        raise InputError(f"{words}: no such folder; the prompts of claim '{claim.id}' are made from it.")
    return {f"{ROWS} of the corpus {name}": prompts_of(case.name, name, words).to_dict("records") for name in EXTENDED}


def digest(stated: Any) -> str:
    """SHA-256 of canonical JSON. Empty values are left out, so that a new optional key does not change earlier hashes."""
    return _hash(_canonical(stated))


def _hash(canonical: Any) -> str:
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any, key: str = "") -> Any:
    nested = (dict, list, tuple)  # other values stay as they are: prompt sets have a hundred thousand words
    if isinstance(value, dict):
        kept = {name: _canonical(one, name) if isinstance(one, nested) else one for name, one in value.items()}
        return {
            FORMERLY.get(name, name): inner
            for name, inner in kept.items()
            if inner is not False and inner not in (None, "", [], {})
        }
    if isinstance(value, list | tuple):
        found = [_canonical(inner) if isinstance(inner, nested) else inner for inner in value]
        return sorted(set(found)) if key in UNORDERED else found
    return value
