"""The feature atlas as a page: a card for every feature of a model, with ways to browse them.

The address `atlas.html#<layer>-<feature>` opens a card; graphs and claims link to it.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from biology.cases.case import Case, called
from biology.config import Config
from biology.findings.labels import Roles, label, shipped_roles
from biology.report.pages import cases_of, environment, manifest_of, packed
from biology.tables import Tables, read_table, read_tables

TABLES = ("prompts", "supernodes", "operand_plots")
MOST_PLOTS = 200
"""Largest number of operand plots in a page."""


def atlas_page(root: Path, config: Config, model: str) -> str:
    """The atlas of a model, from the outputs of stages below `root`. Raises `InputError` with what is missing."""
    run = root / "data/runs" / model
    features, prompts = (read_table(run / f"{name}.parquet", name) for name in ("atlas", "atlas_prompts"))
    cases = cases_of(root, config, model)
    tables = {case.name: read_tables(run / case.name, TABLES) for case in cases}
    data = atlas_data(features, prompts, cases, tables, shipped_roles(root / "reports" / model / "labels.json"))
    layers = features.assign(alive=features["density"] > 0).groupby("layer")
    summary = [
        {
            "layer": layer, "count": len(rows), "alive": int(rows["alive"].sum()),
            "median": float(rows.loc[rows["alive"], "density"].median()),
        }
        for layer, rows in layers
    ]  # fmt: skip
    return environment().get_template("atlas.html.j2").render(
        model=model,
        transcoders=manifest_of(run / "load.json")["transcoders"]["name"],
        n_features=len(features),
        n_prompts=len(prompts),
        layers=summary,
        cases=[case.name for case in cases if len(tables[case.name]["supernodes"])],
        data=packed(data),
    )  # fmt: skip


def atlas_data(
    features: pd.DataFrame, prompts: pd.DataFrame, cases: Iterable[Case], tables: Mapping[str, Tables], roles: Roles
) -> dict[str, Any]:
    """The data for the page's script. Tokens are stored once and referred to by number, features by their row, labels
    by what they are."""
    vocabulary: dict[str, int] = {}

    def numbers(texts: Iterable[str]) -> list[int]:
        return [vocabulary.setdefault(text, len(vocabulary)) for text in texts]

    rows = [
        [
            row.layer, row.feature, _short(row.density), _short(row.maximum), numbers(json.loads(row.raises)),
            numbers(json.loads(row.lowers)), [int(n) for n in row.histogram.split()], json.loads(row.examples),
        ]
        for row in features.itertuples()
    ]  # fmt: skip
    place = {(row[0], row[1]): index for index, row in enumerate(rows)}
    texts = [[row.source, numbers(json.loads(row.tokens))] for row in prompts.itertuples()]
    members, plots = [], {}
    for case in cases:
        members += [
            [case.name, name, title, [[place[layer, feature], count] for layer, feature, count in found]]
            for name, title, found in _members(case, tables[case.name])
        ]
        for (at, layer, feature), cells in tables[case.name]["operand_plots"].groupby(["at", "layer", "feature"]):
            if len(plots) < MOST_PLOTS and (layer, feature) in place:
                plots.setdefault(place[layer, feature], []).append([case.name, at, *_plot(cells)])
    labels = [label(roles.of.get((row[0], row[1]), ())).text for row in rows]
    return {
        "rows": rows,
        "labels": labels,
        "texts": texts,
        "members": members,
        "plots": plots,
        "tokens": list(vocabulary),
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _members(case: Case, tables: Tables) -> Iterable[tuple[str, str, list[tuple[int, int, int]]]]:
    """For each supernode and title on a prompt (Texas), its features there: layer, feature, number of such prompts."""
    prompts = tables["prompts"].set_index("item")
    factors = {item: {str(k): str(v) for k, v in row.items()} for item, row in prompts.to_dict("index").items()}
    frame = tables["supernodes"]
    titles = {
        (name, item): called(case, name, factors[item])
        for name, item in frame[["supernode", "item"]].drop_duplicates().itertuples(index=False)
    }
    title = [titles[pair] for pair in zip(frame["supernode"], frame["item"], strict=True)]
    counted = frame.assign(title=title).groupby(["supernode", "title", "layer", "feature"]).size()
    for (name, words), found in counted.groupby(level=["supernode", "title"], sort=True):
        listed = [(int(layer), int(feature), int(n)) for (_, _, layer, feature), n in found.items()]
        yield str(name), str(words), sorted(listed, key=lambda member: -member[2])


def _plot(cells: pd.DataFrame) -> tuple[int, int, str]:
    """An operand plot as rows, columns and one letter per cell: `.` if no prompt fills it, else a to z by
    activation."""
    height, width = int(cells["a"].max()) + 1, int(cells["b"].max()) + 1
    grid = np.full((height, width), -1.0)
    grid[cells["a"], cells["b"]] = cells["activation"]
    top = max(float(grid.max()), 1e-12)
    shade = np.where(grid < 0, -1, np.round(25 * grid / top)).astype(int)
    return height, width, "".join("." if value < 0 else chr(97 + value) for value in shade.flatten())
