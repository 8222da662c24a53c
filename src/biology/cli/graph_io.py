"""Commands that exchange graphs with other projects: Neuronpedia, circuit-tracer, the hosted Claude 3.5 Haiku graphs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from biology import artefacts
from biology.cli.arguments import writable_file, writable_folder
from biology.cli.opening import configuration

Arguments = argparse.Namespace
LIST = "graph-metadata.json"
"""The file from which circuit-tracer's local server lists graphs."""


def export_graphs(args: Arguments) -> None:
    """write the attribution graphs of a case as files for Neuronpedia or circuit-tracer's viewer"""
    from biology.graph_files.dialects import for_circuit_tracer, for_neuronpedia, graph_text, parse_graph
    from biology.records import InputError

    config, root = configuration(args)
    config.model(args.model)
    out = writable_folder(Path(args.out))
    path = root / "data/runs" / args.model / args.case / "graphs.json"
    try:
        graphs = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Make it with `biology attribute`, or with `make figures`.") from None
    if args.prompt is not None and args.prompt not in graphs:
        raise InputError(f"case '{args.case}' has no graph of prompt '{args.prompt}'. Prompts: {', '.join(graphs)}.")
    if args.source_set is not None and args.viewer != "neuronpedia":
        raise InputError("--source-set is a word of Neuronpedia: leave it out.")
    present = _exported(out)
    made: dict[str, dict[str, Any]] = {}
    for item, graph in graphs.items():
        if args.prompt not in (None, item):
            continue
        told = _told(graph, root, args, item)
        read = parse_graph(json.dumps(told), f"{path}, {item}")
        if args.viewer == "neuronpedia":
            read = for_neuronpedia(read, args.scan, args.source_set)
        else:
            read = for_circuit_tracer(read, args.scan)
        slug = read["metadata"]["slug"]
        other = made.get(slug) or present.get(slug)
        if other is not None and _subject(other) != _subject(read):
            raise InputError(
                f"{out / slug}.json is the graph of {' / '.join(map(str, _subject(other)))}, and that of "
                f"{' / '.join(map(str, _subject(read)))} would have the same name: name another folder."
            )
        made[slug] = read
    kept = {slug: graph for slug, graph in present.items() if slug not in made}
    if args.prompt is None:  # prompts that the case no longer has
        gone = {slug for slug, graph in kept.items() if _subject(graph)[:2] == (args.model, args.case)}
        kept = {slug: graph for slug, graph in kept.items() if slug not in gone}
        for slug in gone:
            (out / f"{slug}.json").unlink()
    for slug, graph in made.items():
        artefacts.write_text(out / f"{slug}.json", graph_text(graph))
    written = [f"{slug}.json" for slug in made]
    if args.viewer == "circuit-tracer":
        listed = {"graphs": [graph["metadata"] for _, graph in sorted((kept | made).items())]}
        artefacts.write_json(out / LIST, listed)
        written.append(LIST)
    for name in written:
        print(out / name)


def _exported(out: Path) -> dict[str, dict[str, Any]]:
    """The graphs that `biology export` wrote into a folder, by slug. Raises `InputError` if it holds anything else."""
    from biology.folders import claim
    from biology.records import InputError

    claim(out, ("*.json",), "export")
    found = {}
    for file in sorted(out.glob("*.json")):
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
            if file.name != LIST:
                _ = (read["nodes"], _subject(read))
                found[file.stem] = read
            elif not isinstance(read["graphs"], list):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{file} was not written by `biology export`: name another folder, or empty this one."
            ) from None
    return found


def _subject(graph: dict[str, Any]) -> tuple[str, str, str]:
    """Model, case and prompt of an exported graph."""
    replication = graph["metadata"]["replication"]
    return replication["model"], replication["case"], replication["prompt"]


def import_graph(args: Arguments) -> None:
    """read a graph file of any dialect and write it as a page to explore (.html) or in the canonical form (.json)"""
    from biology.graph_files.dialects import graph_text, read_graph
    from biology.graph_files.saved_view import with_shared_view
    from biology.records import InputError

    path = Path(args.file)
    out = Path(args.out) if args.out else path.with_suffix(".html")
    if out.suffix not in (".html", ".json"):
        raise InputError(f"--out {out}: a page ends in .html, a graph in .json.")
    writable_file(out)
    graph = read_graph(path)
    if out.exists() and out.samefile(path):
        raise InputError(f"--out {out}: this is the file that is read: name another one.")
    if args.link:
        graph = with_shared_view(graph, args.link)
    if out.suffix == ".json":
        artefacts.write_text(out, graph_text(graph))
    else:
        from biology.report.explorer import graph_page

        artefacts.write_text(out, graph_page(graph))
    print(f"{out}: {len(graph['nodes'])} nodes, {len(graph['links'])} links")


def _told(graph: dict[str, Any], root: Path, args: Arguments, item: str) -> dict[str, Any]:
    """The graph of a named prompt with a record of its source, and with labelled features: members are labelled by their
    supernode (the first, if they have several), others by their roles."""
    from biology import __version__
    from biology.cases.case import load_case, titles
    from biology.cases.claim_file import load_claims
    from biology.config import load_config
    from biology.findings.labels import shipped_roles
    from biology.report.explorer import node_labels
    from biology.report.pages import manifest_of

    manifest = manifest_of(root / "data/runs" / args.model / "load.json")
    prompts = load_config(args.config, args.model).model(args.model).prompts
    called = titles(load_case(root, args.case, prompts), item)
    labels: dict[str, str] = {}
    groups = []
    for name, *members in graph["qParams"]["supernodes"]:
        title = str(called.get(name, name.replace("_", " ")))
        own = [member for member in members if member not in labels]  # here a node is in one supernode only
        labels |= dict.fromkeys(own, title)
        groups += [[title, *own]] if own else []
    metadata = graph["metadata"] | {
        "info": graph["metadata"]["info"] | {"generator": {"name": "biology", "version": __version__}},
        "replication": {
            "case": args.case,
            "prompt": item,
            "claim_ids": [claim.id for claim in load_claims(root, args.case)],
            "model": args.model,
            "seed": manifest["seed"],
            "config_sha256": artefacts.contents_hash(root, "config.yaml"),
            "weights_sha256": manifest["weights"],
            "transcoder_sha256": manifest["transcoders"]["weights"],
        },
    }
    labels = node_labels(graph, shipped_roles(root / "reports" / args.model / "labels.json")) | labels
    nodes = [node | {"clerp": node["clerp"] or labels.get(node["node_id"], "")} for node in graph["nodes"]]
    return graph | {"metadata": metadata, "qParams": graph["qParams"] | {"supernodes": groups}, "nodes": nodes}
