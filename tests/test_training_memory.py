"""The plan counts what is there: a model's weights, a pool's activations, a dictionary with gradients and moments."""

import pytest
import torch

from biology.dictionaries import training_memory as memory
from biology.dictionaries.cross_layer_training import CrossLayer
from biology.dictionaries.dictionary_training import DictionaryRecipe, LayerTraining
from biology.records import InputError


def test_a_plan_counts_what_training_holds(tiny_model):
    model = tiny_model("llama")
    kept = dict(n_features=50, batch=64, pool=1000)
    plt = memory.plan(model, cross_layer=False, skip=True, **kept)
    clt = memory.plan(model, cross_layer=True, skip=False, **kept)
    weights = sum(parameter.numel() for parameter in model.bridge.original_model.parameters())
    assert plt.model == clt.model == 4 * weights
    x = torch.randn(100, 32)
    layer = LayerTraining(x, x, DictionaryRecipe(n_features=50, skip=True), 0)
    trained = 3 * sum(parameter.numel() for parameter in layer.parameters())
    assert plt.dictionary == pytest.approx(16 * trained, rel=0.02)
    cross = sum(parameter.numel() for parameter in CrossLayer([50] * 3, 32).parameters())
    assert clt.dictionary == pytest.approx(16 * cross, rel=0.02)
    assert plt.activations >= 2 * 3 * 1000 * 32 * 4
    assert plt.total == plt.model + plt.activations + plt.dictionary + plt.batch
    assert f"{plt.total / 2**30:.3f} GiB" in plt.text()


def test_pools_fit_into_their_budget(tiny_model):
    model = tiny_model("llama")
    for budget in (1 << 20, 1 << 30):
        tokens = memory.tokens_that_fit(model, budget)
        held = memory.plan(model, cross_layer=False, skip=False, n_features=1, batch=1, pool=tokens).activations
        assert 0.9 * budget < held <= budget


def test_what_does_not_fit_is_refused():
    memory.require(memory.MemoryPlan(1, 1, 1, 1), torch.device("cpu"))
    with pytest.raises(InputError, match="training needs 1048576.0 GiB and .* are free on cpu"):
        memory.require(memory.MemoryPlan(0, 1 << 50, 0, 0), torch.device("cpu"))
