"""Words as tokens and tokens as words, on tokenizers of the two kinds in use: bytes (GPT-2, Llama 3, Qwen) and SentencePiece."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from biology.models.model import answer_token, encode, token_text
from biology.models.text import continuation, piece_text, separators
from biology.records import InputError

ROOT = Path(__file__).parents[1]
STRAIGHT = ("", " ")


def byte_level():
    """Byte-pair encoding of bytes, learnt on a few words: each of them is a token of its own, with and without a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = ["Paris", "café", "is", "capital", "The", "巴黎", "是"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for word in words for text in (word, f" {word}")] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


@pytest.fixture(scope="module")
def model(tiny_model):
    return replace(tiny_model("llama"), tokenizer=byte_level(), encoded={})


@pytest.mark.parametrize(
    "prompt, answer, tried",
    [
        ("the capital of France is", "Paris", (" ",)),
        ("In the café the capital of France is", "Paris", (" ",)),  # one letter elsewhere says nothing of this place
        ("I drink it in the cafe\u0301", "Paris", (" ",)),  # a letter may be written as two
        ("عاصمة فرنسا هي", "باريس", (" ",)),
        ("फ्रांस की राजधानी है", "पेरिस", (" ",)),  # ends in a mark, not in a letter
        ("프랑스의 수도는", "파리", (" ",)),
        ("1, 2,", "three", (" ", "")),
        ("Question: where? Answer:", "Paris", (" ", "")),
        ("it is 12:", "30", STRAIGHT),
        ("法国的首都是", "巴黎", STRAIGHT),
        ("フランスの首都はコーヒー", "パリ", STRAIGHT),
        ("เมืองหลวงของฝรั่งเศสคือ", "ปารีส", STRAIGHT),
        ("答案：", "巴黎", STRAIGHT),
        ("in Chinese, Paris is", "巴黎", (" ", "")),
        ('"petit" est "', "grand", STRAIGHT),
        ("calc: 3+4=", "7", STRAIGHT),
        ("a carrot", ",", STRAIGHT),
        ("the capital of France is", " Paris", STRAIGHT),
        ("", "Paris", STRAIGHT),
    ],
)  # fmt: skip
def test_what_stands_before_an_answer(prompt, answer, tried):
    assert separators(prompt, answer) == tried


@pytest.mark.parametrize("case", ["addition", "multi_hop", "multilingual", "rhyme_planning"])
def test_answers_of_our_prompts_follow_words_after_a_space_and_signs_without(case):
    frame = pd.read_csv(ROOT / f"experiments/{case}/prompts.csv", dtype=str, keep_default_na=False)
    for text, answer in {(text[-1], answer[:1]) for text, answer in zip(frame["text"], frame["answer"], strict=True)}:
        assert separators(text, answer) == ((" ",) if text.isalpha() else STRAIGHT)


def test_an_accent_elsewhere_does_not_change_the_answers_token(model):
    spaced = encode(model, " Paris")[1:]
    for prompt in ("cafe is", "café is", "the café is"):
        assert [answer_token(model, prompt, "Paris")] == spaced == [answer_token(model, prompt, " Paris")]
    assert [answer_token(model, "The capital:", "Paris")] == spaced
    assert [answer_token(model, "是", "巴黎")] == encode(model, "巴黎")[1:]
    assert [answer_token(model, "“", "Paris")] == encode(model, "Paris")[1:]
    with pytest.raises(InputError, match="'Pariser' is not exactly one token"):
        answer_token(model, "café is", "Pariser")


@pytest.mark.parametrize("said", ["🎉", "سلام", "The 🎉"])
def test_parts_of_letters_are_told_apart_by_their_bytes(model, said):
    ids = encode(model, said)[1:]
    texts = [token_text(model, token) for token in ids]
    assert len(set(texts)) == len(set(ids)) > 1 and not any("\ufffd" in text for text in texts)
    if said == "🎉":
        assert "".join(texts) == "<0xF0><0x9F><0x8E><0x89>"
    assert token_text(model, encode(model, "\ufffd")[1]) == "<0xEF>"


def test_bytes_of_sentencepiece():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "▁Paris", "<0xF0>", "<0x9F>", "<0x0A>", "<0x41>"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert [piece_text(tokenizer, token) for token in range(1, 7)] == [" Paris", "<0xF0>", "<0x9F>", "\n", "A", None]


def test_a_continuation_is_decoded_whole(model):
    prompt, said = "The capital is", " Paris.\n\nThe capital 🎉 巴黎"
    ids, whole = encode(model, prompt), encode(model, prompt + said)
    assert whole[: len(ids)] == ids and len(whole) > len(ids) + 8
    assert continuation(model.tokenizer, ids, whole[len(ids) :]) == said
