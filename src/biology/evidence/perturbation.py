"""Perturbation experiments of a case, run on every scored prompt with their controls.

An experiment holds supernodes at multiples of their activations (constrained patching up to a layer, attention frozen)
and reads the model's answers and the activations of other supernodes (`outcomes.py`). Strength and layer are chosen on
development prompts, by the experiment's first outcome; held-out prompts are then run at that choice. The dose curve
runs all strengths on the held-out prompts at the chosen layer; only figures and experiments of kind `crossover` read
it. A standing edit holds features wherever they are active. With `as_in: <experiment>` it takes that one's strength.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from biology.cases.case import Case
from biology.cases.perturbations import Perturbation
from biology.evidence.case_context import CaseContext, PromptContext, Setting
from biology.evidence.outcomes import OutcomeReader, RowOutcomes, evidence_rows, run_rows, watched_sites
from biology.interventions.controls import directions, matched_sets, moved
from biology.interventions.feature_edits import Edits, Injections
from biology.interventions.protocols import intervene
from biology.models.model import token_text
from biology.tables import table

Measure = Callable[..., list[dict[str, object]]]
ENOUGH = 0.95
"""A push is nearly as good as the best one if its effect on development prompts reaches this share of the best
one's."""
TOP_TOKENS = 5  # next tokens shown in a panel, for the clean and for the perturbed prompt


class Arm(NamedTuple):
    """One arm of an experiment: edits of rows, the prompt of each row, rows per prompt, and added vectors."""

    edits: Edits
    prompt: Int[Tensor, " row"]
    repeats: int
    injections: Injections | None


class Clean(NamedTuple):
    """The prompts of an experiment before anything is done to them: what reads their outcomes, and what it reads."""

    reader: OutcomeReader
    outcome: RowOutcomes


def run_experiments(context: CaseContext) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `evidence` and `panel` of all perturbation experiments of a case.

    Raises InputError if a named prompt lacks its donor.
    """
    case, prompts = context.case, context.prompts
    evidence: list[dict[str, object]] = []
    panel: list[dict[str, object]] = []
    settled: dict[str, Setting] = {}
    for name, experiment in in_turn(case).items():
        if experiment.line is not None:
            continue
        places = context.items(experiment)
        dev = [place for place in places if prompts["split"].iat[place] == "dev"]
        chosen = [settled[other] for other in experiment.rests_on]
        setting = settled[name] = chosen[0] if chosen else choose(context, name, experiment, dev, evidence)
        tqdm.write(
            f"{name}: M = {setting.strength:g}, layers up to {setting.last_layer}, chosen on {len(dev)} development prompts"
        )
        if places:  # a case of your own may have named prompts only
            evidence += measure(context, name, experiment, places, setting, experiment.controls)
        heldout = [place for place in places if prompts["split"].iat[place] == "heldout"]
        if experiment.dose:
            for strength in experiment.strengths:
                dose = Setting(strength, setting.last_layer)
                evidence += measure(context, f"{name}/dose", experiment, heldout, dose, ("match",), draws=2)
        panel += panel_rows(context, name, experiment, setting)
    return table("evidence", evidence), table("panel", panel)


def in_turn(case: Case) -> dict[str, Perturbation]:
    """The perturbations of a case in the order in which they are measured: those that take the strength of another one come last."""
    return dict(sorted(case.of_kind(Perturbation).items(), key=lambda named: bool(named[1].rests_on)))


def choose(
    context: CaseContext, name: str, experiment: Perturbation, dev: Sequence[int], evidence: list[dict[str, object]],
    measured: Measure | None = None,
) -> Setting:  # fmt: skip
    """The smallest push that is nearly as good on development prompts as the best of the grid, and the last layer held.

    The criterion is the mean effect minus matched control of the experiment's first outcome, in its stated direction.
    Of all settings that reach `ENOUGH` of the largest, the weakest strength is taken, at the last layer where it does
    most: a stronger push that gains almost nothing would only move the control. The grid is kept as `<name>/dev`;
    `measured` gives the rows of evidence, by default `measure`.
    """
    n_layers = context.model.n_layers
    layers = sorted({max(0, int(np.ceil(depth * n_layers)) - 1) for depth in experiment.depths})
    grid = [Setting(strength, layer) for layer in layers for strength in experiment.strengths]
    if len(grid) == 1 or not dev:
        return grid[0]
    if measured is None:  # what nothing is done to is the same whatever the setting
        measured = partial(measure, clean=read_clean(context, experiment, dev, grid[0]))
    sign = 1.0 if experiment.direction == "increase" else -1.0
    scores: list[float] = []
    for setting in grid:
        rows = measured(context, f"{name}/dev{setting.last_layer}", experiment, dev, setting, ("match",), draws=2)
        evidence += rows
        frame = pd.DataFrame(rows)
        deciding = frame["outcome"] == experiment.outcomes[0]
        effect, match = (frame.loc[deciding & (frame["arm"] == arm), "value"] for arm in ("effect", "match"))
        score = sign * (float(effect.mean()) - float(match.mean()))
        scores.append(score if score == score else -np.inf)  # no number if nothing was held, or nothing matches it
    best = max(scores)
    if best == -np.inf:
        return grid[0]
    enough = ENOUGH * best if best > 0 else best
    able = [(setting, score) for setting, score in zip(grid, scores, strict=True) if score >= enough - 1e-9]
    push = min(experiment.push(setting.strength) for setting, _ in able)
    weakest = [one for one in able if experiment.push(one[0].strength) == push]
    most = max(score for _, score in weakest)
    return next(setting for setting, score in weakest if score >= most - 1e-9)


def measure(
    context: CaseContext, name: str, experiment: Perturbation, places: Sequence[int], setting: Setting, controls: Sequence[str],
    draws: int | None = None, clean: Clean | None = None,
) -> list[dict[str, object]]:  # fmt: skip
    """Rows of the evidence table for every prompt: the effect and each control arm. `clean` is given if the prompts have been read
    before."""
    if not places:
        return []  # no prompt passed the gate
    reader, before = clean or read_clean(context, experiment, places, setting)
    rows: list[dict[str, object]] = []
    for arm, (edits, row_prompt, repeats, injections) in arms(
        context, name, experiment, places, setting, controls, draws
    ).items():
        item = torch.arange(len(places)).repeat_interleave(repeats)
        outcome = run_rows(context, reader, row_prompt, edits, setting, item, injections)
        rows += evidence_rows(reader, name, setting, arm, repeats, outcome, before)
    return rows


def read_clean(context: CaseContext, experiment: Perturbation, places: Sequence[int], setting: Setting) -> Clean:
    """The outcomes of prompts to which nothing is done."""
    reader, prompt = OutcomeReader(context, experiment, places), torch.tensor(places, dtype=torch.long)
    return Clean(reader, run_rows(context, reader, prompt, no_edits(), setting, torch.arange(len(places))))


def arms(
    context: CaseContext, name: str, experiment: Perturbation, places: Sequence[int], setting: Setting, controls: Sequence[str],
    draws: int | None = None,
) -> dict[str, Arm]:  # fmt: skip
    """The effect and each control arm, with `repeats` successive rows for every prompt."""
    draws = context.statistics.control_draws if draws is None else draws
    prompt = torch.tensor(places, dtype=torch.long)
    push = context.edits(experiment, places, setting)
    key = (context.case.name, name, setting.strength, setting.last_layer)
    arms = {"effect": Arm(push.edits, prompt, 1, None)}
    for control in controls:
        if control == "match":
            sets = matched_sets(
                context.transcoders, context.cache, prompt, push.edits, context.generator(*key, control), draws=draws,
                last_layer=setting.last_layer, pool_prompt=push.pool_prompt, pool_pos=push.pool_pos,
            )  # fmt: skip
            arms[control] = Arm(sets.edits, sets.prompt, draws, None)
        elif control == "direction":
            vectors, rows = directions(
                context.transcoders, context.cache, prompt, push.edits, context.generator(*key, control), draws=1,
                last_layer=setting.last_layer,
            )  # fmt: skip
            arms[control] = Arm(no_edits(), rows, 1, vectors)
        elif control == "donor":
            arms[control] = Arm(context.edits(experiment, places, setting, wrong=True).edits, prompt, 1, None)
        elif control == "position":
            elsewhere = positions_of(context, places, experiment.control_position)
            arms[control] = Arm(moved(context.cache, prompt, push.edits, elsewhere[push.edits.row]), prompt, 1, None)
    return arms


def no_edits() -> Edits:
    """No feature held."""
    empty = torch.zeros(0, dtype=torch.long)
    return Edits(empty, empty, empty, empty, torch.zeros(0, dtype=torch.float64))


def positions_of(context: PromptContext, places: Sequence[int], at: str) -> Int[Tensor, " item"]:
    """The position that `at` names in each of the prompts."""
    return torch.tensor([context.position(at, place) for place in places])


def panel_rows(context: CaseContext, name: str, experiment: Perturbation, setting: Setting) -> list[dict[str, object]]:
    """Panel rows of the named prompts: activation of every supernode as a share of clean, and the most probable next
    tokens.

    If the experiment has the control `match`, also the mean over sets of matched random features.
    """
    rows: list[dict[str, object]] = []
    for item in experiment.prompts:
        place = context.place[item]
        controls = [control for control in experiment.controls if control == "match"]
        found = arms(context, f"{name}/{item}", experiment, [place], setting, controls)
        push, matched = found["effect"].edits, found[controls[0]].edits if controls else no_edits()
        parts = ("layer", "pos", "feature", "value")
        edits = Edits(
            torch.cat([push.row, matched.row + 2]),
            *(torch.cat([getattr(push, part), getattr(matched, part)]) for part in parts),
        )
        # row 0 is edited, row 1 is clean, the rest are matched sets
        prompt = torch.full((2 + sum(found[control].repeats for control in controls),), place)
        names = [label for label in context.case.supernodes if (item, label) in context.sites]
        sites, owner = watched_sites(context, names, prompt)
        out = intervene(
            context.model, context.transcoders, context.ids, prompt, edits, last_layer=setting.last_layer, watch=sites,
            protocol=experiment.protocol, live_attention=experiment.attention == "live", cut_direct=experiment.cut_direct,
        )  # fmt: skip
        common = {"item": item, "experiment": name, "strength": setting.strength}
        for index, label in enumerate(names):
            sums = [float(out.watched[(owner == index) & (sites.row == row)].sum()) for row in range(len(prompt))]
            if sums[1] > 0:
                shares = {"clean": 1.0, "value": sums[0] / sums[1], "control": _mean(sums[2:]) / sums[1]}
                rows.append({**common, "supernode_or_token": label, "kind": "activation", **shares})
        probability = out.logits[:, 0].double().softmax(-1)
        shown = dict.fromkeys(int(token) for row in (1, 0) for token in probability[row].topk(TOP_TOKENS).indices)
        rows += [
            {
                **common, "supernode_or_token": token_text(context.model, token), "kind": "probability",
                "clean": float(probability[1, token]), "value": float(probability[0, token]),
                "control": _mean(probability[2:, token].tolist()),
            }
            for token in shown
        ]  # fmt: skip
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
