"""What a tokenizer cannot express is told from what it can, and a text that begins with a special token is taken as it is."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from biology.models.model import encode
from biology.models.tokenizer import special_ids, unknown
from biology.records import InputError

END, BEGIN = "<|endoftext|>", "<|im_start|>"


@pytest.fixture
def chat(tiny_model):
    """A model whose one token for the ends of documents, for BOS and for what is unknown is `<|endoftext|>`, as GPT-2's."""
    words = [END, BEGIN, "w0", "w1", "w2"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END, unk_token=END)
    tokenizer.add_special_tokens({"additional_special_tokens": [BEGIN]})
    return replace(tiny_model("gpt2"), tokenizer=tokenizer, encoded={})


def test_a_word_is_unknown_and_the_token_that_stands_for_unknown_words_is_not(chat):
    assert encode(chat, f"w0 {END} w1{END}w2") == [0, 2, 0, 3, 0, 4]
    with pytest.raises(InputError, match="does not know the word 'zebra'"):
        encode(chat, f"w0 {END} zebra w1")


def test_a_text_that_begins_with_a_special_token_is_taken_as_it_is(chat):
    assert special_ids(chat.tokenizer) == {0, 1}
    assert encode(chat, f"{BEGIN}w0 w1") == [1, 2, 3]
    assert encode(chat, f"{END}w0") == [0, 2] == encode(chat, "w0")
    assert encode(chat, f"w0 {BEGIN}") == [0, 2, 1]
    assert chat.special_tokens == {0, 1} and replace(chat, tokenizer=None).special_tokens == {
        1,
        2,
    }  # those of config.json


def test_a_tokenizer_without_an_unknown_token_leaves_letters_out(tiny_model):
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate("abc")}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    text = "ab ca\nzebra"
    assert unknown(tokenizer, text, tokenizer(text)) == ["z", "e", "r"]
    assert unknown(tokenizer, "ab c", tokenizer("ab c")) == []
    with pytest.raises(InputError, match="does not know the word 'z'"):
        encode(replace(tiny_model("gpt2"), tokenizer=tokenizer, encoded={}), text)
