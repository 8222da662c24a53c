"""Calibration: verdicts on claims whose truth is known.

A planted model (`planting.py`) computes what `mechanism.yaml` states, so that each claim is true of it, false, or left open. Its
twins have mechanisms of their own (`twins/<name>.yaml`), or `experiments/twins.csv` lists the claims that are false of them. With
shuffled transcoders every claim that rests on what features mean is false, and the others are open. *Sensitivity* is the share of true
claims that are replicated, *specificity* the share of false claims that are not (`rates` says which count). A false claim that could not
be tested does not count. Intervals are Wilson's.

A verdict on a planted model says what the instrument can detect. It says nothing about natural models.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from biology.cases.case import Case, load_case
from biology.cases.claim_file import Claim, Part, load_claims
from biology.cases.experiments import Attention, Census, Computed, Faithfulness, Reuse, Separation, Sharing, Structure
from biology.cases.mechanism import Mechanism, Truth, load_mechanism, twins_of
from biology.cases.perturbations import Edit, Exchange, Inhibit, Inject, Swap
from biology.config import Config
from biology.statistics import wilson
from biology.tables import read_table
from biology.verdicts.found_members import supernodes_of
from biology.verdicts.robustness import read_expected
from biology.wording import listed

COLUMNS = ["case", "claim", "kind", "model", "role", "dictionary", "seed", "truth", "exploratory", "verdict"]
KINDS = ("swap", "inhibition", "graph", "representation")
"""Kinds of claim, the strongest first: an exchange brings another answer; an ablation takes the answer away; paths and weights;
representations at a position."""
GROUPS = ("case", "kind", "dictionary", "model")
CERTIFIED = 0.9
"""Below this interchange accuracy of what the MLPs write at its site a model does not hold a variable as it was to (docs/explanation/planting.md)."""


def kind_of(case: Case, claim: Claim) -> str:
    """The strongest kind among a claim's experiments and those that these are computed from."""
    found, left = set(), [part.experiment for part in claim.parts]
    while left:
        experiment = case.experiments[left.pop()]
        match experiment:
            case Swap() | Inject() | Exchange():
                found.add("swap")
            case Inhibit() | Edit() | Attention():
                found.add("inhibition")
            case Census() | Sharing() | Reuse():
                found.add("representation")
            case Computed():
                left += experiment.of
            case _:
                found.add("graph")
    return next((kind for kind in KINDS if kind in found), "none")


def pairs(root: Path, config: Config) -> pd.DataFrame:
    """Table `calibration`: every claim on every calibrated model that was judged, with its truth and its verdict."""
    rows: list[dict[str, object]] = []
    kinds: dict[str, dict[str, str]] = {}
    claims: dict[str, Claim] = {}
    for name in config.calibrated:
        path = root / "reports" / name / "verdicts.csv"
        if not path.is_file():
            continue
        truths: dict[str, Mapping[str, Truth]] = {}
        for row in read_table(path, "verdicts").itertuples():
            if row.case not in truths:
                truths[row.case] = truths_of(root, config, name, row.case)
            if row.case not in kinds:
                case = load_case(root, row.case)
                of_case = load_claims(root, row.case, case)
                kinds[row.case] = {claim.id: kind_of(case, claim) for claim in of_case}
                claims |= {claim.id: claim for claim in of_case}
            rows.append(
                {
                    "case": row.case, "claim": row.claim, "kind": kinds[row.case][row.claim], "model": name,
                    "role": config.models[name].role, "dictionary": row.transcoders, "seed": row.seed,
                    "truth": known.truth if (known := truths[row.case].get(row.claim)) else "open",
                    "exploratory": int(claims[row.claim].explores(name)), "verdict": row.verdict,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def truths_of(root: Path, config: Config, model: str, case: str) -> Mapping[str, Truth]:
    """Whether each claim of a case is true of a model by construction, and why; claims that are not listed are open. So is what would be
    true of it, where the model's certificate says that a variable that the claim rests on is not held. Empty where nothing was planted."""
    if model not in config.calibrated:
        return {}
    entry = config.models[model]
    if entry.role == "random":
        read = load_case(root, case)
        asked = [claim.id for claim in load_claims(root, case, read) if not _holds_of_any_set(read, claim)]
        return {claim: Truth(truth="false", because="shuffled features have no meaning") for claim in asked}
    twin = str(entry.corpus) if entry.role == "twin" else ""
    if twin and twin not in twins_of(root, case):
        rows = read_expected(root / "experiments/twins.csv")
        false = {row["claim"]: row["why"] for row in rows if row["twin"] == twin}
        return {claim: Truth.model_construct(truth="false", because=why) for claim, why in false.items()}
    mechanism = load_mechanism(root, case, twin)
    if mechanism is None:
        return {}
    truths = dict(mechanism.truth)
    lost = not_held(root / str(entry.path), mechanism, twin or case)
    if lost:
        read = load_case(root, case)
        for claim in load_claims(root, case, read):
            rests_on = {name for part in claim.parts for name in supernodes_of(read.experiments, part)} & lost
            if claim.id in truths and truths[claim.id].truth == "true" and rests_on:
                because = f"the certificate of this model says that it does not hold {listed(sorted(rests_on))}"
                truths[claim.id] = Truth(truth="open", because=because)
    return truths


def not_held(model: Path, mechanism: Mechanism, name: str) -> set[str]:
    """The supernodes of variables that a grown model does not hold as its mechanism states: by its certificate, in which the mechanism
    has this name, an exchange of what the MLPs write at the site too seldom brings the answer of the causal model. Empty without a
    certificate."""
    path = model / "certificate.csv"
    if not path.is_file():
        return set()
    rows = pd.read_csv(path, keep_default_na=False).to_dict("records")
    asked = [row for row in rows if (row["mechanism"], row["what"], row["arm"]) == (name, "mlp", "effect")]
    short = {row["variable"] for row in asked if float(row["accuracy"]) < CERTIFIED}
    return {one.supernode for variable, one in mechanism.variables.items() if one.supernode and variable in short}


def _holds_of_any_set(case: Case, claim: Claim) -> bool:
    """Whether a claim would also hold with shuffled transcoders: no part of it rests on what features mean."""
    return not any(_rests_on_meaning(case, part) for part in claim.parts)


def _rests_on_meaning(case: Case, part: Part) -> bool:
    """Edges are exact whatever features mean, and so is the influence that starts at a token. And where nothing is to happen, features
    that mean nothing serve as well."""
    experiment = case.experiments[part.experiment]
    if isinstance(experiment, Separation):
        return any(outcome != "token_share" for one in experiment.of for outcome in case.experiments[one].outcomes[:1])
    exact = isinstance(experiment, Faithfulness | Structure) and part.control != "random"
    if isinstance(experiment, Attention):  # all pairs of a score, whatever features mean
        exact = not experiment.needs(part.outcome)
    return not exact and part.direction != "equivalent"


def calibrated(root: Path, config: Config, model: str, case: str) -> dict[str, str]:
    """For each claim of a case, what is known of its truth on this model, and, from `reports/calibration.csv`, what came out wherever
    the truth is known; empty without either."""
    path, known = root / "reports/calibration.csv", truths_of(root, config, model, case)
    told = {claim: [f"On {model} it is {one.truth} by construction: {one.because}."] for claim, one in known.items()}
    if path.is_file():
        for claim, rows in pd.read_csv(path, dtype=str, keep_default_na=False).groupby("claim", sort=False):
            told.setdefault(str(claim), []).append(_found_where_known(rows))
    return {claim: " ".join(sentences) for claim, sentences in told.items()}


def _found_where_known(rows: pd.DataFrame) -> str:
    parts = []
    for truth in ("true", "false"):
        asked = rows[(rows["truth"] == truth) & (rows["verdict"] != "untestable")]
        seen = int((asked["verdict"] == "replicated").sum())
        parts += [f"where it is {truth} by construction it is replicated on {seen} of {len(asked)} models"] * (
            len(asked) > 0
        )
    return f"{'; '.join(parts).capitalize()}." if parts else "Of no model its truth is known by construction."


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with the transcoders that a model is judged with; other dictionaries of the same model would count its claims
    twice."""
    return table[table["role"] != "dictionary"]


def grown_last(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows of the planted models, of each and its further seeds the one that was grown last (seeds are grown in their order).

    A claim that misses may be amended, and is then left out on models that had been judged; what is replicated stays. So the rates of
    all models flatter. Nothing is left out of a model for what came out on itself, if it was grown last.
    """
    judged, last = set(table["model"]), {}
    for name, entry in config.models.items():
        if entry.planted and entry.role in ("model", "organism", "seed") and name in judged:
            kin = entry.of if entry.role == "seed" else name
            if kin not in last or entry.seed > config.models[last[kin]].seed:
                last[kin] = name
    return table[table["model"].isin(last.values())]


def rates(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Columns `by`, then for sensitivity and for specificity: share, low and high (Wilson's 95 % interval), n.

    Claims that could not be tested are left out of specificity, and count as misses in sensitivity. A claim that was changed after its
    first verdict on a model is *exploratory* there: what was changed may have been what missed it. Such claims are left out of
    sensitivity. Specificity counts them, as a change that finds more may find what is not there.
    """
    rows = []
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    for key, group in groups:
        row = dict(zip(by, key, strict=True))
        for name, found, right in (
            ("sensitivity", group[(group["truth"] == "true") & (group["exploratory"].astype(int) == 0)], "replicated"),
            ("specificity", group[(group["truth"] == "false") & (group["verdict"] != "untestable")], ""),
        ):
            hit = (found["verdict"] == right) if right else (found["verdict"] != "replicated")
            row[name], row[f"{name}_low"], row[f"{name}_high"] = wilson(int(hit.sum()), len(hit))
            row[f"{name}_n"] = len(hit)
        rows.append(row)
    return pd.DataFrame(rows)
