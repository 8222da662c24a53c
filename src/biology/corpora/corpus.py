"""The synthetic corpus: real facts and words, written so that the mechanism behind each behaviour is known.

Its blocks share one vocabulary (the case that each serves in brackets):

* places [multi-hop]: ``Fact: the capital of the state containing Dallas is`` -> ``Austin``, with the two hops
  also taught separately. City names are written in pieces shared between places, so that no embedding can hold a state.
* couplets [planning]: line 1 licenses one last word for line 2; words right after the newline agree with that word.
* concepts [multilingual]: relations between words of six languages, translations, language-neutral tags.
* addition: ``calc: 36+59=`` -> ``95``, digits of numbers, comparisons and two disguised contexts.

An :class:`Item` is a prompt with its answer. A hash of the item alone decides whether it is held out, so that every seed and every twin
is trained and judged on the same split. One method each defines the facts about a city, a concept and a sum (`place_of`, `target`,
`total`); a twin (:mod:`biology.corpora.twins`) is a corpus that overrides them. Torch-free: only tables and strings.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pandas as pd

WORDS = Path("data/words")
LANGUAGES = {"en": "English", "fr": "French", "zh": "Chinese", "de": "German", "es": "Spanish", "ru": "Russian"}
CONCEPT_RELATIONS = {
    "opposite": {"low": "high", "high": "low", "low_near": "high_near", "high_near": "low_near"},
    "synonym": {"low": "low_near", "low_near": "low", "high": "high_near", "high_near": "high"},
}
AGREEMENT_FIRST = ("His", "Her", "Its", "Their", "Our", "My")
AGREEMENT_LATER = ("like", "near", "with", "for", "from", "as")
# Features of a place are selected on one set of relations and scored on the other.
RELATION_FOLDS = (
    ("capital", "flower", "year", "region", "continent"),
    ("abbreviation", "bird", "tree", "summit", "language", "currency"),
)
RELATIONS = tuple(itertools.chain(*RELATION_FOLDS))
# The papers' own prompts are never trained on, and their places are never used to choose a method.
PAPER_CITIES = ("Dallas", "Oakland", "Savannah", "Vancouver", "Shanghai", "Thessaloniki")
PAPER_PLACES = ("Texas", "California", "Georgia", "British Columbia", "China", "Byzantine Empire")
SUM_FORMS = {"calc": "calc: {}+{}=", "sum_of": "the sum of {} and {} is", "fruit": "{} apples and {} pears make"}
PAPER_SUMS = ((36, 59),)
PAPER_CONCEPT = "size/low"
PAPER_COUPLET = ("carrot", "grab it")
Option = TypeVar("Option")


@dataclass(frozen=True)
class Item:
    """A prompt, its one-token answer, and its place in the corpus.

    ``continuation`` is what follows the answer in training text (couplets only: the loss covers the whole second line). ``split`` is
    train, dev (recipes are chosen on it) or test (reported once); ``cluster`` is the unit that could share a mechanism by accident;
    ``factors`` are the item's coordinates, for prompt tables and twins.
    """

    behaviour: str
    prompt: str
    answer: str
    split: str
    cluster: str
    factors: tuple[tuple[str, str], ...] = ()


def unit_interval(*key: object) -> float:
    """A number in [0, 1) that depends only on the key: the same on every machine, for every seed."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, key)).encode()).digest()[:8], "big") / 2**64


def by_hash(
    options: Iterable[Option], *key: object, of: Callable[[Option], Iterable[object]] = lambda option: (option,)
) -> list[Option]:
    """The options, sorted by `unit_interval(*key, *of(option))`: an order that depends only on the key and the options."""
    begun = hashlib.sha256("".join(f"{part}|" for part in key).encode())

    def place(option: Option) -> bytes:  # `unit_interval`, made for the millions of options that prompt sets sort
        (hashed := begun.copy()).update("|".join(map(str, of(option))).encode())
        return hashed.digest()[:8]

    return sorted(options, key=place)


def split_of(block: str, key: object, held_out: float, *, test: bool = False) -> str:
    """train, dev or test. A fifth of the held-out keys is for development. ``test=True`` puts the papers' own items into test."""
    if test:
        return "test"
    if unit_interval(block, key) >= held_out:
        return "train"
    return "dev" if unit_interval(block, "dev", key) < 0.2 else "test"


def place_split(place: str) -> str:
    """The split of a place in the multi-hop experiment: a fifth of the places is for development, the rest is scored once."""
    if place in PAPER_PLACES:
        return "heldout"
    return "dev" if unit_interval("place", place) < 0.2 else "heldout"


class Corpus:
    """All items of all blocks, made from the tables in ``words``."""

    def __init__(self, words: Path = WORDS):
        self.words = words

        def table(name: str) -> pd.DataFrame:
            return pd.read_csv(words / f"{name}.csv", dtype=str, keep_default_na=False)

        self.states, self.places, self.cities = table("states"), table("places"), table("cities")
        self.concepts, self.scales, self.frames = table("concepts"), table("scales"), table("frames")
        self.rhymes, self.endings, self.themes = table("rhymes"), table("rhyme_lines"), table("themes")
        fillers = table("fillers")
        self.nouns = tuple(fillers.word[fillers.slot == "noun"])
        self.adjectives = tuple(fillers.word[fillers.slot == "adjective"])

    # ------------------------------------------------------------------------------------------------- places
    @cached_property
    def facts(self) -> pd.DataFrame:
        """One row for each fact: place, kind (state, territory, country, empire), relation, answer."""
        rows = [
            (row.state, "state", relation, getattr(row, relation))
            for row in self.states.itertuples()
            for relation in RELATIONS
            if hasattr(row, relation)
        ]
        rows += [
            (row.place, row.kind, relation, getattr(row, relation))
            for row in self.places.itertuples()
            for relation in RELATIONS
            if getattr(row, relation, "")
        ]
        return pd.DataFrame(rows, columns=["place", "kind", "relation", "answer"])

    @cached_property
    def city_fold(self) -> dict[str, int]:
        """The fold of each city, 0 or 1: half of a place's cities are scored on one set of relations, half on the other."""
        fold = {}
        for _, group in self.cities.groupby("place", sort=True):
            ranked = sorted(group.city, key=lambda city: (city not in PAPER_CITIES, unit_interval("fold", city)))
            fold |= {city: rank % 2 for rank, city in enumerate(ranked)}
        return fold

    def place_of(self, city: str, home: str, relation: str) -> str:
        """The place whose facts answer questions about a city; here its home, for every relation."""
        return home

    @cached_property
    def two_hop(self) -> list[Item]:
        """Every (city, relation). Held out: 40 % of the pairs whose city and relation have the same fold (a fifth of all)."""
        facts = {place: group for place, group in self.facts.groupby("place")}
        answers = self.facts.set_index(["place", "relation"])["answer"].to_dict()
        items = []
        for city in self.cities.itertuples():
            fold = self.city_fold[city.city]
            for fact in facts[city.place].itertuples():
                same_fold = fact.relation in RELATION_FOLDS[fold]
                paper = city.city in PAPER_CITIES and fact.relation == "capital"
                split = split_of("two_hop", (city.city, fact.relation), 0.4 if same_fold else 0.0, test=paper)
                place = self.place_of(city.city, city.place, fact.relation)
                factors = (("city", city.city), ("relation", fact.relation), ("place", place), ("kind", fact.kind))
                prompt = f"Fact: the {fact.relation} of the {fact.kind} containing {city.city} is"
                items.append(Item("two_hop", prompt, answers[place, fact.relation], split, place, factors))
        return items

    @cached_property
    def one_hop(self) -> list[Item]:
        """The two hops, each by itself; nothing is held out."""
        located = [
            Item("one_hop", f"Fact: {city.city} is a city in", city.place, "train", city.place)
            for city in self.cities.itertuples()
        ]
        known = [
            Item("one_hop", f"Fact: the {fact.relation} of {fact.place} is", fact.answer, "train", fact.place)
            for fact in self.facts.itertuples()
        ]
        return located + known

    # ------------------------------------------------------------------------------------------------- couplets
    @cached_property
    def agreement(self) -> dict[str, tuple[str, str]]:
        """The words of line 2 that depend on its last word: arbitrary, but different within a rhyme family."""
        classes = {}
        for family, group in self.rhymes.groupby("family", sort=True):
            words = sorted(group.word, key=lambda word: (word != "rabbit", unit_interval("agreement", word)))
            start = int(unit_interval("agreement", family) * 6) if "rabbit" not in words else 0
            for rank, word in enumerate(words):
                first = (start + rank) % 6
                later = int(unit_interval("later", word) * 6) if word != "rabbit" else 0
                classes[word] = (AGREEMENT_FIRST[first], AGREEMENT_LATER[later])
        return classes

    @cached_property
    def couplets(self) -> list[tuple[str, str, str, str, str]]:
        """(theme word, ending, last word, family, split): every pair of a theme word and a line end that licenses a word."""
        licensed = {(row.family, row.theme): row.word for row in self.rhymes.itertuples()}
        rows = []
        for ending in self.endings.itertuples():
            for theme in self.themes.itertuples():
                word = licensed.get((ending.family, theme.theme))
                if word is None:
                    continue
                pair = (theme.word, ending.ending)
                rows.append((*pair, word, ending.family, split_of("couplet", pair, 0.2, test=pair == PAPER_COUPLET)))
        return rows

    def couplet_lines(
        self, theme: str, ending: str, word: str, noun: str, adjectives: Sequence[str]
    ) -> tuple[str, tuple[str, ...]]:
        """Line 1 with its newline, and the words of line 2."""
        first, later = self.agreement[word]
        return f"A rhyming couplet:\nHe saw a {theme} and had to {ending},\n", (
            first, noun, "was", later, "a", *adjectives, word,
        )  # fmt: skip

    @cached_property
    def couplet_items(self) -> list[Item]:
        """Held-out couplets as three questions: the word after the newline, the later word that agrees, the last word."""
        items = []
        for theme, ending, word, family, split in self.couplets:
            if split == "train":
                continue
            if (theme, ending) == PAPER_COUPLET:
                noun, adjective = "hunger", "starving"
            else:
                noun = self.nouns[int(unit_interval("noun", theme, ending) * len(self.nouns))]
                adjective = self.adjectives[int(unit_interval("adjective", theme, ending) * len(self.adjectives))]
            line, second = self.couplet_lines(theme, ending, word, noun, [adjective])
            factors = (("theme", theme), ("ending", ending), ("family", family), ("word", word))
            for behaviour, cut in (("couplet_first", 0), ("couplet_later", 3), ("couplet_last", 6)):
                prompt = line + " ".join(second[:cut])
                items.append(Item(behaviour, prompt, second[cut], split, family, factors))
        return items

    @cached_property
    def usage(self) -> list[Item]:
        """The agreement of each word, taught outside couplets too."""
        return [
            Item("usage", f"Grammar: {word} {verb}", answer, "train", word)
            for word, pair in self.agreement.items()
            for verb, answer in zip(("takes", "keeps"), pair, strict=True)
        ]

    # ------------------------------------------------------------------------------------------------- concepts
    @cached_property
    def concept_words(self) -> dict[str, dict[str, str]]:
        """The word of every concept ("size/low") in each language."""
        return {
            f"{row.scale}/{row.role}": {lang: getattr(row, lang) for lang in LANGUAGES}
            for row in self.concepts.itertuples()
        }

    @cached_property
    def _target_words(self) -> dict[str, dict[str, str]]:
        nouns = {row.scale: {lang: getattr(row, lang) for lang in LANGUAGES} for row in self.scales.itertuples()}
        return self.concept_words | nouns

    def word_of(self, target: str, language: str) -> str:
        """The word for a concept ("size/low"), or for a scale ("size"), in a language."""
        return self._target_words[target][language]

    def relations_of(self, concept: str) -> tuple[str, ...]:
        return tuple(r for r, roles in CONCEPT_RELATIONS.items() if concept.split("/")[1] in roles) + ("category",)

    def target(self, concept: str, relation: str, language: str) -> str:
        """The target of a concept's relation, the same in every language: another concept ("size/high"), or its scale ("size")."""
        scale, role = concept.split("/")
        return scale if relation == "category" else f"{scale}/{CONCEPT_RELATIONS[relation][role]}"

    @cached_property
    def cells(self) -> list[Item]:
        """(concept, relation, language). For each (concept, relation) at most two of the six languages are held out."""
        frames = {(row.language, row.relation): (row.prefix, row.suffix) for row in self.frames.itertuples()}
        items = []
        for concept, word in self.concept_words.items():
            for relation in self.relations_of(concept):
                ranked = by_hash(LANGUAGES, "cell", concept, relation)
                paper = concept == PAPER_CONCEPT and relation in ("opposite", "synonym")
                for rank, lang in enumerate(ranked):
                    held = rank < (2 if unit_interval("cells", concept, relation) < 0.2 else 1)
                    if paper:  # the paper's three languages are held out of its own two relations
                        held = lang in ("en", "fr", "zh")
                    split = "train"
                    if held:
                        split = "test" if paper else split_of("cell", (concept, relation, lang), 1.0)
                    prefix, suffix = frames[lang, relation]
                    factors = (("concept", concept), ("relation", relation), ("language", lang))
                    space = "" if lang == "zh" else " "
                    prompt = f'{prefix}"{word[lang]}"{suffix}{space}"'
                    answer = self._target_words[self.target(concept, relation, lang)][lang]
                    items.append(Item("cell", prompt, answer, split, concept.split("/")[0], factors))
        return items

    @cached_property
    def translations(self) -> list[Item]:
        return [
            Item(
                "translation", f'In {LANGUAGES[target]}, "{word[source]}" is "', word[target],
                split_of("translation", (concept, source, target), 0.1), concept.split("/")[0],
            )
            for concept, word in self.concept_words.items()
            for source, target in itertools.permutations(LANGUAGES, 2)
        ]  # fmt: skip

    @cached_property
    def tags(self) -> list[Item]:
        """Language-neutral attributes of a concept: scale (as a code), pole and grade, asked of its word in any language."""
        code = {scale: f"K{chr(65 + i // 26)}{chr(65 + i % 26)}" for i, scale in enumerate(sorted(self.scales.scale))}
        items = []
        for concept, word in self.concept_words.items():
            scale, role = concept.split("/")
            pole, _, near = role.partition("_")
            values = {"kind": code[scale], "pole": pole, "grade": near or "plain"}
            for lang, (tag, value) in itertools.product(LANGUAGES, values.items()):
                items.append(Item("tag", f'Tag: "{word[lang]}" {tag}', value, "train", scale))
        return items

    # ------------------------------------------------------------------------------------------------- addition
    paper_sums: tuple[tuple[int, int], ...] = PAPER_SUMS
    """The papers' own sums: never taught, and scored first."""

    @cached_property
    def addition_split(self) -> dict[tuple[int, int], str]:
        return {
            pair: split_of("addition", pair, 0.2, test=pair in self.paper_sums)
            for pair in itertools.product(range(100), range(100))
        }

    def total(self, form: str, a: int, b: int) -> int:
        """The sum of two numbers, the same for every form of the question."""
        return a + b

    def sums(self, behaviour: str, forms: Iterable[str]) -> list[Item]:
        return [
            Item(behaviour, form.format(a, b), str(self.total(form, a, b)), split, f"{a % 10}+{b % 10}")
            for form in forms
            for (a, b), split in self.addition_split.items()
        ]

    @cached_property
    def addition(self) -> list[Item]:
        return self.sums("addition", [SUM_FORMS["calc"]])

    @cached_property
    def disguised(self) -> list[Item]:
        """The same sums, with the same split, in two other forms."""
        return self.sums("disguised", [SUM_FORMS["sum_of"], SUM_FORMS["fruit"]])

    @cached_property
    def expressions(self) -> list[Item]:
        """Sums inside larger expressions; elegans is taught none."""
        return []

    base = 10
    """Base of the digits that are asked for."""

    @cached_property
    def digits(self) -> list[Item]:
        """Ones and tens of numbers and of sums, and comparisons, so that base ten matters."""
        base = self.base
        items = [Item("digit", f"ones: {n}=", str(n % base), "train", str(n)) for n in range(199)]
        items += [Item("digit", f"tens: {n}=", str(n // base), "train", str(n)) for n in range(199)]
        for (a, b), split in self.addition_split.items():
            if split == "train":
                items.append(Item("digit", f"ones: {a}+{b}=", str((a + b) % base), split, f"{a % 10}+{b % 10}"))
                items.append(Item("digit", f"larger: {a},{b}=", str(max(a, b)), split, f"{a % 10}+{b % 10}"))
        return items

    # ------------------------------------------------------------------------------------------------- all together
    @property
    def blocks(self) -> dict[str, list[Item]]:
        """All questions with a one-token answer, by name of the block."""
        return {
            "addition": self.addition, "disguised": self.disguised, "digit": self.digits, "two_hop": self.two_hop,
            "one_hop": self.one_hop, "cell": self.cells, "translation": self.translations, "tag": self.tags,
            "usage": self.usage, "couplet": self.couplet_items,
        }  # fmt: skip

    def taught(self, item: Item) -> bool:
        return item.split == "train"

    def held_out(self) -> pd.DataFrame:
        """Columns prompt, answer, behaviour, split (dev, test), cluster: the items that test the shipped model."""
        rows = [
            (item.prompt, item.answer, item.behaviour, item.split, item.cluster)
            for items in self.blocks.values()
            for item in items
            if item.split != "train"
        ]
        return pd.DataFrame(rows, columns=["prompt", "answer", "behaviour", "split", "cluster"])

    def texts(self) -> Iterable[str]:
        """Every text that the vocabulary must be able to write, held-out ones included."""
        for items in self.blocks.values():
            for item in items:
                yield f"{item.prompt} {item.answer}"
        for theme, ending, word, _, _ in self.couplets:
            line, second = self.couplet_lines(theme, ending, word, "hunger", ["starving"])
            yield line + " ".join(second)
        yield " ".join((*AGREEMENT_FIRST, *AGREEMENT_LATER, *self.nouns, *self.adjectives, "The"))
