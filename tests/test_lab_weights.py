"""Weights reach the page bit by bit, as letters that a page can hold."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from biology.config import load_config
from biology.records import InputError
from biology.report.lab_weights import read_small
from biology.report.pages import as_characters

ROOT = Path(__file__).parents[1]


def bytes_of(letters):
    """What `bytesOf` in pages.js makes of letters."""
    units, found, place = np.frombuffer(letters.encode("utf-16-le"), "<u2"), [], 0
    while place < len(units):
        marked = units[place] == 1
        place += int(marked)
        found.append(int(units[place]) ^ 0x8000 if marked else int(units[place]))
        place += 1
    data = np.array(found[1:], "<u2").tobytes()
    return data[: len(data) - found[0]]


@pytest.mark.parametrize("cut", [0, 1])
def test_every_pair_of_bytes_becomes_letters_and_back(cut):
    data = np.arange(65536, dtype="<u2").tobytes()[cut:]
    letters = as_characters(data)
    assert bytes_of(letters) == data and bytes_of(as_characters(b"")) == b""
    assert not set(letters) & set("\0\r<") and not [letter for letter in letters if "\ud800" <= letter <= "\udfff"]
    assert len(letters) < 1.04 * len(data) / 2


def test_a_model_is_read_as_it_ships():
    from transformers import PreTrainedTokenizerFast

    entry = load_config(ROOT / "config.yaml").model("elegans")
    small = read_small(entry, ROOT, "elegans")
    model = load_file(ROOT / entry.path / "model.safetensors")
    assert model.keys() == small.model.keys()
    assert all(np.array_equal(small.model[name].view(np.float16), model[name]) for name in model)
    layer = load_file(ROOT / entry.transcoders / "layer_3/sae_weights.safetensors")
    assert np.array_equal(small.transcoders[3]["W_enc"].view(np.float16), layer["W_enc"].T)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ROOT / entry.path / "tokenizer.json"))
    assert {word: number for number, word in enumerate(small.words["vocabulary"])} == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("model.safetensors", "float32", "a page holds weights of one format, F16 or BF16, not F16, F32"),
        ("model.safetensors", "cut", "model.safetensors is damaged"),
        ("model.safetensors", "gone", "model.safetensors: no such file"),
        ("transcoders/layer_2/cfg.json", ("jumprelu_transcoder", "transcoder"), "JumpReLU transcoders of MLPs"),
        ("tokenizer.json", ('"WordPiece"', '"BPE"'), "a tokenizer of words and pieces"),
        ("tokenizer.json", "gone", "a tokenizer of words and pieces"),
    ],
)
def test_what_the_script_cannot_run_is_one_line(tmp_path, file, edit, said):
    entry = load_config(ROOT / "config.yaml").model("elegans")
    path = shutil.copytree(ROOT / entry.path, tmp_path / entry.path) / file
    if edit == "float32":
        save_file({name: value.astype(np.float32) for name, value in load_file(path).items()}, path)
    elif edit == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif edit == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text().replace(*edit))
    with pytest.raises(InputError, match=said) as error:
        read_small(entry, tmp_path, "elegans")
    assert "\n" not in str(error.value)
