"""Compares dictionaries of one model at equal L0 and equal size: transcoder sets, and the MLPs' own neurons.

A dictionary is *thinned* by a cut: of the features (or neurons) active at a token, only those whose output exceeds the cut are
kept. The size of a feature's output is its activation times the length of its decoder, with each target layer in units of the
standard deviation of that layer's MLP output, so that one cut serves all layers and all dictionaries. Cuts are chosen on some
prompts, so that the mean number of features kept at a token (summed over layers) has a given value; everything is measured on
other prompts. A thinned dictionary is not trained again: a set trained for that L0 would do better.

A set is *pruned* to a number of parameters by leaving out the features with the smallest total output. Neurons are measured at
the MLP's own output, with the neurons that are left out set to zero.

Source: Circuit Tracing, "Evaluating our transcoders" (CLT, PLT and thresholded neurons against L0).
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportReturnType=false

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from biology.dictionaries.dictionary_metrics import Loss, Passages, recovered
from biology.models.model import NEURONS, Edit, Model, neuron_outputs, run
from biology.tables import table
from biology.transcoders.splicing import constant, mean_outputs, spliced
from biology.transcoders.transcoder_set import TranscoderSet, encode, reconstruct

TARGETS = tuple(2.0**power for power in range(2, 8))
"""Values of L0 (mean active features at a token) to which dictionaries are thinned, up to their own L0."""
LOW, HIGH, CELLS = -8.0, 4.0, 24_000  # a histogram of log10 of output sizes; a cell is a tenth of a percent wide


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A transcoder set or, if None, the neurons of the MLPs; with the size of each feature's output at activation 1."""

    transcoders: TranscoderSet | None
    lengths: list[Float[Tensor, " _"]]
    mean: list[Float[Tensor, " d_model"]]
    """Mean of the replaced output, by layer."""
    parameters: int

    @property
    def n_features(self) -> int:
        return sum(len(each) for each in self.lengths)

    @property
    def read_hook(self) -> str:
        return NEURONS if self.transcoders is None else self.transcoders.read_hook

    @property
    def write_hook(self) -> str:
        return "mlp.hook_out" if self.transcoders is None else self.transcoders.write_hook

    def activations(self, layer: int, passing: Tensor) -> Tensor:
        """Activations, given the tensor at the read hook (for neurons: that tensor itself)."""
        return passing if self.transcoders is None else encode(self.transcoders, layer, passing)

    def kept(self, layer: int, activations: Tensor, cut: float) -> Tensor:
        """The activations whose output exceeds the cut."""
        return activations * (activations.abs() * self.lengths[layer] > cut)

    def edits(self, model: Model, cut: float) -> list[tuple[str, Edit]]:
        """Edits for one pass that replace all MLPs by the thinned dictionary."""
        if self.transcoders is not None:
            return spliced(model, self.transcoders, keep=lambda layer, found: self.kept(layer, found, cut))

        def thin(layer: int) -> Edit:
            return lambda tensor: torch.cat([tensor[:, :1], self.kept(layer, tensor[:, 1:], cut)], 1)

        return [(f"blocks.{layer}.{NEURONS}", thin(layer)) for layer in range(model.n_layers)]


def n_parameters(transcoders: TranscoderSet) -> int:
    """Number of parameters of a set."""
    return sum(w.numel() for layer in transcoders.layers for w in layer.resting().values())


def dictionary(model: Model, transcoders: TranscoderSet | None, passages: Passages) -> Dictionary:
    """A set (or the neurons), with the output sizes and means on these passages."""
    hook, layers = "mlp.hook_out" if transcoders is None else transcoders.write_hook, range(model.n_layers)
    mean = mean_outputs(model, hook, passages.ids, passages.batch(model), passages.ignored)
    names = [f"blocks.{layer}.{hook}" for layer in layers]
    variance, count = torch.zeros(model.n_layers, dtype=torch.float64), 0
    for ids, _ in passages.batches(model):
        _, seen = run(model, ids, reads=names, positions=-1)
        inside = passages.inside(ids)
        for layer, name in enumerate(names):
            variance[layer] += float((seen[name][inside] - mean[layer]).double().square().sum())
        count += int(inside.sum())
    scale = (variance / count).sqrt()
    if transcoders is None:
        written = [neuron_outputs(model, layer).detach().float().norm(dim=1) / float(scale[layer]) for layer in layers]
        mlps = sum(
            p.numel() for layer in layers for p in model.bridge.blocks[layer].mlp._original_component.parameters()
        )
        return Dictionary(None, written, mean, mlps)
    lengths = []
    for layer, weights in enumerate(transcoders.layers):
        per_target = weights.W_dec.float().norm(dim=2) / scale[layer : layer + weights.W_dec.shape[1]].to(weights.W_dec)
        lengths.append(per_target.norm(dim=1))
    return Dictionary(transcoders, lengths, mean, n_parameters(transcoders))


def output_histogram(model: Model, one: Dictionary, passages: Passages) -> tuple[np.ndarray, list[np.ndarray], int]:
    """A histogram of the logarithm of active features' output sizes; each feature's total output; the number of tokens."""
    counts, totals, tokens = np.zeros(CELLS, dtype=np.int64), [np.zeros(len(each)) for each in one.lengths], 0
    names = [f"blocks.{layer}.{one.read_hook}" for layer in range(model.n_layers)]
    for ids, _ in passages.batches(model):
        _, seen = run(model, ids, reads=names, positions=-1)
        inside = passages.inside(ids)
        for layer, name in enumerate(names):
            written = one.activations(layer, seen[name][inside]).abs() * one.lengths[layer]
            totals[layer] += written.double().sum(0).cpu().numpy()
            logs = written[written > 0].log10().clamp(LOW, HIGH)
            cells = ((logs - LOW) / (HIGH - LOW) * CELLS).long().clamp(max=CELLS - 1)
            counts += torch.bincount(cells, minlength=CELLS).cpu().numpy()
        tokens += int(inside.sum())
    return counts, totals, tokens


def cut_for(counts: np.ndarray, tokens: int, target: float) -> float:
    """The cut above which `target` features per token remain."""
    above = counts[::-1].cumsum()[::-1]
    cell = int(np.searchsorted(-above, -target * tokens))  # the first cell at which no more than the target remain
    return float(10 ** (LOW + (HIGH - LOW) * cell / CELLS))


def pruned(transcoders: TranscoderSet, totals: list[np.ndarray], parameters: int) -> TranscoderSet:
    """The set without the features of smallest total output, so that at most `parameters` parameters remain."""
    each = [
        sum(getattr(layer, name)[0].numel() for name in ("W_enc", "W_dec", "b_enc")) for layer in transcoders.layers
    ]
    each = [count + (layer.threshold is not None) for count, layer in zip(each, transcoders.layers, strict=True)]
    order = sorted((total, layer, feature) for layer, sums in enumerate(totals) for feature, total in enumerate(sums))
    keep, left = [np.ones(len(sums), dtype=bool) for sums in totals], n_parameters(transcoders)
    for _, layer, feature in order:
        if left <= parameters:
            break
        keep[layer][feature] = False
        left -= each[layer]
    layers = []
    for layer, chosen in zip(transcoders.layers, keep, strict=True):
        index = torch.from_numpy(np.flatnonzero(chosen)).to(layer.W_enc.device)
        names = [name for name in ("W_enc", "b_enc", "W_dec", "threshold") if getattr(layer, name) is not None]
        layers.append(replace(layer, **{name: getattr(layer, name)[index] for name in names}))
    return replace(transcoders, layers=tuple(layers))


def compare(
    model: Model, sets: Mapping[str, TranscoderSet], choosing: Passages, scored: Passages, *, progress: bool = True
) -> pd.DataFrame:
    """Table `comparison`: every set unthinned (target 0) and thinned, sets larger than the smallest also pruned to its size,
    and the neurons. One target is the smallest L0 of any set, at which all are compared."""
    found: list[tuple[str, str, Dictionary, tuple[np.ndarray, list[np.ndarray], int]]] = []
    smallest = min((n_parameters(one) for one in sets.values()), default=0)
    for name, transcoders in {**sets, "neurons": None}.items():
        one = dictionary(model, transcoders, choosing)
        seen = output_histogram(model, one, choosing)
        found.append((name, "thinned", one, seen))
        if transcoders is not None and one.parameters > smallest:
            small = dictionary(model, pruned(transcoders, seen[1], smallest), choosing)
            found.append((name, "pruned", small, output_histogram(model, small, choosing)))
    natural = {(name, variant): float(seen[0].sum() / seen[2]) for name, variant, _, seen in found}
    matched = min((natural[name, "thinned"] for name in sets), default=TARGETS[0])
    rows = []
    jobs = [
        (name, variant, one, seen, target)
        for name, variant, one, seen in found
        for target in [*sorted({*TARGETS, round(matched, 6)}), None]
        if target is None or target <= natural[name, variant] + 1e-6
    ]
    ablated = {
        hook: _ablated(model, hook, one.mean, scored) for hook, one in {o.write_hook: o for _, _, o, _ in found}.items()
    }
    for name, variant, one, seen, target in tqdm(jobs, desc=f"{model.name}: comparing", disable=not progress):
        cut = 0.0 if target is None else cut_for(seen[0], seen[2], target)
        rows.append(
            {
                "dictionary": name, "variant": "shipped" if target is None and variant == "thinned" else variant,
                "target": target or 0.0, "features": one.n_features, "parameters": one.parameters,
                **_scores(model, one, cut, scored, *ablated[one.write_hook]),
            }
        )  # fmt: skip
    return table("comparison", rows)


def _ablated(model: Model, hook: str, mean: list[Tensor], passages: Passages) -> tuple[float, float]:
    """Losses with the outputs at a hook set to zero, and to their mean, in all layers."""
    losses = {"zero": Loss(), "mean": Loss()}
    for ids, targets in passages.batches(model):
        for way, loss in losses.items():
            blank = [value if way == "mean" else torch.zeros_like(value) for value in mean]
            out, _ = run(model, ids, edits=[constant(hook, layer, value) for layer, value in enumerate(blank)])
            loss.add(out, targets, out.argmax(-1))
    return losses["zero"].mean, losses["mean"].mean


def _scores(
    model: Model, one: Dictionary, cut: float, passages: Passages, zero: float, mean: float
) -> dict[str, float]:
    """L0, FVU (mean over layers, on the model's own inputs), and the losses with the thinned dictionary in all layers, relative
    to zero and mean ablation."""
    layers = range(model.n_layers)
    names = [f"blocks.{layer}.{hook}" for layer in layers for hook in (one.read_hook, one.write_hook)]
    error, size = np.zeros(model.n_layers), np.zeros(model.n_layers)
    active, tokens = 0, 0
    clean, thinned = Loss(), Loss()
    for ids, targets in passages.batches(model):
        logits, seen = run(model, ids, reads=names)
        own, inside = logits.argmax(-1), passages.inside(ids)
        kept = [
            one.kept(layer, one.activations(layer, seen[f"blocks.{layer}.{one.read_hook}"]), cut) for layer in layers
        ]
        for layer in layers:
            y = seen[f"blocks.{layer}.{one.write_hook}"][inside]
            if one.transcoders is None:
                left = (seen[f"blocks.{layer}.{NEURONS}"] - kept[layer])[inside] @ neuron_outputs(model, layer)
            else:
                left = y - reconstruct(one.transcoders, layer, kept, seen[f"blocks.{layer}.{one.read_hook}"])[inside]
            error[layer] += float(left.double().square().sum())
            size[layer] += float((y - one.mean[layer]).double().square().sum())
            active += int((kept[layer][inside] != 0).sum())
        tokens += int(inside.sum())
        clean.add(logits, targets, own)
        thinned.add(run(model, ids, edits=one.edits(model, cut))[0], targets, own)
    return {
        "l0": active / tokens,
        "fvu": float((error / size).mean()),
        "recovered_from_zero": recovered(thinned.mean, clean.mean, zero),
        "recovered_from_mean": recovered(thinned.mean, clean.mean, mean),
        "agreement": thinned.agreement,
    }
