"""Estimates the memory that training transcoders needs, before anything is computed."""

from dataclasses import dataclass

import torch

from biology.models import memory
from biology.models.model import Model
from biology.records import InputError

FLOAT = 4
"""Bytes per number in training, whatever the model's precision."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the peak of training."""

    model: int
    activations: int
    dictionary: int
    batch: int

    @property
    def total(self) -> int:
        return self.model + self.activations + self.dictionary + self.batch

    def text(self) -> str:
        gib = 2**30
        parts = {
            "model weights": self.model,
            "activations of one pool": self.activations,
            "dictionary with gradients and moments": self.dictionary,
            "one batch": self.batch,
            "in all, beside some 0.5 GiB for Python": self.total,
        }
        return "\n".join(f"memory plan: {size / gib:8.3f} GiB  {name}" for name, size in parts.items())


def plan(model: Model, *, cross_layer: bool, skip: bool, n_features: int, batch: int, pool: int) -> MemoryPlan:
    """The plan for `n_features` features per layer and `pool` tokens whose activations are in memory at a time."""
    layers, width, item = model.n_layers, model.d_model, model.dtype.itemsize
    parameters = sum(p.numel() * p.element_size() for p in model.bridge.original_model.parameters())
    targets = (layers + 1) / 2 if cross_layer else 1
    weights = layers * (n_features * (width * (1 + targets) + 2) + width + (width * width if skip else 0))
    own = 2 * layers * width * item * pool  # input and output at every layer
    in_training = 0 if cross_layer else 4 * width * FLOAT * pool  # one layer, with and without normalisation
    held = 3 * n_features * (layers if cross_layer else 1) + 4 * layers * width  # a batch's activations and errors
    return MemoryPlan(int(parameters), 2 * own + in_training, int(4 * weights * FLOAT), batch * held * FLOAT)


def tokens_that_fit(model: Model, budget: int) -> int:
    """Number of tokens whose activations, with their copies, fit into `budget` bytes."""
    each = 4 * model.n_layers * model.d_model * model.dtype.itemsize + 4 * model.d_model * FLOAT
    return max(1, budget // each)


def require(plan: MemoryPlan, device: torch.device) -> None:
    """Raises InputError if the plan exceeds the free memory of the device."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + plan.model  # the model is loaded already
    else:
        free = memory.free() + plan.model
    if plan.total > free:
        raise InputError(
            f"training needs {plan.total / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on {device}: "
            "give a smaller --memory (activations) or fewer --features, or --dtype bfloat16"
        )
