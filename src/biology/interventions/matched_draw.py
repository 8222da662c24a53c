"""Draws the features of a matched control: as many others, active at the same layer and position."""

from collections.abc import Collection

import numpy
from jaxtyping import Int

FEW = 16
"""So many are looked up one by one, which takes less than to sort them: controls are drawn a hundred thousand times."""


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
    if len(taken) <= FEW:
        left = numpy.ones(len(active), dtype=bool)
        for one in taken:
            left &= active != one
    else:
        left = ~numpy.isin(active, list(taken))
    free = numpy.flatnonzero(left)
    if sets is None:
        return generator.permutation(free)[:count]
    drawn = generator.random((sets, len(free)))
    if not 0 < count < len(free) // 2:
        return free[numpy.argsort(drawn, axis=1)[:, :count]]
    first = numpy.argpartition(drawn, count, axis=1)[:, :count]  # the same ones, of which only these are then sorted
    order = numpy.argsort(numpy.take_along_axis(drawn, first, axis=1), axis=1)
    return free[numpy.take_along_axis(first, order, axis=1)]
