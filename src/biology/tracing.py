"""Single prompts: the attribution graph of one's own prompt as files and in words, and how long graphs take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.stages import configuration, open_model

if TYPE_CHECKING:
    from biology.config import AttributionConfig, ModelConfig
    from biology.graph import Graph
    from biology.model import Model

Arguments = argparse.Namespace


def trace(args: Arguments) -> None:
    """trace a prompt of your own: its attribution graph as files, its strongest paths in words"""
    from biology.config import InputError

    if (args.text is None) == (args.token_ids is None):
        raise InputError("give either a prompt or --token-ids.")
    entry, root, settings = _subject(args)
    model, transcoders = open_model(entry, root, Path(args.model).name, threads=None)
    from biology.attribution import attribute
    from biology.graph import prune
    from biology.model import encode

    graph = attribute(
        model,
        transcoders,
        encode(model, args.text) if args.token_ids is None else _token_ids(args.token_ids, model),
        max_logits=settings.max_logits if args.max_logits is None else args.max_logits,
        logit_probability=settings.logit_probability,
        max_feature_nodes=settings.max_feature_nodes if args.max_nodes is None else args.max_nodes,
    )
    masks = prune(graph, settings.node_threshold, settings.edge_threshold)
    _describe(graph, args.paths)
    if args.out:
        _write(Path(args.out), graph, masks, model.name, args.text or f"token ids {args.token_ids}", settings)
        print(f"\nWritten to {args.out}: graph.json, graph.safetensors, nodes.parquet")


def bench(args: Arguments) -> None:
    """time the attribution engine on the named prompts of all cases of a model"""
    import time

    config, root = configuration(args)
    model, transcoders = open_model(config.model(args.model), root, args.model, config.threads)
    from biology.attribution import attribute
    from biology.case import discover_cases, load_case
    from biology.model import encode

    print(f"{'case':<16}{'prompt':<20}{'tokens':>7}{'features':>9}{'nodes':>7}{'seconds':>9}")
    for name in config.cases_of(args.model, discover_cases(root)):
        for prompt, shown in load_case(root, name).prompts.items():
            ids, seconds = encode(model, shown.text), []
            for _ in range(args.repeat):
                started = time.perf_counter()
                graph = attribute(model, transcoders, ids)
                seconds.append(time.perf_counter() - started)
            size = f"{len(ids):>7}{graph.metadata['n_active']:>9}{graph.n_nodes:>7}{min(seconds):>9.3f}"
            print(f"{name:<16}{prompt:<20}{size}")


def _describe(graph: Graph, n_paths: int) -> None:
    """Outputs, scores and strongest paths, on the screen."""
    from biology.graph import describe, scores, strongest_paths, target_labels

    probabilities = graph.probability[graph.logits].tolist()
    for probability, label in zip(probabilities, target_labels(graph), strict=True):
        print(f"{probability:7.2%}  {label}")
    score = scores(graph)
    print(f"\nreplacement score {score.replacement:.3f}, completeness {score.completeness:.3f}, {graph.n_nodes} nodes")
    print("\nStrongest paths (share of the influence on the outputs, sign):")
    for path in strongest_paths(graph, n_paths):
        print(describe(graph, path))


def _write(out: Path, graph: Graph, masks: Any, scan: str, prompt: str, settings: AttributionConfig) -> None:
    from biology.graph_json import arrays, export_json, nodes_table

    pruning = {"node_threshold": settings.node_threshold, "edge_threshold": settings.edge_threshold}
    exported = export_json(graph, *masks, slug=out.name, scan=scan, prompt=prompt, pruning_settings=pruning)
    artefacts.write_tensors(out / "graph.safetensors", arrays(graph, *masks))
    artefacts.write_columns(out / "nodes.parquet", nodes_table(graph))
    artefacts.write_json(out / "graph.json", exported)


def _subject(args: Arguments) -> tuple[ModelConfig, Path, AttributionConfig]:
    """What to trace: a model of config.yaml, or directories; and the settings that hold for it."""
    from biology.config import AttributionConfig, InputError, ModelConfig

    settings = AttributionConfig()
    if Path(args.config).is_file():
        config, root = configuration(args)
        settings = config.attribution
        if args.model in config.models:
            entry = config.models[args.model]
            given = {"device": args.device or entry.device, "path": root / entry.path}
            given["transcoders"] = Path(args.transcoders) if args.transcoders else root / entry.transcoders
            return entry.model_copy(update=given), Path(), settings
        if not Path(args.model).is_dir():
            config.model(args.model)
    if not Path(args.model).is_dir():
        raise InputError(f"unknown model '{args.model}': no directory, and there is no {args.config} to look it up in.")
    if not args.transcoders:
        raise InputError("a model given as a directory needs --transcoders DIR.")
    entry = ModelConfig(path=Path(args.model), transcoders=Path(args.transcoders), device=args.device or "cpu")
    return entry, Path(), settings


def _token_ids(text: str, model: Model) -> list[int]:
    from biology.config import InputError

    try:
        ids = [int(piece) for piece in text.split(",")]
    except ValueError:
        raise InputError(f"--token-ids takes numbers separated by commas, not '{text}'.") from None
    for token in ids:
        if not 0 <= token < model.n_vocab:
            raise InputError(f"--token-ids: {token} is no token of a vocabulary of {model.n_vocab}.")
    return ids
