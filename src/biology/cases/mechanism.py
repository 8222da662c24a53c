"""Mechanisms: what a planted model should compute and where, and which claims of the case are therefore true of it.

`experiments/<case>/mechanism.yaml` states a causal model. Its *variables* are functions of a prompt's columns or of one another,
each with a *site*: the layers and the token at which the network must hold it. The *answer* is a function of variables. The causal
model also gives the answers after interventions: with a variable set to another value, and with a variable absent. A model into
which the mechanism was planted (`planting.py`) should give the same answers; `certificate.py` measures whether it does.

After Geiger et al., *Causal Abstractions of Neural Networks* (2021), *Inducing Causal Structure* (2022); Gupta et al., *InterpBench*
(2024). Torch-free.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, field_validator, model_validator

from biology.cases.claim_file import Amendment
from biology.cases.positions import Position
from biology.grammar import unknown
from biology.records import InputError, Strict, read_yaml, validate

MECHANISM, TWINS = "mechanism.yaml", "twins"
"""In the folder of a case: the file of its mechanism, and the folder of those of its twins, `<name>.yaml`."""
NOT_TAUGHT = ("item", "cluster", "role")
"""Columns of a prompt set that no model is grown on."""
Value = str | int
Row = Mapping[str, Any]


class Absent(Strict):
    """The answer when a variable's site is replaced by a mean that carries no value of it: exactly one of `shares`, `says`, `takes`
    and `falls_to`."""

    among: tuple[str, ...] = ()
    """The mean is taken over prompts with the same values of these; by default over all prompts."""
    shares: tuple[str, ...] | None = None
    """Any answer of a prompt with the same values of these variables or columns, all equally probable."""
    says: str | None = None
    """The value of this variable, as a word."""
    unless: str | None = None
    """A column: prompts in which it is not empty keep their answer, because they have another path to it."""
    takes: Value | None = None
    """The answer as if the variable had this value."""
    falls_to: str | None = None
    """The answer as if the variable had the value of this one, such as the second candidate beside it."""

    @model_validator(mode="after")
    def _one(self) -> Absent:
        if sum(one is not None for one in (self.shares, self.says, self.takes, self.falls_to)) != 1:
            raise ValueError("give exactly one of 'shares', 'says', 'takes' and 'falls_to'")
        return self


class Variable(Strict):
    """A variable of a causal model, with its site."""

    meaning: str = Field(min_length=3)
    """Its meaning in words."""
    value: str | None = None
    """An expression in the prompt's columns and earlier variables, such as `city` or `a % 10`."""
    depends_on: tuple[str, ...] = ()
    """Instead of an expression: the variables that determine it; the prompts are the table."""
    column: str | None = None
    """With `depends_on`: the column of the prompts that holds its value."""
    at: Position | dict[str, Position]
    """The token at which the network holds it. A mapping gives one for each value of the prompts' column `set`."""
    layers: tuple[int, int]
    """The first and last layer whose MLP outputs hold it, counted from 0."""
    subspace: int | None = Field(None, ge=1)
    """Dimension of a subspace of its own, if several variables share the MLP outputs of a token; otherwise it has the whole
    space."""
    read: Literal["probe", "unembedding", "none"] = "probe"
    """How to read it from the residual stream after its last layer: by a linear probe, or as a word by the unembedding. `none`: it
    need not be readable, because a twin does not use it."""
    word: str | None = None
    """With `read: unembedding`: the column that holds the word, if that is not the value itself."""
    supernode: str | None = None
    """The supernode of the case whose features represent it."""
    exchanged: bool = True
    """Whether it can be set to another value; some variables can only be absent."""
    across: tuple[str, ...] = ()
    """Columns in which the source prompts of an exchange differ from each other and from the prompt that is changed."""
    near: int | None = Field(None, ge=1)
    """Largest difference between the values that are exchanged."""
    changing: bool = False
    """Whether exchanges are taught with values that change the answer, where there are any; for a variable of which few do."""
    absent: Absent | None = None
    """What is said where nothing tells its value."""

    @field_validator("layers")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError("give two layers, counted from 0, the first not after the last")
        return value

    @model_validator(mode="after")
    def _function(self) -> Variable:
        if (self.value is None) == (not self.depends_on):
            raise ValueError("give either 'value' (an expression) or 'depends_on' (with 'column')")
        if bool(self.depends_on) != (self.column is not None):
            raise ValueError("give 'depends_on' and 'column' together")
        return self


class Answer(Strict):
    """The answer: an expression, or the prompts read as a table from the values of variables to answers."""

    depends_on: tuple[str, ...] = ()
    """The variables and columns whose values determine it."""
    value: str | None = None
    """Instead of these, an expression in variables and columns."""

    @model_validator(mode="after")
    def _one(self) -> Answer:
        if (self.value is None) == (not self.depends_on):
            raise ValueError("give either 'value' (an expression) or 'depends_on'")
        return self


class Truth(Strict):
    """Whether a claim is true of a model that computes this, and why."""

    truth: Literal["true", "false", "open"]
    """`open`: it does not follow from the causal model."""
    because: str = Field(min_length=10)

    @field_validator("truth", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool) else value  # YAML reads true and false as Booleans


class Mechanism(Strict):
    """A causal model: `variables` in the order of the computation, and the `answer`."""

    says: str = Field(min_length=10)
    """The mechanism in one or two sentences."""
    variables: dict[str, Variable]
    """In the order of the computation; a variable names earlier ones only."""
    answer: Answer
    """What is said. It has to be the answer of every prompt."""
    attention: Literal["either", "decides"] = "either"
    """`decides`: variables act by where attention looks and by nothing else, so that with the prompt's own attention patterns an exchange
    changes no answer. By default an exchange gives the same answer with these and with live ones."""
    renamed: tuple[str, ...] = ()
    """Columns whose words mean nothing by themselves: at every step of growing each prompt gets them dealt anew, so that what is to be
    read off a prompt cannot be learnt by heart. Each has to be one token."""
    truth: dict[str, Truth] = {}
    """The truth of each claim, by the claim's id."""
    amended: tuple[Amendment, ...] = ()
    """Reasons for changes after it was registered."""

    @property
    def supernodes(self) -> frozenset[str]:
        """The supernodes that stand for variables."""
        return frozenset(one.supernode for one in self.variables.values() if one.supernode)

    def columns(self) -> Iterator[tuple[str, str]]:
        """Every key that names a column of the prompts, with that column."""
        for name, one in self.variables.items():
            absent = one.absent or Absent.model_construct()
            beside = sorted({*absent.among, *(absent.shares or ()), absent.unless or ""} - set(self.variables))
            sites = [*(at.factor for at in one.at.values()), "set"] if isinstance(one.at, dict) else [one.at.factor]
            named = {"across": one.across, "at": sites, "absent": beside, "column": [one.column], "word": [one.word]}
            yield from ((f"variables.{name}.{key}", word) for key, words in named.items() for word in words if word)
        yield from (("renamed", word) for word in self.renamed)
        yield from (("answer.depends_on", word) for word in self.answer.depends_on if word not in self.variables)

    def parents(self, name: str | None) -> list[str]:
        """The variables from which a variable, or the answer (None), is computed."""
        of = self.answer if name is None else self.variables[name]
        named = {node.id for node in ast.walk(ast.parse(of.value)) if isinstance(node, ast.Name)} if of.value else set()
        earlier = list(self.variables)[: None if name is None else list(self.variables).index(name)]
        return [other for other in earlier if other in of.depends_on or other in named]


def mechanism_path(root: str | Path, case: str, twin: str = "") -> Path:
    """The file of a case's mechanism, or of a twin's if the twin has its own."""
    folder = Path(root) / "experiments" / case
    own = folder / TWINS / f"{twin}.yaml"
    return own if twin and own.is_file() else folder / MECHANISM


def twins_of(root: str | Path, case: str) -> list[str]:
    """The twins for which a case states a mechanism of their own."""
    return sorted(path.stem for path in (Path(root) / "experiments" / case / TWINS).glob("*.yaml"))


def load_mechanism(root: str | Path, case: str, twin: str = "") -> Mechanism | None:
    """The mechanism of a case, or of a twin that has its own; None if there is none. Raises `InputError` for one that cannot be."""
    path = mechanism_path(root, case, twin)
    if not path.is_file():
        return None
    made = validate(Mechanism, read_yaml(path), path)
    for key, column in made.columns():
        if column in NOT_TAUGHT:
            raise InputError(f"{path}: {key}: no model is taught '{column}': name another column.")
    known: set[str] = set()
    for name, variable in made.variables.items():
        for other in variable.depends_on:
            if other not in known:
                raise InputError(f"{path}: variables.{name}.depends_on: '{other}' is not an earlier variable.")
        known.add(name)
        for key in ("falls_to", "says"):
            beside = getattr(variable.absent, key, None)
            if beside is not None and (beside not in made.variables or beside == name):
                raise InputError(f"{path}: variables.{name}.absent.{key}: '{beside}' is not another variable.")
    return made


def site(variable: Variable, row: Row) -> Position:
    """The token position of a prompt at which a variable is held."""
    return variable.at[row["set"]] if isinstance(variable.at, dict) else variable.at


# ------------------------------------------------------------------------------------------------------- expressions

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def nearest(ones: int, middle: int, base: int = 10) -> int:
    """The number with this ones digit that is nearest to `middle`; the smaller one of a tie; never negative."""
    below = middle - (middle - ones) % base
    found = [number for number in (below, below + base) if number >= 0]
    return min(found, key=lambda number: (abs(number - middle), number))


_FUNCTIONS: dict[str, Callable[..., int]] = {"nearest": nearest, "min": min, "max": max}


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression of whole numbers: names, `+ - * // %`, brackets and `nearest`, `min`, `max`. A single name keeps
    its value as it is, number or word. Raises `ValueError` for anything else."""
    try:
        return _compiled(expression)(names)
    except SyntaxError:
        raise ValueError(f"'{expression}' is not an expression") from None
    except ZeroDivisionError:
        raise ValueError(f"'{expression}' divides by zero") from None
    except KeyError as error:
        raise ValueError(f"'{error.args[0]}' is neither a column of the prompts nor an earlier variable") from None


@lru_cache(maxsize=1024)  # the same expression is evaluated on thousands of prompts
def _compiled(expression: str) -> Callable[[Mapping[str, Any]], Any]:
    def of(node: ast.AST) -> Callable[[Mapping[str, Any]], Any]:
        match node:
            case ast.Expression(body=body):
                return of(body)
            case ast.Constant(value=int() as value):
                return lambda names: value
            case ast.Name(id=name):
                return lambda names: names[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                apply, one, other = _OPERATORS[type(op)], of(left), of(right)
                return lambda names: apply(int(one(names)), int(other(names)))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                function, given = _FUNCTIONS[name], [of(arg) for arg in args]
                return lambda names: function(*(int(arg(names)) for arg in given))
            case _:
                raise ValueError(f"'{expression}' holds more than names, whole numbers, + - * // % and nearest()")

    return of(ast.parse(expression, mode="eval"))


# ---------------------------------------------------------------------------------------------------- the causal model


class CausalModel:
    """A mechanism applied to a table of prompts: the values of its variables, and the answers after interventions.

    `prompts` has the columns `text`, `answer` and those that the mechanism names. Raises `InputError` if a column is missing, or if
    a variable is not determined by what it `depends_on`; `where` names the file.
    """

    def __init__(self, mechanism: Mechanism, prompts: pd.DataFrame, where: str):
        self.mechanism, self.where = mechanism, where
        for key, column in mechanism.columns():
            if column not in prompts:
                raise InputError(f"{where}: {key}: {unknown('column', column, map(str, prompts))}")
        self.rows: list[dict[str, Any]] = prompts.to_dict("records")
        self._said = {str(row["answer"]) for row in self.rows}
        self._tables: dict[str, dict[tuple[Value, ...], Value]] = {}
        self.values: list[dict[str, Value]] = [{} for _ in self.rows]
        for name, variable in mechanism.variables.items():
            if variable.depends_on:
                column = [row.get(str(variable.column)) for row in self.rows]
                self._tables[name] = self._table(name, variable.depends_on, column)
            for row, values in zip(self.rows, self.values, strict=True):
                values[name] = self._value(name, row, values)
        if mechanism.answer.depends_on:
            answers = [row["answer"] for row in self.rows]
            self._tables["answer"] = self._table("answer", mechanism.answer.depends_on, answers)
        for row, values in zip(self.rows, self.values, strict=True):
            said = self._answer(row, values)
            if str(said) != str(row["answer"]):
                raise InputError(
                    f"{where}: for {row['text']!r} the causal model says '{said}', but the answer is '{row['answer']}'."
                )

    def _table(self, name: str, parents: Sequence[str], column: Sequence[Any]) -> dict[tuple[Value, ...], Value]:
        found: dict[tuple[Value, ...], Value] = {}
        for row, values, value in zip(self.rows, self.values, column, strict=True):
            key = named(parents, row, values)
            if value is None or found.setdefault(key, value) != value:
                raise InputError(
                    f"{self.where}: {name}: {dict(zip(parents, key, strict=True))} does not determine it "
                    f"({found.get(key)!r} and {value!r}, in {row['text']!r})."
                )
        return found

    def _value(self, name: str, row: Row, values: Mapping[str, Value]) -> Value:
        variable = self.mechanism.variables[name]
        if variable.depends_on:
            return self._tables[name][named(variable.depends_on, row, values)]
        return self._evaluated(str(variable.value), f"variables.{name}", row, values)

    def _evaluated(self, expression: str, where: str, row: Row, values: Mapping[str, Value]) -> Value:
        try:
            return evaluate(expression, {**row, **values})
        except ValueError as error:
            raise InputError(f"{self.where}: {where}: {error}.") from None

    def _answer(self, row: Row, values: Mapping[str, Value]) -> Value:
        answer = self.mechanism.answer
        if answer.depends_on:
            return self._tables["answer"][named(answer.depends_on, row, values)]
        return self._evaluated(str(answer.value), "answer", row, values)

    @cached_property
    def children(self) -> dict[str, set[str]]:
        """For each variable, the variables computed from it, directly or indirectly."""
        found: dict[str, set[str]] = {}
        for name in self.mechanism.variables:
            parents = set(self.mechanism.parents(name))
            for other, below in found.items():
                if other in parents or parents & below:
                    below.add(name)
            found[name] = set()
        return found

    def levels(self, name: str) -> list[Value]:
        """All values of a variable, sorted."""
        return sorted({values[name] for values in self.values}, key=lambda value: (isinstance(value, str), value))

    def after(self, row: int, changes: Mapping[str, Value]) -> Value | None:
        """The answer to a prompt with variables set to other values; None if no prompt shows what it would be."""
        values = {**self.values[row], **changes}
        stale = set().union(*(self.children[name] for name in changes)) - set(changes)
        try:
            for name in self.mechanism.variables:
                if name in stale:
                    values[name] = self._value(name, self.rows[row], values)
            said = self._answer(self.rows[row], values)
        except KeyError:
            return None
        return said if str(said) in self._said else None

    def without(self, row: int, name: str) -> list[Value] | None:
        """The answers, all equally probable, when a variable is absent; None if the mechanism does not say."""
        absent = self.mechanism.variables[name].absent
        if absent is None:
            return None
        if absent.unless is not None and self.rows[row].get(absent.unless):
            return [self.rows[row]["answer"]]
        if absent.says is not None:
            return [self.values[row][absent.says]]
        taken = absent.takes if absent.falls_to is None else self.values[row][absent.falls_to]
        if taken is not None:
            said = self.after(row, {name: taken})
            return None if said is None else [said]
        shared = tuple(absent.shares or ())
        return self._shared(shared)[named(shared, self.rows[row], self.values[row])]

    def _shared(self, names: tuple[str, ...]) -> dict[tuple[Value, ...], list[Value]]:
        if names not in self._answers:
            found: dict[tuple[Value, ...], dict[Value, None]] = {}
            for row, values in zip(self.rows, self.values, strict=True):
                found.setdefault(named(names, row, values), {})[row["answer"]] = None
            self._answers[names] = {key: list(answers) for key, answers in found.items()}
        return self._answers[names]

    @cached_property
    def _answers(self) -> dict[tuple[str, ...], dict[tuple[Value, ...], list[Value]]]:
        return {}


def named(names: Sequence[str], row: Row, values: Mapping[str, Value]) -> tuple[Value, ...]:
    """A prompt's values of variables or columns."""
    return tuple(values[name] if name in values else row[name] for name in names)
