"""What is written is what is read, the same rows are the same bytes, and what does not fit is refused."""

import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from biology.records import InputError
from biology.schemas import SCHEMAS
from biology.tables import read_table, read_tables, table, validate_table, write_table

VALUES = {"str": ["b", "词\n<bos>$_"], "int": [2, 1], "float": [0.5, -1e-9], "bool": [True, False]}


def example(name: str) -> pd.DataFrame:
    words = {column: list(allowed[:2]) for column, allowed in SCHEMAS[name].allowed}
    return pd.DataFrame({column: words.get(column, VALUES[kind]) for column, kind in SCHEMAS[name].columns.items()})


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_written_is_what_is_read(name, tmp_path):
    write_table(tmp_path / f"{name}.parquet", example(name), name)
    assert read_table(tmp_path / f"{name}.parquet", name).equals(validate_table(example(name), name))
    assert read_tables(tmp_path, [name])[name].equals(validate_table(example(name), name))
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.parquet"]  # no temporary file is left


def test_the_same_rows_are_the_same_bytes_in_any_order(tmp_path):
    frame = table(
        "evidence", [row | {"item": f"i{i}"} for i in range(50) for row in example("evidence").to_dict("records")]
    )
    digests = set()
    for seed in range(3):
        write_table(tmp_path / "e.parquet", frame.sample(frac=1, random_state=seed), "evidence")
        digests.add(hashlib.sha256((tmp_path / "e.parquet").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_rows_whose_order_carries_meaning_keep_it():
    assert validate_table(example("prompts"), "prompts")["item"].tolist() == VALUES["str"]
    assert validate_table(example("evidence"), "evidence")["item"].tolist() == sorted(VALUES["str"])


def test_csv_keeps_empty_numbers_and_words_that_look_empty(tmp_path):
    frame = example("verdicts").assign(p=[np.nan, 1 / 3], claim=["None", "NA"])
    write_table(tmp_path / "verdicts.csv", frame, "verdicts")
    back = read_table(tmp_path / "verdicts.csv", "verdicts")
    assert back["claim"].tolist() == ["None", "NA"] and np.isnan(back["p"][0]) and back["p"][1] == 0.333333
    assert (tmp_path / "verdicts.csv").read_bytes().count(b"\r") == 0


def test_factor_columns_are_kept_with_their_types(tmp_path):
    write_table(
        tmp_path / "prompts.parquet", example("prompts").assign(relation=["capital", "flag"], n=[1, 2]), "prompts"
    )
    back = read_table(tmp_path / "prompts.parquet", "prompts")
    assert back["relation"].tolist() == ["capital", "flag"] and back["n"].dtype == "int64"


def test_an_empty_table_keeps_its_columns(tmp_path):
    write_table(tmp_path / "panel.parquet", table("panel", []), "panel")
    back = read_table(tmp_path / "panel.parquet", "panel")
    assert len(back) == 0 and list(back.columns) == list(SCHEMAS["panel"].columns)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda frame: frame.drop(columns="value"), "table 'evidence': missing column.s. value"),
        (lambda frame: frame.assign(colour="red"), "unknown column.s. colour"),
        (lambda frame: frame.assign(value=["1", "2"]), "column 'value': has type"),
        (lambda frame: frame.assign(value=[1.0, np.nan]), "column 'value': row 1 is empty"),
        (lambda frame: frame.assign(value=[1.0, np.inf]), "column 'value': row 1 is not finite"),
        (lambda frame: frame.assign(draw=[0.5, 1.0]), "column 'draw': has type float64, expected int"),
        (lambda frame: frame.assign(item=["a", 3]), "column 'item': row 1 holds 3, expected text"),
        (lambda frame: frame.assign(arm=["effect", "placebo"]), "column 'arm': 'placebo' in row 1; allowed: effect"),
        (lambda frame: pd.concat([frame, frame]), "two rows for"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        validate_table(change(example("evidence")), "evidence")


def test_bad_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "evidence.parquet", "evidence")
    (tmp_path / "evidence.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match="not a readable table") as caught:
        read_table(tmp_path / "evidence.parquet", "evidence")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="unknown table 'claims'"):
        validate_table(pd.DataFrame(), "claims")
    with pytest.raises(InputError, match="missing column"):
        write_table(tmp_path / "bad.parquet", pd.DataFrame({"item": []}), "graphs")
    assert not (tmp_path / "bad.parquet").exists()


def test_above_the_tables_nothing_imports_torch():
    code = "import sys, biology.tables, biology.verdicts.claims, biology.figures.case_figures, biology.report.case_report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "transformer_lens", "sae_lens"} & set(loaded)
