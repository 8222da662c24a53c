"""Draws the features of a matched control: as many others, active at the same layer and position."""

from collections.abc import Collection

import numpy
from jaxtyping import Int


def draw_others(
    active: Int[numpy.ndarray, " active"],
    taken: Collection[int],
    count: int,
    generator: numpy.random.Generator,
    *,
    sets: int | None = None,
) -> Int[numpy.ndarray, "*set drawn"]:
    """`count` of what is active at one layer and position and not `taken`, each once, at random.

    Returns their places in `active`: of all that are not taken, in random order, if these are fewer. With `sets`, the rows are so
    many independent draws. Each way asks the generator once, for other numbers: seeded controls keep theirs.
    """
    free = numpy.flatnonzero(~numpy.isin(active, list(taken)))
    if sets is None:
        return generator.permutation(free)[:count]
    return free[numpy.argsort(generator.random((sets, len(free))), axis=1)[:, :count]]
