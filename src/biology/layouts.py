"""Directories of transcoders: the layouts in circulation, read into one form and written.

    circuit-tracer    config.yaml + layer_0.safetensors ...            (per layer)
                      config.yaml + W_enc_0.safetensors + W_dec_0.safetensors ... (+ skip.safetensors)   (cross layer)
    SAELens           layer_0/{cfg.json, sae_weights.safetensors} ...
    Gemma Scope       layer_0/width_16k/average_l0_76/params.npz ...
    Gemma Scope 2     layer_0_width_16k_l0_small_affine/{config.json, params.safetensors} ...   (per layer)
                      config.json + params_layer_0.safetensors ...                              (cross layer)

Whatever the layout stores, `Stored` holds `W_enc` [feature, d_model], `W_dec` [feature, d_model] or [feature, target,
d_model], and `W_skip` [output, input]. Shapes are checked where they are used, in `transcoders.py`. Weights come from
safetensors or npz only; nothing is ever unpickled.
"""

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from biology.artefacts import whole, write_text
from biology.config import InputError

SAELENS_FORMAT = "6.54.12"
"""Version of SAELens whose disk format is written."""
_LAYER_FILE = re.compile(r"layer_(\d+)\.(?:safetensors|npz)$")


@dataclass(frozen=True, eq=False)
class Stored:
    """What lies in a directory: the tensors of each layer, the file each came from, and what the config says."""

    kind: str
    tensors: tuple[dict[str, Tensor], ...]
    files: tuple[Path, ...]
    read_hook: str
    write_hook: str
    activation: str | None = None
    k: int | None = None


# Reading -------------------------------------------------------------------------------------------------------------


def read_directory(path: Path, n_layers: int) -> Stored:
    """Read a directory of transcoders for a model of `n_layers` layers; the layout is told by what lies there.

    Raises:
        InputError: no known layout, a layer missing or there twice, a file missing or damaged.
    """
    if not path.is_dir():
        raise InputError(f"transcoder directory {path} does not exist")
    if (path / "config.yaml").is_file():
        return _circuit_tracer(path, n_layers)
    for pattern, read in (
        ("layer_*/cfg.json", _saelens),
        ("**/params.npz", _gemma_scope),
        ("**/params.safetensors", _gemma_scope_2),
        ("**/params_layer_*.safetensors", _gemma_scope_2_cross_layer),
    ):
        files = sorted(path.glob(pattern))
        if files:
            return read(_by_layer(path, files, n_layers))
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise InputError(
        f"{path} holds no transcoders in a known layout: expected config.yaml, layer_*/cfg.json or "
        f"layer_*/**/params.npz (or .safetensors), found {found}"
    )


def _by_layer(root: Path, files: Sequence[Path], n_layers: int) -> list[Path]:
    """One file per layer, the layer being the number after `layer_` in its path below `root`."""
    found: dict[int, Path] = {}
    for file in files:
        match = re.search(r"layer_(\d+)", file.relative_to(root).as_posix())
        if match is None:
            raise InputError(f"{file} names no layer: expected a directory layer_<number>")
        layer = int(match[1])
        if layer in found:
            raise InputError(f"{root} holds several transcoders of layer {layer}: {found[layer]} and {file}; keep one")
        found[layer] = file
    return _all_layers(root, found, n_layers)


def _all_layers(root: Path, found: Mapping[int, Path], n_layers: int) -> list[Path]:
    for layer in range(n_layers):
        if layer not in found:
            numbers = ", ".join(map(str, sorted(found))) or "none"
            raise InputError(
                f"{root} has no transcoder of layer {layer}: the model has {n_layers} layers, found are {numbers}"
            )
    return [found[layer] for layer in range(n_layers)]


def _circuit_tracer(path: Path, n_layers: int) -> Stored:
    config = _mapping(path / "config.yaml")
    kind = config.get("model_kind")
    read_hook, write_hook = (str(config.get(key)) for key in ("feature_input_hook", "feature_output_hook"))
    if kind == "transcoder_set":
        files, tensors = _per_layer_files(path, config, n_layers)
        kind = "per_layer"
    elif kind == "cross_layer_transcoder":
        files, tensors = _cross_layer_files(path, n_layers)
        kind = "cross_layer"
    else:
        expected = "transcoder_set or cross_layer_transcoder"
        raise InputError(f"{path / 'config.yaml'}: model_kind is {kind!r}, expected {expected}")
    # circuit-tracer writes k beside the weights of a TopK transcoder and then refuses to read it back.
    k = config.get("k") or next((int(layer["k"]) for layer in tensors if "k" in layer), None)
    tensors = [{key: value for key, value in layer.items() if key != "k"} for layer in tensors]
    return Stored(kind, tuple(tensors), tuple(files), read_hook, write_hook, config.get("activation"), k)


def _per_layer_files(
    path: Path, config: Mapping[str, Any], n_layers: int
) -> tuple[list[Path], list[dict[str, Tensor]]]:
    if config.get("transcoders"):
        files = [_resolve(path, str(entry)) for entry in config["transcoders"]]
        if len(files) != n_layers:
            raise InputError(f"{path / 'config.yaml'} lists {len(files)} transcoders; the model has {n_layers} layers")
    else:
        matches = {file: _LAYER_FILE.match(file.name) for file in path.glob("layer_*.*")}
        files = _all_layers(path, {int(match[1]): file for file, match in matches.items() if match}, n_layers)
    tensors = []
    for file in files:
        layer = _tensors(file)
        if "w_enc" in layer:
            layer = _from_gemma_scope_2(layer)
        elif file.suffix == ".npz":
            layer = _turned(layer, "W_enc")
        tensors.append({key.replace("activation_function.threshold", "threshold"): layer[key] for key in layer})
    return files, tensors


def _cross_layer_files(path: Path, n_layers: int) -> tuple[list[Path], list[dict[str, Tensor]]]:
    files, tensors = [], []
    for layer in range(n_layers):
        encoder, decoder = (path / f"{part}_{layer}.safetensors" for part in ("W_enc", "W_dec"))
        for file in (encoder, decoder):
            if not file.is_file():
                raise InputError(f"{path} has no {file.name}: the model has {n_layers} layers")
        merged = {**_tensors(encoder), **_tensors(decoder)}
        tensors.append(_without_padding({key.removesuffix(f"_{layer}"): value for key, value in merged.items()}))
        files.append(encoder)
    if (path / "skip.safetensors").is_file():
        skips = _tensors(path / "skip.safetensors").get("W_skip")
        if skips is None or skips.dim() != 3 or skips.shape[0] != n_layers:
            shape = None if skips is None else list(skips.shape)
            raise InputError(f"{path / 'skip.safetensors'}: W_skip is {shape}, expected [{n_layers}, d_model, d_model]")
        for layer, entry in enumerate(tensors):  # a cross-layer skip is stored the other way round: x @ W_skip[layer]
            entry["W_skip"] = skips[layer].T
    return files, tensors


PER_FEATURE = ("W_enc", "b_enc", "W_dec", "threshold")


def _padded(layers: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """All layers as wide as the widest, which circuit-tracer needs, by features that see nothing and so never fire."""
    width = max(len(layer["b_enc"]) for layer in layers)

    def pad(value: Tensor) -> Tensor:
        return torch.cat([value, value.new_zeros(width - len(value), *value.shape[1:])])

    return [{key: pad(value) if key in PER_FEATURE else value for key, value in layer.items()} for layer in layers]


def _without_padding(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layer without the features at its end that see nothing."""
    W_enc, b_enc = layer.get("W_enc"), layer.get("b_enc")
    if W_enc is None or b_enc is None or W_enc.dim() != 2 or b_enc.shape != W_enc.shape[:1]:
        return dict(layer)  # refused by name where shapes are checked
    sees = (W_enc != 0).any(1) | (b_enc != 0)
    count = int(sees.nonzero().max()) + 1 if sees.any() else len(sees)
    return {key: value[:count] if key in PER_FEATURE and value.dim() else value for key, value in layer.items()}


def _saelens(configs: Sequence[Path]) -> Stored:
    tensors, files, hooks = [], [], []
    for layer, file in enumerate(configs):
        config = _mapping(file)
        if not str(config.get("architecture")).endswith("transcoder"):
            raise InputError(f"{file}: architecture {config.get('architecture')!r} is no transcoder")
        if config.get("normalize_activations") not in (None, "none") or config.get("apply_b_dec_to_input"):
            raise InputError(f"{file}: normalize_activations and apply_b_dec_to_input are not supported")
        hooks.append(tuple(_saelens_hook(file, config, layer, key) for key in ("hook_name", "hook_name_out")))
        files.append(file.with_name("sae_weights.safetensors"))
        tensors.append(_turned(_tensors(files[-1]), "W_enc"))
    if len(set(hooks)) > 1:
        raise InputError(f"{configs[0].parent.parent}: layers read and write different hooks: {sorted(set(hooks))}")
    return Stored("per_layer", tuple(tensors), tuple(files), *hooks[0])


def _saelens_hook(file: Path, config: Mapping[str, Any], layer: int, key: str) -> str:
    """The hook's name within its block. Files of SAELens 5 name it at the top level, later ones in the metadata."""
    named = {**config, **(config.get("metadata") or {})}
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(named.get(key)))
    if match is None or int(match[1]) != layer:
        raise InputError(f"{file}: {key} {named.get(key)!r} is no hook of layer {layer}")
    # SAELens names `hook_mlp_in` for Gemma Scope 2, which is another tensor; the Hugging Face name beside it is right.
    source = str(named.get(key.replace("hook_name", "hf_hook_name")))
    return "ln2.hook_out" if source.endswith("pre_feedforward_layernorm.output") else match[2]


def _gemma_scope(files: Sequence[Path]) -> Stored:
    tensors = tuple(_turned(_tensors(file), "W_enc") for file in files)
    return Stored("per_layer", tensors, tuple(files), "ln2.hook_normalized", "hook_mlp_out")


def _gemma_scope_2(files: Sequence[Path]) -> Stored:
    for file in files:
        config = file.with_name("config.json")
        architecture = _mapping(config).get("architecture", "jump_relu") if config.is_file() else "jump_relu"
        if architecture != "jump_relu":
            raise InputError(f"{config}: architecture {architecture!r} is not supported; expected 'jump_relu'")
    tensors = tuple(_from_gemma_scope_2(_tensors(file)) for file in files)
    return Stored("per_layer", tensors, tuple(files), "ln2.hook_out", "hook_mlp_out")


def _gemma_scope_2_cross_layer(files: Sequence[Path]) -> Stored:
    """A decoder is stored as [feature, layer, d_model] with rows for all layers; those below the feature's own are unused."""
    config = files[0].with_name("config.json")
    named = str(_mapping(config).get("hf_hook_point_in") if config.is_file() else "pre_feedforward_layernorm.output")
    if not named.endswith("pre_feedforward_layernorm.output"):
        raise InputError(f"{config}: hf_hook_point_in {named!r} is not supported; expected the MLP's normed input")
    tensors = []
    for layer, file in enumerate(files):
        entry = _from_gemma_scope_2(_tensors(file))
        if "W_dec" in entry and entry["W_dec"].dim() == 3:
            entry["W_dec"] = entry["W_dec"][:, layer:]
        tensors.append(entry)
    return Stored("cross_layer", tuple(tensors), tuple(files), "ln2.hook_out", "hook_mlp_out")


def _from_gemma_scope_2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}  # the skip is [input, output]
    return _turned({names.get(key, key): value for key, value in tensors.items()}, "W_enc", "W_skip")


def _turned(tensors: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value.T if key in keys else value for key, value in tensors.items()}


def _tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or npz file."""
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


def _resolve(path: Path, entry: str) -> Path:
    """A file named in a config: a path (relative to the directory) or `hf://owner/repository/file?revision=...`.

    A Hub name is looked for in the directory and in the local Hub cache; nothing is fetched.
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


def _mapping(file: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no mapping of keys to values")
    return content


# Writing -------------------------------------------------------------------------------------------------------------

WRITTEN = (
    "config.yaml", "layer_*.safetensors", "W_enc_*.safetensors", "W_dec_*.safetensors", "skip.safetensors",
    "layer_*/cfg.json", "layer_*/sae_weights.safetensors",
)  # fmt: skip
"""Patterns of all files that `write_directory` writes; a folder is cleared of them before it holds another set."""


def write_directory(path: Path, stored: Stored, *, layout: str, model_name: str) -> None:
    """Write one of the layouts `saelens` (per layer, ReLU or JumpReLU) and `circuit-tracer` (all kinds).

    Every file is put in place whole, and the one that names the layout comes last.

    Raises:
        InputError: an unknown layout, or a cross-layer or TopK set in the SAELens layout, which has no such thing.
    """
    if layout == "circuit-tracer":
        _write_circuit_tracer(path, stored, model_name)
    elif layout != "saelens":
        raise InputError(f"unknown transcoder layout {layout!r}: expected 'saelens' or 'circuit-tracer'")
    elif stored.kind == "cross_layer" or stored.activation == "topk":
        raise InputError("the SAELens layout has no cross-layer and no TopK transcoder: use layout 'circuit-tracer'")
    else:
        for layer, tensors in enumerate(stored.tensors):
            folder = path / f"layer_{layer}"
            _write_tensors(folder / "sae_weights.safetensors", _turned(tensors, "W_enc"))
            config = _saelens_config(stored, layer, model_name)
            write_text(folder / "cfg.json", json.dumps(config, indent=1) + "\n")


def _saelens_config(stored: Stored, layer: int, model_name: str) -> dict[str, Any]:
    tensors = stored.tensors[layer]
    n_features, d_model = tensors["W_enc"].shape
    jump, skip = "jumprelu_" if "threshold" in tensors else "", "skip_" if "W_skip" in tensors else ""
    metadata = {
        # Without a version from 6.0 on, SAELens converts the file as an old one and then refuses it.
        "sae_lens_version": SAELENS_FORMAT, "sae_lens_training_version": None, "model_name": model_name,
        "hook_name": f"blocks.{layer}.{stored.read_hook}", "hook_name_out": f"blocks.{layer}.{stored.write_hook}",
        "prepend_bos": True, "model_from_pretrained_kwargs": {"fold_ln": False},
    }  # fmt: skip
    return {
        "architecture": f"{jump}{skip}transcoder", "d_in": d_model, "d_sae": n_features,
        "d_out": tensors["W_dec"].shape[-1], "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu", "apply_b_dec_to_input": False, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata,
    }  # fmt: skip


def _write_circuit_tracer(path: Path, stored: Stored, model_name: str) -> None:
    cross = stored.kind == "cross_layer"
    for layer, tensors in enumerate(_padded(stored.tensors) if cross else stored.tensors):
        if cross:
            encoder = {key: tensors[key] for key in ("W_enc", "b_enc", "b_dec", "threshold") if key in tensors}
            _write_tensors(path / f"W_enc_{layer}.safetensors", {f"{key}_{layer}": encoder[key] for key in encoder})
            _write_tensors(path / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": tensors["W_dec"]})
        else:
            renamed = {key.replace("threshold", "activation_function.threshold"): tensors[key] for key in tensors}
            _write_tensors(path / f"layer_{layer}.safetensors", renamed)
    if cross and any("W_skip" in tensors for tensors in stored.tensors):
        zero = stored.tensors[0]["b_dec"].new_zeros(2 * stored.tensors[0]["b_dec"].shape)
        skips = [tensors.get("W_skip", zero).T for tensors in stored.tensors]
        _write_tensors(path / "skip.safetensors", {"W_skip": torch.stack(skips)})
    config: dict[str, Any] = {
        "model_kind": "cross_layer_transcoder" if cross else "transcoder_set", "model_name": model_name,
        "feature_input_hook": stored.read_hook, "feature_output_hook": stored.write_hook,
    }  # fmt: skip
    if stored.activation != "jumprelu":  # told by the thresholds; the config knows relu and topk only
        config["activation"] = stored.activation
    if stored.activation == "topk":
        config["k"] = stored.k
    write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False))


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole(file) as partial:
        try:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, partial)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))  # a full disk, which has to be told as one
            if code is None:
                raise
            raise OSError(int(code[1]), str(error)) from None
