"""Verdicts: is a claim of the paper borne out on this model, with these transcoders?

Statistic, control and threshold of a claim are registered before the run (`claim_file.Claim`); this module only computes.
An item's score is its effect minus the mean of its control draws, turned so that the claimed direction is positive.
Scores are averaged within clusters (a state, a rhyme family ...), and all that follows is about clusters, because items
of one cluster share a mechanism and are no independent witnesses:

* a one-sided sign-flip permutation test of "the mean score is not above zero" (exact where enumeration is cheaper than
  the draws); for `equivalent`, the larger p of the two one-sided tests of "the score lies outside the margin";
* a percentile bootstrap interval (95 %) of the mean;
* Holm's correction over all registered claims of one model and transcoder set; a claim that is not registered yet is
  untestable and does not count.

`replicated`      estimate >= minimum, lower bound > half of it, Holm p < 0.01, and all ratios and ceilings hold
                  (`equivalent`: the interval lies within the margin, Holm p < 0.01, and the ceilings hold)
`not replicated`  upper bound < half of the minimum (`equivalent`: the interval lies wholly outside the margin)
`inconclusive`    neither
`untestable`      no effect can be scored: too few items pass the gate, nothing was measured, or graphs are not exact

A claim of several parts holds if all of them do (intersection-union test): its p is the largest of theirs, its verdict
and its numbers are the weakest part's. One part that is not replicated refutes it, also where another cannot be tested.

A supernode that no member of is active on a prompt has nothing to lose there: an outcome that watches it counts as unchanged,
which speaks against a claim that it falls or rises. For `equivalent` it would speak for the claim, so there the prompt is left
out. A specificity ratio compares like with like: the score of the effect arm over
the score of a control arm, both minus the same control. It is infinite where the control arm's score is not positive,
since then that arm shows nothing of the effect.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false, reportReturnType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from biology.claim_file import UNREGISTERED, Claim, Part
from biology.config import InputError, StatisticsConfig
from biology.measures import unchanged
from biology.statistics import bootstrap_interval, generator, holm, resamples, sign_flip_p, signs
from biology.tables import DECIDING, stacked, table, validate_table

ALPHA = 0.01
"""Largest Holm-corrected p of a replicated claim."""
EXACT = 1e-5
"""Largest row residual of a float32 graph whose numbers may be judged (incoming edges + bias = pre-activation)."""
NO_PART = Part(name="none", experiment="none", outcome="none", control="none", direction="increase", minimum=1.0)
"""Stands in the tables for a claim that no part can test."""
SIGN = {"increase": 1.0, "decrease": -1.0, "equivalent": 1.0}


@dataclass(frozen=True)
class Meta:
    """What the tables of one case were measured on."""

    case: str
    model: str
    transcoders: str
    seed: int = 0
    strengths: Mapping[str, float] = field(default_factory=dict)
    """Strength at which each experiment is judged, fixed on dev items; may be left out where only one was run."""
    row_residual: float | None = None
    """Worst row residual of the graphs that the numbers rest on."""
    scope: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Levels of factors that experiments are restricted to (`experiments.Measurement.only`); other items are not attempted."""


@dataclass(frozen=True)
class Check:
    """A control arm's mean against what the claim allows: `value` is a ratio (specificity) or a mean (ceiling)."""

    kind: str
    arm: str
    value: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.kind == "ratio" else self.value <= self.bound

    def __str__(self) -> str:
        word = {"ratio": "at least", "mean": "at most"}[self.kind]
        return f"{self.arm} {self.kind} {_number(self.value)} ({word} {_number(self.bound)} registered)"


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
    """Why nothing can be judged; empty if it can."""
    scores: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    """Items as `item_scores` gives them."""


@dataclass(frozen=True)
class Judgement:
    """The tables `verdicts` (a row a claim), `parts` (a row a part) and `clusters` (a row a part and cluster)."""

    verdicts: pd.DataFrame
    parts: pd.DataFrame
    clusters: pd.DataFrame


def estimate(part: Part, scores: np.ndarray, flips: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, lower bound, upper bound and p, each [k], of cluster scores [cluster, k] by the rule of a part."""
    low, high = bootstrap_interval(scores, counts)
    if part.direction == "equivalent":
        p = np.maximum(sign_flip_p(part.minimum - scores, flips), sign_flip_p(part.minimum + scores, flips))
    else:
        p = sign_flip_p(scores, flips)
    return scores.mean(0), low, high, p


def with_thresholds(claims: Iterable[Claim], wanted: Iterable[str]) -> tuple[Claim, ...]:
    """The claims with a reader's own thresholds, given as `CLAIM=X` (all its parts) or `CLAIM/PART=X`.

    Raises InputError for what is no such text, no positive number, or no part of a claim that is there.
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


def with_minimum(claims: Iterable[Claim], most: int) -> tuple[Claim, ...]:
    """The claims, none of which needs more than `most` items: prompt sets for models of others are smaller."""
    return tuple(claim.model_copy(update={"minimum_n": min(claim.minimum_n, most)}) for claim in claims)


# --------------------------------------------------------------------------------------------------------- measuring


def measure(
    claims: Iterable[Claim],
    evidence: pd.DataFrame,
    prompts: pd.DataFrame,
    meta: Meta,
    settings: StatisticsConfig | None = None,
) -> tuple[Measured, ...]:
    """Every part of every claim of one case, measured on held-out items with role `score` that pass the claim's gate.

    Raises `InputError` where the tables contradict each other or lack what a claim needs (naming claim, part and item).
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
    return tuple(_measure_part(claim, part, evidence, heldout, meta, settings) for claim, part in pairs)


def _measure_part(
    claim: Claim, part: Part, evidence: pd.DataFrame, heldout: pd.DataFrame, meta: Meta, settings: StatisticsConfig
) -> Measured:
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
        raise InputError(f"{where}: gate '{claim.gate}' is no column of true and false in table 'prompts'.")
    passing = heldout.loc[heldout[claim.gate], "item"]
    result = Measured(claim, part, meta, passed=len(passing), attempted=len(heldout))
    gate = f"{result.passed} of {result.attempted} held-out items pass the gate '{claim.gate}'"
    if meta.row_residual is not None and not meta.row_residual <= EXACT:
        reason = f"the exactness gate fails: worst row residual {_number(meta.row_residual)}, above {_number(EXACT)}"
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
        found = ", ".join(sorted(set(rows["outcome"])))
        raise InputError(f"{where}: experiment '{part.experiment}' has no outcome '{part.outcome}', only {found}.")
    strength = _strength(where, part, rows, meta)
    scores = item_scores(part, rows, strength, settings.control_draws, where)
    result = replace(result, n=len(scores), clusters=scores["cluster"].nunique(), strength=strength)
    if len(scores) < claim.minimum_n:
        reason = f"experiment '{part.experiment}' scored {len(scores)} items ({gate})"
        return replace(result, untestable=f"{reason}, and the claim needs {claim.minimum_n}")
    means = scores.groupby("cluster", sort=True).mean(numeric_only=True)
    columns = means[["score"]].to_numpy()
    flips = signs(len(means), settings.permutations, generator(settings.seed, claim.id, part.name, "permutation"))
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
            f"{where}: experiment '{part.experiment}' is to be judged at one strength fixed on dev items; "
            f"fixed: {chosen:g}, measured: {listed}."
        )
    return chosen


def with_absent(part: Part, rows: pd.DataFrame) -> pd.DataFrame:
    """Evidence of an experiment, in which prompts that have no member of the watched supernode count as unchanged."""
    value = unchanged(part.outcome)
    if value is None or part.direction == "equivalent":
        return rows
    there = rows.loc[(rows["outcome"] == part.outcome) & (rows["arm"] == "effect"), "item"]
    rest = rows[~rows["item"].isin(there)].drop_duplicates(["item", "arm", "draw", "strength"])
    return pd.concat([rows, rest.assign(outcome=part.outcome, value=value)], ignore_index=True)


def item_scores(part: Part, rows: pd.DataFrame, strength: float, control_draws: int, where: str) -> pd.DataFrame:
    """One row an item: cluster, effect, control (mean of its draws), score, and a column for each further arm.

    Score and arms are minus the control and positive in the claimed direction; `mean_<arm>` (ceilings) are turned only.
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


def dev_strength(evidence: pd.DataFrame, experiment: str, outcome: str, direction: str = "increase") -> float:
    """The strength with the largest mean effect minus match on *dev* items; the smallest of equals. For `Meta`."""
    rows = evidence[(evidence["experiment"] == experiment) & (evidence["outcome"] == outcome)]
    rows = rows[rows["split"] == "dev"]
    arms = rows[rows["arm"].isin(["effect", "match"])].groupby(["strength", "arm"])["value"].mean().unstack("arm")
    if "effect" not in arms or arms["effect"].isna().all():
        raise InputError(f"experiment '{experiment}' has no dev items with outcome '{outcome}' to fix a strength on.")
    score = SIGN[direction] * (arms["effect"] - (arms["match"] if "match" in arms else 0.0))
    best = score[score >= score.max() - 1e-12].index
    return float(min(best, key=lambda strength: (abs(strength), strength)))


# ----------------------------------------------------------------------------------------------------------- judging


def judge_all(measured: Sequence[Measured]) -> Judgement:
    """Verdicts of all claims of one model and transcoder set (all cases at once: together they are Holm's family)."""
    families: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        families.setdefault((one.meta.case, one.claim.id), []).append(one)
    if len({(one.meta.model, one.meta.transcoders, one.meta.seed) for one in measured}) > 1:
        raise InputError(
            "claims of several models are judged one model at a time: Holm's family is one model's claims."
        )
    # an intersection-union test is as significant as its least significant part
    raw = {name: _largest_p(parts) for name, parts in families.items() if parts[0].untestable != UNREGISTERED}
    adjusted = holm(raw)
    verdict_rows, part_rows = [], []
    for name, parts in families.items():
        # a part is judged by what Holm's correction would make of its own p; the largest of these is the claim's
        holm_p = [math.nan if part.untestable else holm(raw | {name: part.p})[name] for part in parts]
        verdicts = [part_verdict(part, p) for part, p in zip(parts, holm_p, strict=True)]
        reasons = [_reason(part, p, verdict) for part, p, verdict in zip(parts, holm_p, verdicts, strict=True)]
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
                "reason": sentence[0].upper() + sentence[1:] + ".",
            }
        )  # fmt: skip
        for one, p_holm, verdict, reason in zip(parts, holm_p, verdicts, reasons, strict=True):
            part_rows.append(
                {
                    "claim": one.claim.id, "case": meta.case, "part": one.part.name, "verdict": verdict,
                    "experiment": one.part.experiment, "outcome": one.part.outcome, "strength": one.strength,
                    "control": one.part.control, "direction": one.part.direction, "threshold": one.part.minimum,
                    "statistic": one.statistic, "low": one.low, "high": one.high, "effect": one.effect,
                    "control_mean": one.control, "p": one.p, "p_holm": p_holm, "n": one.n,
                    "checks": "; ".join(map(str, one.checks)),
                    "checks_hold": all(check.holds for check in one.checks), "clusters": one.clusters, "gate": one.claim.gate,
                    "passed": one.passed, "attempted": one.attempted, "reason": reason[0].upper() + reason[1:] + ".",
                }
            )  # fmt: skip
    return Judgement(table("verdicts", verdict_rows), table("parts", part_rows), _clusters(measured))


def _clusters(measured: Sequence[Measured]) -> pd.DataFrame:
    """Means of every cluster, from which statistic, interval and p of each part can be computed again."""
    frames = [table("clusters", [])]
    for one in measured:
        if one.scores is None or one.untestable:
            continue
        groups = one.scores.groupby("cluster", sort=True)
        means = groups[["effect", "control", "score"]].mean().assign(items=groups.size()).reset_index()
        frames.append(means.assign(case=one.meta.case, claim=one.claim.id, part=one.part.name))
    return validate_table(stacked(frames), "clusters")


def _largest_p(parts: Sequence[Measured]) -> float:
    """The p of an intersection-union test: that of its least significant part. NaN if a part is untestable."""
    return math.nan if any(part.untestable for part in parts) else max(part.p for part in parts)


def judge(
    claims: Iterable[Claim],
    evidence: pd.DataFrame,
    prompts: pd.DataFrame,
    meta: Meta,
    settings: StatisticsConfig | None = None,
) -> pd.DataFrame:
    """The table `verdicts` of a model that meets a single case; with several cases use `measure` and `judge_all`."""
    return judge_all(measure(claims, evidence, prompts, meta, settings)).verdicts


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
    """The verdict on a measured part, by the rule in the head of this module."""
    if direction == "equivalent":
        absent = low > minimum or high < -minimum
        shown = -minimum <= low and high <= minimum
    else:
        absent = high < minimum / 2
        shown = statistic >= minimum and low > minimum / 2
    if absent:
        return "not replicated"
    return "replicated" if shown and p_holm < ALPHA and checks_hold else "inconclusive"


def _failures(part: Measured, p_holm: float) -> list[str]:
    minimum, failures = part.part.minimum, []
    if part.part.direction == "equivalent":
        if not (-minimum <= part.low and part.high <= minimum):
            failures.append(f"the interval reaches beyond the margin ±{_number(minimum)}")
    else:
        if not part.statistic >= minimum:
            failures.append(f"the estimate is below the registered minimum {_number(minimum)}")
        if not part.low > minimum / 2:
            failures.append(f"the lower bound is not above half the minimum ({_number(minimum / 2)})")
    if not p_holm < ALPHA:
        few = f" ({part.clusters} clusters allow no smaller p than {_number(part.smallest_p)})"
        failures.append(f"Holm p {_number(p_holm)} is not below {ALPHA:g}" + (few if part.smallest_p >= ALPHA else ""))
    return failures + [f"{check} fails" for check in part.checks if not check.holds]


def _margin(part: Measured) -> float:
    """How far a part is on the claim's side of its threshold, in units of it; orders parts of equal verdict."""
    if part.untestable:
        return 0.0
    if part.part.direction == "equivalent":
        return part.part.minimum / max(abs(part.low), abs(part.high), 1e-12)
    return part.statistic / part.part.minimum


def _reason(part: Measured, p_holm: float, verdict: str) -> str:
    if part.untestable:
        return part.untestable
    stated, minimum = part.part, _number(part.part.minimum)
    at = "" if part.strength == 1 else f" (M = {part.strength:g})"
    against = " alone" if stated.control == "none" else f" minus {stated.control}"
    turned = ", counted as a decrease" if stated.direction == "decrease" else ""
    measured = (
        f"held-out {stated.outcome} of {stated.experiment}{at}, effect{against}{turned}, is {_number(part.statistic)} "
        f"[{_number(part.low)}, {_number(part.high)}] over {part.n} items in {part.clusters} clusters"
    )
    checks = "".join(f"; {check}" for check in part.checks)
    if verdict == "inconclusive":
        return f"{measured}, but " + ", and ".join(_failures(part, p_holm))
    if stated.direction == "equivalent":
        side = "inside" if verdict == "replicated" else "outside"
        return f"{measured}, and the whole interval lies {side} the margin ±{minimum}, Holm p {_number(p_holm)}{checks}"
    if verdict == "not replicated":
        half = _number(part.part.minimum / 2)
        return f"{measured}, and the whole interval lies below {half}, half of the registered minimum {minimum}"
    return f"{measured}, at least the registered minimum {minimum}, Holm p {_number(p_holm)}{checks}"


def _number(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.3g}"
