"""Times the attribution engine of this repository on the model and transcoders of bench.py.

    python ours.py FOLDER KIND BUDGET OUT            (BUDGET 0: all features)

Results go to OUT.npz (graph) and OUT.json (times, memory, floating-point operations).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from measure import Memory, gemm_rate, timed, touch
from shapes import TOKENS

from biology.attribution import assembly as attribution
from biology.attribution import selection, whole_graph
from biology.attribution.graph import influence, prune, scores
from biology.models.model import load_model
from biology.transcoders.transcoder_files import load_transcoders

TIMED = (
    *((attribution, name, "setup") for name in ("freeze_prompt", "batch_active_features", "bias_pass")),
    (attribution, "fill_edges", "rows"),
    (selection, "effect_rows", "rows"),
    (selection, "sweep_influence", "selection"),
)


def main() -> None:
    torch.set_num_threads(1)
    folder, kind, budget, out = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    model = load_model(folder / "model")
    transcoders = load_transcoders(folder / kind, model)
    touch([*model.bridge.parameters(), *(value for layer in transcoders.layers for value in vars(layer).values())])
    rate = gemm_rate()
    phases = {"setup": 0.0, "rows": 0.0, "selection": 0.0}
    operations: list[float] = []

    def meeting_layer(*args) -> int:
        layer, needed = min(whole_graph.meeting_costs(*args), key=lambda pair: pair[1])
        operations.extend([needed, whole_graph.meeting_costs(*args[:4])[0][1]])
        return layer

    attribution.meeting_layer = meeting_layer
    for module, name, phase in TIMED:
        setattr(module, name, timed(getattr(module, name), phases, phase))
    with Memory() as memory:
        wall, started = time.perf_counter(), time.process_time()
        graph = attribution.attribute(model, transcoders, TOKENS, max_logits=5, max_feature_nodes=budget or None)
        total = time.process_time() - started
        wall = time.perf_counter() - wall
        started = time.process_time()
        node_mask, edge_mask = prune(graph)
        phases["prune"] = time.process_time() - started
    started = time.process_time()
    score = scores(graph)
    phases["scores"] = time.process_time() - started
    n = graph.features.stop
    np.savez(
        out.with_suffix(".npz"),
        features=torch.stack([graph.layer[:n], graph.pos[:n], graph.feature[:n]], 1).numpy(),
        adjacency=graph.adjacency.numpy(),
        influence=influence(graph)[graph.features].numpy(),
        n_active=graph.metadata["n_active"],
        logits=graph.token_id[graph.logits].numpy(),
        nodes=int(node_mask.sum()),
        edges=int(edge_mask.sum()),
        scores=np.array(score),
    )
    record = {
        "seconds": total + phases["prune"], "attribute": total, "attribute_wall": wall, "phases": phases,
        "extra_gib": memory.extra_gib, "gemm_gflops": max(rate, gemm_rate()), "torch": torch.__version__,
        "operations": operations[0] if operations else None, "operations_one_sided": operations[1] if operations else None,
        "row_residual": graph.metadata["row_residual"], "active": graph.metadata["n_active"],
    }  # fmt: skip
    out.with_suffix(".json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
