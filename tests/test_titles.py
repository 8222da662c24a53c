"""Every figure states its message in its title, and whatever the title says follows from all that is drawn.

Each title is worked out again (`stated_titles.py`) from tables of random numbers (`shaken_tables.py`). A figure that has no entry
there is a failure.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportIndexIssue=false
# pyright: reportCallIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

import functools

import pytest
from shaken_tables import TABLES, any_case
from stated_titles import CASES, SOURCES, STATED, title

from biology.figures import case_figures as figures
from biology.tables import Tables

MADE = {source: functools.cache(make) for source, make in TABLES.items()}
"""Tables of a source and a seed; all figures of the source are drawn from the same ones."""
EVERY = [(source, figure) for source, found in SOURCES.items() for figure in found]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return CASES | {"any": any_case(tmp_path_factory.mktemp("titles"))}


@pytest.mark.parametrize(("source", "figure"), EVERY, ids=["-".join(pair) for pair in EVERY])
def test_a_title_is_what_its_tables_say(source, figure, cases):
    for seed in range(3 if source in ("any", "dictionary") else 2):
        tables = MADE[source](seed)
        assert title(source, figure, tables, cases, laid_out=seed == 0) == STATED[source, figure](tables)


def test_no_figure_that_a_case_may_list_is_left_out():
    assert set(STATED) == set(EVERY)
    listed = {(name, figure.partition("-")[0]) for name, case in CASES.items() for figure in case.figures}
    assert {(name if (name, figure) in STATED else "any", figure) for name, figure in listed} <= set(STATED)


def bare(source: str, figure: str, tables: Tables) -> Tables:
    """Tables in which nothing can be compared."""
    evidence = tables["evidence"].copy() if "evidence" in tables else None
    if figure == "error_by_l0":
        return {"token_errors": tables["token_errors"].query("l0 == 2")}
    if figure == "supernode_graph":
        return tables | {"edges": tables["edges"].query("source.str.startswith('token:')")}
    if figure == "inhibition_panel":
        return tables | {"panel": tables["panel"].query("kind == 'activation'")}
    if figure == "fidelity":
        return {
            "fidelity": tables["fidelity"].query("metric == 'l0' and layer != 'all'").assign(value=[1.0, 2, 3, 4, 6])
        }
    evidence.loc[evidence["outcome"] == "answer_probability", "value"] = 1.0
    evidence.loc[evidence["experiment"].isin(["graph", "inhibit_bridge"]), "value"] = 1.0
    return tables | {"evidence": evidence}


@pytest.mark.parametrize(
    ("source", "figure", "said"),
    [
        ("dictionary", "error_by_l0", "tiny: in no layer do tokens differ enough in their active features to compare errors"),
        ("any", "supernode_graph", "No supernode has a direct effect on Austin"),
        ("any", "inhibition_panel", "No intervention on this prompt"),
        ("any", "fidelity", "L0 is 3.2, mean over layers"),
        ("multi_hop", "foretold", "What the graph foretells cannot be ranked on this model"),
        ("multilingual", "crossover_curves", "The new operation takes over nowhere, in 0 of 6 languages (with matched random features in 0)"),
    ],
)  # fmt: skip
def test_a_figure_with_nothing_to_compare_says_so_in_its_title(source, figure, said, cases):
    tables = bare(source, figure, MADE[source](0))
    assert title(source, figure, tables, cases) == said


def test_a_figure_without_rows_on_a_model_says_that_it_shows_nothing(cases):
    tables = MADE["any"](0)
    tables = tables | {"parts": tables["parts"].assign(verdict="untestable")}
    drawn = figures.draw("path_share-nowhere", tables, cases["any"], forms=("svg",))
    assert b"<dc:title>Path share: nothing to show</dc:title>" in drawn["svg"]
