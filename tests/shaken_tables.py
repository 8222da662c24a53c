"""The tables of the figures' own tests with their numbers drawn at random, so that no title can be right by chance."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportIndexIssue=false
# pyright: reportCallIssue=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import test_addition_figures
import test_dictionary_figures
import test_multi_hop_figures
import test_multilingual
import test_rhyme_planning
from multi_hop_tables import CASE, evidence_tables, fidelity_table, graph_tables, panel_tables

from biology.cases.case import Case, load_case
from biology.tables import Tables, table

ROOT = Path(__file__).parents[1]


def shaken(tables: Tables, seed: int, scale: float = 1.0) -> Tables:
    """With every value of the evidence drawn anew, and a few prompts answered wrongly."""
    rng, evidence, prompts = np.random.default_rng(seed), tables["evidence"].copy(), tables["prompts"].copy()
    evidence["value"] = scale * rng.random(len(evidence))
    prompts["correct"] = prompts["correct"] & (rng.random(len(prompts)) < 0.9)
    return tables | {"evidence": evidence, "prompts": prompts}


def any_case(folder: Path) -> Case:
    """The made-up case of the figures that every case may list."""
    (folder / "experiments/multi_hop").mkdir(parents=True)
    (folder / "experiments/multi_hop/case.yaml").write_text(CASE)
    return load_case(folder, "multi_hop")


def any_tables(seed: int) -> Tables:
    """Seed 0: shares. Seed 1: a dose curve of its own, another output. Seed 2: large values, no intervention beyond its control."""
    made, shown, rng = evidence_tables(seed), graph_tables(), np.random.default_rng(seed)
    prompts = pd.concat([shown["prompts"].assign(relation="capital"), made["prompts"].assign(tokens="[]")])
    again = prompts[prompts["item"] == "texas"].assign(item="again")  # the same text with another donor
    prompts = pd.concat([prompts, again], ignore_index=True)
    evidence, edges = made["evidence"], shown["edges"].copy()
    if seed == 1:
        swap, kept = evidence["experiment"] == "swap_state", evidence["arm"].isin(["effect", "match"])
        curve = evidence[swap & kept].assign(experiment="swap_state/dose")
        evidence = pd.concat([evidence[~swap | (evidence["strength"] == 2)], curve], ignore_index=True)
        prompts.loc[prompts["item"] == "texas", ["top1", "probability"]] = ["Texas", 0.6]
    edges["direct"] *= rng.normal(size=len(edges))
    panel, fidelity = panel_tables()["panel"], fidelity_table()["fidelity"].copy()
    last = panel["experiment"] == "swap_texas_california"
    panel = pd.concat([panel, panel[last].assign(item="again")], ignore_index=True)
    output = (panel["kind"] == "probability") & (panel["supernode_or_token"] == "Austin")
    if seed == 1:
        panel.loc[output, "clean"] = 0.35
    panel.loc[output, ["value", "control"]] = rng.random((int(output.sum()), 2))
    if seed == 2:
        panel.loc[output, "control"] = 0.5 * panel.loc[output, "value"]
    fidelity["value"] = rng.random(len(fidelity))
    found = shaken({"prompts": prompts, "evidence": evidence}, seed, 40.0 if seed == 2 else 1.0)
    return shown | found | {"parts": made["parts"], "panel": panel, "edges": edges, "fidelity": fidelity}


def addition_tables(seed: int) -> Tables:
    rng, tables = np.random.default_rng(seed), shaken(test_addition_figures.planted(), seed)
    operands = tables["operands"].assign(activity=rng.random(len(tables["operands"])))
    return tables | {"operands": operands.assign(digit=rng.choice(["ones", "range"], len(operands)))}


def multi_hop_tables(seed: int) -> Tables:
    tables = test_multi_hop_figures.tables_with(lost=lambda share: share)
    made = shaken(tables, seed)
    clean = made["evidence"]["arm"] == "clean"
    made["evidence"].loc[clean, "value"] = 10.0
    return made


def multilingual_tables(seed: int) -> Tables:
    """Curves cross elsewhere in every language, some nowhere, and some with matched features too."""
    tables = test_multilingual.planted({"operation": 0.75, "operand": 0.25, "language": 0.5})
    made, rng = shaken(tables, seed), np.random.default_rng(seed)
    made["evidence"]["value"] -= 0.3 * (made["evidence"]["experiment"] == "default_language")
    old, evidence = tables["evidence"]["value"], made["evidence"]
    language = evidence["item"].map(made["prompts"].set_index("item")["language"])
    for (_, arm), rows in evidence[evidence["experiment"].str.endswith("/dose")].groupby([language, "arm"]):
        more = rng.uniform(-0.3, 0.3) if arm == "effect" else rng.uniform(0, 0.8)
        sign = np.where(rows["outcome"] == "answer_probability", -1, 1)
        evidence.loc[rows.index, "value"] = old[rows.index] + sign * more + rng.normal(scale=0.02, size=len(rows))
    return made


def rhyme_tables(seed: int) -> Tables:
    rng, tables = np.random.default_rng(seed), shaken(test_rhyme_planning.tables_with(), seed)
    clean = "His hunger was like a starving rabbit"
    ends = ["A hungry habit", "The tallest queen", "Nothing at all", "In a garden rabbit"]
    panel = []
    for experiment, strength in itertools.product(("suppress", "inject_other", "inject_rhyme"), (0.5, 1.0)):
        line, beside = rng.choice(ends, 2)
        for text in dict.fromkeys([clean, str(line), str(beside)]):
            levels = {"clean": text == clean, "value": text == line, "control": text == beside}
            common = {"item": "carrot", "experiment": experiment, "strength": strength, "kind": "line"}
            panel.append(common | {"supernode_or_token": text} | {name: float(level) for name, level in levels.items()})
    return tables | {"panel": table("panel", panel)}


def dictionary_tables(seed: int) -> Tables:
    rng, tables = np.random.default_rng(seed), test_dictionary_figures.planted()
    for name, column in (("density", "density"), ("token_errors", "error"), ("comparison", "recovered_from_mean")):
        tables[name] = tables[name].copy()
        tables[name][column] *= rng.uniform(0.3, 3.0, len(tables[name]))
    counts = rng.integers(20, 400, len(tables["token_errors"]))
    if seed == 1:  # the first layer has no token with more than the median
        counts[tables["token_errors"][["layer", "l0"]].eq([0, 4.0]).all(axis=1)] = 10_000
    tables["token_errors"]["tokens"] = counts
    wide = tables["dictionary"]["metric"].isin(["l0", "explained_variance", "recovered_from_mean"])
    tables["dictionary"].loc[wide, "value"] *= rng.uniform(0.7, 1.1, int(wide.sum()))
    return tables


def measured_tables(case: str, seed: int) -> Tables:
    """Every outcome of every experiment of a case, in all its arms, on prompts in clusters of two; some fail."""
    rng, evidence = np.random.default_rng(seed), []
    rows = [(f"i{n}", f"c{n // 2}", {"correct": n % 5 > 0}) for n in range(30)]
    read = load_case(ROOT, case)
    for name, experiment in read.experiments.items():
        for outcome in experiment.outcomes:
            shift = rng.uniform(-1, 1)
            evidence += [
                {
                    "item": item, "cluster": cluster, "split": "heldout", "experiment": name, "arm": arm, "draw": 0, "strength": 1.0,
                    "outcome": str(outcome), "value": value,
                }
                for item, cluster, _ in rows for arm in ("effect", *read.arms(name, outcome)) for value in [shift + rng.normal()]
            ]  # fmt: skip
    prompts = [
        {
            "item": item, "text": item, "answer": "a", "answer_token": 1, "top1": "a", "probability": 0.5, "cluster": cluster,
            "split": "heldout", "role": "score", **gate,
        }
        for item, cluster, gate in rows
    ]  # fmt: skip
    return {"prompts": table("prompts", prompts), "evidence": table("evidence", evidence), "parts": table("parts", [])}


def regime_tables(seed: int) -> Tables:
    """Every third prompt of a case is of the same regime."""
    made = measured_tables("chain_of_thought", seed)
    regimes = [("faithful", "motivated", "made_up")[number % 3] for number in range(len(made["prompts"]))]
    return made | {"prompts": made["prompts"].assign(regime=regimes)}


TABLES = {
    "any": any_tables, "addition": addition_tables, "multi_hop": multi_hop_tables, "multilingual": multilingual_tables,
    "rhyme_planning": rhyme_tables, "dictionary": dictionary_tables, "chain_of_thought": regime_tables,
    **{case: partial(measured_tables, case) for case in ("components", "methods", "attention", "refusals", "spoiled_diagnosis")},
}  # fmt: skip
"""By case, `any` for the figures that every case may list, and `dictionary`: the tables of a seed."""
