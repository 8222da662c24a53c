"""Made-up tables of a multi-hop case, as the pipeline would write them; the numbers are drawn, the shapes are real."""

import datetime
import json
from pathlib import Path

import numpy as np
import pandas as pd

from biology.artefacts import write_bytes, write_json
from biology.cases.case import load_case
from biology.cases.claim_file import Claim, Part, Source, load_claims
from biology.config import StatisticsConfig
from biology.figures.case_figures import draw
from biology.tables import read_tables, table, write_table
from biology.verdicts.claims import judge_all
from biology.verdicts.found_members import Members
from biology.verdicts.measuring import Meta, measure

RELATIONS = ("capital", "abbreviation", "flower", "region", "bird", "nickname")
META = Meta(case="multi_hop", model="elegans", transcoders="plt", seed=3)
QUICK = StatisticsConfig(permutations=4000, bootstrap=1000)
STRICT = {"specificity": {"arms": ["donor", "position"], "ratio": 5}, "ceiling": {"match": 0.05}}
TOKENS = ["<bos>", "Fact", ":", "the", "capital", "of", "the", "state", "containing", "Dal", "##las", "is"]


def one(frame: pd.DataFrame) -> pd.Series:
    assert len(frame) == 1
    return frame.iloc[0]


def judge(*measured) -> pd.DataFrame:
    """The table `verdicts` of a model with a single case, from the arguments of `measure`."""
    return judge_all(measure(*measured)).verdicts


def claim(*parts: dict, **fields) -> Claim:
    """A claim with the given parts (fields of `Part` that differ from a plain increase against `match`)."""
    plain = {
        "name": "swap",
        "experiment": "swap_state",
        "outcome": "donor_top1",
        "control": "match",
        "direction": "increase",
    }
    made = tuple(Part(**(plain | {"minimum": 0.5} | part)) for part in (parts or ({},)))
    named = {
        "id": "multihop-7",
        "title": "Swapping the state swaps the capital",
        "paper_says": "The model says Sacramento.",
    }
    source = Source(section="§3", confidence="digest")
    return Claim(**(named | {"source": source, "parts": made, "registered": datetime.date(2026, 11, 20)} | fields))


def prompt_rows(states: int = 50, per_state: int = 6, split: str = "heldout", start: int = 0) -> list[dict]:
    """Prompts of `states` clusters with one item for each of `per_state` relations."""
    return [
        {
            "item": f"{split}-{state:02d}-{relation}",
            "text": f"Fact: the {relation} of the state containing C{state} is",
            "answer": f"A{state}", "answer_token": 7, "top1": f"A{state}", "probability": 0.97, "correct": True,
            "cluster": f"state{state:02d}", "split": split, "role": "score", "relation": relation,
        }
        for state in range(start, start + states)
        for relation in RELATIONS[:per_state]
    ]  # fmt: skip


def evidence_rows(
    prompts: pd.DataFrame, values: dict, *, experiment="swap_state", outcome="donor_top1", strength=2.0
) -> list[dict]:
    """Evidence rows: `values` maps an arm to a function of the item's row that gives the list of its draws."""
    return [
        {
            "item": row.item, "cluster": row.cluster, "split": row.split, "experiment": experiment, "arm": arm,
            "draw": draw, "strength": float(strength), "outcome": outcome, "value": float(value),
        }
        for row in prompts.itertuples()
        for arm, draws in values.items()
        for draw, value in enumerate(draws(row))
    ]  # fmt: skip


def swap(seed: int = 0, effect: float = 0.9, null: float = 0.02, states: int = 50, per_state: int = 6):
    """Tables `prompts` and `evidence` of a swap with rate `effect` and control arms with rate `null`."""
    rng = np.random.default_rng(seed)
    prompts = table("prompts", prompt_rows(states, per_state))
    coin = lambda rate, n: lambda row: (rng.random(n) < rate).astype(float)  # noqa: E731
    arms = {"effect": coin(effect, 1), "match": coin(null, 10), "donor": coin(null, 1), "position": coin(null, 1)}
    return prompts, table("evidence", evidence_rows(prompts, arms))


def graph_tables() -> dict[str, pd.DataFrame]:
    """Tables `edges`, `supernodes`, `graphs` and `prompts` of the Dallas prompt (item `texas`)."""
    texts = """
        capital: token:capital@4 5.0, token:Fact@1 0.4, error 0.5
        state: token:state@7 4.2, token:the@6 0.4, error 0.4
        texas: token:Dal@9 2.0, token:##las@10 2.6, state 1.3, token:containing@8 0.4, error 0.8, bias -0.7
        say_a_capital: capital 3.0, state 0.5, token:is@11 0.7, token:of@5 0.3, error 0.9, bias -1.0
        say_austin: texas 3.4, say_a_capital 2.1, token:##las@10 0.6, token:Dal@9 0.3, error 0.5, bias -1.2
        logit:Austin: say_austin 5.2, texas 1.1, say_a_capital 1.0, token:##las@10 0.5, error 0.9, bias 0.2
        logit:Texas: texas 2.2, say_a_capital -2.6, say_austin -0.8, error 0.6, bias -0.3
        logit:Sacramento: say_a_capital 2.4, texas -2.0, say_austin -0.9, error 0.7, bias -0.2
    """
    rows = [line.strip().rpartition(": ") for line in texts.strip().splitlines()]
    weights = {
        target: {pair.split()[0]: float(pair.split()[1]) for pair in sources.split(", ")} for target, _, sources in rows
    }
    edges = [
        {
            "item": "texas", "source": source, "target": target, "direct": float(value), "influence": abs(float(value)) / 30,
            "unmediated": 0.0,
        }
        for target, sources in weights.items()
        for source, value in sources.items()
    ]  # fmt: skip
    places = {"capital": [(0, 4), (1, 4)], "state": [(0, 7), (1, 7)], "texas": [(1, 10), (2, 10), (2, 11), (3, 11)]}
    places |= {"say_a_capital": [(2, 11), (3, 11)], "say_austin": [(4, 11), (4, 11), (4, 11)]}
    members = [
        {
            "item": "texas", "supernode": name, "layer": layer, "pos": pos, "feature": 100 * i + 7,
            "activation": 2.0 + i, "share": 0.2,
        }
        for name, found in places.items()
        for i, (layer, pos) in enumerate(found)
    ]  # fmt: skip
    prompt = {
        "item": "texas", "text": "Fact: the capital of the state containing Dallas is", "answer": "Austin",
        "answer_token": 3, "top1": "Austin", "probability": 0.991, "correct": True, "cluster": "Texas",
        "split": "registered", "role": "show",
        "tokens": json.dumps(TOKENS),
    }  # fmt: skip
    graph = {
        "item": "texas", "n_active": 812, "n_nodes": 301, "n_edges": 9120, "replacement": 0.871, "completeness": 0.934,
        "error_share": 0.064, "row_residual": 4.1e-7,
    }  # fmt: skip
    return {
        "edges": table("edges", edges),
        "supernodes": table("supernodes", members),
        "prompts": table("prompts", [prompt]),
        "graphs": table("graphs", [graph]),
    }


def graph_file(members: pd.DataFrame) -> dict:
    """The graph of the Dallas prompt as `biology attribute` leaves it: every member fed by all tokens, feeding one output."""
    shared = {"activation": None, "influence": 0.5, "token_prob": 0.0}
    tokens = [
        {
            "node_id": f"E_{pos}_{pos}", "feature": pos, "layer": "E", "ctx_idx": pos, "feature_type": "embedding",
            "jsNodeId": f"E_{pos}-{pos}", "clerp": f'Emb: "{text}"', **shared,
        }
        for pos, text in enumerate(TOKENS)
    ]  # fmt: skip
    places = members[["layer", "feature", "pos"]].drop_duplicates().itertuples(index=False)
    features = [
        {
            "node_id": f"{layer}_{feature}_{pos}", "feature": (layer + feature) * (layer + feature + 1) // 2 + feature,
            "layer": str(layer), "ctx_idx": pos, "feature_type": "cross layer transcoder",
            "jsNodeId": f"{layer}_{feature}-0", "clerp": "", **shared | {"activation": 2.0},
        }
        for layer, feature, pos in places
    ]  # fmt: skip
    output = {
        "node_id": "6_3_11", "feature": 3, "layer": "6", "ctx_idx": 11, "feature_type": "logit", "jsNodeId": "L_3-11",
        "clerp": 'Output "Austin" (p=0.991)', **shared | {"influence": None, "token_prob": 0.991},
    }  # fmt: skip
    ends = [(token, node, 1.0) for node in features for token in tokens if token["ctx_idx"] <= node["ctx_idx"]]
    ends += [(node, output, -0.5 if node["layer"] == "0" else 2.0) for node in features]
    groups = [
        [name, *(f"{row.layer}_{row.feature}_{row.pos}" for row in rows.itertuples())]
        for name, rows in members.groupby("supernode", sort=False)
    ]
    return {
        "metadata": {
            "slug": "multi-hop-texas", "scan": "elegans", "prompt_tokens": TOKENS, "schema_version": 1, "node_threshold": 0.8,
            "prompt": "Fact: the capital of the state containing Dallas is",
            "info": {"replacement_score": 0.871, "completeness_score": 0.934},
        },
        "qParams": {
            "pinnedIds": [one for group in groups for one in group[1:]], "supernodes": groups, "linkType": "both",
            "clickedId": "", "sg_pos": "",
        },
        "nodes": [*tokens, *features, output],
        "links": [{"source": a["node_id"], "target": b["node_id"], "weight": weight} for a, b, weight in ends],
    }  # fmt: skip


def atlas_tables(members: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables `atlas` and `atlas_prompts` of the members of supernodes."""
    rows = [
        {
            "layer": layer, "feature": feature, "density": 0.02, "maximum": 4.0, "raises": '["Austin", "Texas"]',
            "lowers": '["的"]', "histogram": "4 2 0 1", "examples": '[[0, "000000000019"]]',
        }
        for layer, feature in members[["layer", "feature"]].drop_duplicates().itertuples(index=False)
    ]  # fmt: skip
    prompts = [{"prompt": 0, "source": "multi_hop", "tokens": json.dumps(TOKENS)}]
    return {"atlas": table("atlas", rows), "atlas_prompts": table("atlas_prompts", prompts)}


def panel_tables() -> dict[str, pd.DataFrame]:
    """Table `panel` of the Dallas prompt: what the interventions of the paper did to supernodes and to the output."""
    nodes = ["capital", "state", "texas", "say_a_capital", "say_austin", "california"]
    active = [3.1, 2.4, 6.0, 4.2, 7.5, 0.0]
    change = {
        "inhibit_say_a_capital": [1, 1, 0.99, -2, 0.11, 0],
        "inhibit_capital": [-2, 1, 0.97, 0.24, 0.55, 0],
        "inhibit_texas": [1, 1, -2, 1.04, 0.18, 0],
        "inhibit_state": [1, -2, 0.61, 0.93, 0.78, 0],
        "swap_texas_california": [1, 1, -2, 1.02, 0.07, None],
    }
    clean = {"Austin": 0.991, "Texas": 0.003, "Sacramento": 0.0002, "的": 0.0001, "Dallas": 0.0009}
    outputs = {
        "inhibit_say_a_capital": {"Texas": 0.71, "Austin": 0.12, "TX": 0.08, "Dallas": 0.03},
        "inhibit_capital": {"Austin": 0.46, "Texas": 0.33, "TX": 0.12, "Dallas": 0.02},
        "inhibit_texas": {"Sacramento": 0.31, "Phoenix": 0.22, "Denver": 0.14, "Austin": 0.05},
        "inhibit_state": {"Austin": 0.93, "Texas": 0.03, "$_x^2$": 0.02, "\n": 0.01},
        "swap_texas_california": {"Sacramento": 0.94, "Austin": 0.02, "的": 0.01, "<eos>": 0.01},
    }
    rows = []
    for experiment, factors in change.items():
        shared = {"item": "texas", "experiment": experiment, "strength": -2.0}
        for name, before, factor in zip(nodes, active, factors, strict=True):
            after = 5.5 if factor is None else before * factor
            levels = {"clean": before, "value": float(after), "control": 0.9 * before}
            rows.append(shared | {"supernode_or_token": name, "kind": "activation"} | levels)
        for name, after in outputs[experiment].items():
            before = clean.get(name, 0.0001)
            levels = {"clean": before, "value": after, "control": 0.8 * before}
            rows.append(shared | {"supernode_or_token": name, "kind": "probability"} | levels)
        levels = {"clean": 0.0, "value": 0.0, "control": float("nan")}
        rows.append(shared | {"supernode_or_token": "Austin ", "kind": "probability"} | levels)
    return {"panel": table("panel", rows)}


def evidence_tables(seed: int = 0) -> dict[str, pd.DataFrame]:
    """Tables `prompts`, `evidence` and `parts`: a swap at six strengths with all its controls, and path shares."""
    rng = np.random.default_rng(seed)
    prompts = table("prompts", prompt_rows(20, 4))
    rows = []
    for strength, rate in {0.5: 0.12, 1.0: 0.45, 1.5: 0.78, 2.0: 0.93, 3.0: 0.95, 4.0: 0.90}.items():
        wear = 0.03 * max(0.0, strength - 1.5)
        rates = {
            "effect": rate,
            "match": 0.01 + wear,
            "donor": 0.005,
            "position": 0.02 + wear,
            "direction": 0.01 + wear / 2,
        }
        coins = {
            arm: lambda row, r=r, n=10 if arm == "match" else 1: (
                rng.random(n) < r - 0.1 * (row.relation == "flower")
            ).astype(float)
            for arm, r in rates.items()
        }
        rows += evidence_rows(prompts, coins, strength=strength)
    shares = {"path_share": (6, 3, 1, 12), "shortcut": (2, 7, 6, 2)}
    for outcome, (a, b, c, d) in shares.items():
        draws = {"effect": lambda row, a=a, b=b: rng.beta(a, b, 1), "match": lambda row, c=c, d=d: rng.beta(c, d, 10)}
        rows += evidence_rows(prompts, draws, experiment="paths", outcome=outcome, strength=1.0)
    evidence = table("evidence", rows)
    rule = {"specificity": {"arms": ["donor", "position"], "ratio": 5}, "ceiling": {"match": 0.05}}
    claims = [claim(rule, minimum_n=60)]
    judged = judge_all(
        measure(claims, evidence, prompts, Meta("multi_hop", "elegans", "plt", strengths={"swap_state": 2.0}))
    )
    return {"prompts": prompts, "evidence": evidence, "parts": judged.parts, "verdicts": judged.verdicts}


def fidelity_table() -> dict[str, pd.DataFrame]:
    """Table `fidelity` of transcoders of five layers on four behaviours."""
    layers = {
        "fvu": [0.004, 0.011, 0.019, 0.026, 0.034], "l0": [9.1, 14.2, 18.8, 21.5, 16.0],
        "dead": [0.01, 0.02, 0.044, 0.03, 0.012],
        "loss_recovered": [0.999, 0.997, 0.996, 0.994, 0.99],
    }  # fmt: skip
    rows = [
        {"layer": str(layer), "behaviour": "all", "metric": metric, "value": float(value)}
        for metric, values in layers.items()
        for layer, value in enumerate(values)
    ]
    agreement = {"two-hop": 0.998, "addition": 0.991, "couplets": 0.987, "relation cells": 0.972, "all": 0.988}
    rows += [{"layer": "all", "behaviour": b, "metric": "top1_agreement", "value": v} for b, v in agreement.items()]
    rows += [
        {"layer": "all", "behaviour": "all", "metric": m, "value": v}
        for m, v in [("fvu", 0.019), ("l0", 15.9), ("dead", 0.023)]
    ]
    return {
        name: table(name, found)
        for name, found in (("fidelity", rows), ("operands", []), ("operand_plots", []), ("sites", []))
    }


CASE = """
paper: {section: "Multi-step Reasoning", url: "https://example.org/paper"}
prompts:
  texas:
    text: "Fact: the capital of the state containing Dallas is"
    answer: Austin
    split: registered
    factors: {place: Texas, relation: capital, donor: "", wrong_donor: ""}
supernodes:
  capital: {at: "token:capital", promotes: [Austin]}
  state: {at: "token:state", promotes: [Austin]}
  texas: {factor: place, label: "{place}"}
  say_a_capital: {factor: relation, label: "say a {relation}"}
  say_austin: {promotes: [answer], label: "say {answer}"}
experiments:
  swap_state: {kind: swap, inhibit: texas, inject: texas, strengths: [1, 2], dose: true, controls: [match, donor, position], outcomes: [donor_top1]}
  paths: {kind: graph, through: texas, source: place, outcomes: [path_share, shortcut]}
  inhibit_texas: {kind: inhibit, inhibit: texas, outcomes: [donor_top1]}
  inhibit_say_a_capital: {kind: inhibit, inhibit: say_a_capital, strengths: [-2], outcomes: [answer_top1], prompts: [texas]}
story:
  arrows: [[texas, say_austin], [say_a_capital, say_austin], [capital, say_a_capital], [say_austin, answer]]
  traced: texas
  experiment: inhibit_say_a_capital
  shown: texas
figures: [supernode_graph, inhibition_panel, swap_panel, dose_response, path_share, fidelity]
"""
CLAIMS = """
multihop-7:
  title: Swapping the state swaps the <capital> & nothing else
  paper_says: Inhibiting Texas and injecting California makes the model say Sacramento.
  source: {section: Multi-step Reasoning, confidence: digest}
  parts:
    - {name: swap, experiment: swap_state, outcome: donor_top1, control: match, direction: increase, minimum: 0.5,
       specificity: {arms: [donor, position], ratio: 5}, ceiling: {match: 0.05}}
  minimum_n: 60
  registered: 2026-11-20
multihop-2:
  title: A shortcut exists beside the two-hop path
  paper_says: A direct edge from Dallas to say Austin coexists with the two-hop path.
  source: {section: Multi-step Reasoning, confidence: secondary}
  parts:
    - {name: through it, experiment: paths, outcome: path_share, control: match, direction: increase, minimum: 0.1}
    - {name: around it, experiment: paths, outcome: shortcut, control: match, direction: increase, minimum: 0.1}
  minimum_n: 60
  registered: 2026-11-20
  expected: {elegans: not replicated}
multihop-8:
  title: The swap works with donors abroad
  paper_says: The swap generalises to China.
  source: {section: Multi-step Reasoning, confidence: memory}
  parts:
    - {name: swap, experiment: swap_foreign, outcome: donor_top1, control: match, direction: increase, minimum: 0.5}
  minimum_n: 60
  registered: 2026-11-20
"""


def write_repository(root: Path, figures: bool = True) -> Path:
    """A repository in `root` whose one case, made up, has been run, judged and drawn on a model `elegans`."""
    folder, run = root / "experiments/multi_hop", root / "data/runs/elegans"
    for path in (folder, run / "multi_hop", root / "src/biology", root / "data/models"):
        path.mkdir(parents=True)
    (root / "config.yaml").write_text("models: {elegans: {path: data/models, transcoders: data/models}}\n")
    (folder / "case.yaml").write_text(CASE)
    (folder / "README.md").write_text("# Dallas\n\nTwo *hops* and `<bos>`.\n\n## Why\nBecause.\n\n* one\n* two\n")
    (folder / "claims.yaml").write_text(
        CLAIMS.replace("experiment: swap_foreign", "experiment: inhibit_texas")  # never measured
    )
    write_json(
        run / "load.json",
        {
            "model": "elegans", "seed": 0, "dtype": "float32", "device": "cpu", "weights": "ab" * 32,
            "transcoders": {"name": "per_layer relu", "weights": "cd" * 32}, "versions": {"python": "3.11"},
        },
    )  # fmt: skip
    made = graph_tables() | panel_tables() | fidelity_table()
    shown, scored = made["prompts"], evidence_tables()
    made |= {"evidence": scored["evidence"], "prompts": pd.concat([shown, scored["prompts"].assign(tokens="[]")])}
    made["prompts"]["relation"] = made["prompts"]["relation"].fillna("capital")
    for name, frame in made.items():
        write_table(run / "multi_hop" / f"{name}.parquet", frame, name)
    write_json(run / "multi_hop/graphs.json", {"texas": graph_file(made["supernodes"])})
    held = [
        {"item": "texas", "layer": row.layer, "pos": row.pos, "feature": row.feature, "strength": m, "text": said, "value": 0.5}
        for row in made["supernodes"][["layer", "pos", "feature"]].drop_duplicates().itertuples()
        for m, said in ((0.0, "Texas"), (1.0, "Austin"))
    ]  # fmt: skip
    write_table(run / "multi_hop/node_steering.parquet", table("node_steering", held), "node_steering")
    for name, frame in atlas_tables(made["supernodes"]).items():
        write_table(run / f"{name}.parquet", frame, name)
    tables = read_tables(run / "multi_hop")
    meta = Meta("multi_hop", "elegans", "per_layer relu", strengths={"swap_state": 2.0}, row_residual=4e-7)
    members = Members(load_case(root, "multi_hop").experiments, tables["supernodes"])
    measured = measure(load_claims(root, "multi_hop"), tables["evidence"], tables["prompts"], meta, members=members)
    judged = judge_all(measured)
    write_table(run / "parts.parquet", judged.parts, "parts")
    write_table(run / "clusters.parquet", judged.clusters, "clusters")
    write_table(root / "reports/elegans/verdicts.csv", judged.verdicts, "verdicts")
    case = load_case(root, "multi_hop")
    for name in case.figures if figures else ():
        for form, data in draw(name, tables | {"parts": judged.parts}, case).items():
            write_bytes(root / f"figures/elegans/multi_hop/{name}.{form}", data)
    return root
