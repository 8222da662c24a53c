"""What a model was grown on, as its record says: its corpus, and the prompts of each case that the corpus teaches; and whether a
mechanism fits the case and these prompts. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from biology.cases.case import Case, load_case
from biology.cases.mechanism import CausalModel, Mechanism, Row, Variable, mechanism_path, site
from biology.corpora.case_corpus import CaseCorpus
from biology.corpora.corpus import Corpus
from biology.corpora.mechanism_prompts import LESSONS
from biology.corpora.twins import twin as twin_corpus
from biology.records import InputError, known


def corpus_of(record: Mapping[str, object], root: Path) -> Corpus:
    """The corpus on which a model was grown: one of `twins.py`, or a case's own prompts. `root` has the case files."""
    if record.get("case"):
        return CaseCorpus(load_case(root, str(record["case"])), first_stage=bool(record.get("first_stage_only")))
    return twin_corpus(str(record["corpus"])).corpus()


def lesson_of(corpus: Corpus, case: str) -> pd.DataFrame:
    """The prompts of a case on which its mechanism is planted."""
    return corpus.lesson() if isinstance(corpus, CaseCorpus) else LESSONS[case](corpus)


def check_names(root: str | Path, case: Case, claims: Collection[str], mechanism: Mechanism, twin: str = "") -> None:
    """Raises `InputError` unless the claims and supernodes exist that the mechanism of a case, or of its twin, names."""
    path = mechanism_path(root, case.name, twin)
    for claim in mechanism.truth:
        known(path, "truth", "claim", claim, claims)
    for name, variable in mechanism.variables.items():
        if variable.supernode is not None:
            known(path, f"variables.{name}.supernode", "supernode", variable.supernode, case.supernodes)


def check_answers(root: str | Path, case: Case, mechanism: Mechanism, twin: str = "") -> None:
    """Raises `InputError` unless the causal model of a mechanism gives the answer to each prompt with which it is planted, and its
    variables have a token there. Without a prompt set there is none yet."""
    if case.name in LESSONS:
        corpus = twin_corpus(twin).corpus() if twin else Corpus()
    elif case.items:
        corpus = CaseCorpus(case)
    else:
        return
    path = mechanism_path(root, case.name, twin)
    for row in CausalModel(mechanism, lesson_of(corpus, case.name), str(path)).rows:
        for name, variable in mechanism.variables.items():
            _check_site(f"{path}: variables.{name}.at", variable, row)


def _check_site(where: str, variable: Variable, row: Row) -> None:
    if isinstance(variable.at, dict) and row["set"] not in variable.at:
        raise InputError(f"{where}: there is none for set '{row['set']}', as of {row['text']!r}.")
    at = site(variable, row)
    word = at.word_in(row)
    if word is not None and (not word or word not in row["text"]):
        raise InputError(f"{where}: '{at}' does not stand in {row['text']!r}.")
