"""The notebook runs from top to bottom, needs the front door of the package and nothing behind it, and is committed without outputs."""

import ast
import json
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PATH = ROOT / "notebooks/from_prompt_to_verdict.ipynb"


def cells(kind: str) -> list[str]:
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_it_is_the_only_one():
    assert [PATH] == list(ROOT.glob("notebooks/*.ipynb"))


def test_it_is_short_has_no_outputs_and_imports_the_front_door():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 25 and not any(cell.get("outputs") for cell in notebook.cells)
    for text in cells("code"):
        for node in ast.walk(ast.parse(text)):
            assert not isinstance(node, ast.ImportFrom)
            if isinstance(node, ast.Import):
                assert [name.name for name in node.names] in (["biology"], ["pandas"])


@pytest.mark.slow
def test_it_runs(monkeypatch, capsys):
    """As a kernel would: cell by cell in one namespace, the last expression of a cell evaluated. It tells what its words say."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(PATH.parent)
    seen: dict = {"__name__": "__main__"}
    shown = []
    for number, text in enumerate(cells("code")):
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{PATH.name}, cell {number}", "exec"), seen)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), f"{PATH.name}, cell {number}", "eval"), seen))
    table, dose, grid = seen["table"], seen["dose"], seen["grid"]
    assert table["Austin"].idxmax() == "by itself" and table["Sacramento"].idxmax() == "swap"
    assert table.loc["control", "Sacramento"] < 0.2 < 0.5 < table.loc["swap", "Sacramento"]
    assert dose["Sacramento"].iloc[0] < 0.5 < dose["Sacramento"].max() and (dose["control"] < 0.5).all()
    capitals = {"Texas": "Austin", "California": "Sacramento", "Georgia": "Atlanta"}
    assert all((grid[place] == capital).all() for place, capital in capitals.items())
    assert seen["seventh"]["verdict"] in capsys.readouterr().out
    assert any("iframe" in one._repr_html_() for one in shown if hasattr(one, "_repr_html_") and hasattr(one, "html"))
    assert len(matplotlib.pyplot.get_fignums()) >= 4
    matplotlib.pyplot.close("all")
