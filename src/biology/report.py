"""Reports: one self-contained HTML page a (model, case), an index of all, and the scoreboard of the README.

A page asks nothing of the network, reads on a phone, and has a stable address for every section, claim and figure. Its
numbers come from tables: templates hold words only. Everything that came from a model or a user is escaped.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from biology.artefacts import contents_hash
from biology.case import Case, Claim, discover_cases, load_case, load_claims
from biology.config import Config, InputError
from biology.tables import VERDICTS, Tables, read_table, read_tables
from biology.viewer import node, strongest_chains, titles

TEMPLATES = Path(__file__).with_name("templates")
BEGIN, END = "<!-- scoreboard -->", "<!-- /scoreboard -->"
SPEAKS = (
    "A verdict speaks of one model and its transcoders, and of nothing else: elegans is not Claude 3.5 Haiku, and "
    "“not replicated” does not mean that the paper is wrong about the model that it studied."
)
MEASURES = ("replacement", "completeness", "error_share")
MARKS = {"replicated": "✓", "not replicated": "✗", "inconclusive": "?", "untestable": "–"}


@dataclass(frozen=True)
class Drawing:
    """A figure as the page embeds it."""

    name: str
    title: str
    caption: str
    source: str
    """The SVG as a `data:` address."""
    width: int
    """In pixels, so that text is as large in every figure."""


@dataclass(frozen=True)
class Page:
    """Everything that a case's page shows."""

    model: str
    transcoders: str
    case: Case
    text: str
    """README.md of the case."""
    claims: tuple[Claim, ...]
    tables: Tables
    verdicts: pd.DataFrame
    parts: pd.DataFrame
    figures: tuple[Drawing, ...]
    provenance: Mapping[str, str]


# ------------------------------------------------------------------------------------------------------------ rendering


def number(value: float | int, digits: int = 3) -> str:
    """A number in print: so many significant digits, a true minus sign, a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,.{digits}g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}".replace("-", "−")


def percent(value: float) -> str:
    """A fraction in per cent, to a tenth below ten per cent and near a hundred."""
    if math.isnan(value):
        return "–"
    return f"{value:.1%}" if 0 < value < 0.1 or 0.95 < value < 1 else f"{value:.0%}"


def visible(text: str) -> str:
    """A prompt or token with its line breaks shown."""
    return text.replace("\n", "↵")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "visible": visible, "prose": prose}
    environment.globals |= {
        "marks": MARKS,
        "speaks": SPEAKS,
        "style": Markup((TEMPLATES / "style.css").read_text("utf-8")),
    }
    return environment


def prose(text: str) -> Markup:
    """Paragraphs, headings, lists, `code` and *emphasis* of a plain Markdown text, escaped. The title is left out."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("#"):
            first, _, rest = block.partition("\n")
            level, _, title = first.partition(" ")
            blocks += [f"<h3>{_inline(title)}</h3>"] if len(level) > 1 else []
            blocks += [str(prose(rest))] if rest.strip() else []
        elif re.match(r"[*-] ", block):
            points = [point for point in re.split(r"(?:^|\n)[*-] ", block) if point.strip()]
            blocks.append("<ul>" + "".join(f"<li>{_inline(point)}</li>" for point in points) + "</ul>")
        elif block:
            blocks.append(f"<p>{_inline(block)}</p>")
    return Markup("\n".join(blocks))


def _inline(text: str) -> str:
    pieces = re.split(r"`([^`]+)`", str(escape(" ".join(text.split()))))
    words = [re.sub(r"(\*{1,2})([^*]+)\1", r"<em>\2</em>", piece) for piece in pieces[::2]]
    code = [f"<code>{piece}</code>" for piece in pieces[1::2]] + [""]
    return "".join(word + piece for word, piece in zip(words, code, strict=True))


def render_case(page: Page) -> str:
    """The page of one model and case as HTML."""
    verdicts = page.verdicts[page.verdicts["case"] == page.case.name].set_index("claim")
    parts = page.parts[page.parts["case"] == page.case.name]
    missing = [claim.id for claim in page.claims if claim.id not in verdicts.index]
    if missing:
        raise InputError(
            f"claim '{missing[0]}' of case '{page.case.name}' has no verdict on '{page.model}': run `biology judge`."
        )
    claims = [_claim(page, claim, verdicts.loc[claim.id], parts[parts["claim"] == claim.id]) for claim in page.claims]
    prompts = page.tables["prompts"]
    named = prompts[prompts["item"].isin(list(page.case.prompts))]
    scored = prompts[(prompts["split"] == "heldout") & (prompts["role"] == "score")]
    graphs = page.tables["graphs"]
    chains = [(row.item, _chains(page, row.item, row.top1)) for row in named.itertuples()]
    members = page.tables["supernodes"]
    return _environment().get_template("case.html.j2").render(
        page=page,
        case=page.case,
        model=page.model,
        counts=_counts(verdicts["verdict"]),
        claims=claims,
        named=_records(named),
        scored=len(scored),
        correct=int(scored["correct"].sum()),
        graphs=_records(graphs[graphs["item"].isin(list(page.case.prompts))]),
        worst=float(graphs["row_residual"].max()) if len(graphs) else math.nan,
        typical={c: float(graphs[c].median()) for c in MEASURES} if len(graphs) else {},
        chains=[(item, found) for item, found in chains if found],
        members=_members(members[members["item"].isin(list(page.case.prompts))]),
        fidelity=_records(page.tables["fidelity"][page.tables["fidelity"]["layer"] == "all"]),
        command=f"snakemake --cores 8 reports/{page.model}/{page.case.name}.html",
    )  # fmt: skip


def _claim(page: Page, claim: Claim, verdict: pd.Series, parts: pd.DataFrame) -> dict[str, Any]:
    first = parts.iloc[0]
    return {
        "claim": claim,
        "verdict": verdict["verdict"],
        "reason": verdict["reason"],
        "row": verdict.to_dict(),
        "parts": _records(parts),
        "passed": int(first["passed"]),
        "attempted": int(first["attempted"]),
        "rate": first["passed"] / first["attempted"] if first["attempted"] else math.nan,
        "expected": claim.expected.get(page.model),
        "against": [_against(page.tables, part) for part in claim.parts],
        "command": f"biology judge --model {page.model}",
    }


def _against(tables: Tables, part: Any, most: int = 5) -> tuple[str, list[dict[str, Any]]]:
    """The scored items that speak most against a part of a claim: text, answer, effect and mean of the control."""
    prompts, evidence = tables["prompts"], tables["evidence"]
    rows = evidence[(evidence["experiment"] == part.experiment) & (evidence["outcome"] == part.outcome)]
    rows = rows[(rows["split"] == "heldout") & rows["arm"].isin(["effect", part.control])]
    means = rows.groupby(["item", "arm"])["value"].mean().unstack("arm")
    if "effect" not in means:
        return part.name, []
    control = means[part.control] if part.control in means else 0.0 * means["effect"]
    score = means["effect"] - control
    against = -score.abs() if part.direction == "equivalent" else -score if part.direction == "decrease" else score
    worst = against.sort_values(kind="stable").index[:most]
    texts = prompts.set_index("item")
    return part.name, [
        {
            "text": texts.loc[item, "text"], "answer": texts.loc[item, "answer"],
            "effect": float(means.loc[item, "effect"]), "control": float(control.loc[item]),
        }
        for item in worst if item in texts.index
    ]  # fmt: skip


def _chains(page: Page, item: str, output: str) -> list[dict[str, Any]]:
    """The strongest paths of a named prompt: their nodes as (kind, text), strength and sign."""
    called = titles(page.case, item)
    return [
        {
            "nodes": [(kind, called.get(text, text.replace("_", " "))) for kind, text, _ in map(node, chain.nodes)],
            "strength": chain.strength,
            "sign": chain.sign,
        }
        for chain in strongest_chains(page.tables["edges"], page.tables["supernodes"], item, output, 8)
    ]


def _members(members: pd.DataFrame) -> list[tuple[str, str, int, list[dict[str, Any]]]]:
    """For each named prompt and supernode: how many members, and the twelve most active."""
    groups = members.groupby(["item", "supernode"], sort=False)
    return [
        (item, name, len(rows), _records(rows.sort_values("activation", ascending=False, kind="stable").head(12)))
        for (item, name), rows in groups
    ]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")  # type: ignore[return-value]


def _counts(verdicts: Iterable[str]) -> list[tuple[str, int]]:
    listed = list(verdicts)
    return [(verdict, listed.count(verdict)) for verdict in reversed(VERDICTS) if verdict in listed]


def render_index(models: list[dict[str, Any]]) -> str:
    """The page that lists every model with its cases and verdicts."""
    return _environment().get_template("index.html.j2").render(models=models)


def scoreboard(verdicts: pd.DataFrame, titles: Mapping[str, str], link: str = "") -> str:
    """The verdicts of one model as Markdown. `titles` says what each claim is; `link` (with {case}) leads to them."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in _counts(verdicts["verdict"]))
    lines = ["| claim | | verdict | effect − control [95 %] | needed | control | Holm p | items |", "|---" * 8 + "|"]
    for row in _records(verdicts):
        interval = f"{number(row['statistic'])} [{number(row['low'])}, {number(row['high'])}]"
        claim = f"[{row['claim']}]({link.format(case=row['case'])})" if link else row["claim"]
        cells = [
            claim, titles.get(row["claim"], ""), f"{MARKS[row['verdict']]} **{row['verdict']}**",
            "–" if math.isnan(row["statistic"]) else interval, number(row["threshold"]), row["control"],
            number(row["p"], 2), number(row["n"], 6),
        ]  # fmt: skip
        lines.append(
            "| "
            + " | ".join(escape_html(cell, quote=False).replace("|", "\\|").replace("\n", " ") for cell in cells)
            + " |"
        )
    return f"{counts}.\n\n" + "\n".join(lines)


# -------------------------------------------------------------------------------------------------------------- reading


def case_page(root: Path, config: Config, model: str, case: Case) -> str:
    """The page of one model and case, from what the stages left below `root`.

    Raises `InputError` where a table, a verdict or a figure is missing.
    """
    run = root / "data/runs" / model
    manifest = _manifest(run / "load.json")
    readme = case.folder / "README.md"
    page = Page(
        model=model,
        transcoders=manifest["transcoders"]["name"],
        case=case,
        text=readme.read_text(encoding="utf-8") if readme.is_file() else "",
        claims=load_claims(root, case.name),
        tables=read_tables(run / case.name),
        verdicts=read_table(root / "reports" / model / "verdicts.csv", "verdicts"),
        parts=read_table(run / "parts.parquet", "parts"),
        figures=tuple(_drawing(root / "figures" / model / case.name / f"{name}.svg") for name in case.figures),
        provenance=_provenance(root, manifest, case),
    )
    return render_case(page)


def index_page(root: Path, config: Config) -> str:
    """The page of all models and cases of the configuration that have been judged."""
    models = []
    for model in config.models:
        path = root / "reports" / model / "verdicts.csv"
        if config.models[model].role != "model" or not path.is_file():
            continue
        verdicts = read_table(path, "verdicts")
        prompts = config.models[model].prompts
        cases = config.cases_of(model, discover_cases(root, prompts))
        listed = []
        for name in cases:
            rows = verdicts[verdicts["case"] == name]
            titles = {claim.id: claim.title for claim in load_claims(root, name)}
            claims = [row | {"title": titles.get(row["claim"], "")} for row in _records(rows)]
            listed.append(
                {"case": load_case(root, name, prompts), "claims": claims, "counts": _counts(rows["verdict"])}
            )
        transcoders = str(verdicts["transcoders"].iloc[0]) if len(verdicts) else ""
        models.append(
            {"name": model, "transcoders": transcoders, "cases": listed, "counts": _counts(verdicts["verdict"])}
        )
    return render_index(models)


def with_scoreboard(text: str, root: Path) -> str:
    """`text` (README.md) with all verdicts between its scoreboard marks. `InputError` if it lacks the marks."""
    if BEGIN not in text or END not in text:
        raise InputError(f"README.md lacks the marks {BEGIN} and {END} between which the scoreboard is written.")
    titles = {c.id: c.title for case in discover_cases(root) for c in load_claims(root, case)}
    blocks = [SPEAKS]
    for path in sorted(root.glob("reports/*/verdicts.csv")):
        verdicts = read_table(path, "verdicts")
        if len(verdicts):
            first = verdicts.iloc[0]
            heading = f"**{first['model']}** (seed {first['seed']}) with {first['transcoders']} transcoders: "
            blocks.append(heading + scoreboard(verdicts, titles, "experiments/{case}/claims.yaml"))
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n" + "\n\n".join(blocks) + f"\n{END}{rest.partition(END)[2]}"


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Make it with `biology load`.") from None


def _drawing(path: Path) -> Drawing:
    """The figure of an SVG file; its title and caption are in the file's metadata."""
    if not path.is_file():
        raise InputError(f"{path}: no such figure. Make it with `biology draw`.")
    data = path.read_bytes()
    purl = "{http://purl.org/dc/elements/1.1/}"
    root = ElementTree.fromstring(data)
    title, caption = (root.findtext(f".//{purl}{tag}", "") for tag in ("title", "description"))
    source = "data:image/svg+xml;base64," + base64.b64encode(data).decode()
    width = round(float(root.get("width", "500pt").removesuffix("pt")) * 1.5)
    return Drawing(path.stem, title or path.stem.replace("_", " "), caption, source, width)


def _provenance(root: Path, manifest: Mapping[str, Any], case: Case) -> dict[str, str]:
    """What the page was made of: hashes and versions, and no commit, so that equal contents give equal pages."""
    hashes = {
        "sources": contents_hash(root / "src/biology", "*.py", "*.mplstyle", "templates/*"),
        "weights": manifest["weights"],
        "transcoder weights": manifest["transcoders"]["weights"],
        "case": contents_hash(case.folder, "*.yaml", "*.csv", "*.md"),
        "configuration": contents_hash(root, "config.yaml"),
    }
    facts = {"seed": manifest["seed"], "data type": manifest["dtype"], "device": manifest["device"]}
    facts |= {f"version of {name}": version for name, version in manifest["versions"].items()}
    return {f"SHA-256 of the {name}": digest for name, digest in hashes.items()} | {k: str(v) for k, v in facts.items()}
