"""Registration: what was stated before the run, bound by hashes in `experiments/claims.lock`.

A claim changed after the fact is an error unless it says `amended:` and why, and so is a change of what its numbers rest on:
the experiments that its parts name, the supernodes that these hold or watch, and the prompt set (where it is asked of a model of an
extended corpus alone, that one's too). A new claim is untestable until
it is registered, and is no concern of the others; an expectation of what a model nobody has run will show
(`experiments/expectations.yaml`) may not be changed at all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from pydantic import Field

from biology.case import Case, discover_cases, load_case
from biology.claim_file import UNREGISTERED, Claim, Verdict, load_claims
from biology.config import InputError, Strict, known, read_yaml, validate
from biology.prompts import PROMPT_SETS
from biology.twins import EXTENDED, prompts_of

EXPECTATIONS = "expectations"
"""Under this name `claims.lock` keeps what was expected of models before anyone ran them."""
RULES = "/rules"
"""Behind the name of a case: what its claims rest on."""


class Expectation(Strict):
    """A verdict that we expect of a model that nobody here has run, and what the expectation rests on."""

    verdict: Verdict
    because: str = Field(min_length=10)


def load_expectations(root: str | Path) -> dict[str, dict[str, dict[str, Expectation]]]:
    """`experiments/expectations.yaml`: {model: {case: {claim: expectation}}}; empty if there is no such file.

    Raises `InputError` for a case or claim that there is not.
    """
    path = Path(root) / "experiments" / "expectations.yaml"
    if not path.is_file():
        return {}
    found = validate(_ExpectationsFile, {"models": read_yaml(path)}, path).models
    for model, cases in found.items():
        for case, expected in cases.items():
            known(path, model, "case", case, discover_cases(root))
            claims = [claim.id for claim in load_claims(root, case)]
            for claim in expected:
                known(path, f"{model}.{case}", "claim", claim, claims)
    return found


class _ExpectationsFile(Strict):
    models: dict[str, dict[str, dict[str, Expectation]]]


def _expectations_lock(root: str | Path) -> dict[str, str]:
    """SHA-256 of each expectation, as `model/claim`."""
    return {
        f"{model}/{claim}": hashlib.sha256(expectation.model_dump_json().encode()).hexdigest()
        for model, cases in load_expectations(root).items()
        for expected in cases.values()
        for claim, expectation in expected.items()
    }


def claims_lock(claims: tuple[Claim, ...]) -> dict[str, str]:
    """SHA-256 of each claim by id: of its canonical JSON without `amended`, so that comments and layout do not matter.

    Defaults are hashed like stated values, so that changing a default is a change too; empty fields are not, so that
    a new optional field leaves the old claims as they were.
    """
    return {claim.id: _digest(claim.model_dump(mode="json", exclude={"amended"})) for claim in claims}


def rules_lock(case: Case, claims: tuple[Claim, ...]) -> dict[str, str]:
    """SHA-256 of what the numbers of each claim rest on, by id; claims without parts rest on nothing.

    Of an experiment the outcomes that nobody judges may change, but not the first, by which development prompts choose
    strengths; nor does it matter on which named prompts it is shown, and what a supernode is called.
    """
    items = _digest([item.model_dump(mode="json") for item in case.items])
    return {
        claim.id: _digest({"items": items, **_rests_on(case, claim)} | _elsewhere(case, claim))
        for claim in claims
        if claim.parts
    }


def _elsewhere(case: Case, claim: Claim) -> dict[str, Any]:
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
    return {"extended": {name: prompts_of(case.name, name, words).to_dict("records") for name in EXTENDED}}


def _rests_on(case: Case, claim: Claim) -> dict[str, Any]:
    names = [part.experiment for part in claim.parts]
    for name in names:  # grows: a contrast rests on two others
        names += [other for other in case.experiments[name].rests_on if other not in names]
    judged = {part.outcome for part in claim.parts}
    experiments, held = {}, set()
    for name in names:
        experiment = case.experiments[name]
        outcomes = [one for one in experiment.outcomes if one == experiment.outcomes[0] or one in judged]
        experiments[name] = _stated(experiment, "prompts", "outcomes") | {"outcomes": outcomes}
        held |= experiment.names(outcomes) & set(case.supernodes)
    supernodes = {name: _stated(case.supernodes[name], "label") for name in held}
    named = {one for name in held for rule in [case.supernodes[name]] for one in (*rule.active_on, *rule.silent_on)}
    prompts = {name: case.prompts[name].text for name in named}
    operands = case.operands and _stated(case.operands)
    return {"experiments": experiments, "supernodes": supernodes, "prompts": prompts, "operands": operands}


def _stated(record: Strict, *without: str) -> dict[str, Any]:
    """What a file says; a field that is left out is not hashed, so that a new one changes nothing that was locked."""
    return record.model_dump(mode="json", exclude=set(without), exclude_defaults=True)


def _digest(stated: Any) -> str:
    text = json.dumps(_without_empty(stated), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, [], {})}
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


class _LockFile(Strict):
    cases: dict[str, dict[str, str]]


def read_lock(root: str | Path) -> dict[str, dict[str, str]]:
    """`experiments/claims.lock`: {case: {claim: sha256}}; empty if the file does not exist yet."""
    path = Path(root) / "experiments" / "claims.lock"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from None
    return validate(_LockFile, {"cases": found}, path).cases


def check_lock(root: str | Path) -> None:
    """Raises `InputError` unless every claim of `experiments/claims.lock` is on disk as it was registered.

    A claim on disk that is not in there is no error (see `registered`); an expectation is.
    """
    locked, current = read_lock(root), refreshed_lock(root)
    for case, hashes in current.items():
        for claim, digest in hashes.items():
            before = locked.get(case, {}).get(claim)
            if before is None and case == EXPECTATIONS:
                raise InputError(f"the expectation '{claim}' is not registered: run `biology lock`.")
            unlocked = case.endswith(RULES) and before is None and claim in locked.get(case.removesuffix(RULES), {})
            if unlocked or (before is not None and before != digest):
                where = case.removesuffix(RULES)
                raise InputError(f"claim '{claim}' of case '{where}' is amended but not locked: run `biology lock`.")


def registered(root: str | Path, case: str, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """The claims, those that are not in `experiments/claims.lock` made untestable.

    Nobody may see how a claim would turn out while it can still be changed.
    """
    locked = read_lock(root).get(case, {})
    silent = {"parts": (), "untestable": UNREGISTERED}
    return tuple(claim if claim.id in locked else claim.model_copy(update=silent) for claim in claims)


def refreshed_lock(root: str | Path) -> dict[str, dict[str, str]]:
    """The lock as `biology lock` writes it: new claims are added, amended claims replaced.

    Raises `InputError` if a locked claim was changed without an amendment that names its locked hash, or was removed.
    """
    locked = read_lock(root)
    current: dict[str, dict[str, str]] = {}
    for case in discover_cases(root):
        claims = load_claims(root, case)
        current[case], current[case + RULES] = claims_lock(claims), rules_lock(load_case(root, case), claims)
        for claim, part in itertools.product(claims, ("", RULES)):
            stood = locked.get(case, {}).get(claim.id)
            before = locked.get(case + part, {}).get(claim.id)
            changed = before is not None and before != current[case + part].get(claim.id)
            # an amendment of the claim speaks for what its new parts rest on too
            named = {before} | ({stood} if stood != current[case][claim.id] else set())
            if changed and not named & {amendment.previous for amendment in claim.amended}:
                what = "what it rests on (experiments and supernodes of case.yaml, or the prompt set)" if part else "it"
                raise InputError(
                    f"claim '{claim.id}' of case '{case}': {what} was changed without amendment. Undo the change, or add to the "
                    f"claim `amended: {{date: ..., reason: ..., previous: {before}, seen_on: [models that were judged]}}` and "
                    "run `biology lock`."
                )
    expectations = _expectations_lock(root)
    for name, digest in expectations.items():
        if locked.get(EXPECTATIONS, {}).get(name, digest) != digest:
            raise InputError(f"the expectation '{name}' was changed after it was registered. Undo the change.")
    current |= {EXPECTATIONS: expectations} if expectations else {}
    for case, hashes in locked.items():
        for claim in hashes:
            if claim not in current.get(case, {}) and not case.endswith(RULES):
                raise InputError(f"claim '{claim}' of case '{case}' is registered but gone. Registered claims stay.")
    return current
