"""The notebook runs from top to bottom, imports nothing but the package and its libraries, and is committed without outputs."""

import ast
import json
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_a_notebook_without_outputs_that_imports_the_package(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for text in cells(path, "code"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom | ast.Import):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert str(name).split(".")[0] in {"biology", "pathlib", "pandas", "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch, capsys):
    """As a kernel would: cell by cell in one namespace, the last expression of a cell evaluated."""
    monkeypatch.chdir(path.parent)
    seen: dict = {"__name__": "__main__"}
    for number, text in enumerate(cells(path, "code")):
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {number}", "exec"), seen)
        if last is not None:
            seen["_"] = eval(compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), seen)
    assert seen["prompts"].set_index("item").loc["ours", "correct"] and len(seen["bridge"]) > 3 and len(seen["shared"])
    table, answer = seen["_"].set_index("M"), seen["ANSWER"]
    assert table.loc[1.0].nunique() == 1 and table.loc[1.0, "bridge"].startswith(answer)
    assert not table.loc[-2.0, "bridge"].startswith(answer)
    assert table.loc[0.0, "as many others"].startswith(answer)
