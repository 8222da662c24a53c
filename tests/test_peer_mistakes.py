"""Mistakes that were reproduced in circuit-tracer 0.4.1 / 0.5.0 and that must not be in ours.

Proved elsewhere: `activation: topk` read as ReLU, and a k that cannot be read back (test_layouts, topk config and round
trip); skips of cross-layer sets dropped (test_layouts, round trip; test_direct_effects); last layer of Gemma Scope 2
dropped (test_layouts, Gemma Scope 2); a feature and an error with one id (test_graph_json); a prompt of one token, more
logits than words, a budget of 0 (test_attribution). That its TopK keeps negative features is no mistake in a set of
its layout, which is read so (test_layouts). The rest is here.
"""

import subprocess
import sys

import pytest
import torch
from conftest import random_transcoders, write_tiny_model

from biology.attribution.assembly import attribute
from biology.models.model import capture, encode, load_model
from biology.transcoders.transcoder_files import save_transcoders


def test_a_bos_token_with_id_0_is_prepended(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = write_tiny_model(tmp_path, "llama", tokenizer=False)
    words = {word: i for i, word in enumerate(["<bos>", *(f"w{i}" for i in range(99))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="w98"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", unk_token="w98").save_pretrained(folder)
    model = load_model(folder)
    assert encode(model, "w1 w5") == [0, 2, 6]
    graph = attribute(model, random_transcoders(model), encode(model, "w1 w5"))
    assert graph.metadata["token_ids"] == [0, 2, 6] and bool((graph.pos[graph.features] > 0).all())


def test_an_unembedding_that_is_square_is_not_transposed(tmp_path):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    network.save_pretrained(tmp_path)
    model, ids = load_model(tmp_path), [2, 5, 17, 30, 8]
    with torch.no_grad():
        logits = network(torch.tensor([ids])).logits[0, -1]
    frozen = capture(model, ids)
    torch.testing.assert_close(frozen.logits[0, -1], logits, rtol=1e-4, atol=1e-5)
    final = model.weights.ln_final
    seen = frozen.resid_final[0, -1] / frozen.scale_final[0, -1] * final.gain
    torch.testing.assert_close(seen @ model.weights.W_U.T, logits, rtol=1e-4, atol=1e-5)
    graph = attribute(model, random_transcoders(model), ids)
    assert graph.metadata["row_residual"] < 1e-5
    demeaned = (logits - logits.mean())[graph.token_id[graph.logits]]
    torch.testing.assert_close(graph.pre_activation[graph.logits], demeaned, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_interpreter_ends_in_silence(tiny, tiny_model, tmp_path):
    save_transcoders(tmp_path, random_transcoders(tiny_model("gpt2")))
    command = ["trace", "w1 w2 w3", "--model", str(tiny("gpt2")), "--transcoders", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "biology", *command], capture_output=True, text=True)
    assert done.returncode == 0 and "replacement score" in done.stdout
    assert "Error" not in done.stderr and "Traceback" not in done.stderr
