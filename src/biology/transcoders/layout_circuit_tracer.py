"""Transcoders in circuit-tracer's layout.

    config.yaml + layer_0.safetensors ...                                               (per layer)
    config.yaml + W_enc_0.safetensors + W_dec_0.safetensors ... (+ skip.safetensors)    (cross layer)

The config of a per-layer set may instead list files, of this layout or of Gemma Scope. Active features keep their sign
here: circuit-tracer's TopK multiplies by a gate of the k largest, its JumpReLU by a gate of those above threshold, and
neither clips negative values (`circuit_tracer/transcoder/activation_functions.py`).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from biology.artefacts import write_tensors, write_text
from biology.records import InputError
from biology.transcoders.layout_gemma_scope import plain_names
from biology.transcoders.stored import (
    Stored,
    by_layer,
    name_unread,
    read_mapping,
    read_tensors,
    require_layers,
    transposed,
)

KEYS = frozenset(
    "model_kind model_name feature_input_hook feature_output_hook activation transcoders scan repo_id revision "
    "subfolder".split()
)
PER_FEATURE = ("W_enc", "b_enc", "W_dec", "threshold")
_LAYER_FILE = re.compile(r"layer_(\d+)\.(?:safetensors|npz)$")


def read_circuit_tracer(path: Path, n_layers: int) -> Stored:
    """Reads a directory with a config.yaml for a model of `n_layers` layers.

    Raises:
        InputError: another kind of model, a missing or extra layer, unused tensors, or an unknown key of the config that
            changes the computation.
    """
    file = path / "config.yaml"
    config = read_mapping(file)
    kind = config.get("model_kind")
    if kind == "transcoder_set":
        files, tensors = _per_layer_files(path, config, n_layers)
        others: list[Path] = []
    elif kind == "cross_layer_transcoder":
        files, tensors, others = _cross_layer_files(path, n_layers)
    else:
        raise InputError(f"{file}: model_kind is {kind!r}, expected transcoder_set or cross_layer_transcoder")
    # circuit-tracer writes k beside the weights of a TopK transcoder and then refuses to read it back.
    beside = {int(layer["k"]) for layer in tensors if "k" in layer}
    if len(beside) > 1:
        raise InputError(
            f"{path}: the layers have different numbers of active features (k {sorted(beside)}): only one k for all is supported"
        )
    activation = config.get("activation") or ("topk" if beside else None)
    if beside and activation != "topk":
        raise InputError(f"{file}: activation is {activation!r}, but the weights are those of a TopK set (they hold k)")
    name_unread(file, config, KEYS | {"k"} if activation == "topk" else KEYS)
    return Stored(
        kind="per_layer" if kind == "transcoder_set" else "cross_layer",
        tensors=tuple({key: value for key, value in layer.items() if key != "k"} for layer in tensors),
        files=tuple(files),
        read_hook=str(config.get("feature_input_hook")),
        write_hook=str(config.get("feature_output_hook")),
        activation=activation,
        k=config.get("k") or next(iter(beside), None),
        signed=True,
        model_name=str(config.get("model_name") or ""),
        others=tuple(others),
        chosen=bool(config.get("transcoders")),
    )


def _per_layer_files(
    path: Path, config: Mapping[str, Any], n_layers: int
) -> tuple[list[Path], list[dict[str, Tensor]]]:
    if config.get("transcoders"):
        files = [_resolve(path, str(entry)) for entry in config["transcoders"]]
        if len(files) != n_layers:
            raise InputError(f"{path / 'config.yaml'} lists {len(files)} transcoders; the model has {n_layers} layers")
    else:
        found = [file for file in sorted(path.glob("layer_*.*")) if _LAYER_FILE.match(file.name)]
        files = by_layer(path, found, n_layers)
    tensors = []
    for file in files:
        layer = read_tensors(file)
        if "w_enc" in layer:
            layer = plain_names(layer)
        elif file.suffix == ".npz":
            layer = transposed(layer, "W_enc")
        tensors.append({key.replace("activation_function.threshold", "threshold"): layer[key] for key in layer})
    return files, tensors


def _cross_layer_files(path: Path, n_layers: int) -> tuple[list[Path], list[dict[str, Tensor]], list[Path]]:
    """Encoder files, tensors of each layer, and the other files that they came from."""
    found = {
        int(match[1])
        for file in path.glob("W_*")
        if (match := re.fullmatch(r"W_(?:enc|dec)_(\d+)\.safetensors", file.name))
    }
    files, tensors, others = [], [], []
    for layer in range(n_layers):
        encoder, decoder = (path / f"{part}_{layer}.safetensors" for part in ("W_enc", "W_dec"))
        for file in (encoder, decoder):
            if not file.is_file():
                raise InputError(f"{path} has no {file.name}: the model has {n_layers} layers")
        first, second = read_tensors(encoder), read_tensors(decoder)
        if first.keys() & second.keys():
            raise InputError(
                f"{', '.join(sorted(first.keys() & second.keys()))} is in {encoder} and in {decoder}; keep one"
            )
        merged = {key.removesuffix(f"_{layer}"): value for key, value in {**first, **second}.items()}
        tensors.append(_without_padding(merged))
        files.append(encoder)
        others.append(decoder)
    require_layers(path, found, n_layers)
    skip = path / "skip.safetensors"
    if skip.is_file():
        _add_skips(skip, tensors)
        others.append(skip)
    return files, tensors, others


def _add_skips(file: Path, tensors: Sequence[dict[str, Tensor]]) -> None:
    stored = read_tensors(file)
    skips = stored.pop("W_skip", None)
    if stored or any("W_skip" in layer for layer in tensors):
        raise InputError(f"{file}: expected W_skip of all layers in this file, and no other tensor or skip")
    if skips is None or skips.dim() != 3 or skips.shape[0] != len(tensors):
        shape = None if skips is None else list(skips.shape)
        raise InputError(f"{file}: W_skip is {shape}, expected [{len(tensors)}, d_model, d_model]")
    for layer, entry in enumerate(tensors):  # a cross-layer skip is stored transposed: x @ W_skip[layer]
        entry["W_skip"] = skips[layer].T


def _padded(layers: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """All layers widened to the widest, as circuit-tracer needs, by features with zero encoders that are never active."""
    width = max(len(layer["b_enc"]) for layer in layers)

    def pad(value: Tensor) -> Tensor:
        return torch.cat([value, value.new_zeros(width - len(value), *value.shape[1:])])

    return [{key: pad(value) if key in PER_FEATURE else value for key, value in layer.items()} for layer in layers]


def _without_padding(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layer without such features at its end."""
    W_enc, b_enc = layer.get("W_enc"), layer.get("b_enc")
    if W_enc is None or b_enc is None or W_enc.dim() != 2 or b_enc.shape != W_enc.shape[:1]:
        return dict(layer)  # refused, with its name, when shapes are checked
    sees = (W_enc != 0).any(1) | (b_enc != 0)
    count = int(sees.nonzero().max()) + 1 if sees.any() else len(sees)
    return {key: value[:count] if key in PER_FEATURE and value.dim() else value for key, value in layer.items()}


def _resolve(path: Path, entry: str) -> Path:
    """A file named in a config: a path (relative to the directory) or `hf://owner/repository/file?revision=...`.

    A Hub name is searched in the directory and in the local Hub cache; nothing is fetched.
    """
    if not entry.startswith("hf://"):
        return path / entry
    address, _, query = entry.removeprefix("hf://").partition("?")
    owner, repository, name = (address.split("/", 2) + ["", ""])[:3]
    for candidate in (path / name, path / repository / name, path / owner / repository / name):
        if name and candidate.is_file():
            return candidate
    from huggingface_hub import try_to_load_from_cache

    revision = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair).get("revision")
    cached = try_to_load_from_cache(f"{owner}/{repository}", name, revision=revision) if name else None
    if isinstance(cached, str):
        return Path(cached)
    raise InputError(f"{entry} is not on this machine: run `hf download {owner}/{repository} {name}` first")


def write_circuit_tracer(path: Path, stored: Stored, model_name: str) -> None:
    """Writes a set of any kind, config.yaml last.

    Raises:
        InputError: the set clips negative values and is TopK, or JumpReLU with thresholds below 0.
    """
    clipped = stored.activation == "topk" or any(bool((layer["threshold"] < 0).any()) for layer in stored.tensors if "threshold" in layer)  # fmt: skip
    if clipped and not stored.signed:
        raise InputError(
            "layout 'circuit-tracer' keeps negative activations, which this set clips: it would be read as another set"
        )
    cross = stored.kind == "cross_layer"
    for layer, tensors in enumerate(_padded(stored.tensors) if cross else stored.tensors):
        if cross:
            encoder = {key: tensors[key] for key in ("W_enc", "b_enc", "b_dec", "threshold") if key in tensors}
            write_tensors(path / f"W_enc_{layer}.safetensors", {f"{key}_{layer}": encoder[key] for key in encoder})
            write_tensors(path / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": tensors["W_dec"]})
        else:
            renamed = {key.replace("threshold", "activation_function.threshold"): tensors[key] for key in tensors}
            write_tensors(path / f"layer_{layer}.safetensors", renamed)
    if cross and any("W_skip" in tensors for tensors in stored.tensors):
        zero = stored.tensors[0]["b_dec"].new_zeros(2 * stored.tensors[0]["b_dec"].shape)
        skips = [tensors.get("W_skip", zero).T for tensors in stored.tensors]
        write_tensors(path / "skip.safetensors", {"W_skip": torch.stack(skips)})
    config: dict[str, Any] = {
        "model_kind": "cross_layer_transcoder" if cross else "transcoder_set", "model_name": model_name,
        "feature_input_hook": stored.read_hook, "feature_output_hook": stored.write_hook,
    }  # fmt: skip
    if stored.activation != "jumprelu":  # the thresholds tell; the config knows only relu and topk
        config["activation"] = stored.activation
    if stored.activation == "topk":
        config["k"] = stored.k
    write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
