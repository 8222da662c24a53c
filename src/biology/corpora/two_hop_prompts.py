"""Prompt sets of `multi_hop`: two hops over places and relations, for elegans and, in eight wordings, for models that
others trained."""

import pandas as pd

from biology.corpora.corpus import PAPER_CITIES, RELATION_FOLDS, Corpus, Item, by_hash, place_split, unit_interval
from biology.corpora.donors import first_apart

FOREIGN_DONORS = 5  # per base prompt


def relation_fold(relation: str) -> int:
    """The fold of a relation, 0 or 1 (`RELATION_FOLDS`)."""
    return 0 if relation in RELATION_FOLDS[0] else 1


def multi_hop(corpus: Corpus) -> pd.DataFrame:
    """Two-hop prompts over all places and relations.

    Scored are the prompts about US states that elegans never saw; clusters are states. Cities and relations have two
    folds each: features of a state may be selected only on prompts of the other city fold *and* the other relation
    fold. A second set (`set` = foreign) asks for the capital of a state and takes its donor abroad; its clusters are
    the donors.
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

    rows = [
        row(item, "select" if item.split == "train" or dict(item.factors)["kind"] != "state" else "score")
        for item in corpus.two_hop
    ]
    return pd.DataFrame(rows + _two_hop_donors(rows, ("relation",), FOREIGN_DONORS))


def _two_hop_donors(rows: list[dict[str, str]], alike: tuple[str, ...], foreign: int) -> list[dict[str, str]]:
    """Gives every scored row a donor and a wrong donor that agree with it in the columns `alike`; a row without both is
    no longer scored. Returns further rows: prompts about capitals, each with a fixed number of donors abroad."""

    def donors(base: dict[str, str], pool: list[dict[str, str]], count: int) -> list[dict[str, str]]:
        """Prompts that ask the same relation of other places. Their answers differ from the base's and from each
        other. None if there are too few."""
        same = [other for other in pool if all(other[column] == base[column] for column in alike)]
        ranked = by_hash(same, "donor", base["item"], of=lambda other: (other["item"],))
        chosen = first_apart(base, ranked, count, lambda a, b: a["place"] != b["place"] and a["answer"] != b["answer"])
        return chosen if len(chosen) == count else []

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
            far = donors(base, far_pool, min(foreign, len(far_pool) - 1) + 1)
            for donor, wrong in zip(far, [*far[1:], far[0]], strict=True):
                name = f"{base['item']}-from-{donor['place']}".lower().replace(" ", "-")
                change = {"item": name, "cluster": donor["place"], "set": "foreign", "donor": donor["item"]}
                more.append({**base, **change, "wrong_donor": wrong["item"]})
    return more


# Wordings of a two-hop question for models of natural language. Each factor and "containing" occur in it exactly once.
TEMPLATES = (
    "Fact: the {relation} of the {kind} containing {city} is",
    "Fact: The {relation} of the {kind} containing {city} is",
    "The {relation} of the {kind} containing {city} is",
    "It is well known that the {relation} of the {kind} containing {city} is",
    "Geography quiz. The {relation} of the {kind} containing {city} is",
    "Everyone knows that the {relation} of the {kind} containing the city of {city} is",
    "I looked it up: the {relation} of the {kind} containing {city} is",
    "Question: what is the {relation} of the {kind} containing {city}? Answer:",
)


NATURAL_RELATIONS = ("capital", "flower", "abbreviation", "bird", "language", "currency")


NATURAL_FOREIGN_DONORS = 2


def natural_multi_hop(corpus: Corpus) -> pd.DataFrame:
    """The same two hops for models that others trained, in eight wordings.

    Scored are two thirds of the cells whose city and relation have the same fold; the other third selects features for
    the cells of the other fold. Relations whose answers are numbers, or are the same for nearly all states, are left
    out. If an answer has several tokens, its first one counts. Prompts that the model answers wrongly are gated out
    (`correct`). Donors use the same wording.
    """
    rows = []
    for item in corpus.two_hop:
        factors = dict(item.factors)
        city, relation, state = factors["city"], factors["relation"], factors["kind"] == "state"
        if relation not in NATURAL_RELATIONS:
            continue
        template = int(unit_interval("template", city) * len(TEMPLATES))
        fold = corpus.city_fold[city]
        scores = unit_interval("natural", city, relation) < 2 / 3 or (city in PAPER_CITIES and relation == "capital")
        rows.append(
            {
                "item": f"{relation}-{city}".lower().replace(" ", "-"), "text": TEMPLATES[template].format(**factors),
                "answer": item.answer, "cluster": factors["place"], "split": place_split(factors["place"]),
                "role": "score" if state and scores and fold == relation_fold(relation) else "select", "set": "states",
                **factors,
                "city_fold": str(fold), "relation_fold": str(relation_fold(relation)), "template": str(template),
                "donor": "", "wrong_donor": "",
            }
        )  # fmt: skip
    choosing = {(row["place"], row["city_fold"], row["relation_fold"]) for row in rows if row["role"] == "select"}
    for row in rows:
        if (row["place"], *("10"[int(row[fold])] for fold in ("city_fold", "relation_fold"))) not in choosing:
            row["role"] = "select"  # nothing is left on which to select the features of its place
    return pd.DataFrame(rows + _two_hop_donors(rows, ("relation", "template"), NATURAL_FOREIGN_DONORS))


def state_prompts(corpus: Corpus) -> pd.DataFrame:
    """Every prompt about a US state: its level is the state, its name the city or state as written in the prompt."""
    states = set(corpus.states["state"])
    asked = [(item.prompt, dict(item.factors)["city"], item.cluster) for item in corpus.two_hop]
    asked += [
        (item.prompt, item.cluster, item.cluster)
        for item in corpus.one_hop
        if item.prompt.endswith(f" of {item.cluster} is")
    ]
    return pd.DataFrame([row for row in asked if row[2] in states], columns=["prompt", "name", "level"])
