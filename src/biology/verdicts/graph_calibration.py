"""Do attribution graphs show the planted causal model? Compares edges between supernodes with edges between the variables they
represent.

An edge of the causal model leads from a variable to a variable computed from it, or from a variable that the answer depends on to
the answer. In the graph of every held-out prompt, each ordered pair of supernodes is either such an edge or not. Its score is the
direct effect of the source on the target, as a share of all absolute direct effects on this target. The area under the ROC curve is
the probability that an edge scores higher than another pair. *All parents first* counts the prompts in whose graph every parent of
the answer has a greater direct effect on it than every other variable.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from biology.cases.mechanism import Mechanism, load_mechanism
from biology.config import Config
from biology.statistics import auc, wilson
from biology.tables import read_tables

ANSWER = "answer"
DRAWS = 500


def causal_edges(mechanism: Mechanism) -> set[tuple[str, str]]:
    """Pairs of supernodes, or of a supernode and the answer, between which the causal model has an edge."""
    shown = {name: variable.supernode for name, variable in mechanism.variables.items() if variable.supernode}
    found = {(shown[parent], shown[name]) for name in shown for parent in mechanism.parents(name) if parent in shown}
    return found | {(shown[parent], ANSWER) for parent in mechanism.parents(None) if parent in shown}


def scored_pairs(mechanism: Mechanism, edges: pd.DataFrame) -> pd.DataFrame:
    """Columns item, target, source, score and edge, for all ordered pairs of variables' supernodes in a graph."""
    causal = causal_edges(mechanism)
    shown = {variable.supernode for variable in mechanism.variables.values()} - {None}
    mine = edges[edges["source"].isin(shown) & edges["target"].isin({*shown, ANSWER})]
    size = mine["direct"].abs().groupby([mine["item"], mine["target"]]).transform("sum")
    return mine[["item", "target", "source"]].assign(
        score=(mine["direct"] / size.where(size > 0, 1.0)).to_numpy(),
        edge=[pair in causal for pair in zip(mine["source"], mine["target"], strict=True)],
    )


def parents_first(pairs: pd.DataFrame) -> pd.Series:
    """By item, whether every parent of the answer is in the graph and outranks every other variable."""
    into = pairs[pairs["target"] == ANSWER]
    parents = into[into["edge"]].groupby("item")["score"]
    rest = into[~into["edge"]].groupby("item")["score"].max()
    every = parents.size() == into[into["edge"]]["source"].nunique()
    return every & (parents.min() > rest.reindex(every.index).fillna(0.0).clip(lower=0.0))


def graph_truth(root: Path, config: Config, known: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row for each planted model and case with graphs in `data/runs`: area with the 2.5 and 97.5 % points over resampled
    prompts, and the share of prompts with all parents first, with Wilson's interval.

    Rows of the table `known` stay for models and cases whose graphs are not there, as in a checkout that brings only the table.
    """
    rows: list[dict[str, object]] = []
    for name in config.calibrated:
        if not config.models[name].planted:
            continue
        runs = root / "data/runs" / name
        made = {path.parent.name for path in runs.glob("*/edges.parquet")}
        if known is not None:
            rows += known[(known["model"] == name) & ~known["case"].isin(made)].to_dict("records")
        for case in sorted(made):
            mechanism = load_mechanism(root, case)
            if mechanism is None or not causal_edges(mechanism):
                continue
            tables = read_tables(runs / case, ("prompts", "edges"))
            prompts = tables["prompts"]
            asked = prompts[(prompts["role"] == "score") & (prompts["split"] == "heldout") & prompts["correct"]]
            pairs = scored_pairs(mechanism, tables["edges"][tables["edges"]["item"].isin(asked["item"])])
            if len(pairs):  # a case may trace only the prompts that it shows
                rows.append({"case": case, "model": name, **measured(pairs, config.statistics.seed)})
    return pd.DataFrame(rows)


def measured(pairs: pd.DataFrame, seed: int) -> dict[str, object]:
    """Area and share of prompts with all parents first, with their intervals and sample sizes."""
    score, edge = pairs["score"].to_numpy(), pairs["edge"].to_numpy()
    items = list(pairs.groupby("item", sort=True).indices.values())
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS if items else 0):
        rows = np.concatenate([items[index] for index in rng.integers(0, len(items), len(items))])
        drawn.append(auc(score[rows], edge[rows]))
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if drawn else (np.nan, np.nan)
    found = parents_first(pairs)
    first, first_low, first_high = wilson(int(found.sum()), len(found))
    return {
        "auc": auc(score, edge), "auc_low": low, "auc_high": high, "edges": int(edge.sum()), "pairs": len(pairs), "first": first,
        "first_low": first_low, "first_high": first_high, "prompts": len(found),
    }  # fmt: skip
