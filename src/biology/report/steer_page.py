"""The page on which one steers a model: a supernode, a strength, and what is then said; computed beforehand on a grid."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportReturnType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from biology.cases.case import Case, called, discover_cases, load_case
from biology.config import Config
from biology.report.lab_fit import refused
from biology.report.pages import environment, packed, records
from biology.tables import read_table


def steer_page(root: Path, config: Config, model: str) -> str:
    """The page of a model, from the tables `steering` of its cases. `InputError` names what is missing."""
    run = root / "data/runs" / model
    named = config.model(model).prompts
    cases = [load_case(root, name, named) for name in config.cases_of(model, discover_cases(root, named))]
    tables = {case.name: read_table(run / case.name / "steering.parquet", "steering") for case in cases}
    data = [case_data(case, tables[case.name]) for case in cases if len(tables[case.name])]
    examples = [(case, striking(case, tables[case.name])) for case in cases]
    return environment().get_template("steer.html.j2").render(
        model=model,
        cases=[case.name for case in cases],
        examples=[_example(case, row) for case, row in examples if row is not None],
        data=packed(data),
        lab=not refused(config.model(model), root),
    )  # fmt: skip


def case_data(case: Case, steering: pd.DataFrame) -> dict[str, Any]:
    """What the page's script reads of one case: prompts, ways to steer each, strengths, and what came out at each."""
    prompts = []
    for item, rows in steering.groupby("item", sort=False):
        clean = rows[rows["mode"] == "clean"]
        steered = rows[rows["mode"] != "clean"].groupby(["source", "supernode", "mode"], sort=False)
        ways = [
            {
                "source": source, "supernode": supernode, "mode": mode, "title": _title(case, supernode, source),
                "pos": int(way["pos"].iloc[0]),
                "at": [[strength, *_said(found)] for strength, found in way.groupby("strength")],
            }
            for (source, supernode, mode), way in steered
        ]  # fmt: skip
        shown = case.prompts[str(item)]
        prompts.append({"item": item, "text": shown.text, "answer": shown.answer, "clean": _said(clean), "ways": ways})
    return {"case": case.name, "prompts": prompts}


def _said(rows: pd.DataFrame) -> tuple[list[tuple[str, float]], str]:
    """Next tokens with their probabilities, the most probable first, and the line that is written, if there is one."""
    tokens = rows[rows["kind"] == "token"].sort_values("value", ascending=False, kind="stable")
    line = rows.loc[rows["kind"] == "line", "text"]
    pairs = [(text, round(value, 4)) for text, value in zip(tokens["text"], tokens["value"], strict=True)]
    return pairs, str(line.iloc[0]) if len(line) else ""


def _title(case: Case, supernode: str, item: str) -> str:
    shown = case.prompts[item]
    return called(case, supernode, {**shown.factors, "answer": shown.answer.strip()})


def striking(case: Case, steering: pd.DataFrame) -> dict[str, Any] | None:
    """A place to begin: the steering with another prompt's supernode that makes a new answer most probable.

    Supernodes that are found by the tokens which they promote are left out: that they say them is no surprise.
    """
    plain = [name for name, rule in case.supernodes.items() if not rule.promotes]
    tokens = steering[steering["kind"] == "token"]
    clean = tokens[tokens["mode"] == "clean"].set_index(["item", "text"])["value"]
    moved = tokens[tokens["supernode"].isin(plain) & (tokens["source"] != tokens["item"]) & (tokens["strength"] > 0)]
    before = clean.reindex(pd.MultiIndex.from_frame(moved[["item", "text"]]), fill_value=0.0).to_numpy()
    gain = (moved["value"] - before).round(2)  # of about equal ones, the weakest push
    best = moved.assign(gain=gain).sort_values(["gain", "strength"], ascending=[False, True], kind="stable")
    return records(best.head(1))[0] if len(best) else None


def _example(case: Case, row: dict[str, Any]) -> dict[str, Any]:
    title = _title(case, row["supernode"], row["source"])
    return row | {"case": case.name, "prompt": case.prompts[row["item"]].text, "title": title}
