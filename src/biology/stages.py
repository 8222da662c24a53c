"""The stages of the pipeline as commands: each reads files, calls a module, and writes files.

The order is that of the Snakefile, which runs them one process per model and case. Modules are imported inside the
functions, so that `biology --help` answers at once and judging, drawing and writing never start torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from biology import artefacts

if TYPE_CHECKING:
    import pandas as pd

    from biology.activations import FeatureCache
    from biology.bench import Bench
    from biology.case import Case
    from biology.config import Config, ModelConfig
    from biology.model import Model
    from biology.transcoders import TranscoderSet

Arguments = argparse.Namespace


def load(args: Arguments) -> None:
    """check a model and its transcoders: shapes, hooks, hashes, freezing, fidelity, influence against ablation"""
    config, root = configuration(args)
    entry = config.model(args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.ablation import foretold
    from biology.behaviour import fidelity
    from biology.case import discover_cases, load_case
    from biology.model import self_test
    from biology.tables import write_table

    cases = [load_case(root, name) for name in config.cases_of(args.model, discover_cases(root))]
    manifest = {
        "model": args.model,
        "seed": entry.seed,
        "dtype": entry.dtype,
        "device": entry.device,
        "architecture": model.architecture,
        "freezing_error": self_test(model),
        "weights": artefacts.contents_hash(root / entry.path, "*.safetensors"),
        "transcoders": {
            "name": f"{transcoders.kind} {transcoders.activation}{'' if entry.shuffled is None else ', shuffled'}",
            "weights": artefacts.contents_hash(root / entry.transcoders, "**/*.safetensors", "**/*.npz"),
            "features": list(transcoders.n_features),
        },
        "versions": artefacts.versions(),
    }
    folder = root / "data/runs" / args.model
    prompts = _held_out(root / entry.path, cases)
    measured = [fidelity(model, transcoders, prompts), foretold(model, transcoders, prompts)]
    write_table(folder / "fidelity.parquet", pd.concat(measured), "fidelity")
    artefacts.write_json(folder / "load.json", manifest)


def cache(args: Arguments) -> None:
    """run every prompt of a case once: its answer and its active features"""
    config, root, case, folder = _case(args)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.activations import pack
    from biology.behaviour import prompts_table
    from biology.tables import write_table

    features, prompts = prompts_table(model, transcoders, case)
    artefacts.write_tensors(folder / "cache.safetensors", pack(features))
    write_table(folder / "cache.parquet", prompts, "prompts")


def group(args: Arguments) -> None:
    """find the members of the supernodes by their rules"""
    config, root, case, folder = _case(args)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.operand_tables import read_grid
    from biology.supernodes import group as grouped
    from biology.tables import read_table, write_table

    prompts, features = read_table(folder / "cache.parquet", "prompts"), _features(folder)
    operands, plots = read_grid(model, transcoders, case, prompts, features, config.statistics.seed)
    members = grouped(model, transcoders, case, prompts, features, operands)
    write_table(folder / "group.parquet", members, "supernodes")
    write_table(folder / "group_operands.parquet", operands, "operands")
    write_table(folder / "group_plots.parquet", plots, "operand_plots")


def attribute(args: Arguments) -> None:
    """build the attribution graphs and reduce them to edges between supernodes; what languages share"""
    config, _, _, folder = _case(args)
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
    _, _, _, folder = _case(args)
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


def tabulate(args: Arguments) -> None:
    """write everything measured as tidy tables; nothing after this needs torch"""
    _, root, case, folder = _case(args)
    from biology.contrasts import contrasts, crossovers
    from biology.tables import read_table, sign_agreement, stacked, write_table

    measured = {
        "prompts": read_table(folder / "cache.parquet", "prompts"),
        "graphs": read_table(folder / "attribute.parquet", "graphs"),
        "edges": read_table(folder / "attribute_edges.parquet", "edges"),
        "supernodes": read_table(folder / "group.parquet", "supernodes"),
        "panel": read_table(folder / "intervene_panel.parquet", "panel"),
        "fidelity": read_table(root / "data/runs" / args.model / "fidelity.parquet", "fidelity"),
        "operands": read_table(folder / "group_operands.parquet", "operands"),
        "operand_plots": read_table(folder / "group_plots.parquet", "operand_plots"),
    }
    evidence = [read_table(folder / f"{stage}.parquet", "evidence") for stage in ("attribute_evidence", "intervene")]
    perturbed = evidence[1]
    for name, experiment in case.experiments.items():
        if experiment.kind == "contrast":
            evidence.append(contrasts(name, experiment.of, experiment.outcomes, perturbed, experiment.share))
        elif experiment.kind == "crossover":
            listed = case.experiments[experiment.of[0]].outcomes
            evidence.append(crossovers(name, experiment.of[0], listed, perturbed, measured["prompts"], experiment.by))
        elif experiment.kind == "signs":
            inhibited = {other: case.experiments[other].inhibit or "" for other in experiment.of}
            evidence.append(sign_agreement(name, inhibited, measured["edges"], perturbed))
    measured["evidence"] = stacked(evidence)
    for name, frame in measured.items():
        write_table(folder / f"{name}.parquet", frame, name)


def judge(args: Arguments) -> None:
    """compute a verdict for every registered claim of a model"""
    config, root = configuration(args)
    from biology.case import check_lock, discover_cases, load_case, load_claims
    from biology.claims import Meta, judge_all, measure, with_thresholds
    from biology.tables import read_tables, write_table

    check_lock(root)
    runs = root / "data/runs" / args.model
    manifest = json.loads((runs / "load.json").read_text(encoding="utf-8"))
    measured, again = [], []
    for case in config.cases_of(args.model, discover_cases(root)):
        tables = read_tables(runs / case, ("prompts", "evidence", "graphs"))
        residual = float(tables["graphs"]["row_residual"].to_numpy().max()) if len(tables["graphs"]) else None
        transcoders = manifest["transcoders"]["name"]
        scope = {name: experiment.only for name, experiment in load_case(root, case).experiments.items()}
        meta = Meta(case, args.model, transcoders, seed=manifest["seed"], row_residual=residual, scope=scope)
        claims, rest = load_claims(root, case), (tables["evidence"], tables["prompts"], meta, config.statistics)
        measured += measure(claims, *rest)
        again += measure(with_thresholds(claims, args.threshold), *rest) if args.threshold else ()
    judgement = judge_all(measured)
    if args.threshold:
        _show_thresholds(args.threshold, judgement.verdicts, judge_all(again).verdicts)
        return
    write_table(runs / "parts.parquet", judgement.parts, "parts")
    write_table(root / "reports" / args.model / "verdicts.csv", judgement.verdicts, "verdicts")


def _show_thresholds(wanted: list[str], registered: pd.DataFrame, own: pd.DataFrame) -> None:
    """The verdicts of some claims beside those by a reader's own thresholds; nothing is written."""
    from biology.config import InputError

    names = {text.partition("=")[0].partition("/")[0] for text in wanted}
    unknown = names - set(registered["claim"])
    if unknown:
        raise InputError(f"--threshold: unknown claim '{min(unknown)}'. Known: {', '.join(registered['claim'])}.")
    pairs = registered.merge(own, on="claim", suffixes=("", "_own"))
    for row in pairs.itertuples():
        if row.claim in names:
            print(f"{row.claim}: {row.verdict} (registered)\n    {row.reason}")
            own_reason = str(row.reason_own).replace("registered minimum", "minimum")
            print(f"  with your threshold: {row.verdict_own}\n    {own_reason}")


def draw(args: Arguments) -> None:
    """draw one figure of a case, as SVG and PNG"""
    _, root, case, folder = _case(args)
    from biology.figures import draw as drawn
    from biology.tables import read_table, read_tables

    tables = read_tables(folder) | {"parts": read_table(folder.parent / "parts.parquet", "parts")}
    for form, data in drawn(args.figure, tables, case).items():
        artefacts.write_bytes(root / "figures" / args.model / args.case / f"{args.figure}.{form}", data)


def write(args: Arguments) -> None:
    """write the report of a case, or the index of all reports if none is named"""
    from biology import report

    if args.model is None:
        config, root = configuration(args)
        artefacts.write_text(root / "reports/index.html", report.index_page(root, config))
        return
    config, root, case, _ = _case(args)
    page = report.case_page(root, config, args.model, case)
    artefacts.write_text(root / "reports" / args.model / f"{args.case}.html", page)


# What the stages share -----------------------------------------------------------------------------------------------


def configuration(args: Arguments, *, shipped: bool = False) -> tuple[Config, Path]:
    """The configuration, and the folder that its paths are relative to; see `config_file` for `shipped`."""
    from biology.config import config_file, load_config

    path = config_file(args.config, shipped=shipped)
    return load_config(path), path.parent


def _case(args: Arguments) -> tuple[Config, Path, Case, Path]:
    """Configuration, root, case, and the folder of results of (model, case)."""
    from biology.case import load_case

    config, root = configuration(args)
    config.model(args.model)
    return config, root, load_case(root, args.case), root / "data/runs" / args.model / args.case


def start_torch(threads: int | None) -> None:
    """Fixes threads and seed, so that the same job gives the same bytes wherever it runs."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)


def open_model(entry: ModelConfig, root: Path, name: str, threads: int | None) -> tuple[Model, TranscoderSet]:
    """A model with its transcoders, on the device of its entry."""
    start_torch(threads)
    import torch

    from biology.config import InputError
    from biology.model import load_model
    from biology.transcoders import load_transcoders, shuffled

    if entry.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model '{name}' is to run on cuda, but torch finds none here: set `device: cpu`.")
    model = load_model(root / entry.path, name=name, device=entry.device, dtype=getattr(torch, entry.dtype))
    transcoders = load_transcoders(root / entry.transcoders, model)
    return model, transcoders if entry.shuffled is None else shuffled(transcoders, entry.shuffled)


def _bench(args: Arguments) -> Bench:
    """Everything that experiments on a case need."""
    config, root, case, folder = _case(args)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.bench import Bench
    from biology.tables import read_table

    prompts = read_table(folder / "cache.parquet", "prompts")
    members = read_table(folder / "group.parquet", "supernodes")
    operands = read_table(folder / "group_operands.parquet", "operands")
    return Bench(model, transcoders, case, prompts, members, _features(folder), config.statistics, operands)


def _features(folder: Path) -> FeatureCache:
    """What the stage `cache` stored."""
    from biology.activations import FeatureCache, unpack

    features = unpack(artefacts.read_tensors(folder / "cache.safetensors"))
    assert isinstance(features, FeatureCache)
    return features


def _held_out(path: Path, cases: list[Case]) -> pd.DataFrame:
    """Prompts to measure fidelity on: the model's own held-out prompts, or else the prompt sets of its cases."""
    import pandas as pd

    if (path / "heldout.parquet").is_file():
        return pd.read_parquet(path / "heldout.parquet")
    rows = [(case.name, item.text, item.answer, item.split) for case in cases for item in case.items]
    rows += [(case.name, shown.text, shown.answer, "shown") for case in cases for shown in case.prompts.values()]
    return pd.DataFrame(rows, columns=["behaviour", "prompt", "answer", "split"])
