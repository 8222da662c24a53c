"""A cache holds what one forward pass per prompt shows, whatever the batches were."""

import pytest
import torch
from conftest import random_transcoders
from safetensors.torch import load_file, save_file

from biology.models.model import capture
from biology.records import InputError
from biology.transcoders.activations import cache_dense, cache_features, length_batches, pack, unpack
from biology.transcoders.transcoder_set import encode

PROMPTS = [[2, 5, 9, 40], [2, 7], [2, 11, 13, 4, 50], [2, 90], [2, 6, 9, 41], [2, 8, 9, 42]]


def test_batches_are_of_one_length_and_cover_all():
    batches = list(length_batches(PROMPTS, 2))
    assert [places.tolist() for places, _ in batches] == [[1, 3], [0, 4], [5], [2]]
    assert all([PROMPTS[place] for place in places] == ids.tolist() for places, ids in batches)
    with pytest.raises(InputError, match="batch_size"):
        list(length_batches(PROMPTS, 0))
    assert not list(length_batches([], 2))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_dense_cache(tiny_model, batch_size):
    model = tiny_model("gemma2", torch.float64)
    hooks = dict(read_hook="ln2.hook_normalized", write_hook="mlp.hook_out")
    cache = cache_dense(model, PROMPTS, **hooks, batch_size=batch_size)
    for place, prompt in enumerate(PROMPTS):
        seen, own = capture(model, prompt, **hooks), cache.prompt(place)
        assert cache.ids[own].tolist() == prompt
        assert torch.allclose(cache.read[:, own], torch.cat(seen.read), atol=1e-12)
        assert torch.allclose(cache.write[:, own], torch.cat(seen.write), atol=1e-12)
        assert torch.allclose(cache.logits[place], seen.logits[0, -1], atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_feature_cache(tiny_model, activation):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model, activation=activation)
    cache = cache_features(model, transcoders, PROMPTS, batch_size=2)
    for place, prompt in enumerate(PROMPTS):
        seen = capture(model, prompt)
        assert torch.allclose(cache.logits[place], seen.logits[0, -1], atol=1e-12)
        for layer in range(3):
            dense = encode(transcoders, layer, seen.read[layer][0])
            for pos in range(len(prompt)):
                features, values = cache.cell(place, layer, pos)
                assert features.tolist() == dense[pos].nonzero()[:, 0].tolist()
                assert torch.allclose(values, dense[pos, features.long()], atol=1e-12)
            sites = torch.cartesian_prod(torch.arange(len(prompt)), torch.arange(48))
            here = [torch.full((len(sites),), number) for number in (place, layer)]
            assert torch.allclose(cache.at(*here, *sites.unbind(1)).reshape(dense.shape), dense, atol=1e-12)


def test_caches_survive_the_disk_and_are_the_same_each_time(tiny_model, tmp_path):
    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    caches = [
        lambda: cache_features(model, transcoders, PROMPTS, batch_size=2),
        lambda: cache_dense(model, PROMPTS, read_hook="mlp.hook_in", write_hook="hook_mlp_out"),
    ]
    for number, make in enumerate(caches):
        first, second = tmp_path / f"{number}a.safetensors", tmp_path / f"{number}b.safetensors"
        save_file(pack(make()), first)
        save_file(pack(make()), second)
        assert first.read_bytes() == second.read_bytes()
        again = unpack(load_file(first))
        assert type(again) is type(make())
        assert all(value.equal(pack(again)[name]) for name, value in pack(make()).items())
    with pytest.raises(InputError, match="is not a cache"):
        unpack({"ids": torch.zeros(1)})


def test_bad_prompts(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="outside its vocabulary"):
        cache_features(model, random_transcoders(model), [[2, 100]])
    with pytest.raises(InputError, match="empty"):
        cache_features(model, random_transcoders(model), [[]])
    assert len(cache_features(model, random_transcoders(model), []).value) == 0
