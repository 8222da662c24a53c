"""Models whose matrices stay in their files: the same numbers as in memory."""

from pathlib import Path

import pytest
import torch
from conftest import random_transcoders, write_tiny_model
from safetensors.torch import load_file, save_file

from biology.attribution.assembly import attribute
from biology.models.mapped_weights import PART, free_pages_after_use, n_parameters, rows_in_parts
from biology.models.model import capture, load_model

KINDS = ("gpt2", "llama", "qwen3", "gemma2", "gemma3")
IDS = [2, 5, 6, 7, 8, 9, 11, 40]


@pytest.fixture(params=KINDS)
def half(request, tmp_path):
    """A model that is stored in half precision."""
    folder = write_tiny_model(tmp_path, request.param)
    stored = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_is_computed_is_what_memory_gives(half):
    inside, mapped = load_model(half), load_model(half, mapped=True)
    assert mapped.dtype == torch.float32
    assert n_parameters(mapped.bridge.original_model) == n_parameters(inside.bridge.original_model)
    one, other = capture(inside, IDS), capture(mapped, IDS)
    assert torch.equal(one.embed, other.embed) and torch.equal(one.resid_final, other.resid_final)
    assert torch.allclose(one.logits, other.logits, atol=1e-5)
    for mine, theirs in zip(inside.weights.layers, mapped.weights.layers, strict=True):
        assert all(torch.equal(getattr(mine, name), getattr(theirs, name)) for name in ("W_Q", "W_K", "W_V", "W_O"))
    x = torch.randn(3, 32)
    for options in ({}, {"demeaned": True}, {"demeaned": True, "gain": inside.weights.ln_final.gain}):
        assert torch.allclose(inside.weights.logits(x, **options), mapped.weights.logits(x, **options), atol=1e-4)
    assert torch.allclose(inside.weights.mean_W_U, mapped.weights.mean_W_U, atol=1e-7)


def test_graphs_are_the_same(half):
    inside, mapped = load_model(half), load_model(half, mapped=True)
    graphs = [attribute(model, random_transcoders(inside), IDS) for model in (inside, mapped)]
    assert len(graphs[0].adjacency) == len(graphs[1].adjacency) > 50
    assert torch.allclose(graphs[0].adjacency, graphs[1].adjacency, atol=1e-5 * float(graphs[0].adjacency.abs().max()))


def test_matrices_stay_as_they_are_stored(half):
    network = load_model(half, mapped=True).bridge.original_model
    mapped = [vars(module)["mapped"] for module in network.modules() if "mapped" in vars(module)]
    assert len(mapped) > 10 and {matrix.dtype for matrix in mapped} == {torch.bfloat16}
    if network.config.model_type == "gpt2":
        return  # its joint matrix of queries, keys and values is taken apart, which makes copies
    assert all(parameter.dim() < 2 for parameter in network.parameters())
    if Path("/proc/self/maps").is_file():
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        ranges = [line[0].split("-") for line in lines if line[-1].startswith(str(half))]
        held = [range(int(start, 16), int(end, 16)) for start, end in ranges]
        assert all(any(matrix.data_ptr() in one for one in held) for matrix in mapped)


def test_parts_are_all_rows():
    matrix = torch.randn(PART // 4096 + 3, 2048).bfloat16()
    parts = list(rows_in_parts(matrix, torch.float32))
    assert len(parts) > 1 and max(part.nbytes for part in parts) <= PART
    assert torch.equal(torch.cat(parts), matrix.float())


def resident(folder):
    """Bytes of a folder's checkpoint that are in this process's memory."""
    found = mapped_to = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            mapped_to = line.endswith(".safetensors") and str(folder) in line
        elif line.startswith("Rss:") and mapped_to:
            found += int(line.split()[1]) << 10
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="the system does not say what is in memory")
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_weights_leave_memory_after_each_use_and_nothing_changes(tmp_path, kind):
    folder = write_tiny_model(tmp_path, kind)
    layers = 3
    model = load_model(folder)
    before, held = capture(model, IDS).logits, resident(folder)
    give_back = free_pages_after_use(model.bridge.original_model)
    left = resident(folder)
    assert held > layers * 4096 and left < held
    after = capture(model, IDS).logits
    assert torch.equal(before, after) and resident(folder) < held
    network = model.bridge.original_model
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters()) and resident(folder) > left
    give_back()
    assert resident(folder) == left


def test_weights_that_are_no_file_stay(half):
    model = load_model(half)  # cast to float32
    before = capture(model, IDS).logits
    free_pages_after_use(model.bridge.original_model)()
    assert torch.equal(before, capture(model, IDS).logits)
