"""Outcomes of numeric answers are what their names say."""

import math

import pytest
import torch

from biology.evidence.number_outcomes import OUTCOMES, interval_width, read_numbers

NUMBER = torch.tensor([-1, *range(100)])  # token 0 is a word, token n + 1 writes n


def said(distribution: dict[int, float], answer: int = 95, donor: int = 38) -> dict[str, float]:
    probability = torch.zeros(1, len(NUMBER), dtype=torch.float64)
    for number, p in distribution.items():
        probability[0, number + 1] = p
    read = read_numbers(
        probability, NUMBER, torch.tensor([answer + 1]), torch.tensor([donor + 1 if donor >= 0 else -1])
    )
    return dict(zip(OUTCOMES, read[0].tolist(), strict=True))


def test_the_right_answer():
    found = said({95: 0.9, 94: 0.05, 12: 0.05})
    assert (found["ones_right"], found["near_right"], found["ones_swapped"]) == (1, 1, 0)
    assert found["near_probability"] == pytest.approx(0.05) and found["width"] == 1


def test_the_ones_digit_and_the_magnitude_come_apart():
    ones = said({45: 0.8, 95: 0.2})
    assert (ones["ones_right"], ones["near_right"]) == (1, 0)
    near = said({98: 0.8, 95: 0.2})
    assert (near["ones_right"], near["near_right"], near["ones_swapped"]) == (0, 1, 1)
    assert math.isnan(said({98: 1.0}, donor=-1)["ones_swapped"])  # without a donor nothing can be swapped


def test_a_word_is_no_number():
    found = said({-1: 0.9, 95: 0.1})
    assert (found["ones_right"], found["near_right"], found["ones_swapped"]) == (0, 0, 0)
    assert found["width"] == 1


@pytest.mark.parametrize(("spread", "width"), [([50], 1), (range(40, 50), 8), ([0, 99], 100), ([10, 11, 12, 80], 71)])
def test_width_is_the_smallest_interval_with_four_fifths(spread, width):
    probability = torch.zeros(1, len(NUMBER), dtype=torch.float64)
    probability[0, [number + 1 for number in spread]] = 1 / len(spread)
    assert interval_width(probability, NUMBER).tolist() == [width]


def test_digits_alone_have_no_magnitude_beside_the_ones_digit():
    """A model that writes numbers digit by digit: what one token says is both, and asking for either is asking for neither."""
    number, none = torch.arange(10), torch.tensor([-1])
    read = read_numbers(torch.eye(10, dtype=torch.float64)[[7]], number, torch.tensor([7]), none)[0]
    undefined = [name for name, value in zip(OUTCOMES, read.tolist(), strict=True) if value != value]
    assert undefined == ["ones_right", "near_right", "ones_swapped"]


def test_a_vocabulary_without_numbers_has_no_numeric_outcomes():
    words, none = torch.full((4,), -1), torch.tensor([-1])
    read = dict(
        zip(
            OUTCOMES,
            read_numbers(torch.eye(4, dtype=torch.float64)[[2]], words, torch.tensor([2]), none)[0].tolist(),
            strict=True,
        )
    )
    assert read["near_probability"] == 0
    assert all(math.isnan(read[name]) for name in ("width", "ones_right", "near_right", "ones_swapped"))
