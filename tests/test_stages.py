"""The commands of the pipeline on files: a reader's own threshold writes nothing, a copied case runs as it is."""

import shutil
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from multi_hop_tables import write_repository

from biology.__main__ import main
from biology.artefacts import contents_hash
from biology.cases.case import load_case
from biology.cases.claim_file import UNREGISTERED
from biology.findings.faults import read_site_parts
from biology.tables import read_table, write_table
from biology.verdicts.registration import read_lock

ROOT = Path(__file__).parents[1]
FOUND = 'factor: city, at: found, among: [last, "factor:city"], given: [state], split: any'
VERDICTS = "reports/elegans/verdicts.csv"


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A repository with one made-up case, registered and judged, whose model is the shipped one."""
    root = write_repository(tmp_path_factory.mktemp("judged"), figures=False)
    shipped = ROOT / "data/models/elegans"
    (root / "config.yaml").write_text(
        f"models: {{elegans: {{path: {shipped}, transcoders: {shipped}/transcoders}}}}\n"
        "statistics: {permutations: 4000, bootstrap: 1000}\n"
    )
    made = root / "data/runs/elegans/multi_hop"
    shutil.copy(made / "fidelity.parquet", made.parent)  # as `biology load` leaves it
    path = made / "evidence.parquet"
    evidence = read_table(path, "evidence")  # the command judges at the one strength that was measured
    write_table(path, evidence[(evidence["experiment"] != "swap_state") | (evidence["strength"] == 2.0)], "evidence")
    assert run(root, "lock") == run(root, "judge", "--model", "elegans") == 0
    return root


@pytest.fixture
def root(judged, tmp_path):
    return shutil.copytree(judged, tmp_path / "repository")


def run(root, *arguments):
    return main([*arguments, "--config", str(root / "config.yaml")])


def verdicts(root):
    return read_table(root / VERDICTS, "verdicts").set_index(["case", "claim"])


def test_a_readers_own_threshold_is_shown_beside_the_registered_verdict_and_nothing_is_written(root, capsys):
    before, names = contents_hash(root, "**/*.*"), sorted(root.rglob("*"))
    registered = verdicts(root).loc[("multi_hop", "multihop-7")]
    assert registered["verdict"] == "replicated" and 0.5 < registered["statistic"] < 0.96
    capsys.readouterr()
    assert run(root, "judge", "--model", "elegans", "--threshold", "multihop-7=0.96") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line[:4] != "    "] == [
        "multihop-7: replicated (registered)",
        "  with your threshold: inconclusive",
    ]
    assert said[1].strip() == registered["reason"] and "at least the registered minimum 0.5" in said[1]
    assert "the estimate is below the minimum 0.96" in said[3]
    assert run(root, "judge", "--model", "elegans", "--threshold", "multihop-7/swap=2") == 0
    assert "  with your threshold: not replicated" in capsys.readouterr().out.splitlines()
    assert run(root, "judge", "--model", "elegans", "--threshold", "multihop-99=2") == 2
    assert "unknown claim 'multihop-99'. Known: multihop-7, multihop-2, multihop-8" in capsys.readouterr().err
    assert (contents_hash(root, "**/*.*"), sorted(root.rglob("*"))) == (before, names)


def test_a_new_case_runs_and_is_judged_once_it_is_registered(root):
    """Every command of the pipeline on the template as `biology new-case` leaves it, beside a case whose verdicts stay what they are."""
    before = verdicts(root)
    shutil.copytree(ROOT / "experiments/_template", root / "experiments/_template")
    assert run(root, "new-case", "mine") == 0
    mine = ["--model", "elegans", "--case", "mine"]
    for stage in ("cache", "group", "attribute", "intervene", "sweep", "tabulate"):
        assert run(root, stage, *mine) == 0, stage
    assert run(root, "judge", "--model", "elegans") == 0
    after = verdicts(root)
    assert after.loc[["multi_hop"]].equals(before)
    new = after.loc[("mine", "mine-1")]
    assert new["verdict"] == "untestable" and new["reason"] == f"{UNREGISTERED}."
    for figure in load_case(root, "mine").figures:
        assert run(root, "draw", *mine, "--figure", figure) == 0, figure
    assert run(root, "write", *mine) == run(root, "write") == 0
    for page in ("elegans/mine.html", "index.html"):
        assert "Not registered: run" in (root / "reports" / page).read_text(encoding="utf-8"), page
    assert run(root, "lock") == run(root, "judge", "--model", "elegans") == 0
    assert verdicts(root).loc[("mine", "mine-1"), "reason"].startswith("No prompt is held out and scored")


def test_a_stage_loads_its_model_once_and_reads_nothing_twice(root, monkeypatch):
    """Nor does it split a text into tokens twice: a prompt is split by `cache`, which stores its tokens, and by no later stage."""
    done, prompts = Counter(), set()

    def counted(module, name, of=lambda *given: given[0]):
        function = getattr(import_module(f"biology.{module}"), name)

        def counting(*given, **more):
            done[name, str(of(*given))] += 1
            return function(*given, **more)

        monkeypatch.setattr(f"biology.{module}.{name}", counting)

    shutil.copytree(ROOT / "experiments/_template", root / "experiments/mine")
    counted("models.model", "load_model")
    counted("models.model", "_encode", lambda model, text: text)
    counted("transcoders.transcoder_files", "load_transcoders")
    for module, name in (
        ("tables", "read_table"),
        ("artefacts", "read_tensors"),
        ("cases.case", "read_yaml"),
        ("config", "read_yaml"),
    ):
        counted(module, name)
    for stage in ("cache", "group", "attribute", "intervene", "sweep"):
        done.clear()
        assert run(root, stage, "--model", "elegans", "--case", "mine") == 0
        assert {name for name, _ in done} >= {"load_model", "load_transcoders", "read_yaml"}
        assert set(done.values()) == {1}, (stage, done)
        split = {text for name, text in done if name == "_encode"}
        if stage == "cache":
            prompts = set(read_table(root / "data/runs/elegans/mine/cache.parquet", "prompts")["text"])
            assert prompts <= split
        else:
            assert not prompts & split, stage


def test_a_supernode_of_which_nothing_is_found_has_the_members_of_the_first_position(root, capsys):
    """A rule that says `found` goes through all stages; without development prompts it is as if it said where."""
    shutil.copytree(ROOT / "experiments/_template", root / "experiments/mine")
    path, folder = root / "experiments/mine/case.yaml", root / "data/runs/elegans/mine"
    said = path.read_text().replace(
        "  say_austin:\n    at: last\n", f"  say_austin: {{{FOUND}}}\n  unread:\n    at: last\n"
    )
    path.write_text(said)
    mine = ["--model", "elegans", "--case", "mine"]
    for stage in ("cache", "group", "attribute", "intervene", "sweep", "tabulate"):
        assert run(root, stage, *mine) == 0, stage
    told = "case mine: supernodes.say_austin: nothing is found (no development prompt has an exchange of the city"
    assert told in capsys.readouterr().err
    sites = read_table(folder / "sites.parquet", "sites")
    assert list(sites["position"]) == ["last", "factor:city"] and not sites["chosen"].any() and set(sites["n"]) == {0}
    assert run(root, "decompose", "--model", "elegans") == 0
    (apart,) = read_site_parts(root / "reports/elegans/site_parts.csv").to_dict("records")
    assert (apart["case"], apart["supernode"], apart["fault"]) == ("mine", "say_austin", "not found")
    assert run(root, "draw", *mine, "--figure", "supernode_graph") == run(root, "judge", "--model", "elegans") == 0
    before = contents_hash(
        folder, "group.parquet", "group_operands.parquet", "intervene.parquet", "graphs.json", "steering.parquet"
    )
    path.write_text(said.replace(FOUND, "factor: city, at: last, split: any"))
    for stage in ("group", "attribute", "intervene", "sweep"):
        assert run(root, stage, *mine) == 0, stage
    assert not len(read_table(folder / "group_sites.parquet", "sites"))
    assert run(root, "decompose", "--model", "elegans") == 2
    assert "no supernode of its cases has `at: found`" in capsys.readouterr().err
    assert before == contents_hash(
        folder, "group.parquet", "group_operands.parquet", "intervene.parquet", "graphs.json", "steering.parquet"
    )
    path.write_text(said)  # and of what another rule left, nothing is read
    assert run(root, "intervene", *mine) == 2
    assert (
        "supernodes.say_austin: the table `sites` was made with other positions: run `biology group`."
        in capsys.readouterr().err
    )


def test_a_changed_claim_stops_all_verdicts_whatever_is_new_beside_it(root, capsys):
    shutil.copytree(ROOT / "experiments/_template", root / "experiments/mine")
    path = root / "experiments/multi_hop/claims.yaml"
    path.write_text(path.read_text().replace("minimum: 0.5", "minimum: 0.4", 1))
    before = contents_hash(root, "reports/**/*.csv", "data/runs/**/*.*")
    assert run(root, "judge", "--model", "elegans") == run(root, "lock") == 2
    said = capsys.readouterr().err
    assert said.count("claim 'multihop-7' of case 'multi_hop': the claim was changed without amendment") == 2
    assert contents_hash(root, "reports/**/*.csv", "data/runs/**/*.*") == before
    assert "mine" not in read_lock(root).claims


def test_the_index_begins_with_the_models_of_the_configuration(root):
    """A known model that was judged comes after them."""
    known = root / "reports/smollm2-135m-instruct/verdicts.csv"
    known.parent.mkdir()
    known.write_text((root / VERDICTS).read_text(encoding="utf-8").replace("elegans", "smollm2-135m-instruct"))
    assert run(root, "write") == 0
    text = (root / "reports/index.html").read_text(encoding="utf-8")
    assert 0 < text.index("> on elegans<") < text.index("> on smollm2-135m-instruct<")
