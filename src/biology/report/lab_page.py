"""The page `lab`: a small model that runs in the page itself. A reader holds its features while it answers and writes.

Features and control are the same as in `biology steer` (`held_features.py`, `controls.py`); the script is in
templates/lab*.js. The page is returned as bytes, in UTF-16 (`pages.in_utf_16`).
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup

from biology.cases.case import Case, title_on
from biology.cases.measurement import Line
from biology.cases.perturbations import Swap
from biology.config import Config
from biology.records import InputError
from biology.report.lab_weights import read_small
from biology.report.pages import cases_of, environment, in_utf_16
from biology.supernodes.named_members import shipped_members
from biology.tables import read_table
from biology.wording import visible

MOST_BYTES = 8_000_000
"""Largest size of a page. If not all features fit, those active least often are left out."""
SEEN, CHOICES, FEATURED, STRENGTH, SEED = 3, 6, 3, 2, 0
"""Number of prompts that show what activates a feature; of examples per prompt; of examples shown first; M in these; seed
of the control (that of `biology steer`)."""
EVERYWHERE = "every=1&write=12"
"""Part of an address: hold at every token, and continue writing."""
INTRODUCTION = "Introductory"
"""Occurs in the name of the paper's section with which the page begins."""
Place = tuple[int, int]
"""A feature: its layer and its index."""


def lab_page(root: Path, config: Config, model: str) -> bytes:
    """The page of a model, from its weights, its atlas and its supernodes.

    Raises:
        InputError: the model does not fit into a page, or its atlas or supernodes are missing.
    """
    entry = config.model(model)
    small = read_small(entry, root, model)
    run = root / "data/runs" / model
    atlas, prompts = (read_table(run / f"{name}.parquet", name) for name in ("atlas", "atlas_prompts"))
    found = [(case, shipped_members(root, entry, model, case)) for case in cases_of(root, config, model)]
    grouped = [(case, members) for case, members in found if members is not None]
    grouped.sort(key=lambda pair: INTRODUCTION not in pair[0].paper.section)
    if not grouped:
        raise InputError(f"reports/{model}/supernodes.csv has no rows for these weights: run `biology members`.")
    listed = [examples(case, members) for case, members in grouped]
    state = np.random.default_rng(SEED).bit_generator.state["state"]
    facts = {
        "cases": [case_facts(case, members) for case, members in grouped],
        "generator": {name: str(number) for name, number in state.items()},
    }
    named = {tuple(place) for _, members in grouped for place in members[["layer", "feature"]].to_numpy().tolist()}
    fires = firing(atlas, prompts)
    order = sorted(fires, key=lambda place: (place not in named, -fires[place], place))
    template, size = environment().get_template("lab.html.j2"), len(order)
    while size >= len(named):
        carried = order[:size]
        kept = [sorted(feature for at, feature in carried if at == layer) for layer in range(len(small.transcoders))]
        told = {**facts, **feature_facts(atlas, prompts, set(carried), small.words["vocabulary"])}
        text = template.render(
            model=model,
            grown=entry.planted,
            examples=[example for shown in listed for example in shown],
            featured=featured(listed),
            n_features=len(fires),
            n_carried=size,
            share=sum(map(fires.__getitem__, carried)) / max(1, sum(fires.values())),
            data=Markup(small.packed(told, kept)),
        )
        page = in_utf_16(text)
        if len(page) <= MOST_BYTES:
            return page
        size -= math.ceil(size * (1 - MOST_BYTES / len(page)))
    raise InputError(
        f"model '{model}' has no page lab: it does not fit into {MOST_BYTES / 1e6:g} MB with its supernodes."
    )


def firing(atlas: pd.DataFrame, prompts: pd.DataFrame) -> dict[Place, int]:
    """How often each feature is active on the prompts of the atlas, without their first token, which is the same in all."""
    tokens = sum(len(json.loads(text)) for text in prompts["tokens"])
    counts = {}
    for row in atlas.itertuples():
        shown = json.loads(row.examples)
        at_first = len(prompts) if shown and shown[0][1][0] != "0" else 0
        counts[int(row.layer), int(row.feature)] = round(row.density * tokens) - at_first
    return counts


def feature_facts(
    atlas: pd.DataFrame, prompts: pd.DataFrame, carried: set[Place], vocabulary: list[str]
) -> dict[str, Any]:
    """For each feature, in order of layer and index: its largest activation, and the (prompt, token) pairs where it was
    most active. And these prompts, as token ids."""
    number = {word: place for place, word in enumerate(vocabulary)}
    texts = [json.loads(tokens) for tokens in prompts["tokens"]]
    largest, seen, used = [], [], {}
    for row in atlas.sort_values(["layer", "feature"]).itertuples():
        if (row.layer, row.feature) not in carried:
            continue
        best = [
            (prompt, max(range(len(digits)), key=digits.__getitem__)) for prompt, digits in json.loads(row.examples)
        ]
        largest.append(float(f"{row.maximum:.3g}"))
        seen.append([part for prompt, pos in best[:SEEN] for part in (used.setdefault(prompt, len(used)), pos)])
    return {"largest": largest, "seen": seen, "texts": [[number[token] for token in texts[prompt]] for prompt in used]}


def case_facts(case: Case, members: pd.DataFrame) -> dict[str, Any]:
    """The named prompts of a case, each text once, with their supernodes; and what ends a line that the model writes."""
    first = _first(case)
    written = (getattr(one, "line", None) for one in case.experiments.values())
    line = next((one for one in written if isinstance(one, Line)), None)
    ends = {item.factors.get(line.ends, "") for item in case.items} - {""} if line else set()
    return {
        "case": case.name,
        "prompts": [{"item": item, "text": case.prompts[item].text} for item in first.values()],
        "nodes": [
            {
                "item": item, "name": name, "title": title_on(case, name, item), "pos": int(rows["pos"].iat[0]),
                "members": rows[["layer", "feature"]].to_numpy().tolist(),
            }
            for (item, name), rows in members.groupby(["item", "supernode"], sort=False) if item in first.values()
        ],
        "line": {"most": line.max_words, "ends": sorted(ends)} if line else None,
    }  # fmt: skip


def _first(case: Case) -> dict[str, str]:
    """The first prompt with each text."""
    first: dict[str, str] = {}
    for item, prompt in case.prompts.items():
        first.setdefault(prompt.text, item)
    return first


def examples(case: Case, members: pd.DataFrame) -> list[dict[str, Any]]:
    """The swaps of a case on its named prompts, as links. For each prompt: the title of the donor's supernode, and the
    address of the page that holds it. Those with the same title as the prompt's own come last."""
    first, there = _first(case), set(zip(members["item"], members["supernode"], strict=True))
    made: dict[str, list[tuple[bool, str, str]]] = {}
    tried = [(swap, item) for swap in case.of_kind(Swap).values() for item in swap.prompts]
    for swap, item in tried:
        text, donor = case.prompts[item].text, case.prompts.get(case.prompts[item].factors.get(swap.donor, ""))
        if donor is None or (first[donor.text], swap.inject) not in there:
            continue
        source = first[donor.text]
        title = title_on(case, swap.inject, source)
        alike = title == title_on(case, swap.inject, item)
        address = f"prompt={quote(text, safe='')}&hold={case.name}/{source}/{swap.inject}*{STRENGTH}"
        found = (alike, f"{title} of {visible(donor.text)}" if alike else title, address)
        made.setdefault(text, [])
        made[text] += [found] if found not in made[text] else []
    in_order = {text: sorted(found, key=lambda one: one[0])[:CHOICES] for text, found in made.items()}
    return [{"text": text, "holds": [one[1:] for one in found]} for text, found in in_order.items()]


def featured(listed: list[list[dict[str, Any]]]) -> list[dict[str, str]]:
    """The examples shown first: one of each case, or of each prompt if there is one case, without repetition; then the
    first one again, held at every token while the model writes on."""
    prompts = listed[0] if len(listed) == 1 else [shown[0] for shown in listed if shown]
    made: dict[str, dict[str, str]] = {}
    for example in prompts:
        for title, address in example["holds"]:
            if title not in made:
                made[title] = {"title": title, "text": example["text"], "address": address}
                break
    shown = list(made.values())[:FEATURED]
    golden = [
        {**one, "title": f"{one['title']} at every token", "address": f"{one['address']}&{EVERYWHERE}"}
        for one in shown[:1]
    ]
    return shown + golden
