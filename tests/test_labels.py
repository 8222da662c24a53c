"""Words for features: made from evidence, silent where there is none, and right about what was planted."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from multi_hop_tables import graph_tables, write_repository

from biology.cases.case import load_case
from biology.cases.mechanism import load_mechanism
from biology.cli.opening import open_model
from biology.config import load_config
from biology.findings.labels import (
    ANYWHERE,
    KEPT,
    LAST,
    Roles,
    label,
    labels_text,
    role_weights,
    roles_of,
    shipped_roles,
)
from biology.models.text import whole_word
from biology.report.explorer import node_labels
from biology.supernodes import promotion
from biology.supernodes.named_members import labels_key
from biology.supernodes.promotion import clearly_promoted
from biology.tables import read_tables

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"), figures=False)


def test_a_role_comes_first_and_nothing_clear_is_nothing():
    assert label(["Texas"], ["Austin"], ["is"]) == ("Texas", "role")
    assert label(["a", "b", "c", "d"]).text == "a / b / c …"
    assert label((), ["Austin", "\n"], ["is"]) == ('promotes "Austin", "\\n"', "promotes")
    assert label((), (), ["Dallas"]) == ('fires on "Dallas"', "fires on") and label() == ("", "")


def test_the_weight_of_a_role_is_the_mean_activation_where_it_is_looked_for(root):
    case, tables = load_case(root, "multi_hop"), read_tables(root / "data/runs/elegans/multi_hop")
    weights, texts = role_weights(case, tables)
    mine = tables["supernodes"].query("supernode == 'texas'")
    found = weights[weights["role"] == "texas"].set_index(
        ["layer", "feature"]
    )  # its label asks for what the table lacks
    most = mine.groupby(["layer", "feature"])["activation"].max()
    assert found["weight"].to_dict() == most.to_dict() == found["total"].to_dict()  # one prompt is called so
    assert texts["texas"] == [LAST] and texts["say a capital"] == [LAST]


def test_roles_that_are_weak_beside_what_a_feature_is_elsewhere_are_left_out():
    weights = pd.DataFrame(
        [(1, 7, "Texas", 2.0, 20.0), (1, 7, "Utah", 3.0, 6.0), (1, 8, "Texas", 0.1, 0.8)],
        columns=["layer", "feature", "role", "weight", "total"],
    )
    atlas = pd.DataFrame({"layer": [1, 1], "feature": [7, 8], "maximum": [4.0, 4.0]})
    roles = roles_of([(weights, {"Texas": ["Dallas"], "Utah": ["Provo"]})], atlas)
    assert roles.of == {(1, 7): ["Texas", "Utah"]} and roles_of([], atlas) == Roles()


def test_roles_at_one_token_do_not_crowd_out_those_at_another():
    rhymes = {f"rhyme {number}": [","] for number in range(2 * KEPT)}
    weights = pd.DataFrame(
        [(1, 7, role, 3.0, 90.0 - place) for place, role in enumerate([*rhymes, "Utah"])],
        columns=["layer", "feature", "role", "weight", "total"],
    )
    atlas = pd.DataFrame({"layer": [1], "feature": [7], "maximum": [4.0]})
    assert roles_of([(weights, {**rhymes, "Utah": ["Provo"]})], atlas).of == {(1, 7): [*list(rhymes)[:KEPT], "Utah"]}


def test_a_role_counts_only_where_it_is_looked_for():
    roles = Roles(
        {(0, 1): ["Cleveland", "capital", "say a capital", "about 59"]},
        {"Cleveland": ["Cleveland"], "capital": ["capital"], "say a capital": [LAST], "about 59": [ANYWHERE]},
    )
    tokens = ["the", "capital", "of", "Cleve", "##land", "59", "is"]
    assert [whole_word(tokens, place) for place in (1, 3, 4)] == ["capital", "Cleveland", "Cleveland"]
    assert roles.at((0, 1), tokens, 1) == ["capital", "about 59"] and roles.at((0, 1), tokens, 4)[0] == "Cleveland"
    assert roles.at((0, 1), tokens, 6) == ["say a capital", "about 59"] and roles.at((0, 2), tokens, 1) == []
    assert roles.at((0, 1), tokens, 5) == ["about 59"]


def test_labels_ship_as_they_are_and_only_for_the_same_weights(tmp_path):
    roles = Roles({(0, 3): ["b", "a"], (2, 0): ["a"]}, {"b": ["x"], "a": [LAST, "y"]})
    path = tmp_path / "labels.json"
    assert shipped_roles(path) == Roles()
    path.write_text(labels_text(roles, "key"), encoding="utf-8")
    assert shipped_roles(path) == shipped_roles(path, "key") == roles and shipped_roles(path, "other") == Roles()


def test_nodes_of_a_graph_are_labelled_at_their_tokens(root):
    graph = json.loads((root / "data/runs/elegans/multi_hop/graphs.json").read_text())["texas"]
    place = graph_tables()["supernodes"].query("supernode == 'texas'").iloc[0]
    node, feature = f"{place['layer']}_{place['feature']}_{place['pos']}", (int(place["layer"]), int(place["feature"]))
    assert node_labels(graph, Roles({feature: ["Texas"]}, {"Texas": ["Houston"]})) == {}
    assert node_labels(graph, Roles({feature: ["Texas"]}, {"Texas": ["Dallas"]})) == {node: "Texas"}  # Dal, ##las


def test_what_is_clearly_promoted_stands_out_from_all_tokens(tiny_model):
    from toy_case import transcoders_of

    model = tiny_model("llama")
    transcoders = transcoders_of(model)
    weights = model.weights
    unembed = (weights.W_U - weights.W_U.mean(0)) * weights.ln_final.gain
    raised = transcoders.layers[1].decoders(torch.tensor([3])).sum(1) @ unembed.T
    share = (raised / raised.std())[0]
    found = clearly_promoted(model, transcoders, [(1, 3)], most=model.n_vocab)[1, 3]
    least = max(promotion.CLEAR, promotion.NEXT * float(share.max()))
    assert len(found) == int((share >= least).sum())


@pytest.mark.slow
def test_labels_name_what_was_planted():
    """Places are planted in elegans along the unembedding of their words. Of the features that clearly write such a word in these layers,
    nine in ten are called by that place at its cities' tokens, though labels know nothing of decoders; hardly one by another."""
    entry = load_config(ROOT / "config.yaml").model("elegans")
    roles = shipped_roles(ROOT / "reports/elegans/labels.json", labels_key(ROOT, entry))
    assert roles.of, "reports/elegans/labels.json is of other weights: biology members --model elegans"
    model, transcoders = open_model(entry, ROOT, "elegans", threads=1)
    case = load_case(ROOT, "multi_hop")
    first, last = load_mechanism(ROOT, "multi_hop").variables["place"].layers
    cities: dict[str, dict[str, None]] = {}
    for item in case.items:
        cities.setdefault(item.factors["place"], {})[item.factors["city"].split()[-1]] = None
    every = [(layer, number) for layer in range(first, last + 1) for number in range(transcoders.n_features[layer])]
    raised = clearly_promoted(model, transcoders, every, most=1, clear=8.0)
    planted = {place: tokens[0] for place, tokens in raised.items() if tokens and tokens[0] in cities}
    assert len(planted) > 50
    verdict = Counter()
    for feature, place in planted.items():
        told = [label(roles.at(feature, [city, "is"], 0)).text for city in cities[place]]
        right = 2 * sum(place in text for text in told) >= len(told)
        verdict["right" if right else "wrong" if any(place not in text for text in told if text) else "silent"] += 1
    assert verdict["right"] >= 0.9 * len(planted) and verdict["wrong"] <= 0.05 * len(planted), verdict
