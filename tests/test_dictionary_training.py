"""A planted dictionary is learnt, dense data is not explained, and the same seed is the same dictionary."""

from dataclasses import replace

import pytest
import torch
from single_layer import trained_layer

from biology.dictionaries.dictionary_training import (
    DictionaryRecipe,
    batch_top_k,
    calibrated,
    train_set,
    without_rare_features,
)
from biology.models.model import capture, encode
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet, reconstruct
from biology.transcoders.transcoder_set import encode as activations_of

PLANTED, WIDTH, ACTIVE = 32, 16, 2
RECIPE = DictionaryRecipe(n_features=64, k=3, steps=500, batch=512, learning_rate=1e-2, dead_after=30, auxiliary_k=8)
SCALE = 3.0  # of inputs and outputs, which training must undo


def sparse_data(n: int = 8192):
    """Inputs are sums of a few of 32 directions in 16 dimensions; outputs the same sums of 32 other directions."""
    generator = torch.Generator().manual_seed(7)
    inward, outward = (
        torch.nn.functional.normalize(torch.randn(PLANTED, WIDTH, generator=generator), dim=1) for _ in range(2)
    )
    which = torch.rand(n, PLANTED, generator=generator).argsort(1)[:, :ACTIVE]
    size = 1 + torch.rand(n, ACTIVE, generator=generator)
    codes = torch.zeros(n, PLANTED).scatter(1, which, size)
    return SCALE * codes @ inward, 5 * SCALE * codes @ outward + 2.0, outward


def as_set(made: dict[str, torch.Tensor]) -> TranscoderSet:
    layer = Transcoder(
        made["W_enc"].T.contiguous(), made["b_enc"], made["W_dec"][:, None], made["b_dec"], made["threshold"]
    )
    return TranscoderSet("per_layer", "jumprelu", (layer,), "mlp.hook_in", "hook_mlp_out")


def unexplained(made, inputs, outputs):
    """Fraction of variance unexplained, and the activations, of the finished (JumpReLU) transcoder."""
    transcoders = as_set(made)
    active = activations_of(transcoders, 0, inputs)
    error = outputs - reconstruct(transcoders, 0, [active], inputs)
    return float(error.square().sum() / (outputs - outputs.mean(0)).square().sum()), active


@pytest.fixture(scope="module")
def trained():
    inputs, outputs, outward = sparse_data()
    return trained_layer(inputs, outputs, RECIPE, 0), inputs, outputs, outward


def test_a_planted_dictionary_is_learnt(trained):
    made, inputs, outputs, outward = trained
    fvu, active = unexplained(made, inputs, outputs)
    assert fvu < 0.1
    per_token = float((active > 0).double().sum(1).mean())
    assert 0.8 * RECIPE.k < per_token < 1.2 * RECIPE.k
    assert float((~(active > 0).any(0)).double().mean()) < 0.1  # few dead features
    cosine = outward @ torch.nn.functional.normalize(made["W_dec"], dim=1).T
    assert float((cosine.max(1).values > 0.9).double().mean()) > 0.9  # nearly every planted direction has its feature


def test_decoders_have_unit_length_and_one_threshold_in_their_units(trained):
    made = trained[0]
    assert made["W_dec"].norm(dim=1) == pytest.approx(torch.ones(64), abs=1e-5)
    assert bool((made["threshold"] > 0).all())
    assert {name: tuple(value.shape) for name, value in made.items()} == {
        "W_enc": (16, 64), "b_enc": (64,), "W_dec": (64, 16), "b_dec": (16,), "threshold": (64,)
    }  # fmt: skip


def test_dense_data_of_the_same_covariance_is_not_explained(trained):
    """What is not sparse cannot be written in two features: the fit above is no artefact of width or training."""
    _, inputs, outputs, _ = trained
    joint = torch.cat([inputs, outputs], 1)
    noise = torch.randn(joint.shape, generator=torch.Generator().manual_seed(1))
    lower = torch.linalg.cholesky(torch.cov(joint.T.double()) + 1e-6 * torch.eye(2 * WIDTH)).float()
    dense = noise @ lower.T + joint.mean(0)
    made = trained_layer(dense[:, :WIDTH], dense[:, WIDTH:], RECIPE, 0)
    assert unexplained(made, dense[:, :WIDTH], dense[:, WIDTH:])[0] > 0.3


def test_features_that_would_stay_dead_are_revived():
    """Inputs share a large offset, so that half of the encoders start out below the cut: the auxiliary loss lifts them."""
    generator = torch.Generator().manual_seed(7)
    inward, outward = (
        torch.nn.functional.normalize(torch.randn(128, 32, generator=generator), dim=1) for _ in range(2)
    )
    codes = torch.zeros(8192, 128).scatter(1, torch.rand(8192, 128, generator=generator).argsort(1)[:, :2], 1.5)
    inputs, outputs = (
        codes @ inward + 3 * torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0),
        codes @ outward,
    )
    dead, fvu = {}, {}
    for weight in (0.0, 1.0):
        recipe = replace(
            RECIPE, n_features=96, auxiliary_weight=weight, auxiliary_k=32, dead_after=15, learning_rate=5e-3, steps=300
        )
        made = trained_layer(inputs, outputs, recipe, 0)
        fvu[weight], active = unexplained(made, inputs, outputs)
        dead[weight] = float((~(active > 0).any(0)).double().mean())
    assert dead[0.0] > 0.3 and dead[1.0] < 0.1
    assert fvu[1.0] < 0.85 * fvu[0.0]


def test_the_same_seed_is_the_same_dictionary():
    inputs, outputs, _ = sparse_data(1024)
    short = DictionaryRecipe(n_features=32, k=2, steps=40, batch=128, dead_after=5, auxiliary_k=4)
    first, again, other = (trained_layer(inputs, outputs, short, seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["W_enc"], other["W_enc"])


def test_batch_top_k_keeps_about_k_of_a_row_and_only_the_largest():
    pre = torch.randn(256, 40, generator=torch.Generator().manual_seed(0))
    kept = batch_top_k(pre, 5)
    assert int((kept > 0).sum()) == 5 * 256  # of the batch: single rows differ
    assert len(set((kept > 0).sum(1).tolist())) > 1
    assert float(kept[kept > 0].min()) > float(pre[kept == 0].max())
    assert torch.equal(kept[kept > 0], pre[kept > 0])
    many = batch_top_k(torch.randn(2048, 40, generator=torch.Generator().manual_seed(1)), 5)
    assert int((many > 0).sum()) == pytest.approx(5 * 2048, rel=0.1)  # the cut is read off the first 256 rows


def test_batch_top_k_keeps_no_negative_and_nothing_more_than_there_is():
    pre = -torch.ones(8, 10)
    pre[:, 0] = 2.0
    assert batch_top_k(pre, 3).sum() == 16.0


def test_a_set_is_trained_on_all_tokens_but_the_first(tiny_model):
    """Per layer what `trained_layer` makes of what passes the hooks; the last token of each prompt answers."""
    model = tiny_model("llama")
    prompts = [encode(model, text) for text in ("w1 w2 w3", "w4 w5", "w6 w7 w8 w9", "w10 w11")]
    recipe = DictionaryRecipe(n_features=24, n_features_first=16, k=3, most_active=2.5, steps=5, batch=8)
    made = train_set(model, prompts, recipe, 11, storage=torch.float32, progress=False)
    assert (made.kind, made.activation) == ("per_layer", "jumprelu")
    seen = [capture(model, prompt) for prompt in prompts]
    for layer, n_features in enumerate((16, 24, 24)):
        inputs, outputs = (torch.cat([getattr(one, side)[layer][0, 1:] for one in seen]) for side in ("read", "write"))
        own = replace(recipe, n_features=n_features)
        answers = torch.tensor([2, 4, 8, 10])
        expected = trained_layer(inputs, outputs, own, 11 + layer, answers=answers)
        rows = torch.cdist(made.layers[layer].W_enc, expected["W_enc"].T)  # those that never fire were dropped
        assert 0 < len(rows) <= n_features and float(rows.min(1).values.max()) < 1e-3
        assert torch.allclose(made.layers[layer].b_dec, expected["b_dec"], rtol=1e-3, atol=1e-4)
        assert float((activations_of(made, layer, inputs) > 0).double().sum(1).mean()) <= 2.5


def test_a_lively_layer_is_calibrated_and_a_sparse_one_left_alone(trained):
    made, inputs, outputs, _ = trained
    (layer,) = as_set(made).layers
    lively = replace(layer, threshold=layer.threshold / 5)
    calm = calibrated(lively, inputs, 3.0, seed=0)
    assert float((activations_of(as_set(made), 0, inputs) > 0).double().sum(1).mean()) > 2.5
    counts = [
        float(
            (activations_of(TranscoderSet("per_layer", "jumprelu", (one,), "", ""), 0, inputs) > 0)
            .double()
            .sum(1)
            .mean()
        )
        for one in (lively, calm)
    ]
    assert counts[0] > 3.2 and 2.9 < counts[1] <= 3.0
    ratio = calm.threshold / lively.threshold
    assert torch.allclose(ratio, ratio[0].expand(64)) and calm.W_enc is lively.W_enc and calm.W_dec is lively.W_dec
    assert torch.equal(calibrated(calm, inputs, 8.0, seed=0).threshold, calm.threshold)


def test_answers_get_their_share_of_every_batch():
    """Rows that answer are one in a hundred here and half of a batch: what only they do is learnt."""
    inputs, outputs, _ = sparse_data(4000)
    answers = torch.arange(0, 4000, 100)
    outputs = outputs.clone()
    outputs[answers] = outputs[answers].flip(1)  # another map, which the others contradict
    inputs, outputs = (torch.nn.functional.pad(side, (0, 1)) for side in (inputs, outputs))
    inputs[answers, -1] = 4.0  # one can tell them
    short = replace(RECIPE, n_features=96, k=3, steps=300, batch=256)
    with_share, without = (trained_layer(inputs, outputs, short, 0, answers=given) for given in (answers, None))
    assert (
        unexplained(with_share, inputs[answers], outputs[answers])[0]
        < 0.5 * unexplained(without, inputs[answers], outputs[answers])[0]
    )


def test_features_that_never_fire_are_dropped_and_nothing_else_changes():
    generator = torch.Generator().manual_seed(0)
    inputs, enc = torch.randn(4000, 8, generator=generator), torch.randn(12, 8, generator=generator)
    enc[3] = 0.0  # never above its threshold
    dec, threshold = torch.randn(12, 1, 8, generator=generator), torch.full((12,), 0.01)
    layer = Transcoder(enc, torch.zeros(12), dec, torch.zeros(8), threshold)
    kept = without_rare_features(layer, inputs)
    others = torch.arange(12) != 3
    assert kept.W_enc.equal(enc[others]) and kept.W_dec.equal(dec[others]) and len(kept.threshold) == 11
    fires = (inputs @ enc.T > threshold).sum(0)
    least = int(fires.median()) + 1
    assert (
        without_rare_features(layer, inputs, least).W_enc.equal(enc[fires >= least])
        and 0 < int((fires >= least).sum()) < 11
    )
