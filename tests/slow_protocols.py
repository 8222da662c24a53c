"""The protocols of perturbations written out from their definitions, one row at a time, with dense feature vectors."""

import torch

from biology.interventions.feature_edits import edits
from biology.models.model import capture, freeze, run
from biology.transcoders.transcoder_set import encode, reconstruct_all, skip

PROMPTS = [[2, 5, 9, 40, 17], [2, 7, 33], [2, 11, 13, 4, 50], [2, 90, 8]]
SETS = [("per_layer", "relu", False), ("per_layer", "jumprelu", True), ("cross_layer", "relu", True),
        ("cross_layer", "topk", False)]  # fmt: skip
DOUBLE = torch.float64


def clean_activations(model, transcoders, prompt):
    seen = capture(model, prompt, read_hook=transcoders.read_hook, write_hook=transcoders.write_hook)
    return seen, reconstruct_all(transcoders, seen.read)[0]


def some_edits(model, transcoders, row, prompt, generator, n=6, top=None):
    """Random edits of one row: some features are ablated, some flipped, some switched on."""
    _, activations = clean_activations(model, transcoders, prompt)
    entries = []
    for _ in range(n):
        layer = int(torch.randint(model.n_layers if top is None else top + 1, (), generator=generator))
        pos = int(torch.randint(len(prompt), (), generator=generator))
        feature = int(torch.randint(transcoders.n_features[layer], (), generator=generator))
        value = float(activations[layer][0, pos, feature]) * -1.0 + float(torch.rand((), generator=generator))
        entries.append((row, layer, pos, feature, value))
    return edits({entry[:4]: entry for entry in entries}.values())


def slow(model, transcoders, prompt, edited, protocol, top, live=False):
    """One row of one protocol from its definition, with dense feature vectors."""
    seen, clean = clean_activations(model, transcoders, prompt)
    inputs, pushes = {}, {}

    def change(layer, activations):
        moved = activations.clone()
        mine = edited.layer == layer
        moved[0, edited.pos[mine], edited.feature[mine]] = edited.value[mine]
        return moved - activations

    def read(layer, x):
        inputs[layer] = x
        pushes[layer] = change(layer, encode(transcoders, layer, x) if protocol == "iterative" else clean[layer])

    def write(layer, output):
        held = output if protocol == "iterative" else seen.write[layer]
        for source in range(layer + 1):
            decoders = transcoders.layers[source].W_dec
            if layer - source < decoders.shape[1]:
                held = held + pushes[source] @ decoders[:, layer - source]
        if protocol != "iterative" and transcoders.layers[0].W_skip is not None:
            held = held + skip(transcoders, layer, inputs[layer] - seen.read[layer])
        return held

    hooks = [] if live else freeze(model, seen, norms=protocol == "direct", mlps=False)
    for layer in range(model.n_layers if protocol != "constrained" else top + 1):
        hooks.append((f"blocks.{layer}.{transcoders.read_hook}", lambda x, layer=layer: read(layer, x)))
        hooks.append((f"blocks.{layer}.{transcoders.write_hook}", lambda x, layer=layer: write(layer, x)))
    return run(model, torch.tensor([prompt]), edits=hooks)[0][:, -1:]
