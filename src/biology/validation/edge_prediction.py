"""How well the edges between features predict activation patching, by rule and what is frozen.

An edge of an attribution graph is the direct effect of one feature on another: every MLP between them keeps its output, and so do
attention patterns and norm scales. Here that effect is measured in the model itself. The source is ablated, all other MLP outputs are
held, patterns and scales react, and the target's activation is read (of a transcoder feature its pre-activation). Neurons are read as
they are, so that for them the cost of a rule counts, too.

Source: perturbations with constrained patching, "Circuit Tracing" (Ameisen et al., 2025), appendix on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from biology.attribution.live_effects import FrozenOrLive, LiveEffects
from biology.attribution.replacement import LocalReplacement
from biology.interventions.feature_edits import Sites, edits
from biology.interventions.protocols import intervene, site_activations
from biology.models.model import Model
from biology.transcoders.neurons import Neurons
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet, decoder


def pairs(sites: Sites) -> Bool[Tensor, "target source"]:
    """Which of the features can have a direct effect on which others: those of lower layers, at the same token or before."""
    return (sites.layer[:, None] > sites.layer) & (sites.pos[:, None] >= sites.pos)


def edges(
    model: Model,
    local: LocalReplacement,
    sites: Sites,
    rules: Sequence[str],
    attention: FrozenOrLive,
    norms: FrozenOrLive,
) -> Float[Tensor, "rule target source"]:
    """The edges between features of a prompt under each rule of linearisation (of transcoders there is one: the encoder). `row` of the
    sites is ignored."""
    transcoders, effects, inputs = local.transcoders, LiveEffects(model, local, attention, norms), local.frozen.read
    found = torch.zeros(len(rules), len(sites.layer), len(sites.layer), dtype=model.precision)
    of_layer = {layer: (sites.layer == layer).nonzero()[:, 0] for layer in sites.layer.unique().tolist()}
    active = {
        layer: site_activations(transcoders, layer, inputs[layer][0, sites.pos[at]], sites.feature[at])[1]
        for layer, at in of_layer.items()
    }
    for layer, targets in of_layer.items():
        features, pos, x = sites.feature[targets], sites.pos[targets], inputs[layer][0, sites.pos[targets]]
        vectors = torch.cat([_by(transcoders.layers[layer], rule).readers(features, x)[0] for rule in rules])
        written, _ = effects.gradients(layer, pos.repeat(len(rules)), vectors)
        for lower, sources in of_layer.items():
            for below, gradient in enumerate(written):
                rows = decoder(transcoders, lower, below, sites.feature[sources])
                if rows is not None:
                    made = torch.einsum("tsd,sd->ts", gradient[:, sites.pos[sources]], active[lower][:, None] * rows)
                    found[:, targets[:, None], sources] += made.unflatten(0, (len(rules), -1)).cpu()
    return found


def _by(layer: Transcoder, rule: str) -> Transcoder:
    return replace(layer, rule=rule) if isinstance(layer, Neurons) else layer


def patched(
    model: Model, transcoders: TranscoderSet, ids: Sequence[int], sites: Sites
) -> Float[Tensor, "target source"]:
    """The decrease of each feature's activation when another one is ablated and all MLP outputs but its own are held; NaN for what is
    no pair."""
    count, (target, source) = len(sites.layer), pairs(sites).nonzero().T
    ablated = zip(*(part.tolist() for part in (sites.layer, sites.pos, sites.feature)), strict=True)
    held = edits((row, *site, 0.0) for row, site in enumerate(ablated))
    row = torch.cat([source, torch.full_like(source, count)])  # the last row is not edited
    watch = Sites(row, *(part[target].repeat(2) for part in (sites.layer, sites.pos, sites.feature)))
    outcome = intervene(
        model, transcoders, [list(ids)], torch.zeros(count + 1, dtype=torch.long), held,
        last_layer=model.n_layers - 1, live_attention=True, watch=watch,
    )  # fmt: skip
    after, before = outcome.watched_pre.split(len(source))
    found = torch.full((count, count), torch.nan, dtype=before.dtype)
    found[target, source] = before - after
    return found
