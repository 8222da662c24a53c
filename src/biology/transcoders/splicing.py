"""Edits for one forward pass that replace MLP outputs by transcoders' outputs, or by a constant.

The first position keeps its MLPs: it is unlike all others, and no transcoder is trained on it.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from biology.models.model import Edit, Model, run, token_batch
from biology.transcoders.activations import length_batches
from biology.transcoders.transcoder_set import TranscoderSet, encode, reconstruct

Keep = Callable[[int, Tensor], Tensor]
"""From a layer and its activations to the activations that remain."""


def spliced(
    model: Model, transcoders: TranscoderSet, layers: Iterable[int] | None = None, keep: Keep | None = None, *,
    errors: Sequence[Float[Tensor, "pos d_model"]] | None = None,
) -> list[tuple[str, Edit]]:  # fmt: skip
    """Edits that replace the MLP outputs of some layers (default: all) by the transcoders' outputs. Use them for one
    pass only.

    `errors` are added to each layer's output. With the errors of a prompt the sum is the MLPs' output on it.
    """
    replaced = sorted(range(model.n_layers) if layers is None else layers)
    reading = range(max(replaced) + 1) if transcoders.kind == "cross_layer" else replaced
    inputs: dict[int, Tensor] = {}
    activations: dict[int, Tensor] = {}

    def read(layer: int) -> Edit:
        def seen(tensor: Tensor) -> None:
            found = encode(transcoders, layer, tensor)
            inputs[layer], activations[layer] = tensor, found if keep is None else keep(layer, found)

        return seen

    def write(layer: int) -> Edit:
        def replace(tensor: Tensor) -> Tensor:
            known = [activations.get(source, activations[layer]) for source in range(layer + 1)]  # others are not read
            made = reconstruct(transcoders, layer, known, inputs[layer])
            made = made if errors is None else made + errors[layer]
            return torch.cat([tensor[:, :1], made[:, 1:].to(tensor.dtype)], 1)

        return replace

    edits: list[tuple[str, Edit]] = []
    for layer in range(model.n_layers):
        if layer in reading:
            edits.append((f"blocks.{layer}.{transcoders.read_hook}", read(layer)))
        if layer in replaced:
            edits.append((f"blocks.{layer}.{transcoders.write_hook}", write(layer)))
    return edits


def constant(hook: str, layer: int, value: Float[Tensor, " d_model"]) -> tuple[str, Edit]:
    """An edit that replaces the tensor at a hook (named within its block) by a constant, except at the first
    position."""

    def replace(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[:, :1], value.expand_as(tensor[:, 1:])], 1)

    return f"blocks.{layer}.{hook}", replace


def mean_outputs(
    model: Model, hook: str, ids: Sequence[Sequence[int]], batch: int, ignored: int | None = None
) -> list[Float[Tensor, " d_model"]]:
    """Mean of the tensor at a hook of each block, over all positions but the first, `ignored` tokens left out."""
    names = [f"blocks.{layer}.{hook}" for layer in range(model.n_layers)]
    total = [torch.zeros(model.d_model, dtype=torch.float64, device=model.device) for _ in names]
    count = 0
    for _, rows in length_batches(ids, batch):
        rows = token_batch(model, rows)
        _, seen = run(model, rows, reads=names, positions=-1)
        inside = (rows[:, 1:] != ignored) if ignored is not None else None
        for layer, name in enumerate(names):
            passing = seen[name][:, 1:].double()
            total[layer] += (passing if inside is None else passing * inside[..., None]).sum((0, 1))
        count += rows[:, 1:].numel() if inside is None else int(inside.sum())
    return [(each / max(1, count)).to(model.dtype) for each in total]
