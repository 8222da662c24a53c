"""The scoreboard: the verdict on every claim and every model, as a page and as Markdown.

A column is one set of verdicts: a model with its transcoders, grown with one seed. Further seeds are counted with the
first.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from biology.cases.case import discover_cases
from biology.cases.claim_file import Claim, load_claims
from biology.config import Config, few_of
from biology.findings.faults import SHOWN as SHOWN_PARTS
from biology.findings.faults import needed
from biology.records import InputError
from biology.report.pages import SPEAKS, counts, records
from biology.statistics import METHOD, METHODS
from biology.tables import read_table
from biology.verdicts.discrimination import answers, discrimination
from biology.verdicts.found_members import MOST
from biology.verdicts.robustness import across_methods, compare
from biology.wording import MARKS, called, number, percent

BEGIN, END = "<!-- scoreboard -->", "<!-- /scoreboard -->"
MISSES_BEGIN, MISSES_END = "<!-- misses -->", "<!-- /misses -->"
ROLES = {
    "model": "a model of the replication",
    "organism": "planted for this case alone",
    "wild": "the same corpus, nothing planted",
    "dictionary": "the same weights, other features",
    "seed": "the same, grown with another seed",
    "size": "the same, grown with another width",
    "extended": "the same recipe on an extended corpus",
    "twin": "behaves alike but lacks a mechanism",
    "random": "control: transcoders without meaning, nothing may be found",
}
SHOWN = ("model", "organism", "wild")
"""Roles of models that have a column of their own. All others are held against these."""
BESIDE = (
    "Held against these: of further seeds the verdicts of the model are expected, of twins what "
    "[twins.csv](../experiments/twins.csv) said before they were trained, of random controls that nothing is replicated "
    "([claim by claim](robustness.csv)). A claim that fails on the model itself cannot tell it from a twin; nor can "
    "one that a twin replicates although nobody said that it would not (last column)."
)
TELLING = (
    "A verdict speaks of what was found: where members of the supernodes that a claim rests on are found on less than half of the "
    "prompts, nothing is held or seen on most of them. And a claim that is replicated by a twin or a control too, while no twin that "
    "lacks its mechanism is told apart, could not discriminate ([each claim](discrimination.csv))."
)
ELSEWHERE = "What a model cannot be asked is asked of its relatives, grown in another width or on a corpus that holds what is asked for."
EXCHANGED = (
    "And without any transcoder: the mean residual stream of prompts that share a place (an operand, the sum) with a donor and nothing "
    "else, put in the place of a prompt's own; how often the donor's answer is said, minus the same with a wrong donor "
    "(`biology exchange`). For poems: the newline's own stream in all layers, exchanged for that of a couplet with "
    "another rhyme; how often the line then ends in that couplet's word, minus the same at the comma (with the words on the way "
    "forced, with line 1 hidden from the new line, or both)."
)


@dataclass(frozen=True)
class Column:
    """The verdicts on one model."""

    name: str
    role: str
    """A key of ROLES."""
    of: str | None
    """The model of which it is another seed, size, twin or control, or whose corpus was extended."""
    verdicts: pd.DataFrame
    discrimination: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Whether each claim discriminates, and why (`discrimination.py`); empty for seeds, twins and controls of another
    model."""

    @property
    def transcoders(self) -> str:
        return str(self.verdicts["transcoders"].iloc[0])

    @property
    def seed(self) -> int:
        return int(self.verdicts["seed"].iloc[0])

    @property
    def by_claim(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["case"], row["claim"]): row for row in records(self.verdicts)}


def columns(root: Path, config: Config) -> list[Column]:
    """All models that were judged: those of the configuration in its order, then any others in `reports`."""
    found = {path.parent.name: path for path in sorted(root.glob("reports/*/verdicts.csv"))}
    names = [name for name in config.models if name in found]
    names += [name for name in found if name not in config.models]
    made, told = [], discrimination(root, config)
    for name in names:
        entry = config.models.get(name)
        kind, of = (entry.role, entry.of) if entry else ("model", None)
        made.append(Column(name, kind, of, read_table(found[name], "verdicts"), answers(told, name)))
    return sorted((c for c in made if len(c.verdicts)), key=lambda c: list(ROLES).index(c.role))


def judged(root: Path, config: Config) -> list[Column]:
    """The columns of the scoreboards: runs on a few prompts have their own pages and are not among all verdicts."""
    return [column for column in columns(root, config) if few_of(column.name)[1] is None]


def agreement(column: list[Column], case: str, claim: str) -> dict[str, int] | None:
    """How many of several seeds of one model give the claim the first seed's verdict; None with a single seed."""
    found = [c.by_claim[case, claim]["verdict"] for c in column if (case, claim) in c.by_claim]
    return {"agree": found.count(found[0]), "of": len(found)} if len(found) > 1 else None


def seeds(board: list[Column]) -> list[Column]:
    """The first column, and its further seeds according to config.yaml."""
    return [column for column in board if column is board[0] or (column.role == "seed" and column.of == board[0].name)]


def caveats(column: Column, row: Mapping[str, Any], claim: Claim | None) -> list[str]:
    """Warnings beside a verdict: little was found, the claim could not discriminate, or it was amended since."""
    told = [f"found on {percent(row['found'])} of the prompts only"] if row["found"] < MOST else []
    told += ["could not discriminate"] * (column.discrimination.get(row["claim"], {}).get("discriminates") == "no")
    return told + ["judged before the claim was last amended"] * bool(claim and claim.outdates(row))


def earlier(board: Iterable[Column], claims: Mapping[str, Claim]) -> str:
    """Sentences on verdicts that were judged by an earlier rule or before an amendment; "" if there are none."""
    lines, before = [], []
    for column in board:
        old = [r["claim"] for r in records(column.verdicts) if r["claim"] in claims and claims[r["claim"]].outdates(r)]
        before += [f"{column.name} ({', '.join(old)})"] * bool(old)
    if before:
        lines.append(f"Judged before the claim was last amended, and still to be judged anew: {'; '.join(before)}.")
    for method, words in METHODS.items():
        names = [column.name for column in board if method != METHOD and method in set(column.verdicts["method"])]
        if names:
            rule = f"Judged by an earlier rule ({method}: {words})"
            lines.append(f"{rule}, and still to be judged anew: {', '.join(names)}.")
    return " ".join(lines)


def cells(*texts: object) -> str:
    """A row of a Markdown table; its contents are escaped."""
    escaped = (escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ") for text in texts)
    return "| " + " | ".join(escaped) + " |"


def full(column: Column, claims: Mapping[str, Claim], link: str) -> str:
    """All verdicts on one model with their numbers; `link` (with {case}) is the address of the claims."""
    tally = ", ".join(f"{count} {verdict}" for verdict, count in counts(column.verdicts["verdict"]))
    lines = [
        f"## {column.name}",
        f"With {called(column.transcoders)}, seed {column.seed} ({ROLES[column.role]}): {tally}.",
        "",
        "| claim | | verdict | effect − control [95 %] | needed | control | Holm p | items | found on | discriminates |",
        "|---" * 10 + "|",
    ]
    for row in records(column.verdicts):
        claim = claims.get(row["claim"])
        explored = ", exploratory" if claim and claim.explores(column.name) else ""
        explored = ", before the last amendment" if claim and claim.outdates(row) else explored
        lines.append(
            cells(
                f"[{row['claim']}]({link.format(case=row['case'])})", claim.title if claim else "",
                f"{MARKS[row['verdict']]} **{row['verdict']}**{explored}",
                _interval(row), needed(row, claim), row["control"],
                number(row["p"], 2), number(row["n"], 6) if row["n"] else "–", percent(row["found"]),
                column.discrimination.get(row["claim"], {}).get("discriminates", "–"),
            )
        )  # fmt: skip
    return "\n".join(lines)


def short(board: list[Column], claims: Mapping[str, Iterable[Claim]]) -> str:
    """Numbers of claims by verdict for each case and model; controls have a table of their own."""
    words = list(MARKS)
    further = ["✓ of which exploratory", "✓ that could not discriminate", "✗ where too little was found"]
    lines = [
        "| case | model | " + " | ".join([*(f"{MARKS[word]} {word}" for word in words), *further]) + " |",
        "|---|---|" + "---:|" * (len(words) + len(further)),
    ]
    for case, registered in claims.items():
        for column in board:
            here = column.verdicts[column.verdicts["case"] == case].set_index("claim")
            found = here["verdict"]
            if len(found) and column.role in SHOWN:
                linked = f"[{case.replace('_', ' ')}](../experiments/{case}/README.md)"
                explored = sum(
                    found.get(claim.id) == "replicated" and claim.explores(column.name) for claim in registered
                )
                silent = sum(
                    column.discrimination.get(claim, {}).get("discriminates") == "no"
                    for claim in here.index[found == "replicated"]
                )
                counted = (here["method"] == METHOD).all()
                little = ((found == "not replicated") & (here["found"] < MOST)).sum() if counted else "–"
                tally = ((found == word).sum() for word in words)
                lines.append(cells(linked, column.name, *tally, explored, silent, little))
    return "\n".join(lines)


def compared_models(compared: pd.DataFrame, board: list[Column]) -> str:
    """Seeds, twins and random controls: on how many claims their verdict is as expected, and what it is otherwise."""
    words = list(MARKS)
    lines = [
        "| | what it is | claims | replicated on its model | as expected (of those its model can be asked) | "
        + " | ".join(f"{MARKS[word]} {word}" for word in words)
        + " | ✓ though nothing was expected |",
        "|---|---|" + "---:|" * (3 + len(words)) + "---|",
    ]
    judged = {column.name: column.verdicts for column in board}
    for (name, kind), found in compared.groupby(["model", "role"], sort=False):
        counted = ((found["verdict"] == word).sum() for word in words)
        there = (found["reference"] == "replicated").sum()
        others = judged[name].loc[~judged[name]["claim"].isin(found["claim"])]
        beyond = ", ".join(others.loc[others["verdict"] == "replicated", "claim"])
        asked = found.loc[found["reference"] != "untestable", "as_expected"]
        share = f"{found['as_expected'].mean():.0%}" + f" ({asked.mean():.0%})" * bool(len(asked))
        lines.append(cells(name, ROLES[kind], len(found), there, share, *counted, beyond or "–"))
    chance = compared[(compared["role"] == "random") & (compared["verdict"] == "replicated")]
    if differ := across_methods(compared):
        lines += [
            "",
            f"Judged by another rule than what they are held against, so that rules are compared too: {', '.join(differ)}.",
        ]
    if len(chance):
        listed = ", ".join(dict.fromkeys(chance["claim"]))
        lines += [
            "",
            f"Replicated with transcoders that mean nothing, so owed to no trained feature wherever they are replicated: {listed}.",
        ]
    return "\n".join(lines)


def related_models(board: list[Column]) -> str:
    """The claims that cannot be asked of a model, on the sizes and extended corpora on which they can; "" if there are
    none."""
    named = {column.name: column for column in board}
    lines = [
        cells(
            f"[{row['claim']}](../experiments/{row['case']}/claims.yaml)", column.name, ROLES[column.role], f"{MARKS[row['verdict']]} {row['verdict']}",
            _interval(row), number(row["threshold"]),
        )
        for column in board
        if column.role in ("size", "extended") and column.of in named
        for key, row in column.by_claim.items()
        if named[column.of].by_claim.get(key, row)["verdict"] == "untestable" != row["verdict"]
    ]  # fmt: skip
    head = ["| claim | asked of | what it is | verdict | effect − control [95 %] | needed |", "|---" * 6 + "|"]
    return "\n".join([*head, *lines]) if lines else ""


def mean_exchanges(root: Path, config: Config) -> str:
    """The effect of exchanging mean residual streams on each model, minus that of a wrong donor; "" if nothing was
    exchanged."""
    paths = [(name, root / "reports" / name / "streams.csv") for name in config.models]
    tables = {name: pd.read_csv(path) for name, path in paths if path.is_file()}
    told = {
        name: {f"{row.case}: {row.stream}".replace("_", " "): f"{number(row.difference)} [{number(row.low)}, {number(row.high)}]"
               for row in table.itertuples()} for name, table in tables.items()
    }  # fmt: skip
    told = {name: row for name, row in told.items() if row}  # a model of the addition case alone exchanges nothing
    names = list(dict.fromkeys(column for row in told.values() for column in row))
    if not names:
        return ""
    lines = [cells("", *names), "|---" * (1 + len(names)) + "|"]
    return "\n".join([*lines, *(cells(name, *(row.get(one, "–") for one in names)) for name, row in told.items())])


def differing(config: Config, board: list[Column]) -> list[tuple[Column, Column, list[tuple[str, str]]]]:
    """Pairs of transcoder sets of one model, with the claims (case, id) that both judge differently."""
    sets = [column for column in board if column.role == "model" and column.name in config.models]
    pairs = [(a, b) for a, b in itertools.combinations(sets, 2) if b.name in config.siblings(a.name)]
    return [
        (a, b, [key for key, row in a.by_claim.items() if b.by_claim.get(key, row)["verdict"] != row["verdict"]])
        for a, b in pairs
    ]


def disagreement(config: Config, board: list[Column]) -> str:
    """Claims on which two transcoder sets of one model lead to different verdicts, with both numbers (claim meth-20)."""
    lines = []
    for a, b, claims in differing(config, board):
        lines += [
            f"## Where {a.name} and {b.name} disagree",
            f"Transcoders of one model need not tell one story: {len(claims)} of {len(a.by_claim)} verdicts differ.",
            "",
            f"| claim | {a.name} | effect − control [95 %] | {b.name} | effect − control [95 %] |",
            "|---" * 5 + "|",
        ]
        for key in claims:
            found = [side.by_claim[key] for side in (a, b)]
            lines.append(
                cells(
                    key[1],
                    *(text for row in found for text in (f"{MARKS[row['verdict']]} {row['verdict']}", _interval(row))),
                )
            )
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    interval = f"{number(row['statistic'])} [{number(row['low'])}, {number(row['high'])}]"
    return "–" if math.isnan(row["statistic"]) else interval


def full_scoreboard(root: Path, config: Config) -> str:
    """reports/README.md: how to compare verdicts, and every verdict on every model."""
    registered = {case: load_claims(root, case) for case in discover_cases(root)}
    claims = {claim.id: claim for listed in registered.values() for claim in listed}
    board = judged(root, config)
    head = (
        f"# All verdicts\n\nWritten by `biology scoreboard` from `reports/*/verdicts.csv`. {SPEAKS} A claim that was amended "
        "after its first verdict on a model is *exploratory* there, and registered on models judged later; each amendment says why. *Found on*: the "
        "share of the prompts that pass the gate on which all supernodes that a claim rests on have members. *Discriminates*: whether "
        "it tells a model from a twin that lacks its mechanism ([why](discrimination.csv))."
    )
    beside = [
        (BESIDE, compared_models(compared, board)) if len(compared := compare(root, config)) else (),
        (ELSEWHERE, related_models(board)),
    ]
    beside += [(EXCHANGED, mean_exchanges(root, config))]
    blocks = [head, earlier(board, claims), "## By case", TELLING, short(board, registered)]
    blocks += [text for pair in beside if pair and pair[-1] for text in pair]
    blocks += [
        disagreement(config, board),
        *(full(column, claims, "../experiments/{case}/claims.yaml") for column in board),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def by_case(board: list[Column], cases: Iterable[str]) -> str:
    """Numbers of claims by verdict: one row per case, one column per model. Organisms, each of which meets one case, share a
    column."""
    shown = [[column] for column in board if column.role in SHOWN and column.role != "organism"]
    organisms = [column for column in board if column.role == "organism"]
    heads = [column.name for (column,) in shown] + ["an organism of its own"] * bool(organisms)
    lines = [cells("case", *heads), "|---|" + ":---|" * len(heads)]
    for case in cases:
        found = []
        for together in [*shown, *([organisms] if organisms else [])]:
            verdicts = pd.concat([column.verdicts for column in together])
            here = verdicts.loc[verdicts["case"] == case, "verdict"]
            tally = ((int((here == word).sum()), mark) for word, mark in MARKS.items())
            found.append(", ".join(f"{count} {mark}" for count, mark in tally if count))
        if any(found):
            lines.append(cells(f"[{case.replace('_', ' ')}](experiments/{case}/README.md)", *found))
    return "\n".join(lines)


def missed(table: pd.DataFrame) -> str:
    """Of table `misses` the rows whose supernode's site was taken apart, as Markdown; then the other misses in a line."""
    heads = ("claim", "model", "decided by", "lacks", "supernode", "fault", *(f"`{part}`" for part in SHOWN_PARTS))
    lines = [cells(*heads), "|---" * 6 + "|" + "---:|" * len(SHOWN_PARTS)]
    named = table[table["supernode"] != ""]
    for row in records(named):
        shares = (percent(row[part]) for part in SHOWN_PARTS)
        supernode = str(row["supernode"]).replace("_", " ")
        lines.append(
            cells(
                row["claim"],
                row["model"],
                row["part"],
                row["lacks"],
                supernode,
                f"**{row['fault']}**{'' if row['certain'] else ' (open)'}",
                *shares,
            )
        )
    rest = table[table["supernode"] == ""]
    rest = rest.assign(told=rest["claim"] + " (" + rest["lacks"] + ")")
    told = [f"{model}: {', '.join(rows['told'])}" for model, rows in rest.groupby("model", sort=False)]
    return "\n".join(lines) + (f"\n\nNot measured are {'; '.join(told)}.\n" if told else "")


def with_misses(text: str, root: Path) -> str:
    """`text` with the misses of `reports/misses.csv` between their marks; unchanged without marks, or without the file."""
    path = root / "reports/misses.csv"
    if MISSES_BEGIN not in text or not path.is_file():
        return text
    table = pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys((*SHOWN_PARTS, "certain"), ""))
    before, _, rest = text.partition(MISSES_BEGIN)
    return f"{before}{MISSES_BEGIN}\n{missed(table)}\n{MISSES_END}{rest.partition(MISSES_END)[2]}"


def with_scoreboard(text: str, root: Path, config: Config) -> str:
    """`text` (README.md) with the scoreboard by case between its marks. Raises `InputError` if it lacks the marks."""
    if BEGIN not in text or END not in text:
        raise InputError(f"README.md lacks the marks {BEGIN} and {END} between which the scoreboard is written.")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{by_case(judged(root, config), discover_cases(root))}\n{END}{rest.partition(END)[2]}"
