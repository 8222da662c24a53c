"""Reads transcoders from a directory, in any layout of `layouts.py`, checks them against their model; and writes
them."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from biology.models.mapped_weights import finite
from biology.models.model import Model
from biology.records import InputError, InputWarning
from biology.transcoders.layouts import read_directory, write_directory
from biology.transcoders.stored import Stored
from biology.transcoders.transcoder_set import (
    ACTIVATIONS,
    READ_HOOKS,
    WRITE_HOOKS,
    Offloaded,
    Transcoder,
    TranscoderSet,
)


def load_transcoders(path: str | Path, model: Model, *, offload: bool = False) -> TranscoderSet:
    """Reads transcoders of `model` from a directory, in any layout of `layouts.py`. They get the model's dtype and
    device; with `offload` they stay in CPU memory (see `Offloaded`).

    Raises:
        InputError: an unknown layout, a missing or extra layer or tensor, a wrong width, NaN, an unknown hook or
            activation, or a config that asks for something unsupported.
    """
    path = Path(path)
    stored = read_directory(path, model.n_layers)
    if stored.read_hook not in READ_HOOKS or stored.write_hook not in WRITE_HOOKS:
        raise InputError(
            f"{path}: hooks {stored.read_hook!r} -> {stored.write_hook!r} are not supported; a transcoder reads one of "
            f"{', '.join(READ_HOOKS)} and writes one of {', '.join(WRITE_HOOKS)}"
        )
    activation = _activation(path, stored)
    layers = [
        _checked(stored.kind, layer, tensors, file, model, offload)
        for layer, (tensors, file) in enumerate(zip(stored.tensors, stored.files, strict=True))
    ]
    _mention_another_model(path, stored.model_name, model)
    below = any(bool((layer.threshold < 0).any()) for layer in layers if layer.threshold is not None)
    return TranscoderSet(
        stored.kind, activation, tuple(layers), stored.read_hook, stored.write_hook,
        k=stored.k if activation == "topk" else None, signed=stored.signed and (activation == "topk" or below),
        name=path.resolve().name,
    )  # fmt: skip


def _mention_another_model(path: Path, said: str, model: Model) -> None:
    """Warns if the set names a model that differs from this one under all its names; the weights themselves do not
    tell."""
    names = (model.name, model.path.name, model.path.resolve().name, model.bridge.original_model.config._name_or_path)
    if said and _bare(said) not in {_bare(name) for name in names}:
        warnings.warn(
            f"{path}: its config says that these are transcoders of {said}, but the model is {model.name}",
            InputWarning,
            stacklevel=3,
        )


def _bare(name: str) -> str:
    """A model's name without the parts that differ between its publisher, TransformerLens, SAELens and a local
    folder."""
    last = re.split(r"/|--", name.rstrip("/").lower())[-1]
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-v(?=\d)", "-", last).removesuffix("-small").removesuffix("-pt"))


def _activation(path: Path, stored: Stored) -> str:
    """The activation function. Config and weights must agree on it, except that a config may say relu for a
    JumpReLU."""
    thresholds = ["threshold" in tensors for tensors in stored.tensors]
    if any(thresholds) != all(thresholds):
        raise InputError(f"{path}: only some layers have a threshold; all or none must")
    found = "jumprelu" if all(thresholds) else "relu"
    named = str(stored.activation or found).lower().replace("jump_relu", "jumprelu")
    named = found if named == "relu" else named
    if named not in ACTIVATIONS or (named == "jumprelu") != all(thresholds):
        raise InputError(f"{path}: activation {stored.activation!r} does not fit weights that look like {found}")
    if named == "topk" and (not isinstance(stored.k, int) or isinstance(stored.k, bool) or stored.k < 1):
        raise InputError(f"{path}: activation topk needs a positive integer k, found {stored.k!r}")
    return named


def _checked(
    kind: str, layer: int, tensors: Mapping[str, Tensor], file: Path, model: Model, offload: bool
) -> Transcoder:
    """The transcoder of one layer, once every tensor is present, finite and of the right shape."""
    where = f"transcoder of layer {layer}, {file}"
    needed, optional = ("W_enc", "b_enc", "W_dec", "b_dec"), ("threshold", "W_skip")
    missing = [key for key in needed if key not in tensors]
    unknown = [key for key in tensors if key not in (*needed, *optional)]
    if missing or unknown:
        problem = f"has no {', '.join(missing)}" if missing else f"holds unknown tensors {', '.join(unknown)}"
        raise InputError(f"{where}: {problem}")
    weights = dict(tensors)
    n_features, d_model = weights["W_enc"].shape[0], model.d_model
    if weights["W_dec"].dim() == 2:
        weights["W_dec"] = weights["W_dec"][:, None]
    if "threshold" in weights and weights["threshold"].numel() == 1:
        weights["threshold"] = weights["threshold"].reshape(1).expand(n_features)
    targets = 1 if kind == "per_layer" else model.n_layers - layer
    shapes = {
        "W_enc": (n_features, d_model), "b_enc": (n_features,), "W_dec": (n_features, targets, d_model),
        "b_dec": (d_model,), "threshold": (n_features,), "W_skip": (d_model, d_model),
    }  # fmt: skip
    for key, expected in shapes.items():
        value = weights.get(key)
        if value is None:
            continue
        if value.shape != expected:
            raise InputError(
                f"{where}: {key} is {list(value.shape)}, expected {list(expected)} "
                f"for {model.name} (d_model {d_model}, {model.n_layers} layers)"
            )
        if not finite(value):
            raise InputError(f"{where}: {key} holds NaN or infinite values")
    if offload:
        return Offloaded(**weights, device=model.device, dtype=model.dtype)
    weights = {key: value.to(dtype=model.dtype).contiguous() for key, value in weights.items()}
    return Transcoder(**weights).to(model.device)


def save_transcoders(
    path: str | Path, transcoders: TranscoderSet, *, layout: str = "saelens", model_name: str = "",
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Writes a set to a directory.

    `saelens` (per layer, ReLU or JumpReLU) is the layout that `sae_lens.SAE.load_from_disk` reads, one folder per
    layer; `circuit-tracer` takes every kind. `dtype` is the storage type (float16 and bfloat16 halve the size).

    Raises:
        InputError: an unknown layout, or one that cannot hold this set (SAELens: cross-layer and TopK sets).
    """
    tensors = [
        {name: value.to("cpu", dtype) for name, value in layer.resting().items()} for layer in transcoders.layers
    ]
    if transcoders.kind == "per_layer":
        tensors = [{**layer, "W_dec": layer["W_dec"][:, 0]} for layer in tensors]
    stored = Stored(
        transcoders.kind,
        tuple(tensors),
        (),
        transcoders.read_hook,
        transcoders.write_hook,
        transcoders.activation,
        transcoders.k,
        signed=transcoders.signed,
    )
    write_directory(Path(path), stored, layout=layout, model_name=model_name)
