"""One claim, computed anew from weights to verdict, beside the row that is committed: for whoever doubts it.

Only what the claim rests on is run: its experiments, what these are computed from, and the graphs if it asks them. Nothing is
written. Holm's correction spans all claims of a model, so that the p here is that of the claim alone.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from biology.cli.opening import configuration, of_corpus, open_model

if TYPE_CHECKING:
    import pandas as pd

    from biology.cases.case import Case
    from biology.cases.claim_file import Claim
    from biology.config import AttributionConfig, Config
    from biology.evidence.bench import Bench

Arguments = argparse.Namespace
NUMBERS = ("statistic", "low", "high", "n")
CLOSE = 1e-6
"""Relative difference up to which numbers are the same: another processor may round the last bits another way."""


def check(args: Arguments) -> None:
    """compute one claim anew, from weights to verdict, and say whether the committed row agrees"""
    config, root = configuration(args)
    entry = config.model(args.model)
    case, claim = _claim(config, root, args.model, args.claim)
    case = of_corpus(case, entry, root)
    small = case.model_copy(update={"experiments": {name: case.experiments[name] for name in rests_on(case, claim)}})
    from biology.cli.table_stages import MINIMUM_N
    from biology.evidence.case_evidence import fresh_bench
    from biology.verdicts.claims import judge_all, with_minimum
    from biology.verdicts.found_members import Members
    from biology.verdicts.measuring import Meta, measure
    from biology.verdicts.registration import registered

    bench = fresh_bench(*open_model(entry, root, args.model, config.threads), small, config.statistics)
    evidence, residual = measured(bench, [claim], config.attribution)
    scope = {name: experiment.only for name, experiment in small.experiments.items()}
    meta = Meta(case.name, args.model, bench.transcoders.label, seed=entry.seed, row_residual=residual, scope=scope)
    claims = registered(root, case.name, (claim,) if entry.prompts is None else with_minimum((claim,), MINIMUM_N))
    found = measure(claims, evidence, bench.prompts, meta, config.statistics, Members(small.experiments, bench.members))
    judgement = judge_all(found)
    for part in judgement.parts.itertuples():
        print(
            f"{part.part}\n    {part.outcome} of {part.experiment}"
            + (f" (M = {part.strength:g})" if part.strength == part.strength else "")
            + f": effect {_short(part.effect)}, {part.control} {_short(part.control_mean)}; difference {_short(part.statistic)} "
            f"[{_short(part.low)}, {_short(part.high)}], needed {_short(part.threshold)}; {part.n} items"
            + (f"\n    {part.checks}" if part.checks else "")
        )
    verdict = judgement.verdicts.iloc[0]
    print(f"\n{claim.id}, {claim.title}\n{verdict['verdict']}. {verdict['reason']}")
    print(_beside(root / "reports" / args.model / "verdicts.csv", claim.id, judgement.verdicts))


def _claim(config: Config, root: Path, model: str, wanted: str) -> tuple[Case, Claim]:
    """The claim of this name, and its case. `InputError` with all names if the model meets none of this name."""
    from biology.cases.case import discover_cases, load_case
    from biology.cases.claim_file import load_claims
    from biology.grammar import unknown
    from biology.records import InputError

    prompts, names = config.model(model).prompts, []
    for name in config.cases_of(model, discover_cases(root, prompts)):
        case = load_case(root, name, prompts)
        for claim in load_claims(root, name, case):
            names.append(claim.id)
            if claim.id == wanted:
                return case, claim
    raise InputError(f"model '{model}': {unknown('claim', wanted, names)}")


def rests_on(case: Case, claim: Claim) -> list[str]:
    """The experiments that a claim is judged by, what these are computed from, and those that trace the graphs they read."""
    from biology.cases.experiments import Computed, Graph, Signs

    needed, left = set(), [part.experiment for part in claim.parts]
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        experiment = case.experiments[name]
        left += experiment.of if isinstance(experiment, Computed) else ()
        if isinstance(experiment, Signs):
            left += case.of_kind(Graph)
    return [name for name in case.experiments if name in needed]


def measured(bench: Bench, claims: list[Claim], settings: AttributionConfig) -> tuple[pd.DataFrame, float | None]:
    """Table `evidence` of the experiments of a bench, and the worst row residual of the graphs that were traced for it."""
    from biology.evidence.case_evidence import looked_at, perturbed
    from biology.evidence.contrasts import computed
    from biology.evidence.sharing import reduce_sharing
    from biology.tables import stacked, table
    from biology.verdicts.measuring import worst_residual

    held, _ = perturbed(bench)
    if _traces(bench.case):
        reduced, seen = looked_at(bench, settings)
        edges, residual = reduced.edges, worst_residual(reduced.graphs, bench.prompts)
    else:
        seen, edges, residual = reduce_sharing(bench), table("edges", []), None
    return stacked([held, seen, *computed(bench.case, claims, held, edges, bench.prompts)]), residual


def _traces(case: Case) -> bool:
    from biology.cases.experiments import Classes, Connectivity, Graph, Reuse, Wiring

    return bool(case.of_kind(Graph, Classes, Wiring, Connectivity, Reuse))


def _beside(path: Path, claim: str, own: pd.DataFrame) -> str:
    """What the committed row says, and whether the numbers are the same."""
    from biology.tables import read_table

    if not path.is_file():
        return f"No verdicts are committed ({path})."
    table = read_table(path, "verdicts").set_index("claim")
    if claim not in table.index:
        return f"{path} has no row of it."
    committed, found = table.loc[claim], own.set_index("claim").loc[claim]
    differ = [
        f"{name} {_short(found[name])} here, {_short(committed[name])} there"
        for name in NUMBERS
        if not _same(float(found[name]), float(committed[name]))
    ]
    if differ:
        return f"{path} says other numbers: {'; '.join(differ)}."
    if found["verdict"] != committed["verdict"]:
        return f"{path} has the same numbers and says {committed['verdict']}: there p is corrected for all claims of the model."
    return f"{path} agrees: {committed['verdict']}, the same numbers."


def _same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)


def _short(value: float) -> str:
    return "none" if value != value else f"{value:.3g}"
