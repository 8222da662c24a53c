"""Miniatures of published models: random weights, two layers, grouped heads, in files of exactly the published layout.

`write_transcoders(folder, layout, ...)` writes one of LAYOUTS as its publisher does, from tensors that are drawn here, and
returns these tensors in one plain form: of each layer `encoder` [d_model, feature], `decoder` [feature, target, d_model],
`b_enc`, `b_dec` and, where the layout has them, `threshold` or `k`, and `skip` [input, output].
"""

import json
from pathlib import Path

import numpy
import torch
import yaml
from conftest import write_tiny_model, write_tokenizer
from safetensors.torch import save_file

N_LAYERS, D_MODEL, N_FEATURES, K = 2, 32, 48, 6
ARCHITECTURES = ("gpt2", "llama", "qwen3", "gemma2", "gemma3", "gemma3-with-images")
LAYOUTS = (
    "circuit-tracer", "circuit-tracer skip", "circuit-tracer listing gemma scope", "circuit-tracer cross-layer",
    "circuit-tracer cross-layer jumprelu skip", "saelens", "saelens skip", "gemma scope", "gemma scope 2",
    "gemma scope 2 affine", "gemma scope 2 cross-layer affine", "sparsify", "sparsify skip",
)  # fmt: skip


def write_model(folder: Path, architecture: str) -> Path:
    """A model as its publisher stores it; the Gemma 3 from 4B up keeps its image encoder in the same files."""
    if architecture != "gemma3-with-images":
        return write_tiny_model(folder, architecture, n_layers=N_LAYERS)
    import transformers

    torch.manual_seed(0)
    text = dict(
        vocab_size=100, hidden_size=D_MODEL, intermediate_size=64, num_hidden_layers=N_LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=2, eos_token_id=1, pad_token_id=0,
        query_pre_attn_scalar=8, sliding_window=4,
    )  # fmt: skip
    image = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    network = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(text_config=text, vision_config=image, mm_tokens_per_image=4)
    )
    livened(network).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def livened(network):
    """A random network whose answers depend on its prompt: norms that are not one, and larger matrices."""
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        elif parameter.dim() > 1:
            parameter.data.mul_(8.0)
    return network.eval()


def write_transcoders(folder: Path, layout: str, *, model_name: str = "") -> list[dict[str, torch.Tensor]]:
    layers = _draw("skip" in layout or "affine" in layout, cross="cross-layer" in layout)
    if "relu" not in layout and layout.startswith("circuit-tracer") and "listing" not in layout:
        for layer in layers:
            del layer["threshold"]
    if layout.startswith("circuit-tracer"):
        _circuit_tracer(folder, layout, layers, model_name)
    elif layout.startswith("saelens"):
        _saelens(folder, layers, model_name)
    elif layout.startswith("sparsify"):
        _sparsify(folder, layers)
    elif layout == "gemma scope":
        _gemma_scope(folder, layers)
    elif layout == "gemma scope 2 cross-layer affine":
        for i, layer in enumerate(layers):
            unused = torch.full((N_FEATURES, i, D_MODEL), 7.0)  # decoders into layers below the feature's own
            decoder = torch.cat([unused, layer["decoder"]], 1)
            _save(folder / f"clt/width_96_l0_small_affine/params_layer_{i}.safetensors", _scope_2(layer, decoder))
        _gemma_scope_2_config(folder / "clt/width_96_l0_small_affine/config.json", 0, True)
    else:
        for i, layer in enumerate(layers):
            name = f"transcoder_all/layer_{i}_width_48_l0_small" + ("_affine" if "affine" in layout else "")
            _save(folder / name / "params.safetensors", _scope_2(layer, layer["decoder"][:, 0]))
            _gemma_scope_2_config(folder / name / "config.json", i, "affine" in layout)
    return layers


def by_hand(layers: list[dict[str, torch.Tensor]], inputs: list[torch.Tensor], target: int) -> torch.Tensor:
    """What the transcoders write at layer `target`, from the tensors that were stored and what each layer read."""
    cross = layers[0]["decoder"].shape[1] > 1
    total = layers[target]["b_dec"]
    for source in range(target + 1) if cross else (target,):
        layer = layers[source]
        pre = inputs[source] @ layer["encoder"] + layer["b_enc"]
        activation = pre.relu() * (pre > layer["threshold"]) if "threshold" in layer else pre.relu()
        if "k" in layer:
            largest = activation.topk(layer["k"], dim=-1)
            activation = torch.zeros_like(activation).scatter(-1, largest.indices, largest.values)
        total = total + activation @ layer["decoder"][:, target - source if cross else 0]
    return total + inputs[target] @ layers[target]["skip"] if "skip" in layers[target] else total


def _draw(skip: bool, cross: bool) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape, scale):
        return torch.randn(*shape, generator=generator) * scale

    layers = []
    for layer in range(N_LAYERS):
        targets = N_LAYERS - layer if cross else 1
        drawn = {
            "encoder": normal(D_MODEL, N_FEATURES, scale=D_MODEL**-0.5),
            "b_enc": normal(N_FEATURES, scale=0.3) - 0.3,
            "decoder": normal(N_FEATURES, targets, D_MODEL, scale=0.3),
            "b_dec": normal(D_MODEL, scale=0.3),
            "threshold": normal(N_FEATURES, scale=0.3).abs(),
        }
        layers.append(drawn | ({"skip": normal(D_MODEL, D_MODEL, scale=0.1)} if skip else {}))
    return layers


def _save(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)


def _circuit_tracer(folder, layout, layers, model_name):
    config = {"model_name": model_name, "feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    if "listing" in layout:
        _gemma_scope(folder / "mirror", layers)
        config["feature_input_hook"] = "ln2.hook_normalized"
        config["transcoders"] = [f"mirror/{file}" for file in _gemma_scope_files()]
    elif "cross-layer" in layout:
        for i, layer in enumerate(layers):
            encoder = {f"W_enc_{i}": layer["encoder"].T, f"b_enc_{i}": layer["b_enc"], f"b_dec_{i}": layer["b_dec"]}
            encoder |= {f"threshold_{i}": layer["threshold"]} if "threshold" in layer else {}
            _save(folder / f"W_enc_{i}.safetensors", encoder)
            _save(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": layer["decoder"]})
        if "skip" in layout:
            _save(folder / "skip.safetensors", {"W_skip": torch.stack([layer["skip"] for layer in layers])})
    else:
        for i, layer in enumerate(layers):
            stored = {"W_enc": layer["encoder"].T, "W_dec": layer["decoder"][:, 0], "b_enc": layer["b_enc"]}
            stored |= {"b_dec": layer["b_dec"]} | ({"W_skip": layer["skip"].T} if "skip" in layer else {})
            _save(folder / f"layer_{i}.safetensors", stored)
    config["model_kind"] = "cross_layer_transcoder" if "cross-layer" in layout else "transcoder_set"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def _saelens(folder, layers, model_name):
    for i, layer in enumerate(layers):
        skip = "skip" in layer
        stored = {"W_enc": layer["encoder"], "W_dec": layer["decoder"][:, 0], "b_enc": layer["b_enc"]}
        stored |= {"b_dec": layer["b_dec"], "threshold": layer["threshold"]} | (
            {"W_skip": layer["skip"].T} if skip else {}
        )
        _save(folder / f"layer_{i}/sae_weights.safetensors", stored)
        metadata = {
            "sae_lens_version": "6.54.12", "model_name": model_name, "hook_name": f"blocks.{i}.mlp.hook_in",
            "hook_name_out": f"blocks.{i}.hook_mlp_out",
        }  # fmt: skip
        config = {
            "architecture": f"jumprelu_{'skip_' if skip else ''}transcoder", "d_in": D_MODEL, "d_sae": N_FEATURES,
            "d_out": D_MODEL, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False,
            "normalize_activations": "none", "reshape_activations": "none", "metadata": metadata,
        }  # fmt: skip
        (folder / f"layer_{i}/cfg.json").write_text(json.dumps(config))


def _sparsify(folder, layers):
    for i, layer in enumerate(layers):
        del layer["threshold"]
        layer["k"] = K
        stored = {"encoder.weight": layer["encoder"].T, "encoder.bias": layer["b_enc"], "W_dec": layer["decoder"][:, 0]}
        stored |= {"b_dec": layer["b_dec"]} | ({"W_skip": layer["skip"].T} if "skip" in layer else {})
        _save(folder / f"layers.{i}.mlp/sae.safetensors", stored)
        config = {
            "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": N_FEATURES, "k": K, "multi_topk": False,
            "skip_connection": "skip" in layer, "transcode": True, "d_in": D_MODEL,
        }  # fmt: skip
        (folder / f"layers.{i}.mlp/cfg.json").write_text(json.dumps(config))


def _gemma_scope_files() -> list[str]:
    return [f"layer_{i}/width_48/average_l0_{10 + i}/params.npz" for i in range(N_LAYERS)]


def _gemma_scope(folder, layers):
    for file, layer in zip(_gemma_scope_files(), layers, strict=True):
        (folder / file).parent.mkdir(parents=True)
        stored = {"W_enc": layer["encoder"], "W_dec": layer["decoder"][:, 0]}
        stored |= {key: layer[key] for key in ("b_enc", "b_dec", "threshold")}
        numpy.savez(folder / file, **{key: value.numpy() for key, value in stored.items()})


def _scope_2(layer, decoder):
    stored = {"w_enc": layer["encoder"], "w_dec": decoder} | {
        key: layer[key] for key in ("b_enc", "b_dec", "threshold")
    }
    return stored | ({"affine_skip_connection": layer["skip"]} if "skip" in layer else {})


def _gemma_scope_2_config(file, layer, affine):
    hooks = {
        "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
    }
    file.write_text(json.dumps({"architecture": "jump_relu", "affine_connection": affine, **hooks}))
