"""A score that is moved before softmax moves the model as if it had been computed so, and terms that leave it take their value away."""

import numpy as np
import pytest
import torch
from conftest import KINDS, random_transcoders
from test_direct_effects import IDS
from toy_case import experiment_of, toy_context

from biology.attention.qk import qk_attribution
from biology.attention.score_edits import (
    HIDDEN,
    between,
    indices,
    interactions,
    other_pairs,
    run_changed,
    scaled,
    strongest_pairs,
)
from biology.evidence.score_evidence import ScoredPrompt, all_heads, chosen_heads, run_attention
from biology.models.model import run, token_batch

SITES = [(1, 2), (2, 3)]
QUERY, KEY = 7, 5


def apart(model, layer, head, query=QUERY, key=KEY):
    return qk_attribution(model, random_transcoders(model, skip=True), IDS, layer, head, query, key)


def zeroed(model, layer, head, query=QUERY, key=KEY):
    """The last logits and the attention of a model whose score is zero, by hand."""
    kept = []

    def zero(scores):
        kept[:] = [scores.clone()]
        kept[0][:, head, query, key] = 0.0
        return kept[0]

    at = f"blocks.{layer}.attn"
    edits = [(f"{at}.hook_attn_scores", zero), (f"{at}.hook_pattern", lambda pattern: kept[0].softmax(-1))]
    ids = token_batch(model, IDS[: query + 1])
    logits, seen = run(model, ids, edits=edits, reads=[f"{at}.hook_pattern"], positions=-1)
    return logits[0, -1], seen[f"{at}.hook_pattern"][0, head, query, key]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_all_its_terms_a_score_is_zero(tiny_model, kind, dtype):
    """With grouped queries and rotary embeddings, norms of queries and keys, and capped scores."""
    model, tolerance = tiny_model(kind, dtype), 1e-8 if dtype == torch.float64 else 1e-4
    for layer, head in SITES:
        score = apart(model, layer, head)
        assert score.relative_error <= tolerance
        change = torch.tensor([[0.0], [-score.total]], dtype=torch.float64)
        logits, attention = run_changed(model, IDS[: QUERY + 1], [(layer, head)], QUERY, KEY, change)
        clean, _ = run(model, token_batch(model, IDS[: QUERY + 1]), positions=-1)
        torch.testing.assert_close(logits[0], clean[0, -1], rtol=tolerance, atol=tolerance)
        assert float(attention[0, 0]) == pytest.approx(score.attention, rel=tolerance)
        wanted, pattern = zeroed(model, layer, head)
        torch.testing.assert_close(logits[1], wanted, rtol=tolerance, atol=tolerance)
        assert float(attention[1, 0]) == pytest.approx(float(pattern), rel=tolerance)
        assert float((logits[1] - logits[0]).abs().max()) > 1e-4  # it does something


def test_scores_of_several_heads_are_moved_at_once_and_later_ones_follow(tiny_model):
    model = tiny_model("llama", torch.float64)
    one, two = (torch.tensor([[0.7, 0.0]]), torch.tensor([[0.7, -0.4]]))
    first = run_changed(model, IDS, SITES, QUERY, KEY, one)
    alone = run_changed(model, IDS, SITES[:1], QUERY, KEY, one[:, :1])
    both = run_changed(model, IDS, SITES, QUERY, KEY, two)
    torch.testing.assert_close(first.logits, alone.logits)
    clean = run_changed(model, IDS, SITES, QUERY, KEY, torch.zeros(1, 2))
    assert first.attention[0, 0] > clean.attention[0, 0] and first.attention[0, 1] != clean.attention[0, 1]
    assert both.attention[0, 1] < first.attention[0, 1]
    hidden = run_changed(model, IDS, SITES, QUERY, KEY, torch.full((1, 2), HIDDEN))
    assert float(hidden.attention.abs().max()) == 0.0


def test_terms_as_changes(tiny_model):
    score = apart(tiny_model("llama", torch.float64), 2, 3)
    everything = torch.arange(len(score.key_nodes))
    assert scaled(score, everything, 0.0) == pytest.approx(-(score.parts.pairs + score.parts.query_bias))
    assert scaled(score, everything[:3], -1.0) == pytest.approx(-2 * float(score.key_marginals[:3].sum()))
    like = scaled(score, everything[3:5], -1.0, everything[:3])
    long, own = (score.key_vectors[some].sum(0).norm() for some in (slice(0, 3), slice(3, 5)))
    assert like == pytest.approx(-2 * float(score.key_marginals[3:5].sum() * long / own))
    assert scaled(score, everything[:0], -1.0) == scaled(score, everything[:0], -1.0, everything[:3]) == 0.0
    strongest, rest = strongest_pairs(score, 0.05)
    assert len(strongest) == int(0.05 * score.matrix.numel()) and len(strongest) + len(rest) == score.matrix.numel()
    assert float(strongest.abs().min()) >= float(rest.abs().max())
    assert float(strongest.sum() + rest.sum()) == pytest.approx(score.parts.pairs)
    draws = [other_pairs(strongest, rest, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2] and abs(draws[0]) <= float(strongest.abs().sum())
    groups = [everything[:4], everything[4:9]]
    query = torch.arange(len(score.query_nodes))
    matrix = between(score, [query], groups)
    assert matrix.tolist()[0] == pytest.approx([float(score.matrix[:, group].sum()) for group in groups])
    feature = next(n for n in range(len(score.key_nodes)) if int(score.key_nodes.kind[n]) == 0)
    nodes = score.key_nodes
    name = (int(nodes.layer[feature]), int(nodes.pos[feature]), int(nodes.feature[feature]))
    assert indices(nodes, [name, (99, 0, 0)]).tolist() == [feature] and not len(indices(nodes, []))


@pytest.mark.parametrize(
    ("matrix", "count"), [([[2.0, 0], [0, 2]], 2), ([[2.0, 0], [0, 0.1]], 1), ([[1.0, 1], [1, 1]], 1), ([[0.0, 0]], 0)]
)
def test_interactions_are_counted_by_singular_values(matrix, count):
    assert interactions(torch.tensor(matrix, dtype=torch.float64), 0.9) == count


def attention(**more):
    outcomes = (
        "score_error",
        "pair_share",
        "interactions",
        "pairs_attention",
        "pairs_answer",
        "scaled_attention",
        "scaled_answer",
    )
    return experiment_of(kind="attention", key="-1", of=["own"], by=["own"], outcomes=outcomes, heads=0.25, **more)  # fmt: skip


def test_every_outcome_is_measured_beside_its_control(tiny_model):
    context = toy_context(tiny_model("llama"), {"scores": attention()})
    evidence = run_attention(context)
    counts = evidence.groupby(["outcome", "arm"]).size().unstack(fill_value=0)
    assert (counts["effect"] == 6).all() and set(counts.index) == set(attention().outcomes)
    assert counts["match"].to_dict() == {
        one: 0 if one in ("score_error", "interactions") else 18 for one in counts.index
    }
    values = evidence[evidence["arm"] == "effect"].groupby("outcome")["value"]
    assert values.max()["score_error"] < 1e-3 and values.max()["pairs_attention"] <= 1
    assert set(evidence[evidence["outcome"] == "interactions"]["value"]) <= {0.0, 1.0}
    assert (values.std()[["pairs_answer", "scaled_attention", "scaled_answer", "pair_share"]] > 0).all()
    assert evidence.equals(run_attention(context))


def test_the_control_draws_nothing_of_undrawn_supernodes(tiny_model):
    """With one member in the group the others may be drawn for it, unless their supernode is undrawn."""
    context = toy_context(tiny_model("llama"), {"scores": attention()})
    plain = context.case.experiments["scores"]
    drawn = {}
    for undrawn in ((), ("own",)):
        experiment = plain.model_copy(update={"undrawn": undrawn})
        for place in context.items(plain):
            item = ScoredPrompt(context, "scores", experiment, place, [(1, 0)])
            first, *rest = item.members(["own"])[0]
            others = {one for draw in range(20) for group in item.others([[first]], "key", draw) for one in group}
            drawn.setdefault(undrawn, []).append(len(others & {*rest}))
    assert max(drawn[()]) and not max(drawn["own",])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"undrawn": ["watched"], "controls": []}, "`undrawn` is read by nothing here"),
        ({"undrawn": ["own"]}, "`undrawn` names 'own', whose features are not drawn as it is"),
    ],
)
def test_what_is_undrawn_for_nothing_is_refused(more, says):
    with pytest.raises(ValueError, match=says):
        attention(**more)


def test_a_strength_of_almost_one_and_no_members_change_nothing(tiny_model):
    model = tiny_model("llama")
    near = run_attention(toy_context(model, {"scores": attention(strength=1 - 1e-9)}))
    moved = near[near["outcome"].isin(["scaled_attention", "scaled_answer"])]["value"]
    assert len(moved) and float(moved.abs().max()) < 1e-5
    context = toy_context(model, {"scores": attention(controls=())})
    nothing = run_attention(type(context)(**{**vars(context), "members": context.members[:0]}))
    zero = nothing[nothing["outcome"].isin(["scaled_attention", "scaled_answer", "pair_share", "interactions"])][
        "value"
    ]
    assert len(zero) == 24 and float(zero.abs().max()) < 1e-6 and set(nothing["arm"]) == {"effect"}


def test_heads_are_chosen_on_development_prompts_by_what_the_answer_loses(tiny_model):
    model = tiny_model("llama")
    context = toy_context(model, {"scores": attention()})
    experiment = context.case.experiments["scores"]
    assert len(all_heads(context)) == 12 and chosen_heads(context, experiment, []) == []
    dev = [1, 2, 3]
    best = chosen_heads(context, experiment, dev)
    assert len(best) == 3 and best == sorted(best) and best == chosen_heads(context, experiment, dev)
    lost = {}
    for head in all_heads(context):
        total = 0.0
        for place in dev:
            last, token = len(context.ids[place]) - 1, context.records[place]["answer_token"]
            logits = run_changed(model, context.ids[place], [head], last, last, torch.tensor([[0.0], [HIDDEN]])).logits
            said = logits.double().log_softmax(-1)[:, token]
            total += float(said[0] - said[1])
        lost[head] = total
    assert set(best) == set(sorted(lost, key=lambda head: -lost[head])[:3])
