"""Outcomes about the cells of a factorial design: prompts that differ in one factor (operation, operand, language) only.

`measures.py` says what each is. A level is a bridge word, or the answer of the cell that an edit is to lead to (a column such as
`expected_language`); of what is `kept` something else has changed, and these factors have not.
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
    """Factors whose level, as a next token, some outcome asks for."""
    return list(dict.fromkeys(outcome.split(":")[1] for outcome in outcomes if outcome.startswith(LEVELS)))


def kept_masks(
    outcomes: Iterable[str], prompts: pd.DataFrame, places: Sequence[int], n_vocab: int, where: str
) -> dict[str, Float[Tensor, "item vocab"]]:
    """For each outcome `kept:`, 1 for the answers of prompts of the prompt set (those that are only shown by name have no say)
    that share its factors with an item, without the item's own.

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
    """One number a row for each outcome, in the order of `cell_names`."""
    words = level[item]
    probabilities = probability.gather(1, words.clamp(min=0))
    return [
        *(top[:, None] == words).double().T,
        *probabilities.T,
        *(mask[item, top].double() for mask in kept.values()),
    ]


def cell_names(level: Sequence[str], kept: Mapping[str, object]) -> list[str]:
    """Names of the numbers that `read_cells` gives."""
    return [*(prefix + one for prefix in LEVELS for one in level), *kept]
