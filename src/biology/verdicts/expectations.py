"""`experiments/expectations.yaml`: verdicts that we expect on models not yet run. The lock forbids changes
(`registration.py`)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field

from biology.cases.case import discover_cases
from biology.cases.claim_file import Verdict, load_claims
from biology.records import Strict, known, read_yaml, validate


class Expectation(Strict):
    """An expected verdict on a model not yet run, and the reasons for it."""

    verdict: Verdict
    because: str = Field(min_length=10)


class _ExpectationsFile(Strict):
    models: dict[str, dict[str, dict[str, Expectation]]]


def load_expectations(root: str | Path) -> dict[str, dict[str, dict[str, Expectation]]]:
    """`experiments/expectations.yaml`: {model: {case: {claim: expectation}}}; empty without such a file.

    Raises `InputError` for an unknown case or claim.
    """
    path = Path(root) / "experiments" / "expectations.yaml"
    if not path.is_file():
        return {}
    found = validate(_ExpectationsFile, {"models": read_yaml(path)}, path).models
    for model, cases in found.items():
        for case, expected in cases.items():
            known(path, model, "case", case, discover_cases(root))
            claims = [claim.id for claim in load_claims(root, case)]
            for claim in expected:
                known(path, f"{model}.{case}", "claim", claim, claims)
    return found


def expectation_hashes(root: str | Path) -> dict[str, str]:
    """SHA-256 of each expectation, as `model/claim`."""
    return {
        f"{model}/{claim}": hashlib.sha256(expectation.model_dump_json().encode()).hexdigest()
        for model, cases in load_expectations(root).items()
        for expected in cases.values()
        for claim, expectation in expected.items()
    }
