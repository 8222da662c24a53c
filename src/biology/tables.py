"""Tidy tables: what the code that needs torch leaves to the code that does not.

One row is one observation, one column one variable. Claims and figures read nothing else of a run, and pages nothing else but
graphs and manifests (JSON), so that judging and drawing start at once and run on a laptop. A table is checked when written and when read: a missing
column, a wrong type, a value that is not finite or a repeated row is an error that names the table and the column.

The same table gives the same bytes: explicit types, no index, no pandas metadata, and rows sorted by the key where
their order has no meaning.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from biology.arms import is_donor
from biology.artefacts import whole
from biology.records import InputError
from biology.schemas import RUN_TABLES, SCHEMAS, Kind, Schema

Tables = Mapping[str, pd.DataFrame]
"""Tables of one model and case, by name."""

ELSEWHERE = "elsewhere"
"""`<experiment>/elsewhere` holds the effects of the same push at other positions, on development prompts; one of these
is chosen."""
_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_PANDAS = {"str": "str", "int": "int64", "float": "float64", "bool": "bool"}


def stacked(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables of one kind, concatenated. Empty ones do not affect the types."""
    listed = list(frames)
    filled = [frame for frame in listed if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else listed[0]


def evenly_spaced(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows of each behaviour, evenly spaced over its rows; behaviours are sorted."""
    groups = [group.iloc[:: -(-len(group) // most)] for _, group in frame.groupby("behaviour", sort=True)]
    return pd.concat(groups, ignore_index=True)


def best_site(evidence: pd.DataFrame, outcome: str, direction: str) -> int | None:
    """Number of the site (`draw`) with the largest mean effect minus match; the first one of a tie, None without
    rows."""
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
    """The table `name` from rows given as mappings. Without rows it is empty but has its columns."""
    listed = list(rows)
    frame = pd.DataFrame(listed) if listed else pd.DataFrame({column: [] for column in _schema(name).columns})
    return validate_table(frame, name)


def validate_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """`frame` with the types and the row order of the table `name`.

    Raises:
        InputError: a column is missing, unknown, of another type, not finite or outside its words, or two rows have the
            same key. The message names table and column.
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
    """Writes the table `name` to `path`, whole or not at all: `.parquet`, or `.csv` with six significant digits.

    Raises:
        InputError: the table does not fit its schema (`validate_table`).
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise InputError(f"{path}: a table is written as .parquet or .csv.")
    frame = validate_table(frame, name)
    with whole(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g", encoding="utf-8")
        else:
            types = {column: _ARROW[_kind(frame[column])] for column in frame.columns}
            arrays = [pa.array(frame[column].to_list(), type=kind) for column, kind in types.items()]
            arrow = pa.Table.from_arrays(arrays, schema=pa.schema(list(types.items())))
            pq.write_table(arrow, temporary, compression="zstd")


def read_table(path: str | Path, name: str) -> pd.DataFrame:
    """The table `name` from `path`. Raises `InputError` if it is missing, damaged, or does not fit its schema."""
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
