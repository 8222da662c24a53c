"""Do attribution graphs show the planted causal model? Compares edges between supernodes with edges between the variables they
represent.

An edge of the causal model leads from a variable to a variable computed from it, or from a variable that the answer depends on to
the answer. Variables for which no supernode stands are passed through. In the graph of every held-out prompt, each ordered pair of
supernodes is either such an edge or not. Its score is the influence of the source on the target along paths that pass no other
variable's supernode. (A direct effect would not do: most of what one supernode passes to the next goes through features of neither.)
The area under the ROC curve is the probability that an edge scores higher than another pair. *All parents first* counts the prompts in
whose graph every parent of the answer has a greater influence on it, along such paths, than every other variable.
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


def shown_parents(mechanism: Mechanism, name: str | None) -> set[str]:
    """The supernodes of the variables on which a variable, or the answer (None), rests with no other supernode between: its parents; for
    a parent without a supernode, what that one rests on; and for the answer, the variables that decide it while a parent is absent."""
    found: set[str] = set()
    for parent in mechanism.parents(name):
        one = mechanism.variables[parent]
        found |= {one.supernode} if one.supernode else shown_parents(mechanism, parent)
        instead = one.absent.shares or () if one.absent and name is None else ()
        deciding = [mechanism.variables[other] for other in instead if other in mechanism.variables]
        found |= {other.supernode for other in deciding if other.supernode}
    return found


def causal_edges(mechanism: Mechanism) -> set[tuple[str, str]]:
    """Pairs of supernodes, or of a supernode and the answer, between which the causal model has an edge."""
    shown = {name: variable.supernode for name, variable in mechanism.variables.items() if variable.supernode}
    into = [*((name, supernode) for name, supernode in shown.items()), (None, ANSWER)]
    return {(parent, target) for name, target in into for parent in shown_parents(mechanism, name) if parent != target}


def open_pairs(mechanism: Mechanism) -> set[tuple[str, str]]:
    """Pairs of which the causal model does not say whether they are edges: where some prompts have another path to the answer
    (`absent: {unless: ...}`), what the parent that they can do without is computed from."""
    names = [name for name in mechanism.parents(None) if (absent := mechanism.variables[name].absent) and absent.unless]
    before = {parent for name in names for parent in shown_parents(mechanism, name)}
    return {(parent, ANSWER) for parent in before} - causal_edges(mechanism)


def scored_pairs(mechanism: Mechanism, edges: pd.DataFrame) -> pd.DataFrame:
    """Columns item, target, source, score and edge, for all ordered pairs of variables' supernodes in a graph that are known to be edges
    or not."""
    causal, unsaid = causal_edges(mechanism), open_pairs(mechanism)
    shown = mechanism.supernodes
    mine = edges[edges["source"].isin(shown) & edges["target"].isin({*shown, ANSWER})]
    pairs = list(zip(mine["source"], mine["target"], strict=True))
    found = mine[["item", "target", "source"]].assign(score=mine["unmediated"], edge=[pair in causal for pair in pairs])
    return found[[pair not in unsaid for pair in pairs]]


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
