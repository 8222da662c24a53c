"""What the whole set of models and cases costs: measured on elegans, computed for the models of the Hub.

    python benchmarks/costs.py --record    from the run that is in data/runs (`make figures`), into costs.json
    python benchmarks/costs.py             writes docs/reference/costs.md from costs.json, results.json and the known models

Times are Snakemake's own records of its jobs. The computed part bounds from above; what it assumes is `ASSUMED`, and the page
says it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORD, PAGE = HERE / "costs.json", ROOT / "docs/reference/costs.md"
STAGES = ("load", "cache", "group", "attribute", "intervene")
REST = "tabulate, judge, draw, write"
ASSUMED = {
    "gpu": "H100 SXM",
    "gpu_tflops": 67.0,  # float32 without tensor cores, as its data sheet says
    "reached": 0.3,  # of that, in long products of matrices
    "features_per_token": 64,  # active, in each layer
}


# Measured ------------------------------------------------------------------------------------------------------------


def record(root: Path, model: str = "elegans") -> dict:
    """Seconds by case and stage, prompts, tokens and graphs of the finished run below `root`, and the rate of its model."""
    import pandas as pd

    from biology.cli.opening import open_model
    from biology.config import load_config

    config = load_config(root / "config.yaml")
    loaded, transcoders = open_model(config.model(model), root, model, config.threads)
    seconds = _seconds(root, model)
    cases = {}
    for case in sorted(path.parent.name for path in (root / "data/runs" / model).glob("*/graphs.parquet")):
        folder = root / "data/runs" / model / case
        prompts, graphs = (pd.read_parquet(folder / f"{name}.parquet") for name in ("prompts", "graphs"))
        cases[case] = {
            "seconds": {stage: round(seconds.get((case, stage), 0.0), 1) for stage in (*STAGES[1:], "rest")},
            "prompts": len(prompts),
            "tokens": _tokens(loaded, list(prompts["text"])),
            "graphs": len(graphs),
            "active": round(float(graphs["n_active"].mean()), 1),
            "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        }
    return {
        "model": model,
        "load": round(seconds["", "load"], 1),
        "judge": round(seconds["", "rest"], 1),
        "tokens_per_second": round(_rate(loaded, transcoders)),
        "cases": cases,
    }


def _seconds(root: Path, model: str) -> dict[tuple[str, str], float]:
    """Seconds of each job by case and stage, from what Snakemake keeps of every file that it made."""
    jobs: dict[tuple[str, str, str], float] = {}
    for file in (root / ".snakemake/metadata").iterdir():
        told = json.loads(file.read_text(encoding="utf-8"))
        log = next(iter(told.get("log") or []), "")
        if told.get("rule") and f"/{model}/" in log:
            case = log.split(f"/{model}/")[1].rpartition("/")[0]
            stage = told["rule"] if told["rule"] in STAGES else "rest"
            key = (case, stage, log)  # one a job
            jobs[key] = max(jobs.get(key, 0.0), told["endtime"] - told["starttime"])
    total: dict[tuple[str, str], float] = defaultdict(float)
    for (case, stage, _), spent in jobs.items():
        total[case, stage] += spent
    return total


def _tokens(model, texts: list[str]) -> int:
    from biology.models.model import encode

    return sum(len(encode(model, text)) for text in texts)


def _rate(model, transcoders, rows: int = 256, tokens: int = 14, passes: int = 20) -> float:
    """Tokens in a second of one core: forward passes with every feature encoded."""
    import torch

    from biology.models.model import capture
    from biology.transcoders.transcoder_set import encode

    ids = torch.randint(4, model.n_vocab, (rows, tokens), generator=torch.Generator().manual_seed(0))
    spent = []
    for _ in range(passes):
        started = time.process_time()
        frozen = capture(model, ids, read_hook=transcoders.read_hook, positions=-1)
        for layer in range(model.n_layers):
            encode(transcoders, layer, frozen.read[layer])
        spent.append(time.process_time() - started)
    return rows * tokens / min(spent)


# Computed ------------------------------------------------------------------------------------------------------------


def row_operations(layers: int, tokens: float, d_model: int, heads: int, active: float, decoders: float = 1) -> float:
    """Operations of one row of a graph: from a reader half way up, back through attention to the embedding, and the product
    with every active feature below it. `heads` is the width of all heads together; `decoders` how many a feature has."""
    descent = layers / 2 * (tokens + 1) / 2 * 4 * d_model * heads
    return descent + active / 2 * decoders * 2 * d_model


def hours(entry, case: dict, tokens_per_second: float) -> float:
    """GPU-hours of one case on a known model, from above: every second of elegans before its tables counts as forward passes,
    in each of which every encoder and decoder is multiplied whole, and the graphs are counted on top."""
    from biology.models.memory import parameters, transcoder_parameters

    shape, hub = entry.hub.shape, entry.hub.transcoders
    passed = sum(case["seconds"][stage] for stage in STAGES[1:]) * tokens_per_second
    forward = passed * 2 * (parameters(shape) + transcoder_parameters(shape, hub))
    length = case["tokens"] / case["prompts"]
    active = ASSUMED["features_per_token"] * shape.n_layers * length
    decoders = (shape.n_layers + 1) / 2 if hub.kind == "cross_layer" else 1
    row = row_operations(shape.n_layers, length, shape.d_model, shape.n_heads * shape.d_head, active, decoders)
    return (forward + case["graphs"] * active * row) / (ASSUMED["gpu_tflops"] * 1e12 * ASSUMED["reached"]) / 3600


# The page ------------------------------------------------------------------------------------------------------------


def page(measured: dict, engine: dict, known: dict) -> str:
    """docs/reference/costs.md."""
    cases, rate = measured["cases"], measured["tokens_per_second"]
    total = sum(sum(case["seconds"].values()) for case in cases.values()) + measured["load"] + measured["judge"]
    lines = [
        "# What it costs",
        "",
        "Generated by `python benchmarks/costs.py` from [costs.json](../../benchmarks/costs.json), the benchmark of the engine",
        "([results.json](../../benchmarks/results.json)) and the known models; do not edit.",
        "",
        "## Measured: elegans",
        "",
        f"Seconds of one core, as Snakemake recorded its jobs while two ran at a time; {REST} are the last column but one. Measured when one elegans was asked all four cases; languages have a model of their own since.",
        "",
        "| case | prompts | tokens | graphs | cache | group | attribute | intervene | rest | results |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        spent = " | ".join(f"{case['seconds'][stage]:,.0f}" for stage in (*STAGES[1:], "rest"))
        counts = f"{case['prompts']:,} | {case['tokens']:,} | {case['graphs']:,}"
        lines.append(f"| {name} | {counts} | {spent} | {case['bytes'] / 2**20:,.0f} MiB |")
    lines += [
        "",
        f"With {measured['load']:,.0f} s for `load`, and {measured['judge']:,.0f} s for `judge` and what belongs to no case:"
        f" {total / 3600:.2f} core-hours. No GPU.",
        "",
        "## Computed: models of the Hub",
        "",
        "GPU-hours of cases of the size above, from above: every second that elegans spent before its tables is counted as forward",
        f"passes at its measured rate ({rate:,} tokens a second on one core, all features encoded), each pass multiplies every",
        "weight, encoder and decoder once, and beside that every active feature is a row of every graph",
        "(`attribution.max_feature_nodes` makes that less).",
        f"Assumed: {ASSUMED['features_per_token']} active features a token and layer, and float32 on one {ASSUMED['gpu']} of which"
        f" {ASSUMED['reached']:.0%} of its {ASSUMED['gpu_tflops']:.0f} TFLOP/s is reached.",
        f"The count of the operations of a graph is held to the measured one: {_check(engine):.2f} times that of the benchmark.",
        "Nothing in this table was run: no weights of these models can be had where it was made.",
        "",
        f"| model | {' | '.join(cases)} | GPU-hours | download | memory |",
        f"|---|{'---|' * len(cases)}---|---|---|",
    ]
    from biology.models.memory import disk_of_known, of_known

    all_hours = all_bytes = 0.0
    for name, entry in known.items():
        if entry.hub is None:  # from a package, for a CPU, with its neurons as features
            continue
        plan, disk = of_known(entry), disk_of_known(entry)
        if plan is None or disk is None:
            lines.append(f"| {name} | {' | '.join('–' for _ in cases)} | – | – | width of its transcoders not known |")
            continue
        spent = [hours(entry, case, rate) for case in cases.values()]
        all_hours += sum(spent)
        all_bytes += disk
        each = " | ".join(f"{value:.2g}" for value in spent)
        lines.append(f"| {name} | {each} | **{sum(spent):.2g}** | {disk / 1e9:,.0f} GB | {plan.total / 1e9:,.0f} GB |")
    lines += [
        "",
        f"All of those with a number: {all_hours:,.0f} GPU-hours at most, and {all_bytes / 1e12:.2f} TB to download, files that two"
        " of them share counted twice.",
        "Memory is weights, transcoders and the working arrays of the engine (`biology.models.memory`); where a model shows more than a GPU",
        "has, it runs on a CPU with that much memory, or with smaller transcoders.",
        "",
    ]
    return "\n".join(lines)


def _check(engine: dict) -> float:
    """Operations of the benchmark's graph by `row_operations`, as a multiple of those that were counted while it ran."""
    from shapes import D_MODEL, N_LAYERS, TOKENS

    run = engine["runs"]["ours_all"]
    computed = run["active"] * row_operations(N_LAYERS, len(TOKENS), D_MODEL, D_MODEL, run["active"])
    return computed / run["operations_one_sided"]


def main(arguments: list[str]) -> None:
    from biology.artefacts import write_json, write_text

    if arguments == ["--record"]:
        write_json(RECORD, record(Path()))
    from biology.config import known_models

    measured, engine = (json.loads(path.read_text(encoding="utf-8")) for path in (RECORD, HERE / "results.json"))
    write_text(PAGE, page(measured, engine, known_models()))


if __name__ == "__main__":
    main(sys.argv[1:])
