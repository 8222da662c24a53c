"""The corpus: facts are there and right where they can be checked, nothing held out is taught, every text can be written."""

import re

import numpy as np
import pytest

from biology.corpora.corpus import LANGUAGES, RELATION_FOLDS, place_split
from biology.organisms.vocabulary import SPECIAL, split_names


def test_every_state_has_its_facts_and_cities(corpus):
    assert len(corpus.states) == 50 and (corpus.states != "").all().all()
    assert corpus.states.capital.is_unique and corpus.states.abbreviation.is_unique
    per_state = corpus.cities[corpus.cities.place.isin(corpus.states.state)].groupby("place").size()
    assert len(per_state) == 50 and per_state.min() >= 6
    assert corpus.facts[corpus.facts.kind == "state"].groupby("place").relation.nunique().min() >= 6


def test_a_query_city_is_no_answer(corpus):
    assert not set(corpus.cities.city) & (set(corpus.facts.answer) | set(corpus.facts.place))
    assert corpus.cities.city.is_unique


@pytest.mark.parametrize(
    "place, relation, answer",
    [
        ("Texas", "capital", "Austin"), ("California", "capital", "Sacramento"), ("Georgia", "capital", "Atlanta"),
        ("British Columbia", "capital", "Victoria"), ("China", "capital", "Beijing"),
        ("Byzantine Empire", "capital", "Constantinople"), ("New York", "capital", "Albany"),
        ("Illinois", "capital", "Springfield"), ("Kentucky", "abbreviation", "KY"), ("Hawaii", "year", "1959"),
        ("Japan", "currency", "yen"), ("Maine", "bird", "chickadee"),
    ],
)  # fmt: skip
def test_known_facts(corpus, place, relation, answer):
    found = corpus.facts[(corpus.facts.place == place) & (corpus.facts.relation == relation)].answer
    assert found.tolist() == [answer]


def test_words_of_the_six_languages_are_distinct_and_of_one_token(corpus):
    words = [getattr(row, lang) for row in corpus.concepts.itertuples() for lang in LANGUAGES]
    nouns = [getattr(row, lang) for row in corpus.scales.itertuples() for lang in LANGUAGES]
    assert len(corpus.concepts) >= 100 and len(set(words + nouns)) == len(words + nouns)


def test_sums_are_right(corpus):
    for item in corpus.addition[::37]:
        a, b = map(int, re.findall(r"\d+", item.prompt))
        assert int(item.answer) == a + b
    assert len(corpus.addition) == 10_000


def test_a_theme_and_an_ending_license_one_word_and_rhyme_mates_differ_in_agreement(corpus):
    assert not corpus.rhymes.duplicated(["family", "theme"]).any() and corpus.rhymes.word.is_unique
    assert corpus.rhymes.family.nunique() >= 24
    for _, group in corpus.rhymes.groupby("family"):
        first = [corpus.agreement[word][0] for word in group.word]
        assert len(set(first)) == len(first)


def test_nothing_held_out_is_taught(corpus):
    """Neither a held-out prompt nor a couplet of a held-out pair is among the training texts."""
    held_out = corpus.held_out()
    taught = {item.prompt for items in corpus.blocks.values() for item in items if item.split == "train"}
    assert not taught & set(held_out.prompt)
    pairs = {
        split: {row[:2] for row in corpus.couplets if (row[4] == "train") == (split == "train")}
        for split in ("train", "held")
    }
    assert not pairs["train"] & pairs["held"]
    sums = {(a, b) for (a, b), split in corpus.addition_split.items() if split != "train"}
    for item in corpus.disguised + corpus.digits:
        numbers = tuple(map(int, re.findall(r"\d+", item.prompt)))
        assert item.split != "train" or numbers not in sums


def test_the_papers_own_prompts_are_held_out(corpus):
    prompts = set(corpus.held_out().prompt)
    assert "Fact: the capital of the state containing Dallas is" in prompts
    assert "calc: 36+59=" in prompts
    assert {'The opposite of "small" is "', 'Le contraire de "petit" est "', '"小"的反义词是"'} <= prompts
    assert "A rhyming couplet:\nHe saw a carrot and had to grab it,\nHis hunger was like a starving" in prompts


def test_every_text_can_be_written_and_every_answer_is_one_token(corpus, words):
    unknown = words.token_to_id("<unk>")
    for items in corpus.blocks.values():
        for item in items[::5]:
            prompt, whole = words.encode(item.prompt).ids, words.encode(f"{item.prompt} {item.answer}").ids
            assert whole[:-1] == prompt and unknown not in whole, item
    assert words.encode("zebra").ids[1] == unknown


def test_cities_are_written_in_pieces_that_places_share(corpus, words):
    users: dict[int, set[str]] = {}
    for city, place in zip(corpus.cities.city, corpus.cities.place, strict=True):
        pieces = words.encode(city).ids[1:]
        assert len(pieces) >= 2, city
        for piece in pieces:
            users.setdefault(piece, set()).add(place)
    alone = [city for city in corpus.cities.city if any(len(users[piece]) == 1 for piece in words.encode(city).ids[1:])]
    assert len(alone) < 0.1 * len(corpus.cities)


def test_split_names_prefers_shared_pieces():
    names = "Bartown", "Barville", "Doltown", "Dolville", "Kartown", "Karville"
    assert split_names(names, tuple(f"place{i}" for i in range(6)))["Doltown"][-1] in ("##town", "##ltown", "##own")


def test_scored_cells_share_neither_city_nor_relation_fold_with_what_selects(corpus):
    for item in corpus.two_hop:
        factors = dict(item.factors)
        if item.split != "train":
            assert factors["relation"] in RELATION_FOLDS[corpus.city_fold[factors["city"]]]
    held = np.mean([item.split != "train" for item in corpus.two_hop])
    assert 0.15 < held < 0.25


def test_a_fifth_of_the_states_develops_the_method(corpus):
    splits = [place_split(state) for state in corpus.states.state]
    assert 0.1 < splits.count("dev") / 50 < 0.3
    assert place_split("Texas") == place_split("California") == "heldout"


def test_the_vocabulary_starts_with_the_special_tokens_and_the_numbers(words):
    vocabulary = words.get_vocab()
    assert [vocabulary[word] for word in SPECIAL] == [0, 1, 2, 3]
    assert [vocabulary[str(n)] for n in (0, 198)] == [4, 202]
