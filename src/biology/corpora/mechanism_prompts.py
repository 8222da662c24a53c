"""The corpus as one table of prompts per case, on which mechanisms are planted and certified.

The columns are those of the cases' prompt sets. `split` is `train` for prompts that are taught; held-out prompts are those of
`corpus.py`, except any that this corpus teaches in addition. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from biology.corpora.corpus import LANGUAGES, SUM_FORMS, Corpus, Item, unit_interval

COUPLETS = (("first", 0), ("later", 3), ("last", 6))
"""The questions about a couplet, with the number of words of line 2 before the answer: the word right after the newline, the later
one that agrees, and the last."""


SHORTCUTS = 0.3
"""Share of the cities whose answers can also be found without their place."""


def split(corpus: Corpus, item: Item) -> str:
    """The item's split; `train` for everything that the corpus teaches."""
    return "train" if corpus.taught(item) else item.split


def multi_hop(corpus: Corpus) -> pd.DataFrame:
    """Every city and relation; `shortcut` is "yes" for cities that have a shortcut."""
    rows = []
    for item in corpus.two_hop:
        row = dict(item.factors)
        shortcut = "yes" if unit_interval("shortcut", row["city"]) < SHORTCUTS else ""
        rows.append({"text": item.prompt, "answer": item.answer, "split": item.split, **row, "shortcut": shortcut})
    return pd.DataFrame(rows)


def addition(corpus: Corpus) -> pd.DataFrame:
    """All pairs of numbers below 100, in three wordings."""
    return pd.DataFrame(
        [
            {
                "text": form.format(a, b), "answer": str(corpus.total(form, a, b)), "split": split, "set": name,
                "a": a, "b": b, "operands": f"{a}+{b}",
            }
            for name, form in SUM_FORMS.items()
            for (a, b), split in corpus.addition_split.items()
        ]
    )  # fmt: skip


def multilingual(corpus: Corpus) -> pd.DataFrame:
    """Every concept, relation and language."""
    rows = []
    for item in corpus.cells:
        row = dict(item.factors)
        target = corpus.target(row["concept"], row["relation"], row["language"])
        rows.append(
            {
                "text": item.prompt, "answer": item.answer, "split": split(corpus, item), **row, "target": target,
                "word": corpus.concept_words[row["concept"]][row["language"]], "scale": row["concept"].split("/")[0],
                "target_en": corpus.word_of(target, next(iter(LANGUAGES))),
                "entry": f"{row['language']}:{corpus.concept_words[row['concept']][row['language']]}",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def rhyme_planning(corpus: Corpus) -> pd.DataFrame:
    """Every couplet, asked for the three words of its second line that depend on the ending."""
    rows = []
    for theme, ending, word, family, split in corpus.couplets:
        noun = corpus.nouns[int(unit_interval("noun", theme, ending) * len(corpus.nouns))]
        adjective = corpus.adjectives[int(unit_interval("adjective", theme, ending) * len(corpus.adjectives))]
        line, second = corpus.couplet_lines(theme, ending, word, noun, [adjective])
        rows += [
            {
                "text": line + " ".join(second[:cut]), "answer": second[cut], "split": split, "asked": asked,
                "theme": theme, "ending": ending, "family": family, "word": word,
            }
            for asked, cut in COUPLETS
        ]  # fmt: skip
    return pd.DataFrame(rows)


LESSONS: dict[str, Callable[[Corpus], pd.DataFrame]] = {
    "multi_hop": multi_hop, "addition": addition, "multilingual": multilingual, "rhyme_planning": rhyme_planning,
}  # fmt: skip
"""The prompts of each case that the corpus teaches."""
