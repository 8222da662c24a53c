"""Transcoders in the layout of EleutherAI's sparsify: layers.0.mlp/{cfg.json, sae.safetensors} ...

Per layer and TopK, with or without a skip connection. A folder is named after the module whose input is read and whose output is
predicted. Sets that were trained with another convention (their library has several) are refused by the key or the tensor that says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from biology.records import InputError
from biology.transcoders.stored import Stored, name_unread, read_mapping, read_tensors

NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "W_skip": "W_skip"}
KEYS = frozenset(
    # Read here, or about training and without effect on the computation.
    "activation k transcode skip_connection d_in num_latents expansion_factor normalize_decoder multi_topk lookup_max_order "
    "gram_table_hash dtype".split()
)
OTHERWISE = (
    "normalize_io",
    "embed_skip",
    "gram_lookup",
    "signed",
    "cross_layer",
    "coalesce_topk",
    "divide_cross_layer",
    "n_sources",
    "n_targets",
)
"""Keys of variants that compute something else."""


def read_sparsify(weights: Sequence[Path]) -> Stored:
    """Reads a set. `weights` are the sae.safetensors of all layers in order.

    Raises:
        InputError: a config is not a TopK transcoder's, does not fit its weights, or asks for something unsupported; a folder is not
            named after an MLP; or layers have different k.
    """
    tensors, numbers = [], set()
    for file in weights:
        if not file.parent.name.endswith(".mlp"):
            raise InputError(
                f"{file.parent}: only transcoders of whole MLPs are read (a folder layers.<number>.mlp for each layer)"
            )
        config = read_mapping(file.with_name("cfg.json"))
        tensors.append(_named(file, read_tensors(file)))
        _check(file.with_name("cfg.json"), config, tensors[-1])
        numbers.add(config["k"])
    root = weights[0].parent.parent
    if len(numbers) > 1:
        raise InputError(f"{root}: layers have different k: {', '.join(map(str, sorted(numbers)))}")
    return Stored("per_layer", tuple(tensors), tuple(weights), "mlp.hook_in", "mlp.hook_out", "topk", numbers.pop())


def _named(file: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    unknown = sorted(set(found) - set(NAMES))
    if unknown:
        raise InputError(f"{file}: {unknown[0]} is no tensor of a transcoder that is read here: these would be misread")
    return {NAMES[name]: value for name, value in found.items()}


def _check(file: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuses a config that does not fit its weights, or asks for something unsupported."""
    if config.get("transcode") is not True:
        raise InputError(f"{file}: transcode is {config.get('transcode')!r}: this is an autoencoder, not a transcoder")
    if config.get("activation", "topk") != "topk":
        raise InputError(f"{file}: activation {config['activation']!r} is not supported, only topk")
    for key in OTHERWISE:
        if config.get(key):
            raise InputError(f"{file}: {key}: {config[key]!r} is not supported: these transcoders would be misread")
    if bool(config.get("skip_connection")) != ("W_skip" in tensors):
        raise InputError(f"{file}: skip_connection is {config.get('skip_connection')!r}, which the weights do not fit")
    if "W_enc" in tensors and tensors["W_enc"].dim() == 2:
        features, d_model = tensors["W_enc"].shape
        stated = config.get("num_latents") or features
        if (config.get("d_in", d_model), stated) != (d_model, features):
            raise InputError(
                f"{file}: {stated} latents of {config.get('d_in')} inputs, and its weights have {features} of {d_model}"
            )
    if not isinstance(config.get("k"), int):
        raise InputError(f"{file}: k is {config.get('k')!r}, not a number")
    name_unread(file, config, KEYS | set(OTHERWISE))
