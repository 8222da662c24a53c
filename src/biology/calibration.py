"""Calibration: what the pipeline says of claims whose truth is known.

A planted model (`planting.py`) computes what `mechanism.yaml` states, so that a claim is true of it, false, or left open. Its twins
have mechanisms of their own (`twins/<name>.yaml`), or `experiments/twins.csv` says which claims they lack; on transcoders of shuffled weights nothing can be found. *Sensitivity* is the
share of true claims that come out as replicated, *specificity* the share of false ones that do not; where a claim could not be tested,
nothing was said. Intervals are Wilson's.

A verdict on a planted model says what the instrument sees. It says nothing of natural models.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest

from biology.case import Case, load_case
from biology.claim_file import Claim, load_claims
from biology.config import Config
from biology.drawing import canvas, captioned, colour, size
from biology.experiments import Census, Computed, Exchange, Inhibit, Inject, Reuse, Sharing, Swap
from biology.mechanism import load_mechanism, twins_of
from biology.robustness import read_expected
from biology.tables import read_table

COLUMNS = ["case", "claim", "kind", "model", "role", "dictionary", "seed", "truth", "verdict"]
KINDS = ("swap", "inhibition", "graph", "representation")
"""What a claim asks, the strongest first: whether an exchange brings another answer, whether taking away takes the answer, what
paths and weights say, what stands where."""
GROUPS = ("case", "kind", "dictionary", "model")


def kind_of(case: Case, claim: Claim) -> str:
    """The strongest of the kinds of a claim's experiments, and of those that these are computed from."""
    found, left = set(), [part.experiment for part in claim.parts]
    while left:
        experiment = case.experiments[left.pop()]
        match experiment:
            case Swap() | Inject() | Exchange():
                found.add("swap")
            case Inhibit():
                found.add("inhibition")
            case Census() | Sharing() | Reuse():
                found.add("representation")
            case Computed():
                left += experiment.of
            case _:
                found.add("graph")
    return next((kind for kind in KINDS if kind in found), "none")


def pairs(root: Path, config: Config) -> pd.DataFrame:
    """Table `calibration`: every claim on every calibrated model that has been judged, with its truth and its verdict."""
    rows: list[dict[str, object]] = []
    kinds: dict[str, dict[str, str]] = {}
    for name in config.calibrated:
        path = root / "reports" / name / "verdicts.csv"
        if not path.is_file():
            continue
        truths: dict[str, Mapping[str, str]] = {}
        for row in read_table(path, "verdicts").itertuples():
            if row.case not in truths:
                truths[row.case] = truths_of(root, config, name, row.case)
            if row.case not in kinds:
                case = load_case(root, row.case)
                kinds[row.case] = {claim.id: kind_of(case, claim) for claim in load_claims(root, row.case, case)}
            rows.append(
                {
                    "case": row.case, "claim": row.claim, "kind": kinds[row.case][row.claim], "model": name,
                    "role": config.models[name].role, "dictionary": row.transcoders, "seed": row.seed, "truth": truths[row.case].get(row.claim, "open"),
                    "verdict": row.verdict,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def truths_of(root: Path, config: Config, model: str, case: str) -> Mapping[str, str]:
    """Whether the claims of a case are `true` or `false` of a calibrated model by construction; those that are not listed are `open`."""
    entry = config.models[model]
    if entry.role == "random":
        return {claim.id: "false" for claim in load_claims(root, case)}
    twin = str(entry.corpus) if entry.role == "twin" else ""
    if twin and twin not in twins_of(root, case):
        rows = read_expected(root / "experiments/twins.csv")
        return {row["claim"]: "false" for row in rows if row["twin"] == twin}
    mechanism = load_mechanism(root, case, twin)
    return {} if mechanism is None else {claim: one.truth for claim, one in mechanism.truth.items()}


def calibrated(root: Path) -> dict[str, str]:
    """Of each claim what its test says where the truth is known, in words, by `reports/calibration.csv`; empty without one."""
    path = root / "reports/calibration.csv"
    if not path.is_file():
        return {}
    told = {}
    for claim, rows in pd.read_csv(path, dtype=str, keep_default_na=False).groupby("claim", sort=False):
        parts = []
        for truth in ("true", "false"):
            asked = rows[(rows["truth"] == truth) & (rows["verdict"] != "untestable")]
            seen = int((asked["verdict"] == "replicated").sum())
            parts += [f"where it is {truth} by construction it is replicated on {seen} of {len(asked)} models"] * (
                len(asked) > 0
            )
        told[str(claim)] = (
            f"{'; '.join(parts).capitalize()}." if parts else "Of no model its truth is known by construction."
        )
    return told


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with the transcoders that a model is judged with; those with another dictionary of the same model repeat its claims."""
    return table[table["role"] != "dictionary"]


def rates(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Columns `by`, then for sensitivity and specificity each: share, low and high (Wilson's 95 % interval), n.

    Claims that could not be tested are left out of specificity, and are misses of sensitivity.
    """
    rows = []
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    for key, group in groups:
        row = dict(zip(by, key, strict=True))
        for name, found, right in (
            ("sensitivity", group[group["truth"] == "true"], "replicated"),
            ("specificity", group[(group["truth"] == "false") & (group["verdict"] != "untestable")], ""),
        ):
            hit = (found["verdict"] == right) if right else (found["verdict"] != "replicated")
            row |= {f"{name}{end}": value for end, value in zip(("", "_low", "_high", "_n"), wilson(hit), strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def wilson(hit: pd.Series) -> tuple[float, float, float, int]:
    """The share of hits, Wilson's 95 % interval, and how many there are."""
    if not len(hit):
        return float("nan"), 0.0, 1.0, 0
    found = binomtest(int(hit.sum()), len(hit))
    low, high = found.proportion_ci(method="wilson")
    return found.statistic, low, high, len(hit)


def figure(table: pd.DataFrame) -> Figure:
    """Sensitivity and specificity of all verdicts with the models' own transcoders, also by case and kind of claim; and of all by
    dictionary and model."""
    own = pooled(table)
    parts = [("all", rates(own))]
    parts += [(by, rates(own if by in ("case", "kind") else table, [by])) for by in GROUPS]
    rows = [
        (part, "all claims" if part == "all" else str(row[part]), row)
        for part, frame in parts
        for _, row in frame[frame["sensitivity_n"] + frame["specificity_n"] > 0].iterrows()
    ]
    made = canvas(7.4, 1.1 + 0.2 * (len(rows) + len(parts)), layout="constrained")
    panels = made.subplots(1, 2, sharey=True)
    places, place, last = [], 0.0, "all"
    for part, _, _ in rows:
        place += 1.0 if part == last else 1.6
        places.append(place)
        last = part
    for axes, name, meaning in zip(
        panels,
        ("sensitivity", "specificity"),
        ("true claims that are replicated", "false claims that are not"),
        strict=True,
    ):
        for at, (part, _, row) in zip(places, rows, strict=True):
            n = int(row[f"{name}_n"])
            if n:
                tint = colour("C0" if part == "all" else "axes.edgecolor")
                axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [at, at], color=tint, linewidth=1.4)
                axes.plot(row[name], at, "o", color=tint, markersize=4.5, clip_on=False)
            axes.text(1.03, at, f"{n}", transform=axes.get_yaxis_transform(), fontsize=size(-1), va="center")
        axes.set(title=f"{name}: {meaning}", xlim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.text(1.03, 1.0, "n", transform=axes.transAxes, fontsize=size(-1), va="bottom")
    panels[0].set_yticks(places, [label for _, label, _ in rows])
    panels[0].set_ylim(places[-1] + 0.8, places[0] - 0.8)
    whole = parts[0][1].iloc[0]
    told = [
        f"{_told(whole, name)} of the claims that are {truth} are {verdict}"
        for name, truth, verdict in (
            ("sensitivity", "true", "replicated"), ("specificity", "false", "not replicated"),
        )
        if whole[f"{name}_n"]
    ]  # fmt: skip
    return captioned(
        made, f"Planted mechanisms: {', '.join(told) or 'no claim was judged whose truth is known'}",
        "A claim is true or false by construction (mechanism.yaml, twins.csv; all are false with shuffled transcoders). Lines: Wilson's "
        "95 % interval, as if pairs were independent. Planted models show what the method sees, and nothing of natural models.",
    )  # fmt: skip


def _told(row: pd.Series, name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
