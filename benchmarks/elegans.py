"""Many prompts of the embedded model at once: 64 graphs in one call against 64 calls, and 10 matched control sets for
each of 256 prompts. One process, one thread; prints one line of JSON."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from biology.attribution.assembly import attribute, attribute_batch
from biology.interventions.controls import matched_sets
from biology.interventions.feature_edits import edits
from biology.interventions.protocols import intervene
from biology.models.model import Model, encode, load_model
from biology.transcoders.activations import cache_features
from biology.transcoders.transcoder_files import load_transcoders
from biology.transcoders.transcoder_set import TranscoderSet

ROOT = Path(__file__).parents[1]
GRAPHS, CONTROLLED, DRAWS, EDITED = 64, 256, 10, 5


def seconds_of(function: Callable[[], object]) -> tuple[float, object]:
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def graphs(model: Model, transcoders: TranscoderSet, prompts: list[list[int]]) -> dict[str, float]:
    """One call against many, each the best of three."""
    attribute_batch(model, transcoders, prompts[:2])
    tries = [seconds_of(lambda: [attribute(model, transcoders, ids) for ids in prompts]) for _ in range(3)]
    single, alone = min(tries, key=lambda pair: pair[0])
    tries = [seconds_of(lambda: attribute_batch(model, transcoders, prompts)) for _ in range(3)]
    one_call, together = min(tries, key=lambda pair: pair[0])
    pairs = list(zip(alone, together, strict=True))
    return {
        "prompts": len(prompts), "tokens": len(prompts[0]), "single_ms": 1000 * single / len(prompts),
        "one_call_ms": 1000 * one_call / len(prompts), "ratio": single / one_call,
        "difference": max(float((a.adjacency - b.adjacency).abs().max()) for a, b in pairs),
        "largest_edge": max(float(a.adjacency.abs().max()) for a in alone),
    }  # fmt: skip


def controls(model: Model, transcoders: TranscoderSet, prompts: list[list[int]]) -> dict[str, float]:
    """Flip the strongest features of the last token of every prompt, and so many others of equal strength."""

    def run() -> int:
        cache = cache_features(model, transcoders, prompts)
        entries = []
        for item, ids in enumerate(prompts):
            feature, value = cache.cell(item, 2, len(ids) - 1)
            for best in value.argsort(descending=True)[:EDITED].tolist():
                entries.append((item, 2, len(ids) - 1, int(feature[best]), -float(value[best])))
        every = torch.arange(len(prompts))
        found = matched_sets(transcoders, cache, every, edits(entries), numpy.random.default_rng(0), draws=DRAWS)
        return len(intervene(model, transcoders, prompts, found.prompt, found.edits).logits)

    seconds, rows = seconds_of(run)
    return {"prompts": len(prompts), "draws": DRAWS, "rows": rows, "seconds": seconds}


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(ROOT / "data/models/elegans")
    transcoders = load_transcoders(ROOT / "data/models/elegans/transcoders", model)
    with (ROOT / "experiments/multi_hop/prompts.csv").open(encoding="utf-8") as file:
        prompts = [encode(model, row["text"]) for row in csv.DictReader(file)]
    length = Counter(map(len, prompts)).most_common(1)[0][0]
    equal = [ids for ids in prompts if len(ids) == length][:GRAPHS]
    print(
        json.dumps(graphs(model, transcoders, equal) | {"controls": controls(model, transcoders, prompts[:CONTROLLED])})
    )


if __name__ == "__main__":
    main()
