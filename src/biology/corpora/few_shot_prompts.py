"""Two-hop questions and sums for small models, after worked examples: `experiments/<case>/prompts_few_shot.csv`.

A model of some hundred million parameters answers almost none of the natural prompts (`natural_prompts.py`): it knows no state
capitals, and does not continue a sum with a number. After two or four examples in the same wording it answers half of them. Columns
and factors are those of the other sets. `question` is the last part of the text; positions are searched only in it.

Wordings were chosen only by the share of right answers of SmolLM2-135M-Instruct on development prompts.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from biology.corpora.corpus import Corpus, by_hash, place_split
from biology.corpora.donors import first_apart

# Two hops ------------------------------------------------------------------------------------------------------------
SCORED_RELATION = "language"
RELATIONS = {SCORED_RELATION: "1", "currency": "1", "capital": "0", "continent": "0"}
"""Relations asked of a country, each with its fold. Only one is scored, as too few answers to the others are known; the others
select features."""
EXAMPLES = {
    "Osaka": {"language": "Japanese", "currency": "yen", "capital": "Tokyo", "continent": "Asia"},
    "Milan": {"language": "Italian", "currency": "euro", "capital": "Rome", "continent": "Europe"},
    "Krakow": {"language": "Polish", "currency": "zloty", "capital": "Warsaw", "continent": "Europe"},
    "Phuket": {"language": "Thai", "currency": "baht", "capital": "Bangkok", "continent": "Asia"},
}
"""Cities of the worked examples. Their countries are never asked about."""
WORDINGS = (
    ("The {relation} of the {kind} containing {city} is", " {answer}.\n", ("Osaka", "Milan")),
    ("Fact: the {relation} of the {kind} containing {city} is", " {answer}.\n", ("Krakow", "Phuket")),
    ("{relation} of the {kind} containing {city}:", " {answer}\n", ("Osaka", "Milan")),
    ("In the {kind} containing {city} the {relation} is", " {answer}.\n", ("Krakow", "Phuket")),
    ("Question: what is the {relation} of the {kind} containing {city}? Answer:", " {answer}\n", ("Osaka", "Milan")),
    ("The main {relation} of the {kind} containing {city} is", " {answer}.\n", ("Krakow", "Phuket")),
    ("city in the {kind} containing {city} | {relation}:", " {answer}\n", ("Osaka", "Milan")),
    ("We know that the {relation} of the {kind} containing {city} is", " {answer}.\n", ("Krakow", "Phuket")),
)
"""The question, the text of its answer, and the cities of its examples."""
WORDINGS_PER_CITY = 3  # wordings in which a city is scored


def few_shot_multi_hop(corpus: Corpus) -> pd.DataFrame:
    """Two hops over countries, in eight wordings with two examples each; clusters are countries.

    Scored prompts ask for the language of a city's country, in three wordings per city; donors use the same wording. Features of a
    country are selected on the other relations of its other cities. Features of a relation are selected on development countries,
    by half of their cities. `set` is `states`, as in the other sets, since no experiment here takes donors abroad.
    """
    home = corpus.cities.set_index("city")["place"].to_dict()
    left_out = {home[city] for city in EXAMPLES}
    rows = []
    for item in corpus.two_hop:
        factors = dict(item.factors)
        place, city, relation = factors["place"], factors["city"], factors["relation"]
        if factors["kind"] != "country" or relation not in RELATIONS or place in left_out:
            continue
        fold, split = str(corpus.city_fold[city]), place_split(place)
        scored = relation == SCORED_RELATION and not (split == "dev" and fold == "0")
        wordings = by_hash(range(len(WORDINGS)), "few-shot wording", city, of=lambda number: (number,))
        for wording in wordings[: WORDINGS_PER_CITY if scored else 1]:
            question, text = _two_hops(wording, factors)
            rows.append(
                {
                    "item": f"{relation}-{city}-{wording}".lower().replace(" ", "-"), "text": text, "answer": item.answer,
                    "cluster": place, "split": split, "role": "score" if scored else "select", "set": "states", **factors,
                    "city_fold": fold, "relation_fold": RELATIONS[relation], "template": str(wording), "question": question,
                    "donor": "", "wrong_donor": "",
                }
            )  # fmt: skip
    return pd.DataFrame(_with_donors(rows, lambda one: (one["place"], one["answer"])))


def _two_hops(wording: int, factors: Mapping[str, str]) -> tuple[str, str]:
    """The question, and the whole text, which ends with it."""
    asked, answered, cities = WORDINGS[wording]
    examples = [
        asked.format(**{**factors, "city": city}) + answered.format(answer=EXAMPLES[city][factors["relation"]])
        for city in cities
    ]
    question = asked.format(**factors)
    return question, "".join([*examples, question])


def _with_donors(
    rows: Sequence[dict[str, str]], differing: Callable[[Mapping[str, str]], tuple[str, ...]]
) -> list[dict[str, str]]:
    """The rows, with a donor and a wrong donor for each scored one: same wording, relation and split. Base and donors differ from
    each other in every part of `differing`. A row without both is left out."""
    found = []
    for base in rows:
        pool = [
            one for one in rows
            if one["role"] == "score" and all(one.get(same) == base.get(same) for same in ("set", "relation", "template", "split"))
        ]  # fmt: skip
        if base["role"] == "select":
            found.append(base)
            continue
        ranked = by_hash(pool, "few-shot donor", base["item"], of=lambda one: (one["item"],))
        donors = first_apart(
            base, ranked, 2, lambda a, b: all(x != y for x, y in zip(differing(a), differing(b), strict=True))
        )
        if len(donors) == 2:
            found.append({**base, "donor": donors[0]["item"], "wrong_donor": donors[1]["item"]})
    return found if len(found) == len(rows) else _with_donors(found, differing)


# Sums ----------------------------------------------------------------------------------------------------------------
EXAMPLE_SUMS = ((1, 5), (4, 3), (8, 1), (4, 0), (3, 3))
"""Pairs of the worked examples. They are not asked, in either order."""
SUMS = {
    "calc": (
        ("calc: {a}+{b}=", ", ", (0, 1, 2, 3)), ("sum: {a}+{b}=", "; ", (4, 2, 0, 3)),
        ("calc: {a}+{b}=", "\n", (3, 1, 2, 0)), ("sum: {a}+{b}=", "; ", (2, 4, 1, 0)),
        ("calc: {a}+{b}=", ", ", (2, 4, 1, 0)), ("add {a}+{b}=", ". ", (0, 1, 2, 3)),
        ("calc: {a}+{b}=", "\n", (2, 4, 1, 0)), ("calc: {a}+{b}=", ", ", (4, 2, 0, 3)),
    ),
    "sum_of": (
        ("{a} plus {b} = ", ", ", (0, 1, 2, 3)), ("{a} plus {b} is ", ". ", (0, 1, 2, 3)),
        ("The sum of {a} and {b} is ", ". ", (0, 1, 2, 3)), ("{a} plus {b} is ", ". ", (4, 2, 0, 3)),
        ("{a} plus {b} = ", ", ", (4, 2, 0, 3)), ("The sum of {a} and {b} is ", ". ", (3, 1, 2, 0)),
        ("{a} plus {b} = ", ", ", (3, 1, 2, 0)), ("{a} plus {b} is ", ". ", (3, 1, 2, 0)),
    ),
    "fruit": (
        ("{a} apples + {b} pears = ", ", ", (0, 1, 2, 3)), ("{a} red + {b} green = ", ", ", (0, 1, 2, 3)),
        ("{a} apples + {b} pears = ", ", ", (4, 2, 0, 3)), ("{a} red + {b} green = ", ", ", (4, 2, 0, 3)),
        ("{a} cats + {b} dogs = ", "; ", (4, 2, 0, 3)), ("{a} apples + {b} pears = ", ", ", (2, 4, 1, 0)),
        ("{a} cats + {b} dogs = ", "; ", (2, 4, 1, 0)), ("{a} cats + {b} dogs = ", "; ", (3, 1, 2, 0)),
    ),
}  # fmt: skip
"""Wordings by form (the `set` of a prompt): a sum, the text after its answer, and the examples before it. The number follows
each."""
DEV_SUMS, HELDOUT_SUMS = 10, 27  # scored pairs of digits with a sum of one digit
ASKED_IN = {"dev": range(2), "heldout": range(0, 8, 2)}
"""The wordings in which a pair is scored: the same ones for all development pairs; for each held-out pair these, counted from a
first one of its own."""


def few_shot_sums(_: Corpus) -> pd.DataFrame:
    """Sums with a one-digit result, in three forms of eight wordings, after worked examples; clusters are pairs of ones digits.

    The operand grid (`select`) holds all other pairs of digits, in the first wording.
    """
    examples = {pair for a, b in EXAMPLE_SUMS for pair in ((a, b), (b, a))}
    pairs = [pair for pair in itertools.product(range(10), range(10)) if pair not in examples]
    ranked = by_hash([pair for pair in pairs if sum(pair) < 10], "few-shot sum", of=lambda pair: pair)
    split = dict.fromkeys(ranked[:DEV_SUMS], "dev") | dict.fromkeys(ranked[DEV_SUMS:][:HELDOUT_SUMS], "heldout")

    def row(form: str, wording: int, pair: tuple[int, int], role: str) -> dict[str, str]:
        (a, b), (question, text) = pair, _sum(form, wording, pair)
        plain = "" if form == "calc" or role == "select" else _named("calc", wording, pair)
        return {
            "item": _named(form, wording, pair), "text": text, "answer": str(a + b), "cluster": f"{a}+{b}",
            "split": split.get(pair, "dev"), "role": role, "set": form, "a": str(a), "b": str(b), "operands": f"{a}+{b}",
            "template": str(wording), "question": question, "plain": plain, "wrong_plain": "", "donor": "", "wrong_donor": "",
        }  # fmt: skip

    rows = [row("calc", 0, pair, "select") for pair in pairs if pair not in split]
    for form, wordings in SUMS.items():
        for rank, (pair, where) in enumerate(split.items()):
            first = rank if where == "heldout" else 0
            rows += [row(form, (first + step) % len(wordings), pair, "score") for step in ASKED_IN[where]]
    rows = _with_donors(rows, lambda one: (one["a"], one["b"], one["answer"]))
    plain = {one["item"]: one["donor"] for one in rows if one["set"] == "calc"}
    return pd.DataFrame([{**one, "wrong_plain": plain.get(one["plain"], "")} for one in rows])


def _sum(form: str, wording: int, pair: tuple[int, int]) -> tuple[str, str]:
    """The question, and the whole text, which ends with it."""
    asked, after, examples = SUMS[form][wording]
    worked = [(asked.format(a=a, b=b) + f"{a + b}{after}") for a, b in (EXAMPLE_SUMS[number] for number in examples)]
    question = asked.format(a=pair[0], b=pair[1])
    return question, "".join([*worked, question])


def _named(form: str, wording: int, pair: tuple[int, int]) -> str:
    return f"{form}-{wording}-{pair[0]}-{pair[1]}"
