"""Standard measures of transcoders as dictionaries of features, on held-out tokens.

For each layer and for the whole set: the number of active features at a token (L0); the share of the variance of the MLP output
that the transcoder explains; the next token's cross-entropy with the transcoder spliced in, compared with MLP outputs set to
zero and to their mean; the features that are never active (dead) and those active on more than a tenth of the tokens (dense).
For each feature its density; for each layer a token's error against the number of features active there.

Sources: SAELens, evaluation of SAEs (loss recovered, from zero ablation); Gao et al. 2024 (loss with the reconstruction spliced
in); Dunefsky et al. 2024 (mean ablation of MLPs as the baseline for transcoders).
"""

# pyright: reportArgumentType=false, reportAssignmentType=false, reportReturnType=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.models.model import Edit, Model, answer_token, encode, run, token_batch
from biology.tables import table
from biology.transcoders.activations import length_batches
from biology.transcoders.splicing import constant, mean_outputs, spliced
from biology.transcoders.transcoder_set import TranscoderSet, reconstruct_all

DENSE = 0.1
"""A feature active on a larger share of the tokens is dense."""
BINS = 20
MOST_TOKENS, MOST_TOKENS_OF_LARGE = 10_000, 2_000
"""Largest number of tokens of text on which dictionaries are measured, the second of a large model (`Model.large`): each is read
three times per layer."""
NOT_SCORED = -100
LOGITS = 1 << 26
"""Largest number of logits in memory at a time."""


@dataclass(frozen=True, eq=False)
class Passages:
    """Token sequences to measure on; `targets` are the next tokens, or `NOT_SCORED`. Features are measured at all tokens except
    the first and `ignored` ones (between documents)."""

    ids: list[list[int]]
    targets: list[list[int]]
    ignored: int | None = None

    @classmethod
    def of_text(cls, sequences: Int[np.ndarray, "sequence context"], ignored: int | None = None) -> "Passages":
        """Text in which every next token is scored, except those between documents."""
        ids = sequences.tolist()
        targets = [[NOT_SCORED if token == ignored else token for token in row[1:]] + [NOT_SCORED] for row in ids]
        return cls(ids, targets, ignored)

    @classmethod
    def of_prompts(cls, model: Model, prompts: Sequence[str], answers: Sequence[str]) -> "Passages":
        """Prompts in which only the answer, after the last token, is scored."""
        ids = [encode(model, prompt) for prompt in prompts]
        ends = [answer_token(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        targets = [[NOT_SCORED] * (len(row) - 1) + [end] for row, end in zip(ids, ends, strict=True)]
        return cls(ids, targets)

    def batches(self, model: Model) -> Iterator[tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]]:
        """Ids and targets of rows of equal length."""
        for places, rows in length_batches(self.ids, self.batch(model)):
            yield token_batch(model, rows), torch.tensor([self.targets[place] for place in places.tolist()])

    def batch(self, model: Model) -> int:
        """Rows per batch, so that the logits of the longest rows fit."""
        return max(1, min(8192, LOGITS // model.n_vocab) // max(map(len, self.ids)))

    def inside(self, ids: Int[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
        """Mask of the tokens at which features are measured."""
        inside = torch.ones_like(ids, dtype=torch.bool) if self.ignored is None else ids != self.ignored
        inside[:, 0] = False
        return inside


class Loss:
    """Mean cross-entropy in nats of the scored next tokens over several batches, and how often the most probable token is the
    unmodified model's."""

    def __init__(self) -> None:
        self.total, self.count, self.agreeing = 0.0, 0, 0

    def add(self, logits: Float[Tensor, "row pos vocab"], targets: Int[Tensor, "row pos"], own: Tensor) -> None:
        scored = targets != NOT_SCORED
        chosen = logits[scored.to(logits.device)].float()
        wanted = targets[scored].to(logits.device)
        self.total += float(torch.nn.functional.cross_entropy(chosen, wanted, reduction="sum").double())
        self.count += len(wanted)
        self.agreeing += int((chosen.argmax(-1) == own[scored.to(own.device)]).sum())

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)

    @property
    def agreement(self) -> float:
        return self.agreeing / max(1, self.count)


@dataclass(frozen=True, eq=False)
class Measured:
    """Tables `dictionary`, `density` and `token_errors` of one set."""

    dictionary: pd.DataFrame
    density: pd.DataFrame
    token_errors: pd.DataFrame


def measure(model: Model, transcoders: TranscoderSet, passages: Passages, *, progress: bool = True) -> Measured:
    """All measures of a set on held-out passages. Every layer is also spliced in alone, with the other MLPs unchanged."""
    layers, hook = range(model.n_layers), transcoders.write_hook
    names = [f"blocks.{layer}.{each}" for layer in layers for each in (transcoders.read_hook, hook)]
    mean = mean_outputs(model, hook, passages.ids, passages.batch(model), passages.ignored)
    zero = [torch.zeros_like(value) for value in mean]
    counts = [torch.zeros(count, dtype=torch.float64) for count in transcoders.n_features]
    errors, sizes, active = ([[] for _ in layers] for _ in range(3))
    losses = {(layer, way): Loss() for layer in (*layers, "all") for way in ("clean", "spliced", "zero", "mean")}
    with tqdm(total=len(passages.ids), desc=f"{model.name}: measuring", disable=not progress, mininterval=5) as bar:
        for ids, targets in passages.batches(model):
            logits, seen = run(model, ids, reads=names)
            own, inside = logits.argmax(-1), passages.inside(ids)
            acts, made = reconstruct_all(
                transcoders, [seen[f"blocks.{layer}.{transcoders.read_hook}"] for layer in layers]
            )
            for layer in layers:
                y, fired = seen[f"blocks.{layer}.{hook}"][inside].float(), acts[layer][inside] != 0
                errors[layer].append((y - made[layer][inside].float()).square().sum(-1).cpu())
                sizes[layer].append((y - mean[layer].float()).square().sum(-1).cpu())
                active[layer].append(fired.sum(-1).cpu())
                counts[layer] += fired.double().sum(0).cpu()
            del acts, made, seen
            for layer, way in losses:
                chosen = layers if layer == "all" else [int(str(layer))]
                edits: list[tuple[str, Edit]] = []
                if way == "spliced":
                    edits = spliced(model, transcoders, chosen)
                elif way != "clean":
                    edits = [constant(hook, each, (zero if way == "zero" else mean)[each]) for each in chosen]
                out = logits if way == "clean" else run(model, ids, edits=edits)[0]
                losses[layer, way].add(out, targets, own)
            bar.update(len(ids))
    error, size, l0 = (
        np.stack([torch.cat(each).double().numpy() for each in side]) for side in (errors, sizes, active)
    )
    density = [count.numpy() / max(1, l0.shape[1]) for count in counts]
    return Measured(
        _dictionary(error, size, l0, density, losses),
        table(
            "density",
            [
                {"layer": layer, "feature": feature, "density": value}
                for layer, each in enumerate(density)
                for feature, value in enumerate(each.tolist())
            ],
        ),
        _token_errors(error, size, l0),
    )


def most_tokens(model: Model) -> int:
    """Largest number of tokens of text on which a model's dictionaries are measured."""
    return MOST_TOKENS_OF_LARGE if model.large else MOST_TOKENS


def recovered(loss: float, clean: float, ablated: float) -> float:
    """Share of the loss from an ablation that is avoided; 0 if the ablation costs nothing."""
    return (ablated - loss) / (ablated - clean) if ablated != clean else 0.0


def _dictionary(
    error: Float[np.ndarray, "layer token"], size: Float[np.ndarray, "layer token"],
    l0: Float[np.ndarray, "layer token"], density: list[np.ndarray], losses: dict[tuple[object, str], Loss],
) -> pd.DataFrame:  # fmt: skip
    """Table `dictionary`. In rows of layer `all`, FVU is the mean over layers and L0 the sum."""
    fvu = error.sum(1) / size.sum(1)
    rows: list[dict[str, object]] = []
    for layer in [*range(len(fvu)), "all"]:
        whole = layer == "all"
        of_features = np.concatenate(density) if whole else density[layer]
        unexplained = float(fvu.mean() if whole else fvu[layer])
        loss = {way: losses[layer, way].mean for way in ("clean", "spliced", "zero", "mean")}
        values = {
            "l0": float(l0.sum(0).mean() if whole else l0[layer].mean()),
            "fvu": unexplained,
            "explained_variance": 1 - unexplained,
            "dead": float((of_features == 0).mean()),
            "dense": float((of_features > DENSE).mean()),
            "features": float(len(of_features)),
            "tokens": float(l0.shape[1]),
            **{f"loss_{way}": value for way, value in loss.items()},
            "recovered_from_zero": recovered(loss["spliced"], loss["clean"], loss["zero"]),
            "recovered_from_mean": recovered(loss["spliced"], loss["clean"], loss["mean"]),
            "agreement": losses[layer, "spliced"].agreement,
        }
        rows += [{"layer": str(layer), "metric": metric, "value": value} for metric, value in values.items()]
    return table("dictionary", rows)


def _token_errors(
    error: Float[np.ndarray, "layer token"],
    size: Float[np.ndarray, "layer token"],
    l0: Float[np.ndarray, "layer token"],
) -> pd.DataFrame:
    """Table `token_errors`: squared errors of tokens relative to the layer's mean squared deviation, by L0."""
    rows = []
    for layer, (mistakes, count) in enumerate(zip(error / size.mean(1, keepdims=True), l0, strict=True)):
        width = max(1, int(np.ceil((np.quantile(count, 0.99) + 1) / BINS)))
        for start in np.unique(count // width).astype(int) * width:
            here = mistakes[(count >= start) & (count < start + width)]
            low, middle, high = np.quantile(here, [0.25, 0.5, 0.75]).tolist()
            rows.append(
                {
                    "layer": layer, "l0": start + (width - 1) / 2, "tokens": len(here), "error": float(here.mean()),
                    "low": low, "median": middle, "high": high,
                }
            )  # fmt: skip
    return table("token_errors", rows)
