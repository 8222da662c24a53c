"""Names of the figures that a case may list, without drawing any: those of `case_figures.FIGURES`, and those in its own
case.py."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from biology.cases.measurement import Measurement
from biology.grammar import unknown
from biology.records import InputError

FIGURES = {
    "supernode_graph": "prompt",
    "inhibition_panel": "prompt",
    "swap_panel": "experiment",
    "dose_response": "experiment",
    "path_share": "experiment",
    "fidelity": "",
}
"""Figures of every case, with the kind of subject that follows the hyphen."""
NEEDS: dict[str, tuple[str, Callable[[Measurement], bool]]] = {
    "swap_panel": ("with the control donor", lambda one: "donor" in getattr(one, "controls", ("donor",))),
    "dose_response": ("with `dose: true`", lambda one: bool(getattr(one, "dose", False))),
    "path_share": ("of kind graph", lambda one: one.kind_name() == "graph"),
}
"""The experiment that a figure is about, in words and as a condition. (A computed experiment has the controls of others.)"""


def own_figures(folder: Path) -> list[str]:
    """The keys of `FIGURES` in the case's own `case.py`, which is parsed but not run; none without such a file."""
    path = folder / "case.py"
    if not path.is_file():
        return []
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not valid Python ({error}).") from None
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "FIGURES" for target in targets):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    raise InputError(f"{path}: names no figures. Write FIGURES = {{'name': function}}.")


def problem(
    figure: str, own: Collection[str], prompts: Collection[str], experiments: Mapping[str, Measurement]
) -> str | None:  # fmt: skip
    """What is wrong with a figure's name; None if it can be drawn. `own` are the figures of the case's own
    `case.py`."""
    name, hyphen, subject = figure.partition("-")
    if name not in (known := [*FIGURES, *own]):
        return unknown("figure", name, known)
    kind = FIGURES.get(name, "prompt or experiment")
    there = {"prompt": [*prompts], "experiment": [*experiments], "": []}.get(kind, [*prompts, *experiments])
    if hyphen and not kind:
        return f"figure '{name}' takes no subject: write {name} alone"
    if hyphen and subject not in there:
        return unknown(kind, subject, there)
    if name in NEEDS and name not in own:
        needed, fits = NEEDS[name]
        if not any(map(fits, [experiments[subject]] if hyphen else experiments.values())):
            return f"figure '{name}' needs an experiment {needed}{f': {subject!r} is none' if hyphen else ''}"
    return None
