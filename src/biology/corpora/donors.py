"""Donors of a prompt: from candidates in a given order, the first that differ from the prompt and from each other."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Prompt = TypeVar("Prompt")


def first_apart(
    base: Prompt, others: Iterable[Prompt], count: int, apart: Callable[[Prompt, Prompt], bool]
) -> list[Prompt]:
    """The first `count` of the others that are `apart` from the base and from those before them; fewer if there are no more."""
    taken = [base]
    for other in others:
        if len(taken) > count:
            break
        if all(apart(other, one) for one in taken):
            taken.append(other)
    return taken[1:]
