"""Ablating features one by one: the effects are those of interventions, and influence foretells them better than chance."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_transcoders

from biology.attribution.assembly import attribute
from biology.attribution.graph import influence
from biology.interventions.feature_edits import edits
from biology.interventions.protocols import intervene
from biology.validation.ablation import PREDICTORS, ablation_correlations, ablation_effects, predictions, reaching

IDS = [2, 5, 9, 40, 17, 33]


@pytest.fixture(scope="module")
def traced(tiny_model):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model)
    return model, transcoders, attribute(model, transcoders, IDS)


def test_effects_are_those_of_single_ablations(traced):
    model, transcoders, graph = traced
    nodes = reaching(graph)
    effects = ablation_effects(model, transcoders, IDS, graph, nodes)
    for index in (0, len(nodes) // 2, len(nodes) - 1):
        node = nodes[index]
        site = (int(graph.layer[node]), int(graph.pos[node]), int(graph.feature[node]))
        outcome = intervene(
            model, transcoders, [IDS], torch.zeros(2, dtype=torch.long), edits([(0, *site, 0.0)]), last_layer=site[0]
        )
        ablated, clean = torch.distributions.Categorical(logits=outcome.logits[:, 0]), outcome.logits[1, 0]
        expected = (clean.softmax(-1) * (clean.log_softmax(-1) - ablated.logits[0])).sum()
        assert effects[index] == pytest.approx(float(expected), rel=1e-9)
    assert (effects > 0).all()


def test_features_that_cannot_reach_the_output_are_left_out(traced):
    model, transcoders, graph = traced
    features = torch.arange(graph.features.start, graph.features.stop)
    out = features[~torch.isin(features, reaching(graph))]
    assert (
        len(out)
        and bool((graph.layer[out] == model.n_layers - 1).all())
        and bool((graph.pos[out] < len(IDS) - 1).all())
    )
    assert ablation_effects(model, transcoders, IDS, graph, out) == pytest.approx(np.zeros(len(out)), abs=1e-12)
    assert bool((influence(graph)[out] == 0).all())


def test_permuted_influence_stays_in_its_layer(traced):
    _, transcoders, graph = traced
    nodes = reaching(graph)
    found = predictions(transcoders, graph, nodes, np.random.default_rng(0))
    layers = graph.layer[nodes].numpy()
    for shuffled in found["permuted_influence"]:
        for layer in np.unique(layers):
            assert sorted(shuffled[layers == layer]) == sorted(found["influence"][0][layers == layer])
    assert any((shuffled != found["influence"][0]).any() for shuffled in found["permuted_influence"])


def test_influence_foretells_ablation_better_than_its_permutation(traced):
    model, transcoders, _ = traced
    texts = ["w5 w9 w40 w17", "w7 w33 w12 w8", "w11 w13 w4 w50", "w3 w30 w21 w6", "w8 w9 w10 w11", "w44 w2 w19 w25"]
    frame = pd.DataFrame({"prompt": texts, "behaviour": ["a", "b"] * 3, "split": "test"})
    rows = ablation_correlations(model, transcoders, frame)
    value = rows[rows["behaviour"] == "all"].set_index("metric")["value"]
    assert value["influence_foretells_ablation"] > 0.3 > abs(value["permuted_influence_foretells_ablation"])
    for name in PREDICTORS:
        metric = f"{name}_foretells_ablation"
        assert value[f"{metric}_low"] <= value[metric] <= value[f"{metric}_high"]
    assert ablation_correlations(model, transcoders, frame.assign(behaviour="a")).equals(
        ablation_correlations(model, transcoders, pd.concat([frame, frame.assign(split="dev")]).assign(behaviour="a"))
    )


def test_the_agreement_of_a_graph_with_ablation_is_that_of_a_sample_and_high_where_little_is_left_out(tiny_model):
    from biology.validation.ablation import NODES_OF_LARGE, agreement, reaching, sampled

    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    ids = [2, 11, 13, 4, 50]
    graph = attribute(model, transcoders, ids)
    nodes = sampled(graph, reaching(graph), 8, np.random.default_rng(0))
    strongest = influence(graph)[reaching(graph)].topk(4).indices
    assert len(nodes) == 8 and set(reaching(graph)[strongest].tolist()) <= set(nodes.tolist())
    found, n = agreement(model, transcoders, ids, graph)
    assert n == min(NODES_OF_LARGE, len(reaching(graph))) and -1 <= found <= 1
