"""What a Hugging Face model directory holds: its architecture, network and tokenizer, checked before anything runs.

Nothing is fetched, unpickled or executed from the directory: safetensors only, local files only, no remote code.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from biology.config import InputError

TEXT_PART = {
    # A Gemma 3 from 4B up is stored with its image encoder. Only the language model is read, under the names it has alone;
    # the first name is that of published checkpoints, the second what newer libraries write.
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}


def architecture(path: Path, supported: Sequence[str]) -> str:
    """The `model_type` of the directory's config.json.

    Raises:
        InputError: the directory or its config.json is missing or damaged, or the type is not a supported one.
    """
    if not path.is_dir():
        raise InputError(f"model directory {path} does not exist")
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"model directory {path} has no config.json: is it a Hugging Face model directory?")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(f"{config} is not a JSON object: {error}") from None
    if kind not in supported:
        raise InputError(f"{config}: model_type {kind!r} is not supported; supported are {', '.join(supported)}")
    return kind


def network(path: Path, dtype: torch.dtype) -> Any:
    """The Hugging Face network with eager attention, every weight present, of the right shape and finite.

    Raises:
        InputError: a weight file is missing or truncated, or a weight is missing, of another shape, or NaN.
    """
    import transformers
    from safetensors import SafetensorError, safe_open

    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if single.is_file():
        shards = [single]
    elif index.is_file():
        shards = sorted({path / shard for shard in json.loads(index.read_text())["weight_map"].values()})
    else:
        raise InputError(f"model directory {path} has no model.safetensors: put the weights there (safetensors only)")
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"weights file {shard} is missing")
        try:
            with safe_open(shard, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights file {shard} is truncated or damaged: {error}") from None
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            text = config.get_text_config()
            loaded, report = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                path, config=text, key_mapping=None if text is config else TEXT_PART, dtype=dtype,
                attn_implementation="eager", local_files_only=True, trust_remote_code=False, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cannot load the model in {path}: {str(error).splitlines()[0]}") from None
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        names = ", ".join([*missing, *(str(key[0]) for key in report["mismatched_keys"])][:3])
        raise InputError(f"weights in {path} do not fit its config.json: missing or of another shape: {names}")
    for key, parameter in loaded.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"weights in {path}: {key} holds NaN or infinite values")
    return loaded.eval()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bar and no warnings while a model loads; our own checks speak instead."""
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


def tokenizer(path: Path) -> Any:
    """The directory's tokenizer, or None where it has none.

    Raises:
        InputError: the tokenizer's files are damaged.
    """
    import transformers

    file = path / "tokenizer.json"
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        return None
    with _quiet(transformers):
        try:
            return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library raises bare Exceptions for damaged files
            if not file.is_file():
                raise InputError(f"cannot read the tokenizer in {path}: {str(error).splitlines()[0]}") from None
        try:
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
        except Exception as error:
            raise InputError(f"{file} is damaged: {str(error).splitlines()[0]}") from None
