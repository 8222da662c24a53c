"""Where the rules that say `at: found` stand on a model: the case that all later stages work with, and what a page says of it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from biology.cases.case import Case
from biology.cases.positions import FOUND, PositionOrFound
from biology.cases.rules import SupernodeRule
from biology.records import InputError

ENOUGH = 0.95
"""What does nearly as well as the best exchange reaches this share of it."""
LEAST = 0.1
"""Share of exchanges that move the answer below which nothing is found."""


def chosen(tried: pd.DataFrame) -> tuple[str, int, int] | None:
    """Position, first and last layer of the exchange that says where a variable is; None where nothing is found.

    The position is that of the best exchange (the first of several). There, of all that do nearly as well, it is the one that says
    most of where the layers end (`end_of`): up to which it takes them, or from which on all is still to be had. `tried` has the
    columns position, first, last and accuracy.
    """
    best = float(tried["accuracy"].max())
    if not best >= LEAST:
        return None
    position = str(tried.loc[tried["accuracy"].idxmax(), "position"])
    there = tried[(tried["position"] == position) & (tried["accuracy"] >= ENOUGH * best)]
    upto, onward = there.loc[there["first"] == 0, "last"], there.loc[there["first"] > 0, "first"]
    takes = int(upto.min()) if len(upto) else 0
    if len(onward) and int(onward.max()) >= takes:
        first = int(onward.max())
        return position, first, int(there.loc[there["first"] == first, "last"].max())
    return position, 0, takes


def end_of(row: pd.Series) -> int:
    """The last layer of a variable, by the exchange that says so."""
    first, last = int(row["first"]), int(row["last"])
    return first if first > 0 else last


def settled(case: Case, sites: pd.DataFrame) -> Case:
    """The case whose rules say a position and layers where they said `at: found`, by table `sites` of the model.

    Where nothing was found, the first position is taken, with all layers. Raises InputError if the table is not of these rules.
    """
    rules = {
        name: rule if rule.at != FOUND else _settled(case, name, rule, sites) for name, rule in case.supernodes.items()
    }
    return case.model_copy(update={"supernodes": rules})


def _settled(case: Case, name: str, rule: SupernodeRule, sites: pd.DataFrame) -> SupernodeRule:
    tried = sites[sites["supernode"] == name]
    if list(dict.fromkeys(tried["position"])) != list(rule.among):
        raise InputError(
            f"case {case.name}: supernodes.{name}: where it is found was not looked for among these positions: run "
            "`biology group`."
        )
    best = tried[tried["chosen"]]
    at, layers = rule.among[0], None
    if len(best):
        at, layers = best["position"].iat[0], (0, end_of(best.iloc[0]))
    return rule.model_copy(update={"at": PositionOrFound(at), "layers": layers, "among": (), "keeps": ()})


def found_sites(case: Case, sites: pd.DataFrame) -> list[dict[str, Any]]:
    """For each supernode whose rule says `at: found`: where it is (its settled rule), whether it was found there, the share of
    exchanges that move the answer there, and the other position that does most."""
    shown = []
    for name, rule in settled(case, sites).supernodes.items():
        if case.supernodes[name].at != FOUND:
            continue
        tried = sites[sites["supernode"] == name]
        best = tried[tried["chosen"]]
        most = tried.groupby("position", sort=False)["accuracy"].max()
        others = {str(at): float(share) for at, share in most.items() if at != rule.at}
        other = max(others, key=lambda at: (others[at] == others[at], others[at]), default="")
        shown.append(
            {
                "name": name,
                "rule": rule,
                "found": bool(len(best)),
                "n": int(tried["n"].iat[0]),
                "accuracy": float(best["accuracy"].iat[0]) if len(best) else float(most[str(rule.at)]),
                "other": other,
                "other_accuracy": others.get(other, math.nan),
            }
        )
    return shown
