"""Checks, when a model is loaded, that the hooked model gives the same probabilities as transformers.

The network of transformers is run on a few tokens before hooks are added. The hooked forward pass must give the same
probabilities, with and without frozen attention patterns, norm scales and MLP outputs. A difference nearly always comes
from a key of config.json that transformers follows and the hooks do not, so the error names the unusual keys.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models.mapped_weights import n_parameters
from biology.records import InputError

TOLERANCE = 1e-4
HALF_TOLERANCE = {"hooked": 0.05, "frozen": 0.2}
"""In float16 and bfloat16. Hooks round GPT-2's projections differently (0.01 at 24 layers), and a norm with a frozen scale
is rounded once more (0.03 at the 30 layers of a SmolLM2)."""
LENGTH = 16
"""Number of tokens of the prompt, and of final positions read from a longer one."""
CHEAP = 10**10
"""Largest cost, in multiplications, of a prompt longer than a sliding window: a fraction of a second."""
LONGEST = 1024

FOLLOWED = frozenset(
    # Keys that the hooked forward pass follows, or that do not affect it.
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "max_position_embeddings rms_norm_eps hidden_act hidden_activation rope_parameters attention_bias mlp_bias "
    "tie_word_embeddings sliding_window layer_types use_sliding_window max_window_layers query_pre_attn_scalar "
    "final_logit_softcapping n_embd n_layer n_head n_inner n_positions activation_function layer_norm_epsilon "
    "scale_attn_by_inverse_layer_idx reorder_and_upcast_attn attention_dropout attn_pdrop embd_pdrop resid_pdrop "
    "initializer_range bos_token_id eos_token_id pad_token_id use_cache dtype architectures model_type pretraining_tp "
    "transformers_version summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout "
    "return_dict output_hidden_states chunk_size_feed_forward is_encoder_decoder id2label label2id problem_type".split()
)
FOLLOWED_BY = {"gemma2": frozenset({"attn_logit_softcapping"})}


@dataclass(frozen=True, eq=False)
class ReferenceLogits:
    """Logits of transformers at the last `LENGTH` positions of a fixed prompt."""

    ids: Int[Tensor, "1 pos"]
    positions: Int[Tensor, "1 read_pos"]
    logits: Float[Tensor, "1 read_pos vocab"]


def reference_logits(network: Any, path: Path) -> ReferenceLogits:
    """The logits of a network of transformers, before any hooks.

    The prompt depends only on the config: the BOS token if it names one, then tokens from all over the vocabulary. It has
    `LENGTH` tokens, or more than a sliding window holds if that is cheap (`CHEAP`).

    Raises:
        InputError: transformers itself cannot run the network.
    """
    config, device = network.config, network.device
    length = min(_length(network), config.max_position_embeddings)
    ids = torch.arange(length, device=device) * 7919 % config.vocab_size
    if isinstance(config.bos_token_id, int) and 0 <= config.bos_token_id < config.vocab_size:
        ids[0] = config.bos_token_id
    read = min(LENGTH, length)
    try:
        with torch.no_grad():
            logits = network(ids[None], use_cache=False, logits_to_keep=read).logits
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"transformers cannot run the model in {path} ({reason}): {_suspects(config)}") from None
    return ReferenceLogits(ids[None], torch.arange(length - read, length, device=device)[None], logits)


def _length(network: Any) -> int:
    config = network.config
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    beyond = getattr(config, "sliding_window", None) if sliding else None
    if not beyond or beyond + LENGTH > LONGEST:
        return LENGTH
    body = n_parameters(network) - network.get_input_embeddings().weight.numel()
    return max(LENGTH, beyond + LENGTH // 2) if body * beyond <= CHEAP else LENGTH


def require_agreement(
    path: Path,
    config: Any,
    reference: ReferenceLogits,
    found: Mapping[str, Float[Tensor, "1 read_pos vocab"]],
    patterns: Sequence[Float[Tensor, "1 head pos pos"]],
) -> None:
    """Compares the probabilities by their total variation distance, the largest over the positions read.

    No single probability differs by more than that distance. `found` holds the logits of the `hooked` and of the `frozen`
    forward pass, `patterns` the attention patterns of the layers.

    Raises:
        InputError: `found` differs from `reference` by more than the tolerance, or a token attends to a later one.
    """
    half = reference.logits.dtype not in (torch.float32, torch.float64)
    for forward, logits in found.items():
        tolerance = HALF_TOLERANCE[forward] if half else TOLERANCE
        expected, given = (
            each.to(torch.promote_types(each.dtype, torch.float32)).softmax(-1) for each in (reference.logits, logits)
        )
        distance = float((expected - given).abs().sum(-1).max()) / 2
        if not distance <= tolerance:
            raise InputError(
                f"the {forward} forward pass of the model in {path} is not that of transformers: probabilities differ by "
                f"{distance:.1g}, more than {tolerance:.0g}; {_suspects(config)}"
            )
    for layer, pattern in enumerate(patterns):
        if bool(pattern.triu(1).any()):
            raise InputError(
                f"tokens attend to later ones in layer {layer} of the model in {path}, and graphs need a causal model; "
                f"{_suspects(config)}"
            )


def _suspects(config: Any) -> str:
    """Keys of a config that differ from the default of its class and are not among those that the hooks are known to
    follow."""
    followed = FOLLOWED | FOLLOWED_BY.get(config.model_type, frozenset())
    usual = {field.name: _default(field) for field in dataclasses.fields(config)}
    said = {key: value for key, value in vars(config).items() if not key.startswith("_") and key not in followed}
    named = [f"{key}: {value!r}" for key, value in said.items() if value != usual.get(key)]
    if not named:
        return "no key of its config.json is out of the ordinary"
    return f"its config.json says {', '.join(named)}, which the hooks do not follow: such a model cannot be traced"


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
