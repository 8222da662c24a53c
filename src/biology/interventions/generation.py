"""Text generation while features are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.interventions.feature_edits import Edits, checked_sites, concatenate, of_rows
from biology.interventions.protocols import intervene
from biology.models.continuation import continued
from biology.models.model import Model
from biology.transcoders.transcoder_set import TranscoderSet


def generate(
    model: Model,
    transcoders: TranscoderSet,
    prompts: Sequence[Sequence[int]],
    edited: Edits,
    n_tokens: int,
    *,
    open_ended: Edits | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: int | None = None,
    protocol: str = "iterative",
    live_attention: bool = True,
    last_layer: int | None = None,
    batch_size: int = 256,
) -> list[list[int]]:
    """Continues every prompt (row i is prompt i) by up to `n_tokens` tokens while its features are held.

    `edited` apply at fixed positions of the prompt, `open_ended` at their position and at every later one, new tokens
    included. Greedy at temperature 0, otherwise sampled with `generator`. Frozen or clamped values, in the protocols
    that have them, are those of the unedited model on the text so far. The whole text is run again for every token.

    Returns:
        The new tokens of each row, ending with `stop` if it was reached.
    """
    lengths: Int[Tensor, " prompt"] = torch.tensor([len(prompt) for prompt in prompts])
    edited = checked_sites(model, transcoders, edited, lengths)
    open_ended = None if open_ended is None else checked_sites(model, transcoders, open_ended, lengths)

    def next_logits(texts: list[list[int]], live: list[int]) -> Float[Tensor, "row vocab"]:
        parts = [edited] if open_ended is None else [edited, extended(open_ended, texts)]
        here = torch.full((len(texts),), -1)
        here[live] = torch.arange(len(live))
        current = of_rows(concatenate(parts), here, model)
        current = Edits(**{entry.name: getattr(current, entry.name).cpu() for entry in fields(current)})
        outcome = intervene(
            model, transcoders, [texts[i] for i in live], torch.arange(len(live)), current, protocol=protocol,
            live_attention=live_attention, last_layer=last_layer, batch_size=batch_size,
        )  # fmt: skip
        return outcome.logits[:, 0]

    stops = () if stop is None else (stop,)
    return continued(prompts, next_logits, n_tokens, temperature=temperature, generator=generator, stops=stops)


def extended(open_ended: Edits, texts: Sequence[Sequence[int]]) -> Edits:
    """Open-ended edits at every position that they now cover."""
    counts = torch.tensor([len(text) for text in texts])[open_ended.row] - open_ended.pos
    entry = torch.repeat_interleave(torch.arange(len(counts)), counts)
    offset = torch.arange(len(entry)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    longer = {name.name: getattr(open_ended, name.name)[entry] for name in fields(open_ended)}
    return Edits(**{**longer, "pos": longer["pos"] + offset})
