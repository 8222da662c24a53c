"""Traces a single prompt of your own: its attribution graph as files and in words."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biology import artefacts
from biology.cli.arguments import writable_folder
from biology.cli.opening import labels_of, open_model, roles_of, subject
from biology.folders import claim, replaced
from biology.models.text import visible
from biology.printing import print_json

if TYPE_CHECKING:
    from biology.attention.edge_heads import EdgeByHeads
    from biology.attention.matches import Match
    from biology.attribution.graph import Graph
    from biology.attribution.graph_memory import Estimate, Sizes
    from biology.attribution.graph_paths import GraphPath, Group, InWords
    from biology.attribution.targets import Target
    from biology.config import AttributionConfig
    from biology.findings.labels import Roles
    from biology.models.model import Model

Arguments = argparse.Namespace
INEXACT = 1e-4
"""Row residual above which `trace` reports that a graph does not add up."""
GRAPH, TENSORS, NODES, PAGE = FILES = ("graph.json", "graph.safetensors", "nodes.parquet", "graph.html")


def trace(args: Arguments) -> None:
    """trace a prompt of your own: its attribution graph as files, its strongest routes and paths in words"""
    from biology.records import InputError

    if (args.text is None) == (args.token_ids is None):
        raise InputError("give either a prompt or --token-ids.")
    if args.chat and args.text is None:
        raise InputError("--chat puts a prompt into the chat template: give a prompt.")
    if args.target and (args.explain or args.max_logits is not None):
        raise InputError("--target says what to explain: leave out --explain and --max-logits.")
    if args.features is not None and args.max_nodes is not None:
        raise InputError("give either --features (the feature nodes) or --max-nodes (how many to choose).")
    if args.open and args.out is None:
        raise InputError("--open needs --out DIR: it shows the page that is written there.")
    if args.heads and "live" in (args.attention, args.norms):
        raise InputError("--heads needs frozen attention and norms: leave out `live`.")
    out = None if args.out is None else writable_folder(Path(args.out))
    if out is not None:
        claim(out, FILES, "trace")
    chosen = _features(Path(args.features)) if args.features else None
    entry, settings = subject(args)
    model, transcoders = open_model(entry, Path(), Path(args.model).name, threads=None)
    from biology.models.mapped_weights import free_pages_after_use

    give_back = free_pages_after_use(model.bridge.original_model)
    from tqdm import tqdm

    from biology.attention.edge_heads import edges_between_tokens, edges_by_heads
    from biology.attention.matches import matches
    from biology.attribution.assembly import MEMORY, attribute
    from biology.attribution.graph import prune
    from biology.attribution.graph_paths import describe_route, strongest_paths, strongest_routes, token_texts
    from biology.attribution.live_effects import live_share
    from biology.models.model import encode
    from biology.models.tokenizer import in_chat
    from biology.validation.ablation import agreement

    text: str | None = in_chat(model.tokenizer, model.name, args.text) if args.chat and args.text else args.text
    budget = settings.max_feature_nodes if args.max_nodes is None else args.max_nodes
    with tqdm(desc="rows", unit="row", delay=2) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            give_back()

        graph = attribute(
            model,
            transcoders,
            _token_ids(args.token_ids, model) if text is None else encode(model, text),
            targets=[target_of(model, text, target, args.position) for target in args.target] if args.target else None,
            max_logits=settings.max_logits if args.max_logits is None else args.max_logits,
            logit_probability=settings.logit_probability,
            max_feature_nodes=None if chosen is not None else budget,
            features=chosen,
            position=args.position,
            memory=MEMORY if args.memory is None else int(args.memory * 2**30),
            progress=progress,
            on_estimate=lambda sizes, estimate: _check_memory(sizes, estimate, model),
            attention=args.attention,
            norms=args.norms,
            explain=args.explain or ("contrast" if entry.neurons else "logits"),
        )
    graph.metadata["live_share"] = live_share(graph) if graph.frozen is not None else None
    graph.metadata["ablation_prediction"] = agreement(model, transcoders, graph.metadata["token_ids"], graph)
    masks = prune(graph, settings.node_threshold, settings.edge_threshold)
    paths = strongest_paths(graph, args.paths)
    between = edges_between_tokens(graph, masks[1], args.heads) if args.heads else []
    carried = edges_by_heads(model, transcoders, graph, between)
    matched = matches(model, transcoders, graph, carried)
    shown = masks[0].nonzero().flatten().tolist() if out is not None else []
    shown += [node for path in paths for node in path.nodes] + [node for edge in between for node in edge[:2]]
    named = _features_among(graph, shown) + [place for match in matched if match for place in match.features()]
    roles = roles_of(args)
    labels = labels_of(roles, model, transcoders, named, token_texts(graph))
    groups = _by_role(graph, roles)
    routes = (
        [describe_route(graph, route, groups) for route in strongest_routes(graph, groups, args.paths)]
        if groups
        else []
    )
    heads = [_heads_told(*each, labels) for each in zip(carried, matched, strict=True)]
    if out is not None:
        by_edge = {(edge.target, edge.source): parts for edge, parts in zip(carried, heads, strict=True)}
        _write(out, graph, masks, labels, model.name, text or f"token ids {args.token_ids}", settings, by_edge)
    if args.json:
        told = _told(graph, args, model.name, paths, labels) | {"routes": [one._asdict() for one in routes]}
        told |= {"heads": _edges_told(graph, carried, heads, labels)} if args.heads else {}
        print_json(told | {"files": [] if out is None else [str(out / name) for name in FILES]})
    else:
        _describe(graph, paths, routes, labels)
        if args.heads:
            _describe_heads(graph, carried, matched, labels)
    if out is not None:
        if not args.json:
            print(f"\nWritten to {out}: {', '.join(FILES)}")
        if args.open:
            import webbrowser

            webbrowser.open((out / PAGE).resolve().as_uri())


def _check_memory(sizes: Sizes, estimate: Estimate, model: Model) -> None:
    """Prints how much memory a prompt will take, unless it is little. Raises `InputError`, with what fits, if it is too
    much."""
    from biology.attribution import graph_memory
    from biology.models import memory

    if sizes.active and estimate.total > memory.SMALL:
        print(f"{sizes.n_pos} tokens, {sizes.n_active} active features: memory {estimate}", file=sys.stderr)
    graph_memory.require(sizes, estimate, model.device)


def target_of(model: Model, prompt: str | None, text: str, position: int) -> Target:
    """The target to explain, from its text: `Austin`, `Austin - Sacramento`, `feature 3/120@7`, `#17`."""
    from biology.attribution.targets import ContrastTarget, FeatureTarget, TokenTarget
    from biology.models.model import answer_token
    from biology.records import InputError

    feature = re.fullmatch(r"feature (\d+)/(\d+)@(-?\d+)", text)
    if feature:
        layer, index, where = map(int, feature.groups())
        return FeatureTarget(layer, where, index)

    def token(word: str) -> int:
        if re.fullmatch(r"#\d+", word):
            return int(word[1:])
        if prompt is None:
            raise InputError(f"--target {word}: beside --token-ids a token is named by its id, as #17.")
        return answer_token(model, prompt, word)

    positive, minus, negative = text.partition(" - ")
    return ContrastTarget(token(positive), token(negative), position) if minus else TokenTarget(token(text), position)


def _features(path: Path) -> list[tuple[int, int, int]]:
    """Feature nodes from a CSV file or a nodes.parquet: columns layer, pos, feature (other kinds of nodes are skipped)."""
    from biology.records import InputError

    columns = ["layer", "pos", "feature"]
    try:
        import pandas as pd

        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        if "kind" in frame:
            frame = frame[frame["kind"] == "feature"]
        numbers = frame[columns].astype(int)
        if not bool((numbers == frame[columns]).to_numpy().all()):
            raise ValueError("some are not whole numbers")
        return [tuple(row) for row in numbers.to_numpy().tolist()]
    except FileNotFoundError:
        raise InputError(f"--features: there is no file {path}.") from None
    except (KeyError, ValueError, OSError) as error:
        raise InputError(
            f"--features: {path} is not a table with whole numbers in columns {columns}: {error}"
        ) from None


def _by_role(graph: Graph, roles: Roles) -> list[Group]:
    """The features of a graph that have a role at their token, by the first of their roles and by token."""
    from biology.attribution.graph_paths import Group, token_texts

    nodes = range(graph.n_nodes)[graph.features]
    found = roles.grouped(_features_among(graph, nodes), token_texts(graph))
    return [Group(role, [nodes[place] for place in places]) for (role, _), places in found.items()]


def _features_among(graph: Graph, nodes: Iterable[int]) -> list[tuple[int, int, int]]:
    from biology.attribution.graph import FEATURE

    kinds, layers, numbers, places = (part.tolist() for part in (graph.kind, graph.layer, graph.feature, graph.pos))
    return [(layers[node], numbers[node], places[node]) for node in nodes if kinds[node] == FEATURE]


def _describe(
    graph: Graph, paths: list[GraphPath], routes: list[InWords], labels: Mapping[tuple[int, int], str]
) -> None:
    """Prints outputs, scores, strongest routes and strongest paths."""
    from biology.attribution.graph import scores
    from biology.attribution.graph_paths import describe
    from biology.records import InputWarning

    score = scores(graph)
    trust = f"   (graph: {score.replacement:.0%} from the prompt, the rest from errors)"
    for token, probability, value, label in _outputs(graph):
        # a target that is not a token has no probability; the id distinguishes similar tokens ("Paris", " Paris")
        of = "  (difference of their logits)" if " - " in label else ""
        said = (
            f'{probability:7.2%}  "{visible(label)}"  #{token}'
            if token >= 0
            else f"{value:+7.2f}  {visible(label)}{of}"
        )
        print(said + trust)
        trust = ""
    residual = graph.metadata["row_residual"]
    print(f"\nreplacement score {score.replacement:.3f}, completeness {score.completeness:.3f}, {graph.n_nodes} nodes")
    print(f"rows (incoming edges + bias = pre-activation) add up to within {residual:.1e} of their terms")
    if (live := graph.metadata["live_share"]) is not None:
        print(
            f"{live:.1%} of the influence runs through {_live_parts(graph)}, the rest through what is frozen in the papers' graphs"
        )
    correlation, n = graph.metadata["ablation_prediction"]
    if n > 1:
        print(
            f"influence predicts what ablation does, everything live, with a rank correlation of {correlation:.2f} ({n} features)"
        )
    if not residual <= INEXACT:
        warnings.warn(
            f"rows are off by up to {residual:.1e} of their terms, more than {INEXACT:.0e}: edges do not explain what they lead "
            "to (half precision does this; trace in float32)",
            InputWarning,
            stacklevel=2,
        )
    if routes:
        print(
            "\nStrongest routes (share of the influence on the outputs, sign; features of one role are one step, all others are passed through):"
        )
        print(*(visible(str(one)) for one in routes), sep="\n")
    if paths:
        by_feature = ", feature by feature" if routes else " (share of the influence on the outputs, sign)"
        print(f"\nStrongest paths{by_feature}:")
    for path in paths:
        print(visible(str(describe(graph, path, labels))))
    if labels:
        print(
            "\nA feature's name is a role that rules of a case find it for, or else the tokens that its decoder clearly raises."
        )


def _live_parts(graph: Graph) -> str:
    """What is live in a graph, in words."""
    words = {"attention": "queries and keys", "norms": "the scales of norms"}
    return " and ".join(said for key, said in words.items() if graph.metadata[key] == "live")


def _describe_heads(
    graph: Graph, carried: list[EdgeByHeads], matched: list[Match | None], labels: Mapping[tuple[int, int], str]
) -> None:
    """Prints which heads carry edges, and what the first head of each matched."""
    from biology.attention.edge_heads import head_name

    if not carried:
        print("\nNo edge of the pruned graph leads from one token to another.")
        return
    print(
        "\nHeads that carry the strongest edges between tokens (share of the influence, sign; what the edge loses without a head;"
    )
    print("the attention of the first head, and which nodes of its query and key make most of its score):")
    seen: list[Match] = []
    for edge, match in zip(carried, matched, strict=True):
        for line, indent in zip(edge.in_words(graph, labels), (0, 11), strict=True):
            print(f"{'':{indent}}{visible(line)}")
        if match is not None and match not in seen:  # edges of one head and step share it
            seen.append(match)
            pairs = "; ".join(f"{query} x {key} {value:+.2f}" for query, key, value in match.told(labels))
            head = head_name(*edge.heads[0][:2])
            print(f"{'':11}{head} attends there with {match.attention:.0%}, score {match.score:+.2f}: {visible(pairs)}")


def _heads_told(edge: EdgeByHeads, match: Match | None, labels: Mapping[tuple[int, int], str]) -> list[dict[str, Any]]:
    """The heads of one edge as data; the first with what it matched."""
    heads: list[dict[str, Any]] = [part._asdict() for part in edge.heads]
    if match is not None:
        pairs = [{"query": query, "key": key, "value": value} for query, key, value in match.told(labels)]
        heads[0] |= {"attention": match.attention, "score": match.score, "matched": pairs}
    return heads


def _edges_told(
    graph: Graph,
    carried: list[EdgeByHeads],
    heads: list[list[dict[str, Any]]],
    labels: Mapping[tuple[int, int], str],
) -> list[dict[str, Any]]:
    """The output of `_describe_heads` as data."""
    from biology.attribution.graph_paths import node_label

    return [
        {"source": node_label(graph, edge.source, labels), "target": node_label(graph, edge.target, labels)}
        | {"share": edge.share, "weight": edge.weight, "heads": parts}
        for edge, parts in zip(carried, heads, strict=True)
    ]


def _outputs(graph: Graph) -> list[tuple[int, float, float, str]]:
    """Token id (negative where the target is no token), probability, pre-activation and label of every target."""
    from biology.attribution.graph_paths import target_labels

    shown = (graph.token_id, graph.probability, graph.pre_activation)
    return list(zip(*(each[graph.logits].tolist() for each in shown), target_labels(graph), strict=True))


def _told(
    graph: Graph, args: Arguments, model: str, paths: list[GraphPath], labels: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    """The output of `_describe` as data."""
    from biology.attribution.graph import scores
    from biology.attribution.graph_paths import describe

    score = scores(graph)
    return {
        "model": model,
        "prompt": args.text,
        "outputs": [
            {"label": label, "pre_activation": value}
            | ({"token": token, "probability": probability} if token >= 0 else {})
            for token, probability, value, label in _outputs(graph)
        ],
        "replacement_score": score.replacement,
        "completeness_score": score.completeness,
        "nodes": graph.n_nodes,
        "row_residual": graph.metadata["row_residual"],
        **_how(graph),
        "paths": [describe(graph, path, labels)._asdict() for path in paths],
    }


def _how(graph: Graph) -> dict[str, Any]:
    """What a graph explains, what was live, and how far it can be trusted."""
    from biology.attribution.graph_json import how_traced

    told = how_traced(graph)
    told |= {} if graph.metadata["live_share"] is None else {"live_share": graph.metadata["live_share"]}
    correlation, n = graph.metadata["ablation_prediction"]
    return told | ({"influence_foretells_ablation": correlation, "ablated_features": n} if n > 1 else {})


def _write(
    out: Path,
    graph: Graph,
    masks: Any,
    labels: Mapping[tuple[int, int], str],
    scan: str,
    prompt: str,
    settings: AttributionConfig,
    heads: Mapping[tuple[int, int], list[dict[str, Any]]],
) -> None:
    from biology.attribution.graph_json import arrays, export_json, nodes_table
    from biology.graph_files.dialects import parse_graph
    from biology.report.explorer import graph_page

    pruning = {"node_threshold": settings.node_threshold, "edge_threshold": settings.edge_threshold}
    exported = export_json(
        graph, *masks, slug=out.name, scan=scan, prompt=prompt, labels=labels, pruning_settings=pruning, info=_how(graph),
        heads=heads,
    )  # fmt: skip
    with replaced(out, FILES, "trace") as new:
        artefacts.write_tensors(new / TENSORS, arrays(graph, *masks))  # without a copy of the matrix
        artefacts.write_columns(new / NODES, nodes_table(graph, labels))
        artefacts.write_json(new / GRAPH, exported)
        artefacts.write_text(new / PAGE, graph_page(parse_graph((new / GRAPH).read_text(encoding="utf-8"), GRAPH)))


def _token_ids(text: str, model: Model) -> list[int]:
    from biology.records import InputError

    try:
        ids = [int(piece) for piece in text.split(",")]
    except ValueError:
        raise InputError(f"--token-ids takes numbers separated by commas, not '{text}'.") from None
    for token in ids:
        if not 0 <= token < model.n_vocab:
            raise InputError(f"--token-ids: {token} is not in the vocabulary of {model.n_vocab} tokens.")
    return ids
