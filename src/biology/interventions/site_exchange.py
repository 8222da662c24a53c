"""Reads and exchanges MLP outputs and residual streams at one token of many prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.continuation import SharedPrefix, capture_from, worth_caching
from biology.models.model import Edit, Model, capture, freeze, run, token_batch
from biology.transcoders.activations import length_batches

BATCH = 256
Ids = Sequence[list[int]] | Mapping[int, list[int]]
"""Token ids of prompts, by the prompt's number."""


def seen_at(
    model: Model, ids: Ids, prompts: list[int], names: list[str], position: Int[Tensor, " prompt"]
) -> Float[Tensor, "hook chosen d_model"]:
    """The tensors at some hooks, at one position of each prompt."""
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
    frozen: bool = False, starts: dict[tuple[int, ...], SharedPrefix] | None = None,
) -> Int[Tensor, " row"]:  # fmt: skip
    """The most probable next token after each prompt of `base`, with the tensors at some hooks replaced at `position` by one vector
    per prompt (only in the subspace of `basis`, if given). With `frozen`, attention patterns stay those of the prompt. `starts`
    caches the tokens before `position` for later calls on the same prompts."""
    out = torch.zeros(len(base), dtype=torch.long)
    prompts = torch.as_tensor(base, dtype=torch.long)
    for places, batch in length_batches([ids[row] for row in prompts.tolist()], BATCH):
        tokens, where = token_batch(model, batch), at(position, prompts[places]) % batch.shape[1]
        start = worth_caching(model, int(where.min()))
        past = None
        if start:
            starts, batched = {} if starts is None else starts, tuple(places.tolist())
            if batched not in starts:
                starts[batched] = SharedPrefix.read(model, tokens)
            past = starts[batched].rows(torch.arange(len(tokens)), start)
        hooks: list[tuple[str, Edit]] = [
            (name, partial(put, where - start, vectors[places], basis)) for name, vectors in edits
        ]
        clean = capture_from(capture(model, tokens, positions=-1), start) if frozen else None
        held = [] if clean is None else freeze(model, clean, norms=False, mlps=False)
        logits, _ = run(model, tokens[:, start:], edits=held + hooks, positions=-1, past=past)
        out[places] = logits[:, -1].argmax(-1).cpu()
    return out


def at(position: Int[Tensor, " prompt"] | None, prompts: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """The position of each prompt; the last token if `position` is None."""
    return torch.full_like(prompts, -1) if position is None else position[prompts]


def put(
    position: Int[Tensor, " row"], vectors: Float[Tensor, "row d_model"], basis: Float[Tensor, "d_model dimensions"] | None,
    tensor: Float[Tensor, "row pos d_model"],
) -> Float[Tensor, "row pos d_model"]:  # fmt: skip
    """The tensor with the vector of each row put at its position; only in the subspace of `basis`, if given."""
    spot = (torch.arange(len(position)), position)
    new = vectors.to(tensor)
    if basis is not None:
        own, basis = tensor[spot], basis.to(tensor)
        new = own + (new - own) @ basis @ basis.T
    return tensor.index_put(spot, new)
