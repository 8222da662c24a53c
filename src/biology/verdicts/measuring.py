"""Statistics of the parts of claims: from the measurements on each scored prompt to a mean, an interval and a p.

An item's score is its effect minus the mean of its control draws, with its sign chosen so that the claimed direction is
positive. Scores are averaged within clusters (a state, a rhyme family ...). All statistics are over clusters, because items
of one cluster share a mechanism and are not independent. `claims.py` turns these numbers into verdicts.

A supernode without an active member on a prompt cannot lose anything there. An outcome that watches it then counts as
unchanged, which speaks against a claim that it falls or rises. For `equivalent` it would speak for the claim, so the prompt
is left out there. A specificity ratio is the score of the effect arm over the score of a control arm, both minus the same
control. It is infinite if the control arm's score is not positive, since that arm then shows nothing of the effect.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportReturnType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from biology.cases.claim_file import Claim, Part
from biology.cases.measures import FORMS, unchanged
from biology.config import StatisticsConfig
from biology.records import InputError
from biology.statistics import bootstrap_interval, generator, resamples, sign_flip_p, sign_flips
from biology.verdicts.found_members import Found, Members
from biology.wording import plain

EXACT = 1e-5
"""Largest row residual (incoming edges + bias = pre-activation) of a float32 graph whose numbers may be judged."""
NO_PART = Part(name="none", experiment="none", outcome="none", control="none", direction="increase", minimum=1.0)
"""Placeholder in the tables for a claim without parts."""
SIGN = {"increase": 1.0, "decrease": -1.0, "equivalent": 1.0}


@dataclass(frozen=True)
class Meta:
    """The conditions under which the tables of one case were measured."""

    case: str
    model: str
    transcoders: str
    seed: int = 0
    strengths: Mapping[str, float] = field(default_factory=dict)
    """Strength at which each experiment is judged, chosen on dev items; may be omitted if only one was run."""
    row_residual: float | None = None
    """Largest row residual of the graphs that the numbers depend on."""
    scope: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Levels of factors to which experiments are restricted (`experiments.Measurement.only`); other items are not
    attempted."""


@dataclass(frozen=True)
class Check:
    """A control arm's mean compared with the bound of the claim: `value` is a ratio (specificity) or a mean (ceiling)."""

    kind: str
    arm: str
    value: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.kind == "ratio" else self.value <= self.bound

    def __str__(self) -> str:
        word = {"ratio": "at least", "mean": "at most"}[self.kind]
        return f"{self.arm} {self.kind} {plain(self.value)} ({word} {plain(self.bound)} registered)"

    @classmethod
    def read(cls, text: str) -> Check:
        """Parses a check from a column `checks`; its value has three digits."""
        arm, kind, value, _, _, bound, _ = text.split()
        return cls(kind, arm, float(value.replace("infinite", "inf")), float(bound))


@dataclass(frozen=True)
class Measured:
    """One part of a claim, measured but not yet judged. Scores are positive in the claimed direction."""

    claim: Claim
    part: Part
    meta: Meta
    passed: int
    attempted: int
    n: int = 0
    clusters: int = 0
    strength: float = math.nan
    statistic: float = math.nan
    low: float = math.nan
    high: float = math.nan
    effect: float = math.nan
    control: float = math.nan
    p: float = math.nan
    smallest_p: float = math.nan
    checks: tuple[Check, ...] = ()
    untestable: str = ""
    """Why nothing can be judged; empty if it can be judged."""
    found: Found = field(default_factory=Found)
    """Share of the prompts passing the gate on which everything it depends on was found."""
    scores: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    """Scores of items, from `item_scores`."""


def worst_residual(graphs: pd.DataFrame, prompts: pd.DataFrame) -> float | None:
    """The largest `row_residual` of table `graphs` among scored prompts; None if no such prompt has a graph."""
    scored = prompts.loc[prompts["role"] == "score", "item"]
    exact = graphs.loc[graphs["item"].isin(scored), "row_residual"]
    return float(exact.max()) if len(exact) else None


def estimate(part: Part, scores: np.ndarray, flips: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, lower bound, upper bound and p, each [k], of cluster scores [cluster, k] by the rule of a part."""
    low, high = bootstrap_interval(scores, counts)
    if part.direction == "equivalent":
        p = np.maximum(sign_flip_p(part.minimum - scores, flips), sign_flip_p(part.minimum + scores, flips))
    else:
        p = sign_flip_p(scores, flips)
    return scores.mean(0), low, high, p


def measure(
    claims: Iterable[Claim],
    evidence: pd.DataFrame,
    prompts: pd.DataFrame,
    meta: Meta,
    settings: StatisticsConfig | None = None,
    members: Members | None = None,
) -> tuple[Measured, ...]:
    """Every part of every claim of one case, measured on held-out items with role `score` that pass the claim's gate.

    Without `members`, `found` stays NaN. Raises `InputError` if the tables contradict each other, or lack what a claim
    needs (with claim, part and item).
    """
    settings = settings or StatisticsConfig()
    named = evidence[["item", "cluster", "split"]].drop_duplicates()
    joined = named.merge(prompts, on="item", how="left", suffixes=("", "_there"))
    wrong = joined[(joined["cluster"] != joined["cluster_there"]) | (joined["split"] != joined["split_there"])]
    if len(wrong):
        raise InputError(
            f"case '{meta.case}': item '{wrong['item'].iloc[0]}' of table 'evidence' is not in table 'prompts', or has "
            "another cluster or split there. Make both tables again."
        )
    heldout = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    pairs = [(claim, part) for claim in claims for part in claim.parts or (NO_PART,)]
    return tuple(_measure_part(claim, part, evidence, heldout, meta, settings, members) for claim, part in pairs)


def _measure_part(
    claim: Claim, part: Part, evidence: pd.DataFrame, heldout: pd.DataFrame, meta: Meta, settings: StatisticsConfig,
    members: Members | None,
) -> Measured:  # fmt: skip
    where = f"claim '{claim.id}', part '{part.name}'"
    if claim.untestable:
        return Measured(claim, part, meta, passed=0, attempted=0, untestable=claim.untestable)
    scope = meta.scope.get(part.experiment, {})
    for column, level in scope.items():
        heldout = heldout.loc[heldout[column] == level]
    if scope and not len(heldout):
        of = ", ".join(f"{column} {level}" for column, level in scope.items())
        reason = f"this model is asked no prompts of {of}, on which experiment '{part.experiment}' rests (see `role: extended` in config.yaml)"
        return Measured(claim, part, meta, passed=0, attempted=0, untestable=reason)
    if claim.gate not in heldout or heldout[claim.gate].dtype != bool:
        raise InputError(f"{where}: gate '{claim.gate}' is not a column of true and false in table 'prompts'.")
    passing = heldout.loc[heldout[claim.gate], "item"]
    found = members.found(part, heldout[heldout[claim.gate]]) if members else Found()
    result = Measured(claim, part, meta, passed=len(passing), attempted=len(heldout), found=found)
    gate = f"{result.passed} of {result.attempted} held-out items pass the gate '{claim.gate}'"
    gate = gate if result.attempted else "no prompt is held out and scored (they stand in the case's prompts.csv)"
    if meta.row_residual is not None and not meta.row_residual <= EXACT:
        reason = f"the exactness gate fails: worst row residual {plain(meta.row_residual)}, above {plain(EXACT)}"
        return replace(result, untestable=reason)
    rows = evidence[(evidence["experiment"] == part.experiment) & evidence["item"].isin(passing)]
    if len(passing) < claim.minimum_n:
        return replace(result, untestable=f"{gate}, and the claim needs {claim.minimum_n}")
    if not len(rows) and part.control == "smaller":
        return replace(
            result,
            untestable="two sizes are compared, and this model is no further size of another (`role: size` in config.yaml)",
        )
    if not len(rows):
        return replace(result, untestable=f"experiment '{part.experiment}' measured none of the items ({gate})")
    rows = with_absent(part, rows)
    if unchanged(part.outcome) is not None and part.outcome not in set(rows["outcome"]):
        supernode = part.outcome.partition(":")[2]
        return replace(result, untestable=f"no item has members of the supernode '{supernode}' to watch ({gate})")
    if part.outcome not in set(rows["outcome"]):
        if part.outcome in FORMS and FORMS[part.outcome].numbers:
            reason = f"'{part.outcome}' needs tokens that write numbers of two digits, and this model writes its numbers otherwise"
            return replace(result, untestable=f"{reason} ({gate})")
        known = ", ".join(sorted(set(rows["outcome"])))
        raise InputError(f"{where}: experiment '{part.experiment}' has no outcome '{part.outcome}', only {known}.")
    strength = _strength(where, part, rows, meta)
    scores = item_scores(part, rows, strength, settings.control_draws, where)
    result = replace(result, n=len(scores), clusters=scores["cluster"].nunique(), strength=strength)
    if len(scores) < claim.minimum_n:
        reason = f"experiment '{part.experiment}' scored {len(scores)} items ({gate})"
        return replace(result, untestable=f"{reason}, and the claim needs {claim.minimum_n}")
    if result.clusters < 2:
        reason = f"all {len(scores)} items stand in one cluster, and nothing says how its mean would vary"
        return replace(result, untestable=reason)
    means = scores.groupby("cluster", sort=True).mean(numeric_only=True)
    columns = means[["score"]].to_numpy()
    flips = sign_flips(len(means), settings.permutations, generator(settings.seed, claim.id, part.name, "permutation"))
    counts = resamples(len(means), settings.bootstrap, generator(settings.seed, claim.id, part.name, "bootstrap"))
    statistic, low, high, p = (float(value[0]) for value in estimate(part, columns, flips, counts))
    return replace(
        result,
        statistic=statistic,
        low=low,
        high=high,
        p=p,
        smallest_p=1 / len(flips) if len(flips) == 2 ** len(means) else 1 / (1 + len(flips)),
        effect=float(means["effect"].mean()),
        control=float(means["control"].mean()) if part.control != "none" else math.nan,
        checks=_checks(part, means),
        scores=scores,
    )


def _strength(where: str, part: Part, rows: pd.DataFrame, meta: Meta) -> float:
    found = sorted(set(rows.loc[(rows["arm"] == "effect") & (rows["outcome"] == part.outcome), "strength"]))
    chosen = meta.strengths.get(part.experiment, found[0] if len(found) == 1 else math.nan)
    if chosen not in found:
        listed = ", ".join(f"{value:g}" for value in found) or "none"
        raise InputError(
            f"{where}: experiment '{part.experiment}' must be judged at one strength fixed on dev items; "
            f"fixed: {chosen:g}, measured: {listed}."
        )
    return chosen


def with_absent(part: Part, rows: pd.DataFrame) -> pd.DataFrame:
    """Evidence of an experiment in which prompts without members of the watched supernode count as unchanged."""
    value = unchanged(part.outcome)
    if value is None or part.direction == "equivalent":
        return rows
    there = rows.loc[(rows["outcome"] == part.outcome) & (rows["arm"] == "effect"), "item"]
    rest = rows[~rows["item"].isin(there)].drop_duplicates(["item", "arm", "draw", "strength"])
    return pd.concat([rows, rest.assign(outcome=part.outcome, value=value)], ignore_index=True)


def item_scores(part: Part, rows: pd.DataFrame, strength: float, control_draws: int, where: str) -> pd.DataFrame:
    """One row per item: cluster, effect, control (mean of its draws), score, and a column for each further arm.

    The control is subtracted from score and arms, and the claimed direction is positive; for `mean_<arm>` (ceilings) only
    the sign is set.
    """
    at_strength = (rows["strength"] == strength) | (rows["arm"] == "clean")
    rows = rows.loc[(rows["outcome"] == part.outcome) & at_strength]
    cells = rows.groupby(["item", "arm"])["value"].agg(["mean", "size"]).unstack("arm")
    ratios = part.specificity.arms if part.specificity else ()
    needed = ["effect", *([part.control] if part.control != "none" else []), *ratios, *part.ceiling]
    value, size = cells["mean"].reindex(columns=list(dict.fromkeys(needed))), cells["size"]
    for arm in value:
        missing = value.index[value[arm].isna()]
        if len(missing):
            raise InputError(f"{where}: item '{missing[0]}' has no '{arm}' rows for experiment '{part.experiment}'.")
    if part.control == "match" and (size["match"] < control_draws).any():
        item = size.index[size["match"] < control_draws][0]
        raise InputError(
            f"{where}: item '{item}' has {size['match'][item]:g} match draws of the {control_draws} needed."
        )
    sign = SIGN[part.direction]
    control = value[part.control] if part.control != "none" else 0.0 * value["effect"]
    clusters = rows.groupby("item")["cluster"].first()
    scores = pd.DataFrame({"cluster": clusters, "effect": value["effect"], "control": control})
    scores["score"] = sign * (value["effect"] - control)
    for arm in ratios:
        scores[arm] = sign * (value[arm] - control)
    for arm in part.ceiling:
        scores[f"mean_{arm}"] = sign * value[arm]
    return scores


def _checks(part: Part, means: pd.DataFrame) -> tuple[Check, ...]:
    checks, score = [], float(means["score"].mean())
    for arm in part.specificity.arms if part.specificity else ():
        other = float(means[arm].mean())
        ratio = 0.0 if score <= 0 else math.inf if other <= 0 else score / other
        checks.append(Check("ratio", arm, ratio, part.specificity.ratio))
    for arm, bound in part.ceiling.items():
        mean = float(means[f"mean_{arm}"].mean())
        checks.append(Check("mean", arm, abs(mean) if part.direction == "equivalent" else mean, bound))
    return tuple(checks)
