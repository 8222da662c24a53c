"""The random model, transcoders and prompts that both engines are given: shapes of GPT-2 small, plain safetensors.

Everything is drawn from one seed with numpy, so that both environments could draw it; bench.py draws it once and both
read the files. `b_enc` is set so that about `ACTIVE` features fire: a common threshold on the standardised
pre-activations of the prompt itself, found from one forward pass of our model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

N_LAYERS, D_MODEL, N_HEADS, D_MLP, N_VOCAB, N_CONTEXT = 12, 768, 12, 3072, 50257, 1024
PER_LAYER_FEATURES, CROSS_LAYER_FEATURES = 24576, 4096
ACTIVE, ACTIVE_CROSS_LAYER = 10_250, 9_830
TOKENS = (50256, 464, 3139, 286, 262, 1181, 7268, 8533, 318, 262, 1748, 286)
BOS = TOKENS[0]


def write_model(folder: Path, seed: int = 0) -> None:
    """A Hugging Face directory of a random GPT-2 small; norms and biases are random too, so that mistakes in them
    show."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.02) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    weights = {"wte.weight": normal(N_VOCAB, D_MODEL, scale=0.1), "wpe.weight": normal(N_CONTEXT, D_MODEL)}
    for layer in range(N_LAYERS):
        for norm in ("ln_1", "ln_2"):
            weights[f"h.{layer}.{norm}.weight"] = 1 + normal(D_MODEL, scale=0.1)
            weights[f"h.{layer}.{norm}.bias"] = normal(D_MODEL)
        for name, shape in {
            "attn.c_attn": (D_MODEL, 3 * D_MODEL), "attn.c_proj": (D_MODEL, D_MODEL),
            "mlp.c_fc": (D_MODEL, D_MLP), "mlp.c_proj": (D_MLP, D_MODEL),
        }.items():  # fmt: skip
            weights[f"h.{layer}.{name}.weight"] = normal(*shape, scale=shape[0] ** -0.5)
            weights[f"h.{layer}.{name}.bias"] = normal(shape[1])
    weights["ln_f.weight"], weights["ln_f.bias"] = 1 + normal(D_MODEL, scale=0.1), normal(D_MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"transformer.{name}": value for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": D_MODEL, "n_layer": N_LAYERS,
        "n_head": N_HEADS, "n_positions": N_CONTEXT, "vocab_size": N_VOCAB, "bos_token_id": BOS, "eos_token_id": BOS,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def write_transcoders(folder: Path, kind: str, reads: np.ndarray, active: int, seed: int = 1) -> None:
    """Random transcoders in circuit-tracer's layout; about `active` features fire on `reads` [layer, pos, d_model]
    (position 0 does not count)."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    n_features = PER_LAYER_FEATURES if kind == "per_layer" else CROSS_LAYER_FEATURES
    share = active / (reads.shape[0] * (reads.shape[1] - 1) * n_features)
    for layer in range(N_LAYERS):
        W_enc = rng.standard_normal((n_features, D_MODEL), dtype=np.float32) / np.float32(D_MODEL**0.5)
        pre = reads[layer, 1:] @ W_enc.T
        b_enc = np.full(n_features, -np.quantile(pre, 1 - share), np.float32)
        shared = {"W_enc": W_enc, "b_enc": b_enc, "b_dec": rng.standard_normal(D_MODEL, dtype=np.float32) / 50}
        shape = (n_features, D_MODEL) if kind == "per_layer" else (n_features, N_LAYERS - layer, D_MODEL)
        W_dec = rng.standard_normal(shape, dtype=np.float32) / np.float32(5 * D_MODEL**0.5)
        if kind == "per_layer":
            save_file(shared | {"W_dec": W_dec}, folder / f"layer_{layer}.safetensors")
        else:
            save_file({f"{key}_{layer}": value for key, value in shared.items()}, folder / f"W_enc_{layer}.safetensors")
            save_file({f"W_dec_{layer}": W_dec}, folder / f"W_dec_{layer}.safetensors")
    config = {
        "model_name": "random-gpt2-small", "scan": "random", "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "model_kind": "transcoder_set" if kind == "per_layer" else "cross_layer_transcoder",
    }  # fmt: skip
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()), encoding="utf-8")
