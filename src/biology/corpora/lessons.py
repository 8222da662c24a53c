"""What a model was grown on, as its record says: its corpus, and the prompts of each case that the corpus teaches. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from biology.cases.case import load_case
from biology.corpora.case_corpus import CaseCorpus
from biology.corpora.corpus import Corpus
from biology.corpora.mechanism_prompts import LESSONS
from biology.corpora.twins import twin


def corpus_of(record: Mapping[str, object], root: Path) -> Corpus:
    """The corpus on which a model was grown: one of `twins.py`, or a case's own prompts. `root` has the case files."""
    if record.get("case"):
        return CaseCorpus(load_case(root, str(record["case"])), first_stage=bool(record.get("first_stage_only")))
    return twin(str(record["corpus"])).corpus()


def lesson_of(corpus: Corpus, case: str) -> pd.DataFrame:
    """The prompts of a case on which its mechanism is planted."""
    return corpus.lesson() if isinstance(corpus, CaseCorpus) else LESSONS[case](corpus)
