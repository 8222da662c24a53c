"""Transcoders in SAELens's layout: layer_0/{cfg.json, sae_weights.safetensors} ...

Per layer, ReLU or JumpReLU (clipping negative values), with or without a skip connection. cfg.json has more settings
than are supported here; one that would change the numbers is refused.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from biology.artefacts import write_tensors, write_text
from biology.records import InputError, InputWarning
from biology.transcoders.stored import Stored, name_unread, read_mapping, read_tensors, transposed

FORMAT = "6.54.12"
"""Version of SAELens whose layout is written."""
KEYS = frozenset(
    # Read here, or about training and without effect on the computation.
    "architecture metadata d_in d_sae d_out hook_name hook_name_out hf_hook_name hf_hook_name_out model_name prepend_bos "
    "model_from_pretrained_kwargs dtype device hook_layer hook_layer_out model_class_name sae_lens_version "
    "sae_lens_training_version dataset_path dataset_trust_remote_code context_size seqpos_slice neuronpedia_id "
    "exclude_special_tokens sequence_separator_token disable_concat_sequences".split()
)
GAIN_INSIDE = ("ln2.hook_out", "mlp.hook_in")
"""Hooks whose tensor lacks the norm's gain after the gain is folded into the following weights."""


def read_saelens(configs: Sequence[Path]) -> Stored:
    """Reads a set. `configs` are the cfg.json of all layers in order.

    Raises:
        InputError: a config is not a transcoder's, does not fit its weights or its layer, or asks for something unsupported;
            or layers read and write at different hooks.
    """
    tensors, files, hooks, names = [], [], [], []
    for layer, file in enumerate(configs):
        config = read_mapping(file)
        named = {**config, **(config.get("metadata") or {})}
        hooks.append(tuple(_hook(file, named, layer, key) for key in ("hook_name", "hook_name_out")))
        files.append(file.with_name("sae_weights.safetensors"))
        tensors.append(transposed(read_tensors(files[-1]), "W_enc"))
        _check(file, named, hooks[-1][0], tensors[-1])
        names.append(str(named.get("model_name") or ""))
    root = configs[0].parent.parent
    if len(set(hooks)) > 1:
        raise InputError(f"{root}: layers read and write different hooks: {sorted(set(hooks))}")
    if len(set(names)) > 1:
        raise InputError(f"{root}: layers are of different models: {', '.join(sorted(set(names)))}")
    return Stored("per_layer", tuple(tensors), tuple(files), *hooks[0], model_name=names[0])


def _hook(file: Path, named: Mapping[str, Any], layer: int, key: str) -> str:
    """The hook's name within its block. Files of SAELens 5 name it at the top level, later ones in the metadata."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(named.get(key)))
    if match is None or int(match[1]) != layer:
        raise InputError(f"{file}: {key} {named.get(key)!r} is not a hook of layer {layer}")
    # For Gemma Scope 2, SAELens names `hook_mlp_in`, a different tensor; the Hugging Face name beside it is right.
    source = str(named.get(key.replace("hook_name", "hf_hook_name")))
    return "ln2.hook_out" if source.endswith("pre_feedforward_layernorm.output") else match[2]


def _check(file: Path, named: Mapping[str, Any], read_hook: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses a config that does not fit its weights, or asks for something unsupported."""
    parts = ("jumprelu_" if "threshold" in tensors else "") + ("skip_" if "W_skip" in tensors else "")
    said = str(named.get("architecture"))
    if not said.endswith("transcoder"):
        raise InputError(f"{file}: architecture {said!r} is not a transcoder")
    if said != f"{parts}transcoder":
        raise InputError(f"{file}: architecture {said!r} does not fit weights that look like {parts}transcoder")
    for key, weight, axis in (("d_in", "W_enc", 1), ("d_sae", "W_enc", 0), ("d_out", "W_dec", 1)):
        size = tensors[weight].shape[axis] if weight in tensors and tensors[weight].dim() == 2 else None
        if size is not None and named.get(key, size) != size:
            raise InputError(f"{file}: {key} is {named[key]}, and its weights have {size}")
    processed = named.get("model_from_pretrained_kwargs") or {}
    if processed.get("fold_ln") and read_hook in GAIN_INSIDE:
        raise InputError(
            f"{file}: fold_ln is true: the model's {read_hook} includes the norm's gain, these weights do not"
        )
    if processed.get("center_writing_weights"):
        raise InputError(f"{file}: center_writing_weights is true: these were trained on a model with changed weights")
    if named.get("prepend_bos") is False:
        warnings.warn(
            f"{file}: trained on prompts without BOS (prepend_bos), but ours begin with it", InputWarning, stacklevel=4
        )
    name_unread(file, named, KEYS)


def write_saelens(path: Path, stored: Stored, model_name: str) -> None:
    """Writes one folder for each layer.

    Raises:
        InputError: the set is cross-layer, TopK, or has active features that are negative.
    """
    if stored.kind == "cross_layer" or stored.activation == "topk" or stored.signed:
        raise InputError(
            "SAELens's layout cannot hold cross-layer or TopK transcoders, or negative activations: use layout 'circuit-tracer'"
        )
    for layer, tensors in enumerate(stored.tensors):
        folder = path / f"layer_{layer}"
        write_tensors(folder / "sae_weights.safetensors", transposed(tensors, "W_enc"))
        write_text(folder / "cfg.json", json.dumps(_config(stored, layer, model_name), indent=1) + "\n")


def _config(stored: Stored, layer: int, model_name: str) -> dict[str, Any]:
    tensors = stored.tensors[layer]
    n_features, d_model = tensors["W_enc"].shape
    jump, skip = "jumprelu_" if "threshold" in tensors else "", "skip_" if "W_skip" in tensors else ""
    metadata = {
        # Without a version from 6.0 on, SAELens converts the file as an old one and then refuses it.
        "sae_lens_version": FORMAT, "sae_lens_training_version": None, "model_name": model_name,
        "hook_name": f"blocks.{layer}.{stored.read_hook}", "hook_name_out": f"blocks.{layer}.{stored.write_hook}",
        "prepend_bos": True, "model_from_pretrained_kwargs": {"fold_ln": False},
    }  # fmt: skip
    return {
        "architecture": f"{jump}{skip}transcoder", "d_in": d_model, "d_sae": n_features,
        "d_out": tensors["W_dec"].shape[-1], "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu", "apply_b_dec_to_input": False, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata,
    }  # fmt: skip
