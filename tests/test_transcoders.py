"""What transcoders compute, by hand and against SAELens."""

from dataclasses import replace

import pytest
import torch
from conftest import random_transcoders

from biology.attribution.assembly import attribute
from biology.interventions.feature_edits import edits
from biology.interventions.protocols import intervene
from biology.models.model import load_model, run
from biology.transcoders.transcoder_files import load_transcoders, save_transcoders
from biology.transcoders.transcoder_set import (
    Offloaded,
    Transcoder,
    TranscoderSet,
    activate,
    decoder,
    encode,
    pre_activations,
    reconstruct,
    reconstruct_all,
    shuffled,
)

IDS = [2, 5, 17, 33, 8, 61]
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def single(activation, threshold=None, k=None, signed=False):
    eye = torch.eye(4)
    layer = Transcoder(eye, torch.zeros(4), eye[:, None], torch.zeros(4), threshold)
    return TranscoderSet("per_layer", activation, (layer,), "mlp.hook_in", "mlp.hook_out", k, signed)


def test_activation_functions_by_hand():
    pre = torch.tensor([-1.0, 0.5, 0.25, 2.0])
    assert activate(single("relu"), 0, pre).tolist() == [0, 0.5, 0.25, 2]
    threshold = torch.tensor([-2.0, 0.5, 0.2, 0.0])  # 0.5 is not strictly above 0.5; -1 is above -2 but not positive
    assert activate(single("jumprelu", threshold), 0, pre).tolist() == [0, 0, 0.25, 2]
    assert activate(single("topk", k=2), 0, pre).tolist() == [0, 0.5, 0, 2]


def test_topk_never_activates_a_negative_feature():
    active = activate(single("topk", k=3), 0, torch.tensor([[-1.0, -0.5, 3.0, -2.0], [-1.0, -1.0, -1.0, -1.0]]))
    assert active.tolist() == [[0, 0, 3, 0], [0, 0, 0, 0]]
    assert int((activate(single("topk", k=9), 0, torch.ones(4)) > 0).sum()) == 4


def test_a_signed_set_keeps_what_is_negative_and_active():
    assert activate(single("topk", k=3, signed=True), 0, torch.tensor([-1.0, -0.5, 3.0, -2.0])).tolist() == [
        -1,
        -0.5,
        3,
        0,
    ]
    threshold = torch.tensor([-2.0, 0.5, -0.5, 0.0])
    assert activate(single("jumprelu", threshold, signed=True), 0, torch.tensor([-1.0, 0.5, -0.5, 2.0])).tolist() == [
        -1,
        0,
        0,
        2,
    ]


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_graphs_and_interventions_hold_with_negative_activations(tiny_model, kind, activation):
    model = tiny_model("llama")
    transcoders = random_transcoders(model, kind, activation, k=20, b_enc=-1.0)
    if activation == "jumprelu":
        low = (replace(layer, threshold=layer.threshold - 0.5) for layer in transcoders.layers)
        transcoders = replace(transcoders, layers=tuple(low), signed=True)
    graph = attribute(model, transcoders, IDS)
    activations = graph.activation[graph.features]
    assert int((activations < 0).sum()) > 10 and graph.metadata["row_residual"] < 1e-5
    node = int(activations.argmin())
    site = (0, int(graph.layer[node]), int(graph.pos[node]), int(graph.feature[node]))
    clean = run(model, torch.tensor([IDS]), positions=-1)[0][0, 0]
    zero = torch.zeros(1, dtype=torch.long)
    for protocol in ("constrained", "iterative", "direct"):  # held where it is, it changes nothing
        held = intervene(model, transcoders, [IDS], zero, edits([(*site, float(activations[node]))]), protocol=protocol)
        assert torch.allclose(held.logits[0, -1], clean, atol=1e-4)


def test_pre_activations_and_encode(tiny_model):
    transcoders = random_transcoders(tiny_model("llama"), activation="jumprelu")
    layer, x = transcoders.layers[1], torch.randn(2, 5, 32)
    pre = x @ layer.W_enc.T + layer.b_enc
    assert torch.allclose(pre_activations(transcoders, 1, x), pre, atol=1e-6)
    assert torch.allclose(encode(transcoders, 1, x), pre.relu() * (pre > layer.threshold), atol=1e-6)


def test_cross_layer_reconstruction_sums_all_lower_layers(tiny_model):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model, "cross_layer", skip=True)
    inputs = [torch.randn(2, 5, 32, dtype=torch.float64) for _ in range(3)]
    activations, outputs = reconstruct_all(transcoders, inputs)
    for target, output in enumerate(outputs):
        expected = transcoders.layers[target].b_dec + inputs[target] @ transcoders.layers[target].W_skip.T
        for source in range(target + 1):
            expected = expected + activations[source] @ transcoders.layers[source].W_dec[:, target - source]
        assert torch.allclose(output, expected, atol=1e-12)


def test_per_layer_features_write_to_their_own_layer_only(tiny_model):
    transcoders = random_transcoders(tiny_model("llama"))
    assert decoder(transcoders, 0, 1) is None and decoder(transcoders, 1, 0) is None
    assert decoder(transcoders, 1, 1, torch.tensor([3, 0])).equal(transcoders.layers[1].W_dec[[3, 0], 0])


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
def test_saelens_reads_what_we_write_and_computes_the_same(tiny_model, tmp_path, activation, skip):
    from sae_lens import SAE

    model = tiny_model("gemma2")
    ours = random_transcoders(model, activation=activation, skip=skip, read_hook="ln2.hook_normalized")
    save_transcoders(tmp_path, ours, model_name="tiny")
    x = torch.randn(6, 32)
    for layer in range(3):
        theirs = SAE.load_from_disk(str(tmp_path / f"layer_{layer}"), device="cpu")
        assert theirs.cfg.metadata.hook_name == f"blocks.{layer}.ln2.hook_normalized"
        assert theirs.W_dec.equal(ours.layers[layer].W_dec[:, 0])
        active = encode(ours, layer, x)
        assert torch.allclose(theirs.encode(x), active, atol=1e-6)
        assert torch.allclose(theirs(x), reconstruct(replace(ours), layer, [active] * 3, x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage(tiny_model, tmp_path, dtype):
    from sae_lens import SAE

    model = tiny_model("llama")
    ours = random_transcoders(model, activation="jumprelu")
    save_transcoders(tmp_path, ours, dtype=dtype)
    again = load_transcoders(tmp_path, model)
    for before, after in zip(ours.layers, again.layers, strict=True):
        assert after.W_enc.dtype == torch.float32
        assert after.W_enc.equal(before.W_enc.to(dtype).float())
    assert SAE.load_from_disk(str(tmp_path / "layer_0"), device="cpu").W_enc.dtype == dtype


def test_dtype_follows_the_model(tiny_model, tmp_path):
    save_transcoders(tmp_path, random_transcoders(tiny_model("llama")))
    assert load_transcoders(tmp_path, tiny_model("llama", torch.float64)).layers[0].W_enc.dtype == torch.float64


def test_shuffled_transcoders_keep_every_length(tiny_model):
    transcoders = random_transcoders(tiny_model("llama"), "cross_layer")
    null = shuffled(transcoders, 0)
    for before, after in zip(transcoders.layers, null.layers, strict=True):
        assert torch.allclose(before.W_enc.norm(dim=-1), after.W_enc.norm(dim=-1), rtol=1e-5)
        assert not torch.allclose(before.W_dec, after.W_dec)
        assert torch.equal(before.b_enc, after.b_enc)


# Offloading -----------------------------------------------------------------------------------------------------------


def offloaded(transcoders, device):
    """The same set with its matrices in CPU memory, for a model on `device`, as `load_transcoders` makes it."""
    settings = {"device": torch.device(device), "dtype": transcoders.layers[0].b_dec.dtype}
    return replace(transcoders, layers=tuple(Offloaded(**one.resting(), **settings) for one in transcoders.layers))


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_offloaded_matrices_rest_on_the_cpu_and_visit_the_device(tiny_model, kind):
    whole = random_transcoders(tiny_model("llama"), kind, activation="jumprelu", skip=True)
    away = offloaded(whole, "meta")  # a device without memory: what is computed there shows where it would be
    for layer in away.to(dtype=torch.float64).layers:
        resting = layer.resting()
        assert {resting[name].device.type for name in ("W_enc", "W_dec", "W_skip")} == {"cpu"}
        assert {resting[name].device.type for name in ("b_enc", "b_dec", "threshold")} == {"meta"}
        assert {resting[name].dtype for name in ("W_enc", "W_dec", "W_skip")} == {torch.float32}  # as they were
        assert layer.W_enc.device.type == layer.W_dec.device.type == "meta"
        assert layer.W_enc.dtype == layer.b_enc.dtype == torch.float64
    assert away.n_features == whole.n_features and away.d_model == whole.d_model
    inputs = [torch.zeros(2, 5, 32, device="meta") for _ in whole.layers]
    assert {output.device.type for output in reconstruct_all(away, inputs)[1]} == {"meta"}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_an_offloaded_set_gives_the_same_graphs_and_interventions(tiny_model, tmp_path, kind, device):
    model = load_model(tiny_model("llama").path, device=device)
    save_transcoders(tmp_path, random_transcoders(model, kind, skip=True), layout="circuit-tracer")
    resident, offloaded = (load_transcoders(tmp_path, model, offload=offload) for offload in (False, True))
    graphs = [attribute(model, transcoders, IDS) for transcoders in (resident, offloaded)]
    assert torch.equal(graphs[0].adjacency, graphs[1].adjacency) and len(graphs[0].adjacency) > 20
    for protocol in ("constrained", "iterative", "direct"):
        said = [
            intervene(
                model,
                transcoders,
                [IDS],
                torch.zeros(1, dtype=torch.long),
                edits([(0, 1, 3, 2, 4.0)]),
                protocol=protocol,
            )
            for transcoders in (resident, offloaded)
        ]
        assert torch.equal(said[0].logits, said[1].logits)


def test_shuffling_and_saving_take_an_offloaded_set(tiny_model, tmp_path):
    transcoders = random_transcoders(tiny_model("llama"))
    away = offloaded(transcoders, "cpu")
    for one, other in zip(shuffled(transcoders, 3).layers, shuffled(away, 3).layers, strict=True):
        assert torch.equal(one.W_enc, other.W_enc) and torch.equal(one.W_dec, other.W_dec)
        assert isinstance(other, Offloaded)
    for name, chosen in (("a", transcoders), ("b", away)):
        save_transcoders(tmp_path / name, chosen, dtype=torch.bfloat16)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("a", "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]] and files[0]
