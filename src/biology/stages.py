"""The stages of the pipeline as commands: each reads files, calls a module, and writes files.

The order is that of the Snakefile, which runs them one process per model and case. Modules are imported inside the
functions, so that `biology --help` answers at once and judging, drawing and writing never start torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.arguments import writable_folder
from biology.opening import case_of, cases_of, configuration, gates_passed, held_out, open_model, start_torch, verified
from biology.printing import print_table

if TYPE_CHECKING:
    import pandas as pd

    from biology.activations import FeatureCache
    from biology.bench import Bench
    from biology.config import Config, ModelConfig
    from biology.expectations import Expectation

Arguments = argparse.Namespace
MINIMUM_N = 64
"""Fewest items that pass a claim's gate on a model that says `prompts:`; for elegans claims ask for more."""


def load(args: Arguments) -> None:
    """check a model and its transcoders: shapes, hooks, hashes, freezing, fidelity, influence against ablation"""
    config, root = configuration(args)
    entry = config.model(args.model)
    folder = writable_folder(root / "data/runs" / args.model)
    sources = verified(entry, root, args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.ablation import foretold
    from biology.behaviour import fidelity
    from biology.freezing import self_test
    from biology.gguf_files import source, told
    from biology.tables import write_table

    cases = cases_of(config, root, args.model)
    manifest = {
        "model": args.model,
        "seed": entry.seed,
        "dtype": entry.dtype,
        "device": entry.device,
        "architecture": model.architecture,
        "freezing_error": self_test(model),
        "weights": artefacts.contents_hash(root / entry.path, "*.safetensors"),
        "transcoders": {
            "name": f"{transcoders.label}{'' if entry.shuffled is None else ', shuffled'}",
            "weights": artefacts.contents_hash(*_dictionary_files(entry, root)),
            "features": list(transcoders.n_features),
        },
        "versions": artefacts.versions(),
    }
    made_of = source(root / entry.path)
    if made_of is not None:
        manifest["quantised"] = told(made_of)
    if entry.sources:
        manifest |= {"sources": sources, "gates": gates_passed(model, entry)}
    prompts = held_out(root / entry.path, cases)
    measured = [fidelity(model, transcoders, prompts), foretold(model, transcoders, prompts)]
    write_table(folder / "fidelity.parquet", pd.concat(measured), "fidelity")
    artefacts.write_json(folder / "load.json", manifest)


def _dictionary_files(entry: ModelConfig, root: Path) -> tuple[Any, ...]:
    """Folder and patterns of the files that features come from: those of the model itself where neurons are features."""
    if entry.neurons:
        return root / entry.path, "*.safetensors"
    return root / entry.transcoders, "**/*.safetensors", "**/*.npz"


def cache(args: Arguments) -> None:
    """run every prompt of a case once: its answer and its active features"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.activations import pack
    from biology.behaviour import prompts_table
    from biology.tables import write_table

    features, prompts = prompts_table(model, transcoders, case)
    artefacts.write_tensors(folder / "cache.safetensors", pack(features))
    write_table(folder / "cache.parquet", prompts, "prompts")


def group(args: Arguments) -> None:
    """find the members of the supernodes by their rules"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.locating import find_sites
    from biology.operand_tables import read_grid
    from biology.settled import settled
    from biology.supernodes import group as grouped
    from biology.tables import read_table, write_table

    prompts, features = read_table(folder / "cache.parquet", "prompts"), _features(folder)
    sites = find_sites(model, case, prompts, config.statistics.seed)
    case = settled(case, sites)
    operands, plots = read_grid(model, transcoders, case, prompts, features, config.statistics.seed)
    members = grouped(model, transcoders, case, prompts, features, operands)
    write_table(folder / "group.parquet", members, "supernodes")
    write_table(folder / "group_sites.parquet", sites, "sites")
    write_table(folder / "group_operands.parquet", operands, "operands")
    write_table(folder / "group_plots.parquet", plots, "operand_plots")


def attribute(args: Arguments) -> None:
    """build the attribution graphs and reduce them to edges between supernodes; what languages share"""
    config, _, _, folder = case_of(args)
    writable_folder(folder)
    from biology.graph_tables import reduce_graphs
    from biology.sharing import reduce_sharing
    from biology.tables import stacked, write_table

    bench = _bench(args)
    reduced = reduce_graphs(bench, config.attribution)
    write_table(folder / "attribute.parquet", reduced.graphs, "graphs")
    write_table(folder / "attribute_edges.parquet", reduced.edges, "edges")
    evidence = stacked([reduced.evidence, reduce_sharing(bench)])
    write_table(folder / "attribute_evidence.parquet", evidence, "evidence")
    artefacts.write_json(folder / "graphs.json", reduced.shown)


def intervene(args: Arguments) -> None:
    """perturb supernodes, each time beside its controls"""
    _, _, _, folder = case_of(args)
    writable_folder(folder)
    import pandas as pd

    from biology.census import run_census
    from biology.lines import run_lines
    from biology.perturbation import run_experiments
    from biology.tables import write_table

    bench = _bench(args)
    evidence, panel = run_experiments(bench)
    lines, written = run_lines(bench)
    several = [frame for frame in (evidence, lines, run_census(bench)) if len(frame)]
    shown = [frame for frame in (panel, written) if len(frame)]
    write_table(folder / "intervene.parquet", pd.concat(several) if several else evidence, "evidence")
    write_table(folder / "intervene_panel.parquet", pd.concat(shown) if shown else panel, "panel")


def exchange(args: Arguments) -> None:
    """exchange mean residual streams: where the model keeps what, without transcoders"""
    config, root = configuration(args)
    entry = config.model(args.model)
    folder, reports = (writable_folder(root / part / args.model) for part in ("data/runs", "reports"))
    start_torch(config.threads)
    import torch

    from biology.contrasts import stream_contrasts
    from biology.lines import exchange_lines
    from biology.model import load_model
    from biology.streams import exchange_means
    from biology.tables import stacked, write_table

    model = load_model(root / entry.path, name=args.model, device=entry.device, dtype=getattr(torch, entry.dtype))
    cases = cases_of(config, root, args.model)
    parts = [
        part for case in cases for part in (exchange_means(model, case), exchange_lines(model, case, config.statistics))
    ]
    measured = stacked(parts)
    write_table(folder / "streams.parquet", measured, "streams")
    made = stream_contrasts(measured, config.statistics)
    artefacts.write_text(reports / "streams.csv", made.to_csv(index=False, lineterminator="\n"))


def members(args: Arguments) -> None:
    """write the supernodes of the named prompts, which `biology steer` takes: reports/<model>/supernodes.csv"""
    import pandas as pd

    from biology.named_members import members_of

    config, root = configuration(args)
    entry, reports = config.model(args.model), writable_folder(root / "reports" / args.model)
    run = root / "data/runs" / args.model
    rows = [members_of(root, entry, case, run / case.name) for case in cases_of(config, root, args.model)]
    artefacts.write_text(reports / "supernodes.csv", pd.concat(rows).to_csv(index=False, lineterminator="\n"))


def atlas(args: Arguments) -> None:
    """survey every feature of a model: what it answers to, and what it says"""
    config, root = configuration(args)
    entry, folder = config.model(args.model), writable_folder(root / "data/runs" / args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.atlas import sample, survey
    from biology.tables import write_table

    cases = cases_of(config, root, args.model)
    beside = held_out(root / entry.path, [])
    own = pd.DataFrame({"source": beside["behaviour"], "text": beside["prompt"]})
    named = [(case.name, prompt.text) for case in cases for prompt in case.prompts.values()]
    rest = [(case.name, item.text) for case in cases for item in case.items]
    prompts = pd.concat([pd.DataFrame([*named, *rest], columns=["source", "text"]), own], ignore_index=True)
    features, texts = survey(model, transcoders, sample(prompts))
    write_table(folder / "atlas.parquet", features, "atlas")
    write_table(folder / "atlas_prompts.parquet", texts, "atlas_prompts")


def sweep(args: Arguments) -> None:
    """steer the named prompts of a case by supernodes and by single features, on a grid of strengths"""
    _, _, _, folder = case_of(args)
    writable_folder(folder)
    from biology.sweep import sweep as swept
    from biology.sweep import sweep_nodes
    from biology.tables import write_table

    bench, graphs = _bench(args), json.loads((folder / "graphs.json").read_text(encoding="utf-8"))
    write_table(folder / "steering.parquet", swept(bench, progress=True), "steering")
    write_table(folder / "node_steering.parquet", sweep_nodes(bench, graphs, progress=True), "node_steering")


def tabulate(args: Arguments) -> None:
    """write everything measured as tidy tables; nothing after this needs torch"""
    config, root, case, folder = case_of(args)
    from biology.claim_file import load_claims
    from biology.contrasts import computed
    from biology.experiments import Scale
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
    derived = computed(case, claims, evidence[1], measured["edges"], measured["prompts"], sizes)
    measured["evidence"] = stacked([*evidence, *derived])
    for name, frame in measured.items():
        write_table(folder / f"{name}.parquet", frame, name)


def beside_another_size(
    config: Config, root: Path, args: Arguments, own: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evidence of the larger and of the smaller of this model and the one that it is `of`, on prompts that the latter answers
    correctly."""
    from biology.numbers import parameters
    from biology.tables import read_tables

    entry = config.model(args.model)
    other = config.model(str(entry.of))
    tables = read_tables(root / "data/runs" / str(entry.of) / args.case, ("prompts", "evidence"))
    correct = tables["prompts"].loc[tables["prompts"]["correct"], "item"]
    others = tables["evidence"].loc[tables["evidence"]["item"].isin(correct)]
    size = {one.path: sum(map(parameters, (root / one.path).glob("*.safetensors"))) for one in (entry, other)}
    return (own, others) if size[entry.path] > size[other.path] else (others, own)


def judge(args: Arguments) -> None:
    """compute a verdict for every registered claim of a model"""
    config, root = configuration(args)
    from biology.case import discover_cases, load_case
    from biology.claim_file import load_claims
    from biology.claims import judge_all, with_minimum, with_thresholds
    from biology.expectations import load_expectations
    from biology.found import Members
    from biology.measuring import Meta, measure
    from biology.pages import manifest_of
    from biology.registration import check_lock, registered
    from biology.tables import read_tables, write_table

    check_lock(root)
    runs = root / "data/runs" / args.model
    manifest = manifest_of(runs / "load.json")
    measured, again = [], []
    entry = config.model(args.model)
    for case in config.cases_of(args.model, discover_cases(root, entry.prompts)):
        tables = read_tables(runs / case, ("prompts", "evidence", "graphs", "supernodes"))
        scored = tables["prompts"].loc[tables["prompts"]["role"] == "score", "item"]
        exact = tables["graphs"].loc[tables["graphs"]["item"].isin(scored), "row_residual"].to_numpy()
        residual = float(exact.max()) if len(exact) else None
        transcoders = manifest["transcoders"]["name"]
        experiments = load_case(root, case, entry.prompts).experiments
        scope = {name: experiment.only for name, experiment in experiments.items()}
        meta = Meta(case, args.model, transcoders, seed=manifest["seed"], row_residual=residual, scope=scope)
        claims = load_claims(root, case)
        claims = claims if entry.prompts is None else with_minimum(claims, MINIMUM_N)
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
    """Says of each claim what was expected of this model before it was run, and what was found."""
    for row in verdicts.itertuples():
        expectation = expected.get(row.case, {}).get(row.claim)
        if expectation is not None:
            agrees = "as expected" if expectation.verdict == row.verdict else f"expected was {expectation.verdict}"
            print(f"{row.claim}: {row.verdict}, {agrees} ({expectation.because})")


def _show_thresholds(wanted: list[str], registered: pd.DataFrame, own: pd.DataFrame, as_json: bool) -> None:
    """The verdicts of some claims beside those by a reader's own thresholds; nothing is written."""
    from biology.config import InputError

    names = {text.partition("=")[0].partition("/")[0] for text in wanted}
    unknown = names - set(registered["claim"])
    if unknown:
        raise InputError(f"--threshold: unknown claim '{min(unknown)}'. Known: {', '.join(registered['claim'])}.")
    pairs = registered.merge(own, on="claim", suffixes=("", "_own"))
    if as_json:
        print_table(
            pairs.loc[pairs["claim"].isin(sorted(names)), ["claim", "verdict", "reason", "verdict_own", "reason_own"]],
            True,
        )
        return
    for row in pairs.itertuples():
        if row.claim in names:
            print(f"{row.claim}: {row.verdict} (registered)\n    {row.reason}")
            own_reason = str(row.reason_own).replace("registered minimum", "minimum")
            print(f"  with your threshold: {row.verdict_own}\n    {own_reason}")


def compare(args: Arguments) -> None:
    """compare seeds, twins and random controls with what is expected of them"""
    config, root = configuration(args)
    from biology.discrimination import discrimination
    from biology.robustness import across_methods, summary
    from biology.robustness import compare as compared

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
    from biology.figures import draw as drawn
    from biology.tables import read_table, read_tables

    tables = read_tables(folder) | {"parts": read_table(folder.parent / "parts.parquet", "parts")}
    for form, data in drawn(args.figure, tables, case).items():
        artefacts.write_bytes(root / "figures" / args.model / args.case / f"{args.figure}.{form}", data)


def write(args: Arguments) -> None:
    """write the report of a case (--model, --case), a page of a model (--model, --page), or the index of all reports"""
    if args.page is not None:
        from biology.atlas_page import atlas_page
        from biology.config import InputError
        from biology.steer_page import steer_page

        if args.model is None:
            raise InputError(f"--page {args.page} needs --model NAME.")
        config, root = configuration(args)
        config.model(args.model)
        made = {"atlas": atlas_page, "steer": steer_page}[args.page](root, config, args.model)
        artefacts.write_text(root / "reports" / args.model / f"{args.page}.html", made)
        return
    if args.model is None:
        from biology.config import known_models
        from biology.scoreboard import index_page

        config, root = configuration(args)
        judged = {name: known for name, known in known_models().items() if (root / "reports" / name).is_dir()}
        config = config.model_copy(update={"models": judged | config.models})
        artefacts.write_text(root / "reports/index.html", index_page(root, config))
        return
    from biology.report import case_page

    config, root, case, _ = case_of(args)
    page = case_page(root, config, args.model, case)
    artefacts.write_text(root / "reports" / args.model / f"{args.case}.html", page)


def _bench(args: Arguments) -> Bench:
    """Everything that experiments on a case need."""
    config, root, case, folder = case_of(args)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.bench import Bench
    from biology.settled import settled
    from biology.tables import read_table

    case = settled(case, read_table(folder / "group_sites.parquet", "sites"))
    prompts = read_table(folder / "cache.parquet", "prompts")
    members = read_table(folder / "group.parquet", "supernodes")
    operands = read_table(folder / "group_operands.parquet", "operands")
    return Bench(model, case, prompts, config.statistics, transcoders, members, _features(folder), operands)


def _features(folder: Path) -> FeatureCache:
    """What the stage `cache` stored."""
    from biology.activations import FeatureCache, unpack

    features = unpack(artefacts.read_tensors(folder / "cache.safetensors"))
    assert isinstance(features, FeatureCache)
    return features
