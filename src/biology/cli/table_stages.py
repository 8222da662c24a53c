"""The stages of the pipeline that need no torch, as commands: tables, verdicts, figures and reports.

Modules are imported inside the functions, so that `biology --help` answers at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from biology import artefacts
from biology.cli.arguments import writable_folder
from biology.cli.opening import case_of, configuration
from biology.printing import print_table

if TYPE_CHECKING:
    import pandas as pd

    from biology.config import Config
    from biology.verdicts.expectations import Expectation

Arguments = argparse.Namespace


def tabulate(args: Arguments) -> None:
    """write everything measured as tidy tables; nothing after this needs torch"""
    config, root, case, folder = case_of(args)
    from biology.cases.claim_file import load_claims
    from biology.cases.experiments import Scale
    from biology.cases.positions import CHAT, message_of
    from biology.evidence.contrasts import computed
    from biology.tables import read_table, stacked, write_table

    measured = {
        "prompts": read_table(folder / "cache.parquet", "prompts"),
        "graphs": read_table(folder / "attribute.parquet", "graphs"),
        "edges": read_table(folder / "attribute_edges.parquet", "edges"),
        "supernodes": read_table(folder / "group.parquet", "supernodes"),
        "sites": read_table(folder / "group_sites.parquet", "sites"),
        "panel": read_table(folder / "intervene_panel.parquet", "panel"),
        "fidelity": read_table(root / "data/runs" / args.model / "fidelity.parquet", "fidelity"),
        "operands": read_table(folder / "group_operands.parquet", "operands"),
        "operand_plots": read_table(folder / "group_plots.parquet", "operand_plots"),
    }
    evidence = [read_table(folder / f"{stage}.parquet", "evidence") for stage in ("attribute_evidence", "intervene")]
    compared = config.model(args.model).role == "size" and case.of_kind(Scale)
    sizes = beside_another_size(config, root, args, evidence[0]) if compared else None
    claims = load_claims(root, args.case)
    derived = computed(case, claims, stacked(evidence), measured["edges"], measured["prompts"], sizes)
    measured["evidence"] = stacked([*evidence, *derived])
    if CHAT in measured["prompts"]:  # from here on, people read them
        texts = [message_of(row) for row in measured["prompts"].to_dict("records")]
        measured["prompts"] = measured["prompts"].assign(text=texts)
    for name, frame in measured.items():
        write_table(folder / f"{name}.parquet", frame, name)


def beside_another_size(
    config: Config, root: Path, args: Arguments, own: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evidence of the larger and of the smaller of this model and the one that it is `of`, on prompts that the latter
    answers correctly."""
    from biology.report.numbers import parameters
    from biology.tables import read_tables

    entry = config.model(args.model)
    other = config.model(str(entry.of))
    tables = read_tables(root / "data/runs" / str(entry.of) / args.case, ("prompts", "evidence"))
    correct = tables["prompts"].loc[tables["prompts"]["correct"], "item"]
    others = tables["evidence"].loc[tables["evidence"]["item"].isin(correct)]
    size = {one.path: sum(map(parameters, (root / one.path).glob("*.safetensors"))) for one in (entry, other)}
    return (own, others) if size[entry.path] > size[other.path] else (others, own)


def passing(args: Arguments) -> None:
    """count the prompts that a model answers, by case, set and split: reports/<model>/passing.csv"""
    import pandas as pd

    from biology.cli.opening import cases_of
    from biology.tables import read_table
    from biology.verdicts.passing import passing as counted

    config, root = configuration(args)
    reports, run = writable_folder(root / "reports" / args.model), root / "data/runs" / args.model
    parts = [
        counted(case.name, read_table(run / case.name / "prompts.parquet", "prompts"))
        for case in cases_of(config, root, args.model)
    ]
    artefacts.write_text(reports / "passing.csv", pd.concat(parts).to_csv(index=False, lineterminator="\n"))


def judge(args: Arguments) -> None:
    """compute a verdict for every registered claim of a model"""
    config, root = configuration(args)
    from biology.cases.case import discover_cases, load_case
    from biology.cases.claim_file import load_claims
    from biology.report.pages import manifest_of
    from biology.tables import read_tables, write_table
    from biology.verdicts.claims import judge_all, with_minimum, with_thresholds
    from biology.verdicts.expectations import load_expectations
    from biology.verdicts.found_members import Members
    from biology.verdicts.measuring import Meta, measure, worst_residual
    from biology.verdicts.registration import check_lock, registered

    check_lock(root)
    runs = root / "data/runs" / args.model
    manifest = manifest_of(runs / "load.json")
    measured, again = [], []
    entry = config.model(args.model)
    for case in config.cases_of(args.model, discover_cases(root, entry.prompts)):
        tables = read_tables(runs / case, ("prompts", "evidence", "graphs", "supernodes"))
        residual = worst_residual(tables["graphs"], tables["prompts"])
        transcoders = manifest["transcoders"]["name"]
        experiments = load_case(root, case, entry.prompts).experiments
        scope = {name: experiment.only for name, experiment in experiments.items()}
        meta = Meta(case, args.model, transcoders, seed=manifest["seed"], row_residual=residual, scope=scope)
        claims = load_claims(root, case)
        claims = claims if entry.prompts is None else with_minimum(claims)
        members = Members(experiments, tables["supernodes"])
        rest = (tables["evidence"], tables["prompts"], meta, config.statistics, members)
        measured += measure(registered(root, case, claims), *rest)
        if args.threshold:
            again += measure(registered(root, case, with_thresholds(claims, args.threshold)), *rest)
    judgement = judge_all(measured)
    if args.threshold:
        _show_thresholds(args.threshold, judgement.verdicts, judge_all(again).verdicts, args.json)
        return
    write_table(runs / "parts.parquet", judgement.parts, "parts")
    write_table(runs / "clusters.parquet", judgement.clusters, "clusters")
    write_table(root / "reports" / args.model / "verdicts.csv", judgement.verdicts, "verdicts")
    if args.json:
        print_table(judgement.verdicts, True)
        return
    _beside_expectations(load_expectations(root).get(args.model, {}), judgement.verdicts)


def _beside_expectations(expected: dict[str, dict[str, Expectation]], verdicts: pd.DataFrame) -> None:
    """Prints, for each claim, the verdict expected of this model before it was run, and the verdict found."""
    for row in verdicts.itertuples():
        expectation = expected.get(row.case, {}).get(row.claim)
        if expectation is not None:
            agrees = "as expected" if expectation.verdict == row.verdict else f"expected was {expectation.verdict}"
            print(f"{row.claim}: {row.verdict}, {agrees} ({expectation.because})")


def _show_thresholds(wanted: list[str], registered: pd.DataFrame, own: pd.DataFrame, as_json: bool) -> None:
    """Prints the verdicts on some claims beside those at a reader's own thresholds; writes nothing."""
    from biology.records import InputError

    names = {text.partition("=")[0].partition("/")[0] for text in wanted}
    unknown = names - set(registered["claim"])
    if unknown:
        raise InputError(f"--threshold: unknown claim '{min(unknown)}'. Known: {', '.join(registered['claim'])}.")
    pairs = registered.merge(own, on="claim", suffixes=("", "_own"))
    if as_json:
        chosen = pairs["claim"].isin(sorted(names))
        print_table(pairs.loc[chosen, ["claim", "verdict", "reason", "verdict_own", "reason_own"]], True)
        return
    for row in pairs.itertuples():
        if row.claim in names:
            print(f"{row.claim}: {row.verdict} (registered)\n    {row.reason}")
            own_reason = str(row.reason_own).replace("registered minimum", "minimum")
            print(f"  with your threshold: {row.verdict_own}\n    {own_reason}")


def card(args: Arguments) -> None:
    """write what a downloaded model is, what it answers, and what came out: reports/<model>/README.md"""
    import json

    import pandas as pd

    from biology.findings.model_card import card as written
    from biology.models.memory import shape_of
    from biology.report.numbers import parameters
    from biology.tables import read_table

    config, root = configuration(args)
    entry = config.model(args.model)
    run, reports, path = root / "data/runs" / args.model, root / "reports" / args.model, root / entry.path
    text = written(
        json.loads((run / "load.json").read_text(encoding="utf-8")),
        shape_of(path),
        sum(map(parameters, path.glob("*.safetensors"))),
        pd.read_csv(reports / "passing.csv"),
        read_table(run / "fidelity.parquet", "fidelity"),
        pd.read_csv(reports / "verdicts.csv"),
    )
    artefacts.write_text(reports / "README.md", text)


def compare(args: Arguments) -> None:
    """compare seeds, twins and random controls with what is expected of them"""
    config, root = configuration(args)
    from biology.verdicts.discrimination import discrimination
    from biology.verdicts.robustness import across_methods, summary
    from biology.verdicts.robustness import compare as compared

    rows = compared(root, config)
    made = {"robustness": rows, "discrimination": discrimination(root, config)}
    for name, frame in made.items():
        artefacts.write_text(root / f"reports/{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    print_table(summary(rows), args.json)
    for name in () if args.json else across_methods(rows):
        print(f"{name} was judged by another rule than what it is compared with: judge it again (columns method)")


def draw(args: Arguments) -> None:
    """draw one figure of a case, as SVG and PNG"""
    _, root, case, folder = case_of(args)
    from biology.figures.case_figures import draw as drawn
    from biology.tables import read_table, read_tables

    tables = read_tables(folder) | {"parts": read_table(folder.parent / "parts.parquet", "parts")}
    for form, data in drawn(args.figure, tables, case).items():
        artefacts.write_bytes(root / "figures" / args.model / args.case / f"{args.figure}.{form}", data)


def draw_story(args: Arguments) -> None:
    """draw a case on one sheet: the paper's arrows, its best-known intervention, and all verdicts"""
    _, root, case, folder = case_of(args)
    import pandas as pd

    from biology.cases.claim_file import load_claims
    from biology.figures.drawing import FORMS, saved, styled
    from biology.findings.story import story
    from biology.findings.story_sheet import sheet
    from biology.records import InputError
    from biology.tables import read_tables

    told = story(case, read_tables(folder))
    if told is None:
        raise InputError(f"case {case.name}: case.yaml has no `story`, so there is no sheet to draw")
    verdicts = pd.read_csv(root / "reports" / args.model / "verdicts.csv", index_col="claim")["verdict"].to_dict()
    claims = load_claims(root, args.case)
    with styled():
        drawn = sheet(
            case.name.replace("_", " "), args.model, told, claims, {claim.id: verdicts[claim.id] for claim in claims}
        )
    for form, data in saved(drawn, FORMS).items():
        artefacts.write_bytes(root / "figures" / args.model / args.case / f"story.{form}", data)


def write(args: Arguments) -> None:
    """write a case's report and its scored prompts (--model, --case), a page of a model (--model, --page), or the index of all reports"""
    if args.page is not None:
        from biology.records import InputError
        from biology.report.atlas_page import atlas_page
        from biology.report.steer_page import steer_page

        if args.model is None:
            raise InputError(f"--page {args.page} needs --model NAME.")
        config, root = configuration(args)
        config.model(args.model)
        path = root / "reports" / args.model / f"{args.page}.html"
        if args.page == "atlas":
            artefacts.write_bytes(path, atlas_page(root, config, args.model))
        else:
            artefacts.write_text(path, steer_page(root, config, args.model))
        return
    if args.model is None:
        from biology.config import known_models
        from biology.report.index_page import index_page
        from biology.report.pages import text_pages

        config, root = configuration(args)
        judged = {
            name: known
            for name, known in known_models().items()
            if name not in config.models and (root / "reports" / name / "verdicts.csv").is_file()
        }
        config = config.model_copy(update={"models": config.models | judged})
        for name, page in text_pages(root).items():
            artefacts.write_text(root / f"reports/{name}.html", page)
        artefacts.write_text(root / "reports/index.html", index_page(root, config))
        return
    from biology.report.case_report import case_page, scored_prompts
    from biology.tables import write_table

    config, root, case, _ = case_of(args)
    folder = root / "reports" / args.model
    write_table(folder / f"{args.case}_prompts.csv", scored_prompts(root, args.model, case), "scored")
    artefacts.write_text(folder / f"{args.case}.html", case_page(root, config, args.model, case))


def lab(args: Arguments) -> None:
    """write the page in which a small model runs by itself: reports/<model>/lab.html"""
    from biology.report.lab_page import lab_page

    config, root = configuration(args)
    artefacts.write_bytes(root / "reports" / args.model / "lab.html", lab_page(root, config, args.model))
