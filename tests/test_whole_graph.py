"""Whole graphs from both sides, of many prompts at a time, have the edges of graphs made row by row."""

import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attribution import assembly as attribution
from biology.attribution.assembly import attribute, attribute_batch
from biology.attribution.graph import TOKEN
from biology.attribution.targets import ContrastTarget, TokenTarget
from biology.attribution.whole_graph import meeting_costs

PROMPTS = [[2, 5, 17, 33, 8, 61], [2, 7, 33, 12, 8, 40], [2, 11, 13], [2, 61, 40, 9, 5, 17], [2, 9]]
CASES = {
    "relu": ("relu", False, "mlp.hook_in", "hook_mlp_out"),
    "jumprelu, skip": ("jumprelu", True, "mlp.hook_in", "mlp.hook_out"),
    "topk, no gain": ("topk", False, "ln2.hook_normalized", "hook_mlp_out"),
    "residual, skip": ("relu", True, "hook_resid_mid", "hook_mlp_out"),
}


def row_by_row(model, transcoders, prompts, **options):
    return [attribute(model, transcoders, ids, **options) for ids in prompts]


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert float(one.adjacency.abs().max()) > 0.1
        for name in ("kind", "layer", "pos", "feature", "token_id"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        for name in ("adjacency", "bias", "pre_activation", "activation", "probability"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-12)
        assert one.metadata["row_residual"] <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_both_sides_meet_in_the_same_edges(tiny_model, kind, case):
    model = tiny_model(kind, torch.float64)
    activation, skip, read, write = CASES[case]
    transcoders = random_transcoders(model, "per_layer", activation, skip=skip, read_hook=read, write_hook=write)
    together = attribute_batch(model, transcoders, PROMPTS, max_logits=3)
    assert_same(together, row_by_row(model, transcoders, PROMPTS, max_logits=3))


def test_wherever_they_meet(tiny_model, monkeypatch):
    model = tiny_model("gpt2", torch.float64)
    transcoders = random_transcoders(model, skip=True)
    alone, possible = row_by_row(model, transcoders, PROMPTS), []

    def meet_at(layer):
        def choose(*problem):
            possible.append([at for at, _ in meeting_costs(*problem[:4])])
            return layer

        monkeypatch.setattr(attribution, "meeting_layer", choose)
        return attribute_batch(model, transcoders, PROMPTS)

    for layer in range(model.n_layers):
        assert_same(meet_at(layer), alone)
    assert possible[0] == list(range(model.n_layers))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [2, 4])
def test_no_gradient_goes_to_positions_that_hold_tokens_only(tiny_model, kind, first):
    """Where features and errors are nodes from a later position on, tokens before it have the same edges all the same."""
    model = tiny_model(kind, torch.float64)
    transcoders = random_transcoders(model, skip=True)
    prompts, targets = [ids for ids in PROMPTS if len(ids) > first], [TokenTarget(8, 1), TokenTarget(7, -1)]
    graphs = attribute_batch(model, transcoders, prompts, first_position=first, targets=[targets] * len(prompts))
    assert_same(graphs, row_by_row(model, transcoders, prompts, first_position=first, targets=targets))
    for graph in graphs:
        before = (graph.kind == TOKEN) & (graph.pos < first)
        assert bool((graph.adjacency[graph.features][:, before] != 0).any())
        assert int(graph.pos[graph.features].min()) >= first


def test_with_little_memory_nothing_is_carried_up(tiny_model):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model)
    assert_same(attribute_batch(model, transcoders, PROMPTS, memory=1), attribute_batch(model, transcoders, PROMPTS))


def test_each_prompt_has_targets_and_features_of_its_own(tiny_model):
    model = tiny_model("qwen3", torch.float64)
    transcoders = random_transcoders(model)
    targets = [[7, 9], [ContrastTarget(4, 5)], None, [TokenTarget(8, position=2)], None]
    together = attribute_batch(model, transcoders, PROMPTS, targets=targets)
    alone = [attribute(model, transcoders, ids, targets=wanted) for ids, wanted in zip(PROMPTS, targets, strict=True)]
    assert_same(together, alone)
    given = [[(0, 1, int(graph.feature[0]))] if int(graph.pos[0]) == 1 else [] for graph in alone]
    assert_same(
        attribute_batch(model, transcoders, PROMPTS, features=given),
        [attribute(model, transcoders, ids, features=some) for ids, some in zip(PROMPTS, given, strict=True)],
    )


def test_cross_layer_sets_and_budgets_come_in_batches_too(tiny_model):
    model = tiny_model("gemma2", torch.float64)
    transcoders = random_transcoders(model, "cross_layer")
    for budget in (None, 20):
        together = attribute_batch(model, transcoders, PROMPTS[:3], max_feature_nodes=budget)
        assert_same(together, row_by_row(model, transcoders, PROMPTS[:3], max_feature_nodes=budget))
