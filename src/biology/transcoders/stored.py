"""A set of transcoders as stored in files: one plain form for every layout, and the code that all readers share.

Whatever a layout stores, `Stored` holds `W_enc` [feature, d_model], `W_dec` [feature, d_model] or [feature, target,
d_model], and `W_skip` [output, input]. Shapes are checked in `transcoder_files.py`. Weights come only from safetensors
or npz; nothing is ever unpickled.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from biology.records import InputError, InputWarning, once

COMPUTING = frozenset(
    "activation activation_fn activation_fn_str activation_fn_kwargs activation_function k apply_b_dec_to_input "
    "normalize_activations reshape_activations finetuning_scaling_factor rescale_acts_by_decoder_norm scaling_factor "
    "hook_head_index hook_head_index_out fold_ln center_writing_weights".split()
)
"""Keys of a config that change the computation. One that the reader does not follow is refused, not ignored."""
NEUTRAL = (None, False, "", "none", "relu", [], {})
"""Values of such keys that ask for nothing."""


@dataclass(frozen=True, eq=False)
class Stored:
    """The contents of a directory: the tensors of each layer, the file of each, and the settings of the config."""

    kind: str
    tensors: tuple[dict[str, Tensor], ...]
    files: tuple[Path, ...]
    read_hook: str
    write_hook: str
    activation: str | None = None
    k: int | None = None
    signed: bool = False
    """Whether the layout allows negative activations; see `TranscoderSet`."""
    model_name: str = ""
    others: tuple[Path, ...] = ()
    """Further weight files that were read, beside `files`."""
    chosen: bool = False
    """Whether the config names each file, so that other weight files may be there too."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or npz file.

    Raises:
        InputError: the file is missing, damaged, or neither.
    """
    import numpy
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise InputError(f"transcoder file {file} is missing")
    if file.suffix not in (".safetensors", ".npz"):
        raise InputError(f"transcoder file {file} is neither safetensors nor npz; nothing else is read")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with numpy.load(file, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (SafetensorError, OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"transcoder file {file} is truncated or damaged: {error}") from None


def read_mapping(file: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping.

    Raises:
        InputError: it holds something else, or cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=once(file)) if file.suffix == ".json" else yaml.safe_load(text)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a mapping of keys to values")
    return content


def transposed(tensors: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    """The same tensors, those of `keys` transposed."""
    return {key: value.T if key in keys else value for key, value in tensors.items()}


def by_layer(root: Path, files: Sequence[Path], n_layers: int) -> list[Path]:
    """One file per layer. The layer is the number after `layer_` in the file's path below `root`, or the only number in it.

    Raises:
        InputError: a file names no layer, or a layer of the model is missing, duplicated, or beyond its last.
    """
    found: dict[int, Path] = {}
    for file in files:
        name = file.relative_to(root).as_posix()
        match = re.search(r"layer_(\d+)", name) or re.fullmatch(r"\D*(\d+)\D*", name)
        if match is None:
            raise InputError(f"{file} names no layer: expected a directory layer_<number>")
        layer = int(match[1])
        if layer in found:
            raise InputError(f"{root} holds several transcoders of layer {layer}: {found[layer]} and {file}; keep one")
        found[layer] = file
    require_layers(root, found, n_layers)
    return [found[layer] for layer in range(n_layers)]


def require_layers(root: Path, found: Collection[int], n_layers: int) -> None:
    """Raises `InputError` if the layers found are not those of the model."""
    numbers = ", ".join(map(str, sorted(found))) or "none"
    for layer in range(n_layers):
        if layer not in found:
            raise InputError(
                f"{root} has no transcoder of layer {layer}: the model has {n_layers} layers, found are {numbers}"
            )
    if len(found) > n_layers:
        raise InputError(
            f"{root} has transcoders of layers {numbers}, but the model has {n_layers} layers: they are another model's"
        )


def name_unread(file: Path, said: Mapping[str, Any], read: Collection[str]) -> None:
    """Warns of the keys of a config that are not in `read` and ask for something.

    Raises:
        InputError: one of them changes the computation.
    """
    neutral = {(type(value), str(value)) for value in NEUTRAL}  # 0 is not False
    unread = {key: value for key, value in said.items() if key not in read and (type(value), str(value)) not in neutral}
    for key, value in unread.items():
        if key in COMPUTING:
            raise InputError(f"{file}: {key}: {value!r} is not supported: these transcoders would be misread")
    if unread:
        warnings.warn(f"{file}: unknown keys, not used: {', '.join(map(str, unread))}", InputWarning, stacklevel=4)
