"""Graphs that circuit-tracer computed on tiny random models, and the models and transcoders they belong to.

`fixtures/peer_*.safetensors` hold runs of circuit-tracer (upstream 0.4.1, float32, CPU): weights, active features,
adjacency, influence, masks and scores. See fixtures/README.md.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from biology.attribution.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("gpt2_relu", "gemma2_jumprelu", "gpt2_cross_layer")


def read_peer(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (adjacency and edge mask unpacked) and metadata of one run."""
    with safe_open(FIXTURES / f"peer_{name}.safetensors", framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    n = tensors["node_mask"].numel()

    def unpack(bits: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.unpackbits(bits.numpy(), count=n * n).reshape(n, n).astype(bool))

    tensors["edge_mask"] = unpack(tensors["edge_mask"])
    adjacency = torch.zeros(n, n)
    adjacency[unpack(tensors.pop("adjacency_nonzero"))] = tensors.pop("adjacency_values")
    tensors["adjacency"] = adjacency
    tensors["active_features"] = tensors["active_features"].long()
    return tensors, metadata


def peer_graph(name: str) -> tuple[Graph, dict[str, torch.Tensor], dict[str, str]]:
    """The peer's graph in our class. It has error nodes at position 0, with empty columns; ours has none there."""
    run, metadata = read_peer(name)
    layer, pos, feature = run["active_features"].T
    n_features, n_pos, n_targets = len(layer), len(run["prompt_ids"]), len(run["logit_token_ids"])
    n_layers = (len(run["adjacency"]) - n_features - n_pos - n_targets) // n_pos
    none = torch.tensor([-1])
    cells = torch.cartesian_prod(torch.arange(n_layers), torch.arange(n_pos))
    counts = torch.tensor([n_features, len(cells), n_pos, n_targets])
    kinds = torch.tensor([FEATURE, ERROR, TOKEN, LOGIT], dtype=torch.int8)
    n = int(counts.sum())
    graph = Graph(
        kind=kinds.repeat_interleave(counts),
        layer=torch.cat([layer, cells[:, 0], none.repeat(n_pos + n_targets)]),
        pos=torch.cat([pos, cells[:, 1], torch.arange(n_pos), torch.full((n_targets,), n_pos - 1)]),
        feature=torch.cat([feature, none.repeat(n - n_features)]),
        token_id=torch.cat([none.repeat(n_features + len(cells)), run["prompt_ids"], run["logit_token_ids"]]),
        activation=torch.cat([run["activation_values"], torch.zeros(n - n_features)]),
        probability=torch.cat([torch.zeros(n - n_targets), run["logit_probabilities"]]),
        adjacency=run["adjacency"],
        bias=torch.zeros(n),
        pre_activation=torch.zeros(n),
        metadata={"n_layers": n_layers, "n_vocab": 97},
    )
    return graph, run, metadata


def peer_columns(graph: Graph) -> torch.Tensor:
    """The peer's nodes that are nodes of ours too: all but the errors at position 0."""
    return ~((graph.kind == ERROR) & (graph.pos == 0))


def write_peer_model(run: dict[str, torch.Tensor], metadata: dict[str, str], folder: Path) -> Path:
    """The peer's model as a Hugging Face directory without a tokenizer."""
    (folder / "config.json").write_text(metadata["config"])
    weights = {key.removeprefix("model."): value for key, value in run.items() if key.startswith("model.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads(metadata["config"])["vocab_size"] == 97
    return folder


def peer_transcoders(run: dict[str, torch.Tensor], metadata: dict[str, str]):
    """The peer's transcoders as our set."""
    from biology.transcoders.transcoder_set import Transcoder, TranscoderSet

    weights = {key.removeprefix("transcoders."): value for key, value in run.items() if key.startswith("transcoders.")}
    hooks = (metadata["read_hook"], metadata["write_hook"])
    if "W_enc" in weights:  # cross-layer: stacked encoders, one decoder tensor per layer
        shared = ("W_enc", "b_enc", "b_dec")
        layers = [
            Transcoder(**{key: weights[key][layer] for key in shared}, W_dec=weights[f"W_dec.{layer}"])
            for layer in range(len(weights["W_enc"]))
        ]
        return TranscoderSet("cross_layer", "relu", tuple(layers), *hooks)
    layers = []
    while f"transcoders.{len(layers)}.W_enc" in weights:
        part = f"transcoders.{len(layers)}."
        layers.append(
            Transcoder(
                W_enc=weights[part + "W_enc"],
                b_enc=weights[part + "b_enc"],
                W_dec=weights[part + "W_dec"][:, None],
                b_dec=weights[part + "b_dec"],
                threshold=weights.get(part + "activation_function.threshold"),
            )
        )
    activation = "relu" if layers[0].threshold is None else "jumprelu"
    return TranscoderSet("per_layer", activation, tuple(layers), *hooks)
