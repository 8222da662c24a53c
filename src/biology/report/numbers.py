"""Numbers in texts: each has a name, comes from a committed table, and is written between two marks.

`<!--n:claims-->47<!--/n-->` in README.md or in docs shows only the number. `biology scoreboard` rewrites all of them, and a
test forbids numbers outside such marks. No line begins with a mark: Markdown would read it as a block of HTML and end the
paragraph.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from scipy import stats

from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.config import Config
from biology.findings.faults import FOUND_AT_FAULT
from biology.grammar import unknown
from biology.records import InputError
from biology.schemas import VERDICTS
from biology.statistics import ALPHA, COVERAGE
from biology.tables import read_table
from biology.verdicts.measuring import EXACT
from biology.verdicts.procedure import NOISE
from biology.verdicts.reasons import LACKS
from biology.wording import number

BAR = 0.97  # of the certificate: how often an exchange should bring the answer of the causal model
BEGUN = re.compile(r"^[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*<!--n:", flags=re.MULTILINE)
"""A line that begins with a mark, also in a list or a quotation."""
MARK = re.compile(r"<!--n:([a-z0-9_.-]+)-->(.*?)<!--/n-->", flags=re.DOTALL)


def numbers(root: Path, config: Config) -> dict[str, str]:
    """Every number that a text may show, by name and ready to print, from files of the repository."""
    cases = [load_case(root, name) for name in discover_cases(root)]
    claims = [claim for case in cases for claim in load_claims(root, case.name)]
    items = [item for case in cases for item in case.items]
    found = {
        "cases": len(cases),
        "claims": len(claims),
        "prompts": len(items),
        "heldout": sum(item.split == "heldout" and item.role == "score" for item in items),
        "draws": config.statistics.control_draws,
        "permutations": config.statistics.permutations,
        "alpha": ALPHA,
        "coverage": round(100 * COVERAGE),
        "exact": EXACT,
        "threads": config.threads,
    }
    for name, entry in config.models.items():
        path = root / "reports" / name / "verdicts.csv"
        if path.is_file():
            judged = read_table(path, "verdicts")
            verdicts, replicated = list(judged["verdict"]), set(judged.loc[judged["verdict"] == "replicated", "claim"])
            found |= {f"{name}.{word.replace(' ', '_')}": verdicts.count(word) for word in VERDICTS}
            found[f"{name}.claims"] = len(verdicts)
            error = (judged["high"] - judged["low"]) / (2 * stats.norm.ppf((1 + COVERAGE) / 2))
            found[f"{name}.noisy"] = int((error > NOISE * judged["threshold"]).sum())
            found[f"{name}.exploratory"] = sum(claim.id in replicated and claim.explores(name) for claim in claims)
        if (root / entry.path / "model.safetensors").is_file():
            found[f"{name}.parameters"] = parameters(root / entry.path / "model.safetensors")
        record = root / entry.path / "record.json"
        if record.is_file():
            grown = json.loads(record.read_text(encoding="utf-8"))
            found[f"{name}.grow_minutes"] = math.ceil(grown["seconds"] / 60)
            found[f"{name}.grow_threads"] = grown["threads"]
        record = root / entry.transcoders / "record.json"
        if record.is_file():
            trained = json.loads(record.read_text(encoding="utf-8"))
            found[f"{name}.transcoder_minutes"] = math.ceil(trained["seconds"] / 60)
    for path in sorted(root.glob("reports/*/ablation_prediction.csv")):
        found |= _ablations(path)
    found |= _calibration(root / "reports/calibration.csv", config)
    found |= _certified(root, config)
    found |= _graphs(root / "reports/calibration_graphs.csv")
    found |= _misses(root / "reports/misses.csv")
    found |= _rules(root / "reports/rules_compared.csv")
    trials = root / "data/models/trials.csv"
    if trials.is_file():
        with trials.open(encoding="utf-8", newline="") as file:
            found["trials"] = sum(1 for _ in csv.DictReader(file))
    return {name: number(value, 7 if isinstance(value, int) else 2) for name, value in found.items()}


def _calibration(path: Path, config: Config) -> dict[str, int]:
    """How often true claims are replicated and false ones are not, for every calibrated model, for all of them with their own transcoders
    (`calibration.`), for organisms of one case among these (`organisms.`), and for those that were grown last of their kind
    (`grown_last.`), in per cent with Wilson's interval."""
    from biology.verdicts.calibration import grown_last, pooled, rates

    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    mine = pooled(table)
    sets = {
        "calibration": mine,
        "organisms": mine[mine["model"].isin(config.of_one_case)],
        "grown_last": grown_last(table, config),
    }
    parts = [(name, rates(rows).iloc[0]) for name, rows in sets.items() if len(rows)]
    parts += [(str(row["model"]), row) for _, row in rates(table, ["model"]).iterrows()]
    return {
        f"{name}.{rate}{end}": int(row[f"{rate}{end}"]) if end == "_n" else round(100 * row[f"{rate}{end}"])
        for name, row in parts
        for rate in ("sensitivity", "specificity")
        if row[f"{rate}_n"]
        for end in ("", "_low", "_high", "_n")
    }


def _certified(root: Path, config: Config) -> dict[str, int]:
    """How many variables were planted in how many models, and how many of them an exchange of MLP outputs brings less often than the bar."""
    paths = {root / entry.path / "certificate.csv" for entry in config.models.values() if entry.planted}
    tables = [pd.read_csv(path, keep_default_na=False) for path in sorted(paths) if path.is_file()]
    asked = [
        float(row["accuracy"])
        for one in tables
        for row in one.to_dict("records")
        if (row["what"], row["arm"]) == ("mlp", "effect")
    ]
    return {
        "certified.models": len(tables),
        "certified.variables": len(asked),
        "certified.below": sum(one < BAR for one in asked),
    }


def _ablations(path: Path) -> dict[str, float]:
    """The median rank correlation of a model's attributions with ablations, by target, rule, attention and norms."""
    keys = ["target", "rule", "attention", "norms"]
    return {
        ".".join([path.parent.name, "ablation", *(row[key] for key in keys)]): float(row["median"])
        for row in pd.read_csv(path).to_dict("records")
    }


def _graphs(path: Path) -> dict[str, float | int]:
    """How well the graphs of planted models show the causal model: area under the ROC curve, and the per cent with all
    parents first."""
    if not path.is_file():
        return {}
    found: dict[str, float | int] = {}
    for row in pd.read_csv(path).to_dict("records"):
        found[f"{row['model']}.{row['case']}.auc"] = float(row["auc"])
        found[f"{row['model']}.{row['case']}.first"] = round(100 * row["first"])
    return found


def _misses(path: Path) -> dict[str, int]:
    """True claims that were missed: all, those whose deciding part holds a site that was taken apart, by what is at fault, and by what
    they lack."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path, keep_default_na=False)
    table["miss"] = table["model"] + " " + table["claim"]
    by_fault: dict[str, int] = table.groupby("fault")["miss"].nunique().to_dict()
    found = {"claims": table["miss"].nunique(), "measured": table.loc[table["supernode"] != "", "miss"].nunique()}
    found |= {word.replace(" ", "_"): by_fault.get(word, 0) for word in sorted({*FOUND_AT_FAULT, *by_fault})}
    lacking = table.drop_duplicates("miss")["lacks"].str.split(" and ")
    found |= {f"lacks_{word}": int(lacking.map(lambda words, word=word: word in words).sum()) for word in LACKS}
    return {f"misses.{name}": int(count) for name, count in found.items()}


def _rules(path: Path) -> dict[str, int]:
    """True claims on seeds that were grown to ask them once, and how many of these are replicated by the rules before and after they were
    amended (`seeds.`)."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path)
    true = table[table["truth"] == "true"]
    found = {name: int((true[f"by_{name}"] == "replicated").sum()) for name in ("level", "difference")}
    return {"seeds.claims": len(true)} | {f"seeds.by_{name}": count for name, count in found.items()}


def parameters(path: Path) -> int:
    """Number of parameters in a safetensors file, from its header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def texts(root: Path) -> list[Path]:
    """The texts that show numbers between marks: README.md, CHANGELOG.md and all pages of docs."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted(root.glob("docs/**/*.md"))]


def with_numbers(text: str, values: Mapping[str, str], path: Path) -> str:
    """The text with all named numbers rewritten. Raises `InputError` for an unknown name, or a line that begins with a
    mark."""
    begun = BEGUN.search(text)
    if begun:
        line = text.count("\n", 0, begun.end()) + 1
        raise InputError(
            f"{path}: line {line} begins with the mark of a number, which ends its paragraph. Begin it with a word."
        )

    def written(found: re.Match[str]) -> str:
        name = found[1]
        if name not in values:
            raise InputError(f"{path}: {unknown('number', name, values)}")
        return f"<!--n:{name}-->{values[name]}<!--/n-->"

    return MARK.sub(written, text)
