"""The contents of `claims.yaml`: the paper's claims, and the statistic, the control and the threshold that judge
them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from biology.arms import Control, is_donor
from biology.cases.case import Case, case_folder, load_case
from biology.cases.measures import ONE, PROBABILITY, SHARE, Outcome
from biology.grammar import unknown
from biology.records import InputError, Strict, known, read_yaml, validate

Verdict = Literal["replicated", "not replicated", "inconclusive", "untestable"]
MINIMUM_N = 64
"""Smallest number of items that must pass a claim's gate on a model with `prompts:`; on elegans, claims ask for more."""
HASH = "^[0-9a-f]{64}$"
"""A hash of claims.lock."""
UNREGISTERED = "Not registered: run `biology lock` before held-out prompts are scored"
"""Reason why a claim that is not yet in claims.lock is untestable (`registration.registered`)."""
CONFIDENCE = {
    "primary": "read in the authors' own text",
    "digest": "from a digest that says it was checked against the page",
    "secondary": "from a paraphrase by others",
    "memory": "from memory, not checked",
}
"""How sure we are of what a sentence of the paper says."""


def _words(confidence: str) -> list[str]:
    return [word.strip() for word in re.sub(r"\(.*?\)", "", confidence).split(",")]


class Source(Strict):
    """Section of the paper, and how sure we are of what it says (`CONFIDENCE`)."""

    section: str
    confidence: str
    """Words of `CONFIDENCE`, separated by commas, with remarks in parentheses."""

    @field_validator("confidence")
    @classmethod
    def _known_confidence(cls, value: str) -> str:
        for word in _words(value):
            if word not in CONFIDENCE:
                raise ValueError(unknown("confidence", word, CONFIDENCE))
        return value

    @property
    def known(self) -> str:
        """The words of `confidence`, spelt out."""
        return "; ".join(CONFIDENCE[word] for word in _words(self.confidence))


class Specificity(Strict):
    """The effect must be at least `ratio` times the mean of each of these control arms."""

    arms: tuple[Control, ...] = Field(min_length=1)
    ratio: float = Field(gt=1)


class Part(Strict):
    """One measurement that a claim needs; a claim holds if all its parts hold."""

    name: str
    experiment: str
    outcome: Annotated[str, WithJsonSchema({"anyOf": Outcome.forms()})]
    """One of the experiment's outcomes."""
    control: Control | Literal["none"]
    direction: Literal["increase", "decrease", "equivalent"]
    minimum: float = Field(gt=0)
    """Smallest effect that counts, in the unit of the outcome; for `equivalent`, the margin."""
    specificity: Specificity | None = None
    ceiling: dict[Control, float] = {}
    """Largest allowed mean of a control arm."""


class Amendment(Strict):
    """Why a registered claim or mechanism was changed; `previous` is its hash in claims.lock before the change."""

    date: datetime.date
    reason: str = Field(min_length=10)
    previous: Annotated[str, WithJsonSchema({"type": "string", "pattern": HASH})]
    seen_on: tuple[str, ...] = ()
    """Models whose verdict on this claim, or on another claim of the case, was already known."""

    @field_validator("previous")
    @classmethod
    def _hash(cls, value: str) -> str:
        if not re.fullmatch(HASH, value):
            raise ValueError("give the hash that claims.lock had before the change: 64 digits from 0 to f")
        return value


class Claim(Strict):
    """One sentence of the paper and the rule that judges it, registered before the run."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str
    paper_says: str
    source: Source
    gate: str = "correct"
    """Boolean column of the `prompts` table; only items for which it is true are scored."""
    parts: tuple[Part, ...] = ()
    untestable: str | None = None
    """Why no model of this project can be asked (no prompts, or the ability is missing); the claim then has no
    parts."""
    minimum_n: int = Field(default=256, gt=0)
    """Smallest number of items that must pass the gate."""
    registered: datetime.date
    amended: tuple[Amendment, ...] = ()
    expected: dict[str, Verdict] = {}
    """Expected verdict on models that lack the mechanism, written down before they were trained."""

    @model_validator(mode="after")
    def _parts_or_reason(self) -> Claim:
        if bool(self.parts) == bool((self.untestable or "").strip()):
            raise ValueError("a claim has either parts or a reason why it is `untestable`.")
        return self

    def explores(self, model: str) -> bool:
        """Whether the claim was changed after its first verdict on a model, so that on this model it is exploratory."""
        return any(model in amendment.seen_on for amendment in self.amended)

    def outdates(self, verdict: Mapping[str, Any]) -> bool:
        """Whether a row of table `verdicts` is on this claim as it was before an amendment."""
        return verdict["amendments"] < len(self.amended)

    @field_validator("amended", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


def load_claims(root: str | Path, name: str, case: Case | None = None) -> tuple[Claim, ...]:
    """The claims of a case, in the order of its `claims.yaml` (a mapping from a claim's id to its fields).

    `case` is that case, if it is already loaded.
    """
    path = case_folder(root, name) / "claims.yaml"
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping from claim id to claim.")
    case = case or load_case(root, name)
    columns = gates(case)
    claims = []
    for key, fields in data.items():
        if not isinstance(fields, dict):
            raise InputError(f"{path}: {key}: expected a mapping of fields.")
        if "id" in fields:
            raise InputError(f"{path}: {key}: unknown key 'id'. The id of a claim is its key in the file.")
        claim = validate(Claim, {"id": key, **fields}, path, where=str(key))
        for text in ("title", "paper_says"):
            if not getattr(claim, text).strip():
                raise InputError(f"{path}: {key}.{text}: is empty.")
        known(path, f"{key}.gate", "gate", claim.gate, columns)
        names = [part.name for part in claim.parts]
        for number, part in enumerate(claim.parts):
            where = f"{key}.parts.{part.name}"
            if not part.name.strip():
                raise InputError(f"{path}: {key}.parts.{number}.name: is empty.")
            if part.name in names[:number]:
                raise InputError(f"{path}: {where}: two parts have this name.")
            _check_part(path, where, part, case)
            if twin := next((one.name for one in claim.parts[:number] if _asked(one) == _asked(part)), None):
                raise InputError(f"{path}: {where}: it asks what part '{twin}' asks.")
        claims.append(claim)
    return tuple(claims)


def _asked(part: Part) -> tuple[object, ...]:
    """What a part measures, against what, and in which direction."""
    return part.experiment, part.outcome, part.control, part.direction


def gates(case: Case) -> list[str]:
    """The Boolean columns of table `prompts` (`behaviour.prompts_table`)."""
    columns = {column for one in (*case.prompts.values(), *case.items) for column in one.factors}
    columns |= {str(getattr(one, "donor", "")) for one in case.experiments.values()}
    return ["correct", *(f"correct_with_{column}" for column in sorted(columns) if is_donor(column))]


def _check_part(path: Path, where: str, part: Part, case: Case) -> None:
    """Raises InputError if a part names something its experiment does not measure, or asks for more than is
    possible."""
    known(path, where, "experiment", part.experiment, case.experiments)
    known(path, where, "outcome", part.outcome, case.experiments[part.experiment].outcomes, part.experiment)
    arms, of = case.arms(part.experiment, part.outcome), f"{part.outcome} in {part.experiment}"
    known(path, f"{where}.control", "control", part.control, [*arms, "none"], of)
    for number, arm in enumerate(named := part.specificity.arms if part.specificity else ()):
        if arm in named[:number]:
            raise InputError(f"{path}: {where}.specificity: '{arm}' is listed twice.")
        known(path, f"{where}.specificity", "control", arm, arms, of)
    if part.direction == "equivalent" and part.specificity:
        raise InputError(f"{path}: {where}.specificity: the part asks that nothing changes: leave it out.")
    for arm in part.ceiling:
        known(path, f"{where}.ceiling", "control", arm, arms, of)
    form = Outcome(part.outcome).form
    for key, value in {
        "minimum": part.minimum,
        **{f"ceiling.{arm}": bound for arm, bound in part.ceiling.items()},
    }.items():
        below = value < 0 and form.unit in (ONE, SHARE, PROBABILITY)
        if below or (form.reach is not None and abs(value) > form.reach):
            raise InputError(f"{path}: {where}.{key}: {value:g} cannot be reached: {part.outcome} is a {form.unit}.")
