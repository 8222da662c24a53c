"""Every layout of transcoder directories is read as it was meant, or refused in one line."""

import json
import resource
import sys
from dataclasses import replace

import numpy
import pytest
import torch
import yaml
from conftest import random_transcoders
from safetensors.torch import load_file, save_file

from biology.artefacts import FULL
from biology.config import InputError
from biology.transcoders import Transcoder, encode, load_transcoders, save_transcoders


def same(one, other):
    for before, after in zip(one.layers, other.layers, strict=True):
        for name, value in vars(before).items():
            again = getattr(after, name)
            assert (value is None) == (again is None), name
            assert value is None or value.equal(again), name
    traits = ("kind", "activation", "k", "read_hook", "write_hook")
    assert [getattr(one, name) for name in traits] == [getattr(other, name) for name in traits]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("layout", ["saelens", "circuit-tracer"])
def test_round_trip(tiny_model, tmp_path, layout, kind, activation, skip):
    model = tiny_model("llama")
    transcoders = random_transcoders(model, kind, activation, skip)
    if layout == "saelens" and (kind == "cross_layer" or activation == "topk"):
        with pytest.raises(InputError, match="no cross-layer and no TopK"):
            save_transcoders(tmp_path, transcoders, layout=layout)
        return
    save_transcoders(tmp_path, transcoders, layout=layout, model_name="tiny")
    same(transcoders, load_transcoders(tmp_path, model))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") or path.name.endswith(".partial")]


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_layers_of_unequal_width_are_padded_for_circuit_tracer(tiny_model, tmp_path, activation):
    """It reads all layers into one tensor. What was added never fires, and is dropped when we read."""
    model = tiny_model("llama")
    wide = random_transcoders(model, "cross_layer", activation)
    uneven = []
    for layer, weights in enumerate(wide.layers):
        count = len(weights.b_enc) - 5 * layer
        threshold = None if weights.threshold is None else weights.threshold[:count]
        uneven.append(
            Transcoder(weights.W_enc[:count], weights.b_enc[:count], weights.W_dec[:count], weights.b_dec, threshold)
        )
    transcoders = replace(wide, layers=tuple(uneven))
    save_transcoders(tmp_path, transcoders, layout="circuit-tracer", model_name="tiny")
    same(transcoders, load_transcoders(tmp_path, model))
    for layer in range(model.n_layers):
        stored = load_file(tmp_path / f"W_enc_{layer}.safetensors") | load_file(tmp_path / f"W_dec_{layer}.safetensors")
        assert {len(value) for key, value in stored.items() if "b_dec" not in key} == {wide.n_features[0]}
        assert not stored[f"W_dec_{layer}"][len(uneven[layer].b_enc) :].any()


def gemma_scope(folder, transcoders):
    for layer, weights in enumerate(transcoders.layers):
        place = folder / f"layer_{layer}/width_48/average_l0_{10 + layer}"
        place.mkdir(parents=True)
        tensors = {"W_enc": weights.W_enc.T, "W_dec": weights.W_dec[:, 0], "b_enc": weights.b_enc}
        tensors |= {"b_dec": weights.b_dec, "threshold": weights.threshold}
        numpy.savez(place / "params.npz", **{key: value.numpy() for key, value in tensors.items()})


def test_gemma_scope(tiny_model, tmp_path):
    model = tiny_model("gemma2")
    transcoders = random_transcoders(model, activation="jumprelu", read_hook="ln2.hook_normalized")
    gemma_scope(tmp_path, transcoders)
    same(transcoders, load_transcoders(tmp_path, model))
    (tmp_path / "layer_1/width_16").mkdir()
    numpy.savez(tmp_path / "layer_1/width_16/params.npz", W_enc=numpy.zeros((2, 2)))
    with pytest.raises(InputError, match="several transcoders of layer 1"):
        load_transcoders(tmp_path, model)


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2(tiny_model, tmp_path, affine):
    model = tiny_model("gemma3")
    transcoders = random_transcoders(model, activation="jumprelu", skip=affine, read_hook="ln2.hook_out")
    for layer, weights in enumerate(transcoders.layers):
        place = tmp_path / f"layer_{layer}_width_48_l0_small{'_affine' if affine else ''}"
        place.mkdir()
        tensors = {"w_enc": weights.W_enc.T, "w_dec": weights.W_dec[:, 0], "b_enc": weights.b_enc}
        tensors |= {"b_dec": weights.b_dec, "threshold": weights.threshold}
        tensors |= {"affine_skip_connection": weights.W_skip.T} if affine else {}
        save_file({key: value.contiguous() for key, value in tensors.items()}, place / "params.safetensors")
        (place / "config.json").write_text(json.dumps({"architecture": "jump_relu", "affine_connection": affine}))
    same(transcoders, load_transcoders(tmp_path, model))
    (place / "config.json").write_text(json.dumps({"architecture": "gated"}))
    with pytest.raises(InputError, match="gated"):
        load_transcoders(tmp_path, model)


def test_circuit_tracer_set_may_list_files_of_other_formats(tiny_model, tmp_path, monkeypatch):
    model = tiny_model("gemma2")
    transcoders = random_transcoders(model, activation="jumprelu", read_hook="ln2.hook_normalized")
    gemma_scope(tmp_path / "mirror", transcoders)
    files = [f"mirror/layer_{layer}/width_48/average_l0_{10 + layer}/params.npz" for layer in range(3)]
    files[1] = f"hf://owner/mirror/{files[1].removeprefix('mirror/')}?revision=main"
    config = {"model_kind": "transcoder_set", "transcoders": files, "feature_input_hook": "ln2.hook_normalized"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "feature_output_hook": "hook_mlp_out"}))
    monkeypatch.chdir(tmp_path.parent)
    same(transcoders, load_transcoders(tmp_path.name, model))  # a relative directory too
    config["transcoders"] = [*files[:2], "hf://owner/elsewhere/params.npz"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "feature_output_hook": "hook_mlp_out"}))
    with pytest.raises(InputError, match="hf download owner/elsewhere params.npz"):
        load_transcoders(tmp_path, model)


def test_topk_config_is_obeyed(tiny_model, tmp_path):
    """circuit-tracer reads a local `activation: topk` as ReLU, and cannot read back the k it writes."""
    model = tiny_model("gpt2")
    save_transcoders(tmp_path, random_transcoders(model, activation="topk", k=3, b_enc=0.5), layout="circuit-tracer")
    x = torch.randn(20, 32)
    assert (encode(load_transcoders(tmp_path, model), 0, x) > 0).sum(-1).max() == 3
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config.pop("k") == 3
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="positive integer k"):
        load_transcoders(tmp_path, model)
    for file in tmp_path.glob("layer_*.safetensors"):
        save_file({**load_file(file), "k": torch.tensor(3)}, file)
    assert load_transcoders(tmp_path, model).k == 3


def test_cross_layer_skip_is_stored_the_other_way_round(tiny_model, tmp_path):
    transcoders = random_transcoders(tiny_model("llama"), "cross_layer", skip=True)
    save_transcoders(tmp_path, transcoders, layout="circuit-tracer")
    skips = load_file(tmp_path / "skip.safetensors")["W_skip"]
    assert skips[2].equal(transcoders.layers[2].W_skip.T)
    assert load_file(tmp_path / "W_dec_1.safetensors")["W_dec_1"].shape == (48, 2, 32)


def test_saelens_names_the_wrong_hook_for_gemma_scope_2(tiny_model, tmp_path):
    model = tiny_model("gemma3")
    save_transcoders(tmp_path, random_transcoders(model, read_hook="ln2.hook_out"))

    def name(hook, **more):
        for layer in range(3):
            file = tmp_path / f"layer_{layer}/cfg.json"
            config = json.loads(file.read_text())
            config["metadata"] |= {"hook_name": f"blocks.{layer}.{hook}", **more}
            file.write_text(json.dumps(config))

    name("hook_mlp_in", hf_hook_name="model.layers.0.pre_feedforward_layernorm.output")
    assert load_transcoders(tmp_path, model).read_hook == "ln2.hook_out"
    name("hook_mlp_in", hf_hook_name=None)
    with pytest.raises(InputError, match="'hook_mlp_in'.*not supported"):
        load_transcoders(tmp_path, model)
    name("ln2.hook_out")
    (tmp_path / "layer_1").rename(tmp_path / "layer_3")
    with pytest.raises(InputError, match="no transcoder of layer 1.*3 layers, found are 0, 2, 3"):
        load_transcoders(tmp_path, model)


def change(file, **tensors):
    kept = {key: value for key, value in {**load_file(file), **tensors}.items() if value is not None}
    save_file(kept, file)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"W_dec": torch.zeros(47, 32)}, r"layer 1.*W_dec is \[47, 1, 32\], expected \[48, 1, 32\]"),
        (
            {"W_enc": torch.zeros(48, 40), "b_dec": torch.zeros(40)},
            r"layer 1.*W_enc is \[48, 40\], expected \[48, 32\]",
        ),
        ({"b_dec": None}, "layer 1.*has no b_dec"),
        ({"b_pre": torch.zeros(32)}, "layer 1.*unknown tensors b_pre"),
        ({"W_enc": torch.full((48, 32), torch.nan)}, "layer 1.*W_enc holds NaN"),
        ({"activation_function.threshold": torch.zeros(48)}, "only some layers have a threshold"),
    ],
)
def test_wrong_tensors(tiny_model, tmp_path, tensors, message):
    model = tiny_model("llama")
    save_transcoders(tmp_path, random_transcoders(model), layout="circuit-tracer")
    change(tmp_path / "layer_1.safetensors", **tensors)
    with pytest.raises(InputError, match=message) as caught:
        load_transcoders(tmp_path, model)
    assert "\n" not in str(caught.value)


def test_a_full_disk_says_so(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would be half-written
    transcoders = random_transcoders(tiny_model("llama"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_transcoders(tmp_path, transcoders, layout="circuit-tracer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno in FULL and not list(tmp_path.iterdir())


def test_damaged_and_missing_files(tiny_model, tmp_path):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="does not exist"):
        load_transcoders(tmp_path / "nowhere", model)
    with pytest.raises(InputError, match="no known layout|known layout"):
        load_transcoders(tmp_path, model)
    save_transcoders(tmp_path, random_transcoders(model, "cross_layer"), layout="circuit-tracer")
    file = tmp_path / "W_dec_2.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="W_dec_2.safetensors is truncated"):
        load_transcoders(tmp_path, model)
    file.unlink()
    with pytest.raises(InputError, match="no W_dec_2.safetensors"):
        load_transcoders(tmp_path, model)
    (tmp_path / "config.yaml").write_text("model_kind: something")
    with pytest.raises(InputError, match="'something'"):
        load_transcoders(tmp_path, model)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match="cannot read"):
        load_transcoders(tmp_path, model)


def test_nothing_is_unpickled(tiny_model, tmp_path):
    place = tmp_path / "layer_0/width_1/average_l0_1"
    place.mkdir(parents=True)
    numpy.savez(place / "params.npz", W_enc=numpy.array([{"a": 1}], dtype=object))
    for layer in (1, 2):
        (tmp_path / f"layer_{layer}").mkdir()
        (tmp_path / f"layer_{layer}/params.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="truncated or damaged"):
        load_transcoders(tmp_path, tiny_model("gemma2"))
