"""A line is what the model writes under the perturbation, and its outcomes are their definitions."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from toy_case import ITEMS, experiment_of, prompts_frame, toy_context

from biology.cases.measurement import Line
from biology.cases.measures import forms_of
from biology.evidence import line_evidence
from biology.evidence import written_lines as lines
from biology.evidence.case_context import Setting
from biology.evidence.line_evidence import measure_lines, run_lines
from biology.evidence.perturbation import no_edits
from biology.evidence.written_lines import Words, held, text, write
from biology.interventions.feature_edits import edits
from biology.interventions.generation import generate
from biology.models.continuation import CachedNextLogits
from biology.models.model import capture, hooked, run
from biology.records import InputError

OUTCOMES = (
    "line_ends_own", "line_ends_donor", "line_ends_family", "line_ends_rhyme", "line_starts_donor", "answer_log_odds",
    "answer_moves", "ending_log_odds",
)  # fmt: skip
LINE = Line(ends="place", family="relation", max_words=6)
SWAP = experiment_of(kind="swap", inhibit="own", inject="own", strengths=(2.0,), line=LINE, outcomes=OUTCOMES)
EXCHANGE = experiment_of(kind="exchange", line=LINE, outcomes=OUTCOMES, control_position="1", controls=("position",))
EVERYONE = list(range(1, 1 + ITEMS))  # the first prompt is the named one
WORDS = {f"w{50 + i}": 54 + i for i in [*range(ITEMS), 7]}


def test_every_outcome_of_a_line_is_tested_here():
    assert set(OUTCOMES) == set(forms_of("exchange"))


def same_length():
    """The toy prompts, all of two words."""
    frame = prompts_frame()
    frame["text"] = [" ".join(text.split()[:2]) for text in frame["text"]]
    return frame


def words_of(context, **changes):
    return Words(context, LINE.model_copy(update=changes), EVERYONE)


def everyone():
    return torch.arange(ITEMS)


def test_without_edits_a_line_is_what_the_model_writes(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    written = write(context, words_of(context), everyone(), held(context, no_edits()), None)
    free = generate(context.model, context.transcoders, [context.ids[place] for place in EVERYONE], edits([]), 6)
    for line, whole in zip(written.lines, free, strict=True):
        end = next((n for n, token in enumerate(whole) if token in WORDS.values()), len(whole))
        assert line == whole[: end + 1]
    for place, logits in zip(EVERYONE, written.logits, strict=True):
        assert torch.allclose(logits, capture(context.model, context.ids[place]).logits[0, -1], atol=1e-4)


def test_endings_are_the_levels_of_the_factor_and_lines_that_end_too_soon_do_not_count(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    words = words_of(context)
    assert words.endings == {
        token: word for word, token in WORDS.items() if word != "w57"
    }  # it is of a prompt that is only shown
    assert words.own == [f"w{50 + i}" for i in range(ITEMS)]
    assert words.planned == [f"w{50 + (i + 1) % ITEMS}" for i in range(ITEMS)]
    assert words.rhymes[0] == {"w50", "w51", "w52"} and words.rhymes[5] == {"w53", "w54", "w55"}
    assert words.ending([9, 9, 55, 54]) == "w51" and words.ending([9, 9]) == ""
    assert words_of(context, min_words=3).ending([9, 9, 55, 54]) == ""


def test_outcomes_are_their_definitions(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    words, change = words_of(context), torch.zeros(context.model.n_vocab)
    change[65], change[64], change[55], change[54] = 0.5, 0.2, 1.0, 3.0  # answers of i1 and i0, their words

    def of(line):
        return {outcome: line_evidence._value(outcome, words, 0, line, change) for outcome in OUTCOMES}

    own, donor, rhyme, other = of([9, 54]), of([65, 55]), of([9, 56]), of([9, 58])
    assert [one["line_ends_own"] for one in (own, donor, rhyme, other)] == [1, 0, 0, 0]
    assert [one["line_ends_donor"] for one in (own, donor, rhyme, other)] == [0, 1, 0, 0]
    assert [one["line_ends_family"] for one in (own, donor, rhyme, other)] == [1, 1, 1, 0]
    assert [one["line_ends_rhyme"] for one in (own, donor, rhyme, other)] == [0, 1, 1, 0]
    assert [one["line_starts_donor"] for one in (own, donor)] == [0, 1]
    assert own["answer_log_odds"] == pytest.approx(0.3) and own["answer_moves"] == 1
    assert own["ending_log_odds"] == pytest.approx(-2.0)


def test_forced_words_stand_where_they_were_forced(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    words = words_of(context, forced={1: "answer"})
    written = write(context, words, everyone(), held(context, no_edits()), None)
    free = write(context, words_of(context), everyone(), held(context, no_edits()), None)
    for number, (line, other) in enumerate(zip(written.lines, free.lines, strict=True)):
        assert line[0] == other[0]
        if len(line) > 1:
            assert line[1] == 64 + number
    assert any(len(line) > 1 for line in written.lines)


def test_an_exchange_with_itself_changes_nothing(tiny_model):
    frame = same_length()
    frame["donor"] = frame["item"]
    context = toy_context(tiny_model("llama"), {}, prompts=frame)
    rows = pd.DataFrame(measure_lines(context, "exchange", EXCHANGE, EVERYONE, Setting(1.0, 3), ("position",)))
    wide = rows.pivot(index=["item", "outcome"], columns="arm", values="value")
    for arm in ("effect", "position"):
        assert np.allclose(wide[arm], wide["clean"], atol=1e-4)


@pytest.mark.parametrize("hidden", [True, False])
def test_with_line_1_hidden_the_exchanged_token_decides_the_whole_line(tiny_model, hidden):
    """It then holds all that the line can see; in sight of line 1 other tokens have their say, but not in the first word."""
    context = toy_context(tiny_model("llama"), {}, prompts=same_length())
    words = words_of(context, hidden=hidden, max_words=8)
    last = torch.tensor([len(context.ids[place]) - 1 for place in EVERYONE])
    mixed = lines.exchanged(context, torch.tensor(words.donors), last, last)
    exchanged = write(context, words, everyone(), mixed, None)
    plain = write(context, words, everyone(), held(context, no_edits()), None)
    of_donor = [plain.lines[(number + 1) % ITEMS] for number in range(ITEMS)]
    assert [line[0] for line in exchanged.lines] == [line[0] for line in of_donor]
    if hidden:
        assert exchanged.lines == of_donor


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("hidden", [True, False])
def test_reading_on_is_reading_anew(tiny_model, architecture, hidden):
    """After edits and exchanges on the prompt, what is said next is what the whole text, read with them, is followed by."""
    context = toy_context(tiny_model(architecture), {}, prompts=same_length())
    edited = edits([(row, row % 2, 1, feature, 3.0) for row in range(ITEMS) for feature in range(row, row + 3)])
    prompt, pos = torch.tensor(EVERYONE), torch.ones(ITEMS, dtype=torch.long)
    donor = prompt.roll(1)
    for perturbed in (lambda of: held(of, edited), lambda of: lines.exchanged(of, donor, pos, pos)):
        say = CachedNextLogits(context.model, partial(perturbed(context), prompt))
        texts, live = [list(context.ids[place]) for place in EVERYONE], list(range(ITEMS))
        for new in range(4):
            written_on = replace(context)
            written_on.__dict__["ids"] = [context.ids[0], *texts]
            with hooked(context.model, lines.unseen(context.model, new) if hidden else ()):
                said, anew = say(texts, live), perturbed(written_on)(prompt, [])
            assert torch.allclose(said, anew[live], atol=1e-4)
            live = live[1:] if new % 2 else live  # rows that have ended are not read on
            for row in live:
                texts[row].append(11 + 7 * new + row)


def test_hidden_tokens_get_no_attention_from_the_line_and_keep_that_of_the_prompt(tiny_model):
    context = toy_context(tiny_model("llama"), {}, prompts=same_length())
    cut = lines.unseen(context.model, 2)
    names = [name for name, _ in cut]
    _, seen = run(context.model, torch.tensor([[*context.ids[1], 9, 8]]), edits=cut, reads=names)
    newline = len(context.ids[1]) - 1
    for pattern in (seen[name][0] for name in names):
        assert float(pattern[:, newline + 1 :, 1:newline].abs().max()) == 0.0
        assert torch.allclose(pattern.sum(-1), torch.ones_like(pattern.sum(-1)), atol=1e-5)
        assert float(pattern[:, newline, 1:newline].min()) > 0.0


def test_every_arm_has_its_rows_and_samples_are_seeded(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    sampled = SWAP.model_copy(update={"line": LINE.model_copy(update={"samples": 4})})
    controls = ("match", "donor", "position")
    again = [
        pd.DataFrame(measure_lines(context, "swap", sampled, EVERYONE, Setting(2.0, 2), controls, samples=True))
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*again)
    counts = again[0].groupby(["arm", "item", "outcome"]).size().groupby("arm").unique()
    assert {arm: list(count) for arm, count in counts.items()} == {
        "clean": [4], "effect": [4], "match": [3], "donor": [4], "position": [4],
    }  # fmt: skip
    greedy = pd.DataFrame(measure_lines(context, "swap", SWAP, EVERYONE, Setting(2.0, 2), ("match",)))
    assert (greedy[greedy["arm"] == "effect"].groupby(["item", "outcome"]).size() == 1).all()


def test_an_outcome_about_what_a_prompt_has_not_has_no_row(tiny_model):
    """One prompt has no donor, the donor of another plans no word: neither is a last token nor a line that ends in nothing."""
    frame = prompts_frame()
    frame.loc[1, "donor"], frame.loc[3, "place"] = "", ""
    context = toy_context(tiny_model("llama"), {}, prompts=frame)
    inhibit = experiment_of(kind="inhibit", inhibit="own", strengths=(2.0,), line=LINE, outcomes=OUTCOMES)
    rows = pd.DataFrame(measure_lines(context, "inhibit", inhibit, EVERYONE, Setting(1.0, 2), ()))
    without = {outcome: set(frame["item"][1:]) - set(of["item"]) for outcome, of in rows.groupby("outcome")}
    assert without == {
        "line_ends_own": {"i2"}, "line_ends_donor": {"i0", "i1"}, "line_ends_family": set(), "line_ends_rhyme": {"i2"},
        "line_starts_donor": {"i0"}, "answer_log_odds": {"i0"}, "answer_moves": {"i0"}, "ending_log_odds": {"i0", "i1", "i2"},
    }  # fmt: skip


def test_a_sample_repeats_the_edits_of_its_row(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    arm = line_evidence.arms(context, "swap", SWAP, EVERYONE, Setting(2.0, 2), ())["effect"]
    twice = line_evidence.repeated(arm, 2)
    for row in range(2 * ITEMS):
        of = arm.edits.row == row // 2
        mine = twice.row == row
        for name in ("layer", "pos", "feature", "value"):
            assert torch.equal(getattr(twice, name)[mine], getattr(arm.edits, name)[of])


def test_run_lines_chooses_sweeps_and_shows(tiny_model):
    experiment = replace_experiment(SWAP, strengths=(1.0, 2.0), dose=True, sites=("1", "last"), prompts=("shown",))
    context = toy_context(tiny_model("llama"), {"swap": experiment})
    evidence, panel = run_lines(context)
    names = set(evidence["experiment"])
    assert {"swap", "swap/dose", "swap/sweep"} <= names and any(name.startswith("swap/dev") for name in names)
    swept = evidence[(evidence["experiment"] == "swap/sweep") & (evidence["outcome"] == "line_ends_donor")]
    assert (
        set(swept["draw"]) == {0, 1} and set(swept["arm"]) == {"effect", "match"} and set(swept["split"]) == {"heldout"}
    )
    chosen = evidence.loc[evidence["experiment"] == "swap", "strength"].unique()
    at_last = swept[(swept["arm"] == "effect") & (swept["draw"] == 1)].set_index("item")["value"]
    measured = evidence[(evidence["experiment"] == "swap") & (evidence["arm"] == "effect")]
    measured = measured[measured["outcome"] == "line_ends_donor"].set_index("item")["value"]
    assert len(chosen) == 1 and (at_last == measured.reindex(at_last.index)).all()  # the push at its own place
    assert set(panel["kind"]) == {"line"} and panel["clean"].sum() == panel["value"].sum() == 1


def test_the_best_other_position_is_chosen_on_development_prompts(tiny_model, monkeypatch):
    """Of the sites, one that is the supernode's own in some prompt is out; what is chosen is what the control then does."""
    sites = ("last", "2", "1", "0", "-2")  # the last word is at 2 in every other prompt
    best = SWAP.model_copy(update={"sites": sites, "control_position": "best", "controls": ("position",)})
    context = toy_context(tiny_model("llama"), {"swap": best}, prompts=prompts_frame())
    evidence, _ = run_lines(context)
    looked = evidence[evidence["experiment"] == "swap/elsewhere"]
    assert (
        set(looked["draw"]) == {2, 3, 4}
        and set(looked["split"]) == {"dev"}
        and set(looked["arm"]) == {"effect", "match"}
    )

    def planted(frame, outcome, direction):
        assert (outcome, direction) == ("line_ends_own", "increase") and set(frame["split"]) == {"dev"}
        return 3

    monkeypatch.setattr(line_evidence, "best_site", planted)
    control, _ = run_lines(context)
    fixed, _ = run_lines(
        replace(
            context,
            case=context.case.model_copy(
                update={"experiments": {"swap": best.model_copy(update={"control_position": "0"})}}
            ),
        )
    )
    rows = [frame[(frame["experiment"] == "swap") & (frame["arm"] == "position")] for frame in (control, fixed)]
    assert len(rows[0]) and rows[0].reset_index(drop=True).equals(rows[1].reset_index(drop=True))
    alone = best.model_copy(update={"sites": ("last", "2")})
    with pytest.raises(InputError, match="experiment 'swap': the supernodes are at every one of its `sites`"):
        run_lines(toy_context(tiny_model("llama"), {"swap": alone}))


def replace_experiment(experiment, **changes):
    return experiment.model_copy(update=changes)


def test_a_missing_factor_and_a_missing_donor_are_one_line(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    with pytest.raises(InputError, match="a line needs the factor 'rhyme', but no prompt has it"):
        words_of(context, ends="rhyme").endings  # noqa: B018
    lonely = replace(context, prompts=context.prompts.assign(donor=""))
    with pytest.raises(InputError, match="exchanges with donors, but a prompt has none"):
        measure_lines(lonely, "exchange", EXCHANGE, EVERYONE, Setting(1.0, 2), ())


def test_a_line_is_read_as_text(tiny_model):
    context = toy_context(tiny_model("llama"), {})
    assert text(context.model, [13, 14]).split() == ["w9", "w10"]


def test_a_line_of_natural_language_ends_where_it_breaks_in_a_word_it_did_not_hold(tiny_model, monkeypatch):
    """Of a tokenizer of words without a line break the end of the text is the break."""
    context = toy_context(tiny_model("llama"), {})
    context = replace(context, case=context.case.model_copy(update={"first_token": True}))
    words, end = words_of(context, min_words=1), context.model.tokenizer.eos_token_id
    letters = lambda ids, **_: " ".join("abcdefgh"[token % 8] * 3 for token in ids) + "."  # noqa: E731
    monkeypatch.setattr(context.model.tokenizer, "decode", letters)  # the model is shared with other tests
    assert end in words.stops and words.most == 2 * LINE.max_words
    assert words.ending([8, 9, end]) == "bbb" and words.ending([8, 9]) == ""
    assert words.ending([9, 8, 9, end]) == "" and words.ending([9, end]) == ""
