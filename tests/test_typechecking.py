"""The tests run with every function of the project checked: its types, and its shapes if it states any (`typechecking.py`)."""

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from typechecking import jaxtyped


def decorated(function):
    return jaxtyped(typechecker=beartype)(function)


def adders(amounts):
    """A function of its own for each amount, from one definition."""

    def make(amount):
        def add(number: int, *, twice: bool = False) -> int:
            return number + amount * (2 if twice else 1)

        return decorated(add)

    return [make(amount) for amount in amounts]


def test_functions_of_one_definition_share_a_checker_and_nothing_else():
    first, second = adders([1, 10])
    assert (first(1), second(1), first(2, twice=True), second(2, twice=True)) == (2, 11, 4, 22)
    assert first.__name__ == "add" and first is not second


def test_an_inner_function_is_checked_whichever_of_its_kind_it_is():
    for add in adders([1, 10, 0.5]):
        with pytest.raises(BeartypeCallHintViolation):
            add("one")
    with pytest.raises(BeartypeCallHintViolation):  # what it gives is checked too
        adders([0.5])[0](1)


def test_an_inner_function_with_shapes_is_checked_by_its_shapes():
    def doubled(x: Float[Tensor, "row 2"]) -> Float[Tensor, "row 4"]:
        return torch.cat([x, x], 1)

    check = decorated(doubled)
    assert check(torch.zeros(3, 2)).shape == (3, 4)
    with pytest.raises(TypeCheckError):
        check(torch.zeros(3, 5))
