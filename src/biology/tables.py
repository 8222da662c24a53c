"""The waist: tidy tables between everything that needs torch and everything that does not.

One row is one observation, one column one variable. Claims, figures and reports read these tables and nothing else, so
that judging, drawing and writing start at once and run on a laptop. A table is checked when written and when read: a
missing column, a wrong type, a value that is not finite or a repeated row stops there, with table and column
named, instead of moving a verdict.

The same table is the same bytes: explicit types, no index, no pandas metadata, and rows in the order of the key where
the order carries no meaning.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biology.arms import CONTROLS, is_donor
from biology.records import InputError

Kind = Literal["str", "int", "float", "bool"]
Tables = Mapping[str, pd.DataFrame]
"""Tables of one (model, case) by name."""

ELSEWHERE = "elsewhere"
"""Under `<experiment>/elsewhere` stands what the same push does at other positions on development prompts, of which one is chosen."""
ARMS = ("effect", *CONTROLS)
SPLITS = ("dev", "heldout", "registered", "exploratory")
VERDICTS = ("untestable", "not replicated", "inconclusive", "replicated")
"""In the order in which they are counted, last first."""
DECIDING = ("not replicated", "untestable", "inconclusive", "replicated")
"""A claim of several parts has the verdict of the part that comes first here: one that is refuted refutes it."""
RUN_TABLES = (
    "prompts", "evidence", "graphs", "edges", "supernodes", "sites", "panel", "fidelity", "operands", "operand_plots",
)  # fmt: skip
"""Tables that every run of a (model, case) leaves."""
_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_PANDAS = {"str": "str", "int": "int64", "float": "float64", "bool": "bool"}


@dataclass(frozen=True)
class Schema:
    """Columns of a table with their types, and what must hold for its rows."""

    columns: dict[str, Kind]
    key: tuple[str, ...]
    """Columns that together name a row; no two rows share them."""
    ordered: bool = False
    """The order of rows carries meaning and is kept; otherwise rows are sorted by the key."""
    factors: bool = False
    """Further columns are allowed: what an item is about."""
    allowed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns that hold one of a few words."""
    missing: tuple[str, ...] = ()
    """Columns of numbers that may be empty (NaN)."""


SCHEMAS: dict[str, Schema] = {
    # one row is a prompt: a named prompt of case.yaml or an item of prompts.csv
    "prompts": Schema(
        {
            "item": "str", "text": "str", "answer": "str", "answer_token": "int", "top1": "str",
            "probability": "float", "correct": "bool", "cluster": "str", "split": "str", "role": "str",
        },
        key=("item",), ordered=True, factors=True, allowed=(("split", SPLITS),),
    ),
    # one row is one measurement of one item; everything a claim reads
    "evidence": Schema(
        {
            "item": "str", "cluster": "str", "split": "str", "experiment": "str", "arm": "str",
            "draw": "int", "strength": "float", "outcome": "str", "value": "float",
        },
        key=("experiment", "outcome", "strength", "item", "arm", "draw"),
        allowed=(("arm", ARMS), ("split", SPLITS)),
    ),
    # one row is a question that a grown model was never taught
    "heldout": Schema(
        {"prompt": "str", "answer": "str", "behaviour": "str", "split": "str", "cluster": "str"},
        key=("behaviour", "prompt"), ordered=True, allowed=(("split", ("dev", "test")),),
    ),
    # one row is an attribution graph
    "graphs": Schema(
        {
            "item": "str", "n_active": "int", "n_nodes": "int", "n_edges": "int", "replacement": "float",
            "completeness": "float", "error_share": "float", "row_residual": "float",
        },
        key=("item",), ordered=True,
    ),
    # one row is an edge between supernodes, tokens `token:Dallas@9`, logits `logit:Austin` and the rest: `other`
    # (features in no supernode), `error` and `bias`
    "edges": Schema(
        {"item": "str", "source": "str", "target": "str", "direct": "float", "influence": "float"},
        key=("item", "target", "source"), ordered=True,
    ),
    # one row is a member feature of a supernode at a token position
    "supernodes": Schema(
        {
            "item": "str", "supernode": "str", "layer": "int", "pos": "int", "feature": "int",
            "activation": "float", "share": "float",
        },
        key=("item", "supernode", "layer", "pos", "feature"), ordered=True,
    ),
    # one row is a position and a range of layers in which a supernode's factor was exchanged on `n` development prompts
    # (site_search.py); accuracy: on which share the answer moved; chosen: there the supernode is (none: nothing was found)
    "sites": Schema(
        {
            "supernode": "str", "position": "str", "first": "int", "last": "int", "accuracy": "float", "n": "int",
            "chosen": "bool",
        },
        key=("supernode", "position", "first", "last"), ordered=True, missing=("accuracy",),
    ),
    # one row is the activation of a supernode, or the probability of a next token, or a line written, under an
    # intervention, and under its control: the mean of matched random features, or the line that one such set leaves
    "panel": Schema(
        {
            "item": "str", "experiment": "str", "strength": "float", "supernode_or_token": "str", "kind": "str",
            "clean": "float", "value": "float", "control": "float",
        },
        key=("item", "experiment", "strength", "kind", "supernode_or_token"), ordered=True,
        allowed=(("kind", ("activation", "probability", "line")),), missing=("control",),
    ),
    # one row is a measure of the transcoders: of a layer or of `all`, on a behaviour or on `all`
    "fidelity": Schema(
        {"layer": "str", "behaviour": "str", "metric": "str", "value": "float"},
        key=("layer", "behaviour", "metric"), ordered=True,
    ),
    # one row is a way to read a linear model off a prompt, and how well it foretells ablation (foretelling.py)
    "foretelling": Schema(
        {
            "prompt": "str", "behaviour": "str", "target": "str", "rule": "str", "attention": "str", "norms": "str",
            "spearman": "float", "n": "int",
        },
        key=("prompt", "behaviour", "target", "rule", "attention", "norms"), ordered=True, missing=("spearman",),
        allowed=(("attention", ("frozen", "live")), ("norms", ("frozen", "live"))),
    ),
    # one row is a measure of a dictionary on held-out tokens: of a layer or of `all` (dictionary_metrics.py)
    "dictionary": Schema(
        {"layer": "str", "metric": "str", "value": "float"}, key=("layer", "metric"), ordered=True,
    ),
    # one row is a feature: the share of held-out tokens on which it fires
    "density": Schema({"layer": "int", "feature": "int", "density": "float"}, key=("layer", "feature"), ordered=True),
    # one row is a number of features active at a token (the middle of a bin): the errors of the tokens where so many are
    "token_errors": Schema(
        {
            "layer": "int", "l0": "float", "tokens": "int", "error": "float", "low": "float", "median": "float",
            "high": "float",
        },
        key=("layer", "l0"), ordered=True,
    ),
    # one row is a dictionary thinned to about `target` active features a token (dictionary_comparison.py); shipped: as it is
    "comparison": Schema(
        {
            "dictionary": "str", "variant": "str", "target": "float", "features": "int", "parameters": "int",
            "l0": "float", "fvu": "float", "recovered_from_zero": "float", "recovered_from_mean": "float",
            "agreement": "float",
        },
        key=("dictionary", "variant", "target"), ordered=True,
        allowed=(("variant", ("shipped", "thinned", "pruned")),),
    ),
    # one row is a scored prompt whose stream at a layer was exchanged for the mean of a donor's level (mean_streams.py), or in all
    # layers for a donor's own (written_lines.py)
    "streams": Schema(
        {
            "case": "str", "stream": "str", "item": "str", "cluster": "str", "split": "str", "layer": "int", "arm": "str",
            "value": "float",
        },
        key=("case", "stream", "layer", "arm", "item"), allowed=(("arm", ARMS), ("split", SPLITS)),
    ),
    # one row is a feature read on the grid of two operands at a position (operands.py); `transcoders`: own or shuffled
    "operands": Schema(
        {
            "transcoders": "str", "at": "str", "layer": "int", "feature": "int", "model": "str", "family": "str",
            "r2": "float", "digit": "str", "width": "int", "frequency": "int", "active": "int", "activity": "float",
            "label": "str",
        },
        key=("transcoders", "at", "layer", "feature"), ordered=True,
        allowed=(("transcoders", ("own", "shuffled")),),
    ),
    # one row is a cell of the operand plot of an exemplar feature (cells that no prompt fills are missing)
    "operand_plots": Schema(
        {"at": "str", "layer": "int", "feature": "int", "a": "int", "b": "int", "activation": "float"},
        key=("at", "layer", "feature", "a", "b"), ordered=True,
    ),
    # one row is a feature in the atlas of a model; lists of tokens and of [prompt, a digit a token] are JSON
    "atlas": Schema(
        {
            "layer": "int", "feature": "int", "density": "float", "maximum": "float", "raises": "str", "lowers": "str",
            "histogram": "str", "examples": "str",
        },
        key=("layer", "feature"), ordered=True,
    ),
    # one row is a prompt of the atlas
    "atlas_prompts": Schema({"prompt": "int", "source": "str", "tokens": "str"}, key=("prompt",), ordered=True),
    # one row is what a named prompt says next (or the line that it writes) while a supernode of `source` is held
    "steering": Schema(
        {
            "item": "str", "source": "str", "supernode": "str", "mode": "str", "pos": "int", "strength": "float",
            "kind": "str", "text": "str", "value": "float",
        },
        key=("item", "source", "supernode", "mode", "strength", "kind", "text"), ordered=True,
        allowed=(("mode", ("clean", "hold", "swap")), ("kind", ("token", "line"))),
    ),
    # one row is the most probable next token of a named prompt while one feature of its graph is held
    "node_steering": Schema(
        {
            "item": "str", "layer": "int", "pos": "int", "feature": "int", "strength": "float", "text": "str",
            "value": "float",
        },
        key=("item", "layer", "pos", "feature", "strength"), ordered=True,
    ),
    # one row is a claim, judged; found: share of the prompts on which all supernodes that it rests on have members (empty: it
    # rests on none); method: the rule that judged it (`statistics.METHODS`)
    "verdicts": Schema(
        {
            "claim": "str", "case": "str", "model": "str", "transcoders": "str", "seed": "int", "verdict": "str",
            "statistic": "float", "low": "float", "high": "float", "threshold": "float", "control": "str",
            "p": "float", "n": "int", "found": "float", "method": "str", "reason": "str",
        },
        key=("model", "transcoders", "seed", "case", "claim"), ordered=True, allowed=(("verdict", VERDICTS),),
        missing=("statistic", "low", "high", "p", "found"),
    ),
    # one row is a part of a claim: the measurement it needs and what came out
    "parts": Schema(
        {
            "claim": "str", "case": "str", "part": "str", "verdict": "str", "experiment": "str", "outcome": "str",
            "strength": "float", "control": "str", "direction": "str", "threshold": "float", "statistic": "float",
            "low": "float", "high": "float", "effect": "float", "control_mean": "float", "p": "float",
            "p_holm": "float", "checks": "str", "checks_hold": "bool", "n": "int", "found": "float", "clusters": "int", "gate": "str", "passed": "int",
            "attempted": "int", "reason": "str",
        },
        key=("case", "claim", "part"), ordered=True, allowed=(("verdict", VERDICTS),),
        missing=("strength", "statistic", "low", "high", "effect", "control_mean", "p", "p_holm", "found"),
    ),
    # one row is a cluster of a measured part: means over its items; the score is positive in the claimed direction
    "clusters": Schema(
        {
            "case": "str", "claim": "str", "part": "str", "cluster": "str", "items": "int", "effect": "float",
            "control": "float", "score": "float",
        },
        key=("case", "claim", "part", "cluster"),
    ),
    # one row is a scored prompt of a part; said: by the model itself; scored: it passes the gate; score: positive as claimed
    "scored": Schema(
        {
            "claim": "str", "part": "str", "item": "str", "cluster": "str", "prompt": "str", "donor": "str", "expected": "str",
            "said": "str", "scored": "bool", "effect": "float", "control": "float", "score": "float",
        },
        key=("claim", "part", "item"), ordered=True, missing=("control",),
    ),
}  # fmt: skip


def stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables of one kind, one after the other; empty ones have no say in the types."""
    listed = list(frames)
    filled = [frame for frame in listed if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else listed[0]


def best_site(evidence: pd.DataFrame, outcome: str, direction: str) -> int | None:
    """Number of the site (`draw`) whose rows have the largest mean effect minus match, the first of equals; None without rows."""
    rows = evidence[evidence["outcome"] == outcome]
    arms = rows.groupby(["draw", "arm"])["value"].mean().unstack("arm")
    if not len(arms):
        return None
    score = (arms["effect"] - arms["match"]) * (1 if direction == "increase" else -1)
    return int(score.index[score >= score.max() - 1e-9][0])


def donor_columns(prompts: pd.DataFrame) -> list[str]:
    """Columns of a prompt set that name donor prompts (`arms.is_donor`)."""
    return [column for column in map(str, prompts.columns) if is_donor(column)]


def _schema(name: str) -> Schema:
    if name not in SCHEMAS:
        raise InputError(f"unknown table '{name}'. Tables: {', '.join(SCHEMAS)}.")
    return SCHEMAS[name]


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table `name` made of rows given as mappings; no rows make an empty table with its columns."""
    listed = list(rows)
    frame = pd.DataFrame(listed) if listed else pd.DataFrame({column: [] for column in _schema(name).columns})
    return validate_table(frame, name)


def validate_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """`frame` with the types and the row order of the table `name`.

    Raises `InputError`, naming table and column, if a column is missing, unknown, of another type, not finite or
    outside its words, or if two rows have the same key.
    """
    schema = _schema(name)
    missing = [column for column in schema.columns if column not in frame.columns]
    if missing:
        raise InputError(f"table '{name}': missing column(s) {', '.join(missing)}.")
    extra = [str(column) for column in frame.columns if column not in schema.columns]
    if extra and not schema.factors:
        raise InputError(f"table '{name}': unknown column(s) {', '.join(extra)}. Columns: {', '.join(schema.columns)}.")
    columns = {}
    for column in (*schema.columns, *extra):
        kind = schema.columns.get(column) or _kind(frame[column])
        columns[column] = _convert(frame[column], kind, f"table '{name}', column '{column}'", column in schema.missing)
    result = pd.DataFrame(columns).reset_index(drop=True)
    for column, words in schema.allowed:
        wrong = result.loc[~result[column].isin(words), column]
        if len(wrong):
            where = f"table '{name}', column '{column}'"
            raise InputError(f"{where}: '{wrong.iloc[0]}' in row {wrong.index[0]}; allowed: {', '.join(words)}.")
    repeated = result.duplicated(list(schema.key))
    if repeated.any():
        row = result.loc[repeated, list(schema.key)].iloc[0].to_dict()
        raise InputError(f"table '{name}', column(s) {', '.join(schema.key)}: two rows for {row}.")
    if not schema.ordered:
        result = result.sort_values(list(schema.key), kind="stable", ignore_index=True)
    return result


def _kind(values: pd.Series) -> Kind:
    if pd.api.types.is_bool_dtype(values):
        return "bool"
    if pd.api.types.is_integer_dtype(values):
        return "int"
    return "float" if pd.api.types.is_float_dtype(values) else "str"


def _convert(values: pd.Series, kind: Kind, where: str, may_miss: bool) -> pd.Series:
    values = values.reset_index(drop=True)
    if not len(values):
        return pd.Series([], dtype=_PANDAS[kind])
    empty = np.flatnonzero(values.isna())
    if len(empty) and not may_miss:
        raise InputError(f"{where}: row {empty[0]} is empty.")
    if kind == "str":
        if pd.api.types.infer_dtype(values) != "string":
            wrong = next(index for index, value in enumerate(values) if not isinstance(value, str))
            raise InputError(f"{where}: row {wrong} holds {values.iloc[wrong]!r}, expected text.")
        return values.astype("str")
    found = _kind(values)
    if found != kind and not (kind == "float" and found == "int"):
        raise InputError(f"{where}: has type {values.dtype}, expected {kind}.")
    converted = values.astype(_PANDAS[kind])  # type: ignore[call-overload]
    infinite = np.flatnonzero(np.isinf(converted.to_numpy())) if kind == "float" else []
    if len(infinite):
        raise InputError(f"{where}: row {infinite[0]} is not finite.")
    return converted


def write_table(path: str | Path, frame: pd.DataFrame, name: str) -> None:
    """Writes the table `name` to `path` (`.parquet`, or `.csv` with six significant digits), all of it or nothing.

    Raises `InputError` if the table does not fit its schema (`validate_table`).
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise InputError(f"{path}: a table is written as .parquet or .csv.")
    frame = validate_table(frame, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g", encoding="utf-8")
        else:
            types = {column: _ARROW[_kind(frame[column])] for column in frame.columns}
            arrays = [pa.array(frame[column].to_list(), type=kind) for column, kind in types.items()]
            arrow = pa.Table.from_arrays(arrays, schema=pa.schema(list(types.items())))
            pq.write_table(arrow, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_table(path: str | Path, name: str) -> pd.DataFrame:
    """The table `name` from `path`. `InputError` if it is missing, damaged, or does not fit its schema."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table. Make it with `biology tabulate`, or with `make figures`.")
    try:
        if path.suffix == ".csv":
            types: dict = {column: _PANDAS[kind] for column, kind in _schema(name).columns.items()}
            empty = {column: [""] for column in _schema(name).missing}
            frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=empty)
        else:
            frame = pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable table ({reason}). Delete it and make it again.") from None
    try:
        return validate_table(frame, name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_tables(folder: str | Path, names: Iterable[str] = RUN_TABLES) -> dict[str, pd.DataFrame]:
    """The tables `names` of a run folder `data/runs/<model>/<case>/`, by name."""
    return {name: read_table(Path(folder) / f"{name}.parquet", name) for name in names}
