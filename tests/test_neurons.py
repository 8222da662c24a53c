"""Neurons as features: they add up to the MLPs, an edge is a frozen intervention, and to hold one is to hold the neuron itself."""

import pytest
import torch
from conftest import KINDS
from test_direct_effects import check

from biology.attribution.assembly import attribute
from biology.attribution.global_weights import global_weights
from biology.attribution.graph import scores
from biology.config import ModelConfig
from biology.interventions.feature_edits import Sites, steered
from biology.interventions.protocols import intervene
from biology.models.model import NEURONS, capture, run
from biology.records import InputError
from biology.transcoders.neurons import neuron_set
from biology.transcoders.transcoder_set import encode, reconstruct_all, shuffled

IDS = [2, 5, 17, 33, 8, 61, 40, 9]
RULES = ("half", "frozen", "gradient")


def neuron_of(transcoders, layer, feature):
    """The neuron that a feature is, and its sign."""
    n_neurons = transcoders.layers[layer].n_neurons
    return feature % n_neurons, 1 if feature < n_neurons else -1


def linearised(transcoders, layer, feature, x):
    """What a neuron reads by its rule: the gradient of its value with held back what the rule freezes."""
    weights = transcoders.layers[layer]
    neuron, sign = neuron_of(transcoders, layer, feature)
    at = x.clone().requires_grad_(True)
    z = at @ weights.W_enc[neuron] + weights.b_enc[neuron]
    u = None if weights.W_up is None else at @ weights.W_up[neuron] + weights.b_up[neuron]
    if weights.rule == "gradient":
        value = weights.function(z) if u is None else weights.function(z) * u
    elif u is None:
        value = (weights.function(z) / z).detach() * z
    elif weights.rule == "frozen":
        value = weights.function(z).detach() * u
    else:
        straight = (weights.function(z) / z).detach() * z
        value = straight * u.detach() / 2 + straight.detach() * u / 2
    return sign * torch.autograd.grad(value, at)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_every_edge_is_a_frozen_intervention(tiny_model, kind, rule):
    model = tiny_model(kind, torch.float64)
    neurons = neuron_set(model, k=7, rule=rule)
    check(model, neurons, attribute(model, neurons, IDS, max_logits=3), linearised)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_rows_add_up_in_float32(tiny_model, kind, rule):
    model = tiny_model(kind)
    for k, budget in ((8, None), (8, 20), (None, 20)):
        graph = attribute(model, neuron_set(model, k=k, rule=rule), IDS, max_feature_nodes=budget)
        assert graph.metadata["row_residual"] <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_all_neurons_leave_no_error(tiny_model, kind):
    model = tiny_model(kind, torch.float64)
    neurons = neuron_set(model, k=None)
    frozen = capture(model, IDS, read_hook=neurons.read_hook, write_hook=neurons.write_hook)
    activations, outputs = reconstruct_all(neurons, frozen.read)
    for written, real, active in zip(outputs, frozen.write, activations, strict=True):
        torch.testing.assert_close(written, real, rtol=1e-10, atol=1e-10)
        assert float(active.min()) >= 0
    graph = attribute(model, neurons, IDS)
    assert float(graph.adjacency[:, graph.errors].abs().max()) <= 1e-10
    assert scores(graph) == pytest.approx((1.0, 1.0), abs=1e-10)


def test_those_are_active_that_write_most(tiny_model):
    model = tiny_model("llama")
    every, few = neuron_set(model, k=None), neuron_set(model, k=5)
    x = capture(model, IDS, read_hook=few.read_hook).read[1][0]
    written = encode(every, 1, x) * few.layers[1].decoders(slice(None), 0).norm(dim=1)
    kept = encode(few, 1, x)
    for of_token, active, value in zip(written, kept, encode(every, 1, x), strict=True):
        assert set(active.nonzero()[:, 0].tolist()) == set(of_token.topk(5).indices.tolist())
        torch.testing.assert_close(active[active > 0], value[active > 0])
    both = [neuron_of(few, 1, feature) for feature in kept.nonzero()[:, 1].tolist()]
    assert {sign for _, sign in both} == {1, -1} and max(neuron for neuron, _ in both) < few.layers[1].n_neurons


@pytest.mark.parametrize("kind", KINDS)
def test_a_held_feature_is_the_neuron_held(tiny_model, kind):
    """Also one that was not among the k that count as active, and one that had the other sign."""
    model = tiny_model(kind, torch.float64)
    neurons, layer, pos = neuron_set(model, k=3), 1, 4
    n = neurons.layers[layer].n_neurons
    ids = torch.tensor([IDS])
    name = f"blocks.{layer}.{NEURONS}"
    _, seen = run(model, ids, reads=[name])
    x = capture(model, ids, read_hook=neurons.read_hook).read[layer][0, pos]
    active = encode(neurons, layer, x)
    inactive = int((active[:n] + active[n:] == 0).nonzero()[0])
    for feature in (int(active.argmax()), inactive, inactive + n):
        neuron, sign = neuron_of(neurons, layer, feature)

        def hold(values, neuron=neuron, sign=sign):
            held = values.clone()
            held[:, pos, neuron] = sign * 1.5
            return held

        expected, _ = run(model, ids, edits=[(name, hold)])
        sites = Sites(*(torch.tensor([one]) for one in (0, layer, pos, feature)))
        found = intervene(
            model, neurons, [IDS], torch.tensor([0]), steered(sites, torch.tensor([1.5]), 1.0), protocol="iterative",
            live_attention=True,
        )  # fmt: skip
        torch.testing.assert_close(found.logits[:, -1], expected[:, -1], rtol=1e-9, atol=1e-9)
    assert float((seen[name][0, pos, neuron] - 1.5 * sign).abs()) > 0.1


def test_shuffled_neurons_write_as_much_and_mean_nothing(tiny_model):
    model = tiny_model("llama")
    neurons = neuron_set(model, k=6)
    null = shuffled(neurons, 0)
    x = capture(model, IDS, read_hook=neurons.read_hook).read[1][0]
    assert not torch.equal(encode(null, 1, x) > 0, encode(neurons, 1, x) > 0)
    for before, after in zip(neurons.layers, null.layers, strict=True):
        for weight in ("W_enc", "W_up", "W_dec"):
            torch.testing.assert_close(getattr(before, weight).norm(dim=-1), getattr(after, weight).norm(dim=-1))
    assert attribute(model, null, IDS).metadata["row_residual"] <= 1e-5


def test_what_cannot_be_is_refused(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="weights between them hold for one prompt only"):
        global_weights(model, neuron_set(model, k=4))
    most = neuron_set(model, k=1).layers[0].n_neurons
    with pytest.raises(InputError, match=f"{most + 1} neurons cannot be active in a layer of {most}"):
        neuron_set(model, k=most + 1)
    with pytest.raises(ValueError, match="`k` has no effect without `transcoders: neurons`"):
        ModelConfig(path="a", transcoders="b", k=3)
    with pytest.raises(ValueError, match="0 neurons cannot be active"):
        ModelConfig(path="a", transcoders="neurons", k=0)
    assert ModelConfig(path="a", transcoders="neurons", k="all", rule="frozen").neurons
