"""An edge with patterns or scales live is what a small change of its source does to its reader, MLPs held."""

from dataclasses import replace

import pytest
import torch
from conftest import KINDS, random_transcoders

from biology.attribution.assembly import attribute
from biology.attribution.direct_effects import active_features
from biology.attribution.graph import FEATURE, LOGIT, TOKEN, Graph, row_residual
from biology.attribution.live_effects import LiveEffects, live_share, live_shares
from biology.attribution.replacement import freeze_prompt
from biology.attribution.selection import Job, whole_adjacency
from biology.attribution.targets import ContrastTarget, FeatureTarget, resolve
from biology.interventions.feature_edits import Sites, edits
from biology.interventions.protocols import intervene
from biology.transcoders.neurons import neuron_set

DOUBLE = torch.float64
IDS = [2, 11, 13, 4, 50]
STEP = 1e-5


def small_change(model, transcoders, source, reader):
    """How the reader's pre-activation follows a small change of the source, MLP outputs held, patterns and scales live."""
    layer, pos, feature, activation = source
    outcome = intervene(
        model, transcoders, [IDS], torch.tensor([0, 0]), edits([(0, layer, pos, feature, activation * (1 + STEP))]),
        protocol="constrained", last_layer=model.n_layers - 1, live_attention=True,
        watch=Sites(torch.tensor([0, 1]), *(torch.tensor([number] * 2) for number in reader)),
    )  # fmt: skip
    return float(outcome.watched_pre[0] - outcome.watched_pre[1]) / STEP


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("dictionary", ["transcoders", "skip", "neurons"])
def test_a_live_edge_is_a_small_change_of_its_source(tiny_model, architecture, dictionary):
    model = tiny_model(architecture, DOUBLE)
    if dictionary == "neurons":
        transcoders = neuron_set(model, k=6, rule="gradient")
    else:
        transcoders = random_transcoders(model, skip=dictionary == "skip").to(dtype=DOUBLE)
    graph = attribute(model, transcoders, IDS, targets=[ContrastTarget(7, 9)], attention="live", norms="live")
    assert (graph.metadata["attention"], graph.metadata["norms"]) == ("live", "live")
    assert float(row_residual(graph).max()) < 1e-12  # what is left over is the bias
    site = torch.stack([graph.layer, graph.pos, graph.feature], 1).tolist()
    readers = [node for node in range(graph.features.start, graph.features.stop) if site[node][:2] == [2, 4]][:2]
    assert readers
    for reader in readers:
        for source in range(graph.features.start, graph.features.stop, 5):
            if site[source][0] < 2:
                changed = small_change(
                    model, transcoders, (*site[source], float(graph.activation[source])), site[reader]
                )
                assert float(graph.adjacency[reader, source]) == pytest.approx(changed, rel=1e-3, abs=1e-7)
    alone = attribute(model, transcoders, IDS, targets=[FeatureTarget(*site[reader])], attention="live", norms="live")
    below = torch.tensor([layer < 2 for layer, *_ in site[graph.features]])
    assert torch.allclose(alone.adjacency[-1, alone.features], graph.adjacency[reader, graph.features][below])


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_with_nothing_live_the_same_gradients_give_the_graph_of_the_papers(tiny_model, architecture, kind):

    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model, kind).to(dtype=DOUBLE)
    local = freeze_prompt(model, transcoders, IDS, positions=[4])
    targets = resolve(model, local, None, [4], [4], max_logits=3, logit_probability=0.9)
    job = Job(local, active_features(local, 1, model.n_layers), targets, 1, 1 << 30, None)
    through = replace(job, effects=LiveEffects(model, local, "frozen", "frozen"))
    assert torch.allclose(whole_adjacency(job), whole_adjacency(through), atol=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("budget", [None, 12])
@pytest.mark.parametrize("live", [("live", "frozen"), ("frozen", "live"), ("live", "live")])
def test_what_is_frozen_and_what_is_live_are_kept_apart(tiny_model, architecture, budget, live):
    """The frozen part of each edge is the edge of the frozen graph of the same nodes, and live parts are what is left."""
    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model).to(dtype=DOUBLE)
    attention, norms = live
    options = {"targets": [ContrastTarget(7, 9)], "attention": attention, "norms": norms}
    graph = attribute(model, transcoders, IDS, max_feature_nodes=budget, **options)
    nodes = torch.stack([graph.layer, graph.pos, graph.feature], 1)[graph.features].tolist()
    frozen = attribute(
        model, transcoders, IDS, targets=[ContrastTarget(7, 9)], features=[tuple(node) for node in nodes]
    )
    assert graph.frozen is not None and torch.allclose(graph.frozen, frozen.adjacency, atol=1e-9)
    assert not torch.allclose(graph.adjacency, graph.frozen, atol=1e-6)
    shares = live_shares(graph)
    assert 0 <= float(shares.min()) and float(shares.max()) <= 1
    assert 0 < live_share(graph) < 1
    assert frozen.frozen is None and live_share(frozen) == 0 and not bool(live_shares(frozen).any())


def test_the_live_share_of_a_graph_drawn_by_hand():
    """token -> feature -> output and token -> output, of which the first two edges are half live and the last is frozen."""
    kinds = torch.tensor([FEATURE, TOKEN, LOGIT], dtype=torch.int8)
    none, zero = torch.tensor([0, -1, -1]), torch.zeros(3, dtype=DOUBLE)
    adjacency, frozen = torch.zeros(3, 3, dtype=DOUBLE), torch.zeros(3, 3, dtype=DOUBLE)
    for target, source, edge, part in ((0, 1, 2.0, 1.0), (2, 0, -1.0, -0.5), (2, 1, 3.0, 3.0)):
        adjacency[target, source], frozen[target, source] = edge, part
    graph = Graph(
        kinds, none, torch.zeros(3, dtype=torch.long), none, none, zero,
        torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE), adjacency, zero, zero, {"n_layers": 1}, frozen,
    )  # fmt: skip
    # the feature passes on 1/4, all of it half live; the output reads 1/4 through a half live edge and 3/4 through a frozen one
    assert live_share(graph) == pytest.approx((0.25 * 0.5 + 0.25 * 0.5) / 1.25)
    assert live_shares(graph, torch.tensor([2])).tolist() == [[0.5, 0.0, 0.0]]
