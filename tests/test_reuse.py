"""What of a supernode on the plain prompt is also there on another prompt, counted by hand on a toy case."""

import numpy as np
import pytest
from toy_case import experiment_of, prompts_frame, toy_context

from biology.evidence.operand_tables import operand_evidence
from biology.models.model import run, token_batch


def test_reuse_is_whole_on_the_same_prompt_and_partial_on_another(tiny_model):
    reuse = experiment_of(kind="reuse", of=("own",), outcomes=("shared_activity",), controls=("donor",))
    frame = prompts_frame()
    frame = frame.assign(plain=frame["item"], wrong_plain=frame["donor"])
    context = toy_context(tiny_model("llama"), {"reuse": reuse}, prompts=frame)
    rows = operand_evidence(context)
    means = rows.groupby("arm")["value"].mean()
    assert means["effect"] == pytest.approx(1.0) and means["donor"] < 0.99


def test_reuse_without_a_wrong_donor_needs_none(tiny_model):
    reuse = experiment_of(kind="reuse", of=("own",), outcomes=("shared_activity",), controls=())
    frame = prompts_frame()
    context = toy_context(tiny_model("llama"), {"reuse": reuse}, prompts=frame.assign(plain=frame["item"]))
    assert set(operand_evidence(context)["arm"]) == {"effect"}


def test_the_control_of_reuse_is_what_the_same_rule_finds_with_shuffled_transcoders(tiny_model):
    reuse = experiment_of(kind="reuse", of=("own",), outcomes=("shared_activity",), controls=("donor", "random"))
    frame = prompts_frame()
    frame = frame.assign(plain=frame["donor"], wrong_plain=frame["item"])
    context = toy_context(tiny_model("llama"), {"reuse": reuse}, prompts=frame)
    rows = operand_evidence(context).set_index(["item", "arm"])["value"]
    null = context.random_finder(frame)
    place = context.items(reuse)[0]
    item, plain = frame["item"].iat[place], frame["donor"].iat[place]
    found = null.select(context.case.supernodes["own"], "own", frame.iloc[context.place[plain]].to_dict())
    columns = found.layer * null.width + found.feature
    here, there = (null.active("last")[context.place[one], columns].toarray() for one in (item, plain))
    assert rows[item, "random"] == pytest.approx(np.minimum(here, there).sum() / there.sum())
    assert rows[item, "random"] != rows[item, "effect"]


def test_what_is_written_is_counted_towards_what_the_mlps_write_beyond_their_mean(tiny_model):
    reuse = experiment_of(kind="reuse", of=("own",), outcomes=("shared_writing",), controls=("donor", "random"))
    frame = prompts_frame()
    frame = frame.assign(plain=frame["donor"], wrong_plain=frame["item"])
    context = toy_context(tiny_model("llama"), {"reuse": reuse}, prompts=frame)
    rows = operand_evidence(context).set_index(["item", "arm"])["value"]
    places, layers = context.items(reuse), range(context.model.n_layers)

    def mlps(place):
        names = [f"blocks.{layer}.{context.transcoders.write_hook}" for layer in layers]
        _, seen = run(context.model, token_batch(context.model, [context.ids[place]]), reads=names)
        return np.concatenate([seen[name][0, -1].double().numpy() for name in names])

    def written(finder, plain, item):
        found = finder.select(context.case.supernodes["own"], "own", finder.records[finder.place[plain]])
        sets, here = finder.transcoders.layers, finder.active("last")
        out = [np.zeros(context.model.d_model) for _ in layers]
        for column in finder.columns(found):
            layer, feature = divmod(int(column), finder.width)
            out[layer] += here[finder.place[item], column] * sets[layer].W_dec[feature, 0].double().numpy()
        return np.concatenate(out)

    plain = {item for column in ("plain", "wrong_plain") for item in frame[column].iloc[places]}
    mean = np.mean([mlps(context.place[item]) for item in sorted(plain)], axis=0)
    null = context.random_finder(frame)
    for place in places:
        row = frame.iloc[place]
        for arm, finder, column in (
            ("effect", context.finder, "plain"),
            ("donor", context.finder, "wrong_plain"),
            ("random", null, "plain"),
        ):
            more = mlps(context.place[row[column]]) - mean
            share = written(finder, row[column], row["item"]) @ more / (more @ more)
            assert rows[row["item"], arm] == pytest.approx(share, abs=1e-6)
