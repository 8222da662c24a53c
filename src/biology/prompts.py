"""Prompt sets of the case studies that are made from the corpus's tables, written to `experiments/<case>/prompts.csv`.

Which prompts are registered follows from hashes of their contents, never from what a model does with them. A table says of
every prompt what it is about (factors), whether it helps to find features (`select`) or is scored (`score`), and which
prompt is its donor, so that nothing about an experiment is drawn at run time but its random controls.
"""

from collections.abc import Callable

import pandas as pd

from biology.config import InputError
from biology.corpus import RELATION_FOLDS, Corpus, Item, place_split, unit_interval

FOREIGN_DONORS = 5  # per base prompt


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
        # strengths are chosen on development prompts, so the donors of these are of development places too
        pool, far_pool = (
            [one for one in group if base["split"] == "heldout" or one["split"] == "dev"] for group in (scored, abroad)
        )
        pair = donors(base, pool, 2)
        if len(pair) < 2:
            base["role"] = "select"  # its relation has too few answers for a donor and a wrong donor
            continue
        base["donor"], base["wrong_donor"] = pair[0]["item"], pair[1]["item"]
        if base["relation"] == "capital":
            far = donors(base, far_pool, min(FOREIGN_DONORS, len(far_pool) - 1) + 1)
            for donor, wrong in zip(far, [*far[1:], far[0]], strict=True):
                name = f"{base['item']}-from-{donor['place']}".lower().replace(" ", "-")
                change = {"item": name, "cluster": donor["place"], "set": "foreign", "donor": donor["item"]}
                more.append({**base, **change, "wrong_donor": wrong["item"]})
    return pd.DataFrame(rows + more)


PROMPT_SETS: dict[str, Callable[[Corpus], pd.DataFrame]] = {"multi_hop": multi_hop}


def prompt_set(case: str, corpus: Corpus) -> pd.DataFrame:
    """The prompt set of a case; `InputError` if it is not made from the corpus."""
    if case not in PROMPT_SETS:
        raise InputError(
            f"the prompts of case '{case}' are not made from the corpus; those of {', '.join(PROMPT_SETS)} are."
        )
    frame = PROMPT_SETS[case](corpus)
    assert frame["item"].is_unique, "two prompts of one name"
    return frame
