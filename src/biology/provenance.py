"""What results were made with: the code of a stage, the versions of packages, the machine. Does not import torch.

The hash of a stage that needs torch (`stage_hash`) covers:

* The function that its command calls. In modules that only combine others (`ASSEMBLING`), each function and constant that it uses is
  hashed by itself, so that one command does not depend on another's code.
* Every other module that these import, wherever the import stands, and all that those import, each as a whole.
* Left out: imports for type checkers; `READERS` (what they read reaches a rule as a parameter); and the `__init__.py` of rooms, which
  import nothing (`tests/test_imports.py`).

The hash is taken of the syntax tree, without docstrings, annotations of functions, and positions in the file. So a
comment, a docstring or a line break changes nothing; a constant, a default or the order of two statements does.
Packages and weights are not part of it: `load.json` records the versions, and weights are inputs of the rule `load`.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import symtable
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from biology import __version__
from biology.config import CONFIG_FILE, config_file, load_config
from biology.records import InputError

# Packages and machine ------------------------------------------------------------------------------------------------
PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "snakemake",
)
"""Packages that decide the numbers, or whether a command runs at all."""


def about(config: str = CONFIG_FILE) -> dict[str, Any]:
    """The contents of a bug report: versions from the metadata of packages (None if one is missing), the machine, and
    the configuration that commands would read, with its models.

    If the configuration cannot be read, the report says so under `error`, since the bug may be about it.
    """
    path = config_file(config, shipped=True)
    found: dict[str, Any] = {"file": str(path)}
    try:
        found["models"] = list(load_config(path).models)
    except InputError as error:
        found["error"] = str(error)
    return {
        "biology": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "config": found,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    names = ("biology", "torch", "transformers", "transformer-lens", "numpy", "pandas", "pyarrow")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


# Code ----------------------------------------------------------------------------------------------------------------
PACKAGE = Path(__file__).parent
ASSEMBLING = ("cli.", "evidence.case_evidence.")
"""Modules whose functions only combine others, so that each function is hashed by itself: the commands, and
`case_evidence`."""
READERS = frozenset(
    {
        *("artefacts", "config", "grammar", "model_sources", "provenance", "records"),
        *("cases.case", "cases.claim_file", "corpora.twins"),
    }
)
"""Modules that only read, check and write. What they read of a model or a case reaches a rule of the Snakefile as a
parameter."""


def sources(*modules: str) -> list[str]:
    """The given modules (`tables`, `verdicts.claims`) and all modules that they import, directly or indirectly, except
    `READERS`; sorted."""
    found, ahead = set(), list(modules)
    while ahead:
        module = ahead.pop()
        if module not in found and module not in READERS:
            found.add(module)
            ahead += _owners(_module(module).imports)
    return sorted(found)


def code_hash(*modules: str) -> str:
    """SHA-256 over the code of these modules and of all that they import, except `READERS`."""
    imported = sources(*(one for module in modules for one in _owners(_module(module).imports)))
    return _joined({module: _module(module).code for module in {*modules, *imported}})


@cache
def stage_hash(stage: str) -> str:
    """SHA-256 over the code of a stage, by the rule above. A stage is a module and a function of the room `cli`, such
    as `stages.load`."""
    definitions, modules = _rests_on(stage)
    return _joined(definitions | {module: _module(module).code for module in modules})


def _rests_on(stage: str) -> tuple[dict[str, str], list[str]]:
    """The definitions that a stage depends on, with their code, and the modules that it depends on as a whole."""
    definitions: dict[str, str] = {}
    modules, ahead = set(), [f"cli.{stage}"]
    while ahead:
        definition = ahead.pop()
        if definition in definitions:
            continue
        module, _, name = definition.rpartition(".")
        there = _definitions(module)
        read = _read(there[name])
        definitions[definition] = read.code
        ahead += [f"{module}.{one}" for one in _globals(there[name]) if one in there]
        ahead += [one for one in read.imports if one.startswith(ASSEMBLING)]
        modules.update(_owners(one for one in read.imports if not one.startswith(ASSEMBLING)))
    return definitions, sources(*modules)


def source_file(module: str) -> Path:
    """The path of a module of the package, whether or not it exists."""
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


class _Read(NamedTuple):
    code: str
    """The text that is hashed."""
    imports: tuple[str, ...]
    """What it imports from the package, without the package's name: `tables`, `tables.write_table`."""


@cache
def _module(module: str) -> _Read:
    return _whole(source_file(module).read_text(encoding="utf-8"))


@cache
def _whole(text: str) -> _Read:
    return _read(ast.parse(text))


def _parsed(module: str) -> ast.Module:
    return ast.parse(source_file(module).read_text(encoding="utf-8"))


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """The definitions and imports at the top level of a module, by name.

    Raises:
        ValueError: a statement defines no single name, so that it is unknown which stages depend on it.
    """
    found: dict[str, ast.stmt] = {}
    for statement in filter(_counts, _parsed(module).body):
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = statement
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = statement
            case ast.ImportFrom():
                for alias in statement.names:
                    found[alias.asname or alias.name] = ast.ImportFrom(statement.module, [alias], statement.level)
            case ast.Import():
                found |= {alias.asname or alias.name: ast.Import([alias]) for alias in statement.names}
            case _:
                raise ValueError(
                    f"{source_file(module)}, line {statement.lineno}: this does not define exactly one name"
                )
    return found


def _globals(statement: ast.stmt) -> set[str]:
    """Global names that a statement reads. Removes the annotations of functions from it, as these are not counted."""
    for node in ast.walk(statement):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None

    def read(table: symtable.SymbolTable, top: bool) -> set[str]:
        here = {one.get_name() for one in table.get_symbols() if one.is_referenced() and (top or one.is_global())}
        return here.union(*(read(child, False) for child in table.get_children()))

    return read(symtable.symtable(ast.unparse(statement), "", "exec"), True)


def _counts(statement: ast.stmt) -> bool:
    """Whether a statement is anything but a docstring or an import for type checkers."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str())) | ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=[]):
            return False
    return True


def _read(tree: ast.AST) -> _Read:
    """The code of a tree and its imports, in one walk. Fields without a value are left out, because later versions of
    Python add some."""
    words: list[str] = []
    imports: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, list):
            words.append("[")
            for one in node:
                if not isinstance(one, ast.stmt) or _counts(one):
                    visit(one)
            words.append("]")
        elif isinstance(node, ast.AST):
            kind = type(node)
            words.append(kind.__name__)
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.extend(_imported(node))
            for name in _fields(kind):
                value = getattr(node, name, None)
                if value is not None and value != []:
                    words.append(name)
                    visit(value)
            words.append(".")
        else:
            words.append(repr(node))

    visit(tree)
    return _Read(" ".join(words), tuple(imports))


@cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a node type that decide what is computed. Annotations of functions do not; those of a class define
    its fields."""
    hidden = {"ctx", "type_comment", "kind"}
    if issubclass(kind, ast.FunctionDef | ast.AsyncFunctionDef | ast.arg):
        hidden |= {"returns", "annotation"}
    return tuple(name for name in kind._fields if name not in hidden)


def _imported(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """The names that a statement imports from the package, without the package's name."""
    of = f"{statement.module}." if isinstance(statement, ast.ImportFrom) else ""
    names = [f"{of}{alias.name}" for alias in statement.names]
    return [name.removeprefix("biology.") for name in names if name.startswith("biology.")]


def _owners(names: Iterable[str]) -> list[str]:
    """The modules that these names are, or are defined in. Names defined in the package's `__init__.py` have none."""
    return [
        module
        for name in names
        for module in (name, name.rpartition(".")[0])
        if module and source_file(module).is_file()
    ]


def _joined(codes: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name, code in sorted(codes.items()):
        digest.update(f"{name} {hashlib.sha256(code.encode()).hexdigest()}\n".encode())
    return digest.hexdigest()
