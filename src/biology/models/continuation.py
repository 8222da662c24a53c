"""Writing on after prompts, token by token, without reading a prompt twice.

What edits change at a prompt's tokens reaches later tokens by attention alone, and so lies whole in the keys and values
that they attend to. Rows that are edited on their prompt are read once; then only new tokens pass the model.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.model import Model, run

NextLogits = Callable[[list[list[int]], list[int]], Tensor]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values (a cache of transformers) of rows that were read in one batch."""

    row: Int[Tensor, " row"]
    past: Any


def kept(prefixes: list[Prefix] | None, row: Int[Tensor, " row"]) -> Any:
    """The empty cache of a further batch, listed; None where nothing is to be kept."""
    if prefixes is None:
        return None
    from transformers import DynamicCache

    prefixes.append(Prefix(row, DynamicCache()))
    return prefixes[-1].past


class ReadOn:
    """What a model says next (a `NextLogits`) after rows that `read` reads once, under whatever edits.

    `read(prefixes)` gives the logits [row, vocab] at the end of all rows and lists what it kept of them: for every row,
    token and layer two vectors as wide as its key and value heads together.
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
    """The new tokens of each row, up to `n_tokens` or the first of `stops`: the most probable at temperature 0,
    otherwise sampled.

    Args:
        next_logits: what the model says next, [row, vocab], given all texts so far and the rows that still go on.
        forced: the token that a row must take as its new token of a number (from 0), or None.
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
