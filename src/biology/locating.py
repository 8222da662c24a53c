"""Where a model holds a variable, found on development prompts by exchange: the same way on any model, knowing no site.

At each of some positions, what the MLPs of the layers up to one wrote is exchanged for the mean of prompts that share another
level of the variable's factor and nothing else. Where the model then gives the answer of that level, the MLPs hold it. No
transcoder is involved, and what is exchanged is what transcoders see.
"""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from biology.model import Model
from biology.site_exchange import said_with, seen_at

DONORS = 8
"""Prompts at most that a mean is taken of."""
ENOUGH = 0.95
"""The layers end at the first whose exchange reaches this share of the best."""


@dataclass(frozen=True)
class Exchange:
    """A development prompt, the prompts whose mean it is given, and the token of the answer that follows from their level."""

    base: int
    donors: tuple[int, ...]
    answer: int


def exchanges(
    prompts: pd.DataFrame, factor: str, apart: Sequence[str], keeps: Sequence[str], generator: np.random.Generator, most: int = 200
) -> list[Exchange]:  # fmt: skip
    """Exchanges of a factor's level on the scored development prompts that the model answers.

    `prompts` has the columns of table `prompts` and `answer_token`. Donors select (`role`), have the new level, and differ from the
    prompt in the columns `apart`. The answer is that of prompts with the new level and the prompt's own levels of `keeps`; levels
    for which it is not settled, or the prompt's own, are left out.
    """
    frame = prompts.reset_index(drop=True)
    answers = frame.groupby([factor, *keeps])["answer_token"].agg(
        lambda tokens: tokens.iat[0] if tokens.nunique() == 1 else -1
    )
    settled: Mapping[tuple[str, ...], int] = answers.to_dict()
    selecting = frame[(frame["role"] == "select") & frame["correct"]]
    of_level = {level: group for level, group in selecting.groupby(factor) if level}
    scored = frame[(frame["role"] == "score") & (frame["split"] == "dev") & frame["correct"] & (frame[factor] != "")]
    found: list[Exchange] = []
    for row in generator.permutation(scored.index.to_numpy()):
        own = frame.loc[row]
        levels = [level for level in of_level if level != own[factor]]
        for level in generator.permutation(np.array(levels, dtype=object))[:8]:
            answer = int(settled.get((level, *(own[column] for column in keeps)), -1))
            pool = of_level[level]
            for column in apart:
                pool = pool[pool[column] != own[column]]
            if answer >= 0 and answer != own["answer_token"] and len(pool):
                donors = generator.permutation(pool.index.to_numpy())[:DONORS]
                found.append(Exchange(int(row), tuple(map(int, donors)), answer))
                break
        if len(found) == most:
            break
    return found


def located(
    model: Model, ids: list[list[int]], asked: Sequence[Exchange], positions: Mapping[str, Int[Tensor, " prompt"]]
) -> pd.DataFrame:
    """Columns position, layer (the last of those exchanged), accuracy, n: how often the exchanged level's answer is said."""
    base = [one.base for one in asked]
    answer = torch.tensor([one.answer for one in asked])
    donors = sorted({donor for one in asked for donor in one.donors})
    place = {donor: number for number, donor in enumerate(donors)}
    hooks = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.n_layers)]
    rows = []
    for name, position in positions.items():
        seen = seen_at(model, ids, donors, hooks, position)
        means = torch.stack([seen[:, [place[donor] for donor in one.donors]].mean(1) for one in asked], 1)
        for layer in range(model.n_layers):
            edits = list(zip(hooks[: layer + 1], means[: layer + 1], strict=True))
            right = said_with(model, ids, base, edits, position) == answer
            rows.append({"position": name, "layer": layer, "accuracy": float(right.double().mean()), "n": len(asked)})
    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame) -> tuple[str, int]:
    """The position of the best exchange (the first of several), and the first layer that does nearly as well there."""
    position = str(table.loc[table["accuracy"].idxmax(), "position"])
    there = table[table["position"] == position]
    enough = there[there["accuracy"] >= ENOUGH * there["accuracy"].max()]
    return position, int(enough["layer"].min())
