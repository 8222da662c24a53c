"""Names of figures are known without drawing one, and are those of the functions that draw."""

from pathlib import Path

import pytest

from biology.cases.case import discover_cases, load_case
from biology.cases.figure_names import FIGURES, own_figures, problem
from biology.cases.perturbations import Swap
from biology.figures import case_figures as figures
from biology.records import InputError

ROOT = Path(__file__).parents[1]


def test_the_names_are_those_of_the_functions():
    assert list(FIGURES) == list(figures.FIGURES)
    for name in discover_cases(ROOT):
        case = load_case(ROOT, name)
        assert own_figures(case.folder) == list(figures.own_figures(case))


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("supernode_graph", None),
        ("inhibition_panel-sum-of", None),  # a prompt with a hyphen
        ("swap_panel-swap", None),
        ("swap_panel-sum-of", "unknown experiment 'sum-of'"),
        ("fidelity-swap", "takes no subject"),
        ("graph", "unknown figure 'graph'"),
        ("dose_response", "figure 'dose_response' needs an experiment with `dose: true`"),
        ("dose_response-swap", "figure 'dose_response' needs an experiment with `dose: true`: 'swap' is none"),
        ("path_share-mine", "unknown experiment 'mine'"),
    ],
)
def test_a_subject_is_a_prompt_or_an_experiment(figure, expected):
    swap = Swap(
        kind="swap", inhibit="one", inject="other", strengths=(1,), controls=("donor",), outcomes=("donor_top1",)
    )
    found = problem(figure, [], ["sum-of"], {"swap": swap})
    assert found is None if expected is None else expected in found


@pytest.mark.parametrize("text", ["def f(:", "x = 1", "FIGURES: dict = {}\nFIGURES.update(a=1)"])
def test_figures_are_read_and_not_run(tmp_path, text):
    (tmp_path / "case.py").write_text(text)
    if text.startswith("FIGURES"):
        assert own_figures(tmp_path) == []
    else:
        with pytest.raises(InputError, match=r"case\.py: "):
            own_figures(tmp_path)
