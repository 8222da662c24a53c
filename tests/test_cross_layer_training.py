"""Planted cross-layer features are found once, the gradients are those of the loss as defined, and runs can be repeated and resumed."""

from dataclasses import replace

import pytest
import torch
from single_layer import trained_layer

from biology.dictionaries import cross_layer_training
from biology.dictionaries.cross_layer_training import (
    CrossLayer,
    CrossLayerRecipe,
    backward,
    train_cross_layer,
    train_cross_layer_set,
)
from biology.dictionaries.dictionary_training import DictionaryRecipe, Pool
from biology.models.model import capture, encode
from biology.records import InputError
from biology.transcoders.transcoder_files import load_transcoders, save_transcoders
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet, reconstruct_all

WIDTH, SHARED, OWN, ACTIVE = 24, 32, 12, 2
RECIPE = CrossLayerRecipe(
    n_features=48, n_features_first=48, steps=600, batch=512, learning_rate=1e-2, sparsity=0.2, steepness=4.0,
    threshold=0.03, bandwidth=0.5, firing=0.06,
)  # fmt: skip
SHORT = replace(RECIPE, n_features=20, n_features_first=16, steps=9, batch=64)


def directions(count: int, generator: torch.Generator):
    return torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)


def planted(n: int = 8192):
    """Two layers. 32 features are in both inputs and write to both outputs; 12 are in the second layer only.

    Returns inputs and outputs [layer, token, d_model] and the directions that the shared features write, [feature, layer * d_model].
    """
    generator = torch.Generator().manual_seed(7)

    def codes(count: int, active: int):
        which = torch.rand(n, count, generator=generator).argsort(1)[:, :active]
        return torch.zeros(n, count).scatter(1, which, 1 + torch.rand(n, active, generator=generator))

    shared, own = codes(SHARED, ACTIVE), codes(OWN, 1)
    reads, writes = ([directions(SHARED, generator) for _ in range(2)] for _ in range(2))
    own_reads, own_writes = directions(OWN, generator), directions(OWN, generator)
    inputs = torch.stack([3 * shared @ reads[0] + 0.5, shared @ reads[1] + own @ own_reads])
    outputs = torch.stack([shared @ writes[0], 5 * (shared @ writes[1] + own @ own_writes) + 2.0])
    return inputs, outputs, torch.cat([writes[0], 5 * writes[1]], 1)


def as_set(made: list[dict[str, torch.Tensor]]) -> TranscoderSet:
    return TranscoderSet(
        "cross_layer", "jumprelu", tuple(Transcoder(**one) for one in made), "mlp.hook_in", "hook_mlp_out"
    )


def measured(transcoders: TranscoderSet, inputs, outputs):
    """Fraction of variance unexplained and mean number of active features, by layer."""
    activations, made = reconstruct_all(transcoders, list(inputs))
    fvu = [float((y - m).square().sum() / (y - y.mean(0)).square().sum()) for y, m in zip(outputs, made, strict=True)]
    return fvu, [float((a > 0).double().sum(1).mean()) for a in activations]


@pytest.fixture(scope="module")
def trained():
    inputs, outputs, written = planted()
    return train_cross_layer([Pool(inputs, outputs)], RECIPE, 0, progress=False), inputs, outputs, written


# What is found -------------------------------------------------------------------------------------------------------


def test_a_feature_that_writes_to_two_layers_is_found_once(trained):
    made, inputs, outputs, written = trained
    fvu, l0 = measured(as_set(made), inputs, outputs)
    assert max(fvu) < 0.08
    assert l0[0] == pytest.approx(ACTIVE, rel=0.2)
    assert l0[1] == pytest.approx(1.0, rel=0.3)  # its own features only: what layer 0 has said is not said again
    cosine = torch.nn.functional.normalize(written, dim=1) @ made[0]["W_dec"].flatten(1).T
    assert float((cosine.max(1).values > 0.95).double().mean()) > 0.9  # of both layers' directions together


def test_a_per_layer_set_needs_it_twice(trained):
    """The same data, one layer at a time: for the second layer as good a fit takes the shared features again."""
    made, inputs, outputs, _ = trained
    fvu, l0 = measured(as_set(made), inputs, outputs)
    found = {}
    for k in (1, ACTIVE + 1):
        recipe = DictionaryRecipe(
            n_features=64, k=k, steps=500, batch=512, learning_rate=1e-2, dead_after=30, auxiliary_k=8
        )
        one = trained_layer(inputs[1], outputs[1], recipe, 0)
        layer = Transcoder(one["W_enc"].T, one["b_enc"], one["W_dec"][:, None], one["b_dec"], one["threshold"])
        alone = TranscoderSet("per_layer", "jumprelu", (layer,), "mlp.hook_in", "hook_mlp_out")
        found[k] = measured(alone, inputs[1:], outputs[1:])
    assert found[1][0][0] > 0.25 > 3 * fvu[1]  # with as many as the cross-layer set has there
    assert found[ACTIVE + 1][0][0] < 0.1 and found[ACTIVE + 1][1][0] > l0[1] + 0.8 * ACTIVE


def test_more_sparsity_is_fewer_active_features(trained):
    made, inputs, outputs, _ = trained
    loose = train_cross_layer([Pool(inputs, outputs)], replace(RECIPE, sparsity=0.0, steps=200), 0, progress=False)
    assert sum(measured(as_set(loose), inputs, outputs)[1]) > 1.5 * sum(measured(as_set(made), inputs, outputs)[1])


def test_silent_features_are_revived(monkeypatch):
    """Biases start where no feature fires on any token; nothing but the revival loss can lift them."""
    inputs, outputs, _ = planted(2048)
    initialise, alive = cross_layer_training.initialise, {}

    def silenced(weights, *args):
        initialise(weights, *args)
        for bias in weights.b_enc:
            bias.data -= 3.0

    monkeypatch.setattr(cross_layer_training, "initialise", silenced)
    for revival in (0.0, 1e-4):
        recipe = replace(RECIPE, bandwidth=1e-3, steps=200, dead_after=5, sparsity=0.0, revival=revival)
        activations, _ = reconstruct_all(
            as_set(train_cross_layer([Pool(inputs, outputs)], recipe, 0, progress=False)), list(inputs)
        )
        alive[revival] = float(torch.cat([(a > 0).any(0) for a in activations]).double().mean())
    assert alive[0.0] < 0.1 and alive[1e-4] > 0.5


def test_answers_get_their_share_of_every_batch():
    """Rows that answer are one in a hundred here and half of a batch: what only they do is learnt."""
    inputs, outputs, _ = planted(4000)
    answers = torch.arange(0, 4000, 100)
    outputs[:, answers] = outputs[:, answers].flip(2)  # another map, which the others contradict
    inputs, outputs = (torch.nn.functional.pad(side, (0, 1)) for side in (inputs, outputs))
    inputs[:, answers, -1] = 4.0  # one can tell them
    error = {}
    for given in (answers, None):
        made = train_cross_layer(
            [Pool(inputs, outputs, given)], replace(RECIPE, steps=300, batch=256), 0, progress=False
        )
        error[given is None] = max(measured(as_set(made), inputs[:, answers], outputs[:, answers])[0])
    assert error[False] < 0.5 * error[True]


# The gradients -------------------------------------------------------------------------------------------------------


class JumpReLU(torch.autograd.Function):
    """pre [pre > threshold]; the threshold gets the straight-through estimate with a rectangular kernel."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, upstream):
        pre, threshold = ctx.saved_tensors
        kernel = ((pre - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return upstream * (pre > threshold), (-threshold * kernel * upstream).sum(0), None


def loss_as_defined(weights, x, y, weight, sparsity, recipe, silent):
    """The loss of the module's docstring, dense, for automatic differentiation."""
    activations, revival = [], 0.0
    penalty = 0.0
    for layer in range(len(x)):
        pre = x[layer] @ weights.W_enc[layer].T + weights.b_enc[layer]
        threshold = weights.log_threshold[layer].exp()
        activations.append(JumpReLU.apply(pre, threshold, recipe.bandwidth))
        norm = weights.W_dec[layer].flatten(1).norm(dim=1)
        penalty += (recipe.steepness / x.shape[2] ** 0.5 * norm * activations[-1]).tanh().sum(1).mean()
        revival += (silent[layer] * norm.detach() * (threshold - pre).relu()).sum(1).mean()
    total = sparsity * penalty + recipe.revival * revival
    for target in range(len(x)):
        made = weights.b_dec[target] + sum(
            activations[layer] @ weights.W_dec[layer][:, target - layer] for layer in range(target + 1)
        )
        total = total + ((made - y[target]) * weight[target, :, None]).square().mean()
    return total


def test_gradients_are_those_of_the_loss_as_defined():
    generator = torch.Generator().manual_seed(3)
    recipe = replace(RECIPE, bandwidth=0.4, revival=0.1, steepness=2.0)
    weights = CrossLayer((10, 12, 8), 6)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
        for threshold in weights.log_threshold:
            threshold.sub_(1.0)
        weights.b_enc[1][:3] = -9.0  # these fire nowhere
    x, y = (torch.randn(3, 40, 6, generator=generator) for _ in range(2))
    weight = torch.rand(3, 40, generator=generator)
    silent = [torch.zeros(count, dtype=torch.bool) for count in (10, 12, 8)]
    silent[1][:3] = True
    _, fired, l0 = backward(weights, x, y, weight, 0.3, recipe, silent)
    mine = {name: parameter.grad.clone() for name, parameter in weights.named_parameters()}
    weights.zero_grad()
    loss_as_defined(weights, x, y, weight, 0.3, recipe, silent).backward()
    for name, parameter in weights.named_parameters():
        assert mine[name] == pytest.approx(parameter.grad, rel=1e-4, abs=1e-6), name
        assert bool(parameter.grad.abs().sum() > 0)
    assert not fired[1][:3].any() and all(0 < count < 12 for count in l0)
    weights.zero_grad()
    loss_as_defined(weights, x, y, weight, 0.3, replace(recipe, bandwidth=0.2), silent).backward()
    assert mine["log_threshold.0"] != pytest.approx(weights.log_threshold[0].grad, rel=1e-2)  # the bandwidth is felt


# Scales, seeds, interruptions ----------------------------------------------------------------------------------------


def test_scale_and_offset_of_the_data_are_folded_back():
    inputs, outputs, _ = planted(1024)
    plain, moved = (
        train_cross_layer([Pool(x, y)], SHORT, 0, progress=False)
        for x, y in ((inputs, outputs), (4 * inputs + 1, 0.5 * outputs))
    )
    for layer, tensors in enumerate(plain):
        assert tensors["W_dec"].flatten(1).norm(dim=1) == pytest.approx(torch.ones(len(tensors["b_enc"])), abs=1e-5)
        assert moved[layer]["W_dec"] == pytest.approx(tensors["W_dec"], abs=1e-3)
    made, twin = (reconstruct_all(as_set(one), list(x))[1] for one, x in ((plain, inputs), (moved, 4 * inputs + 1)))
    for left, right in zip(made, twin, strict=True):
        assert 2 * right == pytest.approx(left, abs=2e-2)


def test_the_same_seed_is_the_same_bytes(tmp_path):
    inputs, outputs, _ = planted(1024)
    files = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        made = train_cross_layer([Pool(inputs, outputs)], SHORT, seed, progress=False)
        save_transcoders(tmp_path / name, as_set(made), layout="circuit-tracer", dtype=torch.float16)
        files.append({file.name: file.read_bytes() for file in sorted((tmp_path / name).iterdir())})
    assert files[0] == files[1] and len(files[0]) == 5
    assert files[0]["W_enc_0.safetensors"] != files[2]["W_enc_0.safetensors"]


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """The folder of a training that stopped right after its checkpoint of step 4, and a function that goes on."""
    inputs, outputs, _ = planted(1024)
    recipe = replace(SHORT, dead_after=1)  # the counts of silent steps matter for what follows
    save = cross_layer_training.save

    def go_on(folder=tmp_path, seed=0):
        return train_cross_layer([Pool(inputs, outputs)], recipe, seed, work=folder, checkpoint_every=4, progress=False)

    def stop(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(cross_layer_training, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        go_on()
    monkeypatch.setattr(cross_layer_training, "save", save)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    return tmp_path, go_on


def test_an_interrupted_training_ends_at_the_same_weights(interrupted, tmp_path_factory):
    folder, go_on = interrupted
    resumed, whole = go_on(), go_on(tmp_path_factory.mktemp("whole"))
    for one, other in zip(resumed, whole, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one) and len(one) == 5
    assert not list(folder.iterdir())  # a finished training leaves no checkpoint


def test_a_checkpoint_of_another_seed_is_refused(interrupted):
    _, go_on = interrupted
    with pytest.raises(InputError, match="is a checkpoint of .*'seed': '0'.*not of .*'seed': '1'"):
        go_on(seed=1)


# Sets ----------------------------------------------------------------------------------------------------------------


def test_a_set_is_trained_on_all_tokens_but_the_first(tiny_model, tmp_path):
    model = tiny_model("llama")
    prompts = [encode(model, text) for text in ("w1 w2 w3", "w4 w5", "w6 w7 w8 w9", "w10 w11")]
    recipe = CrossLayerRecipe(n_features=24, n_features_first=16, steps=5, batch=8, firing=0.3, most_active=2.5)
    made = train_cross_layer_set(model, prompts, recipe, 11, storage=torch.float32, progress=False)
    assert (made.kind, made.activation) == ("cross_layer", "jumprelu")
    seen = [capture(model, prompt) for prompt in prompts]
    inputs, outputs = (
        torch.stack([torch.cat([getattr(one, side)[layer][0, 1:] for one in seen]) for layer in range(3)])
        for side in ("read", "write")
    )
    pool = Pool(inputs, outputs, torch.tensor([2, 4, 8, 10]))
    expected = train_cross_layer([pool], recipe, 11, progress=False)
    _, l0 = measured(made, inputs, outputs)
    assert max(l0) <= 2.5 and min(l0) > 0
    for layer in range(3):
        rows = torch.cdist(made.layers[layer].W_enc, expected[layer]["W_enc"])  # those that never fire were dropped
        assert 0 < len(rows) <= (16, 24, 24)[layer] and float(rows.min(1).values.max()) < 1e-2
        assert made.layers[layer].W_dec.shape[1:] == (3 - layer, 32)
    save_transcoders(tmp_path, made, layout="circuit-tracer", model_name="tiny")
    again = load_transcoders(tmp_path, model)
    assert again.kind == "cross_layer" and torch.equal(again.layers[1].W_dec, made.layers[1].W_dec)
