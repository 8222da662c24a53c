"""The model is the Hugging Face model, freezing holds, and prompts are tokenised as they should be."""

import pytest
import torch
from conftest import KINDS, write_tiny_model

from biology.models.model import answer_token, capture, encode, freeze, hooked, load_model, run, token_batch, token_text
from biology.records import InputError

IDS = torch.tensor([[2, 17, 40, 5, 93, 8, 61], [2, 9, 9, 30, 77, 12, 4]])


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_hugging_face_eager(tiny, tiny_model, kind):
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(tiny(kind), attn_implementation="eager").eval()
    with torch.no_grad():
        expected = network(IDS).logits
    logits, _ = run(tiny_model(kind), IDS)
    assert (logits - expected).abs().max() <= (5e-6 if kind == "gpt2" else 0.0)
    exact, _ = run(tiny_model(kind, torch.float64), IDS)
    assert (exact - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_captured_streams_add_up(tiny_model, kind):
    model = tiny_model(kind, torch.float64)
    seen = capture(model, IDS, read_hook="ln2.hook_normalized", write_hook="mlp.hook_out")
    start = seen.embed if seen.pos_embed is None else seen.embed + seen.pos_embed
    assert torch.equal(start, seen.resid_pre[0])
    ends = [*seen.resid_pre[1:], seen.resid_final]
    for layer, weights in enumerate(model.weights.layers):
        assert torch.allclose(seen.resid_mid[layer] + seen.mlp_out[layer], ends[layer], atol=1e-12)
        normed = weights.ln2.centre(seen.resid_mid[layer]) / seen.scale2[layer]
        assert torch.allclose(normed, seen.read[layer], atol=1e-12)
        written = seen.write[layer]
        if weights.ln2_post is not None:
            written = written / seen.scale2_post[layer] * weights.ln2_post.gain
        assert torch.allclose(written, seen.mlp_out[layer], atol=1e-12)
    final = model.weights.ln_final
    x = final.centre(seen.resid_final) / seen.scale_final * final.gain
    x = x if final.bias is None else x + final.bias
    assert torch.allclose(x @ model.weights.W_U.T, seen.pre_logits, atol=1e-11)
    cap = model.weights.soft_cap
    assert torch.allclose(seen.logits, seen.pre_logits if cap is None else cap * (seen.pre_logits / cap).tanh())


def test_frozen_model_keeps_its_logits(tiny_model):
    model = tiny_model("gemma3", torch.float64)
    seen = capture(model, IDS)
    logits, _ = run(model, IDS, edits=freeze(model, seen))
    assert torch.allclose(logits, seen.logits, atol=1e-12)
    swapped, _ = run(model, IDS, edits=freeze(model, seen, rows=torch.tensor([1, 1])))
    assert not torch.allclose(swapped[0], seen.logits[0])
    assert torch.allclose(swapped[1], seen.logits[1], atol=1e-12)


def test_rows_do_not_depend_on_their_batch(tiny_model):
    model = tiny_model("qwen3", torch.float64)
    both, _ = run(model, IDS)
    assert torch.allclose(run(model, IDS[1:])[0], both[1:], atol=1e-12)


def test_positions_select_logits(tiny_model):
    model = tiny_model("llama")
    logits, _ = run(model, IDS)
    last, _ = run(model, IDS, positions=-1)
    assert torch.allclose(last[:, 0], logits[:, -1], atol=1e-6)
    own, _ = run(model, IDS, positions=torch.tensor([[1, 3], [6, -2]]))
    expected = torch.stack([logits[0, [1, 3]], logits[1, [6, 5]]])
    assert torch.allclose(own, expected, atol=1e-6)


def test_hooks_are_gone_after_their_context_and_nest(tiny_model):
    model = tiny_model("llama")
    clean, _ = run(model, IDS)
    name = "blocks.1.hook_mlp_out"
    with hooked(model, [(name, torch.zeros_like)]):
        inner, _ = run(model, IDS, edits=[(name, lambda tensor: tensor + 1)])
        outer, _ = run(model, IDS)
    assert not torch.equal(inner, outer) and not torch.equal(outer, clean)
    assert torch.equal(run(model, IDS)[0], clean)
    with pytest.raises(KeyError, match="no hook"):
        run(model, IDS, reads=["blocks.99.hook_mlp_out"])
    assert torch.equal(run(model, IDS)[0], clean)


def test_text(tiny_model):
    model = tiny_model("llama")
    assert encode(model, "w0 w7") == [2, 4, 11] == encode(model, "<bos> w0 w7")
    assert answer_token(model, "w0 w7", "w9") == 13 == answer_token(model, "w0 w7", " w9")
    assert token_text(model, 13) == "w9"
    with pytest.raises(InputError, match="'zebra'"):
        encode(model, "w0 zebra w7")
    with pytest.raises(InputError, match="'w1 w2' is not exactly one token after the prompt 'w0'"):
        answer_token(model, "w0", "w1 w2")
    with pytest.raises(InputError, match="'zebra'"):
        answer_token(model, "w0", "zebra")


def test_without_tokenizer(tmp_path):
    model = load_model(write_tiny_model(tmp_path, "gpt2", n_layers=1, tokenizer=False), name="bare")
    assert (model.tokenizer, token_text(model, 3), model.name) == (None, "#3", "bare")
    with pytest.raises(InputError, match="no tokenizer"):
        encode(model, "w0")


def test_bad_token_ids(tiny_model):
    model = tiny_model("llama")
    for ids, message in (([], "empty"), ([100], "outside its vocabulary 0..99"), ([1] * 65, "at most 64 tokens")):
        with pytest.raises(InputError, match=message):
            token_batch(model, ids)
