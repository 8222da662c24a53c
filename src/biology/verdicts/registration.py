"""Registration: what was stated before the run, bound by hashes in `experiments/claims.lock`.

A hash covers what the numbers of a claim depend on, and nothing else (`claim_basis.py`). Changing a claim after the fact, or
what it depends on, is an error unless the claim says `amended:` and why. A new claim is untestable until it is registered, and
does not affect the others; a further prompt set changes nothing that was registered. An expectation about a model not yet run
(`experiments/expectations.yaml`) may not be changed at all.

A mechanism (`mechanism.yaml`) is bound except for its words, and is amended in the same way. Only registered mechanisms are
planted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Literal

from biology.cases.case import Case, case_folder, discover_cases, load_case
from biology.cases.claim_file import UNREGISTERED, Amendment, Claim, load_claims
from biology.cases.mechanism import Mechanism, load_mechanism, mechanism_path, twins_of
from biology.config import known_models
from biology.corpora.lessons import check_answers, check_names
from biology.records import InputError, Strict, known, read_yaml, validate
from biology.verdicts.claim_basis import FURTHER, digest, prompt_sets, rests_on
from biology.verdicts.expectations import expectation_hashes

VERSION = 2
"""Version of what a hash covers. Hashes of another version cannot be compared with today's files."""
NEW = "not registered yet"


class Registered(Strict):
    """The registration of a claim: the hash that an amendment names, and the hash of each record it consists of."""

    hash: str
    rests_on: dict[str, str]
    history: tuple[str, ...] = ()
    """Hashes of the date of registration and of each amendment (but for its reason); empty in locks from before this was kept."""

    def changed(self, now: Registered) -> list[str]:
        """The records that have changed. A new prompt set for other models does not count."""
        names = dict.fromkeys([*self.rests_on, *(one for one in now.rests_on if not one.startswith(FURTHER))])
        return [name for name in names if self.rests_on.get(name) != now.rests_on.get(name)]


class Lock(Strict):
    """`experiments/claims.lock`: registrations of claims, by case and id; hashes of expectations, by `model/claim`; and hashes
    of mechanisms, by case."""

    version: Literal[2] = VERSION
    claims: dict[str, dict[str, Registered]] = {}
    expectations: dict[str, str] = {}
    mechanisms: dict[str, str] = {}
    mechanism_histories: dict[str, tuple[str, ...]] = {}
    """As `Registered.history`, by case."""

    def text(self) -> str:
        """The contents of the file."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def news(self, before: Lock) -> list[str]:
        """The entries that a lock before did not have, one line each."""
        lines = []
        for case, claims in self.claims.items():
            for claim, now in claims.items():
                stood = before.claims.get(case, {}).get(claim)
                if stood is None:
                    lines.append(f"{case}: {claim} registered")
                elif (stood.hash, stood.rests_on) != (now.hash, now.rests_on):
                    changed = ", ".join(stood.changed(now))
                    what = f"amended ({changed})" if changed else "registered on further prompts"
                    lines.append(f"{case}: {claim} {what}")
        new = [name for name in self.expectations if name not in before.expectations]
        for case, now in self.mechanisms.items():
            if now != (stood := before.mechanisms.get(case)):
                lines.append(f"{case}: mechanism {'amended' if stood else 'registered'}")
        return [*lines, *(f"expectation {name} registered" for name in new)]


def registration_of(case: Case, claims: Iterable[Claim]) -> dict[str, Registered]:
    """The registrations of the claims of a case, by id."""
    sets, found = prompt_sets(case), {}
    for claim in claims:
        records = {name: digest(stated) for name, stated in rests_on(case, claim, sets).items()}
        rests = {name: one[:16] for name, one in records.items()}
        history = _history(claim.amended, claim.registered)
        found[claim.id] = Registered(hash=digest(records), rests_on=rests, history=history)
    return found


def _history(amended: Iterable[Amendment], *before: date) -> tuple[str, ...]:
    """Hashes of dates and amendments."""
    entries = [*map(str, before), *(one.model_dump(mode="json", exclude={"reason"}) for one in amended)]
    return tuple(digest(entry)[:16] for entry in entries)


def _check_history(
    path: Path, name: str, amended: Sequence[Amendment], now: Sequence[str], before: Sequence[str], hash_: str
) -> None:
    """Raises `InputError` unless the registered dates and amendments are there as they were, and new ones name the registered hash."""
    if tuple(now[: len(before)]) != tuple(before):
        raise InputError(
            f"{path}: {name}: `registered` or an entry of `amended` was changed or removed. What is on record stays; new entries of "
            "`amended` follow the old ones."
        )
    for one in amended[len(amended) - (len(now) - len(before)) :]:
        if one.previous != hash_:
            raise InputError(
                f"{path}: {name}.amended: the entry of {one.date} names the hash {one.previous[:12]}..., but {hash_[:12]}... is registered."
            )


def read_lock(root: str | Path) -> Lock:
    """`experiments/claims.lock`; empty if the file does not exist yet. Raises `InputError` if it is damaged or of an older
    version."""
    path = Path(root) / "experiments" / "claims.lock"
    if not path.is_file():
        return Lock()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from None
    if isinstance(found, dict) and found and found.get("version") != VERSION:
        raise InputError(
            f"{path} was written by another version of biology, whose hashes cover other things. Check with that version that "
            "the claims are as they were registered (`biology judge` does), move the file away, and run `biology lock`."
        )
    return validate(Lock, found, path)


def check_lock(root: str | Path) -> None:
    """Raises `InputError` unless every claim of `experiments/claims.lock` is on disk as it was registered.

    A claim or mechanism that is only on disk is no error (see `registered`, `check_mechanism`); an expectation is.
    """
    locked, current = read_lock(root), refreshed_lock(root)
    for case, now in current.mechanisms.items():
        if locked.mechanisms.get(case, now) != now:
            raise InputError(f"the mechanism of case '{case}' is amended but not locked: run `biology lock`.")
    for name in current.expectations:
        if name not in locked.expectations:
            raise InputError(f"the expectation '{name}' is not registered: run `biology lock`.")
    for case, claims in current.claims.items():
        for claim, now in claims.items():
            before = locked.claims.get(case, {}).get(claim, now)
            if before != now:
                what = "amended but not locked" if before.changed(now) else "not registered on all prompt sets"
                raise InputError(f"claim '{claim}' of case '{case}' is {what}: run `biology lock`.")


def check_claims(root: str | Path, name: str, claims: Iterable[Claim]) -> None:
    """Raises `InputError` unless the claims of one case that `experiments/claims.lock` has are as they were registered."""
    for claim, why in not_locked(root, load_case(root, name), claims).items():
        if why != NEW:
            raise InputError(
                f"claim '{claim}' of case '{name}' is {why}: undo the change, or amend the claim and run `biology lock`."
            )


def not_locked(root: str | Path, case: Case, claims: Iterable[Claim]) -> dict[str, str]:
    """The claims of a case that `experiments/claims.lock` does not have as they are on disk: `NEW`, or what differs."""
    locked, found = read_lock(root).claims.get(case.name, {}), {}
    for claim, now in registration_of(case, claims).items():
        before = locked.get(claim)
        if before is None:
            found[claim] = NEW
        elif before != now:
            found[claim] = f"not as it was registered ({', '.join(before.changed(now)) or 'what is on record of it'})"
    return found


def check_mechanism(root: str | Path, case: str, twin: str = "") -> None:
    """Raises `InputError` unless the mechanism of a case, or of its twin, is on disk as it was registered."""
    name = f"{case}/{twin}" if twin in twins_of(root, case) else case
    mechanism = load_mechanism(root, case, twin)
    if mechanism is None or read_lock(root).mechanisms.get(name) != mechanism_digest(mechanism):
        raise InputError(
            f"the mechanism of case '{name}' is not registered as it is: run `biology lock` before it is planted."
        )


def _mechanisms(
    root: str | Path, cases: Mapping[str, Case], claims: Mapping[str, Collection[str]], locked: Lock
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The hashes and histories of all mechanisms, by `case` or `case/twin`. Raises `InputError` for one that was changed without
    amendment or was removed, that names an unknown claim or supernode, or that is new and does not give the prompts' answers."""
    found: dict[str, str] = {}
    histories: dict[str, tuple[str, ...]] = {}
    for case, loaded in cases.items():
        for twin in ("", *twins_of(root, case)):
            mechanism, name = load_mechanism(root, case, twin), f"{case}/{twin}".rstrip("/")
            if mechanism is None:
                continue
            check_names(root, loaded, claims[case], mechanism, twin)
            now, before = mechanism_digest(mechanism), locked.mechanisms.get(name)
            if before not in (None, now) and before not in [one.previous for one in mechanism.amended]:
                raise InputError(
                    f"the mechanism of case '{name}' was changed without amendment. Undo the change, or add to it `amended: [{{date: "
                    f"..., reason: ..., previous: {before}, seen_on: [models that were judged]}}]` and run `biology lock`."
                )
            if now != before:
                check_answers(root, loaded, mechanism, twin)
            found[name], histories[name] = now, _history(mechanism.amended)
            if (stood := locked.mechanism_histories.get(name)) is not None:
                _check_history(
                    mechanism_path(root, case, twin),
                    "mechanism",
                    mechanism.amended,
                    histories[name],
                    stood,
                    before or now,
                )
    for name in locked.mechanisms:
        if name not in found:
            raise InputError(f"the mechanism of case '{name}' is registered but gone. Registered mechanisms stay.")
    return found, histories


def mechanism_digest(mechanism: Mechanism) -> str:
    """The digest of a mechanism for registration: variables, causal model and truths, without its words."""
    stated = mechanism.model_dump(mode="json", exclude={"says", "amended"})
    for one in stated["variables"].values():
        del one["meaning"]
        if not one["changing"]:
            del one["changing"]
    for word, default in (("attention", "either"), ("renamed", [])):
        if stated[word] == default:
            del stated[word]  # as in all mechanisms before there was the word
    return digest(stated | {"truth": {claim: one.truth for claim, one in mechanism.truth.items()}})


def registered(root: str | Path, case: str, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """The claims, with those that are not in `experiments/claims.lock` made untestable.

    Nobody may see the verdict on a claim while it can still be changed.
    """
    locked = read_lock(root).claims.get(case, {})
    silent = {"parts": (), "untestable": UNREGISTERED}
    return tuple(claim if claim.id in locked else claim.model_copy(update=silent) for claim in claims)


def judged_models(root: str | Path) -> list[str]:
    """Models that may have been judged: those of config.yaml, those of the Hub, and those whose verdicts are on disk, since a
    model may have been removed from config.yaml."""
    path = Path(root) / "config.yaml"
    data = read_yaml(path) if path.is_file() else None
    models = data.get("models") if isinstance(data, dict) else None
    verdicts = [file.parent.name for file in sorted(Path(root).glob("reports/*/verdicts.csv"))]
    return [*dict.fromkeys([*map(str, models if isinstance(models, dict) else ()), *verdicts, *known_models()])]


def refreshed_lock(root: str | Path) -> Lock:
    """The lock as `biology lock` writes it: new claims are added, amended claims replaced.

    Raises `InputError` if a locked claim, or what it depends on, was changed without an amendment that names its locked hash,
    or if a claim was removed or an expectation changed.
    """
    locked = read_lock(root)
    current: dict[str, dict[str, Registered]] = {}
    cases: dict[str, Case] = {}
    of_case: dict[str, str] = {}
    for case in discover_cases(root):
        loaded = load_case(root, case)
        cases[case] = loaded
        claims = load_claims(root, case, loaded)
        current[case] = registration_of(loaded, claims)
        for claim in claims:
            before = locked.claims.get(case, {}).get(claim.id)
            changed = before.changed(current[case][claim.id]) if before else []
            path = case_folder(root, case) / "claims.yaml"
            if other := of_case.get(claim.id):
                raise InputError(f"{path}: {claim.id}: case '{other}' has a claim of this name: give it another.")
            of_case[claim.id] = case
            if before and before.history:
                history = current[case][claim.id].history
                _check_history(path, claim.id, claim.amended, history, before.history, before.hash)
            for model in claim.expected if changed or not before else ():
                known(path, f"{claim.id}.expected", "model", model, judged_models(root))
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
                known(path, f"{claim.id}.amended.seen_on", "model", model, judged_models(root))
    for case, claims in locked.claims.items():
        for claim in claims:
            if claim not in current.get(case, {}):
                raise InputError(f"claim '{claim}' of case '{case}' is registered but gone. Registered claims stay.")
    mechanisms, histories = _mechanisms(root, cases, current, locked)
    expectations = expectation_hashes(root)
    for name, now in expectations.items():
        if locked.expectations.get(name, now) != now:
            raise InputError(f"the expectation '{name}' was changed after it was registered. Undo the change.")
    for name in locked.expectations:
        if name not in expectations:
            raise InputError(f"the expectation '{name}' is registered but gone. Registered expectations stay.")
    return Lock(claims=current, expectations=expectations, mechanisms=mechanisms, mechanism_histories=histories)
