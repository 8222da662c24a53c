"""Which attention heads an output depends on: the heads to look at first with `qk`.

Everything but the active features is frozen, and features respond linearly, as in an attribution graph. The effect of a
head is the sum over all paths of the graph from the head's output to the target, through features or past them. If a
head's frozen pattern is set to zero in this linear model, the target falls by the head's effect. One pass down the
model gives all heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attention.edge_heads import attention_steps, gradients
from biology.attribution import targets as target_nodes
from biology.attribution.replacement import LocalReplacement, freeze_prompt
from biology.attribution.targets import Explained, Target
from biology.models.model import Model, token_batch
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet, activate, decoder, pre_activations


@dataclass(frozen=True, eq=False)
class OutputHeads:
    """What a target loses without each head; and each head's largest attention step, from position `key` to position
    `query`, with the attention there. `pre_activation` is the target's value: a logit, or a difference of two."""

    label: str
    pre_activation: float
    effect: Float[Tensor, "layer head"]
    query: Int[Tensor, "layer head"]
    key: Int[Tensor, "layer head"]
    step: Float[Tensor, "layer head"]
    attention: Float[Tensor, "layer head"]

    def strongest(self, n: int) -> list[tuple[int, int]]:
        """The n heads (layer, head) with the largest |effect|, largest first; heads without effect are left out."""
        order = self.effect.abs().flatten().argsort(descending=True, stable=True)[:n].tolist()
        places = [divmod(place, self.effect.shape[1]) for place in order]
        return [place for place in places if self.effect[place] != 0]


def output_heads(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Int[Tensor, " pos"] | Sequence[int],
    target: Target | None = None,
    *,
    explain: Explained = "logits",
    first_position: int = 1,
    query: int | None = None,
    key: int | None = None,
) -> OutputHeads:
    """The effects of all heads on an output.

    Args:
        target: what to explain; None: what `explain` chooses for the prompt's next token (see `attribute`).
        query, key: positions, negative ones counted from the end: restrict the step reported for each head to this
            query, or to this key.

    Raises InputError for a target or position that does not exist, as `attribute` does.
    """
    ids = token_batch(model, torch.as_tensor(token_ids, dtype=torch.long).view(1, -1))
    wanted = None if target is None else [target]
    (place,) = target_nodes.positions(wanted, -1, ids.shape[1])
    for given in (query, key):
        if given is not None and not -ids.shape[1] <= given < ids.shape[1]:
            raise InputError(f"position {given} lies outside the prompt of {ids.shape[1]} tokens")
    query, key = (None if given is None else given % ids.shape[1] for given in (query, key))
    for given in (query, key):
        if given is not None and given > place:
            raise InputError(f"position {given} comes after position {place}, where the output is")
    ids = ids[:, : place + 1]
    local = freeze_prompt(model, transcoders.to(model.device, model.precision), ids, positions=[place])
    readout = target_nodes.resolve(
        model, local, wanted, [place], [place], max_logits=1, logit_probability=1.0, explain=explain
    )[0]
    shape = (model.n_layers, local.frozen.pattern[0].shape[1])
    effect, step, attention = (local.frozen.embed.new_zeros(shape) for _ in range(3))
    at = torch.zeros(*shape, 2, dtype=torch.long, device=effect.device)

    def features(layer: int, writes: Mapping[int, Tensor]) -> Tensor:
        return _through_features(local, layer, writes, first_position)

    for layer, g in gradients(local, [readout], features):
        steps = attention_steps(local, layer, g, _values(local, layer))[0]
        effect[layer] = steps.sum((1, 2))
        allowed = torch.zeros_like(steps)
        allowed[:, _only(query), _only(key)] = steps[:, _only(query), _only(key)]
        best = allowed.flatten(1).abs().argmax(1)
        head = torch.arange(shape[1], device=best.device)
        at[layer] = torch.stack([best // steps.shape[2], best % steps.shape[2]], 1)
        step[layer] = allowed.flatten(1)[head, best]
        attention[layer] = local.frozen.pattern[layer][0][head, at[layer, :, 0], at[layer, :, 1]]
    return OutputHeads(readout.label, readout.pre_activation, effect, at[..., 0], at[..., 1], step, attention)


def _only(place: int | None) -> slice:
    return slice(None) if place is None else slice(place, place + 1)


def _through_features(
    local: LocalReplacement, layer: int, writes: Mapping[int, Tensor], first_position: int
) -> Float[Tensor, "pos one d_model"]:
    """The gradient at the input of a layer's transcoder, through its active features; `writes` are the gradients at the
    MLP outputs of this layer and those above."""
    transcoder, seen = local.transcoders.layers[layer], local.frozen.read[layer][local.row]
    values = activate(local.transcoders, layer, pre_activations(local.transcoders, layer, seen[first_position:]))
    pos, feature = values.nonzero(as_tuple=True)
    pos = pos + first_position
    effect = seen.new_zeros(len(pos))
    for target, g in writes.items():
        rows = decoder(local.transcoders, layer, target, feature)
        if rows is not None:
            effect += (rows * g[pos, 0]).sum(1)
    vectors, _ = transcoder.readers(feature, seen[pos])
    return torch.zeros_like(writes[layer]).index_add_(0, pos, (effect[:, None] * vectors)[:, None])


def _values(local: LocalReplacement, layer: int) -> Float[Tensor, "one pos head d_head"]:
    """The values of all heads in the unmodified forward pass."""
    weights, frozen = local.weights.layers[layer], local.frozen
    x = weights.ln1.centre(frozen.resid_pre[layer][local.row]) / frozen.scale1[layer][local.row] * weights.ln1.gain
    if weights.ln1.bias is not None:
        x = x + weights.ln1.bias
    values = torch.einsum("kd,hde->khe", x, weights.W_V)
    return (values if weights.b_V is None else values + weights.b_V)[None]
