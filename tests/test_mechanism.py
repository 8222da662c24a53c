"""A mechanism is a causal model: values of its variables, and the answers after interventions, by hand on a small case."""

import pandas as pd
import pytest

from biology.cases.mechanism import CausalModel, Mechanism, evaluate, load_mechanism, nearest, twins_of
from biology.corpora.corpus import Corpus
from biology.corpora.mechanism_prompts import LESSONS
from biology.corpora.twins import twin
from biology.records import InputError

PLACES = """
says: A city becomes its place, and the answer is looked up by place and relation.
variables:
  place: {meaning: its place, value: place, at: "factor:city", layers: [0, 1], across: [city], absent: {shares: [relation]}}
  relation: {meaning: what is asked, value: relation, at: last, layers: [0, 1], absent: {says: place}}
answer: {depends_on: [place, relation]}
"""
ROWS = [
    ("Dallas", "Texas", "capital", "Austin"), ("Houston", "Texas", "capital", "Austin"), ("Dallas", "Texas", "bird", "mockingbird"),
    ("Oakland", "California", "capital", "Sacramento"), ("Oakland", "California", "bird", "quail"),
]  # fmt: skip


def written(folder, text, case="toy"):
    path = folder / "experiments" / case / "mechanism.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return folder


def table():
    rows = [
        {"text": f"{relation} of {city}", "answer": answer, "city": city, "place": place, "relation": relation}
        for city, place, relation, answer in ROWS
    ]
    return pd.DataFrame(rows)


@pytest.fixture()
def toy(tmp_path):
    mechanism = load_mechanism(written(tmp_path, PLACES), "toy")
    assert mechanism is not None
    return CausalModel(mechanism, table(), "toy")


def test_answers_after_interventions(toy):
    assert toy.after(0, {}) == "Austin" and toy.after(0, {"place": "California"}) == "Sacramento"
    assert toy.after(0, {"relation": "bird"}) == "mockingbird"
    assert toy.after(0, {"place": "California", "relation": "bird"}) == "quail"
    assert toy.levels("place") == ["California", "Texas"]


def test_answers_without_a_variable(toy):
    assert toy.without(0, "place") == ["Austin", "Sacramento"] and toy.without(4, "place") == ["mockingbird", "quail"]
    assert toy.without(3, "relation") == ["California"]


def test_without_a_variable_the_one_beside_it_takes_its_place(tmp_path):
    text = """
says: Of two candidates the first is answered about, and the second where there is no first.
variables:
  first: {meaning: the first candidate, value: first, at: "0", layers: [0, 0], absent: {falls_to: second}}
  second: {meaning: the second candidate, value: second, at: "0", layers: [0, 0]}
answer: {depends_on: [first]}
"""
    mechanism = load_mechanism(written(tmp_path, text), "toy")
    assert mechanism is not None
    rows = [{"text": f"{a} before {b}", "answer": a.upper(), "first": a, "second": b} for a, b in ("xy", "yx", "zx")]
    causal = CausalModel(mechanism, pd.DataFrame(rows), "toy")
    assert [causal.without(row, "first") for row in range(3)] == [["Y"], ["X"], ["X"]]
    with pytest.raises(InputError, match="'third' is not another variable"):
        load_mechanism(written(tmp_path, text.replace("falls_to: second", "falls_to: third")), "toy")
    with pytest.raises(InputError, match="exactly one of"):
        load_mechanism(written(tmp_path, text.replace("falls_to: second", "falls_to: second, says: second")), "toy")


def test_a_variable_is_computed_from_those_that_were_changed(tmp_path):
    text = """
says: Ones digits and magnitudes of two numbers are added apart.
variables:
  ones_a: {meaning: ones of a, value: "a % 10", at: "0", layers: [0, 0]}
  ones: {meaning: ones of the sum, value: "(ones_a + b) % 10", at: last, layers: [1, 1]}
answer: {value: "nearest(ones, (a + b) // 5 * 5 + 2)"}
"""
    mechanism = load_mechanism(written(tmp_path, text), "toy")
    assert mechanism is not None
    rows = pd.DataFrame(
        [{"text": f"{a}+{b}", "answer": str(a + b), "a": a, "b": b} for a in range(60) for b in range(60)]
    )
    causal = CausalModel(mechanism, rows, "toy")
    row = 36 * 60 + 59
    assert causal.rows[row]["text"] == "36+59" and causal.values[row] == {"ones_a": 6, "ones": 5}
    assert causal.children == {"ones_a": {"ones"}, "ones": set()}
    # 9 + 9 ends in 8, and the number nearest to the middle of 95 to 99 that does is 98: the paper's figure
    assert causal.after(row, {"ones_a": 9}) == 98 and causal.after(row, {"ones": 1}) == 101


def test_nearest():
    assert [nearest(ones, 97) for ones in (8, 2, 1, 7)] == [98, 92, 101, 97]
    assert nearest(9, 2) == 9  # no number is negative


def test_expressions_hold_whole_numbers_and_nothing_else():
    assert (
        evaluate("(a + b) // 5 * 2 - 1 % 3", {"a": "7", "b": 8}) == 5
        and evaluate("city", {"city": "Dallas"}) == "Dallas"
    )
    for bad in ("__import__('os')", "a.b", "a if b else c", "a ** b", "open(a)", "[a]", "a +"):
        with pytest.raises(ValueError):
            evaluate(bad, {"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("value: place,", "value: plaice,"), "'plaice' is neither a column"),
        (("depends_on: [place, relation]", "depends_on: [relation]"), "does not determine it"),
        (
            ("absent: {says: place}", "absent: {says: place, shares: [place]}"),
            "one of 'shares', 'says', 'takes' and 'falls_to'",
        ),
        (("layers: [0, 1], across", "layers: [1, 0], across"), "the first not after the last"),
        (("at: last", "at: lats"), "unknown position 'lats'"),
        (("meaning: its place", "meening: its place"), "meening"),
        (
            ("across: [city]", "across: [ctiy]"),
            r"variables\.place\.across: unknown column 'ctiy'. Did you mean 'city'\?",
        ),
        (("says: place}}", "says: place, unless: ctiy}}"), r"relation\.absent: unknown column 'ctiy'"),
        (("shares: [relation]", "shares: [relatoin]"), r"variables\.place\.absent: unknown column 'relatoin'"),
        (("factor:city", "factor:ctiy"), r"variables\.place\.at: unknown column 'ctiy'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, change, message):
    assert change[0] in PLACES
    with pytest.raises(InputError, match=message) as raised:
        mechanism = load_mechanism(written(tmp_path, PLACES.replace(*change)), "toy")
        assert mechanism is not None
        CausalModel(mechanism, table(), "toy")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", [("across: [city]", "across: [cluster]"), ("answer:", "renamed: [item]\nanswer:")])
def test_a_column_that_no_model_is_taught_is_refused_where_the_file_is_read(tmp_path, change):
    with pytest.raises(InputError, match=r"mechanism\.yaml: [a-z.]+: no model is taught '(cluster|item)'") as raised:
        load_mechanism(written(tmp_path, PLACES.replace(*change)), "toy")
    assert "\n" not in str(raised.value)


def test_a_case_without_a_mechanism_has_none(tmp_path):
    assert load_mechanism(tmp_path, "toy") is None


STATED = [(case, twin) for case in LESSONS for twin in ("", *twins_of(".", case))]


@pytest.mark.parametrize(("case", "twin"), STATED)
def test_the_mechanism_of_a_shipped_case_says_the_answer_to_every_prompt(case, twin, lessons):
    """`CausalModel` compares its answers with those of the corpus; nothing held out differs from what is taught."""
    mechanism = load_mechanism(".", case, twin)
    assert mechanism is not None
    causal = CausalModel(mechanism, lessons(case), case)
    assert len(causal.rows) > 2000 and {row["split"] for row in causal.rows} == {"train", "dev", "test"}


def test_what_a_corpus_teaches_besides_is_taught():
    prompts = LESSONS["multilingual"](twin("dictionaries").corpus())
    assert set(prompts["split"]) == {"train"}
    assert (prompts["entry"] == prompts["language"] + ":" + prompts["word"]).all()


@pytest.fixture(scope="session")
def lessons(corpus: Corpus):
    made = {}

    def of(case):
        if case not in made:
            made[case] = LESSONS[case](corpus)
            if case in ("addition", "rhyme_planning"):
                made[case] = made[case].iloc[::7]
        return made[case]

    return of


@pytest.mark.parametrize(("case", "twin"), STATED)
def test_every_claim_of_a_shipped_case_has_a_truth_with_its_reason(case, twin):
    from biology.cases.claim_file import load_claims

    mechanism = load_mechanism(".", case, twin)
    assert mechanism is not None and isinstance(mechanism, Mechanism)
    assert set(mechanism.truth) == {claim.id for claim in load_claims(".", case)}


def test_a_twin_answers_alike_and_another_word_at_the_newline_changes_no_answer(lessons):
    """The improviser's causal model on the same couplets: of the planner the answer follows the word that is put there."""
    prompts = lessons("rhyme_planning")
    planner, improviser = (
        CausalModel(load_mechanism(".", "rhyme_planning", twin), prompts, "here") for twin in ("", "improviser")
    )
    rows = range(0, len(prompts), 50)
    others = [next(value for value in planner.levels("word") if value != planner.values[row]["word"]) for row in rows]
    own = [planner.rows[row]["answer"] for row in rows]
    assert [improviser.after(row, {"word": other}) for row, other in zip(rows, others, strict=True)] == own
    changed = [
        planner.after(row, {"word": other}) != answer for row, other, answer in zip(rows, others, own, strict=True)
    ]
    assert sum(changed) > len(changed) / 2  # a later word may agree with both
