"""The configuration: models, cases and defaults, read from `config.yaml`.

Everything here is strict and frozen. A key that nobody reads is an error, not a silent default: a misspelt threshold
that is ignored would change a result without a trace. Two functions, `read_yaml` and `validate`, also read the files of
a case study (see `case.py`). This module and `case.py` are torch-free, so that the Snakefile can import them.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

METHOD: dict[str, int] = {
    # Version of the method of each stage that needs torch. It is a parameter of the stage's rule in the Snakefile:
    # editing a comment reruns nothing costly, and whoever changes the numbers of a stage adds one here.
    "load": 2,
    "cache": 1,
    "group": 2,
    "attribute": 1,
    "intervene": 1,
}


class InputError(ValueError):
    """A mistake in what the user gave (a file, a name, a prompt), said in one line that tells what to do."""


CONFIG_FILE = "config.yaml"


def config_file(given: str = CONFIG_FILE, *, shipped: bool = False) -> Path:
    """The configuration to read: the one that was given, which is config.yaml in the folder one is in if none was.

    With `shipped`, for commands that only look at a model, that of the installed package stands in for a missing one: its
    folder holds the embedded model too.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    if given == CONFIG_FILE and not path.is_file():
        if shipped:
            return shipped_folder() / CONFIG_FILE
        raise InputError(
            "there is no config.yaml here: run this in a checkout of the repository, or give --config FILE."
        )
    return path


def shipped_folder() -> Path:
    """What stands for a checkout outside of one, config.yaml and data/models/elegans: part of the wheel (see setup.py).

    A package that is imported from its checkout has that.
    """
    package = Path(__file__).parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parents[1]


class Strict(BaseModel):
    """Base of every record read from a file: frozen, and an unknown key is an error that lists the allowed ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for key in data:
            if key not in cls.model_fields:
                close = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"unknown key '{key}'.{hint} Allowed keys: {', '.join(cls.model_fields)}.")
        return data


class ModelConfig(Strict):
    """One model and its transcoders; both paths are directories, relative to the folder of `config.yaml`."""

    path: Path
    transcoders: Path
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = Field(default=0, ge=0)
    """Seed the model was grown with, as reported beside its verdicts."""
    cases: tuple[str, ...] | None = None
    """Restricts this model to some cases; by default it meets all of `Config.cases`."""
    shuffled: int | None = Field(default=None, ge=0)
    """Seed with which the entries of every encoder and decoder vector are permuted: transcoders of the same lengths without
    a meaning, the null of the whole pipeline."""
    control: bool = False
    """Whether this is a control: `robustness/all` runs it, `figures/all` does not."""

    @property
    def identity(self) -> str:
        """What decides the results, as JSON."""
        return self.model_dump_json(exclude={"cases", "control"} | ({"shuffled"} if self.shuffled is None else set()))


class AttributionConfig(Strict):
    """Budgets of an attribution graph (Circuit Tracing, "Constructing an attribution graph" and "Pruning")."""

    max_feature_nodes: int | None = Field(default=None, gt=0)
    """Most feature nodes in a graph; `null` keeps every active feature."""
    max_logits: int = Field(default=10, gt=0)
    logit_probability: float = Field(default=0.95, gt=0, le=1)
    """Logit nodes are taken in order of probability until this much of it is covered, or `max_logits` is reached."""
    node_threshold: float = Field(default=0.8, gt=0, le=1)
    edge_threshold: float = Field(default=0.98, gt=0, le=1)


class StatisticsConfig(Strict):
    """Sizes of the random draws behind every verdict."""

    control_draws: int = Field(default=10, gt=0)
    """Matched random feature sets per item."""
    permutations: int = Field(default=100_000, gt=0)
    bootstrap: int = Field(default=10_000, gt=0)
    seed: int = Field(default=0, ge=0)


class Config(Strict):
    """The whole of `config.yaml`."""

    models: dict[str, ModelConfig]
    cases: Literal["all"] | tuple[str, ...] = "all"
    attribution: AttributionConfig = AttributionConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    threads: int = Field(default=1, gt=0)
    """Threads of every torch job. Fixed, whatever the number of cores, because sums in another order give other
    bytes."""

    def model(self, name: str) -> ModelConfig:
        """The entry of a model; `InputError` naming the known models if there is none."""
        if name not in self.models:
            raise InputError(f"unknown model '{name}'. Known models (config.yaml): {', '.join(sorted(self.models))}.")
        return self.models[name]

    def cases_of(self, model: str, discovered: list[str]) -> list[str]:
        """The cases that a model meets, in alphabetical order; `InputError` for a case that has no folder."""
        wanted = self.model(model).cases
        if wanted is None:
            wanted = tuple(discovered) if self.cases == "all" else self.cases
        for case in wanted:
            if case not in discovered:
                raise InputError(
                    f"unknown case '{case}' for model '{model}' (config.yaml). "
                    f"Known cases (folders of experiments/): {', '.join(discovered)}."
                )
        return sorted(wanted)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error (plain YAML keeps the last one and says nothing)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """The contents of a YAML file. `InputError` if it is missing, malformed, or gives a key twice."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


Record = TypeVar("Record", bound=BaseModel)


def validate(record: type[Record], data: Any, path: str | Path, where: str = "") -> Record:
    """`data` as a `record`; `InputError` with the file, the place in it and what is wrong there (the first mistake)."""
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        steps = [str(step) for step in first["loc"] if "[" not in str(step)]  # without the branches of a union
        place = ".".join([where, *steps] if where else steps)
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        message = re.sub("a valid dictionary or instance of .*", "a mapping", message)
        raise InputError(f"{path}: {place + ': ' if place else ''}{message}.") from None


def load_config(path: str | Path = "config.yaml") -> Config:
    """The configuration; `InputError` for an unknown key, a wrong value, or an unreadable file."""
    return validate(Config, read_yaml(path), path)
