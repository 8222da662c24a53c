"""Computes one claim anew, from weights to verdict, and compares it with the committed row.

Only what the claim depends on is run: its experiments, those that these are computed from, and graphs if it needs them. Nothing
is written. Holm's correction spans all claims on a model, so the p here is that of the claim alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import printing
from biology.cli.opening import configuration, of_corpus, open_model

if TYPE_CHECKING:
    import pandas as pd

    from biology.cases.case import Case
    from biology.cases.claim_file import Claim
    from biology.config import AttributionConfig, Config, ModelConfig
    from biology.evidence.case_context import CaseContext
    from biology.models.model import Model
    from biology.transcoders.transcoder_set import TranscoderSet
    from biology.verdicts.claims import Judgement

Arguments = argparse.Namespace
NUMBERS = ("statistic", "low", "high", "n")
CLOSE = 1e-6
"""Largest relative difference between equal numbers: another processor may round the last bits differently."""


def check(args: Arguments) -> None:
    """compute one claim anew, from weights to verdict, and say whether the committed row agrees"""
    config, root = configuration(args)
    entry = config.model(args.model)
    case, claim = _claim(config, root, args.model, args.claim)
    case = of_corpus(case, entry, root)
    judgement = computed_anew(
        *open_model(entry, root, args.model, config.threads), case, claim, config, root, entry, args.cores
    )
    verdict = judgement.verdicts.iloc[0]
    committed = _committed(root / "reports" / args.model / "verdicts.csv", claim.id)
    if args.json:
        printing.print_json(
            {"claim": claim.id, "title": claim.title, "model": args.model}
            | {"computed": verdict.to_dict(), "parts": judgement.parts.to_dict("records")}
            | {"committed": committed, "agrees": None if committed is None else not _differences(verdict, committed)}
        )
        return
    for part in judgement.parts.itertuples():
        print(
            f"{part.part}\n    {part.outcome} of {part.experiment}"
            + (f" (M = {part.strength:g})" if part.strength == part.strength else "")
            + f": effect {_short(part.effect)}, {part.control} {_short(part.control_mean)}; difference {_short(part.statistic)} "
            f"[{_short(part.low)}, {_short(part.high)}], needed {_short(part.threshold)}; {part.n} items"
            + (f"\n    {part.checks}" if part.checks else "")
        )
    print(f"\n{claim.id}, {claim.title}\n{verdict['verdict']}. {verdict['reason']}")
    print(_beside(root / "reports" / args.model / "verdicts.csv", verdict, committed))


def computed_anew(
    model: Model, transcoders: TranscoderSet, case: Case, claim: Claim, config: Config, root: Path, entry: ModelConfig | None,
    cores: int = 1,
) -> Judgement:  # fmt: skip
    """The verdict on one claim of a case below `root`, for a model and its transcoders; `entry` is the model's entry of
    config.yaml, if it has one. Experiments share the `cores`."""
    from biology.cli.table_stages import MINIMUM_N
    from biology.evidence.case_evidence import fresh_context
    from biology.verdicts.claims import judge_all, with_minimum
    from biology.verdicts.found_members import Members
    from biology.verdicts.measuring import Meta, measure
    from biology.verdicts.registration import registered

    small = case.model_copy(update={"experiments": {name: case.experiments[name] for name in rests_on(case, claim)}})
    context = fresh_context(model, transcoders, small, config.statistics)
    evidence, residual = measured(context, [claim], config.attribution, cores)
    scope = {name: experiment.only for name, experiment in small.experiments.items()}
    seed, few = (0, False) if entry is None else (entry.seed, entry.prompts is not None)
    meta = Meta(case.name, model.name, transcoders.label, seed=seed, row_residual=residual, scope=scope)
    claims = registered(root, case.name, with_minimum((claim,), MINIMUM_N) if few else (claim,))
    members = Members(small.experiments, context.members)
    return judge_all(measure(claims, evidence, context.prompts, meta, config.statistics, members))


def _claim(config: Config, root: Path, model: str, wanted: str) -> tuple[Case, Claim]:
    """The claim of this name, and its case. Raises `InputError`, with all names, if the model has no such claim."""
    from biology.cases.case import discover_cases, load_case
    from biology.cases.claim_file import load_claims
    from biology.grammar import unknown
    from biology.records import InputError

    entry, names = config.model(model), []
    for name in config.cases_of(model, discover_cases(root, entry.prompts)):
        case = load_case(root, name, entry.prompts, entry.at_most)
        for claim in load_claims(root, name, case):
            names.append(claim.id)
            if claim.id == wanted:
                return case, claim
    raise InputError(f"model '{model}': {unknown('claim', wanted, names)}")


def rests_on(case: Case, claim: Claim) -> list[str]:
    """The experiments that a claim is judged by, those that these are computed from, and those that trace the graphs they
    read."""
    from biology.cases.experiments import Graph, Signs

    needed, left = set(), [part.experiment for part in claim.parts]
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        experiment = case.experiments[name]
        left += experiment.rests_on
        if isinstance(experiment, Signs):
            left += case.of_kind(Graph)
    return [name for name in case.experiments if name in needed]


def measured(
    context: CaseContext, claims: list[Claim], settings: AttributionConfig, cores: int = 1
) -> tuple[pd.DataFrame, float | None]:
    """Table `evidence` of a context's experiments, and the largest row residual of the graphs traced for it."""
    from biology.evidence.case_evidence import perturbed_evidence, unperturbed_evidence
    from biology.evidence.contrasts import computed
    from biology.evidence.sharing import reduce_sharing
    from biology.tables import stacked, table
    from biology.verdicts.measuring import worst_residual

    held, _ = perturbed_evidence(context, cores)
    if _traces(context.case):
        reduced, seen = unperturbed_evidence(context, settings)
        edges, residual = reduced.edges, worst_residual(reduced.graphs, context.prompts)
    else:
        seen, edges, residual = reduce_sharing(context), table("edges", []), None
    return stacked(
        [held, seen, *computed(context.case, claims, stacked([held, seen]), edges, context.prompts)]
    ), residual


def _traces(case: Case) -> bool:
    from biology.cases.experiments import Classes, Connectivity, Faithfulness, Graph, Reuse, Structure, Wiring

    return bool(case.of_kind(Graph, Faithfulness, Structure, Classes, Wiring, Connectivity, Reuse))


def _committed(path: Path, claim: str) -> dict[str, Any] | None:
    """The committed row of a claim; None if there is none."""
    from biology.tables import read_table

    if not path.is_file():
        return None
    table = read_table(path, "verdicts")
    rows = table[table["claim"] == claim]
    return rows.iloc[0].to_dict() if len(rows) else None


def _beside(path: Path, found: Mapping[str, Any], committed: Mapping[str, Any] | None) -> str:
    """The committed row, and whether the numbers agree."""
    if committed is None:
        return f"{path} has no row of it."
    if differ := _differences(found, committed):
        return f"{path} says other numbers: {'; '.join(differ)}."
    if found["verdict"] != committed["verdict"]:
        return f"{path} has the same numbers and says {committed['verdict']}: there p is corrected for all claims of the model."
    return f"{path} agrees: {committed['verdict']}, the same numbers."


def _differences(found: Mapping[str, Any], committed: Mapping[str, Any]) -> list[str]:
    """The numbers that differ, in words."""
    return [
        f"{name} {_short(found[name])} here, {_short(committed[name])} there"
        for name in NUMBERS
        if not _same(float(found[name]), float(committed[name]))
    ]


def _same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)


def _short(value: float) -> str:
    return "none" if value != value else f"{value:.3g}"
