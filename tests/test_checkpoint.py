"""A damaged model directory is refused in one line that says what is wrong, and nothing in one is passed over."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from biology.models.model import load_model
from biology.records import InputError, InputWarning


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
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": "part-1.safetensors"}})
    )
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


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantised_weights_are_refused_by_name_of_the_method(folder, method):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    refused(folder, f"quantised ({method})", "original checkpoint")


def test_weights_that_are_no_floats(folder):
    """transformers would take packed integers for weights."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, name, "stored as I8")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.up_proj.bias"], ["up_proj.bias", "attention_bias or mlp_bias"]),
        ([f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3, 8)], ["and 2 more", "says 3 layers", "of layer 7"]),
        (["score.weight"], ["score.weight", "another network"]),
    ],
)  # fmt: skip
def test_weights_that_the_network_has_no_place_for(folder, extra, words):
    """Biases without their flag used to be dropped without a word: another model was traced than the one that was stored."""
    tensors = load_file(folder / "model.safetensors")
    file = folder / "model.safetensors"
    save_file({**tensors, **{key: torch.ones(64) for key in extra}}, file, metadata={"format": "pt"})
    refused(folder, "no place for", *words)


def test_constants_that_older_libraries_stored_are_no_surplus(folder, tiny, tmp_path):
    gpt2 = shutil.copytree(tiny("gpt2"), tmp_path / "gpt2")
    stored = {
        folder: {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        gpt2: {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)},
    }  # fmt: skip
    for path, constants in stored.items():
        file = path / "model.safetensors"
        save_file({**load_file(file), **constants}, file, metadata={"format": "pt"})
        load_model(path)


def test_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    for part, chosen in enumerate((names[:9], names[9:])):
        save_file({key: tensors[key] for key in chosen}, folder / f"part-{part}.safetensors", metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    places = {key: f"part-{int(key in names[9:])}.safetensors" for key in names}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    refused(folder, "remove the one that is not meant")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.warns(InputWarning, match="weights in adapter_model.safetensors, pytorch_model.bin are not used"):
        load_model(folder)
    (folder / "adapter_model.safetensors").unlink()
    save_file({key: tensors[key] for key in names[8:]}, folder / "part-1.safetensors", metadata={"format": "pt"})
    refused(folder, names[8], "part-0.safetensors and in", "part-1.safetensors")
    index.write_text("{}")
    refused(folder, "has no metadata")


def test_keys_of_config_that_transformers_does_not_know_are_named(folder):
    config = json.loads((folder / "config.json").read_text())

    def store(**keys):
        (folder / "config.json").write_text(json.dumps(config | keys))

    inert = {"hidden_a": "silu", "rope_interleaved": False, "n_ctx": 64, "temperature": 0.7, "torch_dtype": "float32"}
    store(**inert)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        load_model(folder)
    store(**inert, final_logit_softcapping=30.0, logit_scale=0.5)
    with pytest.warns(InputWarning, match="LlamaConfig does not know final_logit_softcapping, logit_scale: not used"):
        load_model(folder)
