"""Registration: what was stated before the run, bound by hashes in `experiments/claims.lock`.

A hash covers what the numbers of a claim rest on, and nothing else (`rests_on`):

* the claim: gate, fewest items, parts in their order and with their names (which seed the draws), and what is expected of models
  that lack the mechanism; not its words, its source and its dates;
* the experiments that its parts name, and those that these are computed from. Of each what it does, the outcomes that are read,
  the outcome that chooses its strength, and the control arms that are read; of a crossover which outcomes take over and give
  way. What is only drawn (named prompts, dose curves, sweeps) is left out, and so are outcomes and arms that nobody reads;
* the supernodes that these hold, inject, follow or watch: the whole rule without its label;
* named prompts, where such a rule or a row of the prompt set names them, and the grid of operands, where one is read;
* the prompt sets, each as a whole and in its order: any row can be scored, select features, be a donor, or be in the pool of
  matched features. Claims about prompts of an extended corpus alone rest on these too.

Whatever else a case says moves no number. Two things are of the whole model and not of a claim: Holm's correction counts all
registered claims, and no claim is judged where the graph of a scored prompt does not add up (`measuring.EXACT`).

A claim changed after the fact is an error unless it says `amended:` and why, and so is a change of what it rests on. A new claim is
untestable until it is registered, and is no concern of the others; a further prompt set changes nothing that was registered. An
expectation of what a model nobody has run will show (`experiments/expectations.yaml`) may not be changed at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from biology.case import Case, case_folder, discover_cases, load_case
from biology.claim_file import UNREGISTERED, Claim, load_claims
from biology.config import InputError, Strict, known, known_models, read_yaml, validate
from biology.expectations import expectation_hashes
from biology.experiments import (
    BEST,
    Census,
    Classes,
    Connectivity,
    Contrast,
    Crossover,
    Measurement,
    Perturbation,
    Scale,
    Sharing,
    Signs,
    Wiring,
)
from biology.facts import LINKS
from biology.items import Item, read_items
from biology.measures import Outcome
from biology.prompts import PROMPT_SETS
from biology.rules import SupernodeRule
from biology.twins import EXTENDED, prompts_of

VERSION = 2
"""Of what a hash covers. Hashes of another version say nothing of today's files."""
ROWS = "the prompt set"
FURTHER = f"{ROWS} '"
"""What the case's own prompts are called as a record, and how the names of those for other models begin."""
UNORDERED = ("active_on", "apart", "arms", "depths", "digit", "promotes", "silent_on", "spares")
"""Lists whose order and repetitions mean nothing."""


# ------------------------------------------------------------------------------------------- what a claim rests on


@dataclass
class _Read:
    """What is read of one experiment."""

    experiment: Measurement
    outcomes: set[Outcome] = field(default_factory=set)
    arms: set[str] = field(default_factory=set)
    dose: bool = False
    """Whether its dose curve is read."""
    absent: bool = False
    """Whether prompts count on which a watched supernode has no members (`measuring.with_absent`)."""

    @property
    def controls(self) -> set[str]:
        """The control arms that are read, of those that the experiment lists."""
        return self.arms & set(getattr(self.experiment, "controls", ()))

    @property
    def at_best(self) -> bool:
        """Whether the position control is read and stands at the best of several sites."""
        return getattr(self.experiment, "elsewhere", None) == BEST and "position" in self.controls

    @property
    def deciding(self) -> tuple[Outcome, ...]:
        """The outcome by which development prompts choose a strength, a depth or a site, where there are several."""
        one = self.experiment
        several = isinstance(one, Perturbation) and len(one.strengths) * len(set(one.depths)) > 1
        return one.outcomes[:1] if several or self.at_best else ()

    @property
    def by_others(self) -> tuple[Outcome, ...]:
        """The outcomes by which prompts without members of a watched supernode are known, where all of them watch one."""
        watching = all(one.form.unchanged is not None for one in self.experiment.outcomes)
        return self.experiment.outcomes if self.absent and watching else ()

    @property
    def supernodes(self) -> set[str]:
        return self.experiment.names({*self.outcomes, *self.deciding, *self.by_others})


def rests_on(case: Case, claim: Claim, sets: PromptSets) -> dict[str, Any]:
    """What the numbers of a claim rest on, as JSON by the name of the record."""
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
    """What is read of which experiments: by the parts, and by what these are computed from."""
    found: dict[str, _Read] = {}

    def read(
        name: str, outcomes: Iterable[Outcome], arms: Collection[str], dose: bool = False, absent: bool = False
    ) -> None:
        experiment, outcomes = case.experiments[name], list(outcomes)
        before = found.get(name, _Read(experiment))
        flags = {"dose": before.dose or dose, "absent": before.absent or absent}
        mine = _Read(experiment, before.outcomes | set(outcomes), before.arms | set(arms), **flags)
        if found.get(name) == mine:
            return  # nothing new, however experiments name each other
        found[name] = mine
        for other in experiment.rests_on:
            listed = case.experiments[other].outcomes
            if isinstance(experiment, Contrast):
                read(other, [Outcome(term) for one in outcomes for term in one.arguments], arms)
            elif isinstance(experiment, Crossover):
                read(other, listed[-2:], (), dose=True)
            elif isinstance(experiment, Signs):
                read(other, [one for one in listed if one.form.name in ("activation", "answer_logit")], ())
            elif isinstance(experiment, Scale):
                read(other, outcomes, {"shuffle"})

    for part in claim.parts:
        outcome = Outcome(part.outcome)
        arms = {part.control, *(part.specificity.arms if part.specificity else ()), *part.ceiling}
        watched = outcome.form.unchanged is not None and part.direction != "equivalent"
        read(part.experiment, [outcome], arms, absent=watched)
    return found


def _experiment(case: Case, read: _Read) -> dict[str, Any]:
    """What an experiment says, without what is only drawn and what nobody reads."""
    experiment, controls = read.experiment, read.controls
    stated = experiment.model_dump(mode="json", exclude={"prompts", "dose"})
    if isinstance(experiment, Sharing):
        may = {arm for one in read.outcomes for arm in one.form.controls or ()}
        controls |= {"match"} & may & set(experiment.controls)  # a prompt with nothing to match is left out in all arms
        if "shuffle" in may:  # unrelated prompts are drawn by the numbers of rows, and named prompts are the first rows
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
        "elsewhere": "position" not in controls,
        "sites": not (read.at_best or (isinstance(experiment, Census) and "position" in read.arms)),
        "donor": not getattr(experiment, "injected", None)
        and not any(one.form.donor for one in {*read.outcomes, *read.deciding}),
    }
    if isinstance(experiment, Crossover):
        stated["takes over, gives way"] = case.experiments[experiment.of[0]].outcomes[-2:]
    if isinstance(experiment, Signs):
        stated["of"] = sorted(set(experiment.of))
    return {key: value for key, value in stated.items() if not unread.get(key)}


@dataclass(frozen=True)
class PromptSets:
    """The prompt sets of a case, as far as claims rest on them."""

    digests: dict[str, Any]
    """By the name of the record, of all rows in their order."""
    named: dict[str, set[str]]
    """By column, the prompts of case.yaml that rows name there."""


def prompt_sets(case: Case) -> PromptSets:
    """All prompt sets of a case: its own, and those for other models. Raises `InputError` for one that cannot be read."""
    sets = {ROWS: case.items} if case.prompt_set else {}
    sets |= {f"{FURTHER}{name}'": read_items(case.folder / file) for name, file in case.prompt_sets.items()}
    named: dict[str, set[str]] = {}
    for item in (item for items in sets.values() for item in items):
        for column, value in item.factors.items():
            if value in case.prompts:
                named.setdefault(column, set()).add(value)
    digests: dict[str, Any] = {name: digest([_row(item) for item in items]) for name, items in sets.items()}
    if case.operands:  # a number that a model of natural language writes in several tokens is no right answer
        digests |= {name: {"rows": rows, "numbers": True} for name, rows in digests.items() if name != ROWS}
    return PromptSets(digests, named)


def _row(item: Item) -> list[Any]:
    """A row, whatever the order of its columns."""
    factors = sorted((column, value) for column, value in item.factors.items() if value)
    return [item.item, item.text, item.answer, item.cluster, item.split, item.role, factors]


def _named_prompts(
    case: Case, rules: Iterable[SupernodeRule], readings: Mapping[str, _Read], sets: PromptSets
) -> dict[str, Any]:
    """What is read of the prompts of case.yaml that rules name (their text, and where to look in it) or rows of a prompt set."""
    found: dict[str, Any] = {}
    for rule in rules:
        factors = {one for at in (rule.at, rule.as_read.at) if (one := at.factor) is not None}
        for prompt in (*rule.active_on, *rule.silent_on):
            stated = found.setdefault(prompt, {"text": case.prompts[prompt].text, "factors": {}})
            stated["factors"] |= {one: case.prompts[prompt].factors.get(one, "") for one in factors}
    donors = {str(getattr(read.experiment, "donor", "donor")) for read in readings.values()}
    donors |= {f"wrong_{one}" for one in donors}
    linked = [there for column, there in sets.named.items() if column in {*LINKS, *donors} or column.endswith("donor")]
    for prompt in set().union(*linked):
        gate = case.prompts[prompt].factors.get("gated_by", "")
        for one in {prompt, gate} & set(case.prompts):
            found[one] = case.prompts[one].model_dump(mode="json", exclude={"split"})
    return found


def _extended(case: Case, claim: Claim) -> dict[str, Any]:
    """The prompts of extended corpora, where a part's experiment is about none of the case's own."""
    asked = [case.experiments[part.experiment].only for part in claim.parts]
    mine = case.items and case.name in PROMPT_SETS
    if not mine or all(any(item.meets(only) for item in case.items) for only in asked):
        return {}
    words = case.folder.parents[1] / "data/words"
    if not words.is_dir():
        raise InputError(
            f"{words}: no such folder, from whose words the prompts that claim '{claim.id}' rests on are made."
        )
    return {f"{ROWS} of the corpus {name}": prompts_of(case.name, name, words).to_dict("records") for name in EXTENDED}


def digest(stated: Any) -> str:
    """SHA-256 of canonical JSON, without what is empty, so that a new optional key leaves what was hashed as it was."""
    text = json.dumps(_canonical(stated), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        kept = {name: _canonical(inner, name) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner is not False and inner not in (None, "", [], {})}
    if isinstance(value, list | tuple):
        found = [_canonical(inner) for inner in value]
        return sorted(set(found)) if key in UNORDERED else found
    return value


# ------------------------------------------------------------------------------------------------------- the lock


class Registered(Strict):
    """What is registered of a claim: the hash that an amendment names, and that of each record which it is made of."""

    hash: str
    rests_on: dict[str, str]

    def changed(self, now: Registered) -> list[str]:
        """The records that are not what they were. A new prompt set for other models is none of them."""
        names = dict.fromkeys([*self.rests_on, *(one for one in now.rests_on if not one.startswith(FURTHER))])
        return [name for name in names if self.rests_on.get(name) != now.rests_on.get(name)]


class Lock(Strict):
    """`experiments/claims.lock`: what is registered of claims, by case and id, and hashes of expectations, by `model/claim`."""

    version: Literal[2] = VERSION
    claims: dict[str, dict[str, Registered]] = {}
    expectations: dict[str, str] = {}

    def text(self) -> str:
        """The contents of the file."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def news(self, before: Lock) -> list[str]:
        """What is in here and was not in a lock before, a line each."""
        lines = []
        for case, claims in self.claims.items():
            for claim, now in claims.items():
                stood = before.claims.get(case, {}).get(claim)
                if stood is None:
                    lines.append(f"{case}: {claim} registered")
                elif stood != now:
                    changed = ", ".join(stood.changed(now))
                    what = f"amended ({changed})" if changed else "registered on further prompts"
                    lines.append(f"{case}: {claim} {what}")
        new = [name for name in self.expectations if name not in before.expectations]
        return [*lines, *(f"expectation {name} registered" for name in new)]


def registration_of(case: Case, claims: Iterable[Claim]) -> dict[str, Registered]:
    """What is to be registered of the claims of a case, by id."""
    sets, found = prompt_sets(case), {}
    for claim in claims:
        records = {name: digest(stated) for name, stated in rests_on(case, claim, sets).items()}
        found[claim.id] = Registered(hash=digest(records), rests_on={name: one[:16] for name, one in records.items()})
    return found


def read_lock(root: str | Path) -> Lock:
    """`experiments/claims.lock`; empty if the file does not exist yet. Raises `InputError` for one that is damaged or older."""
    path = Path(root) / "experiments" / "claims.lock"
    if not path.is_file():
        return Lock()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from None
    if isinstance(found, dict) and found and found.get("version") != VERSION:
        raise InputError(
            f"{path}: a lock of another version of biology, whose hashes do not cover what these do. Check with that version that "
            "the claims are as they were registered (`biology judge` does), move the file away, and run `biology lock`."
        )
    return validate(Lock, found, path)


def check_lock(root: str | Path) -> None:
    """Raises `InputError` unless every claim of `experiments/claims.lock` is on disk as it was registered.

    A claim on disk that is not in there is no error (see `registered`); an expectation is.
    """
    locked, current = read_lock(root), refreshed_lock(root)
    for name in current.expectations:
        if name not in locked.expectations:
            raise InputError(f"the expectation '{name}' is not registered: run `biology lock`.")
    for case, claims in current.claims.items():
        for claim, now in claims.items():
            before = locked.claims.get(case, {}).get(claim, now)
            if before != now:
                what = "amended but not locked" if before.changed(now) else "not registered on all prompt sets"
                raise InputError(f"claim '{claim}' of case '{case}' is {what}: run `biology lock`.")


def registered(root: str | Path, case: str, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """The claims, those that are not in `experiments/claims.lock` made untestable.

    Nobody may see how a claim would turn out while it can still be changed.
    """
    locked = read_lock(root).claims.get(case, {})
    silent = {"parts": (), "untestable": UNREGISTERED}
    return tuple(claim if claim.id in locked else claim.model_copy(update=silent) for claim in claims)


def judged_models(root: str | Path) -> list[str]:
    """Models that can have been judged: those of config.yaml, those of the Hub, and those whose verdicts lie here, for a model may
    have left config.yaml since."""
    path = Path(root) / "config.yaml"
    data = read_yaml(path) if path.is_file() else None
    models = data.get("models") if isinstance(data, dict) else None
    verdicts = [file.parent.name for file in sorted(Path(root).glob("reports/*/verdicts.csv"))]
    return [*dict.fromkeys([*map(str, models if isinstance(models, dict) else ()), *verdicts, *known_models()])]


def refreshed_lock(root: str | Path) -> Lock:
    """The lock as `biology lock` writes it: new claims are added, amended claims replaced.

    Raises `InputError` if a locked claim, or what it rests on, was changed without an amendment that names its locked hash, or
    if a claim was removed or an expectation changed.
    """
    locked = read_lock(root)
    current: dict[str, dict[str, Registered]] = {}
    for case in discover_cases(root):
        loaded = load_case(root, case)
        claims = load_claims(root, case, loaded)
        current[case] = registration_of(loaded, claims)
        for claim in claims:
            before = locked.claims.get(case, {}).get(claim.id)
            changed = before.changed(current[case][claim.id]) if before else []
            if not before or not changed:
                continue
            amendments = [amendment for amendment in claim.amended if amendment.previous == before.hash]
            if not amendments:
                what = f"{', '.join(changed)} {'were' if len(changed) > 1 else 'was'}"
                raise InputError(
                    f"claim '{claim.id}' of case '{case}': {what} changed without amendment. Undo the change, or add to the "
                    f"claim `amended: {{date: ..., reason: ..., previous: {before.hash}, seen_on: [models that were "
                    "judged]}` and run `biology lock`."
                )
            for model in amendments[0].seen_on:
                where = f"{claim.id}.amended.seen_on"
                known(case_folder(root, case) / "claims.yaml", where, "model", model, judged_models(root))
    for case, claims in locked.claims.items():
        for claim in claims:
            if claim not in current.get(case, {}):
                raise InputError(f"claim '{claim}' of case '{case}' is registered but gone. Registered claims stay.")
    expectations = expectation_hashes(root)
    for name, now in expectations.items():
        if locked.expectations.get(name, now) != now:
            raise InputError(f"the expectation '{name}' was changed after it was registered. Undo the change.")
    return Lock(claims=current, expectations=expectations)
