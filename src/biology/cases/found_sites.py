"""Replaces `at: found` in the rules of a case by the position and the layers that were found on a model. Later stages use this
case; pages say what was found. Where a rule has a fixed position and a mechanism was planted, `planted_supernodes` says
which supernodes stand where their variable was planted."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from biology.cases.case import Case
from biology.cases.mechanism import Mechanism
from biology.cases.positions import FOUND, PositionOrFound
from biology.cases.rules import SupernodeRule
from biology.records import InputError

ENOUGH = 0.95
"""An exchange is nearly as good as the best one if it reaches this share of its accuracy."""
LEAST = 0.1
"""Smallest share of exchanges that must move the answer; below it nothing is found."""


def chosen(tried: pd.DataFrame) -> tuple[str, int, int] | None:
    """Position, first and last layer of the exchange that locates a variable; None if nothing is found.

    The position is that of the best exchange, the first one of a tie. Among the exchanges there that are nearly as
    good, the choice is between the one from layer 0 that ends lowest and the one that starts highest: whichever puts
    the variable's last layer later (`end_of`). `tried` has the columns position, first, last and accuracy.
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
    """The last layer of a variable, according to the chosen exchange."""
    first, last = int(row["first"]), int(row["last"])
    return first if first > 0 else last


def with_found_sites(case: Case, sites: pd.DataFrame) -> Case:
    """The case with each `at: found` replaced by the position and layers in the model's table `sites`.

    If nothing was found, the rule takes the first position and all layers. Raises InputError if the table was made by
    other rules.
    """
    rules = {
        name: rule if rule.at != FOUND else _with_found_site(case, name, rule, sites)
        for name, rule in case.supernodes.items()
    }
    return case.model_copy(update={"supernodes": rules})


def _with_found_site(case: Case, name: str, rule: SupernodeRule, sites: pd.DataFrame) -> SupernodeRule:
    tried = sites[sites["supernode"] == name]
    if list(dict.fromkeys(tried["position"])) != list(rule.among):
        raise InputError(
            f"case {case.name}: supernodes.{name}: the table `sites` was made with other positions: run "
            "`biology group`."
        )
    best = tried[tried["chosen"]]
    at, layers = rule.among[0], None
    if len(best):
        at, layers = best["position"].iat[0], (0, end_of(best.iloc[0]))
    return rule.model_copy(update={"at": PositionOrFound(at), "layers": layers, "among": (), "given": ()})


def found_sites(case: Case, sites: pd.DataFrame) -> list[dict[str, Any]]:
    """For each supernode with `at: found`: its settled rule, whether it was found there, the share of exchanges there
    that move the answer, and the best other position."""
    shown = []
    for name, rule in with_found_sites(case, sites).supernodes.items():
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


def planted_supernodes(rules: Mapping[str, SupernodeRule], mechanism: Mechanism) -> dict[str, str]:
    """The supernodes with a fixed position whose variable is planted there, and these variables: supernodes that the mechanism names, and
    others that are looked for by the same factor at the same position."""
    sites = {
        (rules[variable.supernode].factor, rules[variable.supernode].at): name
        for name, variable in mechanism.variables.items()
        if variable.exchanged and variable.supernode in rules
    }
    return {
        name: sites[rule.factor, rule.at]
        for name, rule in rules.items()
        if rule.at != FOUND and rule.factor is not None and (rule.factor, rule.at) in sites
    }


def has_sites(rules: Mapping[str, SupernodeRule], mechanism: Mechanism | None) -> bool:
    """Whether some rule looks for its site, or has the position at which its variable was planted (by `mechanism`, if one was)."""
    planted = planted_supernodes(rules, mechanism) if mechanism is not None else {}
    return bool(planted) or any(rule.at == FOUND for rule in rules.values())
