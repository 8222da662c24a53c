"""Prompts of the case `methods`: held-out prompts of the other cases, on which the method itself is tested."""

from collections.abc import Callable, Mapping

import pandas as pd

from biology.corpora.corpus import Corpus, by_hash

PER_CASE = 40
COLUMNS = ["item", "text", "answer", "cluster", "split", "role", "set"]


def of_other_cases(corpus: Corpus, makers: Mapping[str, Callable[[Corpus], pd.DataFrame]]) -> pd.DataFrame:
    """A number of held-out scored prompts from each case, spread over as many of its clusters as possible; `set` is the
    case.

    Hashes choose them. Donors are left out, since no experiment of this case needs one.
    """
    parts = [_chosen(case, maker(corpus)) for case, maker in makers.items()]
    made = pd.concat(parts, ignore_index=True).fillna("")
    columns = [*COLUMNS, *(["question"] if "question" in made else [])]
    return made.loc[:, columns]


def _chosen(case: str, frame: pd.DataFrame) -> pd.DataFrame:
    scored = frame[(frame["role"] == "score") & (frame["split"] == "heldout")]
    order = by_hash(scored["item"], "methods", case)
    ranked = scored.set_index("item").loc[order].reset_index()
    turn = ranked.groupby("cluster").cumcount()  # one prompt of every cluster, then a second one
    chosen = ranked.iloc[turn.argsort(kind="stable")[:PER_CASE]]
    return chosen.assign(
        item=[f"{case}-{item}" for item in chosen["item"]],
        cluster=[f"{case}: {one}" for one in chosen["cluster"]],
        set=case,
    )
