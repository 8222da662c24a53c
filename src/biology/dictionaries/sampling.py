"""Text sampled from a model, to train transcoders when the model's training text is not available.

Unconditional sampling: only the first token is given, and every next one is drawn from the model's distribution
(temperature 1, no truncation), so that the samples follow the distribution that the model has learnt.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from biology.models import checkpoint
from biology.models.tokenizer import open_tokenizer
from biology.records import InputError

BATCH = 256
"""Documents that are written at a time."""
KEPT = 1 << 30
"""Bytes that their keys and values may take; a model for which they would take more writes fewer documents at a time."""


def samples(
    path: Path, architectures: tuple[str, ...], *, tokens: int, seed: int, length: int | None = None,
    device: str = "cpu", dtype: torch.dtype = torch.float32, progress: bool = True,
) -> Iterator[str]:  # fmt: skip
    """Documents sampled from the model in `path`, until they hold `tokens` tokens in total. A document ends where the
    model ends it, or after `length` tokens, the first one included (the model's context, at most 1024). Short documents take less
    time: more of them are written at once, and each token reads fewer earlier ones.

    The same seed and length give the same documents; fewer tokens are the beginning of more.

    Raises:
        InputError: the model does not load, has no tokenizer or no first token, or is given a `length` beyond its context.
    """
    checkpoint.architecture(path, architectures)
    network, tokenizer = checkpoint.network(path, dtype).to(device), open_tokenizer(path)
    if getattr(network.config, "attn_logit_softcapping", None) is None:
        network.set_attn_implementation("sdpa")  # else keys and values are copied for every head
    first = None
    if tokenizer is not None:
        first = network.config.bos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if tokenizer is None or first is None:
        raise InputError(
            f"{path}: no tokenizer with a first token (BOS), so nothing can be sampled: give a text of your own"
        )
    ends = {token for token in (first, tokenizer.eos_token_id) if token is not None}
    context = int(getattr(network.config, "max_position_embeddings", 1024))
    longest = length or min(1024, context)
    if longest > context:
        raise InputError(f"{path}: documents of {longest} tokens do not fit the model's context of {context}")
    together = _at_once(network.config, longest, torch.empty(0, dtype=dtype).element_size())
    start, found, index = torch.full((together, 1), first, device=device), 0, 0
    with tqdm(total=tokens, desc="sampling", unit="token", disable=not progress, mininterval=5) as bar:
        while found < tokens:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(1_000_003 * seed + index)
                drawn = network.generate(
                    start, attention_mask=torch.ones_like(start), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                    max_new_tokens=longest - 1, eos_token_id=sorted(ends), pad_token_id=min(ends), use_cache=True,
                )  # fmt: skip
            for row in drawn[:, 1:].tolist():
                end = next((place for place, token in enumerate(row) if token in ends), len(row))
                if end and found < tokens:
                    yield tokenizer.decode(row[:end], skip_special_tokens=True)
                    found += end
                    bar.update(end)
            index += 1


def _at_once(config: Any, length: int, item: int) -> int:
    """How many documents of this length are written at a time: it depends on the model alone, so that the same seed gives the same
    documents."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    of_one = 2 * config.num_hidden_layers * heads * width * length * item
    return max(1, min(BATCH, KEPT // of_one))
