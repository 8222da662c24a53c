"""Forward passes of prompts to which nothing is done, kept for the experiments that start from them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from biology.models.continuation import SharedPrefix, capture_from
from biology.models.model import Capture, Model, capture
from biology.transcoders.activations import row_batches
from biology.transcoders.transcoder_set import TranscoderSet

BLOCK = 64
"""Prompts that share a clean pass."""


class CleanPasses:
    """Forward passes of unedited prompts, cached because experiments ask for the same prompts at every strength and layer.

    The oldest are dropped when all together would take more than `limit` bytes; the last one asked for is always at hand. Without
    transcoders only the keys and values of prompts can be asked for.
    """

    def __init__(self, model: Model, transcoders: TranscoderSet | None, limit: int = 2**31) -> None:
        self.model, self.transcoders, self.limit = model, transcoders, limit
        self._kept: dict[tuple[object, ...], _Clean] = {}
        self._last: tuple[tuple[object, ...], _Clean] | None = None

    def __call__(self, ids: Int[Tensor, "prompt pos"], start: int = 0) -> Capture:
        """The capture of a clean pass, from token `start` on (patterns still reach back to the first token), without the residual
        stream inside of blocks."""
        clean = self._pass(ids).capture
        assert clean is not None
        return capture_from(clean, start)

    def shared(self, ids: Int[Tensor, "prompt pos"]) -> SharedPrefix:
        """The keys and values of the prompts."""
        return self._pass(ids).prefix

    def _pass(self, ids: Int[Tensor, "prompt pos"]) -> "_Clean":
        key = (tuple(ids.shape), ids.cpu().numpy().tobytes())
        found = self._last[1] if self._last is not None and self._last[0] == key else self._kept.get(key)
        if found is None:
            self._last = None  # freed before the next one is computed
            found = _Clean.read(self.model, self.transcoders, ids)
            if found.nbytes <= self.limit:
                while self.size + found.nbytes > self.limit:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = found
        self._last = key, found
        return found

    @property
    def size(self) -> int:
        """Bytes in the cache."""
        return sum(one.nbytes for one in self._kept.values())


@dataclass(frozen=True, eq=False)
class _Clean:
    """One forward pass of unedited prompts of equal length."""

    prefix: SharedPrefix
    capture: Capture | None

    @classmethod
    def read(cls, model: Model, transcoders: TranscoderSet | None, ids: Int[Tensor, "prompt pos"]) -> "_Clean":
        if transcoders is None:
            return cls(SharedPrefix.read(model, ids), None)
        from transformers import DynamicCache

        past, hooks = DynamicCache(), {"read_hook": transcoders.read_hook, "write_hook": transcoders.write_hook}
        clean = capture(model, ids, **hooks, positions=-1, past=past)
        return cls(SharedPrefix(past), replace(clean, resid_pre=(), resid_mid=()))

    @cached_property
    def nbytes(self) -> int:
        parts = [] if self.capture is None else [getattr(self.capture, entry.name) for entry in fields(Capture)]
        tensors = [tensor for part in parts for tensor in (part if isinstance(part, tuple) else (part,))]
        stored = [tensor.untyped_storage() for tensor in (*tensors, *self.prefix.tensors) if tensor is not None]
        return sum({one.data_ptr(): one.nbytes() for one in stored}.values())


def clean_blocks(
    prompt: Int[Tensor, " row"], lengths: Int[Tensor, " row"]
) -> Iterator[tuple[Int[Tensor, " prompt"], Int[Tensor, " row"]]]:
    """Prompts of equal length that share a clean pass, and their rows, in the order of the prompts. Blocks depend on which prompts
    there are, not on how many rows each has, so that the arms of an experiment share them."""
    needed, which = torch.unique(prompt, return_inverse=True)
    length = torch.zeros_like(needed).index_put((which,), lengths)
    for block in row_batches(torch.argsort(length, stable=True), length, BLOCK):
        place = torch.full_like(needed, -1).index_put((block,), torch.arange(len(block)))
        rows = (place[which] >= 0).nonzero()[:, 0]
        yield needed[block], rows[torch.argsort(place[which[rows]], stable=True)]
