"""The house has floors: a module imports only from those below it, and torch ends at the tables."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/biology"

# From the ground up. A module imports only from rows above its own; modules of one row do not know each other.
FLOORS = [
    # torch-free
    ["grammar"],
    ["records", "artefacts", "positions", "arms", "measures"],
    ["model_sources"],
    ["config", "measurement"],
    ["folders"],
    ["graph_nodes"],
    ["saved_view", "graph_flow"],
    ["experiments", "rules", "items", "figure_names", "graph_files", "memory", "hub", "text"],
    ["case_file", "facts", "tables"],
    ["case_checks"],
    ["case"],
    ["claim_file", "settled", "named_members"],
    ["expectations", "mechanism"],
    ["corpus", "operands"],
    ["natural_prompts", "two_hop_prompts", "lessons", "case_corpus"],
    ["prompts", "vocabulary"],
    ["twins"],
    ["claim_basis", "cards"],
    ["registration", "explanation", "schema"],
    # torch
    ["sites"],
    ["taps", "lesson", "resumable"],
    ["planting"],
    ["organism", "graph", "weights", "checkpoint", "bridge", "agreement"],
    ["tokenizer", "stored", "gguf_files"],
    ["model", "graph_paths", "layout_gemma_scope", "layout_saelens", "packages"],
    ["layout_circuit_tracer"],
    ["layouts"],
    ["freezing", "transcoders", "case_prompts", "number_outcomes", "cell_outcomes"],
    [
        "transcoder_files",
        "neurons",
        "activations",
        "replacement",
        "continuation",
        "documents",
        "sampling",
        "training_memory",
    ],
    ["splicing", "site_exchange", "edits"],
    [
        "dictionary_training",
        "dictionary_metrics",
        "behaviour",
        "targets",
        "direct_effects",
        "graph_json",
        "global_weights",
        "carried",
    ],
    ["stream_effects", "descent", "whole_graph", "cross_layer_training", "dictionary_comparison"],
    ["qk", "head_loadings", "selection"],
    ["graph_memory"],
    ["attribution", "supernodes", "interventions"],
    ["controls", "residuals", "ablation", "atlas", "generation", "locating"],
    ["bench", "streams", "holding"],
    ["outcomes"],
    ["perturbation"],
    ["operand_tables"],
    ["graph_tables", "lines", "census", "sharing", "sweep"],
    ["line_evidence"],
    ["case_evidence"],
    # torch-free again: what tables say, drawn and told
    ["statistics", "wording", "found"],
    ["certificate"],
    ["measuring"],
    ["reasons"],
    ["claims"],
    ["procedure", "drawing", "arrows", "contrasts", "robustness", "turning"],
    ["viewer"],
    ["discrimination", "calibration"],
    ["prompt_figures", "graph_chains", "dossier", "pages", "numbers", "coverage", "calibration_figure"],
    ["figure_data"],
    ["figures", "explorer", "dictionary_figures"],
    ["report", "scoreboard", "atlas_page", "steer_page", "graph_calibration", "outlook"],
    # the commands
    ["arguments"],
    ["opening"],
    ["stages", "table_stages", "tracing", "growth", "interchange", "dictionaries", "fetching", "housekeeping"],
    ["steering", "training", "api", "checking"],
    ["__main__"],
]
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}
HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens"}
LIGHT = [
    *(
        "grammar",
        "config",
        "records",
        "model_sources",
        "measurement",
        "two_hop_prompts",
        "arrows",
        "graph_chains",
        "figure_data",
        "calibration_figure",
        "table_stages",
        "folders",
        "positions",
        "arms",
        "measures",
        "experiments",
        "rules",
        "items",
        "figure_names",
        "case_file",
        "facts",
        "case_checks",
        "case",
        "settled",
        "named_members",
        "gguf_files",
        "packages",
        "claim_file",
        "expectations",
        "claim_basis",
        "registration",
        "explanation",
        "schema",
        "artefacts",
        "memory",
        "hub",
        "text",
        "tables",
        "corpus",
        "operands",
        "natural_prompts",
        "prompts",
        "cards",
        "statistics",
        "found",
        "measuring",
        "reasons",
        "claims",
        "procedure",
        "coverage",
        "contrasts",
        "wording",
        "turning",
        "dossier",
        "pages",
        "robustness",
        "discrimination",
        "scoreboard",
        "atlas_page",
        "graph_nodes",
        "saved_view",
        "graph_flow",
        "graph_files",
        "explorer",
        "steer_page",
        "numbers",
    ),
    *(
        "drawing",
        "viewer",
        "prompt_figures",
        "figures",
        "dictionary_figures",
        "calibration",
        "graph_calibration",
        "report",
        "arguments",
        "outlook",
        "printing",
        "completion",
        "about",
        "config_text",
        "new_case",
        "beginnings",
        "opening",
        "stages",
        "tracing",
        "growth",
        "training",
        "dictionaries",
        "fetching",
        "steering",
        "checking",
        "interchange",
        "__main__",
    ),
]
"""Modules that start without torch: what the Snakefile, `biology --help`, judging, drawing and writing need."""

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@cache
def imported(path: Path, inside_functions: bool) -> frozenset[str]:
    """Full names of the modules that a file imports; without those imported inside functions or for type checkers."""
    names = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}: imports are absolute"
                module = str(child.module)
                names.update([f"biology.{a.name}" for a in child.names] if module == "biology" else [module])
            elif not inside_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            elif not inside_functions and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(names)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_floor(module):
    assert module in FLOOR, f"{module}.py is new: give it a place in FLOORS"


@pytest.mark.parametrize("module", [module for module in MODULES if module in FLOOR])
def test_a_module_imports_only_from_below(module):
    for name in imported(PACKAGE / f"{module}.py", inside_functions=True):
        if not name.startswith("biology."):
            continue
        other = name.split(".")[1]
        if other.startswith("__version__"):
            continue
        assert FLOOR[other] < FLOOR[module], f"{module} imports {other}, which stands above it or beside it"


def test_the_graph_is_data_and_algebra():
    assert not [name for name in imported(PACKAGE / "graph.py", True) if name.startswith("biology")]


@pytest.mark.parametrize(
    ("library", "only"), [("transformer_lens", {"bridge"}), ("sae_lens", {"transcoders", "dictionary_training"})]
)
def test_a_library_is_known_to_one_module(library, only):
    users = {
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imported(PACKAGE / f"{module}.py", True))
    }
    assert users <= only


@pytest.mark.parametrize("module", [module for module in LIGHT if module in MODULES])
def test_light_modules_do_not_import_torch(module):
    """Neither directly nor through one another; a function may, when it is called (__main__ does)."""
    seen, ahead = set(), [module]
    while ahead:
        current = ahead.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in imported(PACKAGE / f"{current}.py", inside_functions=False):
            parts = name.split(".")
            assert parts[0] not in HEAVY, f"{module} -> {current} -> {parts[0]}"
            if parts[0] == "biology" and len(parts) > 1 and (PACKAGE / f"{parts[1]}.py").is_file():
                ahead.append(parts[1])


def test_importing_the_light_modules_leaves_torch_out():
    """The same, by doing it."""
    present = [f"biology.{module}" for module in LIGHT if module in MODULES]
    code = (
        f"import sys, biology, {', '.join(present)}\nprint([name for name in {sorted(HEAVY)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_experiments_see_tables_and_figures_only():
    allowed = {
        "biology.tables",
        "biology.figures",
        "biology.figures.figure_data",
        "biology.figures.drawing",
        "numpy",
        "pandas",
        "matplotlib",
        "seaborn",
    }
    allowed |= {"__future__", "math"}
    for path in PACKAGE.parents[1].glob("experiments/*/case.py"):
        for name in imported(path, inside_functions=True):
            assert any(name == ok or name.startswith(ok + ".") for ok in allowed), f"{path}: {name}"
