"""Features of arithmetic as functions of the operands: for a + b, what does the activation at a token depend on?

"Circuit Tracing" (Ameisen et al., 2025, "Addition Case Study") describes features by operand plots: the activation on
every prompt of a grid of a and b. Here a classifier reads the plots. It fits nested models to the activations of a
feature,

    constant | f(a) | f(b) | g((a+b) mod m) | f(a) + h(b) | g(a+b) | c(a) d(b) | c(a) d(b) + c'(a) d'(b)

on four fifths of the cells of the grid, and compares them by R2 on the last fifth. The simplest model within `SLACK` of
the best is chosen. There are three families: `add` (f(a), f(b), their sum: stripes), `lookup` (products of conditions:
points and lattices; two products cover both orders of the operands), `sum` (functions of a+b: anti-diagonals). Other
features are `constant` (no variation) or `other` (no model reaches `FITTED`).

A condition is on the ones digit (`ones`: a function of digits modulo ten explains nearly all that the model explains),
on a `range` (one contiguous band), or neither (`periodic`). Only prompts that select features are used; prompts on
which a verdict is scored are never read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from biology.cases.measures import CLASSED

SIZE = 100
"""Operands are 0 .. SIZE - 1, sums 0 .. 2 SIZE - 2."""
MODULI = (2, 5, 10, 20, 25, 50, 100)
SLACK = 0.02
FITTED = 0.8
"""Smallest held-out R2 of a feature with a family."""
FEWEST = 10
"""A feature active on fewer prompts of the grid is not classified."""
BAND = 50
"""Longest band, in numbers."""
ROUNDS = 8
FAMILY = {
    "f(a)": "add",
    "f(b)": "add",
    "f(a)+h(b)": "add",
    "g(a+b)": "sum",
    "c(a)d(b)": "lookup",
    "two products": "lookup",
}
FAMILY |= {f"g(a+b mod {m})": "sum" for m in MODULI}


@dataclass(frozen=True, eq=False)
class Grid:
    """The known cells of the operand grid: prompts with their operands, four fifths to fit and one fifth to judge."""

    a: Int[np.ndarray, " prompt"]
    b: Int[np.ndarray, " prompt"]
    judging: Bool[np.ndarray, " prompt"]

    @classmethod
    def of(cls, a: Int[np.ndarray, " prompt"], b: Int[np.ndarray, " prompt"]) -> Grid:
        """Chooses a random fifth of the cells to judge, the same on every machine. A regular pattern could share its
        period with features."""
        judging = np.random.default_rng(0).random((SIZE, SIZE)) < 0.2
        return cls(a, b, judging[a, b])


@dataclass(frozen=True, eq=False)
class PlotClassification:
    """The result of the classifier, one entry per feature."""

    model: np.ndarray
    family: np.ndarray
    r2: Float[np.ndarray, " feature"]
    digit: np.ndarray
    width: Int[np.ndarray, " feature"]
    """Numbers in the narrowest band that contains the condition (lookup: that of its narrower operand); 0 if it is not
    a range."""
    frequency: Int[np.ndarray, " feature"]
    """Strongest frequency of the condition, in cycles per hundred."""
    active: Int[np.ndarray, " feature"]


def read_operands(grid: Grid, activation: Float[np.ndarray, "prompt feature"]) -> PlotClassification:
    """Model, family and condition of every feature, from its activations on the prompts of the grid."""
    a, b, fit = grid.a, grid.b, ~grid.judging
    total = a + b
    means = {
        key: _means(values, size, fit, activation)
        for key, values, size in [("f(a)", a, SIZE), ("f(b)", b, SIZE), ("g(a+b)", total, 2 * SIZE - 1)]
    }
    predicted = {"constant": np.broadcast_to(activation[fit].mean(0), activation.shape)}
    predicted |= {"f(a)": means["f(a)"][a], "f(b)": means["f(b)"][b]}
    predicted |= {f"g(a+b mod {m})": _means(total % m, m, fit, activation)[total % m] for m in MODULI}
    predicted["f(a)+h(b)"] = _additive(grid, activation)
    predicted["g(a+b)"] = means["g(a+b)"][total]
    predicted["c(a)d(b)"], predicted["two products"] = (_products(grid, activation, rank) for rank in (1, 2))
    names = list(predicted)
    r2 = np.stack([_r2(activation[~fit], predicted[name][~fit]) for name in names])
    best = r2.max(0)
    chosen = (r2 >= best - SLACK).argmax(0)  # the first, hence the simplest
    model = np.array(names)[chosen]
    value = r2[chosen, np.arange(len(chosen))]
    family = np.array([FAMILY.get(name, "constant") for name in model], dtype=object)  # strings of any length
    family[(value < FITTED) & (family != "constant")] = "other"
    varies = activation.std(0) > 1e-9
    family[(family == "constant") & varies & ((activation > 0).mean(0) < 0.9)] = "other"
    ones = {
        "add": np.maximum(*(_r2(activation[~fit], _means(x % 10, 10, fit, activation)[x % 10][~fit]) for x in (a, b))),
        "sum": r2[names.index("g(a+b mod 10)")],
        "lookup": _r2(activation[~fit], _means(a % 10 * 10 + b % 10, 100, fit, activation)[a % 10 * 10 + b % 10][~fit]),
    }
    curves = (means["f(a)"].T, means["f(b)"].T, means["g(a+b)"].T)
    counts = [np.bincount(x[fit], minlength=n) for x, n in ((a, SIZE), (b, SIZE), (total, 2 * SIZE - 1))]
    widths = np.stack([band_widths(curve, count) for curve, count in zip(curves, counts, strict=True)])
    beats = np.stack([frequencies(curve, count) for curve, count in zip(curves, counts, strict=True)])
    digit, width, frequency = _conditions(family, model, value, ones, widths, beats)
    return PlotClassification(model, family.astype(str), value, digit, width, frequency, (activation > 0).sum(0))


def _conditions(
    family: np.ndarray, model: np.ndarray, value: np.ndarray, ones: dict[str, np.ndarray], widths: np.ndarray,
    beats: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Kind, width and frequency of each feature's condition; `widths` and `beats` belong to its curves over a, b,
    a+b."""
    digit = np.full(len(family), "none", dtype=object)
    width, frequency = np.zeros(len(family), dtype=int), np.zeros(len(family), dtype=int)
    for i, name in enumerate(family):
        if name not in CLASSED:
            continue
        curve = {"sum": [2], "lookup": [0, 1]}.get(name, [1] if model[i] == "f(b)" else [0])
        found = widths[curve, i]
        frequency[i] = beats[curve[0], i]
        if ones[name][i] >= FITTED * value[i]:
            digit[i] = "ones"
        elif (found > 0).all():
            digit[i], width[i] = "range", found.min()
        else:
            digit[i] = "periodic"
    return digit.astype(str), width, frequency


def _means(
    key: Int[np.ndarray, " prompt"], size: int, fit: Bool[np.ndarray, " prompt"], values: Float[np.ndarray, "prompt feature"]
) -> Float[np.ndarray, "key feature"]:  # fmt: skip
    """Mean by key over the fitting cells; the overall mean for keys without a cell."""
    overall = values[fit].mean(0)
    one_hot = sparse.csr_array((np.ones(int(fit.sum())), (key[fit], np.arange(int(fit.sum())))), (size, int(fit.sum())))
    total, count = one_hot @ values[fit], np.bincount(key[fit], minlength=size)[:, None]
    return np.where(count > 0, total / np.maximum(count, 1), overall)


def _r2(values: Float[np.ndarray, "cell feature"], predicted: Float[np.ndarray, "cell feature"]) -> np.ndarray:
    spread = ((values - values.mean(0)) ** 2).sum(0)
    return 1 - ((values - predicted) ** 2).sum(0) / np.maximum(spread, 1e-12)


def _additive(grid: Grid, values: Float[np.ndarray, "prompt feature"]) -> Float[np.ndarray, "prompt feature"]:
    """Least-squares fit of f(a) + h(b), by backfitting."""
    fit = ~grid.judging
    second = np.zeros((SIZE, values.shape[1]))
    first = second
    for _ in range(ROUNDS):
        first = _means(grid.a, SIZE, fit, values - second[grid.b])
        second = _means(grid.b, SIZE, fit, values - first[grid.a])
    return first[grid.a] + second[grid.b]


def _products(
    grid: Grid, values: Float[np.ndarray, "prompt feature"], rank: int
) -> Float[np.ndarray, "prompt feature"]:
    """Least-squares fit of a sum of `rank` products c(a) d(b) on the fitting cells, by alternation, starting from the
    leading singular vectors."""
    fit, width = ~grid.judging, values.shape[1]
    known, map_ = np.zeros((SIZE, SIZE)), np.zeros((width, SIZE, SIZE))
    known[grid.a[fit], grid.b[fit]] = 1.0
    map_[:, grid.a[fit], grid.b[fit]] = values[fit].T
    c = np.broadcast_to(np.random.default_rng(0).standard_normal((SIZE, rank)), (width, SIZE, rank))
    for _ in range(ROUNDS):  # towards the leading singular vectors
        c = np.linalg.qr(map_ @ (map_.transpose(0, 2, 1) @ c))[0]
    d = c
    for _ in range(ROUNDS):
        d = _solved(map_.transpose(0, 2, 1), known.T, c)
        c = _solved(map_, known, d)
    return np.einsum("fpr,fpr->pf", c[:, grid.a], d[:, grid.b])


def _solved(map_: np.ndarray, known: np.ndarray, d: np.ndarray) -> Float[np.ndarray, "feature a rank"]:
    """Least-squares rows c[a] of map_[a, b] ~ c[a] . d[b] over known cells, with a small ridge penalty."""
    rank = d.shape[2]
    squares = (d[:, :, :, None] * d[:, :, None, :]).reshape(len(d), SIZE, rank * rank)
    gram = (known @ squares).reshape(len(d), SIZE, rank, rank)
    ridge = 1e-3 * np.trace(gram, axis1=2, axis2=3)[..., None, None] * np.eye(rank) + 1e-9 * np.eye(rank)
    return np.linalg.solve(gram + ridge, (map_ @ d)[..., None])[..., 0]


def band_widths(
    curve: Float[np.ndarray, "feature number"], count: Int[np.ndarray, " number"]
) -> Int[np.ndarray, " feature"]:
    """Length of the shortest band of consecutive numbers outside of which a curve is flat: there a constant leaves at
    most 1 - FITTED of the curve's variance. 0 if there is no such band of at most BAND numbers."""
    n = curve.shape[1]
    weight = count.astype(float)
    sums = [np.concatenate([np.zeros((len(curve), 1)), np.cumsum(weight * curve**k, 1)], 1) for k in (1, 2)]
    weights = np.concatenate([[0.0], np.cumsum(weight)])
    spread = np.maximum(sums[1][:, -1] - sums[0][:, -1] ** 2 / weights[-1], 1e-12)
    width = np.zeros(len(curve), dtype=int)
    for length in range(BAND, 0, -1):
        start = np.arange(n - length + 1)
        outside = np.maximum(weights[-1] - (weights[start + length] - weights[start]), 1e-12)
        first, second = (total[:, -1:] - (total[:, start + length] - total[:, start]) for total in sums)
        left = ((second - first**2 / outside) / spread[:, None]).min(1)
        width[left <= 1 - FITTED] = length
    return width


def frequencies(
    curve: Float[np.ndarray, "feature number"], count: Int[np.ndarray, " number"]
) -> Int[np.ndarray, " feature"]:
    """The strongest frequency of a curve, in cycles per hundred, 1 to 50; the slowest of nearly equal ones (a comb)."""
    number = np.arange(curve.shape[1])
    centred = (curve - (curve @ count)[:, None] / count.sum()) * count
    power = np.abs(centred @ np.exp(-2j * np.pi * np.outer(number, np.arange(1, 51)) / 100)) ** 2
    return (power >= 0.9 * power.max(1, keepdims=True)).argmax(1) + 1


def example_labels(
    a: Int[np.ndarray, " prompt"], b: Int[np.ndarray, " prompt"], activation: Float[np.ndarray, "prompt feature"],
    examples: int,
) -> np.ndarray:  # fmt: skip
    """The family that an annotator would name from the prompts of largest activation alone, [feature].

    All these prompts lie in a band of a and one of b (`lookup`), and in a band of sums (`sum`). The label is the one
    that covers fewer prompts of the grid.
    """
    labels = []
    for top in np.argsort(-activation, axis=0, kind="stable")[:examples].T:
        first, second, total = ((x >= x[top].min()) & (x <= x[top].max()) for x in (a, b, a + b))
        labels.append("lookup" if (first & second).sum() < total.sum() else "sum")
    return np.array(labels)
