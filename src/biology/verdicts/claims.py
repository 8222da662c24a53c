"""Verdicts: does a claim of the paper hold on this model, with these transcoders?

Statistic, control and threshold of a claim are registered before the run (`claim_file.Claim`); this module only computes. Its
numbers are those of `measuring.py`, means over clusters of prompts. With them come

* a one-sided sign-flip permutation test of "the mean score is not above zero" (exact if enumeration takes fewer flips than
  the draws); for `equivalent`, the larger p of the two one-sided tests of "the score lies outside the margin";
* a studentised bootstrap interval (95 %) of the mean (`statistics.bootstrap_interval`);
* Holm's correction over all registered claims of one model and transcoder set; a claim that is not registered yet is
  untestable and does not count.

`replicated`      estimate >= minimum, lower bound > half of it, Holm p < 0.01, and all ratios and ceilings hold
                  (`equivalent`: the interval lies within the margin, Holm p < 0.01, and the ceilings hold)
`not replicated`  upper bound < half of the minimum (`equivalent`: the interval lies wholly outside the margin)
`inconclusive`    neither
`untestable`      no effect can be scored: too few items pass the gate, nothing was measured, all items are of one cluster, or
                  graphs are not exact

A claim of several parts holds if all its parts hold (intersection-union test). Its p is the largest p of a part; its verdict
and its numbers are those of the weakest part. One part that is not replicated refutes it, even if another cannot be tested.

A verdict is about the features that were found. `found` gives the share of the prompts on which all supernodes that it depends
on have members. It changes no verdict.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportReturnType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from biology.cases.claim_file import MINIMUM_N, UNREGISTERED, Claim
from biology.records import InputError
from biology.schemas import DECIDING
from biology.statistics import ALPHA, METHOD, holm
from biology.tables import stacked, table, validate_table
from biology.verdicts.measuring import Measured
from biology.verdicts.reasons import reason


@dataclass(frozen=True)
class Judgement:
    """The tables `verdicts` (one row per claim), `parts` (one row per part) and `clusters` (one row per part and cluster)."""

    verdicts: pd.DataFrame
    parts: pd.DataFrame
    clusters: pd.DataFrame


def with_thresholds(claims: Iterable[Claim], wanted: Iterable[str]) -> tuple[Claim, ...]:
    """The claims with a reader's own thresholds, given as `CLAIM=X` (all its parts) or `CLAIM/PART=X`.

    Raises InputError for another form, a number that is not positive, or an unknown part.
    """
    own: dict[str, float] = {}
    for text in wanted:
        name, _, number = text.rpartition("=")
        try:
            own[name] = float(number)
        except ValueError:
            raise InputError(f"--threshold takes CLAIM=X or CLAIM/PART=X with a number X, not '{text}'.") from None
        if not name or not 0 < own[name] < math.inf:
            raise InputError(f"--threshold takes CLAIM=X with a positive number X, not '{text}'.")
    changed = []
    for claim in claims:
        names = [part.name for part in claim.parts]
        for key in own:
            named, _, part = key.partition("/")
            if named == claim.id and part and part not in names:
                raise InputError(f"--threshold: claim '{claim.id}' has no part '{part}', only {', '.join(names)}.")
        minima = [own.get(f"{claim.id}/{part.name}", own.get(claim.id, part.minimum)) for part in claim.parts]
        parts = tuple(p.model_copy(update={"minimum": m}) for p, m in zip(claim.parts, minima, strict=True))
        changed.append(claim.model_copy(update={"parts": parts}))
    return tuple(changed)


def with_minimum(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims with `minimum_n` lowered to `MINIMUM_N` where it is larger, because prompt sets for other models are smaller."""
    return tuple(claim.model_copy(update={"minimum_n": min(claim.minimum_n, MINIMUM_N)}) for claim in claims)


def judge_all(measured: Sequence[Measured]) -> Judgement:
    """Verdicts on all claims of one model and transcoder set. All cases are judged together, as Holm's correction spans
    them."""
    families: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        families.setdefault((one.meta.case, one.claim.id), []).append(one)
    if len({(one.meta.model, one.meta.transcoders, one.meta.seed) for one in measured}) > 1:
        raise InputError("claims must be judged one model at a time: Holm's family is one model's claims.")
    # an intersection-union test is as significant as its least significant part
    raw = {name: _largest_p(parts) for name, parts in families.items() if parts[0].untestable != UNREGISTERED}
    adjusted = holm(raw)
    verdict_rows, part_rows = [], []
    for name, parts in families.items():

        def corrected(p: float, name: tuple[str, str] = name) -> float:
            return math.nan if math.isnan(p) else holm(raw | {name: p})[name]

        # a part is judged by the Holm correction of its own p; the largest of these is the claim's
        holm_p = [corrected(part.p) for part in parts]
        verdicts = [part_verdict(part, p) for part, p in zip(parts, holm_p, strict=True)]
        reasons = [
            reason(part, p, corrected(part.smallest_p), verdict)
            for part, p, verdict in zip(parts, holm_p, verdicts, strict=True)
        ]
        weakest = min(range(len(parts)), key=lambda i: (DECIDING.index(verdicts[i]), _margin(parts[i])))
        binding, meta = parts[weakest], parts[weakest].meta
        prefix = f"part '{binding.part.name}' decides: " if len(parts) > 1 else ""
        sentence = prefix + reasons[weakest]
        verdict_rows.append(
            {
                "claim": binding.claim.id, "case": meta.case, "model": meta.model, "transcoders": meta.transcoders,
                "seed": meta.seed, "verdict": verdicts[weakest], "statistic": binding.statistic, "low": binding.low,
                "high": binding.high, "threshold": binding.part.minimum, "control": binding.part.control,
                "p": math.nan if binding.untestable else adjusted[name], "n": binding.n,
                "found": binding.found.share, "method": METHOD, "amendments": len(binding.claim.amended),
                "reason": sentence[0].upper() + sentence[1:] + ".",
            }
        )  # fmt: skip
        for one, p, verdict, why in zip(parts, holm_p, verdicts, reasons, strict=True):
            part_rows.append(
                {
                    "claim": one.claim.id, "case": meta.case, "part": one.part.name, "verdict": verdict,
                    "experiment": one.part.experiment, "outcome": one.part.outcome, "strength": one.strength,
                    "control": one.part.control, "direction": one.part.direction, "threshold": one.part.minimum,
                    "statistic": one.statistic, "low": one.low, "high": one.high, "effect": one.effect,
                    "control_mean": one.control, "p": one.p, "p_holm": p, "n": one.n, "found": one.found.share,
                    "checks": "; ".join(map(str, one.checks)),
                    "checks_hold": all(check.holds for check in one.checks), "clusters": one.clusters, "gate": one.claim.gate,
                    "passed": one.passed, "attempted": one.attempted, "reason": why[0].upper() + why[1:] + ".",
                }
            )  # fmt: skip
    return Judgement(table("verdicts", verdict_rows), table("parts", part_rows), _clusters(measured))


def _clusters(measured: Sequence[Measured]) -> pd.DataFrame:
    """Means of every cluster, from which statistic, interval and p of each part can be recomputed."""
    frames = [table("clusters", [])]
    for one in measured:
        if one.scores is None or one.untestable:
            continue
        groups = one.scores.groupby("cluster", sort=True)
        means = groups[["effect", "control", "score"]].mean().assign(items=groups.size()).reset_index()
        frames.append(means.assign(case=one.meta.case, claim=one.claim.id, part=one.part.name))
    return validate_table(stacked(frames), "clusters")


def _largest_p(parts: Sequence[Measured]) -> float:
    """The p of an intersection-union test: the largest of its parts. NaN if a part is untestable."""
    return math.nan if any(part.untestable for part in parts) else max(part.p for part in parts)


def part_verdict(part: Measured, p_holm: float) -> str:
    """The verdict on one part, given the Holm-corrected p of its claim."""
    if part.untestable:
        return "untestable"
    return rule(
        part.part.direction, part.part.minimum, part.statistic, part.low, part.high, p_holm,
        all(check.holds for check in part.checks),
    )  # fmt: skip


def rule(
    direction: str, minimum: float, statistic: float, low: float, high: float, p_holm: float, checks_hold: bool
) -> str:
    """The verdict on a measured part, by the rule in this module's docstring."""
    if direction == "equivalent":
        absent = low > minimum or high < -minimum
        shown = -minimum <= low and high <= minimum
    else:
        absent = high < minimum / 2
        shown = statistic >= minimum and low > minimum / 2
    if absent:
        return "not replicated"
    return "replicated" if shown and p_holm < ALPHA and checks_hold else "inconclusive"


def _margin(part: Measured) -> float:
    """Distance of a part from its threshold towards the claim, in units of the threshold; orders parts of equal verdict."""
    if part.untestable:
        return 0.0
    if part.part.direction == "equivalent":
        return part.part.minimum / max(abs(part.low), abs(part.high), 1e-12)
    return part.statistic / part.part.minimum
