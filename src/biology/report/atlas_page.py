"""The feature atlas as a page: a card for every feature of a model, with ways to browse them.

The address `atlas.html#<layer>-<feature>` opens a card; graphs and claims link to it. What is true of every feature is a column
of whole numbers, and the numbers of a column stand byte by byte, which compresses best. The page is returned as bytes, in UTF-16
(`pages.in_utf_16`).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from biology.cases.case import Case, called
from biology.config import Config
from biology.findings.labels import Roles, label, shipped_roles
from biology.report.pages import MOST_BYTES, cases_of, environment, in_utf_16, manifest_of, packed_bytes, quantised
from biology.tables import Tables, read_table, read_tables

TABLES = ("prompts", "supernodes", "operand_plots")
MOST_PLOTS = 200
"""Largest number of operand plots in a page."""
DETAILS = ((10, 6), (8, 6), (8, 5), (7, 5), (6, 5), (6, 4), (5, 3), (4, 2))
"""What a card may list: the tokens that a feature raises or lowers most, and its strongest examples. The first with which all
features fit into a page is taken; if they do not with the last, those that are active least often are left out."""


def atlas_page(root: Path, config: Config, model: str) -> bytes:
    """The atlas of a model, from the outputs of stages below `root`. Raises `InputError` with what is missing."""
    run = root / "data/runs" / model
    features, prompts = (read_table(run / f"{name}.parquet", name) for name in ("atlas", "atlas_prompts"))
    cases = cases_of(root, config, model)
    tables = {case.name: read_tables(run / case.name, TABLES) for case in cases}
    roles = shipped_roles(root / "reports" / model / "labels.json")
    layers = features.assign(alive=features["density"] > 0).groupby("layer")
    summary = [
        {
            "layer": layer, "count": len(rows), "alive": int(rows["alive"].sum()),
            "median": float(rows.loc[rows["alive"], "density"].median()),
        }
        for layer, rows in layers
    ]  # fmt: skip
    manifest = manifest_of(run / "load.json")
    template, read = environment().get_template("atlas.html.j2"), with_lists(features)

    def page(carried: pd.DataFrame, detail: tuple[int, int]) -> bytes:
        text = template.render(
            model=model,
            grown=model in config.models and config.models[model].planted,
            transcoders=manifest["transcoders"]["name"],
            quantised=quantised(manifest),
            n_features=len(features),
            n_carried=len(carried),
            n_prompts=len(prompts),
            n_tokens=detail[0],
            n_examples=detail[1],
            layers=summary,
            cases=[case.name for case in cases if len(tables[case.name]["supernodes"])],
            data=Markup(atlas_data(carried, prompts, cases, tables, roles, detail)),
        )
        return in_utf_16(text)

    made: dict[int, bytes] = {}

    def fits(level: int) -> bool:
        made[level] = page(read, DETAILS[level])
        return len(made[level]) <= MOST_BYTES

    level = 0 if fits(0) else 1 + bisect_left(range(1, len(DETAILS)), True, key=fits)
    if level < len(DETAILS):
        return made[level]
    order, text, size = _in_order(features, tables.values(), roles), made[len(DETAILS) - 1], len(features)
    while size and len(text) > MOST_BYTES:
        size -= math.ceil(size * (1 - MOST_BYTES / len(text)))
        text = page(read.loc[order[:size].sort_values()], DETAILS[-1])
    return text


def _in_order(features: pd.DataFrame, tables: Iterable[Tables], roles: Roles) -> pd.Index:
    """The rows of the features, first those that supernodes or roles name, then those that are active most often."""
    named = {
        place for one in tables for place in one["supernodes"][["layer", "feature"]].itertuples(index=False, name=None)
    }
    known = [place in named or place in roles.of for place in zip(features["layer"], features["feature"], strict=True)]
    return features.assign(known=known).sort_values(["known", "density"], ascending=False, kind="stable").index


def with_lists(features: pd.DataFrame) -> pd.DataFrame:
    """The table `atlas` with its lists read."""
    return features.assign(**{name: list(map(json.loads, features[name])) for name in ("raises", "lowers", "examples")})


def atlas_data(
    features: pd.DataFrame, prompts: pd.DataFrame, cases: Iterable[Case], tables: Mapping[str, Tables], roles: Roles,
    detail: tuple[int, int] = DETAILS[0],
) -> str:  # fmt: skip
    """The data for the page's script, as characters. `features` is the table `atlas` with its lists read.

    Tokens are stored once and referred to by number, the most frequent first. So are lists of tokens: a neuron of two signs raises
    with one what it lowers with the other.
    """
    n_tokens, n_examples = detail
    place = {pair: index for index, pair in enumerate(zip(features["layer"], features["feature"], strict=True))}
    said: dict[tuple[str, ...], int] = {}
    raises, lowers = (
        [said.setdefault(tuple(tokens[:n_tokens]), len(said)) for tokens in features[side]]
        for side in ("raises", "lowers")
    )
    texts = [(row.source, json.loads(row.tokens)) for row in prompts.itertuples()]
    times = Counter(chain.from_iterable(chain(said, (tokens for _, tokens in texts))))
    number = {token: index for index, (token, _) in enumerate(times.most_common())}
    groups, members, plots = [], [], {}
    for case in cases:
        for name, title, found in _members(case, tables[case.name]):
            found = sorted((place[one[:2]], one[2]) for one in found if one[:2] in place)
            groups.append([case.name, name, title, len(found)])
            members += found
        for (at, layer, feature), cells in tables[case.name]["operand_plots"].groupby(["at", "layer", "feature"]):
            if len(plots) < MOST_PLOTS and (layer, feature) in place:
                plots.setdefault(place[layer, feature], []).append([case.name, at, *_plot(cells)])
    labels = {"": 0}
    columns = [
        _column("layer", features["layer"], steps=True),
        _column("feature", features["feature"], steps=True),
        *_decimals("density", features["density"]),
        *_decimals("maximum", features["maximum"]),
        _column("label", [labels.setdefault(label(roles.of.get(pair, ())).text, len(labels)) for pair in place]),
        _column("raises", raises, steps=True),
        _column("lowers", lowers, steps=True),
        _column("said", [len(tokens) for tokens in said]),
        _column("token", [number[token] for tokens in said for token in tokens]),
        _column("bins", [len(text.split()) for text in features["histogram"]]),
        _column("histogram", [int(count) for text in features["histogram"] for count in text.split()]),
        *_examples([shown[:n_examples] for shown in features["examples"]]),
        _column("member", [index for index, _ in members], steps=True),
        _column("times", [count for _, count in members]),
    ]
    facts = {
        "labels": list(labels),
        "texts": [[source, [number[token] for token in tokens]] for source, tokens in texts],
        "groups": groups,
        "plots": plots,
        "tokens": list(number),
        "columns": [told for told, _ in columns],
    }
    return packed_bytes(facts, b"".join(data for _, data in columns))


POWER = 38
"""The power of ten of the largest numbers in single precision."""
Column = tuple[tuple[str, int, int, bool], bytes]
"""A column's name, length, bytes a number, and whether it holds the steps between its numbers; and these bytes, the lowest of all
numbers first."""


def _column(name: str, numbers: Iterable[Any], *, steps: bool = False) -> Column:
    values = np.array(list(numbers), np.int64)
    if steps:
        step = np.diff(values, prepend=0)
        values = np.where(step < 0, -2 * step - 1, 2 * step)
    width = max(1, (int(values.max(initial=0)).bit_length() + 7) // 8)
    return (name, len(values), width, steps), values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


def _decimals(name: str, values: Iterable[float]) -> tuple[Column, Column]:
    """Numbers of three digits: the digits, and POWER minus the power of ten."""
    parts = [f"{value:.2e}".split("e") for value in values]
    return (
        _column(name, [int(digits.replace(".", "")) for digits, _ in parts]),
        _column(f"{name}_power", [POWER + 2 - int(power) for _, power in parts], steps=True),
    )


def _examples(examples: Sequence[Sequence[Sequence[Any]]]) -> list[Column]:
    """The examples of all features: their number, their prompts, and the shaded tokens of each: their number, where they are, from
    the one before, and their shades."""
    every = [one for several in examples for one in several]
    lengths = np.array([len(shades) for _, shades in every], np.int64)
    shades = np.frombuffer("".join(shades for _, shades in every).encode(), np.uint8) - ord("0")
    shaded = np.flatnonzero(shades)
    which = np.repeat(np.arange(len(every)), lengths)[shaded]
    at = shaded - np.repeat(np.cumsum(lengths) - lengths, lengths)[shaded]
    first = np.diff(which, prepend=-1) != 0
    return [
        _column("examples", [len(several) for several in examples]),
        _column("prompt", [prompt for prompt, _ in every]),
        _column("shaded", np.bincount(which, minlength=len(every))),
        _column("at", np.where(first, at, np.diff(at, prepend=0))),
        _column("shade", shades[shaded]),
    ]


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
