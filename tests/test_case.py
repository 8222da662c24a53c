"""A case is a folder: found by its case.yaml, read strictly."""

import re
import shutil
from pathlib import Path

import pytest
from copied_case import HEADER, copied, edit

from biology.cases.case import discover_cases, fingerprint, load_case, titles
from biology.cases.claim_file import load_claims
from biology.records import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    return copied(tmp_path)


def test_a_copy_of_the_template_is_a_case(root):
    shutil.copytree(ROOT / "experiments/_template", root / "experiments/_template")
    (root / "experiments/notes").mkdir()
    assert discover_cases(root) == ["mine"]
    case = load_case(root, "mine")
    assert case.prompts["dallas"].answer == " Austin"
    assert case.prompts["dallas"].split == "exploratory"
    assert load_claims(root, "mine")[0].parts[0].experiment == "inhibit_texas"


@pytest.mark.parametrize("name", discover_cases(ROOT))
def test_every_case_of_the_repository_loads(name):
    case = load_case(ROOT, name)
    assert (case.folder / "README.md").is_file()
    assert load_claims(ROOT, name)


def test_the_prompt_of_the_docs_is_one_that_its_case_takes(tmp_path):
    page = (ROOT / "docs/how_to/add_a_prompt.md").read_text(encoding="utf-8")
    (lines,) = re.findall(
        r"case\.yaml`, here that of `multi_hop`:\n\n```yaml\nprompts:\n(.*?)```", page, flags=re.DOTALL
    )
    shutil.copytree(ROOT / "experiments/multi_hop", tmp_path / "experiments/mine")
    edit(tmp_path, "case.yaml", "\nprompts:\n", f"\nprompts:\n{lines}")
    assert load_case(tmp_path, "mine").prompts["houston"].answer == "Austin"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("answer:", "anwser:", r"case\.yaml: prompts\.dallas: unknown key 'anwser'\. Did you mean 'answer'\?"),
        ("figures:", "figure:", r"case\.yaml: unknown key 'figure'\. Did you mean 'figures'\?"),
        ("at: last", "att: last", r"case\.yaml: supernodes\.say_austin: unknown key 'att'"),
        ("active_on: [dallas]", "active_on: [houston]", r"supernodes\.texas: unknown prompt 'houston'"),
        ("inhibit: texas", "inhibit: utah", r"experiments\.inhibit_texas: unknown supernode 'utah'"),
        ("prompts: [dallas]", "prompts: [utah]", r"experiments\.inhibit_texas\.prompts: unknown prompt 'utah'"),
        ("# prompt_set:", "prompt_set:", r"prompts\.csv: no such file"),
        ("kind: inhibit", "kind: inhibit\n    only: {citty: Dallas}", r"inhibit_texas\.only: unknown factor 'citty'"),
        (
            "kind: inhibit",
            "kind: inhibit\n    control_position: best",
            r"inhibit_texas: `control_position: best` needs `sites` to choose",
        ),
    ],
    ids=lambda value: value[:20],
)
def test_a_mistake_in_case_yaml_is_named(root, old, new, expected):
    edit(root, "case.yaml", old, new)
    with pytest.raises(InputError, match=expected) as error:
        load_case(root, "mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "minimum:",
            "minimun:",
            r"claims\.yaml: template-1\.parts\.answer falls: unknown key 'minimun'\. Did you mean 'minimum'\?",
        ),
        ("minimum: 0.3", "minimum: 0", r"template-1\.parts\.answer falls\.minimum: Input should be greater than 0"),
        ("direction: decrease", "direction: down", r"template-1\.parts\.answer falls\.direction"),
        (
            "experiment: inhibit_texas",
            "experiment: swap",
            r"template-1\.parts\.answer falls: unknown experiment 'swap'",
        ),
        ("outcome: answer_probability", "outcome: mood", r"unknown outcome 'mood'"),
        ("registered:", "on:", r"template-1: unknown key"),
        ("minimum_n: 256", "untestable: no words", r"either parts or a reason"),
        ("template-1:", "Template_1:", r"Template_1\.id"),
    ],
    ids=lambda value: value[:20],
)
def test_a_mistake_in_claims_yaml_is_named(root, old, new, expected):
    edit(root, "claims.yaml", old, new)
    with pytest.raises(InputError, match=expected):
        load_claims(root, "mine")


@pytest.mark.parametrize(
    "data", ["a,é,b,c,dev,score,d".encode("latin-1"), b"a," + b"x" * 200_000 + b",b,c,dev,score,d"]
)
def test_a_prompt_set_that_is_no_csv_in_utf_8_is_named(root, data):
    edit(root, "case.yaml", "# prompt_set:", "prompt_set:")
    (root / "experiments/mine/prompts.csv").write_bytes(HEADER.encode() + data)
    with pytest.raises(InputError, match=r"prompts\.csv: cannot be read as CSV in UTF-8"):
        load_case(root, "mine")


def test_a_prompt_set_saved_by_a_spreadsheet_is_read(root):
    edit(root, "case.yaml", "# prompt_set:", "prompt_set:")
    (root / "experiments/mine/prompts.csv").write_text(
        HEADER + "a,b e,c,d,heldout,score,e\nf,g e,c,h,dev,score,e\n", encoding="utf-8-sig"
    )
    assert [item.item for item in load_case(root, "mine").items] == ["a", "f"]


def test_the_prompt_set_keeps_text_and_factors(root):
    edit(root, "case.yaml", "# prompt_set:", "prompt_set:")
    path = root / "experiments/mine/prompts.csv"
    path.write_text(HEADER + 'a,"He saw Dallas,\nand",  grab,it,dev,select,Dallas\n')
    (item,) = load_case(root, "mine").items
    assert (item.text, item.answer, item.factors) == ("He saw Dallas,\nand", "  grab", {"city": "Dallas"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("item,text,answer,split,role\n", r"prompts\.csv: missing column\(s\) cluster"),
        (HEADER + "a,x,y,c,test,select,D\n", r"prompts\.csv: row 2\.split"),
        (HEADER + "a,x,y,c,dev,select,D\na,x,y,c,dev,select,D\n", r"row 3: item 'a' occurs twice"),
        (HEADER + "a,x,y,c,dev,select\n", r"row 2 does not have 7 columns"),
        (HEADER + "a,x,,c,dev,select,D\n", r"row 2\.answer"),
        (HEADER + "dallas,x,y,c,dev,select,D\n", r"item 'dallas' is also a prompt"),
        (HEADER.replace("city", "City"), r"column name 'City'"),
    ],
    ids=lambda value: value[-25:],
)
def test_a_mistake_in_prompts_csv_is_named(root, text, expected):
    edit(root, "case.yaml", "# prompt_set:", "prompt_set:")
    (root / "experiments/mine/prompts.csv").write_text(text)
    with pytest.raises(InputError, match=expected):
        load_case(root, "mine")


def test_an_unknown_case_lists_the_known_ones(root):
    with pytest.raises(InputError, match=r"unknown case 'yours'.*Known cases: mine"):
        load_case(root, "yours")


def test_a_fingerprint_sees_the_named_fields_only(root):
    before = load_case(root, "mine")
    edit(root, "case.yaml", "figures: [supernode_graph, inhibition_panel]", "figures: [supernode_graph]")
    after = load_case(root, "mine")
    assert fingerprint(before, "prompts", "items") == fingerprint(after, "prompts", "items")
    assert fingerprint(before, "figures") != fingerprint(after, "figures")


@pytest.mark.parametrize("case", discover_cases(ROOT))
def test_every_named_prompt_of_a_shipped_case_has_what_labels_ask_for(case):
    """Or no figure of it could be drawn."""
    loaded = load_case(ROOT, case)
    for prompt in loaded.prompts:
        assert len(titles(loaded, prompt)) == sum(bool(rule.label) for rule in loaded.supernodes.values())
