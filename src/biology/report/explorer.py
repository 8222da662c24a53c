"""The interactive graph of a page: its data, its scripts, and the static picture for readers without scripts.

A page contains every graph once, as the file that it was made from (published format, gzip, base64), so that a download
from the page is what `attribute` wrote. Of a very large graph it contains the most influential nodes (`thinning.py`).
Scripts and style are inlined once per page; templates/explorer.html.j2 is the part that a page includes. Nothing here
decides what a graph says: numbers are those of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
from markupsafe import Markup, escape

from biology.findings.labels import Roles, label
from biology.graph_files.flow import Graph, computed_influence, graph_scores
from biology.graph_files.nodes import kind_of, listed, unknown_categories
from biology.report.pages import TEMPLATES, environment, packed

VENDOR = Path(__file__).with_name("vendor")
SCRIPTS = (
    "explorer_graph.js", "explorer_stage.js", "explorer_card.js", "explorer_layout.js", "explorer_groups.js", "explorer.js",
)  # fmt: skip
MOST_LINKS = 70
"""Largest number of links in a static picture: those with the largest shares."""


@dataclass(frozen=True)
class PageGraph:
    """A graph to explore, with further data that a page has on it."""

    name: str
    graph: Graph
    """The canonical form of `graph_files`."""
    title: str = ""
    called: Mapping[str, str] = field(default_factory=dict)
    """Titles of supernodes, if not their names."""
    repeated: Sequence[str] = ()
    """Supernodes that mostly repeat another one and are not drawn."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of features by node, for nodes without a label in the graph (`node_labels`)."""
    steering: Mapping[str, Sequence[tuple[float, str, float]]] = field(default_factory=dict)
    """By node, the model's answer with the feature held at M times its activation: M, most probable token, its
    probability."""


@dataclass(frozen=True)
class EmbeddedGraph:
    """A graph as embedded in the page."""

    name: str
    title: str
    told: str
    data: str
    still: Markup


@dataclass(frozen=True)
class Explorer:
    """The data for templates/explorer.html.j2."""

    graphs: tuple[EmbeddedGraph, ...]
    first: str
    """Name of the graph shown by a figure without a subject."""
    shared: str
    """Data on the features of all graphs: cards, operand plots, the address of the atlas."""
    vendor: Markup
    script: Markup


def explorer(
    subjects: Sequence[PageGraph],
    cards: Mapping[str, Mapping[str, Any]] | None = None,
    operands: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    atlas: str | None = None,
) -> Explorer:
    """The interactive graphs of a page.

    Args:
        subjects: one or more graphs.
        cards: by "layer-feature", data on a feature beyond a graph (`feature_cards`).
        operands: by "layer-feature", its operand plots (`operand_plots`).
        atlas: address of the page of all features, in which each has the anchor `layer-feature`.
    """
    scripts = [(TEMPLATES / name).read_text("utf-8") for name in SCRIPTS]
    return Explorer(
        tuple(_shown(subject) for subject in subjects),
        subjects[0].name,
        packed({"cards": cards or {}, "operands": operands or {}, "atlas": atlas}),
        Markup(vendored()),
        Markup('(() => {\n"use strict";\n' + "\n".join(scripts) + "})();"),
    )


def graph_page(graph: Graph) -> str:
    """A page for one graph alone, such as a graph from another project."""
    metadata = graph["metadata"]
    facts = [(name, metadata[name]) for name in ("prompt", "scan", "slug")]
    for block in ("info", "generation_settings", "pruning_settings"):
        facts += [
            (name.replace("_", " "), value)
            for name, value in (metadata.get(block) or {}).items()
            if isinstance(value, str | int | float) and value != ""
        ]
    return (
        environment()
        .get_template("graph.html.j2")
        .render(
            explorer=explorer([PageGraph("graph", graph)]),
            title=clipped(str(metadata["prompt"]), 120),
            facts=[(clipped(name, 60), clipped(str(value), 500)) for name, value in facts],
        )
    )


def vendored() -> str:
    """The libraries that the page needs, with their licences."""
    parts, said = [], set()
    for package in json.loads((VENDOR / "packages.json").read_text("utf-8")):
        file = VENDOR / package["file"]
        licence = file.with_name(file.name.replace(".min.js", ".LICENSE")).read_text("utf-8").strip()
        parts.append(f"/*! {package['package']} {package['version']}, {package['licence']}")
        parts[-1] += " */" if licence in said else f"\n\n{licence}\n*/"
        said.add(licence)
        lines = file.read_text("utf-8").splitlines()
        parts += [line for line in lines if not line.startswith("//# sourceMappingURL")]
    return "\n".join(parts)


def operand_plots(plots: pd.DataFrame, wanted: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Table `operand_plots` by feature, for the features `wanted` ("layer-feature"): `at`, and the cells as lists `a`, `b`,
    `activation`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, cells in plots.groupby(["at", "layer", "feature"], sort=False):
        at, layer, feature = cast(tuple[str, int, int], place)
        if f"{layer}-{feature}" in wanted:
            columns = {name: cells[name].tolist() for name in ("a", "b")}
            columns["activation"] = [float(f"{value:.3g}") for value in cells["activation"]]
            found.setdefault(f"{layer}-{feature}", []).append({"at": at, **columns})
    return found


def node_steering(rows: pd.DataFrame) -> dict[str, list[tuple[float, str, float]]]:
    """Rows of one item of table `node_steering`, by node."""
    found: dict[str, list[tuple[float, str, float]]] = {}
    for row in rows.itertuples():
        said = (float(row.strength), str(row.text), float(f"{row.value:.3g}"))  # type: ignore[arg-type]
        found.setdefault(f"{row.layer}_{row.feature}_{row.pos}", []).append(said)
    return found


def feature_cards(
    atlas: pd.DataFrame, prompts: pd.DataFrame, wanted: Collection[str], examples: int = 3
) -> dict[str, dict[str, Any]]:
    """Cards of the features `wanted` ("layer-feature") from tables `atlas` and `atlas_prompts`.

    A card holds `promotes` and `suppresses` (tokens), `density` (share of all tokens), `histogram` (counts of bins from 0 to
    `maximum`) and `examples` (`tokens`, and `activations` as shades from 0 to 9).
    """
    texts = dict(zip(prompts["prompt"], prompts["tokens"], strict=True))
    names = atlas["layer"].astype(str) + "-" + atlas["feature"].astype(str)
    cards = {}
    for name, row in zip(names, atlas.to_dict("records"), strict=True):
        if name in wanted:
            shown = json.loads(row["examples"])[:examples]
            cards[name] = {
                "promotes": json.loads(row["raises"]),
                "suppresses": json.loads(row["lowers"]),
                "density": float(f"{row['density']:.3g}"),
                "maximum": float(f"{row['maximum']:.3g}"),
                "histogram": [int(count) for count in row["histogram"].split()],
                "examples": [
                    {"tokens": json.loads(texts[prompt]), "activations": [int(shade) for shade in shades]}
                    for prompt, shades in shown
                ],
            }
    return cards


def node_labels(graph: Graph, roles: Roles) -> dict[str, str]:
    """The labels of a graph's features, by node: the roles that are looked for at the node's token."""
    tokens, found = [str(token) for token in graph["metadata"]["prompt_tokens"]], {}
    for node in graph["nodes"]:
        place = re.fullmatch(r"(\d+)_(\d+)_\d+", node["node_id"]) if kind_of(node) == "feature" else None
        if place and (text := label(roles.at((int(place[1]), int(place[2])), tokens, int(node["ctx_idx"]))).text):
            found[node["node_id"]] = text
    return found


def features_of(graph: Graph) -> set[str]:
    """The features of a graph, as "layer-feature"."""
    ids = [re.fullmatch(r"(\d+)_(\d+)_\d+", node["node_id"]) for node in graph["nodes"] if kind_of(node) == "feature"]
    return {f"{found[1]}-{found[2]}" for found in ids if found}


def _shown(subject: PageGraph) -> EmbeddedGraph:
    graph = subject.graph
    payload: dict[str, Any] = {"name": subject.name, "graph": graph}
    extras = {key: getattr(subject, key) for key in ("called", "repeated", "labels", "steering")}
    payload |= {key: value for key, value in extras.items() if value}
    if not any(isinstance(node.get("influence"), int | float) for node in graph["nodes"]):
        payload["influence"] = computed_influence(graph)
    title = subject.title or str(graph["metadata"]["prompt"])
    return EmbeddedGraph(subject.name, title, _told(graph), packed(payload), still(graph))


def _told(graph: Graph) -> str:
    info = graph["metadata"].get("info") or {}
    words = f"{len(graph['nodes'])} nodes, {len(graph['links'])} links"
    whole = info.get("thinned")
    if whole:
        words += f", the most influential of {whole['nodes']} nodes and {whole['links']} links"
    scores = [info.get("replacement_score"), info.get("completeness_score")]
    if not all(isinstance(score, int | float) for score in scores):
        computed, unknown = graph_scores(graph), unknown_categories(graph["nodes"])
        if unknown:
            return f"{words}; no score can be worked out, since it holds nodes of another category: {listed(unknown)}."
        if computed is None:
            return f"{words}; the file holds no error nodes, so no score can be worked out."
        return f"{words}; of the pruned graph: replacement {computed[0]:.2f}, completeness {computed[1]:.2f}."
    foretells, n = info.get("influence_foretells_ablation"), info.get("ablated_features")
    trust = (
        f"; influence foretells ablation with a rank correlation of {foretells:.2f} ({n} features)" if foretells else ""
    )
    live = [name for name in ("attention", "norms") if info.get(name) == "live"]
    through = f"; edges through live {' and '.join(live)} are in it, to first order" if live else ""
    if live and isinstance(info.get("live_share"), int | float):
        through += f", and carry {info['live_share']:.0%} of the influence"
    return f"{words}; replacement score {scores[0]:.2f}, completeness {scores[1]:.2f}{trust}{through}."


def still(graph: Graph) -> Markup:
    """A static picture of a graph: tokens to the right, layers upwards, the strongest links."""
    tokens = [str(token) for token in graph["metadata"]["prompt_tokens"]]
    depth = {"token": -1.0, "logit": float("inf")}
    inner = [_layer(node) for node in graph["nodes"] if kind_of(node) not in depth]
    rows = list(range(min(inner, default=0), max(inner, default=-1) + 1))
    cells: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for node in graph["nodes"]:
        kind = kind_of(node)
        row = 0 if kind == "token" else len(rows) + 1 if kind == "logit" else _layer(node) - rows[0] + 1
        cells.setdefault((int(node["ctx_idx"]), row), []).append(node)
    columns = max([len(tokens), *(column + 1 for column, _ in cells)])
    width, height = 60 + 66 * columns, 34 * (len(rows) + 2) + 30
    place = {
        str(node["node_id"]): (round(60 + 66 * (column + (rank + 1) / (len(cell) + 1))), height - 42 - 34 * row)
        for (column, row), cell in cells.items()
        for rank, node in enumerate(cell)
    }
    total: dict[str, float] = {}
    for link in graph["links"]:
        total[link["target"]] = total.get(link["target"], 0.0) + abs(link["weight"])
    shares = [(link["weight"] / (total[link["target"]] or 1.0), link) for link in graph["links"]]
    parts = [
        f'<path d="M{place[link["source"]][0]} {place[link["source"]][1]}L{place[link["target"]][0]} {place[link["target"]][1]}" '
        f'stroke="{"#b34700" if share < 0 else "#0067a3"}" stroke-width="{0.6 + 4 * abs(share):.1f}" opacity=".5"/>'
        for share, link in sorted(shares, key=lambda pair: -abs(pair[0]))[:MOST_LINKS]
    ]
    for node in graph["nodes"]:
        x, y = place[str(node["node_id"])]
        kind = kind_of(node)
        if kind in depth:
            parts.append(f'<path d="M{x - 4} {y - 4}h8v8h-8z"/>')
        elif kind == "feature":
            parts.append(f'<circle cx="{x}" cy="{y}" r="4.5" fill="#fff" stroke="#333"/>')
        else:
            parts.append(f'<path d="M{x} {y - 5}l5 5l-5 5l-5 -5z" fill="#fff" stroke="#333"/>')
    names = ["token", *map(str, rows), "output"]
    words = [(5, height - 38 - 34 * row, "start", name) for row, name in enumerate(names)]
    words += [(93 + 66 * i, height - 12, "middle", clipped(token, 10)) for i, token in enumerate(tokens)]
    parts += [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(word)}</text>' for x, y, anchor, word in words]
    label = escape(f"Attribution graph of “{clipped(str(graph['metadata']['prompt']), 200)}”")
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{label}" font-size="11" '
        f'style="background:#fff;color:#1d1d1f" fill="currentColor">{"".join(parts)}</svg>'
    )


def clipped(text: str, most: int) -> str:
    """`text` on one line, cut to `most` characters."""
    shown = text.replace("\n", "↵")
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _layer(node: Mapping[str, Any]) -> int:
    try:
        return int(node["layer"])
    except ValueError:
        return 0
