"""What operand plots say of prompts, on a toy case whose numbers can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_case import experiment_of, prompts_frame, toy_context

from biology.attribution.global_weights import global_weights, virtual_weights
from biology.cases.rules import OperandCondition, Operands, SupernodeRule
from biology.config import AttributionConfig
from biology.evidence.graph_tables import traced
from biology.evidence.operand_tables import (
    Plots,
    _auc,
    _fires,
    class_evidence,
    grid_prompts,
    operand_evidence,
    read_grid,
)
from biology.models.model import encode
from biology.records import InputError
from biology.supernodes.grouping import Finder
from biology.transcoders.activations import cache_features
from biology.transcoders.transcoder_set import shuffled

OUTCOMES = ("class_share", "class_fraction", "lookup_present", "label_wrong", "decimal_share",
            "share:add", "share:lookup", "share:sum", "share:constant", "share:other", "share:error")  # fmt: skip
CLASSES = experiment_of(kind="classes", outcomes=OUTCOMES)


def grid_context(model, experiments):
    """Four scored items of the toy case, and a grid of 12 x 12 pairs `w<a> w<b>` that selects."""
    frame = prompts_frame().assign(a="0", b="0", plain="", wrong_plain="")
    more = [
        frame.iloc[1].to_dict()
        | {"item": f"g-{a}-{b}", "text": f"w{a} w{b}", "a": str(a), "b": str(b), "role": "select"}
        for a in range(12)
        for b in range(12)
    ]
    context = toy_context(model, experiments, prompts=pd.concat([frame, pd.DataFrame(more)], ignore_index=True))
    rules = {"first": SupernodeRule(at="-2", operands=OperandCondition(family="add"))}
    case = context.case.model_copy(update={"operands": Operands(first="a", second="b"), "supernodes": rules})
    return replace(context, case=case)


def test_a_feature_of_the_first_word_is_an_add_function_there(tiny_model):
    """With causal attention nothing at the first word depends on the second: every feature there is f(a)."""
    context = grid_context(tiny_model("llama"), {})
    operands, plots = read_grid(context.model, context.transcoders, context.case, context.prompts, context.cache)
    first = operands[(operands["at"] == "-2") & (operands["transcoders"] == "own")]
    varying = first[first["family"] != "constant"]
    assert len(varying) and set(varying["model"]) == {"f(a)"} and varying["r2"].min() > 0.99
    assert set(operands["transcoders"]) == {"own", "shuffled"} and set(operands["at"]) == {"-2", "last"}
    cell = plots[plots["at"] == "-2"].iloc[0]
    place = context.place[f"g-{cell['a']}-{cell['b']}"]
    value = context.cache.at(*(torch.tensor([n]) for n in (place, cell["layer"], 1, cell["feature"])))
    assert float(value) == pytest.approx(cell["activation"])


def test_a_rule_takes_features_by_their_plot_and_position(tiny_model):
    context = grid_context(tiny_model("llama"), {})
    active = Finder(context.model, context.case, context.prompts, context.transcoders, context.cache).active("-2")
    column = int(active[context.place["i0"]].indices[0])
    width = max(context.transcoders.n_features)
    row = {"transcoders": "own", "layer": column // width, "feature": column % width, "digit": "ones"}
    table = pd.DataFrame([{**row, "at": "-2", "family": "add"}])
    finder = Finder(context.model, context.case, context.prompts, context.transcoders, context.cache, table)
    item = context.prompts.iloc[context.place["i0"]].to_dict()

    def members(**fields):
        rule = SupernodeRule(at="-2", operands=OperandCondition(**{"family": "add", **fields}))
        found = finder.select(rule, "name", item)
        return [(int(found.layer[i]), int(found.feature[i])) for i in range(len(found.layer))]

    assert members() == members(digit=("ones", "range")) == [(column // width, column % width)]
    assert members(family="sum") == members(digit=("range",)) == []
    assert not finder.plotted(SupernodeRule(at="last", operands=OperandCondition(family="add"))).size


def test_an_operand_that_is_no_number_is_refused(tiny_model):
    context = grid_context(tiny_model("llama"), {})
    wrong = context.prompts.assign(a="x")
    with pytest.raises(InputError, match="operand a 'x' is not in"):
        grid_prompts(context.case, wrong)


def test_shares_of_families_add_up_to_one(tiny_model):
    context = grid_context(tiny_model("llama"), {"classes": CLASSES})
    operands, _ = read_grid(context.model, context.transcoders, context.case, context.prompts, context.cache)
    context = replace(context, operands=operands)
    place, settings = context.place["i1"], AttributionConfig()
    (graph,) = traced(context, [place], settings)
    rows = pd.DataFrame(class_evidence(Plots(context), "classes", CLASSES, place, graph, settings))
    for arm in ("effect", "shuffle"):
        found = rows[rows["arm"] == arm].set_index("outcome")["value"]
        assert found[[name for name in OUTCOMES if name.startswith("share:")]].sum() == pytest.approx(1.0)
        families = sum(found[f"share:{family}"] for family in ("add", "lookup", "sum"))
        assert found["class_share"] == pytest.approx(families)
    everything = operands.assign(family="lookup", label="sum", frequency=10)
    rows = pd.DataFrame(
        class_evidence(Plots(replace(context, operands=everything)), "classes", CLASSES, place, graph, settings)
    )
    found = rows[rows["arm"] == "effect"].set_index("outcome")["value"]
    assert found["label_wrong"] == found["decimal_share"] == found["lookup_present"] == 1.0


def test_what_a_family_takes_in_is_virtual_weight_times_activation(tiny_model):
    outcomes = ("input:lookup>sum", "input:other>sum")
    wired = experiment_of(kind="connectivity", outcomes=outcomes, controls=("shuffle",))
    context = grid_context(tiny_model("llama"), {"connectivity": wired})
    operands, _ = read_grid(context.model, context.transcoders, context.case, context.prompts, context.cache)
    own = operands[(operands["transcoders"] == "own") & (operands["at"] == "last")]
    top = own["layer"].max()
    weights = global_weights(context.model, context.transcoders)
    place = context.items(wired)[0]
    active = context.finder.active("last")[place].toarray().ravel()
    by_layer = {layer: np.array(rows["feature"]) for layer, rows in own.groupby("layer")}
    target = next(feature for feature in by_layer[top] if active[top * context.finder.width + feature] > 0)
    taken = {}
    for layer in range(top):
        sources = by_layer[layer]
        row = (
            virtual_weights(weights, int(layer), int(top), targets=[int(target)], sources=sources.tolist())[0]
            .double()
            .numpy()
        )
        taken |= {(layer, f): w * active[layer * context.finder.width + f] for f, w in zip(sources, row, strict=True)}

    def measured(lookups):
        """The target is the one sum; of what stands before it, these are lookups."""
        at = list(zip(operands["layer"], operands["feature"], strict=True))
        families = ["sum" if one == (top, target) else "lookup" if one in lookups else "other" for one in at]
        rows = operand_evidence(replace(context, operands=operands.assign(family=families)))
        rows = rows[rows["item"] == context.prompts["item"].iat[place]]
        return rows.groupby(["outcome", "arm"])["value"].mean()

    whole = sum(map(abs, taken.values()))
    raising = {one for one, amount in taken.items() if amount > 0}
    found = measured(raising)
    assert found["input:lookup>sum", "effect"] == pytest.approx(sum(taken[one] for one in raising) / whole, rel=1e-4)
    assert found["input:other>sum", "effect"] <= 0.0
    assert found["input:lookup>sum", "shuffle"] < found["input:lookup>sum", "effect"]
    alike = measured(set(taken))  # with one family alone there is nothing to exchange
    assert alike["input:lookup>sum", "shuffle"] == pytest.approx(alike["input:lookup>sum", "effect"])
    assert alike["input:lookup>sum", "effect"] == pytest.approx(sum(taken.values()) / whole, rel=1e-4)


def test_area_under_the_curve_and_where_a_sum_feature_fires():
    assert _auc(np.array([1.0, 2.0, 3.0, 4.0]), [False, False, True, True]) == 1.0
    assert _auc(np.array([1.0, 1.0, 1.0]), [True, False, False]) == 0.5
    sums = np.array([0, 1, 2, 2])
    fires = _fires(np.array([[0.0, 1.0], [1.0, 0.2], [2.0, 0.0], [2.0, 0.0]]), sums)
    assert fires[:3].tolist() == [[False, True], [True, False], [True, False]] and not fires[3:].any()


def test_the_null_runs_on_the_prompts_of_the_grid(tiny_model):
    context = grid_context(tiny_model("llama"), {})
    operands, _ = read_grid(context.model, context.transcoders, context.case, context.prompts, context.cache)
    null = shuffled(context.transcoders, 0)
    grid = grid_prompts(context.case, context.prompts)
    cache = cache_features(context.model, null, [encode(context.model, text) for text in grid["text"]])
    row = operands[operands["transcoders"] == "shuffled"].iloc[0]
    mine = (cache.layer == row["layer"]) & (cache.feature == row["feature"]) & (cache.pos == 2)
    assert int(mine.sum()) == row["active"]
