"""The schemas of tables: columns, types, keys, and the conditions that all rows must meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from biology.arms import CONTROLS

Kind = Literal["str", "int", "float", "bool"]
ARMS = ("effect", *CONTROLS)
SPLITS = ("dev", "heldout", "registered", "exploratory")
VERDICTS = ("untestable", "not replicated", "inconclusive", "replicated")
"""The four verdicts. Counts list them from the last to the first."""
DECIDING = ("not replicated", "untestable", "inconclusive", "replicated")
"""A claim of several parts gets the first of these verdicts that one of its parts has: one refuted part refutes it."""
RUN_TABLES = (
    "prompts", "evidence", "graphs", "edges", "supernodes", "sites", "panel", "fidelity", "operands", "operand_plots",
)  # fmt: skip
"""Tables that every run of a model on a case writes."""


@dataclass(frozen=True)
class Schema:
    """Columns of a table with their types, and the conditions on its rows."""

    columns: dict[str, Kind]
    key: tuple[str, ...]
    """Columns that together identify a row; no two rows share their values."""
    ordered: bool = False
    """The order of rows has a meaning and is kept; otherwise rows are sorted by the key."""
    factors: bool = False
    """Further columns, the factors of an item, are allowed."""
    allowed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Columns that hold one of a few words, with these words."""
    missing: tuple[str, ...] = ()
    """Numeric columns that may be empty (NaN)."""


SCHEMAS: dict[str, Schema] = {
    # one row is a prompt: a named prompt of case.yaml or an item of prompts.csv
    "prompts": Schema(
        {
            "item": "str", "text": "str", "answer": "str", "answer_token": "int", "top1": "str",
            "probability": "float", "correct": "bool", "cluster": "str", "split": "str", "role": "str",
        },
        key=("item",), ordered=True, factors=True, allowed=(("split", SPLITS),),
    ),
    # one row is one measurement of one item; everything a claim reads
    "evidence": Schema(
        {
            "item": "str", "cluster": "str", "split": "str", "experiment": "str", "arm": "str",
            "draw": "int", "strength": "float", "outcome": "str", "value": "float",
        },
        key=("experiment", "outcome", "strength", "item", "arm", "draw"),
        allowed=(("arm", ARMS), ("split", SPLITS)),
    ),
    # one row is a question that a grown model was never taught
    "heldout": Schema(
        {"prompt": "str", "answer": "str", "behaviour": "str", "split": "str", "cluster": "str"},
        key=("behaviour", "prompt"), ordered=True, allowed=(("split", ("dev", "test")),),
    ),
    # one row is an attribution graph
    "graphs": Schema(
        {
            "item": "str", "n_active": "int", "n_nodes": "int", "n_edges": "int", "replacement": "float",
            "completeness": "float", "error_share": "float", "row_residual": "float",
        },
        key=("item",), ordered=True,
    ),
    # one row is an edge between supernodes, tokens `token:Dallas@9`, logits `logit:Austin` and the rest: `other`
    # (features in no supernode), `error` and `bias`; unmediated: influence along paths that pass no other variable of the causal model
    "edges": Schema(
        {
            "item": "str", "source": "str", "target": "str", "direct": "float", "influence": "float",
            "unmediated": "float",
        },
        key=("item", "target", "source"), ordered=True,
    ),
    # one row is a member feature of a supernode at a token position
    "supernodes": Schema(
        {
            "item": "str", "supernode": "str", "layer": "int", "pos": "int", "feature": "int",
            "activation": "float", "share": "float",
        },
        key=("item", "supernode", "layer", "pos", "feature"), ordered=True,
    ),
    # one row is a position and a range of layers in which a supernode's factor was exchanged on `n` development prompts
    # (site_search.py); accuracy: share on which the answer moved; chosen: the supernode's site (no row: nothing was found)
    "sites": Schema(
        {
            "supernode": "str", "position": "str", "first": "int", "last": "int", "accuracy": "float", "n": "int",
            "chosen": "bool",
        },
        key=("supernode", "position", "first", "last"), ordered=True, missing=("accuracy",),
    ),
    # one row is the activation of a supernode, or the probability of a next token, or a line written, under an
    # intervention, and under its control: the mean of matched random features, or the line under one such set
    "panel": Schema(
        {
            "item": "str", "experiment": "str", "strength": "float", "supernode_or_token": "str", "kind": "str",
            "clean": "float", "value": "float", "control": "float",
        },
        key=("item", "experiment", "strength", "kind", "supernode_or_token"), ordered=True,
        allowed=(("kind", ("activation", "probability", "line")),), missing=("control",),
    ),
    # one row is a measure of the transcoders, for a layer or `all`, on a behaviour or `all`
    "fidelity": Schema(
        {"layer": "str", "behaviour": "str", "metric": "str", "value": "float"},
        key=("layer", "behaviour", "metric"), ordered=True,
    ),
    # one row is a linearisation on a prompt, and how well it predicts ablations (ablation_prediction.py)
    "ablation_prediction": Schema(
        {
            "prompt": "str", "behaviour": "str", "target": "str", "rule": "str", "attention": "str", "norms": "str",
            "spearman": "float", "n": "int",
        },
        key=("prompt", "behaviour", "target", "rule", "attention", "norms"), ordered=True, missing=("spearman",),
        allowed=(("attention", ("frozen", "live")), ("norms", ("frozen", "live"))),
    ),
    # one row is a toy model with more features than dimensions, and how many of the features it keeps are found (superposition.py)
    "superposition": Schema(
        {
            "features": "int", "dimensions": "int", "seed": "int", "kept": "int", "found": "int", "found_random": "int",
            "found_components": "int",
        },
        key=("features", "seed"), ordered=True,
    ),
    # one row is a measure of a dictionary on held-out tokens, for a layer or `all` (dictionary_metrics.py)
    "dictionary": Schema(
        {"layer": "str", "metric": "str", "value": "float"}, key=("layer", "metric"), ordered=True,
    ),
    # one row is a feature: the share of held-out tokens on which it is active
    "density": Schema({"layer": "int", "feature": "int", "density": "float"}, key=("layer", "feature"), ordered=True),
    # one row is a number of features active at a token (the middle of a bin), with the errors of such tokens
    "token_errors": Schema(
        {
            "layer": "int", "l0": "float", "tokens": "int", "error": "float", "low": "float", "median": "float",
            "high": "float",
        },
        key=("layer", "l0"), ordered=True,
    ),
    # one row is a dictionary thinned to about `target` active features per token (dictionary_comparison.py); shipped: not thinned
    "comparison": Schema(
        {
            "dictionary": "str", "variant": "str", "target": "float", "features": "int", "parameters": "int",
            "l0": "float", "fvu": "float", "recovered_from_zero": "float", "recovered_from_mean": "float",
            "agreement": "float",
        },
        key=("dictionary", "variant", "target"), ordered=True,
        allowed=(("variant", ("shipped", "thinned", "pruned")),),
    ),
    # one row is a scored prompt whose stream at a layer was exchanged for the mean of a donor's level (mean_streams.py), or in all
    # layers for a donor's own (written_lines.py)
    "streams": Schema(
        {
            "case": "str", "stream": "str", "item": "str", "cluster": "str", "split": "str", "layer": "int", "arm": "str",
            "value": "float",
        },
        key=("case", "stream", "layer", "arm", "item"), allowed=(("arm", ARMS), ("split", SPLITS)),
    ),
    # one row is a feature classified on the grid of two operands at a position (operands.py); `transcoders`: own or shuffled
    "operands": Schema(
        {
            "transcoders": "str", "at": "str", "layer": "int", "feature": "int", "model": "str", "family": "str",
            "r2": "float", "digit": "str", "width": "int", "frequency": "int", "active": "int", "activity": "float",
            "label": "str",
        },
        key=("transcoders", "at", "layer", "feature"), ordered=True,
        allowed=(("transcoders", ("own", "shuffled")),),
    ),
    # one row is a cell of the operand plot of an exemplar feature (cells without a prompt are missing)
    "operand_plots": Schema(
        {"at": "str", "layer": "int", "feature": "int", "a": "int", "b": "int", "activation": "float"},
        key=("at", "layer", "feature", "a", "b"), ordered=True,
    ),
    # one row is a feature in the atlas of a model; lists of tokens and of [prompt, one digit per token] are JSON
    "atlas": Schema(
        {
            "layer": "int", "feature": "int", "density": "float", "maximum": "float", "raises": "str", "lowers": "str",
            "histogram": "str", "examples": "str",
        },
        key=("layer", "feature"), ordered=True,
    ),
    # one row is a prompt of the atlas
    "atlas_prompts": Schema({"prompt": "int", "source": "str", "tokens": "str"}, key=("prompt",), ordered=True),
    # one row is the answer of a named prompt (or the line that it writes) while a supernode of `source` is held
    "steering": Schema(
        {
            "item": "str", "source": "str", "supernode": "str", "mode": "str", "pos": "int", "strength": "float",
            "kind": "str", "text": "str", "value": "float",
        },
        key=("item", "source", "supernode", "mode", "strength", "kind", "text"), ordered=True,
        allowed=(("mode", ("clean", "hold", "swap")), ("kind", ("token", "line"))),
    ),
    # one row is the most probable next token of a named prompt while one feature of its graph is held
    "node_steering": Schema(
        {
            "item": "str", "layer": "int", "pos": "int", "feature": "int", "strength": "float", "text": "str",
            "value": "float",
        },
        key=("item", "layer", "pos", "feature", "strength"), ordered=True,
    ),
    # one row is a judged claim; found: share of the prompts on which all supernodes that it depends on have members (empty: it
    # depends on none); method: the rule that judged it (`statistics.METHODS`); amendments: how often the claim had been amended when it
    # was judged
    "verdicts": Schema(
        {
            "claim": "str", "case": "str", "model": "str", "transcoders": "str", "seed": "int", "verdict": "str",
            "statistic": "float", "low": "float", "high": "float", "threshold": "float", "control": "str",
            "p": "float", "n": "int", "found": "float", "method": "str", "amendments": "int", "reason": "str",
        },
        key=("model", "transcoders", "seed", "case", "claim"), ordered=True, allowed=(("verdict", VERDICTS),),
        missing=("statistic", "low", "high", "p", "found"),
    ),
    # one row is a part of a claim: the measurement it needs and the result
    "parts": Schema(
        {
            "claim": "str", "case": "str", "part": "str", "verdict": "str", "experiment": "str", "outcome": "str",
            "strength": "float", "control": "str", "direction": "str", "threshold": "float", "statistic": "float",
            "low": "float", "high": "float", "effect": "float", "control_mean": "float", "p": "float",
            "p_holm": "float", "checks": "str", "checks_hold": "bool", "n": "int", "found": "float", "clusters": "int", "gate": "str", "passed": "int",
            "attempted": "int", "reason": "str",
        },
        key=("case", "claim", "part"), ordered=True, allowed=(("verdict", VERDICTS),),
        missing=("strength", "statistic", "low", "high", "effect", "control_mean", "p", "p_holm", "found"),
    ),
    # one row is a cluster of a measured part: means over its items; the score is positive in the claimed direction
    "clusters": Schema(
        {
            "case": "str", "claim": "str", "part": "str", "cluster": "str", "items": "int", "effect": "float",
            "control": "float", "score": "float",
        },
        key=("case", "claim", "part", "cluster"),
    ),
    # one row is a scored prompt of a part; said: the model's own answer; scored: it passes the gate; score: positive as claimed
    "scored": Schema(
        {
            "claim": "str", "part": "str", "item": "str", "cluster": "str", "prompt": "str", "donor": "str", "expected": "str",
            "said": "str", "scored": "bool", "effect": "float", "control": "float", "score": "float",
        },
        key=("claim", "part", "item"), ordered=True, missing=("control",),
    ),
}  # fmt: skip
