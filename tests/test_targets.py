"""Targets are the read-outs they claim to be, and impossible ones are refused in one clear line."""

import pytest
import torch
from conftest import random_transcoders

from biology.attribution.assembly import attribute
from biology.attribution.targets import ContrastTarget, DirectionTarget, FeatureTarget, TokenTarget, probable_tokens
from biology.models.model import run
from biology.records import InputError

IDS = [2, 5, 17, 33, 8, 61, 40]


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("gemma2", torch.float64)


@pytest.fixture(scope="module")
def transcoders(model):
    return random_transcoders(model)


def target_rows(graph):
    return graph.adjacency[graph.logits]


def test_probable_tokens_reach_the_share_and_no_further():
    probabilities = torch.tensor([0.1, 0.5, 0.3, 0.1])
    assert probable_tokens(probabilities, 10, 0.5).tolist() == [1]
    assert probable_tokens(probabilities, 10, 0.51).tolist() == [1, 2]
    assert len(probable_tokens(probabilities, 3, 1.0)) == 3
    assert len(probable_tokens(probabilities, 10, 0.95)) == 4


def test_default_targets_are_the_models_most_probable_tokens(model, transcoders):
    graph = attribute(model, transcoders, IDS, max_logits=4)
    logits, found = run(model, torch.tensor([IDS]), reads=["unembed.hook_out"])
    expected = logits[0, -1].softmax(-1).topk(4)  # soft-capped probabilities
    assert graph.token_id[graph.logits].tolist() == expected.indices.tolist()
    torch.testing.assert_close(graph.probability[graph.logits], expected.values)
    before = found["unembed.hook_out"][0, -1]  # read-outs are logits before the soft-cap, demeaned
    torch.testing.assert_close(graph.pre_activation[graph.logits], (before - before.mean())[expected.indices])


def test_a_contrast_is_the_difference_of_two_logits(model, transcoders):
    graph = attribute(model, transcoders, IDS, targets=[7, TokenTarget(9), ContrastTarget(7, 9)])
    one, other, contrast = target_rows(graph)
    torch.testing.assert_close(contrast, one - other)
    pre = graph.pre_activation[graph.logits]
    torch.testing.assert_close(pre[2], pre[0] - pre[1])
    assert graph.metadata["target_labels"][2] == "w3 - w5"
    assert graph.probability[graph.logits][2] == 1


def test_a_direction_is_any_combination_of_logits(model, transcoders):
    W_U = model.weights.W_U
    both = DirectionTarget(W_U[7] + W_U[9] - 2 * W_U.mean(0), "both")
    graph = attribute(model, transcoders, IDS, targets=[7, 9, both])
    rows = target_rows(graph)
    torch.testing.assert_close(rows[2], rows[0] + rows[1])
    assert graph.token_id[graph.logits].tolist() == [7, 9, -1] and graph.metadata["target_labels"][2] == "both"


def test_a_feature_target_has_the_features_own_row(model, transcoders):
    whole = attribute(model, transcoders, IDS)
    index = int(((whole.layer == 2) & (whole.kind == 0)).nonzero()[3])
    layer, pos, feature = int(whole.layer[index]), int(whole.pos[index]), int(whole.feature[index])
    graph = attribute(model, transcoders, IDS, targets=[FeatureTarget(layer, pos, feature)])
    assert int(graph.layer[graph.features].max()) == 1  # no feature of its layer can reach it
    assert graph.metadata["token_ids"] == IDS[: pos + 1]
    row = target_rows(graph)[0]
    node = {key: i for i, key in enumerate(zip(whole.kind.tolist(), whole.layer.tolist(), whole.pos.tolist(), whole.feature.tolist()))}  # fmt: skip  # noqa: B905, E501
    for i in range(graph.logits.start):
        key = (int(graph.kind[i]), int(graph.layer[i]), int(graph.pos[i]), int(graph.feature[i]))
        torch.testing.assert_close(row[i], whole.adjacency[index, node[key]])
    torch.testing.assert_close(graph.pre_activation[-1], whole.pre_activation[index])
    torch.testing.assert_close(graph.bias[-1], whole.bias[index])
    direction = DirectionTarget(transcoders.layers[layer].W_enc[feature], layer=layer, position=pos)
    same = attribute(model, transcoders, IDS, targets=[direction])
    torch.testing.assert_close(target_rows(same), target_rows(graph))
    assert same.metadata["row_residual"] <= 1e-10


def test_an_earlier_position_is_the_graph_of_the_shorter_prompt(model, transcoders):
    short = attribute(model, transcoders, IDS[:4])
    early = attribute(model, transcoders, IDS, position=3)
    torch.testing.assert_close(early.adjacency, short.adjacency)
    assert early.metadata["token_ids"] == IDS[:4]


def test_targets_at_several_positions_share_a_graph(model, transcoders):
    graph = attribute(model, transcoders, IDS, targets=[TokenTarget(7, 3), TokenTarget(7, -1)])
    assert graph.pos[graph.logits].tolist() == [3, 6]
    assert graph.metadata["row_residual"] <= 1e-10
    rows = target_rows(graph)
    assert float(rows[0, graph.pos > 3].abs().max()) == 0
    alone = attribute(model, transcoders, IDS, targets=[7], position=-1)
    torch.testing.assert_close(rows[1, :-2], target_rows(alone)[0, :-1])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"targets": []}, "no targets given"),
        ({"targets": [100]}, "target token 100 is outside the vocabulary 0..99"),
        ({"targets": [ContrastTarget(1, -3)]}, "target token -3"),
        ({"targets": [FeatureTarget(3, 1, 0)]}, "target layer 3 does not exist: the model has layers 0..2"),
        ({"targets": [FeatureTarget(1, 1, 99)]}, "target feature 99 does not exist: layer 1 has features 0..47"),
        ({"targets": [TokenTarget(3, 7)]}, "target position 7 lies outside the prompt of 7 tokens"),
        ({"targets": [DirectionTarget(torch.zeros(5), "short")]}, "direction 'short' has shape"),
        ({"position": -8}, "target position -8"),
        ({"targets": [TokenTarget(3, 6), TokenTarget(3)]}, "target '.*' is named twice"),
        ({"targets": [ContrastTarget(4, 4)]}, "with itself is nothing: name two tokens"),
    ],
)
def test_impossible_targets_are_refused(model, transcoders, arguments, words):
    with pytest.raises(InputError, match=words):
        attribute(model, transcoders, IDS, **arguments)


def test_by_request_the_most_probable_token_minus_the_runner_up_is_explained(tiny_model):
    from biology.attribution.assembly import attribute
    from biology.attribution.targets import ContrastTarget
    from biology.models.model import run, token_batch

    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model).to(dtype=torch.float64)
    ids = [2, 11, 13, 4, 50]
    first, second = run(model, token_batch(model, ids), positions=-1)[0][0, 0].topk(2).indices.tolist()
    found = attribute(model, transcoders, ids, explain="contrast")
    given = attribute(model, transcoders, ids, targets=[ContrastTarget(first, second)])
    assert torch.equal(found.adjacency, given.adjacency) and found.metadata["explain"] == "contrast"
