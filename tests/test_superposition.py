"""A toy keeps more features than it has dimensions, a dictionary finds them, and what means nothing finds none."""

import pandas as pd
import torch
from torch.nn.functional import normalize

from biology.dictionaries import superposition as toy
from biology.figures.drawing import caption, styled
from biology.figures.superposition_figure import ASKED, figure, share, verdict
from biology.tables import table


def test_a_direction_finds_one_feature_at_most_whatever_its_length():
    planted = torch.eye(4)
    assert toy.found(planted, 3.0 * planted[:3]) == 3
    assert toy.found(torch.stack([planted[0], planted[0] + 0.1 * planted[1]]), planted[:1]) == 1
    assert toy.found(planted, -planted) == 0
    assert toy.found(planted, planted[:1] + planted[1:2]) == 0


def test_a_dictionary_finds_planted_directions_and_random_ones_do_not():
    """Twice as many directions as dimensions, of which two are present at a time: nothing has to be grown for this."""
    generator = torch.Generator().manual_seed(0)
    planted = normalize(torch.randn(16, 8, generator=generator), dim=1)
    stream = toy.drawn(16, 8192, generator) @ planted
    assert toy.found(planted, toy.dictionary(stream, 32, seed=0)) >= 13
    assert toy.found(planted, torch.randn(32, 8, generator=generator)) <= 4


def test_a_toy_keeps_more_features_than_it_has_dimensions():
    organism = toy.grow(16, seed=0, width=8, steps=600)
    assert int((organism.weight.norm(dim=1) > toy.KEPT).sum()) > 8


def counted(found: int, control: int) -> pd.DataFrame:
    rows = [
        {"features": 4 * size, "dimensions": 4, "seed": seed, "kept": 4 * size, "found": found * size // 4, "found_random": control * size // 4, "found_components": 0}
        for size in (1, 4, 8) for seed in range(8)
    ]  # fmt: skip
    return table("superposition", rows)


def test_the_verdict_is_what_the_counts_say():
    assert share(counted(12, 0), "found", ASKED)[0] == 12 / 16
    assert [verdict(counted(*counts)) for counts in ((16, 0), (13, 0), (16, 8), (4, 0))] == [
        "replicated", "inconclusive", "inconclusive", "not replicated",
    ]  # fmt: skip
    with styled():
        title, _ = caption(figure(counted(16, 0)))
    assert title.startswith("With 4 features in each dimension a dictionary finds 100% of them [97%, 100%]")
    assert title.endswith("the better control 0%: replicated (80% needed)")
