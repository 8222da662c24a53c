"""The shipped supernodes of a model's named prompts: `reports/<model>/supernodes.csv`, for steering without running the
pipeline.

They depend on weights, rules and prompts. Each row carries a key of these; rows with another key than the current one are
ignored.
"""

# pyright: reportReturnType=false

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from biology import artefacts
from biology.cases.case import Case, fingerprint
from biology.config import ModelConfig
from biology.tables import read_table

COLUMNS = ["case", "key", "item", "supernode", "layer", "pos", "feature", "activation"]


def _weights(root: Path, entry: ModelConfig) -> str:
    """The parts of the key that decide which feature a number is: model and transcoders."""
    weights = [artefacts.contents_hash(root / entry.path, "*.safetensors")]
    if not entry.neurons:
        weights.append(artefacts.contents_hash(root / entry.transcoders, "**/*.safetensors", "**/*.npz"))
    return "\n".join([*weights, entry.identity])


def labels_key(root: Path, entry: ModelConfig) -> str:
    """The key of `labels.json`: that of the features it names."""
    return hashlib.sha256(_weights(root, entry).encode()).hexdigest()[:12]


def key_of(root: Path, entry: ModelConfig, case: Case) -> str:
    """The key of the members for a case's named prompts."""
    parts = [_weights(root, entry), fingerprint(case, "prompts", "items", "supernodes", "operands")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def members_of(root: Path, entry: ModelConfig, case: Case, run: Path) -> pd.DataFrame:
    """The rows of a case, from the tables of its run."""
    members = read_table(run / "supernodes.parquet", "supernodes")
    named = members[members["item"].isin(case.prompts)].assign(case=case.name, key=key_of(root, entry, case))
    return named[COLUMNS].assign(activation=named["activation"].map(lambda value: float(f"{value:.7g}")))


def shipped_members(root: Path, entry: ModelConfig, name: str, case: Case) -> pd.DataFrame | None:
    """The shipped members for a model and case, or None if there are none for these weights, rules and prompts."""
    path = root / "reports" / name / "supernodes.csv"
    if not path.is_file():
        return None
    found = pd.read_csv(path, dtype={"key": str})
    found = found[(found["case"] == case.name) & (found["key"] == key_of(root, entry, case))]
    return found if len(found) else None
