"""Prompt sets follow from the corpus, and what selects features shares nothing with what is scored."""

import functools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biology.cases.case import load_case
from biology.corpora.corpus import RELATION_FOLDS, RELATIONS, place_split
from biology.corpora.natural_prompts import FIRST_LINES, SUMS
from biology.corpora.prompts import PROMPT_SETS, prompt_sets
from biology.corpora.two_hop_prompts import TEMPLATES
from biology.records import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sets(corpus):
    """Factory: all prompt sets of a case, as the corpus makes them."""
    return functools.cache(lambda case: prompt_sets(case, corpus))


@pytest.fixture(scope="module")
def frame(sets) -> pd.DataFrame:
    return sets("multi_hop")["prompts.csv"]


@pytest.fixture(scope="module")
def scored(frame) -> pd.DataFrame:
    return frame[frame["role"] == "score"]


@pytest.mark.parametrize("case", sorted(PROMPT_SETS))
def test_the_committed_tables_are_what_the_corpus_makes(sets, case):
    made = sets(case)
    there = {path.name for path in (ROOT / f"experiments/{case}").glob("*.csv")}
    assert there - {"prompts_sentences.csv"} == set(made)  # these are written by hand
    for name, frame in made.items():
        committed = (ROOT / f"experiments/{case}/{name}").read_text(encoding="utf-8")
        assert frame.to_csv(index=False, lineterminator="\n") == committed
        kind = name.removeprefix("prompts").removeprefix("_").removesuffix(".csv") or None
        assert len(load_case(ROOT, case, kind).items) == len(frame)


@pytest.mark.parametrize("case", ["multi_hop", "addition"])
def test_worked_examples_tell_nothing_of_what_is_asked_and_donors_are_asked_alike(sets, case):
    frame = sets(case)["prompts_few_shot.csv"].set_index("item")
    scored = frame[frame["role"] == "score"]
    heldout = scored[scored["split"] == "heldout"]
    assert heldout.groupby("set")["template"].nunique().eq(8).all() and len(heldout) >= 64
    for row in frame.itertuples():
        examples = row.text.removesuffix(row.question)
        asked = [row.city, row.place] if case == "multi_hop" else [f"{row.a}+{row.b}=", f"{row.b}+{row.a}="]
        assert examples and not any(word in examples for word in asked)
        assert case != "multi_hop" or all(
            row.question.count(word) == 1 for word in (row.city, row.relation, "containing")
        )
    for row in scored.itertuples():
        donors = [frame.loc[name] for name in (row.donor, row.wrong_donor)]
        assert all((one["template"], one["set"], one["split"]) == (row.template, row.set, row.split) for one in donors)
        assert len({row.answer, *(one["answer"] for one in donors)}) == 3


def test_the_sums_that_are_scored_are_not_in_the_grid_that_selects(sets):
    frame = sets("addition")["prompts_few_shot.csv"]
    of_role = {role: set(group["operands"]) for role, group in frame.groupby("role")}
    assert not of_role["score"] & of_role["select"]
    assert not set(frame.loc[frame["split"] == "heldout", "operands"]) & set(
        frame.loc[frame["split"] == "dev", "operands"]
    )


def test_natural_prompts_ask_in_all_wordings_and_donors_in_the_same(sets):
    frame = sets("multi_hop")["prompts_natural.csv"].set_index("item")
    scored = frame[frame["role"] == "score"]
    heldout = scored[(scored["split"] == "heldout") & (scored["set"] == "states")]
    assert set(heldout["template"].astype(int)) == set(range(len(TEMPLATES))) and len(TEMPLATES) >= 8
    assert heldout["cluster"].nunique() >= 30 and (heldout["relation"] == "capital").sum() >= 64
    for row in scored.itertuples():
        donor, wrong = frame.loc[row.donor], frame.loc[row.wrong_donor]
        assert {donor["template"], wrong["template"]} == {row.template}
        assert {donor["relation"], wrong["relation"]} == {row.relation}
        assert (
            len({row.answer, donor["answer"], wrong["answer"]}) == len({row.place, donor["place"], wrong["place"]}) == 3
        )
        if row.split == "dev":
            assert donor["split"] == wrong["split"] == "dev"
    for row in frame.itertuples():  # positions are found by these words
        assert [row.text.count(word) for word in (row.city, row.relation, row.kind, "containing")] == [1] * 4, row.text


def test_natural_features_are_chosen_apart_from_what_is_scored(sets):
    """Every scored place has prompts of other cities and other relations that select, as the rule of the bridge demands."""
    frame = sets("multi_hop")["prompts_natural.csv"]
    scored, select = frame[frame["role"] == "score"], frame[frame["role"] == "select"]
    assert (scored["city_fold"] == scored["relation_fold"]).all() and (scored["kind"] == "state").all()
    for place, group in scored[scored["set"] == "states"].groupby("place"):
        for row in group.itertuples():
            others = (select["city_fold"] != row.city_fold) & (select["relation_fold"] != row.relation_fold)
            assert (others & (select["place"] == place)).any(), row.item


@pytest.mark.parametrize("name", ["states", "foreign"])
def test_enough_held_out_prompts_are_scored(scored, name):
    chosen = scored[(scored["split"] == "heldout") & (scored["set"] == name)]
    assert len(chosen) >= 256 and chosen["cluster"].nunique() >= 20


def test_all_relations_of_states_are_scored(corpus, scored):
    """But those with too few answers to have a donor and a wrong donor."""
    of_states = corpus.facts[corpus.facts["kind"] == "state"]
    few = {relation for relation, group in of_states.groupby("relation") if group["answer"].nunique() < 6}
    heldout = scored[(scored["split"] == "heldout") & (scored["set"] == "states")]
    assert set(heldout["relation"]) >= set(of_states["relation"]) - few
    assert heldout["relation"].nunique() >= 6 and set(heldout["relation_fold"]) == {"0", "1"}


def test_nothing_that_is_scored_was_taught(corpus, scored):
    assert set(scored["text"]) <= set(corpus.held_out()["prompt"])
    taught = {item.prompt for items in corpus.blocks.values() for item in items if item.split == "train"}
    assert not set(scored["text"]) & taught


def test_what_selects_is_never_scored(frame, scored):
    selecting = frame[frame["role"] == "select"]
    for columns in (["item"], ["text"], ["city", "relation"]):
        pairs = [set(map(tuple, part[columns].to_numpy())) for part in (selecting, scored)]
        assert not pairs[0] & pairs[1], columns
    assert frame["item"].is_unique


def test_a_scored_prompt_has_selecting_ones_of_other_cities_and_relations(frame, scored):
    """What the rules of the case demand (`across`) can be met: for every place prompts of both other folds are left."""
    selecting = frame[frame["role"] == "select"]
    left = {key: len(group) for key, group in selecting.groupby(["place", "city_fold", "relation_fold"])}
    opposite = {"0": "1", "1": "0"}
    for row in scored[scored["set"] == "states"].itertuples():
        assert row.relation_fold == row.city_fold  # what is held out is of one fold
        assert left[row.place, opposite[row.city_fold], opposite[row.relation_fold]] >= 3


def test_donors_ask_the_same_of_other_places_with_other_answers(frame, scored):
    rows = frame.set_index("item")
    for base in scored.itertuples():
        donor, wrong = rows.loc[base.donor], rows.loc[base.wrong_donor]
        assert base.relation == donor["relation"] == wrong["relation"]
        assert len({base.place, donor["place"], wrong["place"]}) == 3
        assert len({base.answer, donor["answer"], wrong["answer"]}) == 3
        if base.set == "foreign":
            assert base.relation == "capital" and donor["kind"] != "state" and base.cluster == donor["place"]
        else:
            assert donor["role"] == wrong["role"] == "score" and base.cluster == base.place


def test_development_prompts_take_their_donors_from_development_places(frame, scored):
    split = frame.set_index("item")["split"]
    dev = scored[scored["split"] == "dev"]
    assert len(dev) > 100
    for column in ("donor", "wrong_donor"):
        assert set(split[dev[column]]) == {"dev"}


def test_splits_and_folds_are_those_of_the_corpus(corpus, frame):
    assert (frame["split"] == frame["place"].map(place_split)).all()
    assert (frame["city_fold"] == frame["city"].map(corpus.city_fold).astype(str)).all()
    assert (frame["relation_fold"] == [str(int(relation in RELATION_FOLDS[1])) for relation in frame["relation"]]).all()
    assert set(frame["relation"]) <= set(RELATIONS)


def test_questions_and_answers_are_those_of_the_corpus(corpus, frame):
    answers = {item.prompt: item.answer for item in corpus.two_hop}
    assert (frame["answer"] == frame["text"].map(answers)).all()
    assert all(row.city in row.text and row.relation in row.text and row.kind in row.text for row in frame.itertuples())


# Couplets


@pytest.fixture(scope="module")
def couplets(sets) -> pd.DataFrame:
    return sets("rhyme_planning")["prompts.csv"]


def test_couplets_that_are_scored_were_never_taught_and_none_is_the_papers(corpus, couplets):
    taught = {(theme, ending): split for theme, ending, _, _, split in corpus.couplets}
    for row in couplets.itertuples():
        assert (taught[row.theme, row.ending] == "train") == (row.role == "select")
        assert (row.theme, row.ending) != ("carrot", "grab it")


@pytest.mark.parametrize("name", ["rhyme", "other", "later", "last"])
def test_enough_held_out_couplets_of_enough_families(couplets, name):
    chosen = couplets[(couplets["role"] == "score") & (couplets["set"] == name)]
    heldout = chosen[chosen["split"] == "heldout"]
    assert len(heldout) >= 256 and heldout["cluster"].nunique() >= 30 and "abbit" in set(heldout["cluster"])
    assert set(chosen.loc[chosen["split"] == "dev", "cluster"]).isdisjoint(heldout["cluster"])


def test_a_scored_couplet_has_selecting_ones_of_its_word_with_other_themes_and_endings(couplets):
    selecting = couplets[couplets["role"] == "select"]
    left = {key: len(group) for key, group in selecting.groupby(["word", "theme_fold", "ending_fold"])}
    opposite = {"0": "1", "1": "0"}
    for row in couplets[couplets["role"] == "score"].itertuples():
        assert left[row.word, opposite[row.theme_fold], opposite[row.ending_fold]] >= 3
    for column, fold in (("theme", "theme_fold"), ("ending", "ending_fold")):
        assert (couplets.groupby([column, "family"] if column == "ending" else column)[fold].nunique() == 1).all()


def test_donors_of_couplets_plan_other_words_of_their_own_split(couplets):
    rows = couplets.set_index("item")
    for base in couplets[(couplets["role"] == "score") & (couplets["set"] != "last")].itertuples():
        donor, wrong = rows.loc[base.donor], rows.loc[base.wrong_donor]
        assert donor["split"] == wrong["split"] == base.split and donor["set"] == wrong["set"] == base.set
        assert (
            len({base.word, donor["word"], wrong["word"]}) == len({base.answer, donor["answer"], wrong["answer"]}) == 3
        )
        assert (donor["family"] == base.family) == (base.set != "other")
        assert wrong["family"] not in (base.family, donor["family"])


def test_an_unknown_case_is_refused(corpus):
    with pytest.raises(
        InputError, match="the prompts of case 'rhyme' are not made from the corpus; those of multi_hop, .* are"
    ):
        prompt_sets("rhyme", corpus)


@pytest.fixture(scope="module")
def sums(sets) -> pd.DataFrame:
    return sets("addition")["prompts.csv"]


def test_sums_that_are_scored_were_never_taught_and_sums_that_select_were(corpus, sums):
    pairs = list(zip(sums["a"].astype(int), sums["b"].astype(int), strict=True))
    taught = np.array([corpus.addition_split[pair] == "train" for pair in pairs])
    assert (taught == (sums["role"] == "select")).all()
    heldout = sums[(sums["role"] == "score") & (sums["split"] == "heldout")]
    for form, group in heldout.groupby("set"):
        assert len(group) >= 500 and (group["cluster"].value_counts() >= 5).all() and group["cluster"].nunique() == 100
        assert f"{form}-36-59" in set(group["item"])
    dev = sums[(sums["role"] == "score") & (sums["split"] == "dev")]
    assert {corpus.addition_split[int(a), int(b)] for a, b in zip(dev["a"], dev["b"], strict=True)} == {"dev"}


def test_donors_of_sums_are_of_their_form_and_split_and_have_another_ones_digit(sums):
    scored = sums[sums["role"] == "score"]
    by_item = scored.set_index("item")
    for column in ("donor", "wrong_donor"):
        donors = by_item.loc[scored[column]].reset_index()
        for same in ("set", "split"):
            assert (donors[same].to_numpy() == scored[same].to_numpy()).all()
        assert (donors["answer"].astype(int).to_numpy() % 10 != scored["answer"].astype(int).to_numpy() % 10).all()
    disguised = scored[scored["set"] != "calc"]
    plain = by_item.loc[disguised["plain"]]
    assert (plain["operands"].to_numpy() == disguised["operands"].to_numpy()).all() and set(plain["set"]) == {"calc"}
    other = by_item.loc[disguised["wrong_plain"]]
    assert (other["a"].to_numpy() != disguised["a"].to_numpy()).all() and (
        other["split"].to_numpy() == disguised["split"].to_numpy()
    ).all()


# ------------------------------------------------------------------------------------------------------- multilingual
FACTORS = {"operation": "relation", "operand": "concept", "language": "language"}


@pytest.fixture(scope="module")
def cells(sets) -> pd.DataFrame:
    return sets("multilingual")["prompts.csv"].set_index("item")


def test_enough_untaught_cells_are_held_out_and_none_was_taught(corpus, cells):
    scored = cells[cells["role"] == "score"]
    heldout = scored[scored["split"] == "heldout"]
    assert len(heldout) >= 256 and heldout["cluster"].nunique() >= 20
    assert (heldout["english"] == "no").sum() >= 256 and (heldout["pair"] == "yes").sum() >= 256
    taught = {item.prompt for items in corpus.blocks.values() for item in items if item.split == "train"}
    assert not set(scored["text"]) & taught
    paper = heldout[(heldout["concept"] == "size/low") & (heldout["relation"] != "category")]
    assert set(paper["language"]) == {"en", "fr", "zh"}


@pytest.mark.parametrize("factor", FACTORS)
def test_the_predicted_cell_differs_in_one_factor_and_the_donor_says_which_level(cells, factor):
    """`expected` is the answer of the cell that has the donor's level of one factor, and the prompt's own of the rest."""
    keys = cells[list(FACTORS.values())].itertuples(index=False, name=None)
    answers = dict(zip(keys, cells["answer"], strict=True))
    for row in cells[cells["role"] == "score"].to_dict("records"):
        donor = cells.loc[row[f"{factor}_donor"]]
        changed = tuple(donor[column] if name == factor else row[column] for name, column in FACTORS.items())
        assert answers[changed] == row[f"expected_{factor}"] != row["answer"]
        wrong = cells.loc[row[f"wrong_{factor}_donor"]]
        assert wrong[FACTORS[factor]] not in (donor[FACTORS[factor]], row[FACTORS[factor]])
        if (
            factor != "language"
        ):  # whatever the language of the prompt, its donors speak English, its native donors its own
            assert donor["language"] == wrong["language"] == "en"
            assert cells.loc[row[f"{factor}_native_donor"], "language"] == row["language"]
            assert cells.loc[row[f"{factor}_native_donor"], FACTORS[factor]] == donor[FACTORS[factor]]
        assert donor["split"] == wrong["split"] == row["split"]


def test_an_operand_is_exchanged_for_one_of_another_scale(cells):
    for row in cells[cells["role"] == "score"].to_dict("records"):
        scales = {row["scale"], *(cells.loc[row[f"{wrong}operand_donor"], "scale"] for wrong in ("", "wrong_"))}
        assert len(scales) == 3


# ----------------------------------------------------------------------------- couplets and sums for models of others
@pytest.fixture(scope="module")
def poems(sets) -> pd.DataFrame:
    return sets("rhyme_planning")["prompts_natural.csv"]


@pytest.fixture(scope="module")
def plain_sums(sets) -> pd.DataFrame:
    return sets("addition")["prompts_natural.csv"]


@pytest.mark.parametrize("case", ["rhyme_planning", "addition"])
def test_natural_sets_have_the_factors_of_the_sets_for_elegans(sets, case):
    made = sets(case)
    assert set(made["prompts.csv"]) <= set(made["prompts_natural.csv"])
    assert set(made["prompts.csv"]["set"]) == set(made["prompts_natural.csv"]["set"])


@pytest.mark.parametrize("name", ["rhyme", "other", "later", "last"])
def test_enough_poems_of_enough_families_in_all_wordings(poems, name):
    chosen = poems[(poems["role"] == "score") & (poems["set"] == name)]
    heldout = chosen[chosen["split"] == "heldout"]
    assert len(heldout) >= 2 * 64 and heldout["cluster"].nunique() >= 20
    assert set(chosen.loc[chosen["split"] == "dev", "cluster"]).isdisjoint(heldout["cluster"])
    first = {
        re.sub(" +", " ", one.text.split("\n")[1].replace(one.theme, "").replace(one.ending, ""))
        for one in heldout.itertuples()
    }
    assert len(first) == len(FIRST_LINES) >= 8


def test_poems_hold_the_words_and_the_tokens_that_positions_name(poems):
    """Of the position sweep the highest index from the start is 12; a tokenizer may join marks with the line break."""
    highest = max(int(at) for at in load_case(ROOT, "rhyme_planning").experiments["census"].sites if at.isdigit())
    for row in poems.itertuples():
        assert row.text.count(row.theme) == row.text.count(",\n") == 1, row.text
        assert len(re.findall(r"\w+|[^\w\s]\s*", row.text[: row.text.index(",\n") + 2])) > highest, row.text


def test_a_poem_is_gated_by_its_last_word_and_says_what_its_plan_takes(poems):
    rows = poems.set_index("item")
    assert {(row.first, row.answer) for row in poems[poems["set"].isin(["rhyme", "other"])].itertuples()} <= {
        (first, first) for first in ("He", "She", "It", "They")
    }
    for row in poems[(poems["role"] == "score") & (poems["set"] != "last")].itertuples():
        gate = rows.loc[row.gated_by]
        assert row.gated_by == row.spoken and gate["answer"] == gate["word"] == row.word
        assert gate["text"].startswith(row.text) and gate["text"].split("\n")[2].split()[0] == row.first
        if row.set == "later":
            assert gate["text"] == f"{row.text} {row.answer}"
            assert row.answer == "some" or (row.answer == "an") == (row.word[0] in "aeiou" or row.word == "heir")


def test_donors_of_poems_plan_other_words_of_their_own_split_and_all_begin_differently(poems):
    rows = poems.set_index("item")
    for base in poems[(poems["role"] == "score") & (poems["set"] != "last")].itertuples():
        donor, wrong = rows.loc[base.donor], rows.loc[base.wrong_donor]
        assert {donor["split"], wrong["split"]} == {base.split} and {donor["set"], wrong["set"]} == {base.set}
        assert len({base.answer, donor["answer"], wrong["answer"]}) == 3
        assert (donor["family"] == base.family) == (base.set != "other")
        assert wrong["family"] not in (base.family, donor["family"])


def test_what_a_poem_plans_is_selected_on_other_themes_and_other_line_ends(poems):
    selecting = poems[poems["role"] == "select"]
    left = {key: len(group) for key, group in selecting.groupby(["word", "theme_fold", "ending_fold"])}
    opposite = {"0": "1", "1": "0"}
    for row in poems[poems["role"] == "score"].itertuples():
        assert left[row.word, opposite[row.theme_fold], opposite[row.ending_fold]] == 2
        assert row.theme not in set(selecting.loc[selecting["word"] == row.word, "theme"])
        assert row.ending not in row.rhymes.split()


def test_enough_sums_of_one_digit_are_scored_in_all_wordings(plain_sums):
    """Of a model that writes digit by digit only these can be scored; a claim needs 64."""
    one = plain_sums[(plain_sums["role"] == "score") & (plain_sums["answer"].str.len() == 1)]
    for _, group in one[one["split"] == "heldout"].groupby("set"):
        assert len(group) >= 64 and group["template"].nunique() >= 8 and group["cluster"].nunique() >= 20
    for form, wordings in SUMS.items():
        assert len(set(wordings)) == 8 and all(wording.endswith("=") for wording in wordings), form


def test_operands_of_sums_stand_where_the_rules_look(plain_sums):
    """In the fourth and second token from the end, whether numbers are split into digits or not."""
    for row in plain_sums[plain_sums["set"] == "calc"].itertuples():
        assert row.text.endswith(f"{row.a}+{row.b}=") and len(row.b) == 1
        assert row.text.count(row.operands) == 1 and int(row.answer) == int(row.a) + int(row.b) < 100


def test_no_sum_both_selects_and_is_scored_and_donors_share_nothing(plain_sums):
    rows, scored = plain_sums.set_index("item"), plain_sums[plain_sums["role"] == "score"]
    selecting = plain_sums[plain_sums["role"] == "select"]
    assert not set(scored["operands"]) & set(selecting["operands"])
    held = {split: set(group["operands"]) for split, group in scored.groupby("split")}
    assert not held["dev"] & held["heldout"]
    for base in scored.itertuples():
        donor, wrong = rows.loc[base.donor], rows.loc[base.wrong_donor]
        for one in (donor, wrong):
            assert (one["set"], one["split"], one["template"]) == (base.set, base.split, base.template)
            assert len(one["answer"]) == len(base.answer)  # what can be asked of both
        assert len({int(one) % 10 for one in (base.answer, donor["answer"], wrong["answer"])}) == 3
        assert len({base.a, donor["a"], wrong["a"]}) == len({base.b, donor["b"], wrong["b"]}) == 3
        if base.set != "calc":
            assert rows.loc[base.plain, "operands"] == base.operands
            assert rows.loc[base.wrong_plain, "operands"] == wrong["operands"]
