"""A small model and its transcoders as characters of a page that runs them (`lab_page.py`, templates/lab_model.js).

Weights keep their 16 bits, with all upper bytes before all lower ones, which compresses best.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from biology.config import ModelConfig
from biology.records import InputError
from biology.report.lab_fit import refused, theta
from biology.report.pages import packed_bytes

FORMATS = ("F16", "BF16")
SPLIT = r"\n|\d+|[^\W\d]+|[^\w\s]"
"""Regular expression by which its tokenizer splits a text into words."""
Bits = UInt16[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class SmallModel:
    """A model that fits a page, with its transcoders. Weights are stored as 16 bits."""

    shape: Mapping[str, int | float | None]
    """Sizes and constants, under the names of lab_model.js."""
    format: str
    model: Mapping[str, Bits]
    transcoders: tuple[Mapping[str, Bits], ...]
    """For each layer: W_enc [feature, d_model], b_enc, threshold, W_dec."""
    words: Mapping[str, Any]
    """The tokenizer: vocabulary in the order of ids, special and joined ids, BOS."""

    def packed(self, facts: Mapping[str, Any], kept: Sequence[Sequence[int]]) -> str:
        """Facts and weights, with the features `kept` of each layer, as characters: the input of `unpackedModel` in
        lab_model.js."""
        order = [self.model["model.embed_tokens.weight"]]
        for layer, (transcoder, features) in enumerate(zip(self.transcoders, kept, strict=True)):
            order += [self.model[f"model.layers.{layer}.{name}.weight"] for name in BLOCK]
            order += [transcoder[name][list(features)] for name in ("W_enc", "b_enc", "threshold", "W_dec")]
        order.append(self.model["model.norm.weight"])
        bits = np.concatenate([part.ravel() for part in order])
        told = {**facts, "shape": self.shape, "format": self.format, "words": self.words, "features": kept}
        return packed_bytes(told, (bits >> 8).astype(np.uint8).tobytes() + (bits & 0xFF).astype(np.uint8).tobytes())


BLOCK = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def read_small(entry: ModelConfig, root: Path, model: str) -> SmallModel:
    """A model that is not `refused`, with its transcoders.

    Raises:
        InputError: it is refused, or the page's script cannot run its weights, transcoders or tokenizer.
    """
    if reason := refused(entry, root):
        raise InputError(f"model '{model}' has no page lab: {reason}.")
    config = json.loads((root / entry.path / "config.json").read_text(encoding="utf-8"))
    weights, formats = _bits(root / entry.path / "model.safetensors")
    layers = []
    for layer in range(config["num_hidden_layers"]):
        file = root / entry.transcoders / f"layer_{layer}/sae_weights.safetensors"
        found, more = _bits(file)
        formats |= more
        if _hooks(file.with_name("cfg.json")) != (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"):
            raise InputError(
                f"{file}: a page runs JumpReLU transcoders of MLPs, from mlp.hook_in to hook_mlp_out, only."
            )
        layers.append({**found, "W_enc": np.ascontiguousarray(found["W_enc"].T)})
    if len(formats) != 1 or not formats <= set(FORMATS):
        raise InputError(
            f"{root / entry.path}: a page holds weights of one format, {' or '.join(FORMATS)}, not {', '.join(sorted(formats))}."
        )
    shape = {
        "vocabulary": config["vocab_size"], "width": config["hidden_size"], "hidden": config["intermediate_size"],
        "heads": config["num_attention_heads"], "theta": theta(config), "epsilon": config["rms_norm_eps"],
        "context": config["max_position_embeddings"],
    }  # fmt: skip
    return SmallModel(shape, formats.pop(), weights, tuple(layers), _words(root / entry.path, config))


def _bits(file: Path) -> tuple[dict[str, Bits], set[str]]:
    """The tensors of a safetensors file as bits, and their formats."""
    try:
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        formats = {entry["dtype"] for entry in header.values()}
        if not formats <= set(FORMATS):
            return {}, formats
        tensors = {
            name: np.frombuffer(data[8 + length :][slice(*entry["data_offsets"])], "<u2").reshape(entry["shape"])
            for name, entry in header.items()
        }
    except FileNotFoundError:
        raise InputError(f"{file}: no such file.") from None
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}.") from None
    return tensors, formats


def _hooks(file: Path) -> tuple[Any, Any] | None:
    """The hooks that a layer's transcoders read and write, if they are JumpReLU transcoders in SAELens's layout."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        named = {**config, **(config.get("metadata") or {})}
    except (OSError, ValueError, TypeError):
        return None
    found = named.get("hook_name"), named.get("hook_name_out")
    return found if named.get("architecture") == "jumprelu_transcoder" else None


def _words(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer of a directory. Raises `InputError` unless it has words and pieces of names, like that of elegans."""
    file = path / "tokenizer.json"
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        model, split = read["model"], read["pre_tokenizer"]
        plain = [model["type"], model["continuing_subword_prefix"], split["type"], split["pattern"], split["invert"]]
        added = {token["id"]: token for token in read["added_tokens"]}
        numbered = {number: word for word, number in model["vocab"].items()}
        numbered |= {number: token["content"] for number, token in added.items()}
        vocabulary = [numbered[number] for number in range(config["vocab_size"])]
    except (OSError, ValueError, KeyError, TypeError):
        plain, vocabulary, added = None, [], {}
    if plain != ["WordPiece", "##", "Split", {"Regex": SPLIT}, True]:
        raise InputError(f"{file}: a page runs a tokenizer of words and pieces such as that of elegans only.")
    special = sorted(number for number, token in added.items() if token["special"])
    return {
        "vocabulary": vocabulary, "special": special, "joined": sorted(added.keys() - set(special)),
        "bos": config.get("bos_token_id"),
    }  # fmt: skip
