"""At load the hooked and frozen model is compared with transformers, and a key that the hooks do not follow is named."""

import json
import shutil
import warnings

import pytest
import torch
from conftest import KINDS
from transformers import AutoModelForCausalLM

from biology.models import agreement
from biology.models.checkpoint import network
from biology.models.model import load_model, run
from biology.records import InputError, InputWarning


def changed(folder, target, **keys):
    """A copy of a model directory with other keys in its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | keys))
    return target


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("gpt2", {"scale_attn_weights": False}),
        ("gemma3", {"attn_logit_softcapping": 5.0}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("qwen3", {"sliding_window": 4, "layer_types": ["sliding_attention"] * 3, "use_sliding_window": False}),
    ],
)
def test_a_key_that_the_hooks_do_not_follow_is_named(tiny, tmp_path, kind, keys):
    folder = changed(tiny(kind), tmp_path / "model", **keys)
    with pytest.raises(InputError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    if kind != "qwen3":  # transformers itself takes such a layer for one with a window of None
        (key,) = keys
        assert f"its config.json says {key}: {keys[key]!r}, which the hooks do not follow" in message


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "activation_function": "relu"}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e3, "factor": 4.0, "original_max_position_embeddings": 16}}),
        ("gemma2", {"attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 30, "layer_types": ["full_attention"] * 3}),
        ("gemma3", {"final_logit_softcapping": 5.0, "hidden_activation": "relu", "rms_norm_eps": 0.1}),
    ],
)  # fmt: skip
def test_a_key_that_the_hooks_follow_changes_both(tiny, tiny_model, tmp_path, kind, keys):
    folder = changed(tiny(kind), tmp_path / "model", **keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        model = load_model(folder)
    reference = agreement.reference_logits(network(folder, torch.float32), folder)
    assert (run(model, reference.ids, positions=reference.positions)[0] - reference.logits).abs().max() < 1e-5
    assert (
        run(tiny_model(kind), reference.ids, positions=reference.positions)[0] - reference.logits
    ).abs().max() > 1e-3


def test_the_network_of_a_text_that_sees_ahead_is_refused(tiny, tmp_path):
    """`is_causal` is no key of Llama's config, and its network follows it all the same."""
    folder = changed(tiny("llama"), tmp_path / "model", is_causal=False)
    with pytest.raises(InputError, match="says is_causal: False, which the hooks do not follow"):
        load_model(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_architecture_agrees_in_every_precision(tiny_model, kind, dtype):
    assert tiny_model(kind, dtype).dtype == dtype


def test_the_prompt_begins_with_bos_and_is_longer_than_a_cheap_window(tiny, monkeypatch):
    folder = tiny("gemma2")
    hugging_face = AutoModelForCausalLM.from_pretrained(folder)
    hugging_face.config.sliding_window = 30
    reference = agreement.reference_logits(hugging_face, folder)
    assert (
        reference.ids.shape == (1, 38)
        and int(reference.ids[0, 0]) == 2
        and reference.positions[0].tolist() == list(range(22, 38))
    )
    assert reference.logits.shape == (1, 16, 100) and len(reference.ids.unique()) > 30
    monkeypatch.setattr(agreement, "CHEAP", 1)
    assert agreement.reference_logits(hugging_face, folder).ids.shape == (1, 16)
    hugging_face.config.max_position_embeddings = 5
    assert agreement.reference_logits(hugging_face, folder).ids.shape == (1, 5)


def test_the_measure_bounds_every_probability(tmp_path, tiny_model):
    config = tiny_model("llama").bridge.original_model.config
    logits = torch.zeros(1, 2, 4)
    reference = agreement.ReferenceLogits(torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None], logits)
    near = torch.tensor([[[1.0, 1.0002, 1.0, 1.0], [0, 0, 0, 0]]])
    agreement.require_agreement(tmp_path, config, reference, {"hooked": near}, [])
    with pytest.raises(InputError, match="the frozen forward pass .* differ by 0.0002, more than 0.0001; no key"):
        agreement.require_agreement(
            tmp_path, config, reference, {"hooked": near, "frozen": near + torch.tensor([0, 1e-3, 0, 0])}, []
        )
    with pytest.raises(InputError, match="differ by nan"):
        agreement.require_agreement(tmp_path, config, reference, {"hooked": near * torch.nan}, [])
