"""Reads and exchanges MLP outputs and residual streams of a transformers network, in a pass through which gradients
flow."""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.organisms.variable_sites import Site


@dataclass(frozen=True)
class Patch:
    """Values that replace MLP outputs, or the residual stream, at a site of some rows."""

    site: Site
    rows: Int[Tensor, " patched"]
    position: Int[Tensor, " patched"]
    value: dict[int, Float[Tensor, "patched d_model"]]
    """The new values, by layer."""
    what: Literal["mlp", "stream"] = "mlp"

    def put(self, tensor: Float[Tensor, "row pos d_model"], layer: int) -> Float[Tensor, "row pos d_model"]:
        """The tensor with a layer's new values at the site; only in the site's subspace, if it has one."""
        index = self.rows, self.position
        own, new = tensor[index], self.value[layer]
        if self.site.basis is not None:
            new = own + (new - own) @ self.site.basis @ self.site.basis.T
        return tensor.index_put(index, new)


Part = tuple[int, str]
"""A layer, and one of the two projections that determine attention patterns."""


PROJECTIONS = ("q_proj", "k_proj")


@dataclass
class Seen:
    """What a pass recorded: MLP outputs and streams after each layer, queries and keys, and the last hidden states."""

    outputs: dict[int, Float[Tensor, "rows pos d_model"]]
    streams: dict[int, Float[Tensor, "rows pos d_model"]]
    patterns: dict[Part, Float[Tensor, "rows pos heads"]]
    hidden: Float[Tensor, "rows pos d_model"] = field(default_factory=lambda: torch.zeros(0))


class Tap:
    """Reads and exchanges MLP outputs and streams of a transformers Llama, with gradients."""

    def __init__(self, model):
        self.model = model
        self.layers = model.model.layers

    @contextmanager
    def _hooked(self, patches: Sequence[Patch], seen: Seen, patterns: Mapping[Part, Tensor] | None) -> Iterator[None]:
        def patched(what: str, layer: int, tensor: Tensor) -> Tensor:
            for patch in patches:
                if patch.what == what and layer in patch.value:
                    tensor = patch.put(tensor, layer)
            return tensor

        def at_mlp(layer: int):
            def hook(module, inputs, output):
                seen.outputs[layer] = patched("mlp", layer, output)
                return seen.outputs[layer]

            return hook

        def at_block(layer: int):
            def hook(module, inputs, output):
                whole = isinstance(output, tuple)
                seen.streams[layer] = patched("stream", layer, output[0] if whole else output)
                return (seen.streams[layer], *output[1:]) if whole else seen.streams[layer]

            return hook

        def at_projection(part: Part):
            def hook(module, inputs, output):
                seen.patterns[part] = output if patterns is None else patterns[part]
                return seen.patterns[part]

            return hook

        handles = []
        for layer, block in enumerate(self.layers):
            handles += [block.mlp.register_forward_hook(at_mlp(layer)), block.register_forward_hook(at_block(layer))]
            for name in PROJECTIONS:
                handles.append(getattr(block.self_attn, name).register_forward_hook(at_projection((layer, name))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(
        self, ids: Int[Tensor, "rows pos"], patches: Sequence[Patch] = (), patterns: Mapping[Part, Tensor] | None = None
    ) -> Seen:
        """One pass. `patterns` (queries and keys of another pass, one row for each) freezes the attention patterns."""
        seen = Seen({}, {}, {})
        with self._hooked(patches, seen, patterns):
            seen.hidden = self.model.model(ids, use_cache=False).last_hidden_state
        return seen
