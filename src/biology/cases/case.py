"""A case study is a folder: `experiments/<case>/{README.md, case.yaml, claims.yaml, prompts.csv, mechanism.yaml, case.py}`.

There is no registry. Every folder of `experiments/` that holds a `case.yaml` and whose name does not start with `_` is
a case; `biology new-case` makes a new one. `case.yaml` says how things are measured and shown: prompts,
supernode rules (`rules.py`), experiments (`experiments.py`), figures. `claims.yaml` (`claim_file.py`) holds what must
not change unnoticed: the paper's claims, and the statistic, the control and the threshold that judge them.
`experiments/claims.lock` keeps hashes of every claim and of everything its numbers depend on. A threshold or a rule
that changes after the fact is an error unless the claim says `amended:` and why (`registration.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from biology.arms import CONTROLS
from biology.cases.case_checks import check_case
from biology.cases.case_file import CaseFile, Paper, Prompt, Story
from biology.cases.experiments import Contrast, Crossover, Experiment, Scale
from biology.cases.facts import Facts
from biology.cases.items import Item, first_items, items_of, read_items
from biology.cases.measurement import Measurement
from biology.cases.measures import Outcome
from biology.cases.positions import CHAT
from biology.cases.rules import Operands, Stream, SupernodeRule
from biology.grammar import nearest, refused_name
from biology.records import InputError, Strict, known, read_yaml, validate

PAGES = ("atlas", "steer", "lab")
"""Pages of a model; those of its cases are in the same folder."""
FORMERLY = {
    "across": "apart", "control_position": "elsewhere", "false_positive_rate": "elsewhere", "given": "keeps", "inhibit_share": "suppress",
    "max_members": "most", "max_words": "most", "min_words": "least", "not_promotes": "spares", "unless": "spares",
}  # fmt: skip
"""Keys of case files that had other names when claims were first registered. Hashes are taken of these names, so that registrations and
results hold."""
Kind = TypeVar("Kind", bound=Measurement)


class Case(Strict):
    """A case study as read from its folder."""

    name: str
    folder: Path
    paper: Paper
    prompts: dict[str, Prompt]
    """The named prompts, for figures."""
    prompt_set: str | None = None
    prompt_sets: dict[str, str] = {}
    items: tuple[Item, ...] = ()
    """The prompt set, on which claims are judged."""
    supernodes: dict[str, SupernodeRule] = {}
    experiments: dict[str, Experiment] = {}
    operands: Operands | None = None
    streams: dict[str, Stream] = {}
    story: Story | None = None
    figures: tuple[str, ...] = ()
    first_token: bool = False
    """Whether the first token of an answer of several tokens counts as the answer. True for the prompt sets of models
    with a vocabulary of their own; otherwise such an answer is an error."""

    def of_kind(self, *kinds: type[Kind]) -> dict[str, Kind]:
        """The experiments of the given kinds and their subclasses, or all, by name."""
        return {name: one for name, one in self.experiments.items() if isinstance(one, kinds)}

    def arms(self, name: str, outcome: str) -> tuple[str, ...]:
        """The control arms of an outcome of an experiment: those that the experiment lists, and those that the outcome
        always has."""
        experiment, form = self.experiments[name], Outcome(outcome).form
        if isinstance(experiment, Scale):
            return ("smaller",)
        if isinstance(experiment, Crossover):
            return ()
        if isinstance(experiment, Contrast):
            each = [set(self.arms(other, term)) for other in experiment.of for term in Outcome(outcome).arguments]
            return tuple(arm for arm in CONTROLS if all(arm in arms for arms in each))
        listed = [arm for arm in getattr(experiment, "controls", ()) if form.controls is None or arm in form.controls]
        return (*listed, *(arm for arm in form.beside if arm not in listed))


def discover_cases(root: str | Path, prompts: str | None = None) -> list[str]:
    """Names of the cases below `root/experiments`, sorted; with `prompts`, only those with a prompt set of that name.

    Raises `InputError` for a folder whose name is not allowed.
    """
    found = [path for path in Path(root).glob("experiments/*/case.yaml") if not path.parent.name.startswith("_")]
    for path in found:
        _named(path.parent)
    if prompts is not None:
        found = [path for path in found if prompts in validate(CaseFile, read_yaml(path), path).prompt_sets]
    return sorted(path.parent.name for path in found)


def _named(folder: Path) -> None:
    """Raises `InputError` if the folder's name is not allowed for a case."""
    problem = refused_name(folder.name)
    if folder.name in PAGES:
        problem = f"'{folder.name}' is a page of every model (reports/<model>/{folder.name}.html): rename it"
    if problem:
        raise InputError(f"{folder}: {problem}.")


def case_folder(root: str | Path, name: str) -> Path:
    """The folder of a case. Raises `InputError`, with the nearest name, if there is none."""
    folder = Path(root) / "experiments" / name
    if refused_name(name) or not (folder / "case.yaml").is_file():
        found = discover_cases(root)
        hint = nearest(name.replace("-", "_").replace(" ", "_"), found)
        raise InputError(
            f"unknown case '{name}': {folder / 'case.yaml'} does not exist.{hint} Known cases: {', '.join(found) or 'none'}. How to add "
            "one: docs/how_to/add_a_case.md."
        )
    return folder


def load_case(root: str | Path, name: str, prompts: str | None = None, at_most: int | None = None) -> Case:
    """The case study `root/experiments/<name>`; with `prompts`, that one of its `prompt_sets` replaces `prompt_set`; with `at_most`,
    a small part of it does (`items.first_items`).

    Raises `InputError` with the file and the mistake in it.
    """
    folder = case_folder(root, name)
    return _checked(folder, name, prompts, at_most, _contents(folder))


def _contents(folder: Path) -> str:
    """A hash of the files that a case is read from."""
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".yaml", ".csv") and path.is_file():
            content.update(f"{path}\n".encode() + path.read_bytes())
    return content.hexdigest()


@lru_cache(maxsize=16)  # one command asks for a case many times: for its claims, its verdicts, each of its pages
def _checked(folder: Path, name: str, prompts: str | None, at_most: int | None, contents: str) -> Case:
    path = folder / "case.yaml"
    file = validate(CaseFile, read_yaml(path), path)
    prompt_set = file.prompt_set
    if prompts is not None:
        known(path, "prompt_sets", "prompt set", prompts, file.prompt_sets)
        prompt_set = file.prompt_sets[prompts]
    items = read_items(folder / prompt_set) if prompt_set else ()
    for item in items:
        if item.item in file.prompts:
            raise InputError(f"{folder / str(prompt_set)}: item '{item.item}' is also a prompt of case.yaml.")
    further = [
        other
        for other in dict.fromkeys([file.prompt_set, *file.prompt_sets.values()])
        if other not in (None, prompt_set)
    ]
    for other in further:
        if not (folder / str(other)).is_file():
            raise InputError(f"{path}: prompt_sets: there is no file {folder / str(other)}.")
    shown = {
        name: {"item": name, "text": p.text, "answer": p.answer, "cluster": name, "split": p.split, "role": "show", **p.factors, **({CHAT: "true"} if p.chat else {})}
        for name, p in file.prompts.items()
    }  # fmt: skip
    facts = Facts(
        path,
        shown,
        _rows(items),
        file.extended,
        lambda: [row for other in further for row in _rows(read_items(folder / str(other)))],
    )
    check_case(file, facts)
    items = items if at_most is None else first_items(items, at_most)
    fields = {key: value for key, value in file if key != "extended"}
    return Case(name=name, folder=folder, items=items, first_token=prompts is not None, **fields)


def _rows(items: Sequence[Item]) -> list[dict[str, str]]:
    """Prompts with all their columns."""
    return [
        {"item": i.item, "text": i.text, "answer": i.answer, "cluster": i.cluster, "split": i.split, "role": i.role, **i.factors}
        for i in items
    ]  # fmt: skip


def fingerprint(case: Case, *fields: str) -> str:
    """SHA-256 of some fields of a case. As a parameter of a rule it reruns the stage only when a field that it reads
    has changed."""
    chosen = case.model_dump_json(include=set(fields))
    for new in (',"chat":false', ',"difference_share":null'):  # as in all cases before there were these words
        chosen = chosen.replace(new, "")
    for now, before in FORMERLY.items():
        chosen = chosen.replace(f'"{now}":', f'"{before}":')
    return hashlib.sha256(chosen.encode()).hexdigest()[:16]


def with_items(case: Case, rows: Sequence[Mapping[str, str]], source: str) -> Case:
    """The case with another prompt set, such as a twin's; `source` is named in errors about its rows."""
    return case.model_copy(update={"items": items_of(Path(source), list(rows[0]) if rows else [], rows)})


def titles(case: Case | None, item: str) -> dict[str, str]:
    """The titles of a named prompt's supernodes: their `label`, with the prompt's factors filled in."""
    if case is None or item not in case.prompts:
        return {}
    values = {**case.prompts[item].factors, "answer": case.prompts[item].answer.strip()}
    try:
        return {name: rule.label.format_map(values) for name, rule in case.supernodes.items() if rule.label}
    except (KeyError, ValueError) as error:
        raise InputError(
            f"case '{case.name}': a supernode's label asks for {error}, which prompt '{item}' lacks."
        ) from None


def called(case: Case, supernode: str, values: Mapping[str, str]) -> str:
    """The title of a supernode on a prompt with these factors: its label, or its name if the label needs a factor that
    is missing."""
    label = case.supernodes[supernode].label if supernode in case.supernodes else ""
    try:
        return label.format_map(values) or supernode.replace("_", " ")
    except (KeyError, ValueError):
        return supernode.replace("_", " ")


def title_on(case: Case, supernode: str, item: str) -> str:
    """The title of a supernode on a named prompt, as `called` makes it."""
    prompt = case.prompts[item]
    return called(case, supernode, {**prompt.factors, "answer": prompt.answer.strip()})
