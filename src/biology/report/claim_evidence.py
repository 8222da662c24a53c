"""The evidence for one claim, ready to print: the reason for its verdict, its numbers, and how to compute them again.

Everything comes from tables; a template adds words and no numbers.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml

from biology.arms import CONTROLS
from biology.cases.case import Case
from biology.cases.claim_file import Claim, Part
from biology.cases.found_sites import with_found_sites
from biology.cases.positions import FOUND
from biology.config import StatisticsConfig
from biology.findings.comparisons import Comparison, comparisons
from biology.findings.faults import held_by, site_sentences
from biology.findings.sentences import finding, names, printed
from biology.statistics import bootstrap_interval, generator, resamples
from biology.tables import Tables
from biology.verdicts.thresholds import ThresholdSweep, threshold_sweep
from biology.wording import number

SHOWN = 8
"""Largest number of features listed in one place."""


@dataclass(frozen=True)
class Subject:
    """The tables by which claims were judged: those of one (model, case), and those of all the model's claims."""

    model: str
    case: Case
    tables: Tables
    parts: pd.DataFrame
    """Table `parts` of the model, all cases."""
    clusters: pd.DataFrame
    """Table `clusters` of the model."""
    family: Mapping[tuple[str, str], float]
    """`thresholds.family` of the parts."""
    statistics: StatisticsConfig
    discrimination: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Whether each claim discriminates, and why (`discrimination.py`)."""
    calibrated: Mapping[str, str] = field(default_factory=dict)
    """For each claim, what is known of its truth here, and its verdicts wherever it is known (`calibration.py`)."""
    site_parts: pd.DataFrame | None = None
    """Table `site_parts` of the model, if there is one (`faults.py`)."""
    folder: str = ""
    """Where its tables are, if not in `data/runs`."""

    def file(self, name: str) -> str:
        """Where a reader finds the table `name`: `evidence` of the case, or `parts` of the model."""
        run = f"data/runs/{self.model}" + (f"/{self.case.name}" if name == "evidence" else "")
        return f"{self.folder or run}/{name}.parquet".removeprefix("./")


def evidence_for(subject: Subject, claim: Claim, verdict: pd.Series) -> dict[str, Any]:
    """The contents of a claim's section of a page; `verdict` is its row of table `verdicts`."""
    rows = subject.parts
    rows = rows[(rows["case"] == subject.case.name) & (rows["claim"] == claim.id)]
    first = rows.iloc[0]
    parts = {part.name: part for part in claim.parts}
    made = [_part(subject, claim, parts.get(row["part"]), row) for _, row in rows.iterrows()]
    return {
        "claim": claim,
        "verdict": verdict["verdict"],
        "reason": verdict["reason"],
        "explored": claim.explores(subject.model),
        "decides": deciding(made, verdict["reason"]),
        "row": verdict.to_dict(),
        "discrimination": subject.discrimination.get(
            claim.id, {"discriminates": "unknown", "why": "No twin was judged."}
        ),
        "calibrated": subject.calibrated.get(claim.id, ""),
        "parts": made,
        "prompts": any(part["picture"] for part in made),
        "paged": not subject.folder,
        "results": subject.file("parts"),
        "passed": int(first["passed"]),
        "attempted": int(first["attempted"]),
        "rate": first["passed"] / first["attempted"] if first["attempted"] else math.nan,
        "expected": claim.expected.get(subject.model),
        "graphs": _graphs(subject, claim),
        "supernodes": _supernodes(subject, claim),
        "sites": _sites(subject, claim),
    }


def deciding(parts: Sequence[dict[str, Any]], reason: str) -> dict[str, Any]:
    """The part that decides the claim's verdict, as named in the verdict's reason."""
    return next((part for part in parts if reason.startswith(f"Part '{part['part']}' decides: ")), parts[0])


def control_words(control: str) -> str:
    """The name of a part's control on pages."""
    return "no control" if control == "none" else CONTROLS[control].words


def _part(subject: Subject, claim: Claim, part: Part | None, row: pd.Series) -> dict[str, Any]:
    """One part: its numbers in words, other measurements, its picture, the thresholds at which its verdict changes, and
    a query for its rows."""
    where = subject.clusters
    where = where[
        (where["case"] == row["case"]) & (where["claim"] == row["claim"]) & (where["part"] == row["part"])
    ].reset_index(drop=True)
    made = row.to_dict() | {"control_words": control_words(row["control"])}
    made |= {"told": finding(subject.case, made), "comparisons": _comparisons(subject, claim, made), "shown": ""}
    if row["verdict"] == "untestable" or part is None:
        return made | {"picture": None, "sweep": None, "query": ""}
    swept = threshold_sweep(row, where["score"].to_numpy(), subject.family, subject.statistics)
    return made | {
        "sweep": swept,
        "bands": bands(swept),
        "picture": picture(row, where, subject.statistics),
        "query": _query(subject, row),
        "shown": printed(row["effect"], row["outcome"]),
        "place": claim.parts.index(part),
        "key": claim.id if len(claim.parts) == 1 else f"{claim.id}/{part.name}",
    }


def _comparisons(subject: Subject, claim: Claim, row: dict[str, Any]) -> list[Comparison]:
    prompts = subject.tables["prompts"]
    scored = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    passing = set(scored.loc[scored[claim.gate], "item"]) if claim.gate in scored else set()
    judged = {part.experiment for part in claim.parts}
    return comparisons(subject.case, subject.tables["evidence"], passing, row, judged)


def _query(subject: Subject, row: pd.Series) -> str:
    """Python that selects a part's rows of the evidence (before the gate)."""
    arms = ["effect", *([] if row["control"] == "none" else [row["control"]])]
    return (
        "import pandas\n\n"
        f'evidence = pandas.read_parquet("{subject.file("evidence")}")\n'
        "evidence[\n"
        f'    (evidence["experiment"] == {row["experiment"]!r}) & (evidence["outcome"] == {row["outcome"]!r})\n'
        f'    & (evidence["split"] == "heldout") & evidence["arm"].isin({arms!r})\n'
        f'    & ((evidence["strength"] == {row["strength"]!r}) | (evidence["arm"] == "clean"))\n'
        "]"
    )


# ------------------------------------------------------------------------------------------------------------- picture


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two ends, at most `most`."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= most)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def swarm(places: Iterable[float], width: float = 0.9) -> list[float]:
    """Heights, in rows, of dots at the given places so that close ones do not overlap: 0, 1, -1, 2, -2 ..."""
    taken: dict[int, int] = {}
    heights = []
    for place in places:
        rank = taken[cell] = taken.get(cell := round(place / width), 0) + 1
        heights.append(float((rank // 2) * (1 if rank % 2 == 0 else -1)))
    return heights


def picture(row: pd.Series, clusters: pd.DataFrame, settings: StatisticsConfig) -> dict[str, Any]:
    """Effect, control and score of a part as rows of dots (one per cluster), with means and intervals.

    Places are in per cent of the width, so that a page can draw it at any width with text of one size.
    """
    draws = generator(settings.seed, row["claim"], row["part"], "bootstrap")
    counts = resamples(len(clusters), settings.bootstrap, draws)
    columns = ["effect", "score"] if row["control"] == "none" else ["effect", "control", "score"]
    if row["control"] == "none" and row["direction"] != "decrease":
        columns = ["score"]
    values = clusters[columns].to_numpy()
    low, high = bootstrap_interval(values, counts)
    limits = [row["threshold"], -row["threshold"]] if row["direction"] == "equivalent" else [row["threshold"]]
    ends = [0.0, *limits, *values.min(0), *values.max(0), *low, *high]
    left, right = min(ends), max(ends)
    pad = 0.03 * (right - left)
    left, right = left - pad, right + pad

    def place(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    names = {"effect": "effect", "control": f"control: {control_words(row['control'])}", "score": _score_words(row)}
    rows = []
    for index, column in enumerate(columns):
        dots = [(place(value), str(name)) for value, name in zip(clusters[column], clusters["cluster"], strict=True)]
        heights = swarm([x for x, _ in dots])
        mean = float(clusters[column].mean())
        rows.append(
            {
                "kind": column, "name": names[column], "x": place(mean), "from": place(low[index]), "to": place(high[index]),
                "mean": mean, "low": float(low[index]), "high": float(high[index]),
                "dots": [(x, max(-4.0, min(4.0, y)), name) for (x, name), y in zip(dots, heights, strict=True)],
            }
        )  # fmt: skip
    spoken = "; ".join(f"{r['name']} {number(r['mean'])}, from {number(r['low'])} to {number(r['high'])}" for r in rows)
    bound = "within ±" if row["direction"] == "equivalent" else "at least "
    return {
        "rows": rows,
        "ticks": [(place(value), _anchor(place(value)), number(value)) for value in ticks(left, right)],
        "zero": place(0.0),
        "limits": [place(value) for value in limits],
        "axis": (left, right),
        "spoken": f"Means over {len(clusters)} clusters with 95 per cent intervals: {spoken}. "
        f"Registered: {bound}{number(row['threshold'])}.",
    }


def _anchor(place: float) -> str:
    """Alignment of a tick's label relative to its place, so that none is cut off at the ends."""
    return "start" if place < 4 else "end" if place > 96 else "middle"


def _score_words(row: pd.Series) -> str:
    if row["control"] == "none":
        return "effect, counted as a decrease" if row["direction"] == "decrease" else "effect"
    return "control − effect" if row["direction"] == "decrease" else "effect − control"


def bands(swept: ThresholdSweep) -> list[dict[str, Any]]:
    """Zones with one verdict as shares of the slider's width: from, to (per cent), verdict, first and last
    threshold."""
    last = len(swept.thresholds) - 1
    edge = lambda place: round(100 * min(max(place, 0.0), last) / last, 2)  # noqa: E731
    return [
        {
            "verdict": verdict, "from": edge(first - 0.5), "to": edge(end + 0.5), "first": swept.thresholds[first],
            "last": swept.thresholds[end], "start": first == 0, "end": end == last,
        }
        for verdict, first, end in swept.zones
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- prompts, graphs, members


def _attempted(subject: Subject, claim: Claim) -> pd.DataFrame:
    """Number of held-out prompts that the first part of a claim asks."""
    prompts = subject.tables["prompts"]
    prompts = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    experiment = subject.case.experiments.get(claim.parts[0].experiment) if claim.parts else None
    for column, level in (experiment.only if experiment else {}).items():
        prompts = prompts[prompts[column] == level]
    return prompts


def _graphs(subject: Subject, claim: Claim) -> dict[str, Any]:
    """The quality of the attribution graphs of the claim's prompts."""
    graphs = subject.tables["graphs"]
    here = graphs[graphs["item"].isin(_attempted(subject, claim)["item"])] if claim.parts else graphs.iloc[:0]
    if not len(here):
        return {"count": 0}
    medians = {name: float(here[name].median()) for name in ("replacement", "completeness", "error_share")}
    return medians | {"count": len(here), "worst": float(here["row_residual"].max())}


def named_supernodes(case: Case, claim: Claim) -> list[str]:
    """Supernodes that a claim is about: those that its experiments perturb, follow or watch, in the order of the
    case."""
    wanted = held_by(case, [part.experiment for part in claim.parts])
    for part in claim.parts:
        kind, _, watched = part.outcome.partition(":")
        wanted |= {watched} if kind == "activation" else set()
    return [name for name in case.supernodes if name in wanted]


def _sites(subject: Subject, claim: Claim) -> list[str]:
    """What carries the variable of each supernode that the claim's experiments hold and whose site was found."""
    if subject.site_parts is None:
        return []
    held = held_by(subject.case, [part.experiment for part in claim.parts])
    return site_sentences(subject.case, subject.site_parts, [name for name in subject.case.supernodes if name in held])


def _supernodes(subject: Subject, claim: Claim) -> list[dict[str, Any]]:
    """Rule and members of each supernode of a claim: the number of members per prompt, and the most frequent
    members."""
    members = subject.tables["supernodes"]
    scored = set(_attempted(subject, claim)["item"])
    here, found = with_found_sites(subject.case, subject.tables["sites"]).supernodes, []
    for name in named_supernodes(subject.case, claim):
        rows = members[(members["supernode"] == name) & members["item"].isin(scored)]
        often = rows.groupby(["layer", "feature"]).size().sort_values(ascending=False, kind="stable")
        rule = subject.case.supernodes[name].model_dump(mode="json", exclude_defaults=True, exclude={"label"})
        rule = {"at": str(subject.case.supernodes[name].at)} | rule
        found.append(
            {
                "name": name,
                "title": names(subject.case)[name].strip("“”"),
                "rule": yaml.safe_dump(rule, default_flow_style=True, sort_keys=False, width=10**6).strip(),
                "here": here[name] if subject.case.supernodes[name].at == FOUND else None,
                "per_prompt": float(rows.groupby("item").size().median()) if len(rows) else 0.0,
                "without": len(scored) - rows["item"].nunique(),
                "distinct": len(often),
                "layers": sorted(rows["layer"].unique().tolist()),
                "often": [(layer, feature, int(count)) for (layer, feature), count in often.head(SHOWN).items()],
            }
        )
    return found


def slider_data(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The data that a browser needs to judge the parts of claims again at other thresholds."""
    return {
        entry["claim"].id: [
            {
                "name": part["part"], "direction": part["direction"], "verdict": part["verdict"],
                "statistic": part["statistic"], "low": part["low"], "high": part["high"],
                "checks": bool(part["checks_hold"]), "key": part["key"], "axis": part["picture"]["axis"],
                "thresholds": part["sweep"].thresholds, "p": _constant(part["sweep"].p_holm),
                "registered": part["sweep"].registered, "holm": _holm_factor(part),
            }
            if part["sweep"]
            else {"name": part["part"], "verdict": part["verdict"], "thresholds": []}
            for part in entry["parts"]
        ]
        for entry in entries
    }  # fmt: skip


def _holm_factor(part: Mapping[str, Any]) -> float:
    """By how much Holm's correction raises the p of a part."""
    return part["p_holm"] / part["p"] if part["p"] > 0 else 1.0


def _constant(values: tuple[float, ...]) -> tuple[float, ...]:
    """A list of equal values as that one value; any other list unchanged."""
    return values[:1] if len(set(values)) == 1 else values
