"""Made-up tables of a multi-hop case, as the pipeline would write them; the numbers are drawn, the shapes are real."""

import datetime
import json

import numpy as np
import pandas as pd

from biology.case import Claim, Part, Source
from biology.tables import table

RELATIONS = ("capital", "abbreviation", "flower", "region", "bird", "nickname")
TOKENS = ["<bos>", "Fact", ":", "the", "capital", "of", "the", "state", "containing", "Dal", "##las", "is"]


def claim(*parts: dict, **fields) -> Claim:
    """A claim with the given parts (fields of `Part` that differ from a plain increase against `match`)."""
    plain = {"name": "swap", "experiment": "swap_state", "outcome": "swap", "control": "match", "direction": "increase"}
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
    prompts: pd.DataFrame, values: dict, *, experiment="swap_state", outcome="swap", strength=2.0
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
    weights = {
        "capital": {"token:capital@4": 5.0, "token:Fact@1": 0.4, "error": 0.5},
        "state": {"token:state@7": 4.2, "token:the@6": 0.4, "error": 0.4},
        "texas": {"token:Dal@9": 2.0, "token:##las@10": 2.6, "state": 1.3, "token:containing@8": 0.4, "error": 0.8, "bias": -0.7},
        "say_a_capital": {"capital": 3.0, "state": 0.5, "token:is@11": 0.7, "token:of@5": 0.3, "error": 0.9, "bias": -1.0},
        "say_austin": {
            "texas": 3.4, "say_a_capital": 2.1, "token:##las@10": 0.6, "token:Dal@9": 0.3, "capital": 0.35, "error": 0.5, "bias": -1.2,
        },
        "logit:Austin": {"say_austin": 5.2, "texas": 1.1, "say_a_capital": 1.0, "token:##las@10": 0.5, "error": 0.9, "bias": 0.2},
        "logit:Texas": {"texas": 2.2, "say_a_capital": -2.6, "say_austin": -0.8, "error": 0.6, "bias": -0.3},
        "logit:Sacramento": {"say_a_capital": 2.4, "texas": -2.0, "say_austin": -0.9, "error": 0.7, "bias": -0.2},
    }  # fmt: skip
    edges = [
        {"item": "texas", "source": source, "target": target, "direct": float(value), "influence": abs(value) / 30}
        for target, sources in weights.items()
        for source, value in sources.items()
    ]
    places = {"capital": [(0, 4), (1, 4)], "state": [(0, 7), (1, 7)], "texas": [(1, 10), (2, 10), (2, 11), (3, 11)]}
    places |= {"say_a_capital": [(2, 11), (3, 11)], "say_austin": [(4, 11), (4, 11), (4, 11)]}
    members = [
        {"item": "texas", "supernode": name, "layer": layer, "pos": pos, "feature": 100 * i + 7, "activation": 2.0 + i, "share": 0.2}
        for name, found in places.items()
        for i, (layer, pos) in enumerate(found)
    ]  # fmt: skip
    prompt = {
        "item": "texas", "text": "Fact: the capital of the state containing Dallas is", "answer": "Austin", "answer_token": 3,
        "top1": "Austin", "probability": 0.991, "correct": True, "cluster": "Texas", "split": "registered", "role": "show",
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
