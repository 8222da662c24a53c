"""A case study is a folder: `experiments/<case>/{README.md, case.yaml, claims.yaml, prompts.csv, case.py}`.

There is no registry. A folder of `experiments/` that holds a `case.yaml`, and whose name does not start with `_`, is
a case; copying `experiments/_template/` makes a new one. `case.yaml` holds how things are measured and shown (prompts,
supernode rules, interventions, figures). `claims.yaml` holds what must change loudly: what the paper says, and the
statistic, the control and the threshold by which we judge it. `experiments/claims.lock` keeps hashes of every claim and of
the rules and interventions that it rests on, so that a threshold or a rule changed after the fact is an error unless the
claim says `amended:` and why (`registration.py`).
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from biology.config import InputError, Strict, read_yaml, refused_name, validate

Verdict = Literal["replicated", "not replicated", "inconclusive", "untestable"]
CONTROLS = ("match", "donor", "position", "shuffle", "direction", "clean", "random", "smaller")
"""Control arms of the `evidence` table; the remaining arm is `effect`."""
BEST = "best"
"""As `elsewhere` of an experiment: the position at which its push does most, of those where it does not belong."""
UNREGISTERED = "Not registered: run `biology lock` before held-out prompts are scored"
"""Why a claim that is not in claims.lock yet is untestable (`registration.registered`)."""
PAGES = ("atlas", "steer")
"""Pages of a model, beside which those of its cases lie."""
ITEM_COLUMNS = ("item", "text", "answer", "cluster", "split", "role")


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


class Item(Strict):
    """One row of `prompts.csv`. Rules and strengths are fixed on `dev` items with role `select`; claims read
    `heldout`."""

    item: str = Field(min_length=1)
    text: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    split: Literal["dev", "heldout"]
    role: Literal["select", "score"]
    factors: dict[str, str] = {}
    """The free columns, e.g. {city: Dallas, relation: capital, place: Texas}."""

    def meets(self, only: Mapping[str, str]) -> bool:
        """Whether it has these levels of factors."""
        return all(self.factors.get(factor) == level for factor, level in only.items())


class OperandCondition(Strict):
    """What a feature's operand plot must show (see `operands.py`): its family, and what its condition is about."""

    family: Literal["add", "lookup", "sum"]
    digit: tuple[Literal["ones", "range", "periodic"], ...] = ()
    """Any of these; empty: whatever it is about."""
    at: str | None = None
    """Where the operand plot is read; by default where the supernode is."""


class Operands(Strict):
    """Which prompts form the grid of two operands on which features are read, and under which factors these stand."""

    first: str
    second: str
    only: dict[str, str] = {}
    """Restricts the grid to prompts with these levels of factors; prompts with role `select` fill it."""


class SupernodeRule(Strict):
    """How to find the members of a supernode: a rule over activations and decoders, never over the graph or an effect.

    A feature is a member if it meets all conditions that are given.
    """

    at: str = "last"
    """Token position: `last`, an index such as `-2`, a literal token as `token:Dallas`, or the last piece of a
    factor of the prompt as `factor:city`."""
    factor: str | None = None
    """The features that tell the levels of this factor apart (one set per level): active on prompts of the level,
    silent elsewhere, by `precision` and `recall` over prompts with role `select`."""
    precision: float = Field(default=0.9, ge=0, le=1)
    """Of the selecting prompts on which a member fires, the share that is of its level."""
    recall: float = Field(default=0.9, ge=0, le=1)
    """Of the selecting prompts of its level, the share on which a member fires."""
    elsewhere: float = Field(default=1.0, ge=0, le=1)
    """Of the selecting prompts of other levels, the largest share on which a member may fire."""
    split: Literal["dev", "any"] = "dev"
    """Which prompts select: those of development clusters only, or any (then name columns in `apart`)."""
    apart: tuple[str, ...] = ()
    """Columns in which every selecting prompt must differ from the prompt that is scored."""
    active_on: tuple[str, ...] = ()
    """Named prompts on which the feature must be active at that position."""
    silent_on: tuple[str, ...] = ()
    """Named prompts on which it must not be."""
    operands: OperandCondition | None = None
    """Condition on the feature's operand plot (needs `operands:` in case.yaml)."""
    promotes: tuple[str, ...] = ()
    """Tokens, one of which must be among the `top` tokens that the decoder promotes. `answer` stands for the
    prompt's own answer, `answers` for those of all prompts of the level."""
    spares: tuple[str, ...] = ()
    """Tokens that must not be among the `top` promoted ones (`answer`, `answers` as above), so that an injection
    does not simply inject the answer."""
    top: int = Field(default=10, gt=0)
    layers: tuple[int, int] | None = None
    """First and last layer, both included."""
    most: int | None = Field(default=None, gt=0)
    """Keeps so many with the largest recall."""
    label: str = ""
    """What figures call it; factors of the prompt and `answer` may stand in braces: `say a {relation}`, `say
    {answer}`."""

    @property
    def as_read(self) -> SupernodeRule:
        """The same rule where its operand plots are read."""
        return self.model_copy(update={"at": (self.operands and self.operands.at) or self.at})


class Stream(Strict):
    """A question without transcoders: does the mean residual stream of prompts that share a level carry that level alone?

    The mean is taken at the last token over prompts with role `select`, and put in the place of the scored prompt's own.
    """

    factor: str
    """Whose level the donor's mean is of, such as the place that the donor's answer is about."""
    apart: tuple[str, ...] = ()
    """Columns in which the prompts of the mean must differ from the scored prompt *and* from its donor, so that the level is all that
    they share with it."""
    donor: str = "donor"
    """Column with the donor; `wrong_<donor>` names the control's."""
    expected: str | None = None
    """Factor with the answer that is counted; by default the donor's own answer."""
    only: dict[str, str] = {}


class Line(Strict):
    """The line of a poem that is written after the prompt, and what its words are asked about."""

    ends: str
    """Factor whose levels (of all prompts) are the words that can end a line; a prompt's own level is the one it plans."""
    family: str
    """Factor whose level planned words that rhyme share."""
    least: int = Field(default=1, gt=0)
    """Words that stand before the last one at least; a line that ends sooner has no end that counts."""
    most: int = Field(default=12, gt=0)
    """Words at which an unfinished line is given up."""
    forced: dict[int, str] = {}
    """Words that are not left to the model: number in the line (from 0), and the factor that holds the prompt's word."""
    hidden: bool = False
    """Whether the line is written without sight of what stands before the prompt's last token."""
    samples: int = Field(default=0, ge=0)
    """Lines sampled for a prompt and arm at temperature 1 (of matched sets one each); 0: one line, the most probable."""


class Experiment(Strict):
    """One measurement on every scored prompt, with its controls beside it.

    `inhibit` holds a supernode at M times its clean activation (1 does nothing, 0 ablates, -1 flips the sign);
    `swap` holds one at -M times and another at M times its activation on the donor prompt; `inject` does the latter
    alone. `exchange` replaces the residual stream at a position, in all layers, by the donor's; no transcoder is involved.
    With a `line`, whole lines are written under the perturbation (see `lines.py`).

    The others perturb nothing: `graph`, path shares of the attribution graph; `signs`, whether its signs foretell the
    effects of inhibitions; `census`, what the features at a position tell (`census.py`); `classes`, `wiring`, `connectivity`
    and `reuse`, what operand plots say of active features (`operand_tables.py`); `sharing`, what prompts of several languages have in
    common (`sharing.py`); `contrast`, two experiments item by item, `crossover`, how much the strength at which a swap
    takes over varies between levels of a factor, and `scale`, one experiment on models of two sizes (`contrasts.py`).
    """

    kind: Literal[
        "inhibit", "inject", "swap", "exchange", "graph", "signs", "census", "classes", "wiring", "connectivity",
        "reuse", "sharing", "contrast", "crossover", "scale",
    ]  # fmt: skip
    inhibit: str | None = None
    """Supernode held at multiples of its clean activation."""
    inject: str | None = None
    """Supernode of the donor prompt."""
    donor: str = "donor"
    """Column of the prompt set that names the donor prompt; that of the wrong donor is called `wrong_<donor>`."""
    only: dict[str, str] = {}
    """Restricts the scored prompts to those with these levels of factors."""
    strengths: tuple[float, ...] = (0.0,)
    """Multipliers M; where there are several, development prompts decide."""
    suppress: float = Field(default=1.0, ge=0)
    """`swap`: what is inhibited is held at minus this share of M times its clean activation."""
    depths: tuple[float, ...] = (1.0,)
    """Constrained patching: share of the layers that are held, from below; development prompts decide."""
    direction: Literal["increase", "decrease"] = "increase"
    """Where the first outcome is to go when development prompts decide."""
    attention: Literal["frozen", "live"] = "frozen"
    """Whether attention patterns stay as on the clean prompt, as in the attribution graph, or follow the perturbation."""
    elsewhere: str = "1"
    """Position (as in a supernode's `at`) of the `position` control. `best`, where lines are written at `sites`: the one of them,
    other than the supernodes' own, at which the same push moves the first outcome most on development prompts of the model."""
    dose: bool = False
    """Whether all strengths are also run on the held-out prompts, for the dose-response figure (judged by no claim)."""
    line: Line | None = None
    """How the line is written that outcomes are about."""
    at: str = "last"
    """`exchange`: the position, as in a supernode's `at`."""
    sites: tuple[str, ...] = ()
    """Positions, as in a supernode's `at`: a line is also written with the same push at each, for the sweep figure;
    `census`: where else it is looked."""
    through: str | None = None
    """`graph`: the supernode that paths pass through; `census`: the supernode that is looked for."""
    source: str | None = None
    """`graph`: the factor at whose tokens the paths of `shortcut` and `source_share` start."""
    of: tuple[str, ...] = ()
    """`signs`: the inhibitions whose effects are compared with the graph. `contrast`: the two that are compared.
    `crossover`: one with `dose`, whose last two outcomes are the probabilities of what takes over and of what gives way; it is
    computed on the prompts that pass the gate of the claim that asks it.
    `scale`: the one that is compared, which has a control `shuffle`. `wiring`: the source and the target supernode; `reuse`: the supernode; `sharing`: those looked at together."""
    share: float = Field(default=1.0, gt=0)
    """`contrast`: the share of the second experiment's outcome that is taken off the first one's."""
    by: str | None = None
    """`crossover`: the factor whose levels are compared."""
    protocol: Literal["constrained", "iterative"] = "constrained"
    """How features are held (see `interventions.py`)."""
    controls: tuple[Literal["match", "donor", "position", "shuffle", "direction", "clean", "random"], ...] = ("match",)
    outcomes: tuple[str, ...] = Field(min_length=1)
    prompts: tuple[str, ...] = ()
    """Named prompts to show it on."""

    @model_validator(mode="after")
    def _elsewhere_of_sites(self) -> Experiment:
        lines = self.sites and self.line and self.outcomes[0].startswith("line_")
        if self.elsewhere == BEST and not (lines and (self.inhibit or self.inject)):
            raise ValueError(
                f"`elsewhere: {BEST}` needs `sites` to choose from, a supernode that is held or injected, a `line`, and a first "
                "outcome about how it ends (line_...)"
            )
        return self

    def names(self, outcomes: Collection[str] | None = None) -> set[str | None]:
        """All that it names which may be a supernode: what it holds, injects or passes through, and what `outcomes` (its own)
        are about."""
        watched = (outcome.partition(":")[2] for outcome in (self.outcomes if outcomes is None else outcomes))
        return {self.inhibit, self.inject, self.through, *self.of, *watched}


class Source(Strict):
    """Section of the paper, and how well we know what it says (see CONTRIBUTING.md)."""

    section: str
    confidence: str


class Specificity(Strict):
    """The effect must be at least `ratio` times the mean of each of these control arms."""

    arms: tuple[Literal["donor", "position", "shuffle", "direction", "random"], ...]
    ratio: float = Field(gt=1)


class Part(Strict):
    """One measurement that a claim needs; a claim holds if all its parts do."""

    name: str
    experiment: str
    outcome: str
    control: Literal["match", "donor", "position", "shuffle", "direction", "clean", "random", "smaller", "none"]
    direction: Literal["increase", "decrease", "equivalent"]
    minimum: float = Field(gt=0)
    """Smallest effect that counts, in the unit of the outcome; for `equivalent` the margin."""
    specificity: Specificity | None = None
    ceiling: dict[Literal["match", "donor", "position", "shuffle", "direction", "clean", "random"], float] = {}
    """Largest mean allowed for a control arm."""


class Amendment(Strict):
    """Why a registered claim was changed; `previous` is its hash in claims.lock before the change."""

    date: datetime.date
    reason: str = Field(min_length=10)
    previous: str = Field(pattern=r"^[0-9a-f]{64}$")
    seen_on: tuple[str, ...] = ()
    """Models whose verdict on the claim was known by then."""


class Claim(Strict):
    """One sentence of the paper and the rule by which it is judged, registered before the run."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str
    paper_says: str
    source: Source
    gate: str = "correct"
    """Boolean column of the `prompts` table that an item must pass to be scored."""
    parts: tuple[Part, ...] = ()
    untestable: str | None = None
    """Why no model of this project can be asked (no prompts, no such ability); then there are no parts."""
    minimum_n: int = Field(default=256, gt=0)
    """Fewest items that must pass the gate."""
    registered: datetime.date
    amended: tuple[Amendment, ...] = ()
    expected: dict[str, Verdict] = {}
    """Verdict expected on models that lack the mechanism, written down before they were trained."""

    @model_validator(mode="after")
    def _parts_or_reason(self) -> Claim:
        if bool(self.parts) == bool(self.untestable):
            raise ValueError("a claim has either parts or a reason why it is `untestable`.")
        return self

    def explores(self, model: str) -> bool:
        """Whether the claim was changed after its first verdict on a model, and so was not registered before it."""
        return any(model in amendment.seen_on for amendment in self.amended)

    @field_validator("amended", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value


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


def _folder(root: str | Path, name: str) -> Path:
    folder = Path(root) / "experiments" / name
    if refused_name(name) or not (folder / "case.yaml").is_file():
        known = ", ".join(discover_cases(root)) or "none"
        raise InputError(f"unknown case '{name}': {folder / 'case.yaml'} does not exist. Known cases: {known}.")
    return folder


def load_case(root: str | Path, name: str, prompts: str | None = None) -> Case:
    """The case study `root/experiments/<name>`; with `prompts`, a set of its `prompt_sets` in the place of `prompt_set`.

    Raises `InputError` that names the file and what is wrong in it.
    """
    folder = _folder(root, name)
    path = folder / "case.yaml"
    file = validate(_CaseFile, read_yaml(path), path)
    prompt_set = file.prompt_set
    if prompts is not None:
        known(path, "prompt_sets", "prompt set", prompts, file.prompt_sets)
        prompt_set = file.prompt_sets[prompts]
    items = _read_items(folder / prompt_set) if prompt_set else ()
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
        for factor in experiment.only:
            known(path, f"experiments.{label}.only", "factor", factor, sorted(factors))
        for supernode in filter(None, (experiment.inhibit, experiment.inject, experiment.through)):
            known(path, f"experiments.{label}", "supernode", supernode, file.supernodes)
        of_supernodes = experiment.kind in ("wiring", "reuse", "sharing")
        named = ("supernode", file.supernodes) if of_supernodes else ("experiment", file.experiments)
        for other in experiment.of:
            known(path, f"experiments.{label}", named[0], other, named[1])
        for prompt in experiment.prompts:
            known(path, f"experiments.{label}", "prompt", prompt, file.prompts)
    fields = {key: value for key, value in file if key not in ("prompt_set", "prompt_sets")}
    return Case(name=name, folder=folder, items=items, first_token=prompts is not None, **fields)


def fingerprint(case: Case, *fields: str) -> str:
    """SHA-256 of some fields of a case: a parameter of the rules, so that a stage runs again for what it reads only."""
    chosen = case.model_dump_json(include=set(fields))
    return hashlib.sha256(chosen.encode()).hexdigest()[:16]


def load_claims(root: str | Path, name: str) -> tuple[Claim, ...]:
    """The claims of a case, in the order of its `claims.yaml` (a mapping from the claim's id to its fields)."""
    path = _folder(root, name) / "claims.yaml"
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping from claim id to claim.")
    experiments = load_case(root, name).experiments
    claims = []
    for key, fields in data.items():
        if not isinstance(fields, dict):
            raise InputError(f"{path}: {key}: expected a mapping of fields.")
        if "id" in fields:
            raise InputError(f"{path}: {key}: unknown key 'id'. The id of a claim is the name it stands under.")
        claim = validate(Claim, {"id": key, **fields}, path, where=str(key))
        for part in claim.parts:
            known(path, f"{key}.parts.{part.name}", "experiment", part.experiment, experiments)
            known(path, f"{key}.parts.{part.name}", "outcome", part.outcome, experiments[part.experiment].outcomes)
        claims.append(claim)
    return tuple(claims)


def with_items(case: Case, rows: Sequence[Mapping[str, str]], source: str) -> Case:
    """The case with another prompt set, such as that of a twin; `source` is named where a row is wrong."""
    return case.model_copy(update={"items": _items(Path(source), list(rows[0]) if rows else [], rows)})


def _read_items(path: Path) -> tuple[Item, ...]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before the first column
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (named by `prompt_set` in case.yaml).") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error}).") from None
    return _items(path, columns, rows)


def _items(path: Path, columns: list[str], rows: Sequence[Mapping[str, str]]) -> tuple[Item, ...]:
    missing = [column for column in ITEM_COLUMNS if column not in columns]
    if missing:
        raise InputError(f"{path}: missing column(s) {', '.join(missing)}. Needed: {', '.join(ITEM_COLUMNS)}.")
    for column in columns:
        if columns.count(column) > 1 or not re.fullmatch(r"[a-z][a-z0-9_]*", column):
            raise InputError(f"{path}: bad or repeated column name '{column}'.")
    items, seen = [], set()
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path}: row {number} does not have {len(columns)} columns.")
        named = {column: row[column] for column in ITEM_COLUMNS}
        factors = {column: row[column] for column in columns if column not in ITEM_COLUMNS}
        item = validate(Item, {**named, "factors": factors}, path, where=f"row {number}")
        if item.item in seen:
            raise InputError(f"{path}: row {number}: item '{item.item}' occurs twice.")
        seen.add(item.item)
        items.append(item)
    return tuple(items)


def known(path: Path, where: str, kind: str, name: str, there: Collection[str]) -> None:
    """Raises InputError, listing what there is, if `name` is none of `there`; `where` is the place in the file."""
    if name not in there:
        raise InputError(f"{path}: {where}: unknown {kind} '{name}'. Known: {', '.join(there)}.")
