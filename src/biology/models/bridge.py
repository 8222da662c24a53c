"""A network of transformers with hooks: a raw TransformerBridge and its table of hook points.

The only module that imports transformer_lens. Weights are unprocessed and attention is eager, so that transcoders read
the activations they were trained on. The bridge wraps the network and its weights; nothing is copied.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",  # with an image encoder, which is ignored
}


def bridged(network: Any, architecture: str, dtype: torch.dtype, name: str) -> tuple[Any, dict[str, Any]]:
    """The bridge around a network of one of `ARCHITECTURES`, and its hook points by name, aliases included.

    The table is built once, because that is slow. From now on the network's own forward pass runs the bridge's modules.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge = build_bridge_from_module(
        network, ARCHITECTURES[architecture], hf_config=network.config, dtype=dtype, model_name=name
    ).eval()
    for parameter in bridge.parameters():
        parameter.requires_grad_(False)
    hooks = dict(bridge.hook_dict)
    # Some releases of the library lack the alias for a block without post norm; the fallback is exact.
    for layer in range(bridge.cfg.n_layers):
        alias = f"blocks.{layer}.hook_mlp_out"
        post = f"blocks.{layer}.ln2_post.hook_out"
        hooks.setdefault(alias, hooks.get(post, hooks[f"blocks.{layer}.mlp.hook_out"]))
    if dtype == torch.float64:
        _compute_in_double(bridge, hooks)
    return bridge, hooks


def _compute_in_double(bridge: Any, hooks: Mapping[str, Any]) -> None:
    """Makes a float64 model compute norms and softmax in float64. Hugging Face computes them in float32 for every
    dtype."""
    for module in bridge.modules():
        if hasattr(module, "use_native_layernorm_autograd"):
            module.use_native_layernorm_autograd = False
    for layer in range(bridge.cfg.n_layers):
        kept: dict[str, Tensor] = {}

        def scores(tensor: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:
            kept["scores"] = tensor

        def pattern(tensor: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> Tensor:
            return kept.pop("scores").softmax(-1)

        hooks[f"blocks.{layer}.attn.hook_attn_scores"].add_hook(scores, is_permanent=True)
        hooks[f"blocks.{layer}.attn.hook_pattern"].add_hook(pattern, is_permanent=True)
