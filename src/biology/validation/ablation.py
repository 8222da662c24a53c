"""Does influence in the graph predict the effects of ablations? ("Circuit Tracing", appendix on validation, reports a Spearman
correlation of 0.72; our claim meth-8.)

On each prompt every active feature that can reach the output is ablated by itself; on a large model, a sample of these features. An
ablation sets the feature to 0; MLP outputs up to its layer are otherwise held, attention patterns are frozen, later MLPs are live.
Spearman's rank correlation is taken over the features of a prompt, between the divergence of the outputs and the graph's
prediction. It is compared with two simpler predictions, and with influence permuted within layers: what a feature's layer alone
predicts.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from biology.attribution.assembly import attribute
from biology.attribution.graph import Graph, influence
from biology.interventions.clean_passes import CleanPasses
from biology.interventions.feature_edits import edits
from biology.interventions.protocols import intervene
from biology.models.model import Model, encode
from biology.tables import evenly_spaced
from biology.transcoders.transcoder_set import TranscoderSet

PROMPTS = 8  # prompts per behaviour
NODES_OF_GRAPH = 1000  # for a large model, chosen by influence
NODES_OF_LARGE = 64
"""Number of nodes ablated on a prompt of a large model (`Model.large`): half are the most influential, half are drawn at random."""
WORKING = 64 << 20
"""Largest number of bytes for the rows of ablations at a time, whatever the machine has: a graph may have taken the rest."""
PERMUTATIONS = 20
PREDICTORS = ("influence", "direct_edge", "activation", "permuted_influence")


def reaching(graph: Graph) -> Int[Tensor, " feature"]:
    """Feature nodes that can affect the last position. Features of the last layer at other positions cannot, and predicting no
    effect for them would be too easy."""
    last_layer, last_pos = graph.metadata["n_layers"] - 1, int(graph.pos.max())
    features = torch.arange(graph.features.start, graph.features.stop)
    return features[(graph.layer[features] < last_layer) | (graph.pos[features] == last_pos)]


def sampled(
    graph: Graph, nodes: Int[Tensor, " feature"], most: int, generator: np.random.Generator
) -> Int[Tensor, " chosen"]:
    """At most `most` of the nodes, in the order of the graph: half are the most influential, the others are drawn at random."""
    if len(nodes) <= most:
        return nodes
    order = nodes[influence(graph)[nodes].argsort(descending=True, stable=True)]
    drawn = generator.permutation(np.arange(most // 2, len(nodes)))[: most - most // 2]
    return torch.cat([order[: most // 2], order[torch.from_numpy(drawn)]]).sort().values


def ablation_effects(
    model: Model, transcoders: TranscoderSet, ids: list[int], graph: Graph, nodes: Int[Tensor, " feature"]
) -> Float[np.ndarray, " feature"]:
    """The divergence caused by ablating each feature node, with its layer held and attention patterns frozen."""
    effects, passes = np.zeros(len(nodes)), CleanPasses(model, transcoders)
    for layer in graph.layer[nodes].unique().tolist():  # so that nothing is held above a feature's layer
        mine = (graph.layer[nodes] == layer).nonzero().flatten()
        effects[mine.numpy()] = _divergences(
            model, transcoders, ids, graph, nodes[mine], last_layer=layer, passes=passes
        )
    return effects


def _divergences(
    model: Model,
    transcoders: TranscoderSet,
    ids: list[int],
    graph: Graph,
    nodes: Int[Tensor, " feature"],
    **settings: Any,
) -> Float[np.ndarray, " feature"]:
    """KL divergence in nats of the next-token distribution from the clean one, for each feature node ablated by itself, with these
    settings of `intervene`."""
    sites = torch.stack([graph.layer, graph.pos, graph.feature], 1)[nodes].tolist()
    ablated = edits((row, *site, 0.0) for row, site in enumerate(sites))
    rows = torch.zeros(len(sites) + 1, dtype=torch.long)  # the last one is not edited
    outcome = intervene(model, transcoders, [ids], rows, ablated, **settings)
    log_p = outcome.logits[:, 0].double().log_softmax(-1)
    return (log_p[-1].exp() * (log_p[-1] - log_p[:-1])).sum(-1).numpy()


def agreement(model: Model, transcoders: TranscoderSet, ids: list[int], graph: Graph) -> tuple[float, int]:
    """Spearman's correlation of a graph's influence with the effects of ablations, everything live, over a sample of its feature
    nodes; and the number of these nodes. NaN for fewer than two."""
    nodes = sampled(graph, reaching(graph), NODES_OF_LARGE, np.random.default_rng(0))
    if len(nodes) < 2:
        return float("nan"), len(nodes)
    at_once = max(1, WORKING // _bytes_of_a_layer(model, len(ids)))
    effects = _divergences(
        model, transcoders, ids, graph, nodes, protocol="iterative", live_attention=True, batch_size=at_once
    )
    return spearman(influence(graph)[nodes].numpy(), effects), len(nodes)


def _bytes_of_a_layer(model: Model, n_pos: int) -> int:
    """Approximate bytes of one row in a layer: scores and patterns of its heads, residual streams, neurons."""
    heads, width = len(model.weights.layers[0].W_V), model.d_model
    return model.dtype.itemsize * n_pos * (3 * heads * n_pos + 8 * width + 3 * model.bridge.cfg.d_mlp)


def predictions(
    transcoders: TranscoderSet, graph: Graph, nodes: Int[Tensor, " feature"], generator: np.random.Generator
) -> dict[str, list[Float[np.ndarray, " feature"]]]:
    """Predictions of the effect of ablating each feature; the permuted influence is given several times."""
    layers = graph.layer[nodes].numpy()
    total = influence(graph)[nodes].numpy()
    direct = (graph.adjacency[graph.logits, nodes].double().abs() * graph.weights[graph.logits, None]).sum(0)
    size = np.zeros(len(nodes))
    permuted = np.tile(total, (PERMUTATIONS, 1))
    for layer in np.unique(layers).tolist():
        here = np.flatnonzero(layers == layer)
        written = transcoders.layers[layer].decoders(graph.feature[nodes][here]).double().flatten(1)
        size[here] = (graph.activation[nodes][here].double() * written.norm(dim=1)).numpy()
        permuted[:, here] = generator.permuted(permuted[:, here], axis=1)
    return {
        "influence": [total],
        "direct_edge": [direct.numpy()],
        "activation": [size],
        "permuted_influence": list(permuted),
    }


def ablation_correlations(
    model: Model, transcoders: TranscoderSet, frame: pd.DataFrame, most: int = PROMPTS
) -> pd.DataFrame:
    """Rows of table `fidelity`: per behaviour and over all prompts, the median Spearman correlation of each prediction with the
    effects of ablations; over all prompts also its 95 % interval (order statistics of the prompts).

    `frame` has columns prompt and behaviour, and optionally split (dev is left out); at most `most` of each behaviour are used, evenly
    spaced.
    """
    frame = frame[frame["split"] != "dev"] if "split" in frame else frame
    prompts = evenly_spaced(frame, most)
    generator, found = np.random.default_rng(0), []
    for prompt in tqdm(prompts["prompt"], desc=f"{model.name}: ablating every feature", mininterval=5):
        ids = encode(model, prompt)
        graph = attribute(model, transcoders, ids, max_feature_nodes=NODES_OF_GRAPH if model.large else None)
        nodes = reaching(graph)
        nodes = sampled(graph, nodes, NODES_OF_LARGE, generator) if model.large else nodes
        effects = ablation_effects(model, transcoders, ids, graph, nodes)
        candidates = predictions(transcoders, graph, nodes, generator)
        found.append(
            {name: np.mean([spearman(predicted, effects) for predicted in candidates[name]]) for name in PREDICTORS}
        )
    measured = pd.DataFrame(found).dropna()  # prompts with no or one feature have no correlation
    rows: list[dict[str, object]] = []
    for name in PREDICTORS:
        metric = f"{name}_foretells_ablation"
        if measured.empty:
            break
        interval = stats.quantile_test(measured[name].to_numpy(), p=0.5).confidence_interval()
        values = {metric: float(measured[name].median())}
        bounds = {f"{metric}_low": float(interval.low), f"{metric}_high": float(interval.high)}
        values |= {name: bound for name, bound in bounds.items() if np.isfinite(bound)}  # few prompts have no interval
        rows += [{"layer": "all", "behaviour": "all", "metric": key, "value": value} for key, value in values.items()]
        for behaviour, median in measured.groupby(prompts["behaviour"])[name].median().items():
            rows.append({"layer": "all", "behaviour": behaviour, "metric": metric, "value": float(median)})
    return pd.DataFrame(rows)


def spearman(predicted: np.ndarray, effects: np.ndarray) -> float:
    """Spearman's rank correlation; NaN for fewer than two values, or if one side is constant."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(effects) == 0:
        return float("nan")
    return float(stats.spearmanr(predicted, effects).statistic)
