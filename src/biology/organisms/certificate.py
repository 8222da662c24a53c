"""The certificate of a planted model: whether its variables are where the mechanism states, measured without any transcoder.

On prompts that were not taught, the value at a variable's site is replaced by the mean over taught prompts that share only the
variable's new value. The exchanged value is the MLP outputs, or the residual stream (in the variable's subspace, if it has
one). The *interchange accuracy* is how often the model then gives the causal model's answer (Geiger et al. 2021). The control
inserts the mean for a third value: how often the same answer is given then is the chance level. A variable of two values has no third
one, and some have none from which a known answer follows; the control is then the prompt's own value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from biology.cases.mechanism import CausalModel, Value
from biology.interventions.site_exchange import Ids, said_with, seen_at
from biology.models.model import Model, answer_token, encode
from biology.organisms.variable_sites import Site, sites
from biology.statistics import wilson

DONORS = 4
"""Number of prompts in a mean."""
HELD_OUT, TAUGHT = "test", "train"
WHATS = ("mlp", "frozen", "stream")
"""What is exchanged: MLP outputs with live or frozen attention patterns, and residual streams."""
ARMS = ("effect", "control")


def certify(model: Model, case: str, causal: CausalModel, *, seed: int = 0, most: int = 400) -> pd.DataFrame:
    """Interchange accuracy of every variable, and accuracy of the plain `answer`, on at most `most` prompts each: of split
    `test`, or of all for a twin that was taught everything.

    Columns case, variable, what (mlp, frozen, stream; none for the answer), arm (effect, control), accuracy, low and high
    (Wilson's 95 % interval), n.
    """
    rng = np.random.default_rng(seed)
    base = rng.permutation(np.array(_split(causal, HELD_OUT) or _split(causal, TAUGHT)))
    plain = base[:most].tolist()
    trials = {
        name: paired_trials(causal, name, base, rng, most)
        for name, variable in causal.mechanism.variables.items()
        if variable.exchanged
    }
    trials = {name: several for name, several in trials.items() if several}  # some variables change no answer
    asked = {*plain, *(row for several in trials.values() for one in several for row in one.prompts)}
    text = {row: str(causal.rows[row]["text"]) for row in asked}
    ids = {row: encode(model, one) for row, one in text.items()}
    answers = torch.tensor([answer_token(model, text[row], str(causal.rows[row]["answer"])) for row in plain])
    rows = [_row(case, "answer", "", "effect", said_with(model, ids, plain) == answers)]
    places = sites(case, causal, lambda one: encode(model, one), model.d_model, asked)
    for name, several in trials.items():
        token = torch.tensor([answer_token(model, text[one.base], str(one.answer)) for one in several])
        rows += [
            _row(case, name, what, arm, _exchanged(model, ids, several, arm, what, places[name]) == token)
            for what in WHATS
            for arm in ARMS
        ]
    return pd.DataFrame(rows)


def _row(case: str, variable: str, what: str, arm: str, right: Tensor) -> dict[str, object]:
    row: dict[str, object] = {"case": case, "variable": variable, "what": what, "arm": arm}
    accuracy, low, high = wilson(int(right.sum()), len(right))
    return row | {"accuracy": accuracy, "low": low, "high": high, "n": len(right)}


class Trial:
    """A prompt, its expected answer after the exchange, and the donors of each arm."""

    def __init__(self, base: int, answer: Value, donors: dict[str, list[int]]):
        self.base, self.answer, self.donors = base, answer, donors

    @property
    def prompts(self) -> list[int]:
        return [self.base, *(donor for several in self.donors.values() for donor in several)]


def _split(causal: CausalModel, split: str) -> list[int]:
    return [number for number, row in enumerate(causal.rows) if row["split"] == split]


def paired_trials(causal: CausalModel, name: str, base: np.ndarray, rng: np.random.Generator, most: int) -> list[Trial]:
    """Prompts paired with a new value of the variable that changes their answer, with donors of this value and of a third
    value (of the own value if there are only two, or if no prompt has a third one with a known answer)."""
    apart = rng.spawn(1)[0]  # so that other variables are paired as ever
    return _paired(causal, name, base, rng, most, own=False) or _paired(causal, name, base, apart, most, own=True)


def _paired(
    causal: CausalModel, name: str, base: np.ndarray, rng: np.random.Generator, most: int, *, own: bool
) -> list[Trial]:
    variable = causal.mechanism.variables[name]
    taught: dict[Value, list[int]] = {}
    for row in _split(causal, TAUGHT):
        taught.setdefault(causal.values[row][name], []).append(row)
    levels = [level for level in causal.levels(name) if level in taught]
    found: list[Trial] = []
    for row in map(int, base):
        there = causal.values[row][name]
        near = [
            one
            for one in levels
            if one != there and (variable.near is None or abs(int(one) - int(there)) <= variable.near)
        ]
        for level in map(near.__getitem__, rng.permutation(len(near))[:8]):
            answer = causal.after(row, {name: level})
            if answer is None or str(answer) == str(causal.rows[row]["answer"]):
                continue
            others = [one for one in near if one != level and causal.after(row, {name: one}) not in (None, answer)]
            if (own or len(levels) == 2) and there in taught:
                others = [there]
            if not others:
                continue
            third = others[rng.integers(len(others))]
            donors = {
                arm: _donors(causal, variable.across, row, taught[one], rng)
                for arm, one in zip(ARMS, (level, third), strict=True)
            }
            if all(donors.values()):
                found.append(Trial(row, answer, donors))
                break
        if len(found) == most:
            break
    return found


def _donors(
    causal: CausalModel, across: Sequence[str], base: int, pool: list[int], rng: np.random.Generator
) -> list[int]:
    """Prompts of the pool that differ from the base in the columns `across` and, as far as possible, from each other."""
    own = causal.rows[base]
    free = [row for row in pool if all(causal.rows[row][column] != own[column] for column in across)]
    order = [free[number] for number in rng.permutation(len(free))]
    chosen: list[int] = []
    for row in order:
        if all(causal.rows[row][column] != causal.rows[other][column] for other in chosen for column in across):
            chosen.append(row)
        if len(chosen) == DONORS:
            return chosen
    return [*chosen, *(row for row in order if row not in chosen)][:DONORS]


def _exchanged(model: Model, ids: Ids, trials: list[Trial], arm: str, what: str, site: Site) -> Int[Tensor, " trial"]:
    """The model's answers with the mean of an arm's donors at the site."""
    layers = [site.layers[-1]] if what == "stream" else list(site.layers)
    hook = "hook_resid_post" if what == "stream" else "hook_mlp_out"
    donors = sorted({donor for trial in trials for donor in trial.donors[arm]})
    seen = seen_at(model, ids, donors, [f"blocks.{layer}.{hook}" for layer in layers], site.position)
    place = {donor: number for number, donor in enumerate(donors)}
    means = torch.stack([seen[:, [place[donor] for donor in trial.donors[arm]]].mean(1) for trial in trials], 1)
    edits = [(f"blocks.{layer}.{hook}", means[number]) for number, layer in enumerate(layers)]
    base = [trial.base for trial in trials]
    return said_with(model, ids, base, edits, site.position, site.basis, frozen=what == "frozen")
