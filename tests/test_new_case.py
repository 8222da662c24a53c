"""A new case runs as it comes: made from the template and from a whole case, read, told and registered; nothing else is touched."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from biology.__main__ import main
from biology.cases.case import discover_cases, load_case
from biology.cases.claim_file import load_claims
from biology.config import load_config
from biology.scaffolds.config_text import with_case
from biology.verdicts.registration import read_lock

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    """A checkout's config.yaml and cases."""
    shutil.copy(ROOT / "config.yaml", tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copytree(ROOT / "data/words", tmp_path / "data/words")  # of which some prompt sets are made
    return tmp_path


def run(root, *words):
    return main([*words, "--config", str(root / "config.yaml")])


def refused(capsys, root, *words):
    capsys.readouterr()
    assert run(root, *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize("source", ["", "multi_hop"])
def test_a_case_made_from_another_asks_what_that_one_asks(root, source, capsys):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "config.yaml"}
    assert run(root, "new-case", "My_case", *(["--from", source] if source else [])) == 0
    said = capsys.readouterr().out
    assert all(path.read_bytes() == old for path, old in before.items())
    old_case, new_case = load_case(root, source or "_template"), load_case(root, "My_case")
    same = {"experiments", "supernodes", "prompts", "items", "figures"}
    assert new_case.model_dump(include=same) == old_case.model_dump(include=same)
    old, new = load_claims(root, source or "_template"), load_claims(root, "My_case")
    assert [claim.parts for claim in old] == [claim.parts for claim in new]
    assert {claim.id for claim in new} == {f"my-case-{claim.id.split('-')[-1]}" for claim in old}
    assert not any(claim.amended for claim in new) and {claim.registered for claim in new} == {date.today()}
    assert not {"mechanism.yaml", "twins"} & {path.name for path in (root / "experiments/My_case").iterdir()}
    assert "My_case" in load_config(root / "config.yaml").cases_of("elegans", discover_cases(root))
    assert ("Not copied: mechanism.yaml" in said) == (source == "multi_hop")
    assert f"{len(new)} claims, not registered yet" in said and f"biology check {new[0].id} --model elegans" in said
    assert run(root, "explain", "My_case") == run(root, "lock") == 0
    assert "\n    Not registered yet: `biology lock`.\n" in capsys.readouterr().out
    assert set(read_lock(root).claims["My_case"]) == {claim.id for claim in new}
    assert run(root, "explain", new[0].id) == 0
    assert f"\n    Registered {date.today().isoformat()}.\n" in capsys.readouterr().out
    path = root / "experiments/My_case/claims.yaml"
    path.write_text(path.read_text().replace("minimum: 0.3", "minimum: 0.2").replace("minimum: 0.5", "minimum: 0.4"))
    assert run(root, "explain", "My_case") == 0
    assert "\n    Not as it was registered (" in capsys.readouterr().out


def test_a_case_is_not_given_to_a_model_that_was_grown_for_another(root, capsys):
    before = (root / "config.yaml").read_bytes()
    assert "it was grown for its own case" in refused(capsys, root, "new-case", "mine", "--model", "refusals")
    assert not (root / "experiments/mine").exists() and (root / "config.yaml").read_bytes() == before


def test_a_case_for_a_model_of_its_own_is_entered_as_one_that_is_grown_on_request(root, capsys):
    before = load_config(root / "config.yaml")
    assert run(root, "new-case", "colours", "--organism") == 0
    said, config = capsys.readouterr().out, load_config(root / "config.yaml")
    entry = config.models["colours"]
    assert (entry.role, entry.planted, entry.cases) == ("organism", True, ("colours",))
    assert {name: one for name, one in config.models.items() if name != "colours"} == before.models
    assert config.of_one_case.count("colours") == 1 and "colours" in config.calibrated
    steps = [
        "experiments/colours/mechanism.yaml",
        "biology lock",
        "biology organism --case colours",
        "biology check colours-1 --model colours",
    ]
    places = [said.index(step) for step in steps]
    assert places == sorted(places) and said.endswith("docs/tutorials/plant_a_mechanism.md\n")
    assert "name one of them" in refused(capsys, root, "new-case", "sounds", "--organism", "--model", "elegans")
    assert "there is a model 'elegans' already" in refused(capsys, root, "new-case", "elegans", "--organism")
    assert not {"sounds", "elegans"} & set(discover_cases(root))


def test_comments_of_the_configuration_stay(root):
    lines = (root / "config.yaml").read_text().splitlines()
    assert run(root, "new-case", "mine", "--model", "elegans-rote") == 0
    after = (root / "config.yaml").read_text().splitlines()
    (place,) = [number for number, line in enumerate(after) if line not in lines]
    assert after[place] == "    cases: [addition, multi_hop, rhyme_planning, mine]" and len(after) == len(lines)
    config = load_config(root / "config.yaml")
    assert [name for name, entry in config.models.items() if entry.cases and "mine" in entry.cases] == ["elegans-rote"]


def test_what_cannot_be_put_into_the_list_is_said(capsys, root):
    text = (root / "config.yaml").read_text()
    listed = "    cases: [addition, multi_hop, multilingual, rhyme_planning]\n"
    assert listed in text
    (root / "config.yaml").write_text(text.replace(listed, ""))
    assert run(root, "new-case", "mine", "--model", "elegans-wild") == 0
    assert "elegans-wild meets it: it meets all cases." in capsys.readouterr().out
    assert with_case("models:\n  a:\n    cases:\n      - x\n", "a", "y") is None
    assert with_case("models:\n  a: {cases: [x]}\n", "b", "y") is None
    text = (root / "config.yaml").read_text()
    (root / "config.yaml").write_text(
        text.replace(
            "    cases: [addition, components, methods, multi_hop, rhyme_planning]", "    cases:\n      - addition"
        )
    )
    assert run(root, "new-case", "other") == 0
    assert "Add other to `cases:` of elegans in config.yaml, or no model meets it." in capsys.readouterr().out


def test_mistakes_are_one_line_that_names_the_page_and_leave_nothing(capsys, root):
    before = sorted(root.rglob("*"))
    assert "docs/tutorials/extend_a_case.md" in refused(capsys, root, "new-case", "multi_hop")
    assert "not a valid name" in refused(capsys, root, "new-case", "a b")
    assert "page of every model" in refused(capsys, root, "new-case", "atlas")
    assert "begins with _" in refused(capsys, root, "new-case", "_mine")
    assert "Known cases: addition" in refused(capsys, root, "new-case", "mine", "--from", "poems")
    assert "unknown model 'gpt'" in refused(capsys, root, "new-case", "mine", "--model", "gpt")
    (root / "experiments/multi_hop/case.yaml").write_text("paper: {section: x, url: y}\nfigure: [a]\n")
    assert "unknown key 'figure'" in refused(capsys, root, "new-case", "mine", "--from", "multi_hop")
    assert sorted(root.rglob("*")) == before
