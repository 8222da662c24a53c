"""Steering on the grid is steering: M = 1 of one's own changes nothing, and each row is what a single intervention says."""

import pytest
import torch
from toy_case import experiment_of, toy_bench

from biology.evidence.sweep import NODE_STRENGTHS, STRENGTHS, TOP, sweep, sweep_nodes
from biology.interventions.feature_edits import edits
from biology.interventions.protocols import intervene
from biology.models.model import token_text


@pytest.fixture(scope="module")
def swept(tiny_model):
    bench = toy_bench(
        tiny_model("llama"), {"inhibit": experiment_of(kind="inhibit", inhibit="own", outcomes=("answer_probability",))}
    )
    return bench, sweep(bench)


def test_holding_ones_own_at_one_changes_nothing(swept):
    _, table = swept
    clean = table[table["mode"] == "clean"].set_index("text")["value"]
    own = table[(table["source"] == "shown") & (table["strength"] == 1.0)]
    for _, rows in own.groupby("supernode"):
        assert rows.set_index("text")["value"].to_dict() == pytest.approx(clean.to_dict(), rel=1e-4)


def test_every_row_is_what_an_intervention_says(swept):
    bench, table = swept
    place = bench.place["shown"]
    for strength in STRENGTHS:
        held = edits((0, m.layer, m.pos, m.feature, strength * m.activation) for m in bench.sites["shown", "own"])
        out = intervene(
            bench.model,
            bench.transcoders,
            bench.ids,
            torch.tensor([place]),
            held,
            protocol="iterative",
            live_attention=True,
        )
        best = out.logits[0, 0].double().softmax(-1).topk(TOP)
        wanted = {token_text(bench.model, int(t)): float(p) for p, t in zip(best.values, best.indices, strict=True)}
        rows = table[(table["supernode"] == "own") & (table["mode"] == "hold") & (table["strength"] == strength)]
        assert rows.set_index("text")["value"].to_dict() == pytest.approx(wanted, rel=1e-4)


def test_a_node_held_alone_is_one_edit(swept):
    """The nodes of a graph file, the most influential first; at M = 1 nothing has changed."""
    bench, table = swept
    member = bench.sites["shown", "own"][0]
    node = {
        "node_id": f"{member.layer}_{member.feature}_{member.pos}", "feature_type": "cross layer transcoder",
        "influence": 0.5, "activation": member.activation,
    }  # fmt: skip
    error = {"node_id": "0_-1_1", "feature_type": "mlp reconstruction error", "influence": 0.1, "activation": None}
    made = sweep_nodes(bench, {"shown": {"nodes": [error, node]}})
    assert made["strength"].tolist() == list(NODE_STRENGTHS) and set(made["feature"]) == {member.feature}
    clean = table[(table["mode"] == "clean") & (table["item"] == "shown")].iloc[0]
    kept = made[made["strength"] == 1.0].iloc[0]
    assert (kept["text"], kept["value"]) == (clean["text"], pytest.approx(clean["value"], rel=1e-4))
    for row in made.itertuples():
        held = edits([(0, member.layer, member.pos, member.feature, row.strength * member.activation)])
        out = intervene(
            bench.model, bench.transcoders, bench.ids, torch.tensor([bench.place["shown"]]), held, protocol="iterative",
            live_attention=True,
        )  # fmt: skip
        assert row.value == pytest.approx(float(out.logits[0, 0].double().softmax(-1).max()), rel=1e-5)
    assert sweep_nodes(bench, {"shown": {"nodes": [error]}}).empty
