"""Converts GGUF files to Hugging Face directories. Quantised weights are dequantised once; everything else reads the
result.

A quantised checkpoint computes with its dequantised weights. They are stored in float32, without further rounding. The
directory records its source (`SOURCE`): the file's hash, and the number of tensors of each type.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from biology import artefacts
from biology.records import InputError

SOURCE = "source.json"
ARCHITECTURES = ("llama", "qwen3", "gemma2", "gemma3")
"""Supported architectures, by GGUF's `general.architecture`."""
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer*",
    "chat_template.jinja",
    "special_tokens_map.json",
    SOURCE,
)


def convert(file: Path, out: Path) -> None:
    """Writes the model of a GGUF file to a folder that `load_model` reads. Takes its float32 size in memory and on
    disk.

    Raises:
        InputError: the file is missing, damaged or of an unsupported architecture, or the library `gguf` is not installed.
    """
    kinds = tensor_types(file)
    import torch
    import transformers

    from biology.folders import replaced
    from biology.models.checkpoint import quiet

    with quiet(transformers):
        try:
            read = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            )
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
            raise InputError(f"{file}: transformers cannot read it: {str(error).splitlines()[0]}") from None
        config = read.config
        for key in ("quantization_config", "_pre_quantization_dtype"):  # the weights are no longer quantised
            if hasattr(config, key):
                delattr(config, key)
        plain = type(read)(config)
        plain.load_state_dict(read.state_dict())
        with replaced(out, FILES, "convert") as new:
            plain.save_pretrained(new)
            tokenizer.save_pretrained(new)
            source = {"file": file.name, "sha256": artefacts.file_hash(file), "tensors": dict(sorted(kinds.items()))}
            artefacts.write_json(new / SOURCE, source)


def tensor_types(file: Path) -> Counter[str]:
    """The number of tensors of each type in a GGUF file, from its header. Raises `InputError` as `convert` does."""
    try:
        import gguf
    except ImportError:
        raise InputError(f"{file}: reading GGUF files takes the library gguf: pip install gguf") from None
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        reader = gguf.GGUFReader(file)
        field = reader.get_field("general.architecture")
        architecture = "" if field is None else str(field.contents())
        kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    except Exception as error:  # the library raises whatever error its reader meets
        raise InputError(
            f"{file}: this is not a GGUF file, or it is truncated ({str(error).splitlines()[0]})"
        ) from None
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{file}: architecture {architecture!r} is not supported; supported are {', '.join(ARCHITECTURES)}"
        )
    return kinds


def source(folder: Path) -> dict[str, Any] | None:
    """The record of the GGUF file from which a directory was made, or None."""
    file = folder / SOURCE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def told(record: dict[str, Any]) -> str:
    """A phrase for pages about quantised weights: `dequantised from x.gguf (210 Q4_1, 61 F32)`."""
    kinds = sorted(record["tensors"].items(), key=lambda kind: (-kind[1], kind[0]))
    return f"dequantised from {record['file']} ({', '.join(f'{count} {kind}' for kind, count in kinds)})"
