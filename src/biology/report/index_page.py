"""The page of all models and cases that have been judged."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportAssignmentType=false, reportReturnType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from pathlib import Path
from typing import Any

from biology.cases.case import PAGES, discover_cases, load_case
from biology.cases.claim_file import Claim, load_claims
from biology.config import SHOWN_ROLES, Config
from biology.report.pages import counts, environment, records
from biology.report.scoreboard import ROLES, Column, agreement, caveats, columns, differing, earlier, seeds


def index_page(root: Path, config: Config) -> str:
    """The HTML of this page."""
    board = columns(root, config)
    same = seeds(board)
    differ = {key for _, _, claims in differing(config, board) for key in claims}
    cases = []
    registered = {name: load_claims(root, name) for name in discover_cases(root)}
    by_id = {claim.id: claim for claims in registered.values() for claim in claims}
    for name, listed in registered.items():
        claims = [c for c in listed if any((name, c.id) in column.by_claim for column in board)]
        rows = [_row(root, board, same, name, claim) | {"differ": (name, claim.id) in differ} for claim in claims]
        here = [column for column in board if name in set(column.verdicts["case"])]
        if rows:
            shorts = [
                {
                    "name": column.name,
                    "own": column.role == "organism",
                    "paged": _has_page(root, column, name),
                    "claims": [
                        (claim, column.by_claim[name, claim.id]["verdict"])
                        for claim in claims
                        if (name, claim.id) in column.by_claim
                    ],
                }
                for column in here
                if column.role in SHOWN_ROLES
            ]
            cases.append({"case": load_case(root, name), "rows": rows, "columns": here, "shorts": shorts})
    models = [
        {
            "column": column,
            "counts": counts(column.verdicts["verdict"]),
            "total": len(column.verdicts),
            "role": ROLES[column.role],
            "pages": [c for c in discover_cases(root) if _has_page(root, column, c)],
            "extra": [page for page in PAGES if (root / "reports" / column.name / f"{page}.html").is_file()],
            "rows": records(column.verdicts),
        }
        for column in board
    ]  # fmt: skip
    planted = next((c.name for c in board if c.name in config.models and config.models[c.name].planted), "")
    template = environment().get_template("index.html.j2")
    return template.render(
        models=models,
        cases=cases,
        seeds=len(same),
        earlier=earlier(board, by_id),
        planted_model=planted,
        caveats=lambda column, row: caveats(column, row, by_id.get(row["claim"])),
    )


def _has_page(root: Path, column: Column, case: str) -> bool:
    """Whether the page of this case and model has been written. Other models have theirs by commands of their own."""
    return (root / "reports" / column.name / f"{case}.html").is_file()


def _row(root: Path, board: list[Column], same: list[Column], case: str, claim: Claim) -> dict[str, Any]:
    return {
        "claim": claim,
        "cells": [
            {
                "verdict": column.by_claim[case, claim.id]["verdict"],
                "caveats": caveats(column, column.by_claim[case, claim.id], claim),
                "column": column,
                "paged": _has_page(root, column, case),
            }
            if (case, claim.id) in column.by_claim
            else None
            for column in board
            if case in set(column.verdicts["case"])
        ],
        "agreement": agreement(same, case, claim.id),
    }


# ------------------------------------------------------------------------------------------------------------- Markdown
