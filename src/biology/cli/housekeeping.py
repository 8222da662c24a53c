"""Commands that maintain a checkout: they begin, explain and register case files, update what texts say of results, say
what a run will do, how far it is and what came out, simulate coverage and calibrate."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.printing import print_json, print_table

if TYPE_CHECKING:
    from biology.cases.claim_file import Claim
    from biology.config import Config

Arguments = argparse.Namespace


def new_case(args: Arguments) -> None:
    """make a folder of experiments/ that already runs, from the template or from another case"""
    from biology.cases.case import load_case
    from biology.cases.claim_file import load_claims
    from biology.config import config_file, load_config
    from biology.records import InputError
    from biology.scaffolds import new_case as cases

    path = config_file(args.config)
    root, name, config = path.parent, args.name, load_config(path)
    if args.organism and args.model is not None:
        raise InputError("--organism gives the case a model of its own, --model one that is there: name one of them.")
    model = name if args.organism else args.model or "elegans"
    # reported before anything is written, as a wrong name is
    if args.organism and name in config.models:
        raise InputError(f"{path}: there is a model '{name}' already: choose another name.")
    if not args.organism and config.model(model).role == "organism":
        raise InputError(
            f"--model {model}: it was grown for its own case and knows no other words. Say --organism instead, and grow a model for the new case "
            "(docs/how_to/grow.md#an-organism-of-one-case)."
        )
    source = args.source or cases.TEMPLATE
    cases.write_case(root, name, cases.new_case(root, name, source, date.today()))
    met = cases.add_organism(path, name) if args.organism else cases.add_to_config(path, model, name)
    case, claims = load_case(root, name), load_claims(root, name)
    prompts, first = len(case.items) + len(case.prompts), claims[0].id if claims else "CLAIM"
    edit, grow, everything = f"edit experiments/{name}/case.yaml and claims.yaml, then again", [], "make figures"
    if args.organism:
        edit = f"write experiments/{name}/mechanism.yaml, and a prompt set; edit the rest, then again"
        grow = [(f"biology organism --case {name}", "grow the model, certify it, train its transcoders")]
        everything = f"snakemake figures/all --config model={name}"
    steps = [
        (f"biology explain {name}", "what it says, in English"),
        (edit, ""),
        ("biology lock", "register the claims, before you look at a result"),
        *grow,
        (f"biology check {first} --model {model}", "one claim, from weights to verdict"),
        (everything, "all of it"),
    ]
    print(
        f"experiments/{name}: {prompts} prompts, {len(case.supernodes)} supernodes, {len(case.experiments)} experiments, "
        f"{len(claims)} claims, not registered yet.\n{met}\n{cases.left_out(root, source)}\nNext:"
    )
    for step, does in steps:
        print(f"  {step:<44} {does}".rstrip())
    print(f"Step by step: {cases.PLANT if args.organism else cases.HELP}")


def lock(args: Arguments) -> None:
    """register new and amended claims in experiments/claims.lock"""
    from biology.config import config_file
    from biology.verdicts.registration import read_lock, refreshed_lock

    root = config_file(args.config).parent
    before, after = read_lock(root), refreshed_lock(root)
    artefacts.write_text(root / "experiments/claims.lock", after.text())
    for line in after.news(before) or ["nothing to register: all claims are as they were"]:
        print(line)


def scoreboard(args: Arguments) -> None:
    """write verdicts and numbers into the texts: README.md, CHANGELOG.md, reports/README.md (all verdicts), docs"""
    from biology.config import config_file, load_config
    from biology.report.numbers import numbers, texts, with_numbers
    from biology.report.scoreboard import full_scoreboard, with_misses, with_scoreboard

    path = config_file(args.config)
    root, config = path.parent, load_config(path)
    values = numbers(root, config)
    written = {
        path: with_misses(with_numbers(path.read_text(encoding="utf-8"), values, path), root) for path in texts(root)
    }
    written[root / "README.md"] = with_scoreboard(written[root / "README.md"], root, config)
    written[root / "reports/README.md"] = full_scoreboard(root, config)
    for path, text in written.items():
        artefacts.write_text(path, text)


def prompts(args: Arguments) -> None:
    """write the prompt sets of a case that are made from the corpus"""
    from biology.config import config_file
    from biology.corpora.corpus import Corpus
    from biology.corpora.prompts import prompt_sets

    folder = config_file(args.config).parent / "experiments" / args.case
    for name, frame in prompt_sets(args.case, Corpus()).items():
        artefacts.write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))


def explain(args: Arguments) -> None:
    """tell a case in English: prompts, supernodes, experiments, claims; or one claim, and what came out; without either, the words of case files"""
    from biology.records import InputError
    from biology.report.explanation import case_told, mechanism_told

    if args.case is None and args.prompts is not None:
        raise InputError("--prompts is about a case: name it.")
    if args.case is None:
        if args.json:
            from biology.scaffolds.case_schema import schemas

            print_json(schemas())
        else:
            from biology.scaffolds.case_words import words_page

            print(words_page(), end="")
        return
    from biology.cases.case import load_case
    from biology.cases.claim_file import load_claims
    from biology.cases.mechanism import load_mechanism, twins_of
    from biology.config import config_file, load_config
    from biology.corpora.lessons import check_answers, check_names
    from biology.verdicts.registration import not_locked

    root = config_file(args.config).parent
    if (found := _of_claim(root, load_config(config_file(args.config)), args.case)) is not None:
        told, data = found
        if args.prompts is not None:
            raise InputError("--prompts is about a case, not about a claim: leave it out.")
        print_json(data) if args.json else print(told)
        return
    case, claims = load_case(root, args.case, args.prompts), load_claims(root, args.case)
    for further in case.prompt_sets:
        load_case(root, args.case, further)  # a mistake there is a mistake of the case
    if args.json:
        stated = case.model_dump(mode="json", exclude={"items", "folder"}, exclude_defaults=True)
        print_json(
            stated | {"prompt_count": len(case.items), "claims": [claim.model_dump(mode="json") for claim in claims]}
        )
        return
    print(case_told(case, claims, not_locked(root, case, claims)))
    for twin in ("", *twins_of(root, args.case)):
        mechanism = load_mechanism(root, args.case, twin)
        if mechanism is not None:
            check_names(root, case, [claim.id for claim in claims], mechanism, twin)
            check_answers(root, case, mechanism, twin)
            print(f"\n{mechanism_told(mechanism, twin)}")


def _of_claim(root: Path, config: Config, wanted: str) -> tuple[str, dict[str, Any]] | None:
    """One claim in English, with its experiments and what came out, and as data; None if no claim has this id."""
    from biology.cases.case import discover_cases, load_case
    from biology.cases.claim_file import load_claims
    from biology.report.explanation import claim_told, experiment_told
    from biology.verdicts.registration import not_locked

    names = discover_cases(root)
    if wanted in names:
        return None
    for name in names:
        case = load_case(root, name)
        for claim in load_claims(root, name, case):
            if claim.id == wanted:
                done = {part.experiment: experiment_told(case.experiments[part.experiment]) for part in claim.parts}
                verdicts = _came_out(root, config, name, claim)
                unlocked = not_locked(root, case, [claim]).get(claim.id, "")
                lines = [*claim_told(claim, unlocked), *(f"{experiment}: {told}" for experiment, told in done.items())]
                lines += _verdicts_told(verdicts)
                return "\n".join(lines), claim.model_dump(mode="json") | {
                    "case": name,
                    "done": done,
                    "verdicts": verdicts,
                }
    return None


def _came_out(root: Path, config: Config, case: str, claim: Claim) -> dict[str, dict[str, Any]]:
    """Verdict and reason by model, as they are committed, with the model's role and whether the claim was amended after a verdict there."""
    from biology.report.scoreboard import judged
    from biology.verdicts.calibration import truths_of

    rows = {column.name: (column.role, column.by_claim.get((case, claim.id))) for column in judged(root, config)}
    found = {}
    for model, (role, row) in rows.items():
        if row is None:
            continue
        known = truths_of(root, config, model, case).get(claim.id)
        found[model] = {
            "role": role, "verdict": row["verdict"], "exploratory": claim.explores(model), "outdated": claim.outdates(row),
            "reason": row["reason"], "truth": known and known.truth, "because": known and known.because,
        }  # fmt: skip
    return found


def _verdicts_told(verdicts: dict[str, dict[str, Any]]) -> list[str]:
    """What came out on each model, with its reason and, of planted models, the truth; in one line on those that are held against it:
    seeds, twins, controls."""
    from biology.report.scoreboard import SHOWN

    lines, rest = [], []
    for model, row in verdicts.items():
        known = f"{row['truth']} by construction" if row["truth"] else ""
        if row["role"] in SHOWN:
            said = row["verdict"]
            said += ", by the claim before its last amendment" * row["outdated"]
            said += ", exploratory (amended after it had been judged here)" * (
                row["exploratory"] and not row["outdated"]
            )
            lines += [f"    {model}: {said}. {row['reason']}"]
            lines += [f"        It is {known}: {row['because']}."] * bool(known)
        else:
            rest += [f"{model} ({', '.join(filter(None, (row['role'], known)))}): {row['verdict']}"]
    lines += [f"    Held against these: {'; '.join(rest)}."] * bool(rest)
    return ["What came out:", *lines] if lines else []


def schema(args: Arguments) -> None:
    """write the descriptions of case files for editors and readers: experiments/*.schema.json, docs/reference/case_files.md"""
    from biology.config import config_file
    from biology.scaffolds.case_schema import schemas
    from biology.scaffolds.case_words import PAGE, words_page

    root = config_file(args.config).parent
    for name, made in schemas().items():
        artefacts.write_json(root / "experiments" / name, made)
    artefacts.write_text(root / PAGE, words_page())


def plan(args: Arguments) -> None:
    """print what `make figures` will do, what is already there, and how long the rest takes"""
    from biology.cli.opening import configuration
    from biology.report.run_plan import case_runs, plan_told

    config, root = configuration(args)
    todo = case_runs(root, config, args.model)
    if args.json:
        print_json([asdict(one) for one in todo])
        return
    print(plan_told(todo, args.cores))


def progress(args: Arguments) -> None:
    """tell what snakemake says on its standard input as one line a stage, with the time left"""
    import signal

    from biology.config import config_file
    from biology.report.run_plan import Progress, stage_seconds

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the two snakemake ends first, and its last words are shown
    told = Progress(stage_seconds(config_file(args.config).parent), args.cores)
    for text in sys.stdin:
        said = told.line(text.rstrip("\n"))
        if said is not None:
            print(said, flush=True)


def summary(args: Arguments) -> None:
    """print the results: claim counts by model and case, and where to look"""
    from biology.cli.opening import configuration
    from biology.report.run_plan import case_runs, summary_told, verdict_counts

    config, root = configuration(args)
    rows = verdict_counts(root, case_runs(root, config, args.model))
    if args.json:
        print_json(rows)
        return
    print(summary_told(rows))


def coverage(args: Arguments) -> None:
    """simulate the coverage of intervals with the clusters of the cases (reports/coverage.csv, docs/explanation/statistics.md)"""
    from biology.config import config_file
    from biology.verdicts.coverage import case_clusters, coverage_table, with_table

    root = config_file(args.config).parent
    made = coverage_table(case_clusters(root), runs=10_000, draws=2000)
    text = (root / "docs/explanation/statistics.md").read_text(encoding="utf-8")
    artefacts.write_text(root / "reports/coverage.csv", made.to_csv(index=False, lineterminator="\n"))
    artefacts.write_text(root / "docs/explanation/statistics.md", with_table(text, made))


def calibrate(args: Arguments) -> None:
    """compare verdicts with the truth of planted mechanisms: sensitivity and specificity, what misses and which part is at fault, graphs with causal models"""
    import pandas as pd

    from biology.cli.opening import configuration
    from biology.figures import site_parts_figure
    from biology.figures.calibration_figure import figure
    from biology.figures.drawing import png, styled, svg
    from biology.findings.faults import misses, parts_of_misses
    from biology.records import InputError
    from biology.verdicts.calibration import pairs, rates
    from biology.verdicts.graph_calibration import graph_truth

    config, root = configuration(args)
    table = pairs(root, config)
    if table.empty:
        raise InputError("no model with planted mechanisms has been judged: run `snakemake calibration/all`.")
    artefacts.write_text(root / "reports/calibration.csv", table.to_csv(index=False, lineterminator="\n"))
    of_graphs = root / "reports/calibration_graphs.csv"
    known = pd.read_csv(of_graphs) if of_graphs.is_file() and of_graphs.stat().st_size > 1 else None
    graphs = graph_truth(root, config, known)
    artefacts.write_text(of_graphs, graphs.to_csv(index=False, lineterminator="\n"))
    missed = misses(root, table)
    text = missed.to_csv(index=False, lineterminator="\n", float_format="%.3g")
    artefacts.write_text(root / "reports/misses.csv", text)
    with styled():
        drawn = figure(table)
        for form, data in (("svg", svg(drawn)), ("png", png(drawn))):
            artefacts.write_bytes(root / f"figures/calibration.{form}", data)
        artefacts.write_bytes(
            root / "figures/site_parts.svg", svg(site_parts_figure.figure(parts_of_misses(root, missed)))
        )
    print_table(rates(table, ["dictionary"]), args.json)
