"""The card of a model that was downloaded: what it is, what it answers, and how far its graphs and verdicts go.

Every number comes from the files of a run, so the card is written by the pipeline and by nobody else.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from biology.model_sources import Shape
from biology.wording import MARKS

FIDELITY = {
    "influence_foretells_ablation": "influence in the graph",
    "direct_edge_foretells_ablation": "the direct edge alone",
    "activation_foretells_ablation": "activation times the length of the decoder",
    "permuted_influence_foretells_ablation": "influence, permuted within layers",
}
"""What is compared with ablation, in words."""


def card(
    manifest: Mapping[str, Any], shape: Shape, n_parameters: int, passing: pd.DataFrame, fidelity: pd.DataFrame,
    verdicts: pd.DataFrame,
) -> str:  # fmt: skip
    """Markdown. `manifest` is what the stage `load` wrote; `passing`, `fidelity` and `verdicts` are the tables of these names."""
    parts = [
        f"# {manifest['model']}",
        "Written by the pipeline. [All verdicts](../README.md), [how to run it](../../docs/how_to/models.md).",
        _table(("", ""), _about(manifest, shape, n_parameters)),
        "## What it answers",
        "A prompt counts only if the model answers it. `with donors` counts the prompts that are answered together with all prompts "
        "they are compared with, `wordings` the different wordings among these.",
        _table(
            ("case", "set", "split", "prompts", "answered", "with donors", "wordings", "says instead"),
            passing.fillna("").astype(str).itertuples(index=False),
        ),
        "## Does its graph foretell ablation?",
        "Rank correlation with what ablating features changes, median over prompts, with a 95 % interval. On this model a sample of features "
        "is ablated, attention patterns frozen.",
        _table(("what is compared", "correlation", "interval"), _foretold(fidelity)),
        "## Verdicts",
        _table(("case", *MARKS), _counts(verdicts)),
        "A verdict speaks of this model and these features, and of no other. On a model with planted mechanisms the same tests find what "
        "[the calibration](../calibration.csv) says.",
    ]
    return "\n\n".join(parts) + "\n"


def _about(manifest: Mapping[str, Any], shape: Shape, n_parameters: int) -> list[tuple[str, str]]:
    rows = [
        (
            "architecture",
            f"{shape.architecture}, {shape.n_layers} layers, width {shape.d_model}, {shape.d_mlp} neurons a layer",
        ),
        ("parameters", f"{n_parameters:,}"),
        ("from", ", ".join(f"{name} (`{hashed[:12]}`)" for name, hashed in manifest["sources"].items())),
    ]
    if "quantised" in manifest:
        rows.append(("weights", manifest["quantised"]))
    if "at_most" in manifest:
        rows.append(("prompts", f"a quick look: at most {manifest['at_most']} scored ones of each set and split"))
    answered = [prompt for prompt, right in manifest.get("gates", {}).items() if right]
    return [
        *rows,
        ("features", manifest["transcoders"]["name"]),
        ("computed in", f"{manifest['dtype']} on {manifest['device']}"),
        ("answers as a sound copy does", "; ".join(f"“{prompt}”" for prompt in answered)),
    ]


def _foretold(fidelity: pd.DataFrame) -> list[tuple[str, str, str]]:
    overall = fidelity[(fidelity["layer"] == "all") & (fidelity["behaviour"] == "all")]
    value = dict(zip(overall["metric"], overall["value"], strict=True))
    rows = []
    for metric, words in FIDELITY.items():
        if metric in value:
            bounds = [value.get(f"{metric}_{end}") for end in ("low", "high")]
            interval = "" if None in bounds else f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"
            rows.append((words, f"{value[metric]:.2f}", interval))
    return rows


def _counts(verdicts: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (str(case), *(str(int((rows["verdict"] == verdict).sum())) for verdict in MARKS))
        for case, rows in verdicts.groupby("case", sort=True)
    ]


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
