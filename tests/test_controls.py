"""Controls push as hard as the edits they stand for, at the same places, with other features."""

import numpy
import pytest
import torch
from conftest import random_transcoders

from biology.interventions.controls import directions, matched_sets, moved
from biology.interventions.feature_edits import Edits, edits
from biology.interventions.matched_draw import draw_others
from biology.interventions.protocols import intervene
from biology.records import InputError
from biology.transcoders.activations import cache_features

PROMPTS = [[2, 5, 9, 40, 17], [2, 7, 33, 12, 8], [2, 11, 13, 4, 50]]


def setting(tiny_model, kind="per_layer", activation="relu"):
    model = tiny_model("llama", torch.float64)
    transcoders = random_transcoders(model, kind, activation)
    return model, transcoders, cache_features(model, transcoders, PROMPTS)


def lowered(cache, items, n=4, factor=0.0):
    """Per item: n active features of layers 0 and 1 at position 3, steered by a factor."""
    entries = []
    for item, prompt in enumerate(items):
        for layer in (0, 1):
            features, values = cache.cell(prompt, layer, 3)
            chosen = zip(features[:n].tolist(), values[:n].tolist(), strict=True)
            entries += [(item, layer, 3, feature, value * factor) for feature, value in chosen]
    return edits(entries)


def push_norms(transcoders, cache, prompt, edited, last_layer=None):
    """Length of what edits inject, by (row, layer, pos)."""
    clean = cache.at(prompt[edited.row], edited.layer, edited.pos, edited.feature).double()
    change = edited.value.double() - clean
    written = {}
    for i, cell in enumerate(zip(edited.row.tolist(), edited.layer.tolist(), edited.pos.tolist(), strict=True)):
        rows = transcoders.layers[cell[1]].decoders(edited.feature[i : i + 1].long())[0].double()
        rows = rows if last_layer is None else rows[: last_layer + 1 - cell[1]]
        written[cell] = written.get(cell, 0) + change[i] * rows
    return {cell: float(vector.norm()) for cell, vector in written.items()}


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
@pytest.mark.parametrize("factor", [0.0, -1.0, 3.0])
@pytest.mark.parametrize("last_layer", [None, 1])
def test_matched_sets(tiny_model, kind, factor, last_layer):
    _, transcoders, cache = setting(tiny_model, kind)
    prompt = torch.tensor([2, 0, 1, 2])
    true = lowered(cache, prompt.tolist(), factor=factor)
    controls = matched_sets(
        transcoders, cache, prompt, true, numpy.random.default_rng(0), draws=12, last_layer=last_layer
    )
    assert controls.prompt.tolist() == [place for place in prompt.tolist() for _ in range(12)]
    assert controls.filled.sum() == 0
    wanted = push_norms(transcoders, cache, prompt, true, last_layer)
    found = push_norms(transcoders, cache, controls.prompt, controls.edits, last_layer)
    assert set(found) == {(item * 12 + draw, layer, pos) for item, layer, pos in wanted for draw in range(12)}
    for (row, layer, pos), norm in found.items():
        assert norm == pytest.approx(wanted[row // 12, layer, pos], rel=1e-9)
    sets = set()
    for row in range(len(controls.prompt)):
        for layer in (0, 1):
            here = (controls.edits.row == row) & (controls.edits.layer == layer)
            there = (true.row == row // 12) & (true.layer == layer)
            chosen = controls.edits.feature[here].tolist()
            assert len(chosen) == int(there.sum()) == len(set(chosen))
            assert not set(chosen) & set(true.feature[there].tolist())
            features, values = cache.cell(int(controls.prompt[row]), layer, 3)
            active = dict(zip(features.tolist(), values.tolist(), strict=True))
            assert set(chosen) <= set(active)
            ratios = [value / active[f] for f, value in zip(chosen, controls.edits.value[here].tolist(), strict=True)]
            assert ratios == pytest.approx([ratios[0]] * len(ratios)) and (ratios[0] > 1) == (factor > 1)
            sets.add((row // 12, layer, tuple(sorted(chosen))))
    assert len(sets) > 4 * 2 * 6  # draws differ


def test_matched_sets_are_seeded(tiny_model):
    _, transcoders, cache = setting(tiny_model)
    prompt = torch.arange(3)
    true = lowered(cache, range(3))

    def draw(seed):
        return matched_sets(transcoders, cache, prompt, true, numpy.random.default_rng(seed)).edits

    assert all(value.equal(getattr(draw(3), name)) for name, value in vars(draw(3)).items())
    assert not draw(3).feature.equal(draw(4).feature)


def test_injections_are_matched_by_features_of_the_donor(tiny_model):
    """A swap lowers what is there and raises what the donor has; each is matched from where it came."""
    _, transcoders, cache = setting(tiny_model)
    prompt, donor = torch.tensor([0]), 1
    own, donors = (dict(zip(*map(torch.Tensor.tolist, cache.cell(p, 1, 3)), strict=True)) for p in (0, donor))
    raised = [feature for feature in donors if feature not in own][:2]
    low = list(own)[:3]
    entries = [(0, 1, 3, feature, 0.0) for feature in low]
    entries += [(0, 1, 3, feature, 2 * donors[feature]) for feature in raised]
    true = edits(entries)
    pool = torch.tensor([0] * 3 + [donor] * 2)
    controls = matched_sets(transcoders, cache, prompt, true, numpy.random.default_rng(1), draws=20, pool_prompt=pool)
    wanted = push_norms(transcoders, cache, prompt, true)
    for norm in push_norms(transcoders, cache, controls.prompt, controls.edits).values():
        assert norm == pytest.approx(wanted[0, 1, 3], rel=1e-9)
    clean = cache.at(*(torch.full_like(controls.edits.row, n) for n in (0, 1, 3)), controls.edits.feature)
    up = controls.edits.value > clean + 1e-12
    assert set(controls.edits.feature[~up].tolist()) <= set(own) - set(low)
    assert set(controls.edits.feature[up].tolist()) <= set(donors) - set(raised)
    assert up.any() and not up.all()


def test_too_few_active_features_are_filled_and_counted(tiny_model):
    _, transcoders, cache = setting(tiny_model, activation="topk")
    features, _ = cache.cell(0, 1, 3)
    true = edits([(0, 1, 3, feature, 0.0) for feature in features.tolist()])  # all k of them
    controls = matched_sets(transcoders, cache, torch.tensor([0]), true, numpy.random.default_rng(0))
    assert controls.filled.tolist() == [len(features)] * 10
    wanted = push_norms(transcoders, cache, torch.tensor([0]), true)[0, 1, 3]
    for norm in push_norms(transcoders, cache, controls.prompt, controls.edits).values():
        assert norm == pytest.approx(wanted, rel=1e-9)
    every = edits([(0, 1, 3, feature, 0.5) for feature in range(48)])
    with pytest.raises(InputError, match="not edited"):
        matched_sets(transcoders, cache, torch.tensor([0]), every, numpy.random.default_rng(0))


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer"])
def test_directions_have_the_length_of_the_push_at_every_target(tiny_model, kind):
    _, transcoders, cache = setting(tiny_model, kind)
    prompt = torch.tensor([1, 0])
    true = lowered(cache, prompt.tolist())
    injected, rows = directions(transcoders, cache, prompt, true, numpy.random.default_rng(0), draws=3, last_layer=1)
    assert rows.tolist() == [1, 1, 1, 0, 0, 0] and int(injected.layer.max()) == 1
    for item in range(2):
        for source in (0, 1):
            mine = (true.row == item) & (true.layer == source)
            sites = [column[mine] for column in (true.layer, true.pos, true.feature)]
            change = true.value[mine] - cache.at(prompt[true.row[mine]], *sites)
            for target in range(source, 2 if kind == "cross_layer" else source + 1):
                rows = transcoders.layers[source].W_dec[true.feature[mine], target - source]
                lengths = injected.vector.norm(dim=-1)
                assert ((lengths - (change @ rows).norm()).abs() < 1e-9).sum() == 3


def test_moved_edits_push_the_same_vector_elsewhere(tiny_model):
    model, transcoders, cache = setting(tiny_model)
    prompt = torch.tensor([0, 1])
    true = lowered(cache, prompt.tolist())
    there = moved(cache, prompt, true, torch.full_like(true.pos, 1))
    before, after = (push_norms(transcoders, cache, prompt, part) for part in (true, there))
    assert {(row, layer, 1): pytest.approx(norm, rel=1e-9) for (row, layer, _), norm in before.items()} == after
    outcome = intervene(model, transcoders, PROMPTS, prompt, there)
    assert outcome.logits.isfinite().all()


def test_nothing_to_match(tiny_model):
    _, transcoders, cache = setting(tiny_model)
    generator = numpy.random.default_rng(0)
    nothing, prompt = edits([]), torch.tensor([0])
    assert isinstance(matched_sets(transcoders, cache, prompt, nothing, generator).edits, Edits)
    assert len(directions(transcoders, cache, prompt, nothing, generator)[0].row) == 0
    with pytest.raises(InputError, match="at least 1 draw"):
        matched_sets(transcoders, cache, prompt, nothing, generator, draws=0)
    unchanged = edits([(0, 1, 3, int(cache.cell(0, 1, 3)[0][0]), float(cache.cell(0, 1, 3)[1][0]))])
    controls = matched_sets(transcoders, cache, prompt, unchanged, generator)
    assert max(push_norms(transcoders, cache, controls.prompt, controls.edits).values()) < 1e-12


@pytest.mark.parametrize("sets", [None, 7])
def test_what_is_drawn_is_active_not_taken_and_comes_once(sets):
    active, taken = numpy.array([3, 5, 8, 9, 14, 20, 21]), {5, 20, 33}
    for count, drawn in ((0, 0), (3, 3), (5, 5), (9, 5)):  # five of these are free
        places = draw_others(active, taken, count, numpy.random.default_rng(0), sets=sets)
        assert places.shape == ((drawn,) if sets is None else (sets, drawn))
        for row in numpy.atleast_2d(places):
            found = set(active[row].tolist())
            assert len(found) == drawn and not found & taken
    seen = {tuple(draw_others(active, taken, 2, numpy.random.default_rng(seed)).tolist()) for seed in range(200)}
    assert len(seen) == 20  # every ordered pair of five comes up
