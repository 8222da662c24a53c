"""How well an attribution predicts the effects of ablations, by rule, target and what is frozen.

An attribution graph freezes attention patterns and norm scales and makes the MLPs linear by a rule. Here the cost of this is
measured on the model itself. Some of a prompt's features are ablated one at a time with everything live. Spearman's rank
correlation is taken between the change of the target and the linear model's prediction, the sum over all paths from the feature to
the target (its activation times the gradient of the target, taken through the linear model).

    rule        half, frozen, gradient: how neurons are linearised (`neurons.py`); encoder: a transcoder feature is linear with its
                encoder's weights, and stays active
    target      logit: of the most probable token, minus the mean logit. contrast: minus that of the second most probable token.
                feature: another of these features, with the MLPs between them held: the edge alone (`edge_prediction.py`)
    attention   frozen or live: whether gradients pass through queries and keys
    norms       frozen or live: whether they pass through the scales of norms

Sources: ablation against influence, "Circuit Tracing" (Ameisen et al., 2025), appendix on validation; the half rule, RelP (Jafari
et al., 2025, arXiv 2508.21258).
"""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from biology.attribution.live_effects import FrozenOrLive, held_hooks
from biology.attribution.replacement import freeze_prompt
from biology.interventions.feature_edits import Sites, edits
from biology.interventions.protocols import intervene
from biology.models.model import Edit, Model, encode, run, token_batch
from biology.tables import evenly_spaced, table
from biology.transcoders.neurons import Neurons
from biology.transcoders.transcoder_set import TranscoderSet, activate, reconstruct
from biology.validation.edge_prediction import edges, pairs, patched

PROMPTS = 32  # prompts per behaviour, evenly spaced
LARGEST, DRAWN, AMONG = 32, 32, 5000
"""The features with the LARGEST largest attributions are ablated, and DRAWN drawn at random among the next AMONG."""
LOGITS = "unembed.hook_out"
"""Logits before the final soft-cap, as in graphs."""
RULES = ("half", "frozen", "gradient")
TARGETS = ("logit", "contrast")  # of outputs


@dataclass(frozen=True)
class Linearisation:
    """How the model is linearised when gradients are taken."""

    rule: str
    attention: FrozenOrLive = "frozen"
    norms: FrozenOrLive = "frozen"


def linearisations(transcoders: TranscoderSet) -> list[Linearisation]:
    """All linearisations that are compared for a set."""
    rules = RULES if isinstance(transcoders.layers[0], Neurons) else ("encoder",)
    return [Linearisation(*one) for one in product(rules, ("frozen", "live"), ("frozen", "live"))]


def attributions(
    model: Model,
    transcoders: TranscoderSet,
    ids: Int[Tensor, " pos"] | Sequence[int],
    token: int,
    other: int | None,
    how: Linearisation,
) -> list[Float[Tensor, "pos feature"]]:
    """Contribution of each feature to the logit of `token` at the last position, minus that of `other` (None: the mean of all).

    One tensor per layer: activation times gradient, through all later layers. Both signs of a neuron are one feature here.
    """
    active: list[Tensor] = []
    _backward(model, ids, token, other, _linear(model, transcoders, how, active))
    return [(values * values.grad).detach()[0] for values in active if values.grad is not None]


def embedding_gradient(
    model: Model, transcoders: TranscoderSet, ids: Int[Tensor, " pos"] | Sequence[int], how: Linearisation | None
) -> Float[Tensor, "pos d_model"]:
    """The gradient, with respect to the embeddings, of the most probable next token's logit minus the mean logit: of a
    linearisation of the model or, if `how` is None, of the model itself."""
    logits, _ = run(model, token_batch(model, ids), positions=-1)
    hooks = [] if how is None else _linear(model, transcoders, how, [])
    found = _backward(model, ids, int(logits[0, 0].argmax()), None, hooks).grad
    assert found is not None
    return found[0]


def _backward(
    model: Model, ids: Int[Tensor, " pos"] | Sequence[int], token: int, other: int | None, hooks: list[tuple[str, Edit]]
) -> Tensor:
    """Computes gradients of a target under some edits; returns the embeddings, with their gradient."""
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().requires_grad_(True))
        return leaves[0]

    with torch.enable_grad():
        _, seen = run(
            model,
            token_batch(model, ids),
            edits=[("hook_embed", leaf), *hooks],
            reads=[LOGITS],
            positions=-1,
            grad=True,
        )
        said = seen[LOGITS][0, 0].double()
        (said[token] - (said.mean() if other is None else said[other])).backward()
    return leaves[0]


def _linear(
    model: Model, transcoders: TranscoderSet, how: Linearisation, active: list[Tensor]
) -> list[tuple[str, Edit]]:
    """Edits that give gradients of a linearised model; `active` receives the activations of every layer."""
    hooks: list[tuple[str, Edit]] = []
    for layer in range(model.n_layers):
        read: dict[str, Tensor] = {}
        hooks.append((f"blocks.{layer}.{transcoders.read_hook}", partial(read.__setitem__, "x")))
        hooks.append(
            (f"blocks.{layer}.{transcoders.write_hook}", partial(_written, transcoders, layer, how, read, active))
        )
    return hooks + [(name, Tensor.detach) for name in held_hooks(model, how.attention, how.norms)]


def _written(
    transcoders: TranscoderSet,
    layer: int,
    how: Linearisation,
    read: dict[str, Tensor],
    active: list[Tensor],
    output: Tensor,
) -> Tensor:
    """A layer's output, unchanged in value, with the gradient of its linearisation."""
    weights, x = transcoders.layers[layer], read.pop("x")
    if isinstance(weights, Neurons):
        values = weights.linear(x.to(weights.b_enc.dtype), how.rule)
    else:
        pre = weights.pre_activations(x)
        values = pre * (activate(transcoders, layer, pre.detach()) != 0)
    values.retain_grad()
    active.append(values)
    if isinstance(weights, Neurons):  # both signs of a neuron are one feature here
        written = values @ weights.W_dec[:, 0]
    else:
        written = reconstruct(transcoders, layer, active, x)
    return written.to(output.dtype) + (output - written.to(output.dtype)).detach()


def largest(attributed: list[Float[Tensor, "pos feature"]], generator: np.random.Generator) -> Sites:
    """The features to ablate: those with the largest attribution, and some drawn among the next; none at the first position."""
    found = [torch.ones(each.shape[0] - 1, each.shape[1]).nonzero() for each in attributed]
    layer = torch.cat([torch.full((len(each),), number) for number, each in enumerate(found)])
    pos, feature = torch.cat(found).T
    size = torch.cat([each[1:].abs().flatten() for each in attributed])
    order = size.argsort(descending=True, stable=True)[: int((size > 0).sum())]
    rest = order[LARGEST : LARGEST + AMONG]
    drawn = rest[torch.from_numpy(generator.permutation(len(rest))[:DRAWN])]
    chosen = torch.cat([order[:LARGEST], drawn]).sort().values
    return Sites(torch.zeros_like(chosen), layer[chosen], pos[chosen] + 1, feature[chosen])


def ablated(
    model: Model,
    transcoders: TranscoderSet,
    ids: Sequence[int],
    sites: Sequence[tuple[int, int, int]],
    token: int,
    other: int,
) -> Float[np.ndarray, "target site"]:
    """The decrease of the two targets when each feature is ablated by itself, everything live."""
    held = edits((row, *site, 0.0) for row, site in enumerate(sites))
    rows = torch.zeros(len(sites) + 1, dtype=torch.long)  # the last one is not edited
    outcome = intervene(model, transcoders, [list(ids)], rows, held, protocol="iterative", live_attention=True)
    assert outcome.pre_logits is not None
    said = outcome.pre_logits[:, 0].double()
    targets = torch.stack([said[:, token] - said.mean(-1), said[:, token] - said[:, other]])
    return (targets[:, -1:] - targets[:, :-1]).numpy()


def correlations(
    model: Model, transcoders: TranscoderSet, ids: Sequence[int], generator: np.random.Generator
) -> list[dict[str, object]]:
    """For one prompt, a row for each target and linearisation: Spearman's correlation with ablation, and the number of features
    ablated."""
    logits, _ = run(model, token_batch(model, ids), positions=-1)
    token, other = logits[0, 0].topk(2).indices.tolist()
    ways = linearisations(transcoders)
    attributed = {how: attributions(model, transcoders, ids, token, other, how) for how in ways}
    chosen = largest(attributed[ways[0]], generator)
    sites = list(zip(*(part.tolist() for part in (chosen.layer, chosen.pos, chosen.feature)), strict=True))
    effects = ablated(model, transcoders, ids, sites, token, other)
    rows: list[dict[str, object]] = []
    for target, effect in zip(TARGETS, effects, strict=True):
        for how in ways:
            made = attributed[how] if target == "contrast" else attributions(model, transcoders, ids, token, None, how)
            guess = [float(made[layer][pos, feature]) for layer, pos, feature in sites]
            rho = float(stats.spearmanr(guess, effect).statistic)
            rows.append(
                {
                    "target": target, "rule": how.rule, "attention": how.attention, "norms": how.norms,
                    "spearman": rho, "n": len(sites),
                }
            )  # fmt: skip
    return rows + _of_edges(model, transcoders, ids, chosen, ways)


def _of_edges(
    model: Model, transcoders: TranscoderSet, ids: Sequence[int], features: Sites, ways: Sequence[Linearisation]
) -> list[dict[str, object]]:
    """For one prompt, a row for each linearisation: the correlation of edges between features with activation patching, and the
    number of pairs."""
    there, effects = pairs(features), patched(model, transcoders, ids, features)
    local = freeze_prompt(model, transcoders, list(ids), positions=[len(ids) - 1])
    rules, found, rows = list(dict.fromkeys(how.rule for how in ways)), {}, []
    for how in ways:
        live = how.attention, how.norms
        if live not in found:
            found[live] = dict(zip(rules, edges(model, local, features, rules, *live), strict=True))
        rho = stats.spearmanr(found[live][how.rule][there].numpy(), effects[there].numpy()).statistic
        row = {"target": "feature", "rule": how.rule, "attention": how.attention, "norms": how.norms}
        rows.append(row | {"spearman": float(rho), "n": int(there.sum())})
    return rows


def predict_ablations(model: Model, transcoders: TranscoderSet, frame: pd.DataFrame) -> pd.DataFrame:
    """Table `ablation_prediction`: the correlations of every prompt.

    `frame` has columns prompt and behaviour, and optionally split (dev is left out); `PROMPTS` of each behaviour are used, evenly
    spaced.
    """
    if "split" in frame:
        frame = frame[frame["split"] != "dev"]  # pyright: ignore[reportAssignmentType]
    generator, rows = np.random.default_rng(0), []
    for row in tqdm(
        list(evenly_spaced(frame, PROMPTS).itertuples()), desc=f"{model.name}: ablating features", mininterval=5
    ):
        found = correlations(model, transcoders, encode(model, row.prompt), generator)
        rows += [{"prompt": row.prompt, "behaviour": row.behaviour, **one} for one in found]
    return table("ablation_prediction", rows)
