"""The stages of the pipeline as commands: each reads files, calls a module, and writes files.

Their order is that of the Snakefile, which runs them in one process per model and case. Modules are imported inside the functions,
so that `biology --help` answers at once and judging, drawing and writing never import torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.cli.arguments import writable_folder
from biology.cli.opening import (
    asked_cases,
    case_of,
    cases_of,
    configuration,
    gates_passed,
    held_out,
    open_alone,
    open_model,
    start_torch,
    verified,
)

if TYPE_CHECKING:
    from biology.cases.case import Case
    from biology.config import Config, ModelConfig
    from biology.evidence.case_context import CaseContext
    from biology.transcoders.activations import FeatureCache

Arguments = argparse.Namespace


def load(args: Arguments) -> None:
    """check a model and its transcoders: shapes, hooks, hashes, freezing, fidelity, influence against ablation"""
    config, root = configuration(args)
    entry = config.model(args.model)
    folder = writable_folder(root / "data/runs" / args.model)
    sources = verified(entry, root, args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.models.freezing import self_test
    from biology.models.gguf_files import source, told
    from biology.provenance import versions
    from biology.supernodes.behaviour import fidelity
    from biology.tables import write_table
    from biology.validation.ablation import PROMPTS, ablation_correlations

    cases = asked_cases(model, config, root, args.model)
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
        "versions": versions(),
    }
    made_of = source(root / entry.path)
    if made_of is not None:
        manifest["quantised"] = told(made_of)
    if entry.sources:
        manifest |= {"sources": sources, "gates": gates_passed(model, entry)}
    if entry.at_most is not None:
        manifest["at_most"] = entry.at_most
    prompts, most = held_out(root / entry.path, cases), min(PROMPTS, entry.at_most or PROMPTS)
    measured = [fidelity(model, transcoders, prompts), ablation_correlations(model, transcoders, prompts, most)]
    write_table(folder / "fidelity.parquet", pd.concat(measured), "fidelity")
    artefacts.write_json(folder / "load.json", manifest)


def _dictionary_files(entry: ModelConfig, root: Path) -> tuple[Any, ...]:
    """Folder and patterns of the files that define the features: those of the model itself if neurons are the features."""
    if entry.neurons:
        return root / entry.path, "*.safetensors"
    return root / entry.transcoders, "**/*.safetensors", "**/*.npz"


def cache(args: Arguments) -> None:
    """run every prompt of a case once: its answer and its active features"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.supernodes.behaviour import prompts_table
    from biology.supernodes.case_prompts import in_chats
    from biology.tables import write_table
    from biology.transcoders.activations import pack

    features, prompts = prompts_table(model, transcoders, in_chats(model, case))
    artefacts.write_tensors(folder / "cache.safetensors", pack(features))
    write_table(folder / "cache.parquet", prompts, "prompts")


def group(args: Arguments) -> None:
    """find the members of the supernodes by their rules"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.evidence.case_evidence import find_supernodes
    from biology.supernodes.case_prompts import in_chats
    from biology.tables import read_table, write_table

    prompts, features = read_table(folder / "cache.parquet", "prompts"), _features(folder)
    found = find_supernodes(model, transcoders, in_chats(model, case), prompts, features, config.statistics.seed)
    write_table(folder / "group.parquet", found.members, "supernodes")
    write_table(folder / "group_sites.parquet", found.sites, "sites")
    write_table(folder / "group_operands.parquet", found.operands, "operands")
    write_table(folder / "group_plots.parquet", found.plots, "operand_plots")


def attribute(args: Arguments) -> None:
    """build the attribution graphs and reduce them to edges between supernodes; what languages share"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    from biology.cases.mechanism import load_mechanism
    from biology.evidence.case_evidence import unperturbed_evidence
    from biology.tables import write_table

    mechanism = load_mechanism(root, case.name)
    variables = mechanism.supernodes if mechanism else frozenset()
    context = _context(args.model, config, root, case, folder)
    reduced, evidence = unperturbed_evidence(context, config.attribution, variables)
    write_table(folder / "attribute.parquet", reduced.graphs, "graphs")
    write_table(folder / "attribute_edges.parquet", reduced.edges, "edges")
    write_table(folder / "attribute_evidence.parquet", evidence, "evidence")
    artefacts.write_json(folder / "graphs.json", reduced.shown)


def intervene(args: Arguments) -> None:
    """perturb supernodes, each time beside its controls"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    from biology.evidence.case_evidence import perturbed_evidence
    from biology.tables import write_table

    evidence, panel = perturbed_evidence(_context(args.model, config, root, case, folder), args.cores)
    write_table(folder / "intervene.parquet", evidence, "evidence")
    write_table(folder / "intervene_panel.parquet", panel, "panel")


def decompose(args: Arguments) -> None:
    """take the sites of supernodes apart on held-out prompts, to say which part is at fault: model, dictionary or rule: reports/<model>/site_parts.csv"""
    config, root = configuration(args)
    reports, run = writable_folder(root / "reports" / args.model), root / "data/runs" / args.model
    entry = config.model(args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.cases.found_sites import has_sites
    from biology.cases.mechanism import load_mechanism
    from biology.cli.growth import record_of
    from biology.corpora.lessons import corpus_of, lesson_of
    from biology.records import InputError
    from biology.supernodes.planted_sites import planted_parts
    from biology.supernodes.site_parts import site_parts
    from biology.tables import read_table

    corpus = corpus_of(record_of(root / entry.path), root) if entry.planted else None
    parts = []
    for case in cases_of(config, root, args.model):
        mechanism = load_mechanism(root, case.name) if corpus is not None else None
        if not has_sites(case.supernodes, mechanism):
            continue
        folder = run / case.name
        prompts, operands = (
            read_table(folder / f"{file}.parquet", name)
            for file, name in (("cache", "prompts"), ("group_operands", "operands"))
        )
        sites, rest = read_table(folder / "group_sites.parquet", "sites"), (config.statistics, operands)
        features = _features(folder)
        parts.append(site_parts(model, transcoders, case, prompts, features, sites, *rest))
        if corpus is not None and mechanism is not None:
            lesson = lesson_of(corpus, case.name)
            parts.append(planted_parts(model, transcoders, case, mechanism, lesson, prompts, features, *rest))
    parts = [part for part in parts if len(part)]  # one without rows would make the numbers of all another type
    if not parts:
        raise InputError(
            f"model '{args.model}': no supernode of its cases has `at: found`, and none has the position at which its variable was "
            "planted, so no site can be taken apart."
        )
    text = pd.concat(parts).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    artefacts.write_text(reports / "site_parts.csv", text)


def exchange(args: Arguments) -> None:
    """exchange mean residual streams between prompts: what the model holds where, without transcoders"""
    config, root = configuration(args)
    entry = config.model(args.model)
    folder, reports = (writable_folder(root / part / args.model) for part in ("data/runs", "reports"))
    start_torch(config.threads)

    from biology.evidence.contrasts import stream_contrasts
    from biology.evidence.line_evidence import exchange_lines
    from biology.evidence.mean_streams import exchange_means
    from biology.tables import stacked, write_table

    model = open_alone(entry, root, args.model)
    cases = asked_cases(model, config, root, args.model)
    parts = [
        part for case in cases for part in (exchange_means(model, case), exchange_lines(model, case, config.statistics))
    ]
    measured = stacked(parts)
    write_table(folder / "streams.parquet", measured, "streams")
    made = stream_contrasts(measured, config.statistics)
    artefacts.write_text(reports / "streams.csv", made.to_csv(index=False, lineterminator="\n"))


def members(args: Arguments) -> None:
    """write the supernodes of the named prompts, which `biology steer` takes, and words for features: reports/<model>/supernodes.csv, labels.json"""
    import pandas as pd

    from biology.findings.labels import labels_text, role_weights, roles_of
    from biology.supernodes.named_members import labels_key, members_of
    from biology.tables import read_table, read_tables

    config, root = configuration(args)
    entry, reports = config.model(args.model), writable_folder(root / "reports" / args.model)
    run = root / "data/runs" / args.model
    cases = cases_of(config, root, args.model)
    rows = [members_of(root, entry, case, run / case.name) for case in cases]
    weights = [role_weights(case, read_tables(run / case.name, ("supernodes", "prompts", "sites"))) for case in cases]
    artefacts.write_text(
        reports / "labels.json",
        labels_text(roles_of(weights, read_table(run / "atlas.parquet", "atlas")), labels_key(root, entry)),
    )
    artefacts.write_text(reports / "supernodes.csv", pd.concat(rows).to_csv(index=False, lineterminator="\n"))


def atlas(args: Arguments) -> None:
    """survey every feature of a model: the prompts that activate it and the tokens that it promotes"""
    config, root = configuration(args)
    entry, folder = config.model(args.model), writable_folder(root / "data/runs" / args.model)
    model, transcoders = open_model(entry, root, args.model, config.threads)
    import pandas as pd

    from biology.supernodes.atlas import PER_SOURCE, PER_SOURCE_OF_LARGE, feature_atlas, sample
    from biology.tables import write_table

    cases = asked_cases(model, config, root, args.model)
    beside = held_out(root / entry.path, [])
    own = pd.DataFrame({"source": beside["behaviour"], "text": beside["prompt"]})
    named = [(case.name, prompt.text) for case in cases for prompt in case.prompts.values()]
    rest = [(case.name, item.text) for case in cases for item in case.items]
    prompts = pd.concat([pd.DataFrame([*named, *rest], columns=["source", "text"]), own], ignore_index=True)
    features, texts = feature_atlas(
        model, transcoders, sample(prompts, PER_SOURCE_OF_LARGE if model.large else PER_SOURCE)
    )
    write_table(folder / "atlas.parquet", features, "atlas")
    write_table(folder / "atlas_prompts.parquet", texts, "atlas_prompts")


def sweep(args: Arguments) -> None:
    """steer the named prompts of a case by supernodes and by single features, on a grid of strengths"""
    config, root, case, folder = case_of(args)
    writable_folder(folder)
    from biology.evidence.sweep import sweep as swept
    from biology.evidence.sweep import sweep_nodes
    from biology.tables import write_table

    context = _context(args.model, config, root, case, folder)
    graphs = json.loads((folder / "graphs.json").read_text(encoding="utf-8"))
    write_table(folder / "steering.parquet", swept(context, progress=True), "steering")
    write_table(folder / "node_steering.parquet", sweep_nodes(context, graphs, progress=True), "node_steering")


def _context(name: str, config: Config, root: Path, case: Case, folder: Path) -> CaseContext:
    """A context for the experiments of a case: the model of this name, and the outputs of earlier stages in `folder`."""
    model, transcoders = open_model(config.model(name), root, name, config.threads)
    from biology.cases.found_sites import with_found_sites
    from biology.evidence.case_context import CaseContext
    from biology.supernodes.case_prompts import in_chats
    from biology.tables import read_table

    case = with_found_sites(in_chats(model, case), read_table(folder / "group_sites.parquet", "sites"))
    prompts = read_table(folder / "cache.parquet", "prompts")
    members = read_table(folder / "group.parquet", "supernodes")
    operands = read_table(folder / "group_operands.parquet", "operands")
    return CaseContext(model, case, prompts, config.statistics, transcoders, members, _features(folder), operands)


def _features(folder: Path) -> FeatureCache:
    """The active features stored by the stage `cache`."""
    from biology.transcoders.activations import FeatureCache, unpack

    features = unpack(artefacts.read_tensors(folder / "cache.safetensors"))
    assert isinstance(features, FeatureCache)
    return features
