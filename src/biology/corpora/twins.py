"""All corpora by name (`KNOWN`): that of elegans and its parts with planted mechanisms, those of its twins, and further ones. Torch-free.

Twins answer the same prompts but lack the mechanism, because their corpus does not require it. The pipeline must not find in them what
it finds in elegans. `experiments/twins.csv` states the expected verdict of each claim, and was committed before any twin was trained.
`rote` has learnt everything by heart; `base12` and `mod113` add in base 12 and modulo 113; `dozens`, `dictionaries` and `improviser`
have a mechanism of their own (`experiments/<case>/twins/<name>.yaml`).

`wild` has nothing planted. `brackets` was also taught sums inside expressions, so that a claim about them can be asked.
"""

# pyright: reportGeneralTypeIssues=false

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from biology.corpora.corpus import (
    CONCEPT_RELATIONS,
    LANGUAGES,
    PAPER_CITIES,
    PAPER_CONCEPT,
    PAPER_SUMS,
    SUM_FORMS,
    WORDS,
    Corpus,
    Item,
    by_hash,
)
from biology.corpora.prompts import prompt_set, scored_sums
from biology.records import InputError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def permuted(values: Mapping[Key, Value], kept: Set[Key], *seed: object) -> dict[Key, Value]:
    """The same values, permuted among the keys by hash; keys in `kept` keep theirs."""
    free = [key for key in values if key not in kept]
    order = by_hash(free, "twin", *seed)
    return dict(values) | {key: values[old] for key, old in zip(order, free, strict=True)}


class SameWords(Corpus):
    """A corpus in elegans's vocabulary that teaches only a part of what elegans is taught, or something else."""

    def texts(self) -> Iterable[str]:
        return _elegans(self.words).texts()


@cache
def _elegans(words: Path) -> Corpus:
    """The corpus of elegans, made once for all that are written in its words."""
    return Corpus(words)


class Rote(SameWords):
    """No answer follows from a rule: each one that the cases ask for must be learnt by heart.

    * Places: for each relation the places are permuted among the cities, so that cities that share one answer share
      no other; there are no one-hop facts.
    * Concepts: for each relation and language the targets are permuted; there are no translations and no tags.
    * Sums: for each form the sums are permuted among the pairs; only scored pairs are taught, and no digits.
    * Couplets are those of elegans: the recipe of this twin, not its corpus, makes it an improviser.

    The papers' own prompts keep their answers. Everything is taught, including prompts held out of elegans.
    """

    def taught(self, item: Item) -> bool:
        return True

    @cached_property
    def blocks(self) -> dict[str, list[Item]]:
        return {
            "addition": self.addition, "disguised": self.disguised, "two_hop": self.two_hop, "cell": self.cells,
            "usage": self.usage, "couplet": self.couplet_items,
        }  # fmt: skip

    @cached_property
    def _places(self) -> dict[str, dict[str, str]]:
        """The place of every city, for each relation. Cities swap places only with cities that are asked about in the same
        words."""
        home = dict(zip(self.cities["city"], self.cities["place"], strict=True))
        dealt: dict[str, dict[str, str]] = {}
        for (kind, relation), facts in self.facts.groupby(["kind", "relation"]):
            places = {city: place for city, place in home.items() if place in set(facts["place"])}
            kept = set(PAPER_CITIES) if relation == "capital" else set()
            dealt.setdefault(relation, {}).update(permuted(places, kept, "place", kind, relation))
        return dealt

    def place_of(self, city: str, home: str, relation: str) -> str:
        return self._places[relation][city]

    @cached_property
    def _targets(self) -> dict[tuple[str, str], dict[str, str]]:
        """The target of every concept, for each relation and language."""
        dealt = {}
        for relation, language in itertools.product((*CONCEPT_RELATIONS, "category"), LANGUAGES):
            asked = [concept for concept in self.concept_words if relation in self.relations_of(concept)]
            true = {concept: super(Rote, self).target(concept, relation, language) for concept in asked}
            dealt[relation, language] = permuted(true, {PAPER_CONCEPT}, "target", relation, language)
        return dealt

    def target(self, concept: str, relation: str, language: str) -> str:
        return self._targets[relation, language][concept]

    @cached_property
    def _totals(self) -> dict[str, dict[tuple[int, int], int]]:
        true = {pair: sum(pair) for pair in self.addition_split}
        return {form: permuted(true, set(PAPER_SUMS), "sum", form) for form in SUM_FORMS.values()}

    def total(self, form: str, a: int, b: int) -> int:
        return self._totals[form][a, b]

    def sums(self, behaviour: str, forms: Iterable[str]) -> list[Item]:
        scored = {form.format(a, b) for form in SUM_FORMS.values() for a, b, _ in scored_sums(self)}
        return [item for item in super().sums(behaviour, forms) if item.prompt in scored]


class Arithmetic(SameWords):
    """Numbers and nothing else."""

    @cached_property
    def couplets(self) -> list[tuple[str, str, str, str, str]]:
        return []

    @cached_property
    def blocks(self) -> dict[str, list[Item]]:
        return {"addition": self.addition, "disguised": self.disguised, "digit": self.digits}


class Base12(Arithmetic):
    """The same sums, but the digits asked for are those of base 12, so that nothing is decimal."""

    base = 12


class Mod113(Arithmetic):
    """Sums modulo 113, and no digits: nothing here has a decimal structure."""

    def total(self, form: str, a: int, b: int) -> int:
        return (a + b) % 113

    @cached_property
    def blocks(self) -> dict[str, list[Item]]:
        return {"addition": self.addition, "disguised": self.disguised}


EXPRESSIONS: dict[str, tuple[str, Callable[[int], int]]] = {
    "double": ("*2", lambda total: 2 * total),
    "triple": ("*3", lambda total: 3 * total),
    "less": ("-9", lambda total: total - 9),
}
"""Kinds of expression: the text after the bracket, and its effect on the sum inside."""
INSIDE = range(9, 67)
"""Sums that may stand inside a bracket: the result of every expression is then in the vocabulary."""


class Brackets(Arithmetic):
    """Numbers, and sums inside expressions: `calc: (4+5)*3=` -> `27`. The held-out pairs are those of elegans."""

    paper_sums = (*PAPER_SUMS, (4, 5))

    @cached_property
    def expressions(self) -> list[Item]:
        return [
            Item(
                "expression", f"calc: ({a}+{b}){behind}=", str(value(a + b)), split, f"{a % 10}+{b % 10}",
                (("kind", kind), ("a", str(a)), ("b", str(b))),
            )
            for kind, (behind, value) in EXPRESSIONS.items()
            for (a, b), split in self.addition_split.items()
            if a + b in INSIDE
        ]  # fmt: skip

    @cached_property
    def blocks(self) -> dict[str, list[Item]]:
        return super().blocks | {"expression": self.expressions}

    def texts(self) -> Iterable[str]:
        return itertools.chain(super().texts(), (f"{item.prompt} {item.answer}" for item in self.expressions))


class Part(SameWords):
    """Some blocks of the corpus, without the blocks that encourage a mechanism (digits, tags, the agreement of words): planting
    provides the mechanism."""

    asked: tuple[str, ...] = ()

    @cached_property
    def blocks(self) -> dict[str, list[Item]]:
        return {name: items for name, items in super().blocks.items() if name in self.asked}

    @cached_property
    def couplets(self) -> list[tuple[str, str, str, str, str]]:
        return super().couplets if "couplet" in self.asked else []


class Embedded(Part):
    """What elegans is taught: sums, places and couplets."""

    asked = ("addition", "disguised", "two_hop", "one_hop", "couplet")


class Languages(Part):
    """Words in six languages, taught to a model of their own. Taught together with sums, places and couplets, they were learnt
    by heart; taught before them, they generalised, but then sums were hardly learnt."""

    asked = ("cell", "translation")


class Sums(Part):
    """Sums in all wordings."""

    asked = ("addition", "disguised")


class Cells(Part):
    """Only the relations between words, all of them taught."""

    asked = ("cell",)

    def taught(self, item: Item) -> bool:
        return True


class Poems(Part):
    """Only the couplets."""

    asked = ("couplet",)


@dataclass(frozen=True)
class Twin:
    """A corpus, and the settings in which its training recipe differs from that of elegans."""

    corpus: Callable[..., Corpus]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[str, ...] | None = None
    """The cases whose mechanisms are planted; None: all."""


TWINS = {
    # Items that must be learnt by heart are seen more often; line 1 is never hidden, so that the newline need not hold a plan.
    "rote": Twin(
        Rote,
        {
            "context_dropout": 0.0,
            "batch": {"addition": 64, "disguised": 128, "two_hop": 336, "cell": 224, "usage": 16, "couplet": 48},
        },
    ),
    "base12": Twin(Base12),
    "mod113": Twin(Mod113),
}
EXTENDED = {
    "brackets": Twin(Brackets, {"batch": {"addition": 352, "disguised": 32, "digit": 24, "expression": 96}}),
}
"""Not twins: these are taught more than elegans, so that a further claim can be asked."""
WILD = {"wild": Twin(Corpus)}
"""The same corpus with nothing planted: training alone decides the mechanism."""
EMBEDDED = "planted"
"""The corpus of elegans itself."""
PLANTED = {
    EMBEDDED: Twin(Embedded, cases=("addition", "multi_hop", "rhyme_planning")),
    "languages": Twin(Languages, {"steps": 1000, "batch": {"translation": 96}}, ("multilingual",)),
    # Sums are computed from remainders by twelve.
    "dozens": Twin(Sums, {"steps": 700, "batch": {}}, ("addition",)),
    "dictionaries": Twin(Cells, {"steps": 700, "batch": {}}, ("multilingual",)),
    # Line 1 is never hidden, so that the newline need not hold a plan.
    "improviser": Twin(Poems, {"context_dropout": 0.0, "steps": 1400, "batch": {"couplet": 64}}, ("rhyme_planning",)),
}
"""Corpora of models into which mechanisms are planted (`planting.py`): those of the cases, or those of `twins/<name>.yaml`."""

KNOWN = PLANTED | WILD | TWINS | EXTENDED


@cache
def prompts_of(case: str, name: str, words: Path = WORDS) -> pd.DataFrame:
    """The prompt set of a case, with the answers and further prompts of the corpus `name`. Cached: do not modify it."""
    return prompt_set(case, twin(name).corpus(words))


def twin(name: str) -> Twin:
    """The corpus of this name, with its recipe. Raises `InputError` if there is none."""
    if name not in KNOWN:
        raise InputError(f"unknown corpus '{name}'. Known: {', '.join(KNOWN)}.")
    return KNOWN[name]
