"""A case study is a folder: `experiments/<case>/{README.md, case.yaml, claims.yaml, prompts.csv, case.py}`.

There is no registry. A folder of `experiments/` that holds a `case.yaml`, and whose name does not start with `_`, is
a case; copying `experiments/_template/` makes a new one. `case.yaml` holds how things are measured and shown: prompts,
supernode rules (`rules.py`), experiments (`experiments.py`), figures. `claims.yaml` (`claim_file.py`) holds what must change
loudly: what the paper says, and the statistic, the control and the threshold by which we judge it.
`experiments/claims.lock` keeps hashes of every claim and of the rules and interventions that it rests on, so that a
threshold or a rule changed after the fact is an error unless the claim says `amended:` and why (`registration.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from biology.config import InputError, Strict, known, read_yaml, refused_name, validate
from biology.experiments import Census, Experiment, Measurement
from biology.items import ITEM_COLUMNS, Item, items_of, read_items
from biology.rules import Operands, Stream, SupernodeRule

PAGES = ("atlas", "steer")
"""Pages of a model, beside which those of its cases lie."""
Kind = TypeVar("Kind", bound=Measurement)


class Paper(Strict):
    """Where the paper treats this case."""

    section: str
    url: str


class Prompt(Strict):
    """One prompt shown by name. Prompts are exploratory unless they say `split: registered`."""

    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    split: Literal["registered", "exploratory"] = "exploratory"
    factors: dict[str, str] = {}
    """What the prompt is about, under the names of the free columns of `prompts.csv`, e.g. {state: Texas}."""


class _CaseFile(Strict):
    paper: Paper
    prompts: dict[str, Prompt]
    prompt_set: str | None = None
    prompt_sets: dict[str, str] = {}
    """Further prompt sets by name, for models that say `prompts: <name>`."""
    supernodes: dict[str, SupernodeRule] = {}
    experiments: dict[str, Experiment] = {}
    operands: Operands | None = None
    streams: dict[str, Stream] = {}
    figures: tuple[str, ...] = ()


class Case(Strict):
    """A case study as read from its folder."""

    name: str
    folder: Path
    paper: Paper
    prompts: dict[str, Prompt]
    """The named prompts, shown in figures."""
    items: tuple[Item, ...] = ()
    """The prompt set, judged by the claims."""
    supernodes: dict[str, SupernodeRule] = {}
    experiments: dict[str, Experiment] = {}
    operands: Operands | None = None
    streams: dict[str, Stream] = {}
    figures: tuple[str, ...] = ()
    first_token: bool = False
    """Whether an answer of several tokens stands for its first one: in the prompt sets for models whose vocabulary is not
    made for them. Otherwise it is an error."""

    def of_kind(self, *kinds: type[Kind]) -> dict[str, Kind]:
        """The experiments of some kinds, or of all that are based on them, by name."""
        return {name: one for name, one in self.experiments.items() if isinstance(one, kinds)}


def discover_cases(root: str | Path, prompts: str | None = None) -> list[str]:
    """Names of the cases below `root/experiments`, sorted; with `prompts`, of those that have a prompt set of that name.

    Raises `InputError` for a folder whose name no case can have.
    """
    found = [path for path in Path(root).glob("experiments/*/case.yaml") if not path.parent.name.startswith("_")]
    for path in found:
        _named(path.parent)
    if prompts is not None:
        found = [path for path in found if prompts in validate(_CaseFile, read_yaml(path), path).prompt_sets]
    return sorted(path.parent.name for path in found)


def _named(folder: Path) -> None:
    """Raises `InputError` if the folder's name cannot be a case's."""
    problem = refused_name(folder.name)
    if folder.name in PAGES:
        problem = f"'{folder.name}' is a page of every model (reports/<model>/{folder.name}.html): rename it"
    if problem:
        raise InputError(f"{folder}: {problem}.")


def case_folder(root: str | Path, name: str) -> Path:
    folder = Path(root) / "experiments" / name
    if refused_name(name) or not (folder / "case.yaml").is_file():
        known = ", ".join(discover_cases(root)) or "none"
        raise InputError(f"unknown case '{name}': {folder / 'case.yaml'} does not exist. Known cases: {known}.")
    return folder


def load_case(root: str | Path, name: str, prompts: str | None = None) -> Case:
    """The case study `root/experiments/<name>`; with `prompts`, a set of its `prompt_sets` in the place of `prompt_set`.

    Raises `InputError` that names the file and what is wrong in it.
    """
    folder = case_folder(root, name)
    path = folder / "case.yaml"
    file = validate(_CaseFile, read_yaml(path), path)
    prompt_set = file.prompt_set
    if prompts is not None:
        known(path, "prompt_sets", "prompt set", prompts, file.prompt_sets)
        prompt_set = file.prompt_sets[prompts]
    items = read_items(folder / prompt_set) if prompt_set else ()
    for item in items:
        if item.item in file.prompts:
            raise InputError(f"{folder / str(prompt_set)}: item '{item.item}' is also a prompt of case.yaml.")
    for label, rule in file.supernodes.items():
        if rule.operands and not file.operands:
            raise InputError(f"{path}: supernodes.{label}: a rule on operands needs `operands:` in case.yaml.")
        for prompt in (*rule.active_on, *rule.silent_on):
            known(path, f"supernodes.{label}", "prompt", prompt, file.prompts)
    factors = {*ITEM_COLUMNS, *(name for one in (*items, *file.prompts.values()) for name in one.factors)}
    for label, experiment in file.experiments.items():
        where = f"experiments.{label}"
        for factor in experiment.only:
            known(path, f"{where}.only", "factor", factor, sorted(factors))
        for supernode in experiment.held:
            known(path, where, "supernode", supernode, file.supernodes)
        if isinstance(experiment, Census) and file.supernodes[experiment.through].factor is None:
            raise InputError(f"{path}: {where}.through: the rule of supernode '{experiment.through}' has no factor.")
        for other in experiment.rests_on:
            known(path, where, "experiment", other, file.experiments)
        for prompt in getattr(experiment, "prompts", ()):
            known(path, where, "prompt", prompt, file.prompts)
    fields = {key: value for key, value in file if key not in ("prompt_set", "prompt_sets")}
    return Case(name=name, folder=folder, items=items, first_token=prompts is not None, **fields)


def fingerprint(case: Case, *fields: str) -> str:
    """SHA-256 of some fields of a case: a parameter of the rules, so that a stage runs again for what it reads only."""
    chosen = case.model_dump_json(include=set(fields))
    return hashlib.sha256(chosen.encode()).hexdigest()[:16]


def with_items(case: Case, rows: Sequence[Mapping[str, str]], source: str) -> Case:
    """The case with another prompt set, such as that of a twin; `source` is named where a row is wrong."""
    return case.model_copy(update={"items": items_of(Path(source), list(rows[0]) if rows else [], rows)})
