"""Reports: one self-contained HTML page for each model and case.

A page makes no network requests, is readable on a phone, and has a stable address for every section, claim and figure.
Its numbers come from tables: templates hold only words. Everything that comes from a model or a user is escaped.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pandas as pd
from markupsafe import Markup

from biology.artefacts import contents_hash
from biology.cases.case import Case, titles
from biology.cases.claim_file import Claim, load_claims
from biology.cases.found_sites import found_sites
from biology.config import Config, StatisticsConfig
from biology.figures.graph_chains import strongest_chains
from biology.figures.graph_layout import member_sets, node, repeated
from biology.findings.faults import read_site_parts
from biology.findings.labels import Roles, shipped_roles
from biology.findings.scored_prompts import browsed, scored
from biology.findings.story import story
from biology.graph_files.thinning import MOST_LINKS, thinned
from biology.records import InputError
from biology.report.claim_evidence import Subject, evidence_for, slider_data
from biology.report.explorer import (
    Explorer,
    PageGraph,
    explorer,
    feature_cards,
    features_of,
    node_labels,
    node_steering,
    operand_plots,
)
from biology.report.lab_fit import refused
from biology.report.pages import MOST_BYTES, counts, environment, light, manifest_of, packed, quantised, records
from biology.tables import Tables, read_table, read_tables
from biology.verdicts.calibration import calibrated
from biology.verdicts.discrimination import answers, discrimination
from biology.verdicts.thresholds import family

LINKS = (MOST_LINKS, 9_000, 6_000, 4_000, 2_500, 1_500)
"""Largest numbers of links of a graph in a page: the first with which the page is small enough, or else the last."""
MEASURES = ("replacement", "completeness", "error_share")
PLAIN = " !$&'()*+,-./:;=?@[]_~\n"
"""Characters that an address in quotes may hold unescaped; the result is a quarter smaller than base64."""


@dataclass(frozen=True)
class Drawing:
    """A figure as embedded in the page."""

    name: str
    title: str
    caption: str
    source: str
    """The SVG as a `data:` address."""
    width: int
    """Width in pixels, so that text has the same size in every figure."""


@dataclass(frozen=True)
class Page:
    """The contents of a case's page."""

    model: str
    transcoders: str
    planted: bool
    """Whether the paper's mechanisms were planted in it."""
    quantised: str
    """A sentence on its weights (`pages.quantised`)."""
    few: int | None
    """How many scored prompts of each set were asked, if not all (`ModelConfig.at_most`)."""
    case: Case
    text: str
    """README.md of the case."""
    claims: tuple[Claim, ...]
    tables: Tables
    verdicts: pd.DataFrame
    parts: pd.DataFrame
    clusters: pd.DataFrame
    discrimination: Mapping[str, Mapping[str, str]]
    """Whether each claim discriminates, and why (`discrimination.py`)."""
    calibrated: Mapping[str, str]
    """For each claim, what is known of its truth here, and its verdicts wherever it is known (`calibration.py`)."""
    site_parts: pd.DataFrame
    """Table `site_parts` of the model; empty if its sites were not taken apart."""
    statistics: StatisticsConfig
    graphs: Mapping[str, Any]
    """Attribution graphs of the named prompts, in the published format."""
    atlas: tuple[pd.DataFrame, pd.DataFrame]
    """Tables `atlas` and `atlas_prompts` of the model."""
    steering: pd.DataFrame
    """Table `node_steering`."""
    roles: Roles
    """Roles of the model's features."""
    figures: tuple[Drawing, ...]
    provenance: Mapping[str, str]
    lab: bool = False
    """Whether the model has a page that runs it (`lab_page.py`)."""


# ------------------------------------------------------------------------------------------------------------ rendering


def render_case(page: Page) -> str:
    """The page of one model and case as HTML."""
    verdicts = page.verdicts[page.verdicts["case"] == page.case.name].set_index("claim")
    missing = [claim.id for claim in page.claims if claim.id not in verdicts.index]
    if missing:
        raise InputError(
            f"claim '{missing[0]}' of case '{page.case.name}' has no verdict on '{page.model}': run `biology judge`."
        )
    subject = Subject(
        page.model,
        page.case,
        page.tables,
        page.parts,
        page.clusters,
        family(page.parts),
        page.statistics,
        page.discrimination,
        page.calibrated,
        page.site_parts,
    )
    claims = [evidence_for(subject, claim, verdicts.loc[claim.id]) for claim in page.claims]
    prompts = page.tables["prompts"]
    named = prompts[prompts["item"].isin(list(page.case.prompts))]
    attempted = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    graphs = page.tables["graphs"]
    chains = [(row.item, _chains(page, row.item, row.top1)) for row in named.itertuples()]
    here = page.parts[page.parts["case"] == page.case.name]
    return environment().get_template("case.html.j2").render(
        page=page,
        case=page.case,
        model=page.model,
        counts=counts(verdicts["verdict"]),
        claims=claims,
        story=story(page.case, page.tables),
        told=_judged_by(page.case, claims),
        sliders=slider_data(claims),
        browse=packed(browsed(scored(page.case, page.claims, page.tables, here), page.claims)),
        explorer=_explorer(page),
        named=records(named),
        scored=len(attempted),
        correct=int(attempted["correct"].sum()),
        graphs=records(graphs[graphs["item"].isin(list(page.case.prompts))]),
        worst=float(graphs["row_residual"].max()) if len(graphs) else math.nan,
        typical={c: float(graphs[c].median()) for c in MEASURES} if len(graphs) else {},
        chains=[(item, found) for item, found in chains if found],
        sites=found_sites(page.case, page.tables["sites"]),
        overlaps=_overlaps(page),
        example=next(iter(page.case.prompts.values()), None),
        fidelity=records(page.tables["fidelity"][page.tables["fidelity"]["layer"] == "all"]),
        command=f"snakemake --cores 8 reports/{page.model}/{page.case.name}.html",
    )  # fmt: skip


def claim_page(subject: Subject, claim: Claim, verdict: pd.Series, beside: str, provenance: Mapping[str, str]) -> str:
    """The page of one claim that was computed anew (`biology check --out`), whose tables lie beside it. `beside`: what the committed
    row says."""
    entry = evidence_for(subject, claim, verdict)
    rows = scored(subject.case, [claim], subject.tables, subject.parts)
    return environment().get_template("check.html.j2").render(
        browse=packed(browsed(rows, [claim])),
        entry=entry,
        claim=claim,
        case=subject.case,
        model=subject.model,
        beside=beside,
        provenance=provenance,
        sliders=slider_data([entry]),
    )  # fmt: skip


def _chains(page: Page, item: str, output: str) -> list[dict[str, Any]]:
    """The strongest paths of a named prompt: nodes as (kind, text), strength and sign."""
    called = titles(page.case, item)
    return [
        {
            "nodes": [(kind, called.get(text, text.replace("_", " "))) for kind, text, _ in map(node, chain.nodes)],
            "strength": chain.strength,
            "sign": chain.sign,
            "address": "\n".join(chain.nodes),
        }
        for chain in strongest_chains(page.tables["edges"], page.tables["supernodes"], item, output, 8)
    ]


def _explorer(page: Page) -> Explorer | None:
    """The graphs of the named prompts, with the supernodes and features that the tables know."""
    if not page.graphs:
        return None
    members = page.tables["supernodes"]
    subjects = [
        PageGraph(
            item,
            graph,
            called=titles(page.case, item),
            repeated=repeated(members[members["item"] == item]),
            labels=node_labels(graph, page.roles),
            steering=node_steering(page.steering[page.steering["item"] == item]),
        )
        for item, graph in page.graphs.items()
    ]
    wanted = set().union(*(features_of(graph) for graph in page.graphs.values()))
    cards = feature_cards(*page.atlas, wanted)
    operands = operand_plots(page.tables["operand_plots"], wanted)
    return explorer(subjects, cards, operands, atlas="atlas.html")


def _overlaps(page: Page) -> list[tuple[str, list[tuple[str, str, int, int]]]]:
    """For each named prompt the supernodes that share members: both titles, the number of shared members, and the size
    of the smaller one."""
    told = []
    for item in page.case.prompts:
        members = page.tables["supernodes"]
        pairs = shared_members(members[members["item"] == item])
        called = titles(page.case, item)
        named = [
            (called.get(a, a.replace("_", " ")), called.get(b, b.replace("_", " ")), both, of)
            for a, b, both, of in pairs
        ]
        told += [(item, named)] if named else []
    return told


def shared_members(members: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    """Pairs of supernodes of one item that share members: their names, the number of shared members, and the size of
    the smaller one."""
    sets = member_sets(members)
    pairs = [(a, b, len(sets[a] & sets[b])) for a, b in combinations(sets, 2)]
    return [(a, b, both, min(len(sets[a]), len(sets[b]))) for a, b, both in pairs if both]


def _judged_by(case: Case, claims: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first part of a claim that is judged by the story's intervention."""
    parts = [part for entry in claims for part in entry["parts"] if part["picture"]]
    return next((part for part in parts if case.story and part["experiment"] == case.story.experiment), None)


# -------------------------------------------------------------------------------------------------------------- reading


def case_page(root: Path, config: Config, model: str, case: Case) -> str:
    """The page of one model and case, from the outputs of stages below `root`.

    Raises `InputError` if a table, a verdict or a figure is missing.
    """
    run = root / "data/runs" / model
    manifest = manifest_of(run / "load.json")
    readme = case.folder / "README.md"
    page = Page(
        model=model,
        transcoders=manifest["transcoders"]["name"],
        planted=config.model(model).planted,
        quantised=quantised(manifest),
        few=config.model(model).at_most,
        case=case,
        text=readme.read_text(encoding="utf-8") if readme.is_file() else "",
        claims=load_claims(root, case.name),
        tables=read_tables(run / case.name),
        verdicts=read_table(root / "reports" / model / "verdicts.csv", "verdicts"),
        parts=read_table(run / "parts.parquet", "parts"),
        clusters=read_table(run / "clusters.parquet", "clusters"),
        discrimination=answers(discrimination(root, config), model),
        calibrated=calibrated(root, config, model, case.name),
        site_parts=read_site_parts(root / "reports" / model / "site_parts.csv"),
        statistics=config.statistics,
        graphs={},
        steering=read_table(run / case.name / "node_steering.parquet", "node_steering"),
        roles=shipped_roles(root / "reports" / model / "labels.json"),
        atlas=(read_table(run / "atlas.parquet", "atlas"), read_table(run / "atlas_prompts.parquet", "atlas_prompts")),
        figures=tuple(_drawing(root / "figures" / model / case.name / f"{name}.svg") for name in case.figures),
        provenance=_provenance(root, manifest, case),
        lab=not refused(config.model(model), root),
    )
    graphs, text = _graphs(run / case.name / "graphs.json"), ""
    for most in LINKS:
        text = render_case(replace(page, graphs={item: thinned(graph, most) for item, graph in graphs.items()}))
        if len(text.encode("utf-8")) <= MOST_BYTES:
            break
    return text


def scored_prompts(root: Path, model: str, case: Case) -> pd.DataFrame:
    """Table `scored` of one model and case, from the outputs of stages below `root`."""
    run = root / "data/runs" / model
    parts = read_table(run / "parts.parquet", "parts")
    tables = read_tables(run / case.name, ("prompts", "evidence"))
    return scored(case, load_claims(root, case.name), tables, parts[parts["case"] == case.name])


def _graphs(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Make it with `biology attribute`, or with `make figures`.") from None


def _drawing(path: Path) -> Drawing:
    """The figure of an SVG file; its title and caption are in the file's metadata."""
    if not path.is_file():
        raise InputError(f"{path}: no such figure. Make it with `biology draw`.")
    data = path.read_bytes()
    purl = "{http://purl.org/dc/elements/1.1/}"
    root = ElementTree.fromstring(data)
    title, caption = (root.findtext(f".//{purl}{tag}", "") for tag in ("title", "description"))
    # no quote, < or > is left: escaped as a text, each apostrophe would take five characters
    source = Markup("data:image/svg+xml," + quote(light(data.decode("utf-8")), safe=PLAIN).replace("&", "&amp;"))
    width = round(float(root.get("width", "500pt").removesuffix("pt")) * 1.5)
    return Drawing(path.stem, title or path.stem.replace("_", " "), caption, source, width)


def _provenance(root: Path, manifest: Mapping[str, Any], case: Case) -> dict[str, str]:
    """What the page was made from: hashes and versions, but no commit, so that equal contents give equal pages."""
    hashes = {
        "sources": contents_hash(
            root / "src/biology", "**/*.py", "**/*.mplstyle", "report/templates/*", "report/vendor/*"
        ),
        "weights": manifest["weights"],
        "transcoder weights": manifest["transcoders"]["weights"],
        "case": contents_hash(case.folder, "*.yaml", "*.csv", "*.md"),
        "configuration": contents_hash(root, "config.yaml"),
    }
    facts = {"seed": manifest["seed"], "data type": manifest["dtype"], "device": manifest["device"]}
    facts |= {f"version of {name}": version for name, version in manifest["versions"].items()}
    return {f"SHA-256 of the {name}": digest for name, digest in hashes.items()} | {k: str(v) for k, v in facts.items()}
