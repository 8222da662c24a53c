"""What the import hook of the tests does with a function: jaxtyping checks those with shapes, beartype alone all others.

jaxtyping binds the arguments of every call, to say shapes in an error. That takes longer than most of what is called, and it
checks arguments twice. Functions without a shape in their signature do without it.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype

CHECKED = "__beartype_func"
"""The argument of a checker that holds the function which it checks."""

_checkers: dict[Any, Callable[..., Any] | None] = {}
_with_shapes = jaxtyping.jaxtyped


def install() -> None:
    """From here on the import hook decorates with `jaxtyped`. To be called before a module of the project is imported."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(what: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """In place of the decorator that the import hook writes above every class and function."""
    if what is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    function = what.__init__ if dataclasses.is_dataclass(what) else what
    if not isinstance(function, types.FunctionType):
        return _with_shapes(what, typechecker=typechecker)
    if function is what and "<locals>" in function.__qualname__:
        return _inner(function, typechecker)
    hints = _hints(function)
    if any(map(_shaped, hints.values())):
        return _with_shapes(what, typechecker=typechecker)
    if function is what:
        return _without_shapes(function, hints)
    what.__init__ = _without_shapes(function, hints)
    return what


def _hints(function: types.FunctionType) -> dict[str, Any]:
    return {name: _read(annotation, function.__globals__) for name, annotation in function.__annotations__.items()}


def _inner(function: types.FunctionType, typechecker: Callable[..., Any]) -> Callable[..., Any]:
    """A function that stands inside another one is made, and decorated, with each call of that one. Writing a checker takes longer
    than most of what is checked, so one is written for all of them: they differ only in what they close over."""
    key = function.__module__, function.__code__
    if key not in _checkers:
        hints = _hints(function)
        shaped = any(map(_shaped, hints.values()))
        _checkers[key] = None if shaped else _without_shapes(function, hints)
    first = _checkers[key]
    if first is None or (first.__kwdefaults__ or {}).keys().isdisjoint({CHECKED}):
        return _with_shapes(function, typechecker=typechecker)  # see `checked`
    made = types.FunctionType(first.__code__, first.__globals__, function.__name__)
    functools.update_wrapper(made, function)
    made.__kwdefaults__ = first.__kwdefaults__ | {CHECKED: function}
    return made


def _without_shapes(function: types.FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    same = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    functools.update_wrapper(same, function)
    del same.__wrapped__
    same.__kwdefaults__, same.__annotations__ = function.__kwdefaults__, hints
    made = beartype(same)
    made.__annotations__ = function.__annotations__
    return made


def _read(annotation: Any, names: dict[str, Any]) -> Any:
    """What an annotation stands for; anything at all if it names what is imported for type checkers only (as in jaxtyping)."""

    def stand_in(value): ...

    stand_in.__annotations__ = {"value": annotation}
    try:
        return typing.get_type_hints(stand_in, names, include_extras=True)["value"]
    except Exception:
        return Any


def _shaped(hint: Any) -> bool:
    of_arrays = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return of_arrays or any(map(_shaped, typing.get_args(hint)))


def checked(stand_in: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(stand_in)`: one checker for all functions of one name and signature. jaxtyping gives it functions that do nothing
    and have the signature of the one to be checked.

    The hook decorates a function that stands inside another one anew each time the outer one is called. Writing a checker
    takes longer than most of what is checked, and comes out the same.
    """
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
