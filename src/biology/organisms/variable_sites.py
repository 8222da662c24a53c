"""Where a model holds the variables of a mechanism: layers, token, and a subspace of the MLP outputs there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.cases.mechanism import CausalModel, Mechanism, Row, Variable, site

Encode = Callable[[str], list[int]]
"""From a text to its token ids, including the special token at the beginning."""


@dataclass(frozen=True, eq=False)
class Site:
    """Where a variable is held, for every prompt of a causal model."""

    layers: range
    position: Int[Tensor, " prompt"]
    basis: Float[Tensor, "d_model dimensions"] | None
    """Basis of the variable's subspace, if it has one."""


def sites(
    case: str, causal: CausalModel, encode: Encode, width: int, asked: Iterable[int] | None = None
) -> dict[str, Site]:
    """The sites of all variables of a case in a model of width `width` (d_model). Positions of prompts not in `asked` (default:
    all are) are -1."""
    found = {}
    rows = sorted(set(asked)) if asked is not None else range(len(causal.rows))
    for name, variable in causal.mechanism.variables.items():
        position = torch.full((len(causal.rows),), -1)
        position[list(rows)] = torch.tensor([token_position(variable, causal.rows[row], encode) for row in rows])
        layers = range(variable.layers[0], variable.layers[1] + 1)
        found[name] = Site(layers, position, basis(case, causal.mechanism, name, width))
    return found


def token_position(variable: Variable, row: Row, encode: Encode) -> int:
    """The token position of a prompt at which a variable is held."""
    at = site(variable, row)
    word = at.word_in(row)
    if word is None:
        length = len(encode(row["text"]))
        return length - 1 if at.form == "last" else int(at) % length
    return len(encode(row["text"][: row["text"].index(word) + len(word)])) - 1


def basis(case: str, mechanism: Mechanism, name: str, width: int) -> Float[Tensor, "d_model dimensions"] | None:
    """An orthonormal basis of a variable's subspace, determined by the names alone. The subspaces of variables held at the same
    token are orthogonal. None if the variable has the whole space."""
    variable = mechanism.variables[name]
    if variable.subspace is None:
        return None
    beside = {
        other: one.subspace for other, one in mechanism.variables.items() if one.subspace and one.at == variable.at
    }
    first = next(iter(beside))
    seed = int.from_bytes(hashlib.sha256(f"{case}|{first}".encode()).digest()[:4], "big")
    whole, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    start = sum(size for other, size in list(beside.items())[: list(beside).index(name)])
    return whole[:, start : start + variable.subspace].contiguous()
