"""The supernodes of a case's named prompts, and those that ship with a model: `reports/<model>/supernodes.csv`, for steering without
running the pipeline.

They depend on weights, rules and prompts. Each row carries a key of these; rows with another key than the current one are
ignored.
"""

# pyright: reportReturnType=false, reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from biology import artefacts
from biology.cases.case import Case, fingerprint, titles
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


@dataclass(frozen=True)
class Supernode:
    """Features that play one role on a prompt of a case, with their activations there."""

    case: str
    item: str
    name: str
    label: str
    text: str
    """The prompt."""
    pos: int
    features: tuple[tuple[int, int, float], ...]
    """(layer, feature, activation) of each member."""
    places: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    """Other prompts of the case on which this supernode was found, each with its token position."""

    def to_pandas(self) -> pd.DataFrame:
        """One row for each member: layer, feature, activation."""
        return pd.DataFrame(self.features, columns=["layer", "feature", "activation"])

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"Supernode({self.label!r}, {self.case}/{self.item}/{self.name}: {len(self)} features at token {self.pos})"
        )


def named_supernodes(case: Case, members: pd.DataFrame) -> dict[tuple[str, str], Supernode]:
    """The supernodes of a case's named prompts, by (prompt, name), from rows of the table `supernodes`."""
    prompts = case.prompts
    members = members[members["item"].isin(prompts)]
    first = members.drop_duplicates(["item", "supernode"])
    places = {
        name: tuple((prompts[item].text, int(pos)) for item, pos in zip(rows["item"], rows["pos"], strict=True))
        for name, rows in first.groupby("supernode")
    }
    found = {}
    for (item, name), rows in members.groupby(["item", "supernode"], sort=False):
        called = titles(case, item).get(name) or str(name)
        columns = zip(
            rows["layer"].astype(int), rows["feature"].astype(int), rows["activation"].astype(float), strict=True
        )
        text, pos = prompts[item].text, int(rows["pos"].iat[0])
        found[item, name] = Supernode(case.name, item, name, called, text, pos, tuple(columns), places[name])
    return found
