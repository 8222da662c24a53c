"""Parts of claims in plain sentences: the intervention, its effect compared with its control, and what decided the verdict.

The numbers are those of table `parts`. Shares and probabilities are given in per cent, differences between them in points.
Supernodes have their titles on the case's own prompt, and "at -1x" means: at minus its activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from biology.arms import CONTROLS
from biology.cases.case import Case, called
from biology.cases.experiments import (
    Attention,
    Census,
    Classes,
    Contrast,
    Crossover,
    Graph,
    Reuse,
    Scale,
    Separation,
    Sharing,
    Signs,
    Wiring,
)
from biology.cases.measurement import Measurement
from biology.cases.measures import Outcome
from biology.cases.perturbations import Edit, Exchange, Inhibit, Inject, Perturbation, Swap
from biology.statistics import ALPHA
from biology.verdicts.measuring import Check
from biology.wording import number, percent, points

Row = Mapping[str, Any]
"""A row of table `parts`."""


@dataclass(frozen=True)
class Finding:
    """One part of a claim, in words."""

    sentence: str
    """The intervention and its effect, compared with its control."""
    difference: str
    """The judged number with its interval, and the number needed."""
    short: str
    """What decided, in a few words: `36 points, 30 needed`."""
    checks: tuple[tuple[str, bool], ...]
    """Further conditions, and whether they hold."""


def unit(outcome: str) -> str:
    """`%` for outcomes in per cent and points, otherwise the word that follows a number."""
    asked = Outcome(outcome)
    if asked.form.about == "outcome":
        return unit(asked.arguments[0])
    if asked.form.unit.startswith(("0 or 1", "share", "probability", "ratio")):
        return "%"
    return {"logits": " logits", "nats": " nats", "standard deviations": " standard deviations"}.get(
        asked.form.unit, ""
    )


def printed(value: float, outcome: str) -> str:
    """A mean of an outcome, ready to print."""
    word = unit(outcome)
    return percent(value) if word == "%" else number(value) + word


def change(value: float, outcome: str) -> str:
    """A difference between two means of an outcome, ready to print; for shares in points."""
    word = unit(outcome)
    return f"{points(value)} points" if word == "%" else number(value) + word


def names(case: Case) -> dict[str, str]:
    """Titles, in quotes, of a case's supernodes on its own prompt, the first that it names."""
    first = next(iter(case.prompts.values()), None)
    values = {**first.factors, "answer": first.answer.strip()} if first else {}
    return {name: f"“{called(case, name, values)}”" for name in case.supernodes}


def finding(case: Case, part: Row) -> Finding:
    """A part of a claim, in words."""
    if part["verdict"] == "untestable" or part["experiment"] not in case.experiments:
        return Finding(part["reason"], "", "cannot be asked", ())
    checks = tuple(_check(Check.read(text), part["outcome"]) for text in filter(None, part["checks"].split("; ")))
    return Finding(_sentence(case, part), _difference(part), _short(part, checks), checks)


def _sentence(case: Case, part: Row) -> str:
    experiment, outcome = case.experiments[part["experiment"]], Outcome(part["outcome"])
    called_here = names(case)
    shown, form = printed, outcome.form
    if form.about == "outcome":  # the first experiment minus the second
        shown = change if form.count[1] > 1 else _more
        form = form if form.count[1] > 1 else Outcome(outcome.arguments[0]).form
        outcome = Outcome(outcome.arguments[0])
    about = [called_here[one] if form.about == "supernode" else one.replace("_", " ") for one in outcome.arguments]
    if form.separator == "+" and about:
        about = [" and ".join(about)]
    clause = form.told.format(
        *about, value=shown(part["effect"], outcome),
        through=called_here.get(getattr(experiment, "through", ""), ""),
        source=str(getattr(experiment, "source", "")).replace("_", " "),
    )  # fmt: skip
    done = f"{doing(experiment, part['strength'], called_here)}, {clause}"
    if part["control"] == "none":
        return f"{done}."
    return f"{done}; {CONTROLS[part['control']].beside}, {shown(part['control_mean'], outcome)}."


def _more(value: float, outcome: str) -> str:
    return f"{change(value, outcome)} more"


def doing(experiment: Measurement, strength: float, called_here: Mapping[str, str]) -> str:
    """What an experiment does to a prompt, or where it looks, as the beginning of a sentence."""

    def name(supernode: str) -> str:
        return called_here.get(supernode, supernode.replace("_", " "))

    match experiment:
        case Inhibit():
            told = f"With {name(experiment.inhibit)} {_held(strength)}"
        case Inject():
            told = f"With the donor's {name(experiment.inject)} {_held(strength)}"
        case Swap():
            told = f"With {name(experiment.inhibit)} {_held(-experiment.inhibit_share * strength)} and the donor's {_held(strength)}"
        case Edit():
            told = f"With the features of {name(experiment.edit)} {_held(strength)} wherever they are active"
        case Exchange():
            told = f"With the residual stream {experiment.at.meaning} exchanged for the donor's"
        case Graph():
            return "In the attribution graphs"
        case Census():
            return f"Where {name(experiment.through)} is looked for"
        case Attention():
            return f"In the heads that attend {experiment.query.meaning} to what stands {experiment.key.meaning}"
        case Signs():
            return "Where the signs of the graphs foretell what inhibitions do"
        case Wiring():
            return f"Between {name(experiment.of[0])} and {name(experiment.of[1])}"
        case Reuse():
            return f"Of {name(experiment.of[0])}"
        case Sharing():
            of = " and ".join(name(one) for one in experiment.of)
            return f"Of {of}" if of else "Between translations"
        case Contrast():
            taken = f"{percent(experiment.share)} of " if experiment.share != 1 else ""
            first, second = (one.replace("_", " ") for one in experiment.of)
            return f"In “{first}” less {taken}“{second}”"
        case Crossover():
            first = experiment.of[0].replace("_", " ")
            return f"In “{first}” for each {experiment.by.replace('_', ' ')}"
        case Separation():
            levels = [" and ".join(one.values()).replace("_", " ") for one in (experiment.only, experiment.against)]
            return f"By “{experiment.of[0].replace('_', ' ')}”, prompts of {levels[0]} beside those of {levels[1]}"
        case Classes():
            return "At the last token"
        case Scale():
            return "Beside a smaller model"
        case _:
            return "On the scored prompts"
    if isinstance(experiment, Perturbation) and experiment.cut_direct:
        told += f", {'its direct path' if experiment.injected is None else 'their direct paths'} to the output cut"
    if experiment.line is not None and experiment.line.hidden:
        told += ", all before the line out of sight"
    if experiment.line is not None and experiment.line.forced:
        told += ", the words on the way as they were"
    return told


def _held(strength: float) -> str:
    return f"at {number(strength)}×" if strength else "switched off"


def _difference(part: Row) -> str:
    outcome, needed = part["outcome"], part["threshold"]
    shown = _plainly(part)
    statistic, threshold = _apart(part["statistic"], needed, outcome, shown)
    measured, wanted = f"{statistic} [{_ends(part)}]", f"needed: {threshold} at least"
    if part["direction"] == "equivalent":
        return f"That is a change of {measured}; allowed: {threshold} up or down."
    if shown is printed:
        return f"The interval is {_ends(part)}; {wanted}."
    if part["statistic"] < 0:
        return f"That is {measured}, against the claim; {wanted}."
    return f"That is a {'fall' if part['direction'] == 'decrease' else 'difference'} of {measured}; {wanted}."


def _plainly(part: Row) -> Callable[[float, str], str]:
    """Whether a part is judged by the mean itself, not by a difference."""
    itself = part["control"] == "none" and part["direction"] == "increase"
    return printed if itself and Outcome(part["outcome"]).form.about != "outcome" else change


def _apart(
    measured: float, needed: float, outcome: str, shown: Callable[[float, str], str], bare: bool = False
) -> tuple[str, str]:
    """Both numbers ready to print, with one more digit if they would look the same."""
    first, second = shown(measured, outcome), shown(needed, outcome)
    if bare and shown is change:
        second = points(needed) if unit(outcome) == "%" else number(needed)
    if measured != needed and first == shown(needed, outcome):
        scale, word = (100, "%" if shown is printed else " points") if unit(outcome) == "%" else (1, unit(outcome))
        digits = next(n for n in range(3, 17) if number(scale * measured, n) != number(scale * needed, n))
        first = number(scale * measured, digits) + word
    return first, second


def _ends(part: Row) -> str:
    shown = number if unit(part["outcome"]) != "%" else percent if _plainly(part) is printed else points
    return f"{shown(part['low'])} to {shown(part['high'])}"


def _short(part: Row, checks: tuple[tuple[str, bool], ...]) -> str:
    """What decided: the condition that fails, or the measured number and the number needed."""
    equivalent = part["direction"] == "equivalent"
    first, second = _apart(part["statistic"], part["threshold"], part["outcome"], _plainly(part), bare=True)
    told = f"moved by {first}, ±{second} allowed" if equivalent else f"{first}, {second} needed"
    if part["verdict"] != "inconclusive":
        return told
    failed = [text for text, holds in checks if not holds]
    if not equivalent and part["statistic"] < part["threshold"]:
        return "; ".join([told, *failed])
    if failed:
        return "; ".join(failed)
    if not part["p_holm"] < ALPHA:
        return f"too few clusters agree: p {number(part['p_holm'], 2)}, below {number(ALPHA)} needed"
    return f"{told}, but too uncertain: {_ends(part)}"


def _check(check: Check, outcome: str) -> tuple[str, bool]:
    beside, ratio = CONTROLS[check.arm].beside, f"ratio {number(check.value)}, {number(check.bound)} needed"
    if check.kind == "mean":
        told = f"{printed(check.value, outcome)} {beside}, at most {printed(check.bound, outcome)} allowed"
    elif math.isinf(check.value):
        told = f"nothing of it {beside}"
    elif check.holds:
        told = f"more than {beside}: {ratio}"
    else:
        told = f"{'no better' if check.value <= 1.05 else 'too little more'} than {beside}: {ratio}"
    return told, check.holds
