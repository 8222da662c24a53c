"""Files of an attribution graph: JSON of the published schema, and the tensors and node table of `biology trace`.

The schema is "Anthropic Attribution Graph" (Neuronpedia, version 1.0.0) with schema_version 1: features are Cantor
pairs of (layer, feature), error ids are `{layer}_-1_{pos}`, `influence` is the cumulative score (small means
important). Features of per-layer transcoders are also called "cross layer transcoder" there;
`metadata.info.transcoder_kind` gives the actual kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from biology.attribution.graph import (
    ERROR,
    FEATURE,
    KIND_NAMES,
    LOGIT,
    TOKEN,
    Graph,
    cumulative_scores,
    influence,
    row_residual,
    scores,
)
from biology.attribution.graph_paths import node_label, target_labels, token_texts


def nodes_table(graph: Graph, labels: Mapping[tuple[int, int], str] | None = None) -> dict[str, list[Any]]:
    """Columns of nodes.parquet, one row per node in graph order; -1 where a field does not apply."""
    is_feature, is_logit = graph.kind == FEATURE, graph.kind == LOGIT
    return {
        "kind": [KIND_NAMES[k] for k in graph.kind.tolist()],
        "layer": graph.layer.tolist(),
        "pos": graph.pos.tolist(),
        "feature": graph.feature.tolist(),
        "token_id": graph.token_id.tolist(),
        "activation": torch.where(is_feature, graph.activation, -1.0).tolist(),
        "label": [node_label(graph, i, labels) for i in range(graph.n_nodes)],
        "probability": torch.where(is_logit, graph.probability, -1.0).tolist(),
    }


def arrays(graph: Graph, node_mask: Bool[Tensor, " node"], edge_mask: Bool[Tensor, "node node"]) -> dict[str, Tensor]:
    """Tensors of graph.safetensors; `influence` is the influence itself, not the cumulative score of the JSON. A graph with live
    attention or norms has the `frozen` part of its edges too."""
    parts = {} if graph.frozen is None else {"frozen": graph.frozen.contiguous()}
    return parts | {
        "adjacency": graph.adjacency.contiguous(),
        "bias": graph.bias.contiguous(),
        "pre_activation": graph.pre_activation.contiguous(),
        "influence": influence(graph).to(graph.adjacency.dtype),
        "node_mask": node_mask.contiguous(),
        "edge_mask": edge_mask.contiguous(),
    }


def cantor(layer: int, feature: int) -> int:
    """Cantor pair of (layer, feature), by which graph JSON of schema version 1 names a feature."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def how_traced(graph: Graph) -> dict[str, Any]:
    """What the graph explains, and whether attention and norms were live: entries of `info`."""
    return {key: graph.metadata[key] for key in ("attention", "norms", "explain")}


def export_json(
    graph: Graph,
    node_mask: Bool[Tensor, " node"],
    edge_mask: Bool[Tensor, "node node"],
    *,
    slug: str,
    scan: str,
    prompt: str,
    labels: Mapping[tuple[int, int], str] | None = None,
    supernodes: Mapping[str, Sequence[int]] | None = None,
    info: Mapping[str, Any] | None = None,
    generation_settings: Mapping[str, Any] | None = None,
    pruning_settings: Mapping[str, Any] | None = None,
    replication: Mapping[str, Any] | None = None,
    heads: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """The kept part of the graph as JSON of the published schema ("Anthropic Attribution Graph", schema_version 1).

    `influence` is cumulative (small means important), error ids are `{layer}_-1_{pos}`, `feature` is a Cantor pair.
    `supernodes` maps a name to node indices; kept members are pinned. `metadata.info` holds the scores and the largest
    row residual of the whole graph. `heads` gives, for edges (target, source), the heads that carry them: a key of
    links that this project adds to the schema, as is `frozen`, the part of a weight through frozen attention and norms.
    """
    cumulative = cumulative_scores(influence(graph)).tolist()
    kept = node_mask.nonzero().flatten().tolist()
    nodes = {i: _json_node(graph, i, cumulative[i], labels) for i in kept}
    ends, weights = edge_mask.nonzero().tolist(), graph.adjacency[edge_mask].tolist()
    links: list[dict[str, Any]] = [
        {"source": nodes[s]["node_id"], "target": nodes[t]["node_id"], "weight": weight}
        for (t, s), weight in zip(ends, weights, strict=True)
    ]
    if heads:
        for link, (t, s) in zip(links, ends, strict=True):
            link |= {"heads": list(heads[t, s])} if (t, s) in heads else {}
    if graph.frozen is not None:
        for link, weight in zip(links, graph.frozen[edge_mask].tolist(), strict=True):
            link["frozen"] = weight
    replaced = scores(graph)
    groups = [
        [name, *(nodes[i]["node_id"] for i in members if i in nodes)] for name, members in (supernodes or {}).items()
    ]
    pinned = list(dict.fromkeys(member for group in groups for member in group[1:]))
    metadata = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": token_texts(graph),
        "prompt": prompt,
        "schema_version": 1,
        "node_threshold": float((pruning_settings or {}).get("node_threshold", 0.8)),
        "info": {
            "replacement_score": replaced.replacement,
            "completeness_score": replaced.completeness,
            "row_residual": float(row_residual(graph).max()) if graph.n_nodes else 0.0,
            "transcoder_kind": graph.metadata.get("transcoder_kind", ""),
            **(info or {}),
        },
        "generation_settings": dict(generation_settings or {}),
        "pruning_settings": dict(pruning_settings or {}),
        "replication": dict(replication or {}),
    }
    q_params = {
        "pinnedIds": pinned,
        "supernodes": [g for g in groups if len(g) > 1],
        "linkType": "both",
        "clickedId": "",
        "sg_pos": "",
    }
    return {"metadata": metadata, "qParams": q_params, "nodes": list(nodes.values()), "links": links}


def _json_node(
    graph: Graph, index: int, cumulative: float, labels: Mapping[tuple[int, int], str] | None
) -> dict[str, Any]:
    kind, layer, pos = int(graph.kind[index]), int(graph.layer[index]), int(graph.pos[index])
    node: dict[str, Any] = {"ctx_idx": pos, "influence": cumulative, "activation": None, "token_prob": 0.0}
    node |= {"is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
    if kind == FEATURE:
        feature = int(graph.feature[index])
        node |= {
            "node_id": f"{layer}_{feature}_{pos}",
            "jsNodeId": f"{layer}_{feature}-0",
            "feature": cantor(layer, feature),
        }
        node |= {
            "layer": str(layer),
            "feature_type": "cross layer transcoder",
            "activation": float(graph.activation[index]),
        }
        node["clerp"] = (labels or {}).get((layer, feature), "")
    elif kind == ERROR:
        node |= {"node_id": f"{layer}_-1_{pos}", "jsNodeId": f"{layer}_-1-{pos}", "feature": -1, "layer": str(layer)}
        node |= {"feature_type": "mlp reconstruction error", "clerp": f'Err: mlp "{token_texts(graph)[pos]}"'}
    elif kind == TOKEN:
        token = int(graph.token_id[index])
        node |= {"node_id": f"E_{token}_{pos}", "jsNodeId": f"E_{token}-{pos}", "feature": pos, "layer": "E"}
        node |= {"feature_type": "embedding", "clerp": f'Emb: "{token_texts(graph)[pos]}"'}
    else:
        rank = index - graph.logits.start
        token = int(graph.token_id[index])
        # targets that are no single token get an index beyond the vocabulary
        token = token if token >= 0 else int(graph.metadata.get("n_vocab", 0)) + rank
        level = int(graph.metadata.get("n_layers", int(graph.layer.max()) + 1)) + 1
        weight = float(graph.probability[index])
        node |= {
            "node_id": f"{level}_{token}_{pos}",
            "jsNodeId": f"L_{token}-{pos}",
            "feature": token,
            "layer": str(level),
        }
        node |= {"feature_type": "logit", "clerp": f'Output "{target_labels(graph)[rank]}" (p={weight:.3f})'}
        node |= {
            "influence": None,
            "token_prob": weight,
            "is_target_logit": rank == int(graph.probability[graph.logits].argmax()),
        }
    return node
