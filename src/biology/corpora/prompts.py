"""Prompt sets of the case studies, made from the corpus's tables and written to `experiments/<case>/prompts.csv`.

Hashes of prompts, or of their clusters, decide split (`dev`, `heldout`) and donors; a model's answers never do. The table gives for each prompt its factors,
its role (`select`: it helps to find features; `score`: it is scored) and its donors. At run time only the random
controls are drawn.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import pandas as pd

from biology.corpora.corpus import LANGUAGES, PAPER_CONCEPT, PAPER_COUPLET, SUM_FORMS, Corpus, by_hash, unit_interval
from biology.corpora.donors import first_apart
from biology.corpora.few_shot_prompts import few_shot_multi_hop, few_shot_sums
from biology.corpora.method_prompts import of_other_cases
from biology.corpora.natural_prompts import natural_couplets, natural_sums
from biology.corpora.two_hop_prompts import multi_hop, natural_multi_hop
from biology.records import InputError

COUPLETS = 8  # scored couplets of a rhyme family
SELECTING = 4  # couplets that select features: per last word, fold of theme words and fold of line ends
SCORED_SUMS = {"dev": 2, "heldout": 5}  # pairs per cluster (a pair of ones digits)
SELECTING_EXPRESSIONS = 0.1  # share of the taught pairs
# Features of an operand or of an answer are selected on the languages of one fold and scored on the other's.
LANGUAGE_FOLDS = (("en", "fr", "zh"), ("de", "es", "ru"))


def family_split(family: str) -> str:
    """The split of a rhyme family: a fifth of the families is for development, the rest is scored once."""
    paper = family == "abbit"
    return "dev" if not paper and unit_interval("family", family) < 0.2 else "heldout"


def rhyme_planning(corpus: Corpus) -> pd.DataFrame:
    """Couplets cut after the newline that ends line 1, or later in line 2; clusters are rhyme families.

    Scored are couplets that elegans never saw, in four sets. `rhyme` and `other` end at the newline and differ in their
    donor: a couplet that plans another word of the same rhyme family, or of another family (the wrong donor is then of
    a third one). `later` ends before the second word that agrees with the planned one, `last` before that word itself.
    Theme words and line ends have two folds each: features of a word may be selected only on couplets that differ in
    both folds.
    """
    kind = dict(zip(corpus.themes["word"], corpus.themes["theme"], strict=True))
    theme_fold = _folds("theme", [(kind[theme], theme) for theme, *_ in corpus.couplets])
    ending_fold = _folds("ending", [(family, ending) for _, ending, _, family, _ in corpus.couplets])
    ranked = by_hash(corpus.couplets, "couplets", of=lambda couplet: couplet[:2])
    selecting: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    scored: dict[str, list[tuple[str, ...]]] = {}
    for theme, ending, word, family, taught in ranked:
        couplet = (theme, ending, word, family)
        if taught == "train":
            key = (word, theme_fold[kind[theme], theme], ending_fold[family, ending])
            selecting.setdefault(key, []).append(couplet)
        elif (theme, ending) != PAPER_COUPLET:
            scored.setdefault(family, []).append(couplet)

    def row(couplet: tuple[str, ...], role: str, of: str) -> dict[str, str]:
        theme, ending, word, family = couplet
        noun = corpus.nouns[int(unit_interval("noun", theme, ending) * len(corpus.nouns))]
        adjective = corpus.adjectives[int(unit_interval("adjective", theme, ending) * len(corpus.adjectives))]
        line, second = corpus.couplet_lines(theme, ending, word, noun, [adjective])
        cut = {"later": 3, "last": 6}.get(of, 0)
        name = f"{theme}-{ending}".replace(" ", "-")
        return {
            "item": name if role == "select" else f"{name}-{of}", "text": line + " ".join(second[:cut]),
            "answer": second[cut], "cluster": family, "split": family_split(family), "role": role, "set": of,
            "theme": theme, "ending": ending, "family": family, "word": word, "first": second[0], "later": second[3],
            "theme_fold": theme_fold[kind[theme], theme], "ending_fold": ending_fold[family, ending],
            "spoken": "" if role == "select" else f"{name}-last", "donor": "", "wrong_donor": "",
        }  # fmt: skip

    rows = [row(couplet, "select", "taught") for key in sorted(selecting) for couplet in selecting[key][:SELECTING]]
    for of in ("rhyme", "other", "later", "last"):
        rows += _with_donors(of, [row(one, "score", of) for key in sorted(scored) for one in scored[key][:COUPLETS]])
    return pd.DataFrame(rows)


def _folds(name: str, words: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The fold of each (group, word): half of a group's words are in fold 0, half in fold 1."""
    groups: dict[str, set[str]] = {}
    for group, word in words:
        groups.setdefault(group, set()).add(word)
    return {
        (group, word): str(rank % 2)
        for group, members in groups.items()
        for rank, word in enumerate(by_hash(members, name))
    }


def _with_donors(of: str, scored: list[dict[str, str]]) -> list[dict[str, str]]:
    """The couplets of one set that have a donor and a wrong donor: of the same split, with other answers."""
    if of == "last":
        return scored

    def donors(base: dict[str, str]) -> list[dict[str, str]]:
        pool = [one for one in scored if one["split"] == base["split"] and one["answer"] != base["answer"]]
        return [one for one in pool if (one["family"] == base["family"]) == (of != "other")]

    scored = [base for base in scored if donors(base)]  # a family may have one word that agrees later
    found = []
    for base in scored:
        key = "donor", of, base["item"]
        donor = by_hash(donors(base), *key, of=lambda one: (one["item"],))[0]
        taken = {base["answer"], donor["answer"]}
        wrong = [one for one in scored if one["split"] == base["split"] and one["answer"] not in taken]
        wrong = [one for one in wrong if one["family"] not in (base["family"], donor["family"])]
        found.append(
            {
                **base,
                "donor": donor["item"],
                "wrong_donor": by_hash(wrong, *key, of=lambda one: (one["item"],))[0]["item"],
            }
        )
    return found


def scored_sums(corpus: Corpus) -> list[tuple[int, int, str]]:
    """The scored pairs of numbers with their split: pairs that elegans was not taught, a fixed number for each pair of
    ones digits."""
    pairs = [pair for pair, split in corpus.addition_split.items() if split != "train"]
    ranked = sorted(pairs, key=lambda pair: (pair not in corpus.paper_sums, unit_interval("scored", *pair)))
    chosen: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for a, b in ranked:
        split = "dev" if corpus.addition_split[a, b] == "dev" else "heldout"
        mine = chosen.setdefault((split, a % 10, b % 10), [])
        if len(mine) < SCORED_SUMS[split]:
            mine.append((a, b))
    return sorted((a, b, split) for (split, _, _), found in chosen.items() for a, b in found)


def addition(corpus: Corpus) -> pd.DataFrame:
    """Sums in three forms; clusters are pairs of ones digits.

    The pairs that elegans was taught fill the operand grid (`select`). Scored are pairs that it never saw, up to a
    fixed number per cluster. Donors are scored pairs of the same form and split whose ones digit differs from the
    base's. For the two disguised forms, `plain` names the plain prompt with the same operands and `wrong_plain` one
    with other operands. If the corpus has expressions, their prompts follow.
    """
    scored = scored_sums(corpus)

    def row(form: str, a: int, b: int, split: str, role: str, **more: str) -> dict[str, str]:
        return {
            "item": f"{form}-{a}-{b}", "text": SUM_FORMS[form].format(a, b), "answer": str(corpus.total(SUM_FORMS[form], a, b)),
            "cluster": f"{a % 10}+{b % 10}", "split": split, "role": role, "set": form, "a": str(a), "b": str(b),
            "operands": f"{a}+{b}", "plain": "", "wrong_plain": "", "donor": "", "wrong_donor": "", **more,
        }  # fmt: skip

    def donors(form: str, a: int, b: int, split: str) -> list[str]:
        """Two pairs. They and the base differ from each other in operands, answers, and ones digits of the answer."""
        total = partial(corpus.total, SUM_FORMS[form])

        def apart(one: tuple[int, int], other: tuple[int, int]) -> bool:
            return one[0] != other[0] and one[1] != other[1] and (total(*one) - total(*other)) % 10 != 0

        pool = [(x, y) for x, y, where in scored if where == split]
        ranked = by_hash(pool, "donor", form, a, b, of=lambda pair: pair)
        return [f"{form}-{x}-{y}" for x, y in first_apart((a, b), ranked, 2, apart)]

    rows = [row("calc", a, b, "dev", "select") for (a, b), split in corpus.addition_split.items() if split == "train"]
    for form in SUM_FORMS:
        for a, b, split in scored:
            donor, wrong = donors(form, a, b, split)
            other = f"calc-{wrong.partition('-')[2]}"
            plain = {} if form == "calc" else {"plain": f"calc-{a}-{b}", "wrong_plain": other}
            rows.append(row(form, a, b, split, "score", donor=donor, wrong_donor=wrong, **plain))
    return pd.DataFrame([*rows, *_expressions(corpus, scored)]).fillna("")


def _expressions(corpus: Corpus, scored: list[tuple[int, int, str]]) -> list[dict[str, str]]:
    """Each scored pair inside an expression of every kind. Features of a kind are selected on pairs that were taught.

    A donor is of the same kind and split, shares no operand with the base, and has another answer. `kind_donor` is the
    same pair in another kind. The columns `plain` and `wrong_plain` are as for the disguised forms.
    """
    where = {(str(a), str(b)): split for a, b, split in scored}
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for item in corpus.expressions:
        kind, a, b = (value for _, value in item.factors)
        taught = item.split == "train" and unit_interval("expression", a, b) < SELECTING_EXPRESSIONS
        if taught or (a, b) in where:
            rows[kind, a, b] = {
                "item": f"{kind}-{a}-{b}", "text": item.prompt, "answer": item.answer,
                "cluster": item.cluster, "split": where.get((a, b), "dev"), "role": "select" if taught else "score",
                "set": "brackets", "a": a, "b": b, "operands": f"{a}+{b}", "kind": kind,
            }  # fmt: skip
    kinds = sorted({kind for kind, _, _ in rows})
    for (kind, a, b), base in rows.items():
        if base["role"] != "score":
            continue
        pool = [pair for pair, split in where.items() if split == base["split"] and (kind, *pair) in rows]
        ranked = by_hash(pool, "donor", kind, a, b, of=lambda pair: pair)
        donor, wrong = first_apart(base, (rows[kind, x, y] for x, y in ranked), 2, _other_operands)
        base["donor"], base["wrong_donor"] = donor["item"], wrong["item"]
        base["plain"], base["wrong_plain"] = f"calc-{a}-{b}", f"calc-{wrong['a']}-{wrong['b']}"
        others = by_hash((one for one in kinds if one != kind), "kind", kind, a, b)
        base["kind_donor"], base["wrong_kind_donor"] = (rows[one, a, b]["item"] for one in others)
    return list(rows.values())


def _other_operands(one: dict[str, str], other: dict[str, str]) -> bool:
    return {one["a"], one["b"]}.isdisjoint((other["a"], other["b"])) and one["answer"] != other["answer"]


def scale_split(scale: str) -> str:
    """The split of a scale of concepts (size, temperature) in the multilingual experiment: a fifth is for
    development."""
    if scale == PAPER_CONCEPT.split("/")[0]:
        return "heldout"
    return "dev" if unit_interval("scale", scale) < 0.2 else "heldout"


def multilingual(corpus: Corpus) -> pd.DataFrame:
    """Every (concept, relation, language). Scored are the cells that elegans never saw; clusters are scales.

    Each scored prompt has a donor and a wrong donor for each of its factors: the same concept with another relation, a
    concept of another scale, another language. Relation and concept donors are English prompts whatever the language of
    the base (the paper's test of independence); `_native` donors are in the base's language. `expected_<factor>` is the
    answer of the cell in which only that factor has changed. Donors of development prompts are of development scales.
    """
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for item in corpus.cells:
        concept, relation, language = (value for _, value in item.factors)
        scale = concept.split("/")[0]
        fold = next(number for number, fold in enumerate(LANGUAGE_FOLDS) if language in fold)
        cells[concept, relation, language] = {
            "item": f"{relation}-{concept}-{language}".replace("/", "-").replace("_", "-"), "text": item.prompt,
            "answer": item.answer, "cluster": scale, "split": scale_split(scale),
            "role": "select" if item.split == "train" else "score", "concept": concept, "relation": relation,
            "language": language, "word": corpus.concept_words[concept][language], "scale": scale,
            "target": corpus.target(concept, relation, language),
            "language_fold": str(fold), "english": "yes" if language == "en" else "no",
            "pair": "no" if relation == "category" else "yes",
        }  # fmt: skip

    def chosen(base: dict[str, str], factor: str, options: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """A donor and a wrong donor. Their answers differ from the base's and from each other."""
        found: list[tuple[str, str, str]] = []
        taken = {base["answer"]}
        for cell in by_hash(options, "donor", factor, base["item"], of=lambda cell: cell):
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


PROMPT_SETS: dict[str, Callable[[Corpus], pd.DataFrame]] = {
    "multi_hop": multi_hop,
    "rhyme_planning": rhyme_planning,
    "addition": addition,
    "multilingual": multilingual,
}


NATURAL_SETS: dict[str, Callable[[Corpus], pd.DataFrame]] = {
    "multi_hop": natural_multi_hop,
    "rhyme_planning": natural_couplets,
    "addition": natural_sums,
}
"""For models that others trained: `prompts_natural.csv`. The prompts of multilingual already are natural language."""
FEW_SHOT_SETS: dict[str, Callable[[Corpus], pd.DataFrame]] = {
    "multi_hop": few_shot_multi_hop,
    "addition": few_shot_sums,
}
"""For small models of natural language, after worked examples: `prompts_few_shot.csv`."""
for makers in (PROMPT_SETS, NATURAL_SETS):
    # kept, as two more cases are made of all others
    makers.update({case: lru_cache(maxsize=2)(maker) for case, maker in makers.items()})
    makers["methods"] = makers["components"] = lru_cache(maxsize=2)(partial(of_other_cases, makers=dict(makers)))


def prompt_set(case: str, corpus: Corpus) -> pd.DataFrame:
    """The prompt set of a case; kept, so do not modify it. Raises `InputError` if it is not made from the corpus."""
    if case not in PROMPT_SETS:
        raise InputError(
            f"the prompts of case '{case}' are not made from the corpus; those of {', '.join(PROMPT_SETS)} are."
        )
    frame = PROMPT_SETS[case](corpus)
    assert frame["item"].is_unique, "two prompts of one name"
    return frame


def prompt_sets(case: str, corpus: Corpus) -> dict[str, pd.DataFrame]:
    """All prompt sets of a case by the names of their files."""
    made = {"prompts.csv": prompt_set(case, corpus)}
    for name, makers in (("prompts_natural.csv", NATURAL_SETS), ("prompts_few_shot.csv", FEW_SHOT_SETS)):
        if case in makers:
            made[name] = makers[case](corpus)
            assert made[name]["item"].is_unique, "two prompts of one name"
    return made
