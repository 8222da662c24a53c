"""The self-test of a model passes where freezing holds, and fails where it does not."""

from dataclasses import replace

import pytest
import torch
from conftest import KINDS

from biology.models.freezing import self_test
from biology.records import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_holds_and_weights_are_the_models(tiny_model, kind):
    assert self_test(tiny_model(kind)) < 1e-5
    assert self_test(tiny_model(kind, torch.float64)) < 1e-12
    assert self_test(tiny_model(kind, torch.bfloat16)) < 0.05


class OnlyObserved:
    """A hook point that shows its tensor and ignores what a hook returns, as some architectures' patterns do."""

    def __init__(self, point):
        self.__dict__["point"] = point

    def add_hook(self, function):
        self.point.add_hook(lambda tensor, hook: (function(tensor, hook=hook), None)[1])

    def __getattr__(self, name):
        return getattr(self.point, name)

    def __setattr__(self, name, value):
        setattr(self.point, name, value)


def test_self_test_refuses_patterns_that_are_only_observed(tiny_model):
    model = tiny_model("llama")
    hooks = {name: OnlyObserved(hook) if "pattern" in name else hook for name, hook in model.hooks.items()}
    with pytest.raises(InputError, match="only observed"):
        self_test(replace(model, hooks=hooks))


def test_self_test_refuses_wrong_weights(tiny_model):
    model = replace(tiny_model("gemma2"))
    right = model.weights
    layer = replace(right.layers[0], ln1=replace(right.layers[0].ln1, gain=right.layers[0].ln1.gain - 1))
    model.__dict__["weights"] = replace(right, layers=(layer, *right.layers[1:]))
    with pytest.raises(InputError, match="freezing does not hold"):
        self_test(model)
