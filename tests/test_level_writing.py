"""What a supernode's features write of what the MLPs write more for a level: with a dictionary that rebuilds the MLPs the shares are exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_census import planted
from toy_case import experiment_of

from biology.evidence.census import run_census
from biology.supernodes.level_writing import LevelWriting
from biology.transcoders.activations import cache_features
from biology.transcoders.neurons import neuron_set


@pytest.fixture(scope="module")
def context(tiny_model):
    """The toy case with all neurons as features, which write what the MLPs write."""
    context = planted(tiny_model)
    neurons = neuron_set(context.model, k=None)
    return replace(context, transcoders=neurons, cache=cache_features(context.model, neurons, context.ids))


@pytest.fixture(scope="module")
def writing(context):
    return LevelWriting(context.finder, context.case.supernodes["word"])


def test_all_features_write_all_that_is_written_for_a_level_in_the_mean_over_it(context, writing):
    every = np.arange(context.transcoders.n_layers * context.finder.width)
    of_level = [row for row in context.finder.records if row["role"] == "select" and row["word"] == "word 2"]
    shares = [writing.share(row, "last", every) for row in of_level]
    assert np.isclose(np.mean(shares), 1.0, atol=1e-4) and len(of_level) == 4


def test_shares_of_parts_add_up(context, writing):
    every = np.arange(context.transcoders.n_layers * context.finder.width)
    row = next(row for row in context.finder.records if row["role"] == "score")
    parts = [writing.share(row, "last", part) for part in (every[::3], every[1::3], every[2::3])]
    assert np.isclose(sum(parts), writing.share(row, "last", every), atol=1e-4)
    assert writing.share(row, "last", every[:0]) == 0.0


def test_members_write_it_where_the_level_is_told_and_others_do_not(context):
    census = experiment_of(
        kind="census", through="word", sites=("1",), outcomes=("written",), controls=("position", "shuffle", "random")
    )
    rule = context.case.supernodes["word"].model_copy(update={"difference_share": 0.95})
    case = context.case.model_copy(update={"experiments": {"census": census}, "supernodes": {"word": rule}})
    evidence = run_census(replace(context, case=case))
    mean = evidence.groupby("arm")["value"].mean()
    assert mean["effect"] > 0.5
    assert max(mean["shuffle"], mean["position"], mean["random"]) < 0.5 * mean["effect"]
    assert torch.isfinite(torch.tensor(evidence["value"].to_numpy())).all()


def test_a_level_that_no_prompt_selects_has_no_share(context, writing):
    row = context.finder.records[0] | {"word": "no such level"}
    assert writing.share(row, "last", np.arange(5)) == 0.0
