"""The figures of the poems say what their tables say."""

from pathlib import Path

import pandas as pd
import pytest

from biology.cases.case import load_case
from biology.figures.case_figures import draw, own_figures
from biology.figures.drawing import caption, styled
from biology.tables import table, validate_table

ROOT = Path(__file__).parents[1]
CASE = load_case(ROOT, "rhyme_planning")
ITEMS = [(f"i{number}", f"c{number // 4}") for number in range(24)]


def rows(experiment, arm, outcome, value, draw=0):
    return [
        {
            "item": item, "cluster": cluster, "split": "heldout", "experiment": experiment, "arm": arm, "draw": draw,
            "strength": 1.0, "outcome": outcome, "value": float(value),
        }
        for item, cluster in ITEMS
    ]  # fmt: skip


def tables_with(newline=0.75):
    """Planted: three quarters of the features fire at the newline, and lines follow a push there alone."""
    evidence = rows("census", "effect", "planned", newline) + rows("census", "shuffle", "planned", 0.0)
    evidence += rows("census", "random", "planned", 0.5)
    for number in range(len(CASE.experiments["census"].sites)):
        evidence += rows("census", "position", "planned", 0.05, number)
    for arm, value in (("effect", 1.0), ("position", 0.9), ("shuffle", 0.3)):
        evidence += rows("census", arm, "probe", value)
    sites = CASE.experiments["inject_rhyme"].sites
    for number, site in enumerate(sites):
        evidence += rows("inject_rhyme/sweep", "effect", "line_ends_donor", newline if site == "last" else 0.0, number)
        evidence += rows("inject_rhyme/sweep", "match", "line_ends_donor", 0.0, number)
        for arm, value in (("effect", float(site == "-3")), ("match", 0.0)):
            evidence += rows("inject_rhyme/elsewhere", arm, "line_ends_donor", value, number)
    for name in ("resample", "resample_forced", "resample_hidden", "resample_hidden_forced"):
        for arm in ("effect", "position"):
            donor = newline if name == "resample_hidden" and arm == "effect" else 0.0
            evidence += rows(name, arm, "line_ends_donor", donor) + rows(name, arm, "line_ends_own", 1.0 - donor)
    prompts = [
        {
            "item": item, "text": "t", "answer": "a", "answer_token": 0, "top1": "a", "probability": 1.0, "correct": True,
            "cluster": cluster, "split": "heldout", "role": "score", "donor": "", "word": "",
        }
        for item, cluster in ITEMS
    ]  # fmt: skip
    for name, prompt in CASE.prompts.items():
        factors = {"donor": prompt.factors["donor"], "word": prompt.factors["word"]}
        prompts.append(
            prompts[0]
            | {"item": name, "text": prompt.text, "cluster": name, "split": "registered", "role": "show"}
            | factors
        )
    lines = [("suppress", "carrot", "Her hunger was near a starving habit"), ("inject_other", "carrot_queen", None)]
    clean = "His hunger was like a starving rabbit"
    panel = []
    for experiment, item, line in lines:
        common = {"item": item, "experiment": experiment, "strength": 1.0, "kind": "line"}
        panel.append(common | {"supernode_or_token": clean, "clean": 1.0, "value": float(line is None), "control": 1.0})
        if line:
            panel.append(common | {"supernode_or_token": line, "clean": 0.0, "value": 1.0, "control": 0.0})
    return {
        "evidence": table("evidence", evidence),
        "prompts": validate_table(pd.DataFrame(prompts), "prompts"),
        "panel": table("panel", panel),
    }


def title(name, tables, line=0):
    with styled():
        return caption(own_figures(CASE)[name](tables, None, CASE))[line]


def test_titles_state_what_was_measured():
    tables = tables_with()
    assert title("planning_census", tables) == (
        "75% of the planned word's features fire at the newline, 5% at the comma before it, 5.0% at positions before that; of "
        "shuffled transcoders' 50% at the newline"
    )
    assert title("position_sweep", tables).startswith(
        "The same push makes the line end in the injected word in 75% of couplets at the newline (matched "
        "random features 0%), in at most 0%"
    )
    assert (
        title("rewritten_lines", tables)
        == "1 of 2 interventions make the line end in another word that a line can end in, 0 of 2 controls"
    )
    assert "resample 0%" in title("carriers", tables) and "resample hidden 75%" in title("carriers", tables)
    assert "development couplets are moved most, “it”" in title("position_sweep", tables, line=1)
    assert "0% at the newline" in title("position_sweep", tables_with(newline=0.0)).replace("of couplets ", "")


@pytest.mark.parametrize("name", ["planning_census", "position_sweep", "rewritten_lines", "carriers"])
def test_the_same_tables_are_the_same_bytes(name):
    first, second = (draw(name, tables_with(), CASE) for _ in range(2))
    assert first == second and first["svg"].startswith(b"<?xml")


def test_the_style_file_restyles_every_figure_of_the_case(restyled):
    for name in own_figures(CASE):
        restyled(draw(name, tables_with(), CASE, forms=("svg",)))


def test_every_figure_of_the_case_is_known():
    from biology.figures.case_figures import FIGURES

    assert {name.partition("-")[0] for name in CASE.figures} <= set(FIGURES) | set(own_figures(CASE))
    assert own_figures(None) == {} and set(own_figures(load_case(ROOT, "multi_hop"))) == {"foretold"}
