"""A damaged model directory is refused in one line that says what is wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from biology.config import InputError
from biology.model import load_model


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny("llama"), tmp_path / "model")


def refused(folder, *words):
    with pytest.raises(InputError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_things(folder):
    refused(folder / "nowhere", "does not exist")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "no model.safetensors")
    (folder / "config.json").unlink()
    refused(folder, "config.json")


@pytest.mark.parametrize("model_type", ["mamba", None])
def test_unknown_architecture(folder, model_type):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    refused(folder, repr(model_type), "gemma3_text")


def test_damaged_config(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "config.json")
    (folder / "config.json").write_text("[]")
    refused(folder, "config.json")


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_truncated_weights(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, "truncated")


def test_missing_shard(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    refused(folder, "part-1.safetensors is missing")


def test_wrong_tensors(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"

    def store(tensor):
        others = {key: value for key, value in tensors.items() if key != name}
        save_file(others if tensor is None else {**others, name: tensor}, file, metadata={"format": "pt"})

    store(None)
    refused(folder, name)
    store(torch.zeros(64, 31))
    refused(folder)
    store(torch.full((64, 32), torch.nan))
    refused(folder, name, "NaN")


def test_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer.json")
