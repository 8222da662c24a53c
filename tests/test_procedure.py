"""The decision rule errs as rarely as is required: simulated with the clusters of the prompts, and with the noise of the data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from multi_hop_tables import META, QUICK, STRICT, claim, one, swap
from scipy.stats import binom

from biology.cases.case import Case, discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.cli.opening import of_corpus
from biology.config import StatisticsConfig, load_config
from biology.statistics import (
    ALPHA,
    generator,
)
from biology.verdicts.measuring import measure
from biology.verdicts.procedure import Simulation, noise, procedure_table, registered_table, scored_clusters
from biology.verdicts.registration import read_lock

ROOT = Path(__file__).parents[1]


def with_extensions(case: Case) -> Case:
    """The case with what it asks models of extended corpora beside its own prompts."""
    items = {item.item: item for item in case.items}
    config = load_config(ROOT / "config.yaml")
    for name, entry in config.models.items():
        if entry.role == "extended" and case.name in config.cases_of(name, discover_cases(ROOT)):
            items = {item.item: item for item in of_corpus(case, entry, ROOT).items} | items
    return case.model_copy(update={"items": tuple(items.values())})


SIMULATIONS = 2000


WEAK = {"jail-4", "jail-5", "jail-7"}
"""Claims that may be missed though true: their words make few clusters, and that nothing happens takes many. Their case's README says
so."""


@pytest.fixture(scope="module")
def registered():
    """Error rates of all parts of all registered claims; draws enough that Holm's correction over all can be passed."""
    lock = read_lock(ROOT)
    cases = {
        name: (
            with_extensions(load_case(ROOT, name)),
            [claim for claim in load_claims(ROOT, name) if claim.id in lock.claims.get(name, {})],
        )
        for name in discover_cases(ROOT)
    }
    draws = StatisticsConfig(permutations=30_000, bootstrap=400)
    assert 2 / (1 + draws.permutations) * sum(len(claims) for _, claims in cases.values()) < ALPHA
    return cases, registered_table(cases, simulations=SIMULATIONS, settings=draws)


def test_the_procedure_is_checked_with_the_clusters_of_the_prompts(registered):
    cases, rates = registered
    asked = [
        (claim.id, part.name)
        for case, claims in cases.values()
        for claim in claims
        for part in claim.parts
        if case.items
    ]
    assert list(zip(rates["claim"], rates["part"], strict=True)) == asked
    assert set(rates["direction"]) == {"increase", "decrease", "equivalent"}
    prompts = pd.read_csv(ROOT / "experiments/multi_hop/prompts.csv", keep_default_na=False)
    scored = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score") & (prompts["set"] == "states")]
    case, claims = cases["multi_hop"]
    assert sorted(scored_clusters(case, claims[0].parts[0])) == sorted(scored.groupby("cluster").size())


def test_no_registered_claim_is_replicated_by_chance(registered):
    """A claim holds if all its parts do, so what is true of each part alone is true of the claim, whatever else holds."""
    rates = registered[1]["false_positive"]
    # the largest of many estimates is above the rate that all have: what one in a hundred gives in so many simulations
    by_chance = binom.ppf(1 - 0.01 / len(rates), SIMULATIONS, 0.01) / SIMULATIONS
    assert rates.max() <= by_chance and rates.mean() <= 0.01
    assert rates.min() > 0  # the simulation does see the rule err


def test_registered_claims_are_found_at_one_and_a_half_times_their_minimum(registered):
    """However the parts of a claim depend on one another: it misses at most as often as they do together."""
    missed = (1 - registered[1].set_index("claim")["power"]).groupby("claim")
    power = 1 - missed.sum()
    assert missed.size().max() >= 3 and set(power.index[power < 0.9]) == WEAK


@pytest.mark.parametrize("tail", [1, -1])
def test_the_noise_of_the_simulation_has_the_error_that_is_asked_for(tail):
    sizes = (2, 9, 20, 5, 5, 14) * 5
    between, residuals = noise(sizes, 0.25, tail)
    part = claim({"minimum": 1.0}).parts[0]
    means = Simulation(part, sizes, between, residuals, 5000, QUICK, generator("noise")).scores(1.5).mean(0)
    assert means.std() == pytest.approx(0.25, rel=0.05) and means.mean() == pytest.approx(1.5, abs=0.02)
    assert np.sign(np.mean(residuals**3)) == tail


def test_the_procedure_is_checked_with_the_clusters_and_the_noise_of_the_data():
    prompts, evidence = swap()
    frame = procedure_table(
        measure([claim(STRICT), claim(id="gone", minimum_n=999)], evidence, prompts, META, QUICK),
        simulations=100,
        settings=QUICK,
    )
    row = one(frame)
    assert row["claim"] == "multihop-7" and row["clusters"] == 50 and row["items"] == 300
    assert row["within"] == pytest.approx(0.3, abs=0.06) and row["power"] >= 0.9 and row["false_positive"] <= 0.01
    assert row["missed"] == 0 and row["at_half"] <= 0.01
