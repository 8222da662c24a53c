"""Side by side: the attribution engine of this repository and circuit-tracer, on the same random GPT-2 small.

    python benchmarks/bench.py            everything (about 15 minutes on one quiet core, 8 GB of memory and of disk)
    python benchmarks/bench.py --table    only write README.md again from results.json

circuit-tracer 0.5.0 from PyPI (a third-party fork of upstream 0.4.1; its engine gives bit-identical graphs) is
installed into benchmarks/.venv. Every run is a process of its own with one thread. Writes results.json and README.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BUILD = HERE / "build"
PEER = HERE / ".venv/bin/python"
PEER_PACKAGE = "circuit-tracer==0.5.0"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent / "src")}
DEFAULT_BATCH = 256  # of circuit-tracer's command line; its function has 512, which is slower here
BATCHES = (16, 32, 64)  # tried for its best, features chosen in one go, which is cheapest
RUNS = {  # name: kind, budget (0: all), batch size of circuit-tracer (0: ours)
    "ours_all": ("per_layer", 0, 0),
    "ours_1000": ("per_layer", 1000, 0),
    "ours_clt_500": ("cross_layer", 500, 0),
    **{f"peer_1000_batch_{batch}": ("per_layer", 1000, batch) for batch in BATCHES},
    "peer_1000": ("per_layer", 1000, DEFAULT_BATCH),
    "peer_clt_500": ("cross_layer", 500, 64),
    "peer_all": ("per_layer", 0, DEFAULT_BATCH),
}
TITLES = {
    "ratio_all": f"all features, its default batch size ({DEFAULT_BATCH})",
    "ratio_1000": f"1,000 features, its default batch size ({DEFAULT_BATCH})",
    "ratio_1000_best_batch": f"1,000 features, the best batch size of {', '.join(map(str, BATCHES))}",
    "ratio_clt_500": "cross-layer, 500 features, batch size 64",
}


def pairs(runs: dict[str, dict]) -> dict[str, tuple[str, str]]:
    """Which runs each ratio compares: circuit-tracer's, ours."""
    best = min((f"peer_1000_batch_{batch}" for batch in BATCHES), key=lambda name: runs[name]["seconds"])
    return {
        "ratio_all": ("peer_all", "ours_all"),
        "ratio_1000": ("peer_1000", "ours_1000"),
        "ratio_1000_best_batch": (best, "ours_1000"),
        "ratio_clt_500": ("peer_clt_500", "ours_clt_500"),
    }


def prepare() -> None:
    """The peer's environment, the model and the transcoders, where they are not there yet."""
    if not PEER.is_file():
        print("Installing circuit-tracer into benchmarks/.venv (once)", flush=True)
        import torch

        subprocess.run([sys.executable, "-m", "venv", str(HERE / ".venv")], check=True)
        pip = [str(PEER), "-m", "pip", "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, f"torch=={torch.__version__}", PEER_PACKAGE], check=True)
    if not (BUILD / "cross_layer/config.yaml").is_file():
        print("Drawing the model and the transcoders (once)", flush=True)
        from shapes import ACTIVE, ACTIVE_CROSS_LAYER, TOKENS, write_model, write_transcoders

        from biology.models.model import capture, load_model

        write_model(BUILD / "model")
        frozen = capture(load_model(BUILD / "model"), list(TOKENS), positions=-1)
        reads = np.stack([read[0].numpy() for read in frozen.read])
        write_transcoders(BUILD / "per_layer", "per_layer", reads, ACTIVE)
        write_transcoders(BUILD / "cross_layer", "cross_layer", reads, ACTIVE_CROSS_LAYER)


def run(name: str) -> dict:
    """One run in a process of its own; its record."""
    kind, budget, batch = RUNS[name]
    out = BUILD / "out" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    script = [str(PEER), "peer.py"] if batch else [sys.executable, "ours.py"]
    arguments = [str(BUILD), kind, str(budget), *([str(batch)] if batch else []), str(out)]
    done = subprocess.run([*script, *arguments], cwd=HERE, env=ENVIRONMENT, capture_output=True, text=True)
    if not out.with_suffix(".json").is_file():
        raise SystemExit(f"error: {name} failed:\n{done.stderr[-2000:]}")
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in record["phases"].items())
    print(f"{name:<16}{record['seconds']:8.2f} s  +{record['extra_gib']:.2f} GiB   ({phases})", flush=True)
    return record


def compare(peer: str, ours: str) -> dict[str, float]:
    """Largest difference of the edges between nodes that both graphs have. Errors are compared in whole graphs only: ours
    hold the features that a budget leaves out."""
    theirs, mine = (np.load((BUILD / "out" / name).with_suffix(".npz")) for name in (peer, ours))
    index = {tuple(feature): i for i, feature in enumerate(theirs["features"].tolist())}
    both = [(index[key], i) for i, feature in enumerate(mine["features"].tolist()) if (key := tuple(feature)) in index]
    from shapes import N_LAYERS, TOKENS

    n_pos, n_logits = len(TOKENS), len(mine["logits"])
    assert theirs["logits"].tolist() == mine["logits"].tolist(), f"{peer} and {ours} explain different logits"
    n_theirs, n_mine = len(theirs["adjacency"]), len(mine["adjacency"])
    tail = range(n_pos + n_logits, 0, -1)  # tokens and logits
    nodes = both + [(n_theirs - i, n_mine - i) for i in tail]
    whole = len(both) == len(theirs["features"]) == len(mine["features"])
    if whole:
        first = (len(theirs["features"]), len(mine["features"]))
        cells = [(layer, pos) for layer in range(N_LAYERS) for pos in range(1, n_pos)]
        nodes += [(first[0] + c * n_pos + p, first[1] + c * (n_pos - 1) + p - 1) for c, p in cells]
    a, b = (np.array(each) for each in zip(*nodes, strict=True))
    worst = largest = 0.0
    for rows in np.array_split(np.arange(len(nodes)), max(1, len(nodes) // 500)):
        left, right = theirs["adjacency"][np.ix_(a[rows], a)], mine["adjacency"][np.ix_(b[rows], b)]
        worst, largest = max(worst, float(np.abs(left - right).max())), max(largest, float(np.abs(left).max()))
    return {"difference": worst, "largest_edge": largest, "common_features": len(both), "whole": whole}


def kept(name: str, whole: str = "ours_all") -> float:
    """Share of the whole graph's feature influence that the chosen features of a budgeted graph hold there."""
    every, chosen = (np.load((BUILD / "out" / run).with_suffix(".npz")) for run in (whole, name))
    influence = dict(zip(map(tuple, every["features"].tolist()), every["influence"].tolist(), strict=True))
    return sum(influence[tuple(feature)] for feature in chosen["features"].tolist()) / sum(influence.values())


def machine() -> dict[str, object]:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def measured(script: str, *arguments: str) -> dict:
    """What a script of ours prints, as a process of its own with one thread."""
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=HERE, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict) -> str:
    """README.md, from results.json alone."""
    runs, versions = results["runs"], results["versions"]
    lines = [
        "# Benchmark of the attribution engine",
        "",
        "Generated by `make bench` from [results.json](results.json); do not edit. A random GPT-2 small (12 layers, width 768),",
        f"12 tokens, {runs['ours_all']['active']:,} active features of 12 x 24,576 ReLU transcoders, 5 logits; cross-layer:"
        f" 12 x 4,096, {runs['ours_clt_500']['active']:,} active. float32, one thread,",
        "each run in a process of its own; seconds are CPU seconds of that thread, pruning included. "
        f"Machine: {results['machine']['processor']}, {results['machine']['cores']} cores,",
        f"{results['gemm_gflops']:.0f} GFLOP/s in matrix products. Beside it: circuit-tracer {versions['circuit-tracer']} from PyPI,"
        f" a fork of upstream (transformer-lens {versions['transformer-lens']}, torch {versions['torch']}).",
        "",
        "| graph | circuit-tracer | ours | ratio | extra memory (theirs, ours) | largest difference of an edge |",
        "|---|---|---|---|---|---|",
    ]
    for key, (peer, ours) in pairs(runs).items():
        check, a, b = results["equality"][key], runs[peer], runs[ours]
        lines.append(
            f"| {TITLES[key]} | {a['seconds']:.1f} s | {b['seconds']:.2f} s | **{results[key]:.1f}x** |"
            f" {a['extra_gib']:.2f}, {b['extra_gib']:.2f} GiB | {check['difference']:.1e} (largest edge"
            f" {check['largest_edge']:.1f}, {check['common_features']:,} features in both) |"
        )
    lines += ["", "| seconds | " + " | ".join(RUNS) + " |", "|---|" + "---|" * len(RUNS)]
    for phase in ("setup", "forward", "rows", "selection", "prune", "scores"):
        cells = [f"{runs[name]['phases'][phase]:.2f}" if phase in runs[name]["phases"] else "" for name in RUNS]
        lines.append(f"| {phase} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"All rows need {runs['ours_all']['operations_one_sided'] / 1e9:.0f} GFLOP when every reader descends to the embedding,"
        f" and {runs['ours_all']['operations'] / 1e9:.0f} when sources and readers meet half way, as ours do. At the best rate of",
        f"matrix products measured in any of these runs ({results['gemm_gflops']:.0f} GFLOP/s) that takes"
        f" {results['floor_seconds']['one_sided']:.1f} s and {results['floor_seconds']['own']:.1f} s; our rows take"
        f" {runs['ours_all']['phases']['rows']:.1f} s, which is {results['floor_fraction']:.0%} of the floor of the descent and",
        f"{results['floor_fraction_own']:.0%} of the floor of meeting half way.",
    ]
    batch, long, share = results["elegans"], results["long"], results["kept_influence"]
    lines += [
        "",
        f"The 1,000 chosen features hold {share['ours_1000']:.2%} of the influence that all features have in the whole graph;"
        f" those that circuit-tracer chooses hold {share['peer_1000']:.2%}.",
        "",
        f"elegans, {batch['prompts']} prompts of {batch['tokens']} tokens: {batch['one_call_ms']:.1f} ms a prompt in one"
        f" call, {batch['single_ms']:.1f} ms in calls of their own ({batch['ratio']:.1f}x);"
        f" largest difference of an edge {batch['difference']:.0e}.",
        f"{batch['controls']['draws']} matched control sets for each of {batch['controls']['prompts']} prompts:"
        f" {batch['controls']['seconds']:.1f} s.",
    ]
    lines += [
        "",
        f"{long['tokens']} tokens, {long['active']:,} active features, {long['budget']:,} nodes (ours only):"
        f" {long['seconds']:.0f} s, +{long['extra_gib']:.1f} GiB, worst row residual {long['row_residual']:.0e}.",
    ]
    return "\n".join(lines) + "\n"


def summary(runs: dict[str, dict]) -> dict:
    """What is claimed, from the runs alone. The rate of matrix products is the best that any of them measured."""
    compared, whole = pairs(runs), runs["ours_all"]
    rate = 1e9 * max(run["gemm_gflops"] for run in runs.values())
    floors = {"own": whole["operations"] / rate, "one_sided": whole["operations_one_sided"] / rate}
    return {
        **{key: runs[peer]["seconds"] / runs[ours]["seconds"] for key, (peer, ours) in compared.items()},
        "floor_fraction": floors["one_sided"] / whole["phases"]["rows"],
        "floor_fraction_own": floors["own"] / whole["phases"]["rows"],
        "floor_seconds": floors,
        "gemm_gflops": rate / 1e9,
        "extra_gib": whole["extra_gib"],
        "versions": {key: runs["peer_all"][key] for key in ("circuit-tracer", "transformer-lens", "torch")},
        "runs": runs,
    }


def main() -> None:
    if "--table" in sys.argv:
        results = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
        results |= summary(results["runs"])
    else:
        prepare()
        runs = {name: run(name) for name in RUNS}
        results = {
            **summary(runs),
            "equality": {key: compare(*pair) for key, pair in pairs(runs).items()},
            "kept_influence": {name: kept(name) for name in ("ours_1000", "peer_1000")},
            "machine": machine(),
            "elegans": measured("elegans.py"),
            "long": measured("long.py", str(BUILD)),
        }
    (HERE / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(table(results), encoding="utf-8")
    print("".join(f"{key:<24}{results[key]:8.2f}\n" for key in [*TITLES, "floor_fraction", "extra_gib"]), end="")
    if results["equality"]["ratio_all"]["difference"] > 1e-5:
        raise SystemExit("error: the two engines give different graphs")


if __name__ == "__main__":
    main()
