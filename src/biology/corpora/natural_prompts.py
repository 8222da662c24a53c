"""Couplets and sums for models of natural language that others trained: `experiments/<case>/prompts_natural.csv`.

Columns and factors are those of the sets for elegans (`prompts.py`), so that the same rules, experiments and claims read them. The
differences come from models and vocabularies that are not ours:

* Such a model may begin line 2 with any word. A couplet is therefore gated by its own last word (`gated_by` names that prompt):
  given the line up to there, does the model end it in the word that it is supposed to plan?
* Tokenizers write numbers whole, or digit by digit. The second number has one digit and the answer follows "=", so that in
  both cases the fourth token from the end is the last piece of the first number, and the second token from the end is the second
  number. Sums of at most 9 can be asked of every model; larger ones only if they are one token (`behaviour.prompts_table` gates them).
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from biology.corpora.corpus import Corpus, by_hash, unit_interval
from biology.corpora.donors import first_apart

COUPLETS = Path("data/couplets")
"""`words.csv`: words to plan, each with its pronoun and article, a theme to score on and one to select on. `lines.csv`: for each
rhyme family four ends of line 1 (two of each fold), and further words that rhyme."""
FIRST_LINES = (
    "He saw a {theme} and had to {ending},",
    "He found a {theme} and tried to {ending},",
    "She saw a {theme} and had to {ending},",
    "She passed a {theme} and came to {ending},",
    "We saw the {theme} and had to {ending},",
    "They faced the {theme} and had to {ending},",
    "You need a {theme} if you would {ending},",
    "Behind the {theme} they all had to {ending},",
)
SECOND_LINES = (
    "must have been", "looked just like", "turned out to be", "could only be", "had come to be", "might well have been",
    "would always be", "soon turned into",
)  # fmt: skip
SCORED_COUPLETS = 3  # of each planned word
LATER, FIRST = "later", "first"


def natural_couplets(_: Corpus) -> pd.DataFrame:
    """Couplets in the paper's form; clusters are rhyme families.

    Line 2 begins with the pronoun (he, she, it, they) and ends with the article (a, an, some) that the planned word takes. Sets,
    donors and folds are as in the set for elegans: `rhyme` and `other` end at the newline, `later` before the article, `last`
    before the planned word. A word is scored with one theme and selects with another. `rhymes` lists further words that rhyme: a
    line may end in one of these although no couplet plans it.
    """
    words, lines = (
        pd.read_csv(COUPLETS / name, dtype=str, keep_default_na=False) for name in ("words.csv", "lines.csv")
    )
    endings = {row.family: row.endings.split("|") for row in lines.itertuples()}
    rhymes = dict(zip(lines["family"], lines["rhymes"], strict=True))
    taught, scored = [], []
    for word in words.to_dict("records"):
        ends = [(ending, str(place // 2)) for place, ending in enumerate(endings[word["family"]])]
        ranked = by_hash(ends, "natural couplet", word["word"], of=lambda end: end[:1])
        taught += [{**word, "theme": word["selecting"], "ending": end, "ending_fold": fold} for end, fold in ends]
        scored += [{**word, "ending": end, "ending_fold": fold} for end, fold in ranked[:SCORED_COUPLETS]]

    def row(couplet: dict[str, str], of: str) -> dict[str, str]:
        family, word, theme, ending = (couplet[key] for key in ("family", "word", "theme", "ending"))
        second = SECOND_LINES[int(unit_interval("second line", theme, ending) * len(SECOND_LINES))].split()
        line = [couplet["first"], *second, couplet["article"], word]
        cut = {"later": -2, "last": -1}.get(of, -len(line))
        first = FIRST_LINES[int(unit_interval("first line", theme, ending) * len(FIRST_LINES))]
        name = f"{word}-{theme}-{ending}".lower().replace(" ", "-")
        taught = of == "taught"
        return {
            "item": name if taught else f"{name}-{of}",
            "text": f"A rhyming couplet:\n{first.format(theme=theme, ending=ending)}\n{' '.join(line[:cut])}",
            "answer": line[cut], "cluster": family, "split": _family_split(family),
            "role": "select" if taught else "score", "set": of, "theme": theme, "ending": ending, "family": family,
            "word": word, FIRST: couplet[FIRST], LATER: "",  # the word of a free line that is the article is unknown
            "theme_fold": str(int(taught)), "ending_fold": couplet["ending_fold"],
            "spoken": "" if taught else f"{name}-last", "gated_by": "" if taught or of == "last" else f"{name}-last",
            "rhymes": " ".join(one for one in rhymes[family].split() if one != ending), "donor": "", "wrong_donor": "",
        }  # fmt: skip

    rows = [row(couplet, "taught") for couplet in taught]
    for of in ("rhyme", "other", "later"):
        rows += _with_donors([row(couplet, of) for couplet in scored], of)
    return pd.DataFrame([*rows, *(row(couplet, "last") for couplet in scored)])


def _family_split(family: str) -> str:
    return "dev" if unit_interval("natural family", family) < 0.2 else "heldout"


def _with_donors(scored: Sequence[dict[str, str]], of: str) -> list[dict[str, str]]:
    """The couplets of a set that have a donor and a wrong donor in their split, all with different answers. The donor is of their
    own rhyme family (set `other`: of another one), the wrong donor of a third family. A couplet that is left out is no donor
    either."""
    found = []
    for base in scored:
        others = [one for one in scored if one["split"] == base["split"] and one["answer"] != base["answer"]]
        pool = by_hash(others, "natural donor", of, base["item"], of=lambda one: (one["item"],))
        for donor in pool:
            apart = {base["family"], donor["family"]}
            wrong = [one for one in pool if one["family"] not in apart and one["answer"] != donor["answer"]]
            if (len(apart) == 2) == (of == "other") and wrong:
                found.append({**base, "donor": donor["item"], "wrong_donor": wrong[0]["item"]})
                break
    return found if len(found) == len(scored) else _with_donors(found, of)


# Sums ----------------------------------------------------------------------------------------------------------------
SUMS = {
    "calc": (
        "calc: {a}+{b}=", "{a}+{b}=", "sum: {a}+{b}=", "Math: {a}+{b}=", "Question: {a}+{b}=", "Solve: {a}+{b}=",
        "Arithmetic: {a}+{b}=", "The answer is {a}+{b}=",
    ),
    "sum_of": (
        "the sum of {a} and {b}=", "The sum of {a} and {b} =", "sum({a}, {b})=", "sum of {a}, {b}=", "add({a}, {b}) =",
        "The total of {a} and {b} =", "{a} plus {b} =", "{a} and {b} added together =",
    ),
    "fruit": (
        "{a} apples and {b} pears: fruit=", "{a} apples, {b} pears, total=", "apples={a}, pears={b}, fruit=",
        "Ledger: {a} apples; {b} pears; total =", "{a} red apples and {b} green pears, in all =",
        "We bought {a} apples and {b} pears. Pieces of fruit =", "Basket: {a} apples, {b} pears. Sum =",
        "apples: {a}\npears: {b}\nfruit=",
    ),
}  # fmt: skip
"""Wordings by form (the `set` of a prompt): the paper's, the plain sum, and the two disguises. The number follows each."""
DEV_WORDINGS = 2  # development prompts use the first ones
LOW = {"dev": 8, "heldout": 24}  # scored pairs whose sum is one digit, and the number of wordings for each:
LOW_WORDINGS = {"dev": 2, "heldout": 4}
HIGH = {"dev": 16, "heldout": 64}  # scored pairs with a first number of two digits, in one wording each
GRID = 240  # such pairs that fill the operand grid


def natural_sums(_: Corpus) -> pd.DataFrame:
    """Sums in three forms of eight wordings; clusters are pairs of ones digits.

    Scored are sums with a one-digit result, for every model, and with a two-digit result, for models that write it as one token.
    The operand grid (`select`) holds all other pairs of digits, and some pairs with a first number of two digits. Donors have the
    same form, wording, split and size, share no operand, and differ in the ones digit of the answer.
    """
    digits = by_hash(itertools.product(range(10), range(10)), "natural sum", of=lambda pair: pair)
    larger = by_hash(itertools.product(range(10, 100), range(10)), "natural sum", of=lambda pair: pair)
    larger = [pair for pair in larger if sum(pair) < 100]
    low = [pair for pair in digits if sum(pair) < 10]
    asked: dict[tuple[str, str, int], list[tuple[int, int]]] = {}  # pairs by size, split and wording
    for size, pool, counts in (("low", low, LOW), ("high", larger, HIGH)):
        for split, skip in (("dev", 0), ("heldout", counts["dev"])):
            n_wordings = DEV_WORDINGS if split == "dev" else len(SUMS["calc"])
            times = LOW_WORDINGS[split] if size == "low" else 1
            for rank, pair in enumerate(pool[skip : skip + counts[split]]):
                for time in range(times):
                    wording = (rank + time * n_wordings // times) % n_wordings
                    asked.setdefault((size, split, wording), []).append(pair)
    scored = {pair for pairs in asked.values() for pair in pairs}
    grid = [pair for pair in digits if pair not in scored] + larger[sum(HIGH.values()) :][:GRID]

    def row(form: str, wording: int, pair: tuple[int, int], split: str, role: str) -> dict[str, str]:
        a, b = pair
        return {
            "item": _named(form, wording, pair), "text": SUMS[form][wording].format(a=a, b=b), "answer": str(a + b),
            "cluster": f"{a % 10}+{b % 10}", "split": split, "role": role, "set": form, "a": str(a), "b": str(b),
            "operands": f"{a}+{b}", "template": str(wording), "plain": "", "wrong_plain": "", "donor": "", "wrong_donor": "",
        }  # fmt: skip

    rows = [row("calc", 0, pair, "dev", "select") for pair in sorted(grid)]
    for form in SUMS:
        for (_size, split, wording), pairs in sorted(asked.items()):
            for pair in sorted(pairs):
                donors = _other_sums(form, pair, pairs)
                if len(donors) < 2:
                    continue  # too few pairs of this wording share no operand with it
                made = row(form, wording, pair, split, "score")
                made |= {"donor": _named(form, wording, donors[0]), "wrong_donor": _named(form, wording, donors[1])}
                if form != "calc":
                    made |= {"plain": _named("calc", wording, pair), "wrong_plain": _named("calc", wording, donors[1])}
                rows.append(made)
    return pd.DataFrame(rows)


def _named(form: str, wording: int, pair: tuple[int, int]) -> str:
    return f"{form}-{wording}-{pair[0]}-{pair[1]}"


def _other_sums(form: str, pair: tuple[int, int], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Two of the pairs. They and the given pair differ from each other in operands and in the ones digit of the sum."""
    ranked = by_hash(pairs, "natural sum donor", form, *pair, of=lambda other: other)
    return first_apart(pair, ranked, 2, lambda a, b: a[0] != b[0] and a[1] != b[1] and (sum(a) - sum(b)) % 10 != 0)
