"""beartype as the import hook of the tests calls it: one checker for all functions of one name and signature.

The hook decorates a function that stands inside another one anew each time the outer one is called. Writing a checker
takes longer than most of what is checked, and comes out the same.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_checkers: dict[Any, Callable[..., Any]] = {}


def checked(stand_in: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(stand_in)`. jaxtyping gives it functions that do nothing and have the signature of the one to be checked."""
    if stand_in.__defaults__ or stand_in.__kwdefaults__:  # these are checked when the function is decorated
        return beartype(stand_in)
    code = stand_in.__code__
    parameters = code.co_varnames, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    key = stand_in.__module__, stand_in.__qualname__, parameters, tuple(stand_in.__annotations__.items())
    try:
        made = _checkers.get(key)
    except TypeError:  # an annotation without a hash
        return beartype(stand_in)
    if made is None:
        made = _checkers[key] = beartype(stand_in)
    return made
