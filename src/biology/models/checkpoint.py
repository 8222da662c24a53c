"""Reads a Hugging Face model directory: its architecture and network, checked before anything runs.

Nothing is fetched, unpickled or executed from the directory: safetensors only, local files only, no remote code.
Nothing is silently ignored: weights for which the network has no place are refused; unused files and keys are named in
a warning.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from biology.models.mapped_weights import finite
from biology.records import InputError, InputWarning

TEXT_PART = {
    # A Gemma 3 from 4B up is stored with its image encoder. Only the language model is read, under the names it has alone;
    # the first name is that of published checkpoints, the second what newer libraries write.
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
IMAGE_PART = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
CONSTANTS = re.compile(r".*(\.attn\.(masked_)?bias|\.rotary_emb\.inv_freq)")
"""Causal masks and rotary frequencies, which older libraries stored with the weights. They are computed from
config.json."""
FLOATS = ("F64", "F32", "F16", "BF16")
STORED = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth")
"""Files of weights, those included that are pickled and therefore never read."""
INERT_KEYS = frozenset({"n_ctx", "task_specific_params", "torchscript", "transformers_version", "unsloth_version"})
"""Keys of config.json that transformers has dropped and that never changed its output."""


def architecture(path: Path, supported: Sequence[str]) -> str:
    """The `model_type` of the directory's config.json.

    Raises:
        InputError: the directory or its config.json is missing or damaged, the type is not supported, or the weights
            are quantised.
    """
    if path.suffix == ".gguf":
        raise InputError(
            f"{path} is a GGUF file: `biology convert {path} --out DIR` makes a directory of it; name that one"
        )
    if not path.is_dir():
        raise InputError(f"model directory {path} does not exist")
    file = path / "config.json"
    if not file.is_file():
        raise InputError(f"model directory {path} has no config.json: is it a Hugging Face model directory?")
    config = _json(file)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in supported:
        raise InputError(f"{file}: model_type {kind!r} is not supported; supported are {', '.join(supported)}")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        said = part.get("quantization_config") or part.get("compression_config")
        if said:
            method = said.get("quant_method", "an unnamed method") if isinstance(said, dict) else said
            raise InputError(
                f"{file}: the weights are quantised ({method}), but graphs need them as they were trained: take the original "
                "checkpoint, or write one with transformers (model.dequantize(), then model.save_pretrained(DIR))"
            )
    return kind


def network(path: Path, dtype: torch.dtype) -> Any:
    """The Hugging Face network with eager attention. Every weight is present, finite and of the right shape, and none
    is left over.

    Raises:
        InputError: a weight file is missing, damaged or duplicated; a weight is missing, of another shape, not a float, or
            NaN; or the network has no place for a stored weight.
    """
    import transformers

    shards = _shards(path)
    _check_tensors(path, shards)
    with quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            text = config.get_text_config()
            loaded, report = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                path, config=text, key_mapping=None if text is config else TEXT_PART, dtype=dtype,
                attn_implementation="eager", local_files_only=True, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, ImportError) as error:
            raise InputError(f"cannot load the model in {path}: {str(error).splitlines()[0]}") from None
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        names = ", ".join([*missing, *(str(key[0]) for key in report["mismatched_keys"])][:3])
        raise InputError(f"weights in {path} do not fit its config.json: missing or of another shape: {names}")
    aside = [CONSTANTS] if text is config else [CONSTANTS, IMAGE_PART]
    surplus = sorted(key for key in report["unexpected_keys"] if not any(part.match(key) for part in aside))
    if surplus:
        raise InputError(_no_place(path, surplus, text))
    _name_unread(path, shards, text)
    for key, parameter in loaded.named_parameters():
        if not finite(parameter.data):
            raise InputError(f"weights in {path}: {key} holds NaN or infinite values")
    return loaded.eval()


def precision(path: Path) -> torch.dtype:
    """What most of the weights of a directory are stored in.

    Raises:
        InputError: a weight file is missing or damaged.
    """
    kinds = _check_tensors(path, _shards(path))
    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[
        max(FLOATS, key=kinds.count)
    ]


def _shards(path: Path) -> list[Path]:
    """The weight files: a single one, or those named by the index."""
    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if single.is_file() and index.is_file():
        raise InputError(f"{path} holds {single.name} and {index.name}: remove the one that is not meant")
    if single.is_file():
        return [single]
    if not index.is_file():
        raise InputError(f"model directory {path} has no model.safetensors: put the weights there (safetensors only)")
    said = _json(index)
    for key in ("metadata", "weight_map"):
        if not isinstance(said.get(key), dict):
            raise InputError(f"{index} has no {key}, which transformers asks for: fetch or write it again")
    return sorted({path / str(shard) for shard in said["weight_map"].values()})


def _check_tensors(path: Path, shards: Sequence[Path]) -> list[str]:
    """Checks the headers of the weight files: files complete, each weight stored once, all weights floats. Returns the stored
    type of each."""
    from safetensors import SafetensorError, safe_open

    home: dict[str, Path] = {}
    found: list[str] = []
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"weights file {shard} is missing")
        try:
            with safe_open(shard, framework="pt") as stored:
                kinds = {key: stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights file {shard} is truncated or damaged: {error}") from None
        for key, kind in kinds.items():
            if key in home:
                raise InputError(f"weight {key} is in {home[key]} and in {shard}: remove the file that is not meant")
            if kind not in FLOATS and not CONSTANTS.match(key):
                raise InputError(f"weights in {path}: {key} is stored as {kind}, which is not a float: take a checkpoint that is not quantised")  # fmt: skip
            home[key] = shard
        found += kinds.values()
    return found


def _no_place(path: Path, surplus: Sequence[str], config: Any) -> str:
    """The reason why weights are left over, guessed from their names."""
    layers = [int(found[1]) for key in surplus if (found := re.search(r"\b(?:layers|h)\.(\d+)\.", key))]
    hint = "it names another network"
    if layers and max(layers) >= config.num_hidden_layers:
        hint = f"it says {config.num_hidden_layers} layers, and there are weights of layer {max(layers)}"
    elif all(key.endswith(".bias") for key in surplus):
        hint = "biases need a key such as attention_bias or mlp_bias to be true"
    more = f" and {len(surplus) - 3} more" if len(surplus) > 3 else ""
    return (
        f"weights in {path} do not fit its config.json, which has no place for {', '.join(surplus[:3])}{more}: {hint}; mend "
        "config.json, or remove what does not belong to the language model"
    )


def _name_unread(path: Path, shards: Sequence[Path], config: Any) -> None:
    """Warns of weight files that the index does not name or that are pickled, and of keys of config.json that transformers does
    not know."""
    stored = {file for form in STORED for file in path.glob(form)}
    files = [file.name for file in sorted(stored) if file not in shards]
    if files:
        warnings.warn(f"{path}: weights in {', '.join(files)} are not used", InputWarning, stacklevel=4)
    said = _json(path / "config.json")
    keys = unknown_keys(said if "text_config" not in said else said["text_config"], config)
    if keys:
        kind = type(config).__name__
        message = f"{path / 'config.json'}: transformers' {kind} does not know {', '.join(keys)}: not used"
        warnings.warn(message, InputWarning, stacklevel=4)


def unknown_keys(said: Mapping[str, Any], config: Any) -> list[str]:
    """Keys that transformers stored in a config without knowing them. Not counted: keys that ask for nothing, and keys
    that repeat one of a longer name (`hidden_act` beside Gemma's `hidden_activation`)."""
    known = {field.name for field in dataclasses.fields(config)}

    def repeated(key: str) -> bool:
        return any(name.startswith(key) and getattr(config, name) == said[key] for name in known)

    stored = [key for key in said if key in vars(config) and key not in known | INERT_KEYS and not key.startswith("_")]
    return [
        key
        for key in stored
        if key != "model_type" and said[key] not in (None, False, "", [], {}) and not repeated(key)
    ]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a JSON object: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object: it holds a {type(content).__name__}")
    return content


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Suppresses the progress bar and warnings while a model loads; our own checks report instead."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
