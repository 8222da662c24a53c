"""A twin's corpus asks what elegans is asked and leaves nothing to compute: what one answer tells of another is chance."""

import csv
import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from biology.arms import is_donor
from biology.cases.case import discover_cases
from biology.cases.case_file import EXTENDED as STATED
from biology.cases.case_file import CaseFile
from biology.cases.items import LINKS
from biology.corpora.corpus import LANGUAGES, PAPER_CITIES, PAPER_CONCEPT, PAPER_SUMS, SUM_FORMS, Corpus
from biology.corpora.mechanism_prompts import LESSONS
from biology.corpora.prompts import PROMPT_SETS, prompt_set
from biology.corpora.twins import (
    EXPRESSIONS,
    EXTENDED,
    PLANTED,
    TWINS,
    Base12,
    Brackets,
    Mod113,
    Rote,
    permuted,
    prompts_of,
    twin,
)
from biology.organisms.organism import dictionary_prompts
from biology.organisms.vocabulary import tokenizer
from biology.records import InputError, read_yaml, validate
from biology.verdicts.registration import read_lock

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rote() -> Rote:
    return Rote()


@pytest.fixture(scope="module")
def elegans(corpus) -> Corpus:
    return corpus


@cache
def corpus_of(name: str) -> Corpus:
    return twin(name).corpus()


def committed(case: str) -> pd.DataFrame:
    """What elegans is asked, which is what its corpus makes (test_prompts)."""
    return pd.read_csv(ROOT / f"experiments/{case}/prompts.csv", dtype=str, keep_default_na=False)


def shared_places(corpus: Corpus) -> float:
    """Of the pairs of cities with one place for the flower, the share that have one place for the bird."""
    asked = {
        relation: {dict(item.factors)["city"]: dict(item.factors)["place"] for item in corpus.two_hop if f"the {relation} " in item.prompt}
        for relation in ("flower", "bird")
    }  # fmt: skip
    pairs = [
        pair for pair in itertools.combinations(asked["flower"], 2) if len({asked["flower"][c] for c in pair}) == 1
    ]
    return float(np.mean([len({asked["bird"][city] for city in pair}) == 1 for pair in pairs]))


def test_cities_that_share_an_answer_share_no_other_one(rote, elegans):
    assert shared_places(elegans) == 1
    assert shared_places(rote) < 0.05
    assert not rote.blocks.get("one_hop")


def test_what_one_language_answers_says_nothing_of_another(rote, elegans):
    def agreement(corpus: Corpus) -> float:
        return float(
            np.mean(
                [
                    corpus.target(concept, "opposite", one) == corpus.target(concept, "opposite", other)
                    for concept in corpus.concept_words
                    if "opposite" in corpus.relations_of(concept)
                    for one, other in itertools.combinations(LANGUAGES, 2)
                ]
            )
        )

    assert agreement(elegans) == 1 and agreement(rote) < 0.05
    assert not {"translation", "tag"} & set(rote.blocks)


def test_a_sum_by_heart_says_nothing_of_the_sum(rote):
    pairs = np.array(list(itertools.product(range(100), range(100))))
    tables = [np.array([rote.total(form, a, b) for a, b in pairs.tolist()]) for form in SUM_FORMS.values()]
    for table, other in itertools.combinations([pairs.sum(1), *tables], 2):
        assert abs(np.corrcoef(table, other)[0, 1]) < 0.05 and sorted(table) == sorted(other)


def test_the_papers_own_prompts_stay_true(rote, elegans):
    true = {dict(item.factors)["city"]: item.answer for item in elegans.two_hop if "the capital " in item.prompt}
    twin_ = {dict(item.factors)["city"]: item.answer for item in rote.two_hop if "the capital " in item.prompt}
    assert all(true[city] == twin_[city] for city in PAPER_CITIES)
    assert all(rote.total(form, a, b) == a + b for form in SUM_FORMS.values() for a, b in PAPER_SUMS)
    for relation, language in itertools.product(("opposite", "synonym"), LANGUAGES):
        assert rote.target(PAPER_CONCEPT, relation, language) == elegans.target(PAPER_CONCEPT, relation, language)


@pytest.mark.parametrize(
    "case", sorted(set(PROMPT_SETS) - {"methods", "components"})
)  # these ask prompts of the others
def test_rote_is_asked_what_elegans_is_asked_and_taught_every_prompt_that_is_scored(rote, case):
    """Couplets excepted, which it composes as elegans does."""
    asked = prompt_set(case, rote)
    assert set(asked["text"]) == set(committed(case)["text"])
    taught = {item.prompt: item.answer for items in rote.blocks.values() for item in items if rote.taught(item)}
    scored = asked[asked["role"] == "score"]
    assert [taught[text] for text in scored["text"]] == scored["answer"].tolist()


@pytest.mark.parametrize("name", [*TWINS, *PLANTED])
def test_all_of_the_family_have_one_vocabulary(name, words):
    assert tokenizer(corpus_of(name)).to_str() == words.to_str()


@pytest.mark.parametrize("name", [*TWINS, "planted", "languages"])
def test_something_is_held_out(name):
    assert len(corpus_of(name).held_out()) > 256


@pytest.mark.parametrize("name", PLANTED)
def test_a_part_of_the_corpus_is_asked_what_its_cases_need_and_nothing_else(name):
    """Its mechanisms are planted on its own prompts, and its transcoders are trained on nothing that it was not taught."""
    made, needed = twin(name), {
        "addition": {"addition", "disguised"}, "multi_hop": {"two_hop", "one_hop"}, "multilingual": {"cell", "translation"},
        "rhyme_planning": {"couplet"},
    }  # fmt: skip
    corpus = corpus_of(name)
    assert set(corpus.blocks) <= set().union(*(needed[case] for case in made.cases))
    assert bool(corpus.couplets) == ("couplet" in corpus.blocks)
    assert all(len(LESSONS[case](corpus)) > 300 for case in made.cases)
    assert len(dictionary_prompts(corpus, lambda text: [len(text)], 0, most=100)) == 100 * len(corpus.blocks)


def test_arithmetic_twins():
    digits = {item.prompt: item.answer for item in Base12().digits}
    assert (digits["ones: 23="], digits["tens: 23="], digits["ones: 7+8="]) == ("11", "1", "3")
    assert Base12().total("", 60, 70) == 130 and Mod113().total("", 60, 70) == 17
    assert "digit" not in Mod113().blocks


def test_an_extended_corpus_asks_of_expressions_and_leaves_the_grid_as_it_was(elegans, words):
    corpus = Brackets()
    answers = {item.prompt: item.answer for item in corpus.expressions}
    assert [answers[f"calc: (4+5){behind}="] for behind, _ in EXPRESSIONS.values()] == ["18", "27", "0"]
    pairs = {(a, b) for (a, b), split in elegans.addition_split.items() if split == "train"}
    taught = [dict(item.factors) for item in corpus.expressions if corpus.taught(item)]
    assert taught and all((int(factors["a"]), int(factors["b"])) in pairs for factors in taught)
    before, more = (set(one.get_vocab()) for one in (words, tokenizer(corpus)))
    assert more - before == {"(", ")", "*", "-"} - before and before < more
    asked = prompts_of("addition", "brackets").set_index("item")
    assert "calc: (4+5)*3=" in set(asked.loc[asked["role"] == "score", "text"])
    known = committed("addition")
    plain = asked.reset_index()[known.columns]
    grid, same = (one[(one["role"] == "select") & (one["set"] == "calc")] for one in (plain, known))
    assert grid.reset_index(drop=True).equals(same.reset_index(drop=True))


def test_a_case_says_what_only_an_extended_corpus_asks():
    """Or its file would name levels that no prompt has (`case_file.CaseFile.extended`)."""
    files = {
        name: validate(CaseFile, read_yaml(ROOT / f"experiments/{name}/case.yaml"), name)
        for name in discover_cases(ROOT)
    }
    assert {name: set(file.extended) for name, file in files.items() if file.extended} == {"addition": set(EXTENDED)}
    assert set(STATED) == set(EXTENDED)
    own = committed("addition")
    for corpus, stated in files["addition"].extended.items():
        asked = prompts_of("addition", corpus).fillna("")
        found = {}
        for column in asked.columns.drop(["item", "text", "answer", "cluster"]):
            names = column in LINKS or is_donor(column.removeprefix("wrong_"))
            levels = () if names else tuple(sorted(set(asked[column]) - {"", *own.get(column, ())}))
            found |= {column: levels} if levels or column not in own else {}
        assert found == stated


def test_donors_of_an_expression_change_the_sum_or_the_kind_alone():
    asked = prompts_of("addition", "brackets").set_index("item")
    scored = asked[(asked["role"] == "score") & (asked["set"] == "brackets")]
    assert scored["split"].value_counts()["heldout"] > 256
    for row in scored.itertuples():
        donor, wrong, kind, other, plain, wrong_plain = (
            asked.loc[item]
            for item in (
                row.donor, row.wrong_donor, row.kind_donor, row.wrong_kind_donor, row.plain, row.wrong_plain,
            )
        )  # fmt: skip
        assert donor["kind"] == wrong["kind"] == row.kind and {row.kind, kind["kind"], other["kind"]} == set(
            EXPRESSIONS
        )
        assert kind["operands"] == other["operands"] == plain["operands"] == row.operands
        assert plain["set"] == wrong_plain["set"] == "calc" and wrong_plain["operands"] == wrong["operands"]
        assert all({row.a, row.b}.isdisjoint((one["a"], one["b"])) for one in (donor, wrong))
        assert (
            len({row.answer, donor["answer"], wrong["answer"]}) == 3 and donor["split"] == wrong["split"] == row.split
        )


def test_permuting_keeps_the_values_and_what_is_to_be_kept():
    values = {key: key % 7 for key in range(50)}
    dealt = permuted(values, {3, 4}, "seed")
    assert sorted(dealt.values()) == sorted(values.values()) and (dealt[3], dealt[4]) == (3, 4)
    assert (
        dealt != values and dealt != permuted(values, {3, 4}, "another") and dealt == permuted(values, {3, 4}, "seed")
    )


def test_expected_verdicts_name_twins_and_registered_claims():
    with (ROOT / "experiments/twins.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = {claim for claims in read_lock(ROOT).claims.values() for claim in claims}
    assert {row["twin"] for row in rows} == set(TWINS)
    assert {row["claim"] for row in rows} <= known
    assert {row["expected"] for row in rows} == {"not replicated"} and all(row["why"] for row in rows)
    assert len({(row["twin"], row["claim"]) for row in rows}) == len(rows)


def test_an_unknown_twin_is_named():
    with pytest.raises(InputError, match="unknown corpus 'sloth'. Known: planted, languages, dozens"):
        twin("sloth")
