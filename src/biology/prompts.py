"""Prompt sets of the case studies that are made from the corpus's tables, written to `experiments/<case>/prompts.csv`.

Which prompts are registered follows from hashes of their contents, never from what a model does with them. A table says of
every prompt what it is about (factors), whether it helps to find features (`select`) or is scored (`score`), and which
prompt is its donor, so that nothing about an experiment is drawn at run time but its random controls.
"""

from collections.abc import Callable

import pandas as pd

from biology.config import InputError
from biology.corpus import LANGUAGES, PAPER_CONCEPT, RELATION_FOLDS, Corpus, Item, place_split, unit_interval

FOREIGN_DONORS = 5  # per base prompt
# Features of an operand or of an answer are selected on the languages of one fold and scored on the other's.
LANGUAGE_FOLDS = (("en", "fr", "zh"), ("de", "es", "ru"))


def relation_fold(relation: str) -> int:
    return 0 if relation in RELATION_FOLDS[0] else 1


def multi_hop(corpus: Corpus) -> pd.DataFrame:
    """Two-hop prompts over all places and relations.

    Scored are the prompts about US states that elegans never saw; clusters are states. Cities and relations come in two
    folds: features of a state may only be chosen on prompts of the other city fold *and* the other relation fold.
    A second set (`set` = foreign) asks for the capital of a state and takes its donor abroad; there clusters are donors.
    """

    def row(item: Item, role: str, **more: str) -> dict[str, str]:
        factors = dict(item.factors)
        city, relation = factors["city"], factors["relation"]
        return {
            "item": f"{relation}-{city}".lower().replace(" ", "-"), "text": item.prompt, "answer": item.answer,
            "cluster": factors["place"], "split": place_split(factors["place"]), "role": role, "set": "states",
            **factors, "city_fold": str(corpus.city_fold[city]), "relation_fold": str(relation_fold(relation)),
            "donor": "", "wrong_donor": "", **more,
        }  # fmt: skip

    def donors(base: dict[str, str], pool: list[dict[str, str]], count: int) -> list[dict[str, str]]:
        """Prompts that ask the same of other places, with answers that differ from the base's and from each other's."""
        chosen: list[dict[str, str]] = []
        for other in sorted(pool, key=lambda other: unit_interval("donor", base["item"], other["item"])):
            taken = [base, *chosen]
            same = other["relation"] == base["relation"]
            if same and all(other["place"] != one["place"] and other["answer"] != one["answer"] for one in taken):
                chosen.append(other)
            if len(chosen) == count:
                return chosen
        return []

    rows = [
        row(item, "select" if item.split == "train" or dict(item.factors)["kind"] != "state" else "score")
        for item in corpus.two_hop
    ]
    scored = [one for one in rows if one["role"] == "score"]
    abroad = [one for one in rows if one["kind"] != "state" and one["relation"] == "capital"]
    more = []
    for base in scored:
        pair = donors(base, scored, 2)
        if len(pair) < 2:
            base["role"] = "select"  # its relation has too few answers for a donor and a wrong donor
            continue
        base["donor"], base["wrong_donor"] = pair[0]["item"], pair[1]["item"]
        if base["relation"] == "capital":
            far = donors(base, abroad, FOREIGN_DONORS + 1)
            for donor, wrong in zip(far, [*far[1:], far[0]], strict=True):
                name = f"{base['item']}-from-{donor['place']}".lower().replace(" ", "-")
                change = {"item": name, "cluster": donor["place"], "set": "foreign", "donor": donor["item"]}
                more.append({**base, **change, "wrong_donor": wrong["item"]})
    return pd.DataFrame(rows + more)


def scale_split(scale: str) -> str:
    """Which half of the multilingual experiment a scale of concepts (size, temperature) belongs to: a fifth is dev."""
    if scale == PAPER_CONCEPT.split("/")[0]:
        return "heldout"
    return "dev" if unit_interval("scale", scale) < 0.2 else "heldout"


def multilingual(corpus: Corpus) -> pd.DataFrame:
    """Every (concept, relation, language); scored are the cells that elegans never saw, and clusters are scales.

    Each scored prompt has a donor for each of its factors, and for each a wrong one: the same concept asked for another
    relation, another concept of another scale, another language. The first two are English prompts whatever the language
    of the base (the paper's test of independence), and `_native` donors are in its own. `expected_<factor>` is the answer
    of the cell in which that factor alone has changed. Donors of development prompts are of development scales.
    """
    partner = {
        ("opposite", "low"): "high", ("opposite", "low_near"): "high_near", ("synonym", "low"): "low_near",
        ("opposite", "high"): "low", ("opposite", "high_near"): "low_near", ("synonym", "low_near"): "low",
        ("synonym", "high"): "high_near", ("synonym", "high_near"): "high",
    }  # fmt: skip
    words = {concept: word for concept, word, _ in corpus.concept_rows}
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for item in corpus.cells:
        concept, relation, language = (value for _, value in item.factors)
        scale, role = concept.split("/")
        fold = next(number for number, fold in enumerate(LANGUAGE_FOLDS) if language in fold)
        target = scale if relation == "category" else f"{scale}/{partner[relation, role]}"
        cells[concept, relation, language] = {
            "item": f"{relation}-{concept}-{language}".replace("/", "-").replace("_", "-"), "text": item.prompt,
            "answer": item.answer, "cluster": scale, "split": scale_split(scale),
            "role": "select" if item.split == "train" else "score", "concept": concept, "relation": relation,
            "language": language, "word": words[concept][language], "scale": scale, "target": target,
            "language_fold": str(fold), "english": "yes" if language == "en" else "no",
            "pair": "no" if relation == "category" else "yes",
        }  # fmt: skip

    def chosen(base: dict[str, str], factor: str, options: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """A donor and a wrong donor whose cells have answers other than the base's and each other's."""
        found: list[tuple[str, str, str]] = []
        taken = {base["answer"]}
        for cell in sorted(options, key=lambda cell: unit_interval("donor", factor, base["item"], *cell)):
            scales = {base["scale"], *(one[0].split("/")[0] for one in found)}
            if cells[cell]["answer"] not in taken and not (factor == "operand" and cell[0].split("/")[0] in scales):
                found.append(cell)
                taken.add(cells[cell]["answer"])
        return found[:2] if len(found) > 1 else []

    for (concept, relation, language), base in cells.items():
        if base["role"] != "score":
            continue
        # the paper exchanges antonym and synonym; a category becomes either
        first = {"opposite": "synonym", "synonym": "opposite"}.get(relation)
        others = [one for one in ("opposite", "synonym", "category") if one != relation]
        changed = {
            "operation": chosen(base, "operation", [(concept, one, language) for one in others]),
            "operand": chosen(
                base, "operand",
                [cell for cell in cells if cell[1:] == (relation, language) and cells[cell]["split"] == base["split"]],
            ),
            "language": chosen(base, "language", [(concept, relation, one) for one in LANGUAGES if one != language]),
        }  # fmt: skip
        if not all(changed.values()):
            base["role"] = "select"  # its cell has too few different answers around it
            continue
        if first is not None and changed["operation"][0][1] != first:
            changed["operation"].reverse()
        for factor, pair in changed.items():
            base[f"expected_{factor}"] = cells[pair[0]]["answer"]
            for prefix, cell in zip(("", "wrong_"), pair, strict=True):
                english = cell if factor == "language" else (*cell[:2], "en")
                base[f"{prefix}{factor}_donor"] = cells[english]["item"]
                if factor != "language":
                    base[f"{prefix}{factor}_native_donor"] = cells[cell]["item"]
    return pd.DataFrame(list(cells.values())).fillna("")


PROMPT_SETS: dict[str, Callable[[Corpus], pd.DataFrame]] = {"multi_hop": multi_hop, "multilingual": multilingual}


def prompt_set(case: str, corpus: Corpus) -> pd.DataFrame:
    """The prompt set of a case; `InputError` if it is not made from the corpus."""
    if case not in PROMPT_SETS:
        raise InputError(
            f"the prompts of case '{case}' are not made from the corpus; those of {', '.join(PROMPT_SETS)} are."
        )
    frame = PROMPT_SETS[case](corpus)
    assert frame["item"].is_unique, "two prompts of one name"
    return frame
