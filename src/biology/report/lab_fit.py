"""Which models the page `lab` can run. Only config.json is read, since the Snakefile asks for every model before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biology.config import ModelConfig

MOST_PARAMETERS = 4_000_000
"""Largest number of parameters of a model that fits a page."""
PLAIN = {
    "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": True,
}  # fmt: skip
"""Values that the config of a model must have for the page's script to run it."""


def refused(entry: ModelConfig, root: Path) -> str:
    """Why a page cannot run a model; "" if it can, according to its config."""
    holds = f"a page holds models of at most {MOST_PARAMETERS / 1e6:g} million parameters"
    if entry.sources:
        return f"{holds} that this project grew, and it is downloaded"
    if entry.neurons or entry.shuffled is not None:
        return "a page runs trained transcoders, neither neurons nor shuffled ones"
    file = entry.path / "config.json"
    try:
        config = json.loads((root / file).read_text(encoding="utf-8"))
        size, heads = parameters(config), config["num_attention_heads"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{file} is missing, or not that of a Llama"
    odd = [key for key, value in PLAIN.items() if config.get(key) != value]
    odd += ["rope_parameters"] * (theta(config) is None) + ["num_key_value_heads"] * (
        config.get("num_key_value_heads") != heads
    )
    if odd:
        return f"its script runs plain Llamas only, and {file} says otherwise in {', '.join(odd)}"
    return f"{holds}, and it has {size / 1e6:.1f} million" if size > MOST_PARAMETERS else ""


def parameters(config: Mapping[str, Any]) -> int:
    """Number of parameters of a Llama with tied embeddings, from its config."""
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    block = 4 * width * width + 3 * width * config["intermediate_size"] + 2 * width
    return config["vocab_size"] * width + layers * block + width


def theta(config: Mapping[str, Any]) -> float | None:
    """The base of the rotary embedding; None if positions are scaled."""
    rope = config.get("rope_parameters") or {}
    return rope.get("rope_theta") if rope.get("rope_type") == "default" else None
