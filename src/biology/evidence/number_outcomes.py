"""Outcomes of perturbed prompts whose answer is a number: which number is given, and how the probability spreads.

`measures.py` defines each. If tokens write only single digits, a token has no ones digit apart from its magnitude:
`ones_right`, `near_right` and `ones_swapped` are NaN. `ones_swapped` is also NaN for a row without a donor.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.cases.measures import MASS, NEAR
from biology.models.model import Model, token_text

OUTCOMES = ("ones_right", "near_right", "near_probability", "width", "ones_swapped")
DIGITS_AND_MAGNITUDES = ("ones_right", "near_right", "ones_swapped")


def token_numbers(model: Model) -> Int[Tensor, " vocab"]:
    """The number that each token of the vocabulary writes, if it belongs to the gapless run 0, 1, 2, ...; -1 for
    others.

    Numbers beyond a gap (years, for example) are left out: intervals over them would mean nothing.
    """
    texts = [token_text(model, token).strip() for token in range(model.n_vocab)]
    numbers = [int(text) if text.isascii() and text.isdigit() else -1 for text in texts]
    end = next(number for number in range(len(numbers) + 1) if number not in set(numbers))
    return torch.tensor([number if number < end else -1 for number in numbers])


def read_numbers(
    probability: Float[Tensor, "row vocab"], number: Int[Tensor, " vocab"], answer: Int[Tensor, " row"],
    donor: Int[Tensor, " row"],
) -> Float[Tensor, "row outcome"]:  # fmt: skip
    """The outcomes of rows, in the order of `OUTCOMES`, given answer tokens (donor -1: the row has none)."""
    said, right, other = number[probability.argmax(-1)], number[answer], number[donor.clamp(min=0)]
    is_number, distance = said >= 0, (number[None] - right[:, None]).abs()
    near = (number >= 0)[None] & (distance <= NEAR) & (distance > 0)
    swapped = is_number & (said == right // 10 * 10 + other % 10)
    columns = [
        is_number & (said % 10 == right % 10),
        is_number & ((said - right).abs() <= NEAR), (probability * near).sum(-1), interval_width(probability, number), swapped,
    ]  # fmt: skip
    values = torch.stack([column.to(probability.dtype) for column in columns], 1)
    values[donor < 0, OUTCOMES.index("ones_swapped")] = torch.nan
    if int(number.max()) < 10:
        values[:, [OUTCOMES.index(name) for name in DIGITS_AND_MAGNITUDES]] = torch.nan
    return values


def interval_width(probability: Float[Tensor, "row vocab"], number: Int[Tensor, " vocab"]) -> Float[Tensor, " row"]:
    """Length of the shortest run of consecutive numbers that holds `MASS` of the probability of all numbers; NaN if no token is a
    number."""
    size = int(number.max()) + 1
    if size == 0:
        return probability.new_full((len(probability),), float("nan"))
    spread = torch.zeros(len(probability), size, dtype=probability.dtype)
    spread.index_add_(1, number[number >= 0], probability[:, number >= 0])
    total = torch.cat([torch.zeros(len(spread), 1, dtype=spread.dtype), spread.cumsum(1)], 1)
    total = total / total[:, -1:].clamp(min=1e-300)
    end = torch.searchsorted(total, total[:, :-1] + MASS - 1e-12)
    width = end - torch.arange(size)
    return torch.where(end <= size, width, size).amin(1).to(probability.dtype)
