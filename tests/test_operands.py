"""A planted operand plot is read as what it is, and noise as nothing."""

import itertools

import numpy as np
import pytest

from biology.supernodes.operands import MODULI, Grid, band_widths, example_labels, frequencies, read_operands

A, B = (np.array(x) for x in zip(*itertools.product(range(100), repeat=2), strict=True))
KNOWN = np.random.default_rng(0).random(len(A)) < 0.8
A, B = A[KNOWN], B[KNOWN]


def bump(x, centre, half):
    return np.maximum(0.0, 1 - np.abs(x - centre) / half)


PLANTED = {
    "_6 of a": (A % 10 == 6, "f(a)", "add", "ones"),
    "~30": (bump(B, 30, 8), "f(b)", "add", "range"),
    "stripes of both": (bump(A, 30, 8) + bump(B, 59, 20), "f(a)+h(b)", "add", None),
    "_6 + _9": ((A % 10 == 6) & (B % 10 == 9), "c(a)d(b)", "lookup", "ones"),
    "~36 + ~60": (bump(A, 36, 10) * bump(B, 60, 10), "c(a)d(b)", "lookup", "range"),
    "_6 + _9 in both orders": (
        ((A % 10 == 6) & (B % 10 == 9)) | ((A % 10 == 9) & (B % 10 == 6)), "two products", "lookup", "ones",
    ),
    "lattice": ((1 + np.cos(6 * np.pi * A / 100)) * (1 + np.cos(6 * np.pi * B / 100)), "c(a)d(b)", "lookup", "periodic"),
    "sum = _5": ((A + B) % 10 == 5, "g(a+b mod 5)", "sum", "ones"),
    "sum = _95": ((A + B) % 100 == 95, "g(a+b mod 100)", "sum", None),
    "sum ~ 92": (bump(A + B, 92, 6), "g(a+b)", "sum", "range"),
    "always on": (np.ones(len(A)), "constant", "constant", "none"),
    "noise": (np.random.default_rng(1).random(len(A)) < 0.1, None, "other", "none"),
}  # fmt: skip
PLANTED["sum = _5"] = (PLANTED["sum = _5"][0], "g(a+b mod 10)", "sum", "ones")
VALUES = np.stack([values.astype(float) for values, *_ in PLANTED.values()], 1)
READING = read_operands(Grid.of(A, B), VALUES)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_plot_is_read_as_what_it_is(name):
    _, model, family, digit = PLANTED[name]
    i = list(PLANTED).index(name)
    assert READING.family[i] == family
    assert model is None or READING.model[i] == model
    assert digit is None or READING.digit[i] == digit
    assert family in ("other", "constant") or READING.r2[i] > 0.95


def test_a_reading_survives_noise_and_scale():
    noisy = 3 * VALUES + 0.05 * np.random.default_rng(2).standard_normal(VALUES.shape)
    again = read_operands(Grid.of(A, B), noisy)
    clear = [i for i, name in enumerate(PLANTED) if name not in ("always on", "noise")]
    assert (again.family[clear] == READING.family[clear]).all()


def test_a_reading_does_not_depend_on_what_is_read_beside_it():
    """Names of families are not cut to the longest of the others."""
    two = [list(PLANTED).index(name) for name in ("sum = _5", "noise")]
    assert read_operands(Grid.of(A, B), VALUES[:, two]).family.tolist() == ["sum", "other"]


def test_judging_cells_are_not_fitted():
    """A feature that is known by heart on the fitting cells and random on the others has no family."""
    grid = Grid.of(A, B)
    values = np.where(grid.judging, np.random.default_rng(3).random(len(A)), A % 10 == 6)[:, None]
    assert read_operands(grid, values).family[0] == "other"


def test_bands_and_frequencies():
    number, count = np.arange(100), np.full(100, 80)
    curves = np.stack([(number >= 30) & (number < 40), number % 10 == 6, np.cos(6 * np.pi * number / 100)]).astype(
        float
    )
    widths = band_widths(curves, count)
    assert 8 <= widths[0] <= 10 and widths[1] == 0 and widths[2] == 0
    assert frequencies(curves, count).tolist()[1:] == [10, 3]
    assert all(100 % m == 0 for m in MODULI)


def test_strong_examples_of_a_point_suggest_a_lookup_and_of_a_diagonal_a_sum():
    values = np.stack([bump(A, 36, 10) * bump(B, 60, 10), (A + B == 92).astype(float)], 1)
    assert example_labels(A, B, values, 20).tolist() == ["lookup", "sum"]
