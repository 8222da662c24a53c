"""Continues prompts token by token, reading each prompt only once.

Edits at a prompt's tokens affect later tokens through attention alone. Their effect is therefore contained in the keys and
values of the prompt. Rows whose prompt is edited are read once; after that only the new tokens pass through the model.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Capture, Model, run

NextLogits = Callable[[list[list[int]], list[int]], Tensor]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values (a transformers cache) of rows that were read in one batch."""

    row: Int[Tensor, " row"]
    past: Any


def new_cache(prefixes: list[Prefix] | None, row: Int[Tensor, " row"]) -> Any:
    """A new empty cache for a further batch, appended to `prefixes`; None if nothing is to be kept."""
    if prefixes is None:
        return None
    from transformers import DynamicCache

    prefixes.append(Prefix(row, DynamicCache()))
    return prefixes[-1].past


WORTH = 2**18
"""Smallest size (tokens times layers times width) at which keeping the shared start of rows saves time."""


class SharedPrefix:
    """Prompts of equal length, read once for all rows that begin with them: the keys and values of their tokens.

    An edit changes nothing before the first token it touches. A long prompt that is edited many times near its end can thus be
    read from that token on, with the same result.
    """

    def __init__(self, past: Any) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = [(layer.keys, layer.values) for layer in past.layers]

    @classmethod
    def read(cls, model: Model, ids: Int[Tensor, "prompt pos"]) -> "SharedPrefix":
        """Reads the prompts."""
        from transformers import DynamicCache

        past = DynamicCache()
        run(model, ids, positions=-1, past=past)
        return cls(past)

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values of all layers."""
        return [tensor for pair in self._layers for tensor in pair]

    def rows(self, which: Int[Tensor, " row"], length: int) -> Any:
        """A fresh cache of the first `length` tokens, for rows of these prompts; what they read is added to it."""
        from transformers import DynamicCache

        past = DynamicCache()
        for layer, (keys, values) in enumerate(self._layers):
            past.update(keys[which, :, :length], values[which, :, :length], layer)
        return past


def capture_from(frozen: Capture, start: int) -> Capture:
    """The capture from token `start` on. Attention patterns of these tokens still reach back to the first token; logits are
    unchanged."""
    if not start:
        return frozen

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cut(each) for each in value)
        return value if value is None else value[..., start:, :]

    there = {part.name for part in fields(frozen)} - {"ids", "pre_logits", "logits"}
    return replace(frozen, ids=frozen.ids[:, start:], **{name: cut(getattr(frozen, name)) for name in there})


def worth_caching(model: Model, length: int) -> int:
    """`length`, or 0 if so few tokens are as quickly read again."""
    return length if length * model.n_layers * model.d_model >= WORTH else 0


class CachedNextLogits:
    """Next-token logits (a `NextLogits`) after rows that `read` reads once, under any edits.

    `read(prefixes)` returns the logits [row, vocab] at the end of all rows and appends their caches to `prefixes`: for every
    row, token and layer, the keys and values of all its key-value heads.
    """

    def __init__(self, model: Model, read: Callable[[list[Prefix]], Float[Tensor, "row vocab"]]) -> None:
        self.model, self.read, self.prefixes = model, read, []

    def __call__(self, texts: list[list[int]], live: list[int]) -> Float[Tensor, "live vocab"]:
        if not self.prefixes:
            return self.read(self.prefixes)
        place = torch.full((len(texts),), -1)
        place[live] = torch.arange(len(live))
        logits = torch.empty(len(live), self.model.n_vocab, dtype=self.model.dtype)
        going = []
        for prefix in self.prefixes:
            goes_on = place[prefix.row] >= 0
            if not goes_on.any():
                continue
            if not goes_on.all():
                prefix.past.batch_select_indices(goes_on.nonzero()[:, 0].to(self.model.device))
            row = prefix.row[goes_on]
            ids = torch.tensor([texts[i][-1:] for i in row.tolist()])
            logits[place[row]] = run(self.model, ids, positions=-1, past=prefix.past)[0][:, 0].cpu()
            going.append(Prefix(row, prefix.past))
        self.prefixes = going
        return logits


def continued(
    prompts: Sequence[Sequence[int]],
    next_logits: NextLogits,
    n_tokens: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stops: Collection[int] = (),
    forced: Callable[[int, int], int | None] = lambda row, number: None,
) -> list[list[int]]:
    """The new tokens of each row, up to `n_tokens` or the first of `stops`: the most probable at temperature 0, otherwise
    sampled.

    Args:
        next_logits: next-token logits [row, vocab], given all texts so far and the rows that are not finished.
        forced: the new token that a row must take at this number (from 0), or None to leave it to the model.
    """
    texts = [list(prompt) for prompt in prompts]
    live = list(range(len(texts)))
    for number in range(n_tokens):
        if not live:
            break
        logits = next_logits(texts, live).double()
        if temperature > 0:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            chosen = logits.argmax(-1)
        going = []
        for row, token in zip(live, chosen.tolist(), strict=True):
            wanted = forced(row, number)
            texts[row].append(token if wanted is None else wanted)
            if texts[row][-1] not in stops:
                going.append(row)
        live = going
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
