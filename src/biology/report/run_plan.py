"""The lines of `make figures`: what a run of everything will do and how long it takes, how far it is, and its results.

Times are for one core and were measured on elegans, case by case (`benchmarks/costs.json`). They hold for a model of its
size; other models have none.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from biology.cases.case import discover_cases
from biology.config import Config
from biology.tables import read_table
from biology.wording import MARKS

COSTS = Path("benchmarks/costs.json")
LAST_TABLE = "evidence.parquet"
SHORT = 5.0
"""Seconds of a stage that was not measured: most of these draw a figure or write a page."""
STARTED = re.compile(r"Job (\d+): (.*)")
FINISHED = re.compile(r"Finished jobid: (\d+) \(Rule: (.*)\)")
COUNTED = re.compile(r"(\S+) +(\d+)")
CHATTER = re.compile(
    r"\s*$|\[\w{3} \w{3} +\d+ [\d:]+ \d+\]$|Select jobs to execute|Execute \d+ jobs|\d+ of \d+ steps|Using |Assuming |Building DAG"
    r"|Provided |Rules claiming more threads|job +count|-+ +-+$"
)
"""What Snakemake says of its own working."""


@dataclass(frozen=True)
class CaseRun:
    """A case on a model: whether its results exist, and the seconds of one core that they take (None if not measured)."""

    model: str
    case: str
    done: bool
    seconds: float | None
    perturbing: float = 0.0
    """Of these, the seconds of the stage `intervene`, which several cores may share."""


def case_runs(root: Path, config: Config, only: str | None = None) -> list[CaseRun]:
    """The parts of `figures/all`, one for each model and case, in the order of the configuration."""
    found = []
    measured = _measured(root)
    names = [name for name, entry in config.models.items() if entry.role == "model"] if only is None else [only]
    for name in names:
        entry = config.model(name)
        # elegans and models grown like it: the only ones of the measured size
        times = measured if entry.planted and not entry.neurons else {}
        for case in config.cases_of(name, discover_cases(root, entry.prompts)):
            page, table = root / f"reports/{name}/{case}.html", root / f"data/runs/{name}/{case}" / LAST_TABLE
            seconds, perturbing = times.get(case, (None, 0.0))
            found.append(CaseRun(name, case, page.is_file() and table.is_file(), seconds, perturbing))
    return found


def _measured(root: Path) -> dict[str, tuple[float, float]]:
    """Seconds of one core by case, in all and to perturb; {} if not measured."""
    path = root / COSTS
    if not path.is_file():
        return {}
    costs = json.loads(path.read_text(encoding="utf-8"))
    beside = (costs["load"] + costs["judge"]) / len(costs["cases"])
    seconds = {name: case["seconds"] for name, case in costs["cases"].items()}
    return {name: (sum(each.values()) + beside, each["intervene"]) for name, each in seconds.items()}


def plan_told(todo: list[CaseRun], cores: int) -> str:
    """What will be done, and how long it takes, in words."""
    left = [one for one in todo if not one.done]
    models = len({one.model for one in todo})
    lines = [f"Every figure, verdict and page: {len(todo)} cases on {models} {'model' if models == 1 else 'models'}."]
    for one in todo:
        time = "not measured" if one.seconds is None else f"{_minutes(one.seconds)} of one core"
        lines.append(f"  {one.model:<24} {one.case:<18} {'there' if one.done else f'to do, {time}'}")
    known = [(one.seconds, one.perturbing) for one in left if one.seconds is not None]
    if known:
        # a case is a chain of stages, of which one is shared by the cores that are left if each case has one; the longest case
        # sets the pace
        spare = max(1, cores // len(left))
        longest = max(seconds - perturbing * (1 - 1 / spare) for seconds, perturbing in known)
        shared = sum(seconds for seconds, _ in known) / max(1, min(cores, len(left)))
        some = "" if len(known) == len(left) else ", and what was not measured"
        lines.append(
            f"About {_minutes(max(longest, shared if spare == 1 else 0.0))} on {cores} {'core' if cores == 1 else 'cores'}{some}."
        )
    if left:
        lines.append("Stop it whenever you like: the same command goes on where it was.")
    else:
        lines.append("All of it is there; only what changed since is made again.")
    return "\n".join(lines)


def stage_seconds(root: Path) -> dict[str, float]:
    """Typical seconds of a stage of elegans, by its name: measured, and averaged over cases; {} if not measured."""
    path = root / COSTS
    if not path.is_file():
        return {}
    costs = json.loads(path.read_text(encoding="utf-8"))
    cases = [case["seconds"] for case in costs["cases"].values()]
    found = {stage: sum(case[stage] for case in cases) / len(cases) for stage in cases[0] if stage != "rest"}
    return found | {stage: costs[stage] for stage in ("load", "judge")}


@dataclass
class Progress:
    """Turns what Snakemake says into one line for each finished stage, with the time that is left.

    What it says of its own working is left out. All else, errors above all, stays as it is.
    """

    typical: Mapping[str, float]
    """Seconds of a stage, by its name."""
    cores: int
    clock: Callable[[], float] = time.monotonic
    began: float = -1.0
    in_table: bool = False
    left: Counter[str] = field(default_factory=Counter)
    """Stages that are still to finish, by name."""
    done: list[str] = field(default_factory=list)
    running: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Jobs by number: what they say of themselves, and when they began."""

    def line(self, text: str) -> str | None:
        """What to print for a line of Snakemake; None for nothing."""
        if text.startswith("Job stats:"):
            self.began, self.in_table = self.clock(), True
            self.left.clear()
            self.done.clear()
            return None
        if self.in_table and (counted := COUNTED.fullmatch(text.strip())):
            self.in_table = counted[1] != "total"
            self.left.update({counted[1]: int(counted[2])} if self.in_table else {})
            return None
        if started := STARTED.match(text):
            self.running[started[1]] = started[2], self.clock()
            return None
        if finished := FINISHED.match(text):
            return self._finished(*finished.groups())
        return None if CHATTER.match(text) else text

    def _finished(self, job: str, stage: str) -> str:
        now = self.clock()
        said, began = self.running.pop(job, (stage, now))
        self.left[stage] -= 1
        self.done.append(stage)
        total = len(self.done) + sum(self.left.values())
        took = f"{now - began:.0f} s" if now - began < 100 else _minutes(now - began)
        after = f"; about {_minutes(self.seconds_left(now))} left" if any(self.left.values()) else ""
        return f"{len(self.done):>{len(str(total))}} of {total}  {said}: {took}{after}"

    def seconds_left(self, now: float) -> float:
        """The time until all is done, at the pace so far: typical seconds of work a second, or one for each core at first."""
        work = sum(self.typical.get(stage, SHORT) * count for stage, count in self.left.items())
        begun = min(sum(now - began for _, began in self.running.values()), 0.9 * work)
        worked = sum(self.typical.get(stage, SHORT) for stage in self.done) + begun
        elapsed = now - self.began
        pace = worked / elapsed if elapsed >= 60 else self.cores
        return (work - begun) / max(pace, 1e-9)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def verdict_counts(root: Path, todo: list[CaseRun]) -> list[dict[str, object]]:
    """Numbers of claims by verdict: one row for each model and case that was judged."""
    rows = []
    for one in todo:
        path = root / "reports" / one.model / "verdicts.csv"
        if path.is_file():
            judged = read_table(path, "verdicts")
            found = list(judged.loc[judged["case"] == one.case, "verdict"])
            rows.append({"model": one.model, "case": one.case} | {word: found.count(word) for word in MARKS})
    return rows


def summary_told(rows: list[dict[str, object]]) -> str:
    """The results, and where to find them, in words."""
    if not rows:
        return "Nothing has been judged yet: make figures."
    lines = ["Verdicts on the claims:"]
    for row in rows:
        tally = "  ".join(f"{row[word]} {mark} {word}" for word, mark in MARKS.items() if row[word])
        lines.append(f"  {row['model']!s:<24} {row['case']!s:<18} {tally or 'not judged yet'}")
    lines += [
        "Read on:  reports/index.html (open it in a browser: every verdict leads to its evidence)",
        "          reports/<model>/verdicts.csv (the numbers), figures/<model>/<case>/ (the figures)",
        "In doubt: biology explain CASE; biology check CLAIM --model MODEL computes one claim anew",
    ]
    return "\n".join(lines)
