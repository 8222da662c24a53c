"""Perturbations do what their definitions say, compared with slow definitions (`slow_protocols.py`)."""

from dataclasses import replace

import pytest
import torch
from conftest import KINDS, random_transcoders
from slow_protocols import DOUBLE, PROMPTS, SETS, clean_activations, slow, some_edits

from biology.interventions import clean_passes
from biology.interventions.clean_passes import CleanPasses
from biology.interventions.feature_edits import Injections, Sites, concatenate, edits, steered, wherever_active
from biology.interventions.generation import extended
from biology.interventions.protocols import PROTOCOLS, intervene
from biology.models import continuation
from biology.models.continuation import SharedPrefix
from biology.models.model import capture, freeze, run
from biology.records import InputError
from biology.transcoders.activations import cache_features
from biology.transcoders.transcoder_set import skip


@pytest.mark.parametrize(("kind", "activation", "skips"), SETS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_are_their_definitions_and_batches_change_nothing(tiny_model, protocol, kind, activation, skips):
    model = tiny_model("gemma2", DOUBLE)
    transcoders = random_transcoders(model, kind, activation, skips, write_hook="mlp.hook_out")
    generator = torch.Generator().manual_seed(1)
    prompt = torch.tensor([2, 0, 1, 0, 3, 2, 2])
    parts = [
        some_edits(model, transcoders, row, PROMPTS[source], generator, top=1)
        for row, source in enumerate(prompt.tolist())
    ]
    for live in (False, True) if protocol != "direct" else (False,):
        outcome = intervene(
            model, transcoders, PROMPTS, prompt, concatenate(parts), protocol=protocol, last_layer=1,
            live_attention=live, batch_size=3,
        )  # fmt: skip
        for row, source in enumerate(prompt.tolist()):
            expected = slow(model, transcoders, PROMPTS[source], parts[row], protocol, 1, live)
            assert torch.allclose(outcome.logits[row], expected[0], atol=1e-9)


def test_clean_passes_are_shared_within_a_limit_and_change_nothing(tiny_model):
    model = tiny_model("llama")
    transcoders = random_transcoders(model)
    edited = some_edits(model, transcoders, 0, PROMPTS[0], torch.Generator().manual_seed(1), top=1)

    def logits(passes=None):
        rows = torch.arange(len(PROMPTS))
        return intervene(
            model, transcoders, PROMPTS, rows, edited, last_layer=1, batch_size=1, passes=passes
        ).logits  # fmt: skip

    every = CleanPasses(model, transcoders)
    clean = [every(torch.tensor([prompt])) for prompt in PROMPTS]
    assert all(every(torch.tensor([prompt])) is one for prompt, one in zip(PROMPTS, clean, strict=True))
    assert every(torch.tensor([PROMPTS[0]]), 2).write[1].data_ptr() == clean[0].write[1][:, 2:].data_ptr()
    for limit in (0, every.size // 2, every.size):
        passes = CleanPasses(model, transcoders, limit)
        assert torch.equal(logits(), logits(passes)) and torch.equal(logits(), logits(passes))
        assert passes.size <= limit and (passes.size > 0) == (limit > 0)


def test_arms_with_any_number_of_rows_and_first_edits_share_clean_passes(tiny_model, monkeypatch):
    model = tiny_model("llama")
    transcoders, passed = random_transcoders(model), []
    monkeypatch.setattr(clean_passes, "capture", lambda *a, **k: (passed.append(a[1].tolist()), capture(*a, **k))[1])
    monkeypatch.setattr(continuation, "WORTH", 1)
    passes, lengths = CleanPasses(model, transcoders), torch.tensor([len(prompt) for prompt in PROMPTS])
    for repeats, at, batch_size in ((1, -1, 256), (10, -2, 3), (2, 0, 7)):
        prompt = torch.arange(len(PROMPTS)).flip(0).repeat_interleave(repeats)
        edited = edits((row, 0, at, 0, 1.0) for row in range(len(prompt)))
        intervene(model, transcoders, PROMPTS, prompt, edited, passes=passes, batch_size=batch_size)
    of_length = [[list(PROMPTS[i]) for i in (lengths == length).nonzero()[:, 0]] for length in lengths.unique()]
    assert passed == of_length


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize(("kind", "activation", "skips"), SETS)
def test_a_prompt_is_read_from_the_first_edit_on_with_the_same_result(
    tiny_model, monkeypatch, architecture, kind, activation, skips
):
    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model, kind, activation, skips).to(dtype=DOUBLE)
    generator = torch.Generator().manual_seed(2)
    late = [some_edits(model, transcoders, row, PROMPTS[row], generator, top=1) for row in range(len(PROMPTS))]
    edited = concatenate([replace(one, pos=one.pos.clamp(min=len(PROMPTS[row]) - 2)) for row, one in enumerate(late)])
    edited = edits(zip(edited.row, edited.layer, edited.pos, edited.feature, (edited.row + 1) / 3, strict=True))
    sites = Sites(torch.arange(4), torch.tensor([0, 1, 2, 2]), torch.full((4,), -1), torch.arange(4))
    pushed = Injections(torch.arange(4), torch.zeros(4).long(), torch.full((4,), -2), torch.ones(4, model.d_model))

    def outcome(worth, **settings):
        monkeypatch.setattr(continuation, "WORTH", worth)
        asked = {"watch": sites, "profile": -1, "injections": pushed, "last_layer": 1, **settings}
        found = intervene(model, transcoders, PROMPTS, torch.arange(4), edited, **asked)
        return [found.logits, found.watched, *found.profile]

    read = []
    monkeypatch.setattr(
        SharedPrefix,
        "rows",
        lambda self, which, length, rows=SharedPrefix.rows: (read.append(length), rows(self, which, length))[1],
    )
    for protocol in PROTOCOLS:
        for live in (False, True):
            settings = {"protocol": protocol, "live_attention": live, "cut_direct": protocol == "constrained"}
            whole, shared = outcome(10**9, **settings), outcome(1, **settings)
            for one, other in zip(whole, shared, strict=True):
                assert torch.allclose(one, other, atol=1e-9)
    assert set(read) == {1, 3}  # of prompts of three and five tokens all but the last two


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize(("kind", "activation", "skips"), SETS)
def test_steering_by_one_is_the_identity(tiny_model, architecture, kind, activation, skips):
    model = tiny_model(architecture)
    transcoders = random_transcoders(model, kind, activation, skips)
    clean, activations = clean_activations(model, transcoders, PROMPTS[0])
    layer, pos, feature = torch.stack(activations)[:, 0].nonzero().unbind(1)
    sites = Sites(torch.zeros_like(layer), layer, pos, feature)
    values = torch.stack(activations)[layer, 0, pos, feature]
    for protocol in PROTOCOLS:
        for live in (False, True):
            held, untouched = (
                intervene(
                    model, transcoders, PROMPTS, torch.tensor([0]), edited, protocol=protocol, live_attention=live
                ).logits[0, 0]
                for edited in (steered(sites, values, 1.0), edits([]))
            )
            assert torch.equal(held, untouched)
            assert (held - clean.logits[0, -1]).abs().max() <= 1e-6
    moved = intervene(model, transcoders, PROMPTS, torch.tensor([0]), steered(sites, values, 0.0))
    assert (moved.logits[0, 0] - clean.logits[0, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize(("kind", "activation", "skips"), SETS[:3])
def test_direct_effect_is_the_gradient_of_the_frozen_model(tiny_model, architecture, kind, activation, skips):
    """Autograd through the frozen model gives the edge; the intervention moves the target by edge * change."""
    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model, kind, activation, skips, read_hook="ln2.hook_normalized")
    prompt, (layer, pos, feature) = PROMPTS[0], (0, 1, 7)
    seen, activations = clean_activations(model, transcoders, prompt)
    change = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    inputs = {}

    def write(target, output):
        held = seen.write[target]
        if transcoders.layers[0].W_skip is not None:
            held = held + skip(transcoders, target, inputs[target] - seen.read[target])
        decoders = transcoders.layers[layer].W_dec
        if 0 <= target - layer < decoders.shape[1]:
            place = torch.zeros_like(held)
            place[0, pos] = decoders[feature, target - layer]
            held = held + change * place
        return held

    hooks = freeze(model, seen, mlps=False)
    for number in range(model.n_layers):
        hooks.append((f"blocks.{number}.ln2.hook_normalized", lambda x, number=number: inputs.__setitem__(number, x)))
        hooks.append((f"blocks.{number}.hook_mlp_out", lambda x, number=number: write(number, x)))
    _, values = run(model, torch.tensor([prompt]), edits=hooks, reads=["unembed.hook_out"], grad=True)
    watched = Sites(*torch.tensor([[0, 0, 0], [1, 2, 2], [3, 2, 4], [5, 0, 9]]))
    targets = [
        inputs[int(at)][0, int(p)] @ transcoders.layers[int(at)].W_enc[int(f)]
        for at, p, f in zip(watched.layer, watched.pos, watched.feature, strict=True)
    ]
    edges = [float(torch.autograd.grad(target, change, retain_graph=True)[0]) for target in targets]
    (logit,) = torch.autograd.grad(values["unembed.hook_out"][0, -1, 42], change)

    for factor in (0.0, -1.0, 25.0):
        value = float(activations[layer][0, pos, feature]) * factor + (factor == 25.0)
        step = value - float(activations[layer][0, pos, feature])
        outcome = intervene(
            model, transcoders, [prompt], torch.tensor([0]), edits([(0, layer, pos, feature, value)]),
            protocol="direct", watch=watched,
        )  # fmt: skip
        before = [float(encode_pre(transcoders, seen, watched, i)) for i in range(3)]
        moved = outcome.watched_pre.numpy() - before
        assert moved == pytest.approx([edge * step for edge in edges], rel=1e-8, abs=1e-11)
        assert float(outcome.pre_logits[0, 0, 42] - seen.pre_logits[0, -1, 42]) == pytest.approx(
            float(logit) * step, rel=1e-8, abs=1e-11
        )


def encode_pre(transcoders, seen, sites, i):
    weights = transcoders.layers[int(sites.layer[i])]
    x = seen.read[int(sites.layer[i])][0, int(sites.pos[i])]
    return x @ weights.W_enc[sites.feature[i]] + weights.b_enc[sites.feature[i]]


def test_watch_profile_positions_and_readout(tiny_model):
    model = tiny_model("llama", DOUBLE)
    transcoders = random_transcoders(model, activation="topk")
    prompt = torch.arange(4)
    sites = Sites(*torch.tensor([[3, 0, 2], [1, 1, 2], [-1, 2, -3], [4, 5, 6]]))
    nothing = edits([])
    positions = torch.tensor([[0, -1], [1, 1], [4, 2], [-2, 0]])
    outcome = intervene(
        model, transcoders, PROMPTS, prompt, nothing, watch=sites, profile=-1, positions=positions, batch_size=1
    )
    for row in range(4):
        seen, activations = clean_activations(model, transcoders, PROMPTS[row])
        assert torch.allclose(outcome.logits[row], seen.logits[0, positions[row]], atol=1e-10)
        for layer in range(3):
            assert torch.allclose(outcome.profile[layer][row], activations[layer][0, -1], atol=1e-10)
        for i in (sites.row == row).nonzero()[:, 0]:
            expected = activations[int(sites.layer[i])][0, int(sites.pos[i]), int(sites.feature[i])]
            assert float(outcome.watched[i]) == pytest.approx(float(expected), abs=1e-10)
            assert float(outcome.watched_pre[i]) == pytest.approx(float(encode_pre(transcoders, seen, sites, i)))
    small = intervene(
        model, transcoders, PROMPTS, prompt, nothing,
        readout=lambda logits, rows: torch.stack([logits[:, 0, 42], rows.to(logits)], 1),
    )  # fmt: skip
    assert small.logits[:, 1].tolist() == [0, 1, 2, 3] and small.pre_logits is None
    assert torch.allclose(small.logits[[1, 3], 0], intervene(
        model, transcoders, PROMPTS, torch.tensor([1, 3]), nothing).logits[:, 0, 42])  # fmt: skip


def test_injected_vectors_equal_the_edit_they_copy(tiny_model):
    model = tiny_model("gemma3", DOUBLE)
    transcoders = random_transcoders(model)
    _, activations = clean_activations(model, transcoders, PROMPTS[0])
    value = float(activations[1][0, 2, 7]) + 3.0
    vector = 3.0 * transcoders.layers[1].W_dec[7]
    injected = Injections(*torch.tensor([[0], [1], [2]]), vector)
    row = torch.tensor([0])
    for protocol in PROTOCOLS:
        one = intervene(model, transcoders, PROMPTS, row, edits([(0, 1, 2, 7, value)]), protocol=protocol)
        other = intervene(model, transcoders, PROMPTS, row, edits([]), injections=injected, protocol=protocol)
        assert torch.allclose(one.logits, other.logits, atol=1e-9)


def test_features_hold_in_the_constrained_range_only(tiny_model):
    """A push at layer 0 leaves MLP outputs up to the range's end as they were, and moves later ones."""
    model = tiny_model("llama", DOUBLE)
    transcoders = random_transcoders(model)
    pushed = edits([(0, 0, 2, 7, 9.0)])
    clean, _ = clean_activations(model, transcoders, PROMPTS[0])
    ends = [
        intervene(model, transcoders, PROMPTS, torch.tensor([0]), pushed, last_layer=top).logits for top in range(3)
    ]
    assert not torch.allclose(ends[0], ends[1]) and not torch.allclose(ends[1], ends[2])
    default = intervene(model, transcoders, PROMPTS, torch.tensor([0]), pushed).logits
    assert torch.equal(default, ends[0])


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_without_direct_paths_what_only_the_last_token_could_say_is_not_said(tiny_model, architecture):
    """What the last layer writes at the last token reaches the logits directly or not at all; elsewhere nothing does so directly."""
    model = tiny_model(architecture, DOUBLE)
    transcoders = random_transcoders(model, write_hook="mlp.hook_out")
    row, top = torch.tensor([0]), model.n_layers - 1
    clean = intervene(model, transcoders, PROMPTS, row, edits([])).logits

    def logits(layer, pos, cut):
        pushed = edits([(0, layer, pos, 7, 9.0)])
        return intervene(model, transcoders, PROMPTS, row, pushed, cut_direct=cut).logits

    assert not torch.allclose(logits(top, -1, cut=False), clean)
    assert torch.allclose(logits(top, -1, cut=True), clean, atol=1e-12)
    assert not torch.allclose(logits(0, 2, cut=True), clean)
    assert torch.allclose(logits(0, 2, cut=True), logits(0, 2, cut=False), atol=1e-12)


def test_a_cut_direct_path_is_what_the_decoder_writes_into_the_last_stream(tiny_model):
    model = tiny_model("llama", DOUBLE)
    transcoders = random_transcoders(model)
    _, activations = clean_activations(model, transcoders, PROMPTS[0])
    last, top = len(PROMPTS[0]) - 1, model.n_layers - 1
    pushed = edits([(0, 0, last, 7, float(activations[0][0, last, 7]) + 3.0)])
    taken = Injections(*torch.tensor([[0], [top], [last]]), -3.0 * transcoders.layers[0].W_dec[7])
    row = torch.tensor([0])
    cut = intervene(model, transcoders, PROMPTS, row, pushed, last_layer=top, cut_direct=True).logits
    direct = intervene(model, transcoders, PROMPTS, row, pushed, last_layer=top, injections=taken).logits
    assert torch.allclose(cut, direct, atol=1e-9)
    kept = intervene(model, transcoders, PROMPTS, row, pushed, last_layer=top).logits
    assert not torch.allclose(cut, kept)


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ((0, 0, 0, 0, 1.0), {"protocol": "gentle"}, "unknown protocol 'gentle'"),
        ((0, 3, 0, 0, 1.0), {}, "layer 3 is not in 0..2"),
        ((0, 0, 5, 0, 1.0), {}, "position 5 is not in 0..4"),
        ((0, 0, 0, 48, 1.0), {}, "feature 48 is not in 0..47"),
        ((0, 2, 0, 0, 1.0), {"last_layer": 1}, "range ends at layer 1: choose its last layer from 2"),
        ((0, 2, 0, 0, 1.0), {"last_layer": 3}, "range ends at layer 3"),
        ((0, 2, 0, 0, 1.0), {"protocol": "iterative", "cut_direct": True}, "protocol 'constrained'"),
        ((0, 2, 0, 0, 1.0), {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_edits(tiny_model, entry, options, message):
    model = tiny_model("llama")
    with pytest.raises(InputError, match=message):
        intervene(model, random_transcoders(model), PROMPTS, torch.tensor([0]), edits([entry]), **options)


def test_a_feature_counts_once(tiny_model):
    entry = (0, 1, 2, 3, 4.0)
    assert len(edits([entry, entry]).row) == 1
    with pytest.raises(InputError, match="two values"):
        edits([entry, (0, 1, 2, 3, 5.0)])
    model = tiny_model("llama")
    twice = concatenate([edits([(0, 1, 4, 3, 4.0)]), edits([(0, 1, -1, 3, 4.0)])])
    with pytest.raises(InputError, match="edited twice"):
        intervene(model, random_transcoders(model), PROMPTS, torch.tensor([0]), twice)


def test_no_rows(tiny_model):
    model = tiny_model("llama")
    outcome = intervene(model, random_transcoders(model), PROMPTS, torch.zeros(0).long(), edits([]), watch=edits([]))
    assert outcome.logits.shape == (0, 1, 100)


@pytest.mark.parametrize(("kind", "activation"), [("per_layer", "jumprelu"), ("cross_layer", "relu")])
def test_an_edit_wherever_features_are_active_holds_them_at_each_such_place(tiny_model, kind, activation):
    """It is every place written out from dense activations; off, it is the feature held at zero at every token."""
    model = tiny_model("llama", DOUBLE)
    transcoders = random_transcoders(model, kind, activation, write_hook="mlp.hook_out")
    cache = cache_features(model, transcoders, PROMPTS)
    dense = [clean_activations(model, transcoders, prompt)[1] for prompt in PROMPTS]
    rows = torch.tensor([2, 0])
    often = [(layer, int((dense[0][layer][0] > 0).sum(0).argmax())) for layer in range(model.n_layers)]
    found = wherever_active(cache, rows, often, -2.0)
    by_hand = edits(
        (row, layer, pos, feature, -2.0 * float(dense[prompt][layer][0, pos, feature]))
        for row, prompt in enumerate(rows.tolist())
        for layer, feature in often
        for pos in range(len(PROMPTS[prompt]))
        if dense[prompt][layer][0, pos, feature] > 0
    )
    assert len(by_hand.row) > len(often)  # some are active at several tokens
    places = [sorted(zip(*(getattr(one, key).tolist() for key in ("row", "layer", "pos", "feature")), strict=True)) for one in (found, by_hand)]  # fmt: skip
    assert places[0] == places[1]
    assert torch.allclose(found.value.sort().values, by_hand.value.sort().values)

    def logits(held):
        return intervene(model, transcoders, PROMPTS, rows, held, protocol="iterative", live_attention=True).logits

    layer, feature = often[0]  # whose activity no other edit changes
    zero = extended(edits((row, layer, 0, feature, 0.0) for row in (0, 1)), [PROMPTS[place] for place in rows])
    off = logits(wherever_active(cache, rows, [often[0]], 0.0))
    assert torch.allclose(off, logits(zero), atol=1e-10)
    clean = logits(edits(()))
    assert not torch.allclose(off, clean, atol=1e-6)
    for nothing in (wherever_active(cache, rows, [], 0.0), wherever_active(cache, rows, often, 1.0)):
        assert torch.allclose(logits(nothing), clean, atol=1e-10)
    assert not len(wherever_active(cache, rows[:0], often, 0.0).row)
