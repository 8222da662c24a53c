"""A prompt of 512 tokens at the shapes of GPT-2 small with a budget of 7,500 nodes, ours only; prints one line of JSON.

python long.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import Memory, touch
from shapes import BOS, N_LAYERS, N_VOCAB, PER_LAYER_FEATURES

from biology.attribution.assembly import attribute
from biology.models.model import capture, load_model
from biology.transcoders.transcoder_files import load_transcoders
from biology.transcoders.transcoder_set import pre_activations

N_TOKENS, ACTIVE, BUDGET = 512, 65_000, 7_500


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    model = load_model(folder / "model")
    transcoders = load_transcoders(folder / "per_layer", model)
    ids = [BOS, *np.random.default_rng(2).integers(0, N_VOCAB - 1, N_TOKENS - 1).tolist()]
    frozen = capture(model, ids, positions=-1)
    # the same random features, with biases that let this prompt activate the wanted number of them
    share = ACTIVE / (N_LAYERS * (N_TOKENS - 1) * PER_LAYER_FEATURES)
    layers = []
    for layer, weights in enumerate(transcoders.layers):
        plain = replace(weights, b_enc=torch.zeros_like(weights.b_enc))
        bare = replace(transcoders, layers=tuple(plain for _ in transcoders.layers))
        pre = pre_activations(bare, layer, frozen.read[layer][0, 1::16]).flatten()
        threshold = pre.kthvalue(int(len(pre) * (1 - share))).values
        layers.append(replace(plain, b_enc=(-threshold).expand_as(weights.b_enc).clone()))
    transcoders = replace(transcoders, layers=tuple(layers))
    del frozen
    touch([*model.bridge.parameters(), *(value for layer in layers for value in vars(layer).values())])
    with Memory() as memory:
        wall, started = time.perf_counter(), time.process_time()
        graph = attribute(
            model,
            transcoders,
            ids,
            max_feature_nodes=BUDGET,
            progress=lambda *at: print(*at, file=sys.stderr, flush=True),
        )
        seconds, wall = time.process_time() - started, time.perf_counter() - wall
    record = {
        "tokens": N_TOKENS, "active": graph.metadata["n_active"], "budget": BUDGET, "nodes": graph.n_nodes,
        "seconds": seconds, "wall": wall, "extra_gib": memory.extra_gib, "row_residual": graph.metadata["row_residual"],
    }  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    main()
