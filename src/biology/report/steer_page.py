"""The page for steering a model: interventions chosen by the tests, with their controls, and a board of all supernodes and
strengths.

Everything was computed beforehand. The chosen interventions come from table `panel`: experiments are ranked by their effect on
development prompts beyond matched random features. The board is table `steering`: supernodes held on a grid, with the model's
own attention.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportReturnType=false

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from biology.cases.case import Case, title_on
from biology.cases.perturbations import Perturbation
from biology.config import Config
from biology.findings.story import intervention
from biology.report.lab_fit import refused
from biology.report.pages import cases_of, environment, packed, records
from biology.tables import read_table

CHOICES = 6
"""Largest number of interventions offered per case."""
INERT = 0.05
"""Change of a probability below which an intervention counts as having no effect."""
MOVED = ("changed", "weaker", "inert")


def steer_page(root: Path, config: Config, model: str) -> str:
    """The page of a model, from the tables of its cases. Raises `InputError` with what is missing."""
    run = root / "data/runs" / model
    cases = cases_of(root, config, model)
    tables = {
        case.name: {
            name: read_table(run / case.name / f"{name}.parquet", name) for name in ("steering", "panel", "evidence")
        }
        for case in cases
    }
    steered = {name: found["steering"] for name, found in tables.items()}
    examples = [_example(case, row) for case in cases if (row := striking(case, steered[case.name])) is not None]
    return environment().get_template("steer.html.j2").render(
        model=model,
        cases=[case.name for case in cases],
        choices=[(case.name, choices(case, **tables[case.name])) for case in cases],
        examples=examples,
        data=packed([case_data(case, steered[case.name]) for case in cases if len(steered[case.name])]),
        lab=not refused(config.model(model), root),
        grown=config.model(model).planted,
    )  # fmt: skip


def choices(case: Case, panel: pd.DataFrame, evidence: pd.DataFrame, steering: pd.DataFrame) -> list[dict[str, Any]]:
    """The interventions that work best on development prompts, each on a named prompt: the answers before, after and with the
    control (`story.intervention`), what it `moved`, and the `address` on the board that holds the same supernode, if there
    is one.

    One prompt of each experiment is taken, then the second ones. Those that change the answer come first, the surest of them
    at the head.
    """
    shown = panel.groupby("experiment", sort=False)["item"].unique()
    ranked = sorted(
        (name for name in shown.index if name in case.experiments), key=lambda name: -gain(case, evidence, name)
    )
    turns = zip_longest(*([(name, item) for item in shown[name]] for name in ranked))
    offered = [pair for turn in turns for pair in turn if pair][:CHOICES]
    made = [(name, item, intervention(case, panel, name, item)) for name, item in offered]
    told = [
        found | {"address": _address(case, steering, name, item), "moved": _moved(found)}
        for name, item, found in made
        if found
    ]
    return sorted(told, key=lambda one: (MOVED.index(one["moved"]), -one["after"][1] if one["after"] else 0.0))


def _moved(shown: dict[str, Any]) -> str:
    """The effect of an intervention on the answer, one of MOVED: `weaker` is still the most probable."""
    before, after = shown["before"], shown["after"]
    if before is None or after is None or before[0] != after[0]:
        return "changed"
    return "inert" if shown["line"] or abs(before[1] - after[1]) < INERT else "weaker"


def gain(case: Case, evidence: pd.DataFrame, name: str) -> float:
    """The effect of an experiment on development prompts beyond matched random features, in its stated direction: the mean of
    its first outcome that is a share; 0 without one."""
    experiment = case.experiments[name]
    if not isinstance(experiment, Perturbation):
        return 0.0
    rows = evidence[(evidence["split"] == "dev") & (evidence["experiment"] == name)]
    for outcome in experiment.outcomes:
        arms = rows[rows["outcome"] == outcome].groupby("arm")["value"].mean().to_dict()
        if outcome.form.reach == 1 and {"effect", "match"} <= set(arms):
            return (arms["effect"] - arms["match"]) * (1 if experiment.direction == "increase" else -1)
    return 0.0


def _address(case: Case, steering: pd.DataFrame, name: str, item: str) -> str:
    """The address on the board that holds the experiment's supernode on a prompt; empty if there is none."""
    experiment = case.experiments[name]
    if not isinstance(experiment, Perturbation):
        return ""
    prompt = case.prompts[item]
    same = next(
        other for other, one in case.prompts.items() if one.text == prompt.text
    )  # only one of them is on the board
    source = prompt.factors.get(experiment.donor, "") if experiment.injected else same
    supernode = experiment.injected or (*experiment.held, "")[0]
    rows = steering[(steering["item"] == same) & (steering["source"] == source) & (steering["supernode"] == supernode)]
    mode = "swap" if experiment.injected and "swap" in set(rows["mode"]) else "hold"
    strengths = sorted(set(rows.loc[rows["mode"] == mode, "strength"]))
    if not strengths:
        return ""
    strength = 1.0 if experiment.injected else min(strengths, key=abs)
    return "/".join([case.name, same, source, supernode, mode, f"{strength:g}"])


def case_data(case: Case, steering: pd.DataFrame) -> dict[str, Any]:
    """Data of one case for the page's script: prompts, ways to steer each, strengths, and the result at each."""
    prompts = []
    for item, rows in steering.groupby("item", sort=False):
        clean = rows[rows["mode"] == "clean"]
        steered = rows[rows["mode"] != "clean"].groupby(["source", "supernode", "mode"], sort=False)
        ways = [
            {
                "source": source, "supernode": supernode, "mode": mode, "title": title_on(case, supernode, source),
                "pos": int(way["pos"].iloc[0]),
                "at": [[strength, *_said(found)] for strength, found in way.groupby("strength")],
            }
            for (source, supernode, mode), way in steered
        ]  # fmt: skip
        shown = case.prompts[str(item)]
        prompts.append({"item": item, "text": shown.text, "answer": shown.answer, "clean": _said(clean), "ways": ways})
    return {"case": case.name, "prompts": prompts}


def _said(rows: pd.DataFrame) -> tuple[list[tuple[str, float]], str]:
    """Next tokens with their probabilities, the most probable first, and the line that is written, if any."""
    tokens = rows[rows["kind"] == "token"].sort_values("value", ascending=False, kind="stable")
    line = rows.loc[rows["kind"] == "line", "text"]
    pairs = [(text, round(value, 4)) for text, value in zip(tokens["text"], tokens["value"], strict=True)]
    return pairs, str(line.iloc[0]) if len(line) else ""


def striking(case: Case, steering: pd.DataFrame) -> dict[str, Any] | None:
    """A place to begin: steering with another prompt's supernode that makes a new answer the most probable one.

    Supernodes whose rules ask for tokens that they promote are left out: that they lead to these tokens is no surprise.
    """
    plain = [name for name, rule in case.supernodes.items() if not rule.promotes]
    tokens = steering[steering["kind"] == "token"]
    clean = tokens[tokens["mode"] == "clean"].set_index(["item", "text"])["value"]
    moved = tokens[tokens["supernode"].isin(plain) & (tokens["source"] != tokens["item"]) & (tokens["strength"] > 0)]
    before = clean.reindex(pd.MultiIndex.from_frame(moved[["item", "text"]]), fill_value=0.0).to_numpy()
    gain = (moved["value"] - before).round(2)  # the weakest push among nearly equal ones
    best = moved.assign(gain=gain).sort_values(["gain", "strength"], ascending=[False, True], kind="stable")
    return records(best.head(1))[0] if len(best) else None


def _example(case: Case, row: dict[str, Any]) -> dict[str, Any]:
    title = title_on(case, row["supernode"], row["source"])
    return row | {"case": case.name, "prompt": case.prompts[row["item"]].text, "title": title}
