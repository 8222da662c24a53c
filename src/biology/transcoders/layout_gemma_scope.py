"""Transcoders in the layouts of Gemma Scope (Gemma 2) and Gemma Scope 2 (Gemma 3), as Google publishes them.

    Gemma Scope       layer_0/width_16k/average_l0_76/params.npz ...
    Gemma Scope 2     layer_0_width_16k_l0_small_affine/{config.json, params.safetensors} ...   (per layer)
                      config.json + params_layer_0.safetensors ...                              (cross layer)

All are JumpReLU. Those of Gemma Scope read the normed input without the norm's gain, those of Gemma Scope 2 with it;
`affine` ones have a skip connection, stored as [input, output].
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from biology.records import InputError
from biology.transcoders.stored import Stored, name_unread, read_mapping, read_tensors, transposed

READ_2, WRITTEN_2 = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
KEYS = (
    "architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out", "affine_connection", "width", "l0", "type",
)  # fmt: skip


def read_gemma_scope(files: Sequence[Path]) -> Stored:
    """Reads a per-layer set. `files` are the params.npz of all layers in order."""
    tensors = tuple(transposed(read_tensors(file), "W_enc") for file in files)
    return Stored("per_layer", tensors, tuple(files), "ln2.hook_normalized", "hook_mlp_out")


def read_gemma_scope_2(files: Sequence[Path]) -> Stored:
    """Reads a per-layer set. `files` are the params.safetensors of all layers in order, each with or without a
    config.json beside it.

    Raises:
        InputError: a config.json names another architecture, hook or layer than a transcoder has, or does not fit its weights.
    """
    tensors = tuple(plain_names(read_tensors(file)) for file in files)
    configs = [_config(file.with_name("config.json")) for file in files]
    for layer, (file, config, stored) in enumerate(zip(files, configs, tensors, strict=True)):
        where = file.with_name("config.json")
        for key in ("hf_hook_point_in", "hf_hook_point_out"):
            named = re.search(r"layers\.(\d+)\.", str(config.get(key)))
            if named and int(named[1]) != layer:
                raise InputError(f"{where}: {key} {config[key]!r} is not a hook of layer {layer}")
        width = stored["b_enc"].shape[0] if "b_enc" in stored else None
        if config.get("width", width) != width:
            raise InputError(f"{where}: width is {config['width']}, but {file.name} has {width} features")
        _check_skip(where, config, [stored])
    name = str(configs[0].get("model_name") or "") if configs else ""
    return Stored("per_layer", tensors, tuple(files), "ln2.hook_out", "hook_mlp_out", model_name=name)


def read_gemma_scope_2_cross_layer(files: Sequence[Path]) -> Stored:
    """Reads a cross-layer set. A decoder is stored as [feature, layer, d_model] for all layers; rows below the
    feature's own layer are unused."""
    where = files[0].with_name("config.json")
    config, tensors = _config(where), []
    for layer, file in enumerate(files):
        entry = plain_names(read_tensors(file))
        if "W_dec" in entry and entry["W_dec"].dim() == 3:
            entry["W_dec"] = entry["W_dec"][:, layer:]
        tensors.append(entry)
    _check_skip(where, config, tensors)
    name = str(config.get("model_name") or "")
    return Stored("cross_layer", tuple(tensors), tuple(files), "ln2.hook_out", "hook_mlp_out", model_name=name)


def _config(file: Path) -> dict[str, Any]:
    """The contents of a config.json, if there is one, checked to be a transcoder's."""
    if not file.is_file():
        return {}
    config = read_mapping(file)
    expected = {
        "architecture": "jump_relu",
        "type": "transcoder",
        "hf_hook_point_in": READ_2,
        "hf_hook_point_out": WRITTEN_2,
    }
    for key, value in expected.items():
        said = config.get(key)
        if said is not None and not str(said).endswith(value) and not (key == "type" and said == "clt"):
            raise InputError(f"{file}: {key} {said!r} is not supported; expected {value!r}")
    name_unread(file, config, KEYS)
    return config


def _check_skip(file: Path, config: Mapping[str, Any], tensors: Sequence[Mapping[str, Tensor]]) -> None:
    said = config.get("affine_connection")
    if said is not None and any(bool(said) != ("W_skip" in layer) for layer in tensors):
        raise InputError(f"{file}: affine_connection is {said}, but the weights say otherwise")


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of Gemma Scope 2 under the names and in the orientation of `Stored`."""
    names = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}
    return transposed({names.get(key, key): value for key, value in tensors.items()}, "W_enc", "W_skip")
