"""Every layout of transcoder directories is read as it was meant, or refused in one line."""

import json
import resource
import shutil
import sys
import warnings
from dataclasses import replace

import miniatures
import numpy
import pytest
import torch
import yaml
from conftest import random_transcoders
from safetensors.torch import load_file, save_file

from biology.artefacts import FULL
from biology.records import InputError, InputWarning
from biology.transcoders.stored import by_layer
from biology.transcoders.transcoder_files import load_transcoders, save_transcoders
from biology.transcoders.transcoder_set import Transcoder, encode


def same(one, other):
    for before, after in zip(one.layers, other.layers, strict=True):
        for name, value in vars(before).items():
            again = getattr(after, name)
            assert (value is None) == (again is None), name
            assert value is None or value.equal(again), name
    traits = ("kind", "activation", "k", "signed", "read_hook", "write_hook")
    assert [getattr(one, name) for name in traits] == [getattr(other, name) for name in traits]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("layout", ["saelens", "circuit-tracer"])
def test_round_trip(tiny_model, tmp_path, layout, kind, activation, skip):
    model = tiny_model("llama")
    transcoders = random_transcoders(model, kind, activation, skip)
    if layout == "saelens" and (kind == "cross_layer" or activation == "topk"):
        with pytest.raises(InputError, match="cannot hold cross-layer or TopK"):
            save_transcoders(tmp_path, transcoders, layout=layout)
        return
    save_transcoders(tmp_path, transcoders, layout=layout)
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
    save_transcoders(tmp_path, transcoders, layout="circuit-tracer")
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


def test_the_layout_decides_whether_what_is_active_may_be_negative(tiny_model, tmp_path):
    """circuit-tracer multiplies by a gate: of the k largest, or of those above a threshold. SAELens and Gemma Scope clip."""
    model, x = tiny_model("gemma2"), torch.randn(20, 32)
    few = random_transcoders(model, activation="topk", k=20, b_enc=-1.0)
    save_transcoders(tmp_path / "topk", few, layout="circuit-tracer")
    pre = torch.nn.functional.linear(x, few.layers[0].W_enc, few.layers[0].b_enc)
    gate = torch.zeros_like(pre).scatter_(-1, pre.topk(20, dim=-1).indices, 1)
    active = encode(load_transcoders(tmp_path / "topk", model), 0, x)
    assert active.equal(pre * gate) and (active < 0).any() and ((active != 0).sum(-1) == 20).all()
    with pytest.raises(InputError, match="keeps negative activations, which this set clips"):
        save_transcoders(tmp_path, replace(few, signed=False), layout="circuit-tracer")

    low = random_transcoders(model, activation="jumprelu", read_hook="ln2.hook_normalized")
    low = replace(low, layers=tuple(replace(layer, threshold=layer.threshold - 0.5) for layer in low.layers))
    pre, threshold = torch.nn.functional.linear(x, low.layers[0].W_enc, low.layers[0].b_enc), low.layers[0].threshold
    gemma_scope(tmp_path / "gemma", low)
    clipped = load_transcoders(tmp_path / "gemma", model)
    assert not clipped.signed and encode(clipped, 0, x).equal(pre.relu() * (pre > threshold))
    with pytest.raises(InputError, match="keeps negative activations, which this set clips"):
        save_transcoders(tmp_path, low, layout="circuit-tracer")
    save_transcoders(tmp_path / "tracer", replace(low, signed=True), layout="circuit-tracer")
    signed = load_transcoders(tmp_path / "tracer", model)
    assert signed.signed and encode(signed, 0, x).equal(pre * (pre > threshold)) and (encode(signed, 0, x) < 0).any()
    with pytest.raises(InputError, match="or negative activations"):
        save_transcoders(tmp_path, signed)


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


def rewritten(file, **keys):
    """A config, the keys of its metadata included, with other values."""
    config = json.loads(file.read_text()) if file.suffix == ".json" else yaml.safe_load(file.read_text())
    inner = config.get("metadata", {})
    inner |= {key: value for key, value in keys.items() if key in inner}
    text = config | {key: value for key, value in keys.items() if key not in inner}
    file.write_text(json.dumps(text) if file.suffix == ".json" else yaml.safe_dump(text))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 5}}, "activation_fn: 'topk' is not supported"),
        ({"activation_fn_kwargs": {"k": 5}}, "activation_fn_kwargs: {'k': 5} is not supported"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations: 'layer_norm' is not supported"),
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input: True is not supported"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor: True"),
        ({"hook_head_index": 0}, "hook_head_index: 0 is not supported"),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, "fold_ln is true: the model's mlp.hook_in"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "center_writing_weights is true"),
        ({"architecture": "standard"}, "'standard' is not a transcoder"),
        ({"architecture": "jumprelu_transcoder"}, "does not fit weights that look like transcoder"),
        ({"d_sae": 47}, "d_sae is 47, and its weights have 48"),
    ],
)
def test_what_a_saelens_config_asks_for_is_done_or_refused(tiny_model, tmp_path, keys, message):
    model = tiny_model("llama")
    save_transcoders(tmp_path, random_transcoders(model))
    rewritten(tmp_path / "layer_1/cfg.json", **keys)
    with pytest.raises(InputError, match=f"layer_1/cfg.json: .*{message}"):
        load_transcoders(tmp_path, model)


def test_what_changes_nothing_in_a_saelens_config(tiny_model, tmp_path):
    """Folding takes the gain out of what is read behind the norm, and leaves what is read inside of it alone."""
    model = tiny_model("llama")
    save_transcoders(tmp_path, random_transcoders(model, read_hook="ln2.hook_normalized"))
    said = {
        "activation_fn": "relu",
        "activation_fn_kwargs": {},
        "hook_head_index": None,
        "finetuning_scaling_factor": False,
    }
    said |= {"model_from_pretrained_kwargs": {"fold_ln": True, "center_writing_weights": False}, "context_size": 128}
    for layer in range(3):
        rewritten(tmp_path / f"layer_{layer}/cfg.json", **said)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        load_transcoders(tmp_path, model)
    rewritten(tmp_path / "layer_2/cfg.json", temperature=0.5, prepend_bos=False)
    with pytest.warns(InputWarning, match="layer_2/cfg.json: unknown keys, not used: temperature") as caught:
        load_transcoders(tmp_path, model)
    assert any("trained on prompts without BOS" in str(warning.message) for warning in caught)
    rewritten(tmp_path / "layer_2/cfg.json", model_name="other")
    with pytest.raises(InputError, match="layers are of different models: , other"):
        load_transcoders(tmp_path, model)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hf_hook_point_in": "model.layers.1.output"}, "hf_hook_point_in 'model.layers.1.output' is not supported"),
        ({"hf_hook_point_out": "model.layers.2.post_feedforward_layernorm.output"}, "is not a hook of layer 1"),
        ({"type": "sae"}, "type 'sae' is not supported"),
        ({"affine_connection": True}, "affine_connection is True, but the weights say otherwise"),
        ({"width": 16}, "width is 16, but params.safetensors has 48 features"),
        ({"scaling_factor": 2.0}, "scaling_factor: 2.0 is not supported"),
    ],
)
def test_what_a_config_of_gemma_scope_2_says_is_true_of_its_weights(tiny_model, tmp_path, keys, message):
    model = tiny_model("gemma3", n_layers=2)
    miniatures.write_transcoders(tmp_path, "gemma scope 2")
    load_transcoders(tmp_path, model)
    rewritten(tmp_path / "transcoder_all/layer_1_width_48_l0_small/config.json", **keys)
    with pytest.raises(InputError, match=message):
        load_transcoders(tmp_path, model)


def test_what_a_circuit_tracer_config_asks_for_is_done_or_refused(tiny_model, tmp_path):
    model = tiny_model("llama")
    save_transcoders(tmp_path, random_transcoders(model), layout="circuit-tracer")
    rewritten(tmp_path / "config.yaml", note="a test", scan="here")
    with pytest.warns(InputWarning, match="config.yaml: unknown keys, not used: note"):
        load_transcoders(tmp_path, model)
    rewritten(tmp_path / "config.yaml", k=5)
    with pytest.raises(InputError, match="k: 5 is not supported"):
        load_transcoders(tmp_path, model)
    rewritten(tmp_path / "config.yaml", k=None)
    change(tmp_path / "layer_0.safetensors", k=torch.tensor(5))
    with pytest.raises(InputError, match="activation is 'relu', but the weights are those of a TopK set"):
        load_transcoders(tmp_path, model)
    rewritten(tmp_path / "config.yaml", activation="topk")
    change(tmp_path / "layer_1.safetensors", k=torch.tensor(6))
    with pytest.raises(InputError, match=r"k \[5, 6\]"):
        load_transcoders(tmp_path, model)


@pytest.mark.parametrize("said", ["tiny/llama", "gpt2-small"])
def test_transcoders_of_another_model_are_named(tiny_model, tmp_path, said):
    model = tiny_model("llama")
    for layout in ("saelens", "circuit-tracer"):
        save_transcoders(tmp_path / layout, random_transcoders(model), layout=layout, model_name=said)
        with pytest.warns(
            InputWarning, match=f"its config says that these are transcoders of {said}, but the model is {model.name}"
        ):
            load_transcoders(tmp_path / layout, model)


def test_one_model_goes_by_many_names(tiny_model, tmp_path):
    model, shape = tiny_model("llama"), random_transcoders(tiny_model("llama"))
    names = {
        "google--gemma-2-2b": ["google/gemma-2-2b", "gemma-2-2b"], "gpt2": ["gpt2-small", "openai-community/gpt2"],
        "google--gemma-3-270m": ["gemma-v3-270m-pt"], "Llama-3.2-1B": ["meta-llama/Llama-3.2-1B", "llama-3.2-1b"],
    }  # fmt: skip
    for folder, others in names.items():
        for number, said in enumerate([*others, ""]):
            save_transcoders(tmp_path / f"{folder}{number}", shape, model_name=said)
            with warnings.catch_warnings():
                warnings.simplefilter("error", InputWarning)
                load_transcoders(tmp_path / f"{folder}{number}", replace(model, name="mine", path=tmp_path / folder))


@pytest.mark.parametrize("name", ["layer_{}/params.npz", "width_16/layer_{}.safetensors", "weights_{}.safetensors"])
def test_a_file_is_of_the_layer_that_its_name_says(tmp_path, name):
    """After `layer_`, or by the only number of the name, so that a layout names its files as it likes."""
    files = [tmp_path / name.format(layer) for layer in (2, 0, 1)]
    assert by_layer(tmp_path, files, 3) == [files[1], files[2], files[0]]
    with pytest.raises(InputError, match="names no layer"):
        by_layer(tmp_path, [tmp_path / "width_16/weights_0.safetensors"], 1)


def test_layers_beyond_the_last_are_another_models(tiny_model, tmp_path):
    two, three = tiny_model("llama", n_layers=2), tiny_model("llama")
    save_transcoders(tmp_path / "saelens", random_transcoders(three))
    for kind in ("per_layer", "cross_layer"):
        save_transcoders(tmp_path / kind, random_transcoders(three, kind), layout="circuit-tracer")
    for folder in tmp_path.iterdir():
        with pytest.raises(InputError, match="layers 0, 1, 2, but the model has 2 layers: they are another model's"):
            load_transcoders(folder, two)


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_two_sets_in_one_folder(tiny_model, tmp_path, kind):
    """The layout that is looked for first would hide the other one, which may well be the newer."""
    model = tiny_model("llama")
    save_transcoders(tmp_path, random_transcoders(model, kind), layout="circuit-tracer")
    stray = shutil.copy(next(tmp_path.glob("*.safetensors")), tmp_path / "optimiser.safetensors")
    with pytest.warns(InputWarning, match="weights in optimiser.safetensors are not used"):
        load_transcoders(tmp_path, model)
    stray.unlink()
    save_transcoders(tmp_path, random_transcoders(model))
    with pytest.raises(
        InputError, match=r"a second set of transcoders \(layer_0/sae_weights.safetensors, .*: keep one set per folder"
    ):
        load_transcoders(tmp_path, model)


def test_tensors_that_are_in_two_places_or_in_none(tiny_model, tmp_path):
    model = tiny_model("llama")
    save_transcoders(tmp_path, random_transcoders(model, "cross_layer", skip=True), layout="circuit-tracer")
    change(tmp_path / "skip.safetensors", b_skip=torch.zeros(3, 32))
    with pytest.raises(InputError, match="expected W_skip of all layers in this file, and no other tensor"):
        load_transcoders(tmp_path, model)
    change(tmp_path / "skip.safetensors", b_skip=None)
    change(tmp_path / "W_dec_1.safetensors", b_dec_1=torch.zeros(32))
    with pytest.raises(InputError, match="b_dec_1 is in .*W_enc_1.safetensors and in .*W_dec_1.safetensors"):
        load_transcoders(tmp_path, model)


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
