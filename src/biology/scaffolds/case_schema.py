"""JSON Schemas of case.yaml, claims.yaml and mechanism.yaml, generated from the types, so that an editor completes, explains and
checks.

They give the allowed keys and words. Whether these fit together can only be checked by reading a case
(`case_checks.py`).
"""

from __future__ import annotations

from typing import Any

from biology.cases.case_file import CaseFile
from biology.cases.claim_file import Claim
from biology.cases.mechanism import Mechanism
from biology.cases.positions import Position

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES = {
    "case.schema.json": "case.yaml", "claims.schema.json": "claims.yaml", "mechanism.schema.json": "mechanism.yaml",
}  # fmt: skip
"""Names of the schemas in experiments/, and the file that each describes."""


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas by the name of their file."""
    case = _tidy(CaseFile.model_json_schema())
    claim = _tidy(Claim.model_json_schema())
    kinds = claim.pop("$defs")
    claim["properties"].pop("id")
    claim["required"].remove("id")
    mechanism = _tidy(Mechanism.model_json_schema())
    said = mechanism["$defs"]["Truth"]["properties"]["truth"]
    said |= {"enum": [*said.pop("enum"), True, False]}  # YAML reads true and false as Booleans
    del said["type"]
    one = claim["properties"]["amended"]["items"]
    claim["properties"]["amended"] = {"anyOf": [one, {"type": "array", "items": one}]}
    claims = {
        "description": "What the paper claims, by id, and the statistic, the control and the threshold by which we judge it.",
        "type": "object",
        "propertyNames": {"pattern": Claim.model_json_schema()["properties"]["id"]["pattern"]},
        "additionalProperties": claim,
        "$defs": kinds,
    }
    for made in (case, mechanism):
        made["$defs"]["Position"] = {"description": "A token position.", "anyOf": Position.forms()}
    return {name: {"$schema": DIALECT} | one for name, one in zip(FILES, (case, claims, mechanism), strict=True)}


def _tidy(node: Any) -> Any:
    """Drops titles that repeat the keys, defines positions once, and puts every description on one line."""
    if isinstance(node, list):
        return [_tidy(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if node.get("anyOf") == Position.forms():
        rest = {key: inner for key, inner in node.items() if key != "anyOf"}
        return _tidy(rest) | {"$ref": "#/$defs/Position"}
    kept = {key: _tidy(inner) for key, inner in node.items() if not (key == "title" and isinstance(inner, str))}
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept
