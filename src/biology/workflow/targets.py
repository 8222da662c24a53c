"""The models and cases of a run of the Snakefile, the files that it asks for, and the inputs of rules that depend on a model.

Paths are relative to the working directory. `wildcards` are those of Snakemake: `model`, `case` and `page`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from biology.cases.case import Case, discover_cases, fingerprint, load_case
from biology.cases.claim_file import load_claims
from biology.cases.found_sites import has_sites
from biology.cases.mechanism import load_mechanism
from biology.config import GROWN_ROLES, HELD_ROLES, SHOWN_ROLES, ModelConfig, load_config
from biology.corpora.twins import EMBEDDED
from biology.folders import FIRST_STAGE
from biology.provenance import code_hash, sources
from biology.records import InputError, known, read_yaml
from biology.report.lab_fit import refused
from biology.report.prose import text_files
from biology.verdicts.registration import check_claims

RUN = "data/runs/{model}/{case}"
TABLES = [
    "prompts",
    "evidence",
    "graphs",
    "edges",
    "supernodes",
    "sites",
    "panel",
    "fidelity",
    "operands",
    "operand_plots",
]
DICTIONARY_TABLES = {
    "dictionary_layers": "dictionary",
    "feature_density": "density",
    "error_by_l0": "token_errors",
    "dictionary_comparison": "comparison",
}
"""Figures of transcoders as dictionaries, each with the table that it shows."""
WEIGHT_FILES = {".safetensors", ".json", ".parquet", ".model", ".yaml", ".npz"}


def case_code(wildcards: Any) -> list[str]:
    """The figures of a case's own, if it has any."""
    file = Path("experiments") / wildcards.case / "case.py"
    return [str(file)] if file.is_file() else []


def weight_files(files: Iterable[Path]) -> list[str]:
    """The files that hold weights, sorted."""
    return sorted({str(file) for file in files if file.suffix in WEIGHT_FILES})


class Growth(NamedTuple):
    """The cases whose mechanisms are planted in a model, and the options of `biology grow` (without `case` if there are several)."""

    cases: tuple[str, ...]
    options: dict[str, Any]


class Targets:
    """What a run makes: of the model `only` (and of the one that it is held against), or of all that are not on request. `code` is the
    folder of the package.

    Raises `InputError` for a mistake in config.yaml, in a case or in its claims, before anything runs.
    """

    def __init__(self, only: str | None, code: Path):
        self.folder = code
        self.config = load_config("config.yaml", only)
        for case in () if self.config.cases == "all" else self.config.cases:
            known(Path("config.yaml"), "cases", "case", case, discover_cases("."))
        asked: dict[str, ModelConfig] = (
            {name: entry for name, entry in self.config.models.items() if name not in self.config.on_request}
            if only is None
            else {name: self.config.model(name) for name in (only, self.config.model(only).of) if name}
        )
        models = {
            model: list(self.config.cases_of(model, discover_cases(".", entry.prompts)))
            for model, entry in asked.items()
        }
        if only and not models[only]:
            raise InputError(f"config.yaml: model '{only}' meets none of the cases {', '.join(self.config.cases)}.")
        self.models = {model: cases for model, cases in models.items() if cases}
        prompts = {
            (model, case): (case, asked[model].prompts, asked[model].at_most)
            for model in self.models
            for case in self.models[model]
        }
        read = {pair: load_case(".", *pair) for pair in dict.fromkeys(prompts.values())}
        self.cases: dict[tuple[str, str], Case] = {pair: read[prompts[pair]] for pair in prompts}
        for name in dict.fromkeys(case for case, *_ in read):
            check_claims(".", name, load_claims(".", name))
        roles = {model: self.config.model(model).role for model in self.models}
        self.shown = [model for model in self.models if roles[model] in SHOWN_ROLES]
        self.calibrated = [model for model in self.models if model in self.config.calibrated]
        self.controls = [model for model in self.models if roles[model] in HELD_ROLES]
        self.extensions = [model for model in self.models if model not in self.shown + self.controls]

    # ------------------------------------------------------------------------------------------------ what is asked for
    @cached_property
    def organisms(self) -> dict[str, Growth]:
        """By folder: what grows an organism, a twin of one, or another seed."""
        return {
            entry.path.name: Growth(
                tuple(entry.cases),
                {
                    "case": entry.cases[0] if model in self.config.of_one_case else None,
                    "corpus": self._corpus_of_seed(model),
                    "twin": entry.corpus,
                    "seed": entry.seed,
                    "width": entry.width,
                    "steps": entry.steps,
                },
            )
            for model, entry in self.config.models.items()
            if model in self.config.on_request and model in self.models and entry.role != "random" and entry.cases
        }

    def _corpus_of_seed(self, model: str) -> str | None:
        """The corpus on which another seed is grown, as the record of the model says that it is a seed of; None: that of elegans, or
        of a case."""
        entry = self.config.model(model)
        if entry.role != "seed" or model in self.config.of_one_case:
            return None
        record = self.config.model(str(entry.of)).path / "record.json"
        corpus = read_yaml(record).get("corpus") if record.is_file() else None
        return corpus if corpus != EMBEDDED else None

    @cached_property
    def grown(self) -> list[str]:
        """The folders of models that are grown here."""
        entries = [self.config.model(model) for model in self.models]
        return sorted({entry.path.name for entry in entries if entry.role in GROWN_ROLES})

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        return [(model, case) for model in self.shown for case in self.models[model]]

    @cached_property
    def figures(self) -> list[str]:
        return [
            f"figures/{model}/{case}/{figure}.{form}"
            for model, case in self.pairs
            for figure in (*self.cases[model, case].figures, *(["story"] if self.cases[model, case].story else []))
            for form in ("svg", "png")
        ]

    @cached_property
    def compared(self) -> list[str]:
        """Models whose sets are compared with others of the same model."""
        return [model for model in self._trained if self.config.first_sibling(model) == model]

    @cached_property
    def _trained(self) -> list[str]:
        """Models with dictionaries that somebody trained: neurons are none."""
        return [model for model in self.shown if not self.config.model(model).neurons]

    @cached_property
    def dictionaries(self) -> list[str]:
        *own, comparison = DICTIONARY_TABLES
        return [
            f"figures/{model}/{figure}.{form}"
            for model in self._trained
            for figure in (*own, *([comparison] if model in self.compared else []))
            for form in ("svg", "png")
        ]

    @cached_property
    def verdicts(self) -> list[str]:
        return [f"reports/{model}/verdicts.csv" for model in self.shown]

    @cached_property
    def case_pages(self) -> list[str]:
        return [f"reports/{model}/{case}.html" for model, case in self.pairs]

    @cached_property
    def model_pages(self) -> list[str]:
        return [f"reports/{model}/{page}.html" for model in self.shown for page in ("atlas", "steer")]

    @cached_property
    def refused(self) -> Mapping[str, str | None]:
        """Why a model has no page in which it runs; None if it has one."""
        return {model: refused(self.config.model(model), Path()) for model in self.shown}

    @cached_property
    def labs(self) -> list[str]:
        return [f"reports/{model}/lab.html" for model in self.shown if not self.refused[model]]

    @cached_property
    def reports(self) -> list[str]:
        members = [f"reports/{model}/supernodes.csv" for model in self.shown]
        return [*self.case_pages, *self.model_pages, *members, *self.labs, "reports/index.html"]

    def streams(self, models: Collection[str]) -> list[str]:
        """What is found without transcoders: once a model folder. The table is asked for beside the summary, as below."""
        first = {self.config.model(model).path: model for model in reversed(self.models)}
        names = sorted({first[self.config.model(model).path] for model in models})
        return [
            *(f"data/runs/{model}/streams.parquet" for model in names),
            *(f"reports/{model}/streams.csv" for model in names),
        ]

    def site_parts(self, models: Collection[str]) -> list[str]:
        """The tables of sites taken apart, of models on which some site is found or planted."""
        return [f"reports/{model}/site_parts.csv" for model in models if self.searching(model)]

    def searching(self, model: str) -> list[str]:
        """The cases of a model in which some rule looks for its site, or has the position at which its variable was planted."""
        planted = self.config.model(model).planted
        return [
            case
            for case in self.models[model]
            if has_sites(self.cases[model, case].supernodes, load_mechanism(".", case) if planted else None)
        ]

    def tables(self, models: Collection[str]) -> list[str]:
        """What verdicts rest on. Asked for beside them, or those that a checkout brings along would pass for new ones."""
        return [
            f"data/runs/{model}/{case}/{table}.parquet"
            for model in models
            for case in self.models[model]
            for table in TABLES
        ]

    # ------------------------------------------------------------------------------------------------- what a rule reads
    def code(self, *modules: str) -> list[str]:
        """The files of some modules and of all that they import, so that a change in any of them makes the results anew."""
        return [f"{self.folder}/{module.replace('.', '/')}.py" for module in sources(*modules)]

    @cached_property
    def style(self) -> str:
        """The style of all figures."""
        return f"{self.folder}/figures/paper.mplstyle"

    @cached_property
    def templates(self) -> list[str]:
        """What pages are made from, beside the code."""
        folders = [self.folder / "report" / part for part in ("templates", "vendor")]
        return sorted(str(path) for folder in folders for path in folder.glob("*"))

    @cached_property
    def texts(self) -> list[str]:
        """The texts that are pages: those of the working directory, or else those beside the package."""
        return [str(path) for path in text_files(Path(), self.folder.parents[1]).values()]

    def weights(self, wildcards: Any) -> list[str]:
        """The files that a model and its transcoders consist of, so that new weights start everything anew."""
        entry, files = self.config.model(wildcards.model), self.model_files(wildcards)
        if entry.sources or entry.neurons:
            return files
        if entry.role in GROWN_ROLES or entry.transcoders.parent.name == FIRST_STAGE:
            return [*files, f"{entry.transcoders}/record.json"]
        return sorted({*files, *weight_files(entry.transcoders.rglob("*"))})  # a folder may hold other sets too

    def model_files(self, wildcards: Any) -> list[str]:
        """The files of a model alone, or the record of their download."""
        entry = self.config.model(wildcards.model)
        if entry.sources:
            return [f"data/runs/{wildcards.model}/fetch.json"]
        if entry.path.name in self.organisms:  # there may be none yet
            return [f"{entry.path}/{file}" for file in ("model.safetensors", "record.json", "heldout.parquet")]
        return weight_files(entry.path.glob("*"))

    def prompts_of_cases(self, wildcards: Any) -> list[str]:
        """What transcoders are measured on where a model has no held-out prompts of its own."""
        if (self.config.model(wildcards.model).path / "heldout.parquet").is_file():
            return []
        cases = [self.cases[wildcards.model, case] for case in self.models[wildcards.model]]
        return [fingerprint(case, "prompts", "items") for case in cases]

    def gpu(self, wildcards: Any) -> int:
        """GPUs that a job of this model needs; profiles say how many there are."""
        return int(self.config.model(wildcards.model).device == "cuda")

    def corpus(self, wildcards: Any) -> str | None:
        """What decides the prompts of a model that answers by a corpus of its own."""
        return self.config.model(wildcards.model).corpus and code_hash("corpora.twins")

    def other_size(self, wildcards: Any) -> list[str]:
        """Of a further size of a model, the tables of that model, with which it is compared."""
        entry = self.config.model(wildcards.model)
        if entry.role != "size":
            return []
        return [f"data/runs/{entry.of}/{wildcards.case}/{table}.parquet" for table in ("prompts", "evidence")]

    def of_page(self, wildcards: Any) -> list[str]:
        """The tables that a page of a model shows."""
        shown = {"atlas": ["prompts", "supernodes", "operand_plots"], "steer": ["steering", "panel", "evidence"]}
        own = ["atlas", "atlas_prompts"] if wildcards.page == "atlas" else []
        cases = self.models[wildcards.model]
        return [
            *(
                f"data/runs/{wildcards.model}/{case}/{table}.parquet"
                for case in cases
                for table in shown[wildcards.page]
            ),
            *(f"data/runs/{wildcards.model}/{table}.parquet" for table in own),
        ]
