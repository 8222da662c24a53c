"""The house has rooms, and doors that open one way: a room sees those that it names here, and torch stays out of most of them."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/biology"
ROOT_ROOM = ""
DOORS = {"__main__", "api"}
"""Modules of the root that stand outside of it: the command line and the notebook see every room."""

# From the ground up: each room, and the rooms whose modules its own may import. All see the root; none is seen by one above it.
SEES = {
    ROOT_ROOM: set(),
    "cases": set(),
    "graph_files": set(),
    "corpora": {"cases"},
    "models": set(),
    "transcoders": {"models"},
    "attribution": {"models", "transcoders"},
    "attention": {"models", "transcoders", "attribution"},
    "interventions": {"models", "transcoders"},
    "dictionaries": {"models", "transcoders"},
    "validation": {"models", "transcoders", "attribution", "interventions"},
    "organisms": {"cases", "corpora", "models", "interventions"},
    "supernodes": {"cases", "models", "transcoders", "interventions", "organisms"},
    "evidence": {
        "cases",
        "models",
        "transcoders",
        "attribution",
        "attention",
        "interventions",
        "validation",
        "supernodes",
    },
    "verdicts": {"cases", "corpora"},
    "figures": {"cases", "verdicts"},
    "findings": {"cases", "models", "verdicts", "figures"},
    "report": {"cases", "graph_files", "supernodes", "verdicts", "figures", "findings"},
    "scaffolds": {"cases", "models", "transcoders"},
    "workflow": {"cases", "corpora", "report", "verdicts"},
}
SEES["cli"] = set(SEES) - {ROOT_ROOM}
MOST_FILES = 16
MOST_LINES = 400

HEAVY = {"torch", "transformers", "transformer_lens", "sae_lens"}
LIGHT_ROOMS = {
    ROOT_ROOM,
    "cases",
    "graph_files",
    "corpora",
    "verdicts",
    "figures",
    "findings",
    "report",
    "scaffolds",
    "workflow",
    "cli",
}
LIGHT = {
    *("models.gguf_files", "models.hub", "models.memory", "models.packages", "models.text"),
    *("supernodes.named_members", "supernodes.operands", "evidence.contrasts", "organisms.cards"),
}
"""Modules that start without torch, beside those of the light rooms: what the Snakefile, `biology --help`, judging, drawing and
writing need."""
HEAVY_MODULES = {"api"}
"""Of the light rooms: they start torch."""

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)
ROOMS = sorted({module.rpartition(".")[0] for module in MODULES})


def file_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def room_of(module: str) -> str:
    return module.rpartition(".")[0]


def is_light(module: str) -> bool:
    return module in LIGHT or (room_of(module) in LIGHT_ROOMS and module not in HEAVY_MODULES)


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
                inner = [f"{module}.{alias.name}" for alias in child.names]
                names.update([one for one in inner if one.removeprefix("biology.") in MODULES] or [module])
            elif not inside_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            elif not inside_functions and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(names)


def imported_here(module: str, inside_functions: bool) -> set[str]:
    """The modules of the package that one of them imports."""
    names = {name.removeprefix("biology.") for name in imported(file_of(module), inside_functions)}
    return names & set(MODULES)


def test_rooms_see_only_what_lies_below_them():
    below: set[str] = set()
    for room, seen in SEES.items():
        assert seen <= below, f"{room} sees {seen - below}"
        below.add(room)


def test_every_room_has_a_face_that_imports_nothing():
    assert set(ROOMS) == set(SEES), "a room is new, or gone: say in SEES what it may import"
    for room in filter(None, ROOMS):
        face = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(face) and len(face.body) == 1, (
            f"{room}/__init__.py says what the room is for, and no more"
        )


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_crowded(room):
    files = len(list((PACKAGE / room).glob("*.py")))
    assert files <= MOST_FILES, f"{room or 'the root'} has {files} files: a new room, or one idea told in one file"


FILES = [
    path
    for path in PACKAGE.rglob("*.*")
    if path.suffix in {".py", ".js", ".css", ".j2", ".yaml"} and path.parent.name != "vendor"
]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_long(path):
    """Nor is a template or a script of a page."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path.name} has {lines} lines: split it along what it means"


@pytest.mark.parametrize("module", [module for module in MODULES if module not in DOORS])
def test_a_module_imports_only_from_rooms_that_its_room_sees(module):
    room = room_of(module)
    for other in imported_here(module, inside_functions=True):
        assert other not in DOORS, f"{module} imports {other}, a door"
        assert room_of(other) in {room, ROOT_ROOM, *SEES[room]}, (
            f"{module} imports {other}, whose room {room} does not see"
        )


RULE_FILES = [PACKAGE.parents[1] / "Snakefile", *sorted((PACKAGE.parents[1] / "rules").glob("*.smk"))]


@pytest.mark.parametrize("path", RULE_FILES, ids=[path.stem for path in RULE_FILES])
def test_no_file_of_rules_is_long_and_each_says_what_it_holds(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""') and len(text.splitlines()) <= MOST_LINES
    assert path.suffix != ".smk" or f'include: "rules/{path.name}"' in RULE_FILES[0].read_text(encoding="utf-8")


def test_modules_do_not_import_one_another_in_circles():
    """Within a room too: each can be read after those that it imports."""
    left = {module: imported_here(module, inside_functions=True) for module in MODULES}
    while ready := [module for module, needs in left.items() if not needs & set(left)]:
        for module in ready:
            del left[module]
    assert not left, f"a circle among {', '.join(sorted(left))}"


def test_what_modules_import_from_the_package_is_there():
    for module in MODULES:
        for name in imported(file_of(module), inside_functions=True):
            if name.split(".")[0] == "biology":
                assert name == "biology" or name.removeprefix("biology.") in MODULES, f"{module} imports {name}"


def test_the_graph_is_data_and_algebra():
    assert not [name for name in imported(file_of("attribution.graph"), True) if name.startswith("biology")]


@pytest.mark.parametrize(("library", "only"), [("transformer_lens", {"models.bridge"}), ("sae_lens", set())])
def test_a_library_is_known_to_one_module(library, only):
    users = {
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imported(file_of(module), inside_functions=True))
    }
    assert users == only


@pytest.mark.parametrize("module", filter(is_light, MODULES))
def test_light_modules_do_not_import_torch(module):
    """Neither directly nor through one another; a function may, when it is called."""
    seen, ahead = set(), [module]
    while ahead:
        current = ahead.pop()
        if current in seen:
            continue
        seen.add(current)
        outside = {name.split(".")[0] for name in imported(file_of(current), inside_functions=False)}
        assert not outside & HEAVY, f"{module} -> {current} -> {outside & HEAVY}"
        ahead += imported_here(current, inside_functions=False)


def test_importing_the_light_modules_leaves_torch_out():
    """The same, by doing it."""
    present = [f"biology.{module}" for module in filter(is_light, MODULES)]
    code = (
        f"import sys, biology, {', '.join(present)}\nprint([name for name in {sorted(HEAVY)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_experiments_see_tables_and_figures_only():
    allowed = {"biology.tables", "biology.figures", "numpy", "pandas", "matplotlib", "seaborn", "__future__", "math"}
    for path in PACKAGE.parents[1].glob("experiments/*/case.py"):
        for name in imported(path, inside_functions=True):
            assert any(name == ok or name.startswith(ok + ".") for ok in allowed), f"{path}: {name}"


def test_texts_name_files_that_are_there():
    root = PACKAGE.parents[1]
    for text in [
        root / "CONTRIBUTING.md",
        root / "README.md",
        *root.glob("docs/*.md"),
        *root.glob("experiments/*/README.md"),
    ]:
        for name in re.findall(r"\b(?:src/biology|tests)/[\w/]+\.\w+", text.read_text(encoding="utf-8")):
            assert (root / name).is_file(), f"{text.name} names {name}"
