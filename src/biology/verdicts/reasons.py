"""The reason for a verdict, in one sentence with its numbers."""

from __future__ import annotations

import re

from biology.statistics import ALPHA
from biology.verdicts.measuring import Measured
from biology.wording import plain


def reason(part: Measured, p_holm: float, smallest: float, verdict: str) -> str:
    """Why a part has its verdict. `smallest` is the Holm-corrected smallest p that its clusters allow."""
    told = _outcome(part, p_holm, verdict)
    return "; ".join([told, *_found(part), *_few_clusters(part, smallest)])


LACKS = {
    "effect": r"estimate is below|lower bound is not above|interval lies below",
    "sameness": r"reaches beyond the margin|interval lies outside the margin",
    "control": r" fails\b",
    "prompts": r"and the claim needs \d+",
}
"""What a claim lacked that was not replicated, and how its reason says so: an effect beyond its control that is large enough, a difference that
is small enough, a control that does little enough, or prompts enough. If it lacked none of these, it lacked evidence: clusters enough."""


def lacks(told: str) -> list[str]:
    """The words of `LACKS` that the reason of a claim that was not replicated gives; `evidence` if it gives none."""
    return [word for word, says in LACKS.items() if re.search(says, told)] or ["evidence"]


def _outcome(part: Measured, p_holm: float, verdict: str) -> str:
    if part.untestable:
        return part.untestable
    stated, minimum = part.part, plain(part.part.minimum)
    at = "" if part.strength == 1 else f" (M = {part.strength:g})"
    against = " alone" if stated.control == "none" else f" minus {stated.control}"
    turned = ", counted as a decrease" if stated.direction == "decrease" else ""
    measured = (
        f"held-out {stated.outcome} of {stated.experiment}{at}, effect{against}{turned}, is {plain(part.statistic)} "
        f"[{plain(part.low)}, {plain(part.high)}] over {part.n} items in {part.clusters} clusters"
    )
    checks = "".join(f"; {check}" for check in part.checks)
    if verdict == "inconclusive":
        return f"{measured}, but " + ", and ".join(_failures(part, p_holm))
    if stated.direction == "equivalent":
        side = "inside" if verdict == "replicated" else "outside"
        return f"{measured}, and the whole interval lies {side} the margin ±{minimum}, Holm p {plain(p_holm)}{checks}"
    if verdict == "not replicated":
        half = plain(part.part.minimum / 2)
        return f"{measured}, and the whole interval lies below {half}, half of the registered minimum {minimum}"
    return f"{measured}, at least the registered minimum {minimum}, Holm p {plain(p_holm)}{checks}"


def _failures(part: Measured, p_holm: float) -> list[str]:
    minimum, failures = part.part.minimum, []
    if part.part.direction == "equivalent":
        if not (-minimum <= part.low and part.high <= minimum):
            failures.append(f"the interval reaches beyond the margin ±{plain(minimum)}")
    else:
        if not part.statistic >= minimum:
            failures.append(f"the estimate is below the registered minimum {plain(minimum)}")
        if not part.low > minimum / 2:
            failures.append(f"the lower bound is not above half the minimum ({plain(minimum / 2)})")
    if not p_holm < ALPHA:
        failures.append(f"Holm p {plain(p_holm)} is not below {ALPHA:g}")
    return failures + [f"{check} fails" for check in part.checks if not check.holds]


def _found(part: Measured) -> list[str]:
    """Says if almost nothing was found to hold or watch."""
    if not part.found.too_little:
        return []
    rests_on = " and ".join(f"'{name}'" for name in part.found.supernodes)
    return [
        f"but only {part.found.share:.0%} of the {part.passed} prompts have members of {rests_on}: where nothing is found, "
        "nothing is held or seen"
    ]


def _few_clusters(part: Measured, smallest: float) -> list[str]:
    """Says if the clusters are too few to pass Holm's correction, whatever is measured."""
    if part.untestable or smallest < ALPHA:
        return []
    few = f"{part.clusters} clusters" if part.smallest_p == 0.5**part.clusters else "so few sign flips"
    return [f"{few} allow no smaller Holm p than {plain(smallest)}, so nothing could be replicated on them"]
