"""The code that a stage rests on: what is no code changes nothing, what is code changes the stages that reach it, and no others."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stage_rules import SNAKEFILE

from biology import provenance
from biology.provenance import code_hash, source_file, sources, stage_hash

ROOT = Path(__file__).parents[1]
STAGES = re.findall(r'stage_hash\("([\w.]+)"\)', SNAKEFILE)
AS_IT_IS = {stage: stage_hash(stage) for stage in STAGES}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the package, whose code is what is hashed."""
    left_out = shutil.ignore_patterns("__pycache__", "templates", "vendor")
    copy = shutil.copytree(ROOT / "src/biology", tmp_path_factory.mktemp("copied") / "biology", ignore=left_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "PACKAGE", copy)
        yield copy
    forget()


@pytest.fixture
def write(copied):
    """Writes files of the copy, as long as a test lasts."""
    kept = {}

    def written(name, text):
        path = copied / name
        kept.setdefault(path, path.read_text(encoding="utf-8") if path.exists() else None)
        path.write_text(text, encoding="utf-8")
        forget()

    yield written
    for path, text in kept.items():
        path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    forget()


def forget():
    for cached in (stage_hash, provenance._module, provenance._definitions):
        cached.cache_clear()


def hashes():
    return {stage: stage_hash(stage) for stage in STAGES}


def test_comments_docstrings_and_lines_are_free(copied, write):
    """Every module as the syntax tree alone would write it, with another docstring wherever there can be one."""
    for path in copied.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                told = ast.get_docstring(node) is not None
                node.body[: int(told)] = [ast.Expr(ast.Constant("Told in other words."))]
            if isinstance(node, ast.arg):
                node.annotation = None
        write(path, f"# A comment.\n\n{ast.unparse(tree)}\n# The end.\n")
    assert hashes() == AS_IT_IS


@pytest.mark.parametrize(
    ("name", "old", "new", "stages"),
    [
        # what only graphs rest on; what every push rests on; what all stages rest on
        ("evidence/graph_tables.py", 'ANSWER = "answer"', 'ANSWER = "the answer"', {"attribute"}),
        ("interventions/controls.py", "import torch", "import torch\n\nONE = 1", {"intervene", "exchange"}),
        ("evidence/number_outcomes.py", "import MASS, NEAR", "import MASS, NEAR as NEAR", {"group", "attribute", "intervene", "exchange", "sweep"}),
        ("evidence/case_context.py", "NEARLY_ALL = 0.9", "NEARLY_ALL = 0.8", {"group", "attribute", "intervene", "exchange", "sweep"}),
        ("tables.py", "import annotations", "import annotations\n\nONE = 1", {stage.rpartition(".")[2] for stage in STAGES}),
        # a function of a stage, and one that some of them call
        ("cli/stages.py", '"seed": entry.seed', '"seed": -entry.seed', {"load"}),
        ("cli/stages.py", '"group_operands.parquet", "operands")\n    return', '"group_operands.parquet", "operands")[:9]\n    return', {"attribute", "intervene", "sweep"}),
        ("cli/dictionary_commands.py", "COMPARED = 5_000", "COMPARED = 4_000", {"compare_dictionaries"}),
        ("evidence/case_evidence.py", "evidence, panel = run_experiments(context)", "panel, evidence = run_experiments(context)", {"intervene"}),
        # no stage's: another command, the report, verdicts, what is read
        ("cli/stages.py", "import labels_text, role_weights, roles_of", "import role_weights, roles_of, labels_text", set()),
        ("cases/claim_file.py", "MINIMUM_N = 64", "MINIMUM_N = 65", set()),
        ("report/pages.py", "import annotations", "import annotations\n\nONE = 1", set()),
        ("verdicts/claims.py", "import annotations", "import annotations\n\nONE = 1", set()),
        ("config.py", 'CONFIG_FILE = "config.yaml"', 'CONFIG_FILE = "other.yaml"', set()),
    ],
)  # fmt: skip
def test_a_change_concerns_the_stages_that_rest_on_it(copied, write, name, old, new, stages):
    text = (copied / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    write(name, text.replace(old, new))
    after = hashes()
    assert {stage.rpartition(".")[2] for stage in STAGES if after[stage] != AS_IT_IS[stage]} == stages


def test_what_is_imported_inside_functions_and_by_name_counts_and_what_type_checkers_read_does_not(write):
    write(
        "one.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from biology.wording import number\n"
        "def f():\n    from biology import two\n    return two\n",
    )
    write("two.py", "import biology.statistics\nfrom biology.config import load_config\n")
    assert sources("one") == ["one", "statistics", "two"]
    before = code_hash("one")
    write("statistics.py", "ALPHA = 0\n")
    assert code_hash("one") != before


def test_where_definitions_count_one_by_one_there_is_nothing_else(write):
    write("cli/opening.py", source_file("cli.opening").read_text(encoding="utf-8") + "\nprint('hello')\n")
    with pytest.raises(ValueError, match=r"opening.py, line \d+: this does not define"):
        stage_hash("stages.cache")


def test_all_that_a_torch_stage_rests_on_is_no_page_no_verdict_and_no_figure():
    """But `predict-ablations` and `superpose` draw their own figures, and `decompose` exchanges what was planted as certificates do."""
    rooms = {"report", "verdicts", "findings", "figures", "scaffolds", "organisms", "corpora"}
    for stage in STAGES:
        rest = {module.partition(".")[0] for module in provenance._rests_on(stage)[1]}
        known = {"stages.decompose": {"organisms", "corpora"}}.get(
            stage, {"figures"} if stage.endswith(("predict_ablations", "superpose")) else set()
        )
        assert rest & rooms <= known, stage


def test_readers_are_modules_and_every_stage_has_a_hash_of_its_own():
    assert all(source_file(module).is_file() for module in provenance.READERS)
    assert len(set(AS_IT_IS.values())) == len(STAGES) == 13


def test_two_processes_agree():
    code = f"from biology.provenance import stage_hash\nfor stage in {STAGES}: print(stage_hash(stage))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {"".join(f"{one}\n" for one in AS_IT_IS.values())}
