"""The schemas that editors read are those of the types, and every shipped case is valid by them."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from biology.scaffolds.case_schema import FILES, schemas

ROOT = Path(__file__).parents[1]
CASES = sorted(
    path.parent for path in [*ROOT.glob("experiments/*/case.yaml"), *ROOT.glob("docs/*/experiments/*/case.yaml")]
)


def read(path: Path):
    """What an editor reads: dates are text."""
    return json.loads(json.dumps(yaml.safe_load(path.read_text()), default=str))


def test_the_committed_schemas_are_those_of_the_types():
    for name, made in schemas().items():
        assert json.loads((ROOT / "experiments" / name).read_text()) == made, "run `biology schema`"
        jsonschema.Draft202012Validator.check_schema(made)


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
@pytest.mark.parametrize("schema", FILES)
def test_a_shipped_case_is_valid_and_names_its_schema(folder, schema):
    for path in [folder / FILES[schema], *(folder.glob("twins/*.yaml") if "mechanism" in schema else ())]:
        if path.is_file() or "mechanism" not in schema:  # a case need not state one
            valid_by_the_schema_that_it_names(path, schema)


def valid_by_the_schema_that_it_names(path, schema):
    first = path.read_text().splitlines()[0].partition("$schema=")[2]
    assert (path.parent / first).resolve() == ROOT / "experiments" / schema
    jsonschema.Draft202012Validator(schemas()[schema]).validate(read(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind: inhibit", "kind: inhibt"),
        ("inhibit: texas", "inhbit: texas"),
        ("outcomes: [answer_probability]", "outcomes: [mood]"),
        ("controls: [match, position]", "controls: [match, donor]"),
        ("strengths: [0, -1, -2]", "strengths: []"),
        ("strengths: [0, -1, -2]", "depths: [7.5]"),
        ("at: factor:city", "at: facto:city"),
    ],
)  # fmt: skip
def test_an_editor_underlines(old, new):
    text = (ROOT / "experiments/_template/case.yaml").read_text()
    validator = jsonschema.Draft202012Validator(schemas()["case.schema.json"])
    assert old in text and validator.is_valid(yaml.safe_load(text))
    assert not validator.is_valid(yaml.safe_load(text.replace(old, new, 1)))
