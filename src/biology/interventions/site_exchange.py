"""What stands at a token of many prompts, read and exchanged: MLP outputs and residual streams, with nothing frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Edit, Model, capture, freeze, run, token_batch
from biology.transcoders.activations import length_batches

BATCH = 256
Ids = Sequence[list[int]] | Mapping[int, list[int]]
"""Token ids of prompts by their number."""


def seen_at(
    model: Model, ids: Ids, prompts: list[int], names: list[str], position: Int[Tensor, " prompt"]
) -> Float[Tensor, "hook chosen d_model"]:
    """What passes hooks of some prompts at a position of each."""
    out = torch.zeros(len(names), len(prompts), model.d_model)
    where = position[torch.tensor(prompts)]
    for places, batch in length_batches([ids[prompt] for prompt in prompts], BATCH):
        _, seen = run(model, token_batch(model, batch), reads=names, positions=-1)
        rows = torch.arange(len(places))
        for number, name in enumerate(names):
            out[number, places] = seen[name][rows, where[places]].float().cpu()
    return out


def said_with(
    model: Model, ids: Ids, base: Sequence[int], edits: Sequence[tuple[str, Float[Tensor, "row d_model"]]] = (),
    position: Int[Tensor, " prompt"] | None = None, basis: Float[Tensor, "d_model dimensions"] | None = None, *,
    frozen: bool = False,
) -> Int[Tensor, " row"]:  # fmt: skip
    """The most probable next token after each prompt of `base`, with vectors (one for each of them) put where hooks pass `position`,
    in the subspace of `basis` alone if there is one. With `frozen` attention patterns stay those of the prompt."""
    out = torch.zeros(len(base), dtype=torch.long)
    prompts = torch.as_tensor(base, dtype=torch.long)
    for places, batch in length_batches([ids[row] for row in prompts.tolist()], BATCH):
        hooks: list[tuple[str, Edit]] = [
            (name, partial(put, at(position, prompts[places]), vectors[places], basis)) for name, vectors in edits
        ]
        tokens = token_batch(model, batch)
        held = freeze(model, capture(model, tokens, positions=-1), norms=False, mlps=False) if frozen else []
        out[places] = run(model, tokens, edits=held + hooks, positions=-1)[0][:, -1].argmax(-1).cpu()
    return out


def at(position: Int[Tensor, " prompt"] | None, prompts: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """The position of each of some prompts; the last token where none is given."""
    return torch.full_like(prompts, -1) if position is None else position[prompts]


def put(
    position: Int[Tensor, " row"], vectors: Float[Tensor, "row d_model"], basis: Float[Tensor, "d_model dimensions"] | None,
    tensor: Float[Tensor, "row pos d_model"],
) -> Float[Tensor, "row pos d_model"]:  # fmt: skip
    """The tensor with a vector at a position of each row; in a subspace alone if there is one."""
    spot = (torch.arange(len(position)), position)
    new = vectors.to(tensor)
    if basis is not None:
        own, basis = tensor[spot], basis.to(tensor)
        new = own + (new - own) @ basis @ basis.T
    return tensor.index_put(spot, new)
