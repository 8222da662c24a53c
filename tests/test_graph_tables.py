"""Reductions of a graph are what enumerating its paths one by one says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_case import ITEMS, experiment_of, prompts_frame, toy_context, transcoders_of

from biology.attribution.assembly import attribute
from biology.attribution.graph import ERROR, FEATURE, TOKEN
from biology.config import AttributionConfig
from biology.evidence import graph_tables
from biology.evidence.graph_tables import (
    ANSWER,
    graph_evidence,
    matched_nodes,
    node_sets,
    reduce_graphs,
    source_tokens,
    supernode_edges,
    together,
)

GRAPH = experiment_of(kind="graph", through="own", source="city", outcomes=("path_share", "shortcut", "source_share"))


@pytest.fixture(scope="module")
def context(tiny_model):
    model = tiny_model("llama", torch.float64)
    return toy_context(model, {"graph": GRAPH}, transcoders=transcoders_of(model, n_features=6), draws=4)


@pytest.fixture(scope="module")
def traced(context):
    """The graph of item i1 (five tokens), with its node sets."""
    place = context.place["i1"]
    graph = attribute(
        context.model, context.transcoders, context.ids[place], targets=[int(context.prompts["answer_token"][place])]
    )
    return place, graph, node_sets(context, "i1", graph)


def paths(graph, target):
    """Every path that ends at a target: its nodes from the target down, and the signed product of its normalised edges."""
    found, stack = [], [((target,), 1.0)]
    while stack:
        path, strength = stack.pop()
        found.append((path, strength))
        row = graph.adjacency[path[-1]]
        total = float(row.abs().sum())
        stack += [((*path, s), strength * float(row[s]) / total) for s in row.nonzero().flatten().tolist()]
    return found


def leaf_paths(graph, target, sources=None):
    leaf = (graph.kind == TOKEN) | (graph.kind == ERROR) if sources is None else sources
    return [(set(path), abs(strength)) for path, strength in paths(graph, target) if bool(leaf[path[-1]])]


def total(listed):
    return sum(strength for _, strength in listed)


def test_outcomes_are_sums_over_paths(context, traced):
    place, graph, sets = traced
    rows = {
        (row["arm"], row["draw"], row["outcome"]): row["value"]
        for row in graph_evidence(context, "graph", GRAPH, place, graph, sets)
    }
    target, sources = int(sets[ANSWER].nonzero()[0]), source_tokens(context, place, "city", graph)
    generator = context.generator("toy", "graph", "i1")
    arms = [("effect", 0, sets["own"])] + [
        ("match", draw, matched_nodes(graph, sets["own"], generator)) for draw in range(4)
    ]
    assert len(rows) == 3 * len(arms)
    for arm, draw, nodes in arms:
        members = set(nodes.nonzero().flatten().tolist())
        every, from_source = leaf_paths(graph, target), leaf_paths(graph, target, sources)
        through = [entry for entry in every if entry[0] & members]
        around = [entry for entry in from_source if not entry[0] & members]
        reaching = [leaf_paths(graph, member) for member in members]
        starting = [leaf_paths(graph, member, sources) for member in members]
        assert len(every) > 100 and 0 < len(through) < len(every)
        assert rows[arm, draw, "path_share"] == pytest.approx(total(through) / total(every))
        assert rows[arm, draw, "shortcut"] == pytest.approx(total(around) / total(from_source))
        assert rows[arm, draw, "source_share"] == pytest.approx(sum(map(total, starting)) / sum(map(total, reaching)))


def test_a_missing_supernode_carries_nothing(context, traced):
    place, graph, sets = traced
    rows = graph_evidence(context, "graph", GRAPH, place, graph, {ANSWER: sets[ANSWER]})
    effect = {row["outcome"]: row["value"] for row in rows if row["arm"] == "effect"}
    assert effect == {"path_share": 0.0, "shortcut": 1.0, "source_share": 0.0}


def test_sources_are_the_pieces_of_the_factor(context, traced):
    place, graph, _ = traced
    nodes = source_tokens(context, place, "city", graph)
    assert graph.pos[nodes].tolist() == [1, 2] and set(graph.kind[nodes].tolist()) == {TOKEN}
    assert source_tokens(context, place, "text", graph).sum() == len(context.ids[place]) - 1  # all but <bos>


def test_node_sets_are_the_members(context, traced):
    _, graph, sets = traced
    for name in ("own", "watched"):
        members = context.sites["i1", name]
        found = {
            (int(graph.layer[i]), int(graph.pos[i]), int(graph.feature[i])) for i in sets[name].nonzero().flatten()
        }
        assert found == {(member.layer, member.pos, member.feature) for member in members}
    assert int(sets[ANSWER].sum()) == 1 and int(graph.token_id[sets[ANSWER]]) == 65


def cells(graph, nodes):
    return sorted(zip(graph.layer[nodes].tolist(), graph.pos[nodes].tolist(), strict=True))


def test_matched_nodes_are_other_features_of_the_same_cells(traced):
    _, graph, _ = traced
    everywhere = [tuple(cell) for cell in set(cells(graph, graph.kind == FEATURE))]
    crowded = [cell for cell in everywhere if cells(graph, graph.kind == FEATURE).count(cell) >= 3]
    wanted = torch.zeros(graph.n_nodes, dtype=torch.bool)
    for layer, pos in crowded:
        wanted[((graph.kind == FEATURE) & (graph.layer == layer) & (graph.pos == pos)).nonzero()[0]] = True
    assert len(crowded) >= 3
    drawn = [matched_nodes(graph, wanted, np.random.default_rng(seed)) for seed in range(20)]
    for nodes in drawn:
        assert cells(graph, nodes) == cells(graph, wanted)
        assert not bool((nodes & wanted).any()) and set(graph.kind[nodes].tolist()) == {FEATURE}
    assert len({tuple(nodes.nonzero().flatten().tolist()) for nodes in drawn}) > 1
    assert torch.equal(drawn[0], matched_nodes(graph, wanted, np.random.default_rng(0)))
    whole = (graph.kind == FEATURE) & (graph.layer == 0)  # nothing is left to draw from
    assert not bool(matched_nodes(graph, whole, np.random.default_rng(0)).any())


def test_edges_sum_the_adjacency_and_influence_sums_signed_paths(context, traced):
    _, graph, sets = traced
    listed = supernode_edges(context, "i1", graph, sets, {"watched"}, detailed=False)
    rows = {(row["source"], row["target"]): row for row in listed}
    assert set(rows) == {(s, t) for s in ("own", "watched") for t in ("own", "watched", ANSWER) if s != t}
    for (source, target), row in rows.items():
        members = sets[target].nonzero().flatten().tolist()
        starts = set(sets[source].nonzero().flatten().tolist())
        assert row["direct"] == pytest.approx(sum(float(graph.adjacency[t, s]) for t in members for s in starts))
        signed = sum(
            strength for t in members for path, strength in paths(graph, t) if path[-1] in starts and len(path) > 1
        )
        assert row["influence"] == pytest.approx(signed / len(members), abs=1e-12)
        apart = sum(
            strength
            for t in members
            for path, strength in paths(graph, t)
            if path[-1] in starts and len(path) > 1 and not any(bool(sets["watched"][node]) for node in path[1:-1])
        )
        assert row["unmediated"] == pytest.approx(apart / len(members), abs=1e-12)
    assert rows["own", ANSWER]["direct"] != 0 and rows["own", "watched"]["influence"] != 0
    assert rows["watched", "own"]["direct"] == 0  # nothing flows down
    assert rows["own", ANSWER]["unmediated"] != rows["own", ANSWER]["influence"]  # some paths pass the other


def test_all_that_enters_the_answer_is_its_logit(context, traced):
    """Direct effects of supernodes, other features, tokens and errors, and the bias, add up to the (demeaned) logit."""
    place, graph, sets = traced
    logits = context.cache.logits[place]
    others = {"error", "bias", "token:<bos>@0", "token:w1@1", "token:w11@2", "token:w30@3"}
    for given in ({"features": graph.kind == FEATURE, ANSWER: sets[ANSWER]}, sets):
        rows = supernode_edges(context, "i1", graph, given, detailed=True)
        entering = {row["source"]: row["direct"] for row in rows if row["target"] == ANSWER}
        supernodes = {"features"} if "features" in given else {"own", "watched", "other"}
        assert set(entering) == others | supernodes
        assert sum(entering.values()) == pytest.approx(float(logits[65] - logits.mean()), rel=1e-6)
        assert {row["target"] for row in rows} == {*given, "logit:w61"}


def test_every_scored_and_every_named_prompt_is_traced(context):
    frame = context.prompts.copy()
    frame.loc[0, "answer_token"] = int(context.cache.logits[0].argmax())
    frame.loc[frame["item"] == "i3", "correct"] = False
    reduced = reduce_graphs(replace(context, prompts=frame), AttributionConfig())
    scored = [f"i{i}" for i in range(ITEMS) if i != 3]
    assert reduced.graphs["item"].tolist() == ["shown", *scored]
    assert set(reduced.evidence["item"]) == set(scored) and list(reduced.shown) == ["shown"]
    assert float(reduced.graphs["row_residual"].max()) < 1e-9
    assert reduced.graphs["error_share"].between(0, 1).all()
    assert (reduced.graphs["error_share"] + reduced.graphs["replacement"]).to_numpy() == pytest.approx(1.0)
    detailed = reduced.edges[reduced.edges["source"] == "bias"]
    assert set(detailed["item"]) == {"shown"}
    assert isinstance(reduced.evidence, pd.DataFrame) and len(reduced.evidence) == len(scored) * 3 * 5


def test_prompts_are_traced_together_if_they_can_be_and_the_tables_are_the_same(context, monkeypatch):
    places = list(range(len(context.prompts)))
    several = together(context, places)
    assert sorted(place for group in several for place in group) == places and len(several) < len(places)
    assert all(len({len(context.ids[place]) for place in group}) == 1 for group in several)
    reduced = reduce_graphs(context, AttributionConfig())
    monkeypatch.setattr(graph_tables, "TOGETHER", 0)
    assert [len(group) for group in together(context, places)] == [1] * len(places)
    alone = reduce_graphs(context, AttributionConfig())
    for name in ("graphs", "edges", "evidence"):
        pd.testing.assert_frame_equal(getattr(reduced, name), getattr(alone, name), rtol=1e-9, atol=1e-12)


def test_a_named_prompt_that_the_model_fails_shows_its_answer_beside_what_the_model_says(context):
    frame = prompts_frame()
    frame["role"] = "show"
    least = int(context.cache.logits[0].argmin())
    frame.loc[0, "answer_token"] = least
    reduced = reduce_graphs(replace(context, prompts=frame), AttributionConfig(max_logits=2))
    targets = reduced.edges.loc[reduced.edges["item"] == "shown", "target"]
    assert ANSWER in set(targets) and targets.str.startswith("logit:").any()
