"""Steering on the grid is steering: M = 1 of one's own changes nothing, and each row is what a single intervention says."""

import pytest
import torch
from toy_case import experiment_of, toy_context

from biology.evidence.sweep import NODE_STRENGTHS, STRENGTHS, TOP, sweep, sweep_nodes
from biology.interventions.feature_edits import edits
from biology.interventions.protocols import intervene
from biology.models.model import token_text


@pytest.fixture(scope="module")
def swept(tiny_model):
    context = toy_context(
        tiny_model("llama"), {"inhibit": experiment_of(kind="inhibit", inhibit="own", outcomes=("answer_probability",))}
    )
    return context, sweep(context)


def test_holding_ones_own_at_one_changes_nothing(swept):
    _, table = swept
    clean = table[table["mode"] == "clean"].set_index("text")["value"]
    own = table[(table["source"] == "shown") & (table["strength"] == 1.0)]
    for _, rows in own.groupby("supernode"):
        assert rows.set_index("text")["value"].to_dict() == pytest.approx(clean.to_dict(), rel=1e-4)


def test_every_row_is_what_an_intervention_says(swept):
    context, table = swept
    place = context.place["shown"]
    for strength in STRENGTHS:
        held = edits((0, m.layer, m.pos, m.feature, strength * m.activation) for m in context.sites["shown", "own"])
        out = intervene(
            context.model,
            context.transcoders,
            context.ids,
            torch.tensor([place]),
            held,
            protocol="iterative",
            live_attention=True,
        )
        best = out.logits[0, 0].double().softmax(-1).topk(TOP)
        wanted = {token_text(context.model, int(t)): float(p) for p, t in zip(best.values, best.indices, strict=True)}
        rows = table[(table["supernode"] == "own") & (table["mode"] == "hold") & (table["strength"] == strength)]
        assert rows.set_index("text")["value"].to_dict() == pytest.approx(wanted, rel=1e-4)


def test_a_node_held_alone_is_one_edit(swept):
    """The nodes of a graph file, the most influential first; at M = 1 nothing has changed."""
    context, table = swept
    member = context.sites["shown", "own"][0]
    node = {
        "node_id": f"{member.layer}_{member.feature}_{member.pos}", "feature_type": "cross layer transcoder",
        "influence": 0.5, "activation": member.activation,
    }  # fmt: skip
    error = {"node_id": "0_-1_1", "feature_type": "mlp reconstruction error", "influence": 0.1, "activation": None}
    made = sweep_nodes(context, {"shown": {"nodes": [error, node]}})
    assert made["strength"].tolist() == list(NODE_STRENGTHS) and set(made["feature"]) == {member.feature}
    clean = table[(table["mode"] == "clean") & (table["item"] == "shown")].iloc[0]
    kept = made[made["strength"] == 1.0].iloc[0]
    assert (kept["text"], kept["value"]) == (clean["text"], pytest.approx(clean["value"], rel=1e-4))
    for row in made.itertuples():
        held = edits([(0, member.layer, member.pos, member.feature, row.strength * member.activation)])
        out = intervene(
            context.model, context.transcoders, context.ids, torch.tensor([context.place["shown"]]), held, protocol="iterative",
            live_attention=True,
        )  # fmt: skip
        assert row.value == pytest.approx(float(out.logits[0, 0].double().softmax(-1).max()), rel=1e-5)
    assert sweep_nodes(context, {"shown": {"nodes": [error]}}).empty
