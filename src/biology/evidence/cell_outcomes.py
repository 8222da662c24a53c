"""Outcomes about the cells of a factorial design: prompts that differ in only one factor (operation, operand, language).

`measures.py` defines each. A level is a bridge word, or the answer of the cell that an edit should lead to (a column such as
`expected_language`). `kept` asks whether the named factors are unchanged when another factor has changed.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.records import InputError

LEVELS = ("level_top1:", "level_probability:")
KEPT = "kept:"


def levels(outcomes: Iterable[str]) -> list[str]:
    """Factors whose level an outcome asks for as the next token."""
    return list(dict.fromkeys(outcome.split(":")[1] for outcome in outcomes if outcome.startswith(LEVELS)))


def kept_masks(
    outcomes: Iterable[str], prompts: pd.DataFrame, places: Sequence[int], n_vocab: int, where: str
) -> dict[str, Float[Tensor, "item vocab"]]:
    """For each outcome `kept:` and each item, a mask of the answers of prompts that share its factors with the item, without
    the item's own answer. Only prompts of the prompt set count, not those that are only shown by name.

    Raises InputError for a factor that no prompt has; `where` names the case.
    """
    masks = {}
    for outcome in [one for one in outcomes if one.startswith(KEPT)]:
        factors = outcome.removeprefix(KEPT).split("+")
        for factor in factors:
            if factor not in prompts:
                raise InputError(f"{where}: outcome '{outcome}': no prompt has the factor '{factor}'")
        keys = list(prompts[factors].itertuples(index=False, name=None))
        answers: dict[tuple, set[int]] = {}
        for key, token, role in zip(keys, prompts["answer_token"].tolist(), prompts["role"].tolist(), strict=True):
            if role != "show":
                answers.setdefault(key, set()).add(token)
        masks[outcome] = torch.zeros(len(places), n_vocab)
        for row, place in enumerate(places):
            own = int(prompts["answer_token"].iat[place])
            masks[outcome][row, sorted(answers[keys[place]] - {own})] = 1.0
    return masks


def read_cells(
    item: Int[Tensor, " row"], top: Int[Tensor, " row"], probability: Float[Tensor, "row vocab"],
    level: Int[Tensor, "item level"], kept: Mapping[str, Float[Tensor, "item vocab"]],
) -> list[Float[Tensor, " row"]]:  # fmt: skip
    """One value per row for each outcome, in the order of `cell_names`."""
    words = level[item]
    probabilities = probability.gather(1, words.clamp(min=0))
    return [
        *(top[:, None] == words).double().T,
        *probabilities.T,
        *(mask[item, top].double() for mask in kept.values()),
    ]


def cell_names(level: Sequence[str], kept: Mapping[str, object]) -> list[str]:
    """Names of the values of `read_cells`."""
    return [*(prefix + one for prefix in LEVELS for one in level), *kept]
