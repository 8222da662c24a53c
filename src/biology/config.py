"""The configuration: models, cases and defaults, read from `config.yaml`.

Everything here is strict and frozen. A key that nobody reads is an error, not a silent default: a misspelt threshold
that is ignored would change a result without a trace. Two functions, `read_yaml` and `validate`, also read the files of
a case study (see `case.py`). This module and `case.py` are torch-free, so that the Snakefile can import them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from biology.grammar import expected, refused_name, steps_to, unknown

METHOD: dict[str, int] = {
    # Version of the method of each stage that needs torch. It is a parameter of the stage's rule in the Snakefile:
    # editing a comment reruns nothing costly, and whoever changes the numbers of a stage adds one here.
    "load": 2,
    "measure": 1,
    "compare_dictionaries": 1,
    "cache": 2,
    "group": 3,
    "attribute": 5,
    "intervene": 3,
    "exchange": 5,
    "atlas": 2,
    "sweep": 3,
}


Rule = Literal["half", "frozen", "gradient"]
"""How what neurons read is linearised (`neurons.py`)."""
NEURONS = Path("neurons")
"""What stands in the place of a directory of transcoders where neurons are features."""
HUB = Path("data/hub")
"""Downloaded models and transcoders, relative to the folder of `config.yaml`."""


class InputError(ValueError):
    """A mistake in what the user gave (a file, a name, a prompt), said in one line that tells what to do."""


class InputWarning(UserWarning):
    """Something in what the user gave that is not used, or not as it may be meant; said in one line, and work goes on."""


CONFIG_FILE = "config.yaml"
HELD_ROLES = ("seed", "twin", "random")
"""Roles of models whose verdicts are held to those of another; sizes and extended corpora answer claims of their own."""
GROWN_ROLES = ("seed", "size", "extended", "twin")
"""Roles of models that ship without transcoders; the pipeline trains them."""


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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields  # looked up once: pydantic takes its time
        for key in data:
            if key not in fields:
                raise ValueError(unknown("key", key, fields))
        return data


class Repository(Strict):
    """What is wanted of a repository of the Hugging Face Hub."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit. Where none is given, the newest one at the first download is taken, and recorded beside the files."""
    files: tuple[str, ...] = ()
    """Names or patterns (`*` does not cross a slash); `{layer}` stands for each layer, `{variant}` for `variant`."""
    release: str | None = None
    """In the place of `files`: a release in the registry of SAELens, which names one file for each layer."""
    variant: str = ""
    """Which of several sets of one repository."""
    gated: bool = False
    """Whether a licence has to be accepted on the Hub first."""
    stored: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def folder(self) -> Path:
        """Where its files are kept, relative to the folder of `config.yaml`."""
        return HUB / "--".join(filter(None, [*self.repo.split("/"), self.variant]))


class HubTranscoders(Repository):
    """A published set of transcoders. What its own files say of hooks and shapes is what is used."""

    kind: Literal["per_layer", "cross_layer"] = "per_layer"
    features: int | None = Field(default=None, gt=0)
    """Features per layer; where it is not known, memory is judged by the sizes of the files on the Hub."""
    skip: bool = False
    reads: str | None = None
    writes: str | None = None
    """Hooks within a block that the files have to name, where they are known beforehand."""


class Shape(Strict):
    """The sizes of a decoder-only transformer with grouped heads and a gated MLP."""

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    n_vocab: int
    tied: bool
    """Whether the unembedding is the embedding."""


class Hub(Strict):
    """A model of the Hugging Face Hub and its transcoders, with what is known before anything is downloaded."""

    model: Repository
    transcoders: HubTranscoders
    shape: Shape
    gates: dict[str, str] = {}
    """Prompts and the answers that a sound copy of the model gives."""


class Package(Strict):
    """A model as a GGUF file in a Python package: for machines that reach an index of packages. Made a directory by `gguf_files`."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    version: str = Field(pattern=r"^[A-Za-z0-9.+!]+$")
    file: str
    """The GGUF file, by its path in the wheel."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of that file."""
    shape: Shape
    gates: dict[str, str] = {}
    """Prompts and the answers that a sound copy of the model gives."""

    @property
    def repo(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def revision(self) -> str:
        return self.sha256

    @property
    def folder(self) -> Path:
        """Where the directory is kept, relative to the folder of `config.yaml`."""
        return HUB / f"{self.name}-{self.version}"


class ModelConfig(Strict):
    """One model and its transcoders: two directories, relative to the folder of `config.yaml`, or where they come from."""

    path: Path = Path()
    transcoders: Path = Path()
    """A directory, or `neurons`: the MLPs' own neurons stand for features (`neurons.py`)."""
    k: Literal["all"] | int | None = Field(default=None)
    """Of `neurons`: how many are active at a token and layer, those that write most (`neurons.DEFAULT_K`); the rest is error."""
    rule: Rule | None = None
    """Of `neurons`: how what they read is linearised (`half`)."""
    hub: Hub | None = None
    """Where both are downloaded from; then `path` and `transcoders` follow from it."""
    package: Package | None = None
    """Where the model is downloaded from, if it comes in a Python package; its neurons are the features unless `transcoders` are given."""
    prompts: str | None = None
    """Which of their `prompt_sets` cases use; cases without it are not met. `null`: their `prompt_set`."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    offload: bool = False
    """Keep the transcoders in the memory of the CPU, from where they visit a GPU that is too small for both."""
    seed: int = Field(default=0, ge=0)
    """Seed the model was grown with, as reported beside its verdicts."""
    cases: tuple[str, ...] | None = None
    """Restricts this model to some of `Config.cases`; by default it meets all of them."""
    shuffled: int | None = Field(default=None, ge=0)
    """Seed with which the entries of every encoder and decoder vector are permuted: transcoders of the same lengths without
    a meaning, the null of the whole pipeline."""
    role: Literal["model", "wild", "dictionary", "seed", "size", "extended", "twin", "random"] = "model"
    """`figures/all` runs models; `robustness/all` runs further seeds, twins that lack a mechanism, and controls whose transcoders
    mean nothing; `extensions/all` runs models in which nothing was planted, other dictionaries, further sizes, and those whose corpus was extended so that
    a claim can be asked."""
    of: str | None = None
    """The model that another dictionary, a seed, a size, a twin or a control is compared with, or whose corpus was extended."""
    corpus: str | None = None
    """The corpus of `twins.py` that says what the answers to the cases' prompts are."""
    planted: bool = False
    """Whether it was grown with the mechanisms of the cases planted, so that it is known which claims are true of it. `calibration/all`
    runs all such models, and the twins and random controls that are `of` them."""

    @model_validator(mode="before")
    @classmethod
    def _directories(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "package" in data:
            if "path" in data or "hub" in data:
                raise ValueError("a model has one of `path`, `hub` and `package`")
            return {"transcoders": str(NEURONS)} | data
        if "hub" not in data:
            missing = [key for key in ("path", "transcoders") if key not in data]
            if missing and set(data) <= set(cls.model_fields):  # a misspelt key is said first
                raise ValueError(
                    f"'{missing[0]}' is missing: a model has `path` and `transcoders`, or `hub`, or `package`, or `known`"
                )
            return data
        if "path" in data or data.get("transcoders", str(NEURONS)) != str(NEURONS):
            raise ValueError("a model has either `path` and `transcoders`, or `hub`, not both")
        return data

    @model_validator(mode="after")
    def _downloaded(self) -> ModelConfig:
        if self.hub is not None:
            object.__setattr__(self, "path", self.hub.model.folder)
            if not self.neurons:
                object.__setattr__(self, "transcoders", self.hub.transcoders.folder)
        if self.package is not None:
            object.__setattr__(self, "path", self.package.folder)
        return self

    @model_validator(mode="after")
    def _of_neurons(self) -> ModelConfig:
        for key in ("k", "rule"):
            if getattr(self, key) is not None and not self.neurons:
                raise ValueError(f"`{key}` says nothing without `transcoders: {NEURONS}`")
        if isinstance(self.k, int) and self.k < 1:
            raise ValueError(f"k: {self.k} neurons cannot be active: take 1 or more, or `all`")
        return self

    @property
    def sources(self) -> dict[str, Repository | Package]:
        """What is downloaded, by part: `model`, and `transcoders` where neurons do not stand for them; {} of directories of one's own."""
        if self.package is not None:
            return {"model": self.package}
        if self.hub is None:
            return {}
        return {"model": self.hub.model} | ({} if self.neurons else {"transcoders": self.hub.transcoders})

    @property
    def known_as(self) -> Hub | Package | None:
        """What is known of a downloaded model beforehand: its `shape` and `gates`."""
        return self.hub or self.package

    @property
    def neurons(self) -> bool:
        """Whether neurons are the features."""
        return self.transcoders == NEURONS

    @property
    def identity(self) -> str:
        """What decides the results, as JSON; where weights rest does not."""
        unset = {
            key
            for key in ("shuffled", "corpus", "hub", "package", "prompts", "k", "rule")
            if getattr(self, key) is None
        }
        return self.model_dump_json(exclude={"cases", "role", "of", "offload", "planted"} | unset)


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

    @model_validator(mode="after")
    def _names(self) -> Config:
        for problem in filter(None, map(refused_name, self.models)):
            raise ValueError(f"models: {problem}")
        return self

    @model_validator(mode="after")
    def _relatives(self) -> Config:
        for name, entry in self.models.items():
            if entry.role not in ("model", "wild") and entry.of not in self.models:
                raise ValueError(f"models.{name}: role {entry.role} needs `of: <model>`, another one of this file")
        return self

    def model(self, name: str) -> ModelConfig:
        """The entry of a model; `InputError` naming the known models if there is none."""
        if name not in self.models:
            raise InputError(
                f"unknown model '{name}'. Known models (config.yaml): {', '.join(sorted(self.models))}; "
                f"from the Hub: {', '.join(known_models())}."
            )
        return self.models[name]

    @property
    def calibrated(self) -> list[str]:
        """Models of whose claims the truth is known: those with planted mechanisms, and the twins and random controls of those."""
        planted = {name for name, entry in self.models.items() if entry.planted}
        return [
            name
            for name, entry in self.models.items()
            if name in planted or (entry.of in planted and entry.role in ("twin", "random"))
        ]

    def siblings(self, name: str) -> list[str]:
        """The entries, this one first, that have transcoders of the same model, random ones left out."""
        path = self.model(name).path
        others = [other for other, entry in self.models.items() if entry.path == path and entry.role != "random"]
        return [name, *(other for other in others if other != name)]

    def first_sibling(self, name: str) -> str:
        """The first entry of config.yaml with transcoders of the same model: comparisons of its sets bear its name."""
        return next(other for other in self.models if other in self.siblings(name))

    def cases_of(self, model: str, discovered: list[str]) -> list[str]:
        """The cases that a model meets, in alphabetical order, perhaps none; `InputError` for a case that has no folder.

        `discovered` are the cases that there are: for a model with `prompts`, those with a prompt set of that name.
        """
        entry = self.model(model)
        wanted = entry.cases
        if wanted is None:
            wanted = tuple(discovered) if self.cases == "all" else self.cases
            if entry.prompts is not None:
                wanted = tuple(case for case in wanted if case in discovered)
        for case in wanted:
            if case not in discovered:
                of = f" with a prompt set {entry.prompts!r}" if entry.prompts else ""
                raise InputError(
                    f"unknown case '{case}' for model '{model}' (config.yaml). "
                    f"Known cases (folders of experiments/{of}): {', '.join(discovered)}."
                )
        return sorted(case for case in wanted if self.cases == "all" or case in self.cases)


class _UniqueKeys(yaml.constructor.SafeConstructor):
    """Safe YAML in which a key given twice is an error (plain YAML keeps the last one and says nothing)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):  # {{placeholder}} is a mapping with a mapping as its key
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key_node.value}' is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Loader(_UniqueKeys, yaml.SafeLoader):
    """Reads slowly, and its complaints show the line."""


_Libyaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _FastLoader(_UniqueKeys, _Libyaml):
    """Reads a case in a tenth of the time, where PyYAML comes with libyaml."""


def read_yaml(path: str | Path) -> Any:
    """The contents of a YAML file. `InputError` if it is missing, malformed, or gives a key twice."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None
    mistakes = (yaml.YAMLError, ValueError, AttributeError)  # the latter two: no such date, no such number
    try:
        return yaml.load(text, Loader=_FastLoader)  # noqa: S506 (a SafeLoader)
    except mistakes:
        pass  # the other one says what is wrong, in the same words on every machine
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except mistakes as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


Record = TypeVar("Record", bound=BaseModel)


def validate(record: type[Record], data: Any, path: str | Path, where: str = "") -> Record:
    """`data` as a `record`; `InputError` with the file, the place in it and what is wrong there (the first mistake)."""
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        steps = steps_to(first["loc"], data)
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = f"the key '{steps.pop()}' is missing"
        if first["type"] == "literal_error":
            message = unknown(
                "value", first["input"], re.findall(r"'(.*?)'", str(first.get("ctx", {}).get("expected")))
            )
        place = ".".join([where, *steps] if where else steps)
        message = expected(first["type"], first["input"]) or message
        raise InputError(f"{path}: {place + ': ' if place else ''}{message.rstrip('.')}.") from None


def known(path: Path, where: str, kind: str, name: str, there: Iterable[str], of: str = "") -> None:
    """Raises InputError, with the nearest of `there` and all of them, if `name` is none; `where` is the place in the file."""
    if name not in (names := list(there)):
        raise InputError(f"{path}: {where}: {unknown(kind, name, names, of)}")


KNOWN = Path(__file__).with_name("known_models.yaml")


@cache
def known_models() -> dict[str, ModelConfig]:
    """The entries of known_models.yaml by name."""
    return {name: validate(ModelConfig, data, KNOWN, f"models.{name}") for name, data in _known().items()}


@cache
def _known() -> dict[str, Any]:
    return read_yaml(KNOWN)["models"]


def load_config(path: str | Path = "config.yaml", model: str | None = None) -> Config:
    """The configuration; `model`, if it is a known model and no entry of the file, is added to its models.

    An entry with `known: <name>` is that known model, with whatever else the entry says.

    Raises `InputError` for an unknown key, a wrong value, or an unreadable file.
    """
    data = read_yaml(path)
    models = data.get("models") if isinstance(data, dict) else None
    if isinstance(models, dict):
        filled = {name: _with_known(entry, path, name) for name, entry in models.items()}
        if model is not None and model not in filled and model in _known():
            filled[model] = _known()[model]
        data = {**data, "models": filled}
    return validate(Config, data, path)


def _with_known(entry: Any, path: str | Path, name: str) -> Any:
    """An entry of `models:` with `known:` replaced by what it stands for."""
    if not isinstance(entry, dict) or "known" not in entry:
        return entry
    if str(entry["known"]) not in _known():
        raise InputError(f"{path}: models.{name}: {unknown('model', entry['known'], _known())}")
    return _known()[entry["known"]] | {key: value for key, value in entry.items() if key != "known"}
