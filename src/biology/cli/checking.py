"""Computes one claim anew, from weights to verdict, and compares it with the committed row.

Only what the claim depends on is run: its experiments, those that these are computed from, and graphs if it needs them. Nothing
is written, unless `--out` asks for the page. Holm's correction spans all claims on a model, so the p here is that of the claim alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import printing
from biology.cli.arguments import writable_folder
from biology.cli.opening import configuration, of_corpus, open_model

if TYPE_CHECKING:
    import pandas as pd

    from biology.cases.case import Case
    from biology.cases.claim_file import Claim
    from biology.config import AttributionConfig, Config, ModelConfig
    from biology.evidence.case_context import CaseContext
    from biology.models.model import Model
    from biology.tables import Tables
    from biology.transcoders.transcoder_set import TranscoderSet
    from biology.verdicts.claims import Judgement

Arguments = argparse.Namespace
NUMBERS = ("statistic", "low", "high", "n")
CLOSE = 1e-5
"""Largest relative difference between equal numbers: committed ones have six digits, and another processor may round the last bits
differently."""
PAGE, PROMPTS, MEASURED = "claim.html", "prompts.csv", ("evidence", "prompts", "supernodes", "parts", "clusters")
"""What `--out` writes: the page, every scored prompt, and the tables from which all numbers come."""
FILES = (PAGE, PROMPTS, *(f"{name}.parquet" for name in MEASURED))


@dataclass(frozen=True)
class Computed:
    """A claim computed anew."""

    judgement: Judgement
    claim: Claim
    case: Case
    """The experiments that it rests on and their supernodes, with sites where they were found."""
    tables: Tables
    """What was measured."""


def check(args: Arguments) -> None:
    """compute one claim anew, from weights to verdict, and say whether the committed row agrees"""
    from biology.folders import claim as claimed

    config, root = configuration(args)
    entry = config.model(args.model)
    case, claim = _claim(config, root, args.model, args.claim)
    case = of_corpus(case, entry, root)
    out = None if args.out is None else writable_folder(Path(args.out))
    if out is not None:
        claimed(out, FILES, "check")
    # experiments say on standard output what they chose: with --json that holds the document alone
    with redirect_stdout(sys.stderr) if args.json else nullcontext():
        model, transcoders = open_model(entry, root, args.model, config.threads)
        found = with_tables(model, transcoders, case, claim, config, root, entry, args.cores)
    judgement = found.judgement
    verdict = judgement.verdicts.iloc[0].to_dict()
    committed = _committed(root / "reports" / args.model / "verdicts.csv", claim.id)
    if out is not None:
        beside = _beside(Path("reports") / args.model / "verdicts.csv", verdict, committed)
        _write(out, found, args.model, config, root, entry, beside)
    if args.json:
        printing.print_json(
            {"claim": claim.id, "title": claim.title, "model": args.model}
            | {"computed": verdict, "parts": judgement.parts.to_dict("records")}
            | {"committed": committed, "agrees": None if committed is None else not _differences(verdict, committed)}
            | {"files": [] if out is None else [str(out / name) for name in FILES]}
        )
        return
    for part in judgement.parts[judgement.parts["experiment"] != "none"].itertuples():  # an unregistered claim has none
        print(
            f"{part.part}\n    {part.outcome} of {part.experiment}"
            + (f" (M = {part.strength:g})" if part.strength == part.strength else "")
            + f": effect {_short(part.effect)}, {part.control} {_short(part.control_mean)}; difference {_short(part.statistic)} "
            f"[{_short(part.low)}, {_short(part.high)}], needed {_short(part.threshold)}; {part.n} items"
            + (f"\n    {part.checks}" if part.checks else "")
        )
    print(f"\n{claim.id}, {claim.title}\n{verdict['verdict']}. {verdict['reason']}")
    if "Holm p" in verdict["reason"]:
        print("(p is that of this claim alone; among all claims of the model it can be larger.)")
    print(_beside(root / "reports" / args.model / "verdicts.csv", verdict, committed))
    if out is not None:
        print(f"\nWritten to {out}: {', '.join(FILES)}")


def computed_anew(
    model: Model, transcoders: TranscoderSet, case: Case, claim: Claim, config: Config, root: Path, entry: ModelConfig | None,
    cores: int = 1,
) -> Judgement:  # fmt: skip
    """The verdict on one claim of a case below `root`, for a model and its transcoders; `entry` is the model's entry of
    config.yaml, if it has one. Experiments share the `cores`."""
    return with_tables(model, transcoders, case, claim, config, root, entry, cores).judgement


def with_tables(
    model: Model, transcoders: TranscoderSet, case: Case, claim: Claim, config: Config, root: Path, entry: ModelConfig | None,
    cores: int = 1,
) -> Computed:  # fmt: skip
    """The same with what was measured."""
    from biology.evidence.case_evidence import fresh_context
    from biology.verdicts.claims import judge_all, with_minimum
    from biology.verdicts.found_members import Members
    from biology.verdicts.measuring import Meta, measure
    from biology.verdicts.registration import registered

    small = reduced(case, claim)
    context = fresh_context(model, transcoders, small, config.statistics)
    evidence, graphs, residual = measured(context, [claim], config.attribution, cores)
    scope = {name: experiment.only for name, experiment in small.experiments.items()}
    seed, few = (0, False) if entry is None else (entry.seed, entry.prompts is not None)
    meta = Meta(case.name, model.name, transcoders.label, seed=seed, row_residual=residual, scope=scope)
    claims = registered(root, case.name, with_minimum((claim,)) if few else (claim,))
    members = Members(small.experiments, context.members)
    judgement = judge_all(measure(claims, evidence, context.prompts, meta, config.statistics, members))
    tables = {"evidence": evidence, "prompts": context.prompts, "supernodes": context.members, "graphs": graphs}
    return Computed(judgement, claims[0], context.case, tables)


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


def reduced(case: Case, claim: Claim) -> Case:
    """The case with the experiments that a claim rests on, and the supernodes that these name: no other moves a number of it."""
    experiments = {name: case.experiments[name] for name in rests_on(case, claim)}
    named = {name for experiment in experiments.values() for name in experiment.names()}
    supernodes = {name: rule for name, rule in case.supernodes.items() if name in named}
    return case.model_copy(update={"experiments": experiments, "supernodes": supernodes})


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
) -> tuple[pd.DataFrame, pd.DataFrame, float | None]:
    """Table `evidence` of a context's experiments, table `graphs` of those traced for it, and their largest row residual."""
    from biology.evidence.case_evidence import perturbed_evidence, unperturbed_evidence
    from biology.evidence.contrasts import computed
    from biology.evidence.sharing import reduce_sharing
    from biology.tables import stacked, table
    from biology.verdicts.measuring import worst_residual

    held, _ = perturbed_evidence(context, cores)
    if _traces(context.case):
        reduced, seen = unperturbed_evidence(context, settings)
        edges, graphs, residual = reduced.edges, reduced.graphs, worst_residual(reduced.graphs, context.prompts)
    else:
        seen, edges, graphs, residual = reduce_sharing(context), table("edges", []), table("graphs", []), None
    derived = computed(context.case, claims, stacked([held, seen]), edges, context.prompts)
    return stacked([held, seen, *derived]), graphs, residual


def _write(out: Path, found: Computed, model: str, config: Config, root: Path, entry: ModelConfig, beside: str) -> None:
    """Writes the claim's page, and beside it the tables from which all its numbers come."""
    from biology import artefacts
    from biology.cases.positions import CHAT, message_of
    from biology.findings.faults import read_site_parts
    from biology.findings.scored_prompts import scored
    from biology.folders import replaced
    from biology.provenance import versions
    from biology.report.case_report import claim_page
    from biology.report.claim_evidence import Subject
    from biology.tables import table, write_table
    from biology.verdicts.calibration import calibrated
    from biology.verdicts.discrimination import answers, discrimination
    from biology.verdicts.thresholds import family

    judgement, case, prompts = found.judgement, found.case, found.tables["prompts"]
    if CHAT in prompts:  # people read them here
        prompts = prompts.assign(text=[message_of(row) for row in prompts.to_dict("records")])
    tables = {**found.tables, "prompts": prompts, "sites": table("sites", [])}
    subject = Subject(
        model, case, tables, judgement.parts, judgement.clusters, family(judgement.parts), config.statistics,
        answers(discrimination(root, config), model), calibrated(root, config, model, case.name),
        read_site_parts(root / "reports" / model / "site_parts.csv"), folder=".",
    )  # fmt: skip
    weights = root / (entry.path if entry.neurons else entry.transcoders)
    made_of = {
        "SHA-256 of the weights": artefacts.contents_hash(root / entry.path, "*.safetensors"),
        "SHA-256 of the transcoder weights": artefacts.contents_hash(weights, "**/*.safetensors", "**/*.npz"),
        "SHA-256 of the case": artefacts.contents_hash(case.folder, "*.yaml", "*.csv", "*.md"),
        "seed": str(entry.seed),
        "data type": entry.dtype,
        "device": entry.device,
        **{f"version of {name}": version for name, version in versions().items()},
    }
    page = claim_page(subject, found.claim, judgement.verdicts.iloc[0], beside, made_of)
    measured_here = {**tables, "parts": judgement.parts, "clusters": judgement.clusters}
    with replaced(out, FILES, "check") as new:
        artefacts.write_text(new / PAGE, page)
        write_table(new / PROMPTS, scored(case, [found.claim], tables, judgement.parts), "scored")
        for name in MEASURED:
            write_table(new / f"{name}.parquet", measured_here[name], name)


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
