"""Trains a cross-layer transcoder on cached activations.

Every feature reads one layer and writes to that layer and all later ones; all layers are trained together on

    sum over layers of |y_l - y^_l|^2        (relative to the token's own output, see `CrossLayerRecipe.floor`)
    + s(t) sum over features of tanh(c |W_dec,i| a_i)      W_dec,i: the decoders of feature i, concatenated
    + p sum over features that are no longer active of |W_dec,i| relu(threshold_i - pre_i)      (|W_dec,i| held fixed here)

with JumpReLU activations a = pre [pre > threshold] and s(t) rising linearly from zero. The threshold's derivative is the
straight-through estimate d a / d threshold = -(threshold / bandwidth) [|pre - threshold| < bandwidth / 2]. Few features are
active or close to their threshold. So after the encoders' dense product everything, including the derivatives, is computed at
those entries only. The formulas are written out here; a test compares them with automatic differentiation of the loss above.

Sources: Circuit Tracing, Methods and appendix on training (architecture, loss, normalisation, initial threshold); Rajamanoharan
et al. 2024 (straight-through estimate).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.dictionaries.dictionary_training import (
    Pool,
    Pools,
    TranscoderRecipe,
    calibrated,
    pool_schedule,
    without_rare_features,
)  # fmt: skip
from biology.models.model import Model
from biology.models.resumable import restore, save
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet


@dataclass(frozen=True)
class CrossLayerRecipe(TranscoderRecipe):
    """All settings that decide a cross-layer transcoder, except the seed and the activations."""

    most_active: float = 22.0
    steps: int = 2000
    batch: int = 1024
    learning_rate: float = 4e-3
    dead_after: int = 50
    rarest: float = 3e-4
    """Features active on a smaller share of the tokens are dropped after training."""
    sparsity: float = 3e-4
    """Final value of s."""
    ramp: float = 0.6
    """Share of the steps during which s rises."""
    steepness: float = 16.0
    """c, for outputs with root mean square 1."""
    threshold: float = 0.1
    """Initial threshold, for normalised inputs."""
    bandwidth: float = 0.3
    firing: float = 0.005
    """Share of the tokens on which a feature is active initially; sets the encoder biases."""
    revival: float = 1e-5
    """p in the loss above."""


class CrossLayer(torch.nn.Module):
    """The trained weights of all layers, for normalised inputs and outputs. `W_dec[l][:, i]` writes to layer l + i."""

    def __init__(self, n_features: Sequence[int], d_model: int):
        super().__init__()

        def each(shape):  # noqa: ANN001, ANN202
            return torch.nn.ParameterList(torch.zeros(shape(layer, count)) for layer, count in enumerate(n_features))

        self.W_enc = each(lambda _, count: (count, d_model))
        self.b_enc = each(lambda _, count: (count,))
        self.W_dec = each(lambda layer, count: (count, len(n_features) - layer, d_model))
        self.b_dec = each(lambda *_: (d_model,))
        self.log_threshold = each(lambda _, count: (count,))


@torch.no_grad()
def initialise(
    weights: CrossLayer, inputs: Float[Tensor, "layer token d_model"], recipe: CrossLayerRecipe, generator: torch.Generator
) -> None:  # fmt: skip
    """Points encoders at tokens drawn from `inputs` (normalised) and sets biases so that each is active on `recipe.firing` of
    them; decoders are small."""
    for layer, x in enumerate(inputs):
        count, d_model = weights.W_enc[layer].shape
        drawn = x[torch.randint(len(x), (count,), generator=generator)]
        noise = torch.randn(count, d_model, generator=generator).to(x.device)
        drawn = torch.nn.functional.normalize(drawn, dim=1) + 0.5 * torch.nn.functional.normalize(noise, dim=1)
        weights.W_enc[layer].copy_(torch.nn.functional.normalize(drawn, dim=1) * 4 / math.sqrt(d_model))
        highest = (x @ weights.W_enc[layer].T).kthvalue(max(1, int((1 - recipe.firing) * len(x))), dim=0).values
        weights.b_enc[layer].copy_(recipe.threshold - highest)
        weights.log_threshold[layer].fill_(math.log(recipe.threshold))
        decoders = torch.randn(weights.W_dec[layer].shape, generator=generator).to(x.device)
        weights.W_dec[layer].copy_(0.1 * decoders / decoders.flatten(1).norm(dim=1)[:, None, None])


@dataclass(frozen=True)
class Entries:
    """Entries of a sparse [row, column] matrix, row by row, with their order by column."""

    rows: Int[Tensor, " entry"]
    columns: Int[Tensor, " entry"]
    row_starts: Int[Tensor, " row_and_end"]
    column_starts: Int[Tensor, " column_and_end"]
    by_column: Int[Tensor, " entry"]

    @classmethod
    def of(cls, mask: Bool[Tensor, "row column"]) -> "Entries":
        rows, columns = (index.int() for index in mask.nonzero(as_tuple=True))

        def starts(index: Tensor, count: int) -> Tensor:
            return torch.nn.functional.pad(torch.bincount(index, minlength=count).cumsum(0), (1, 0)).int()

        by_column = torch.argsort(columns, stable=True)
        return cls(rows, columns, starts(rows, mask.shape[0]), starts(columns, mask.shape[1]), by_column)

    def times(self, values: Float[Tensor, " entry"], dense: Float[Tensor, "column d"]) -> Float[Tensor, "row d"]:
        return self._sums(self.columns, self.row_starts, values, dense)

    def transposed_times(
        self, values: Float[Tensor, " entry"], dense: Float[Tensor, "row d"]
    ) -> Float[Tensor, "column d"]:
        return self._sums(self.rows[self.by_column], self.column_starts, values[self.by_column], dense)

    def column_sums(self, values: Float[Tensor, " entry"]) -> Float[Tensor, " column"]:
        return torch.zeros(len(self.column_starts) - 1, device=values.device).index_add_(0, self.columns, values)

    def products(self, left: Float[Tensor, "row d"], right: Float[Tensor, "column d"]) -> Float[Tensor, " entry"]:
        """left @ right.T at the entries only."""
        empty = torch.zeros(len(self.rows), device=left.device)
        shape = (len(left), len(right))
        with warnings.catch_warnings():  # torch warns once per process that sparse matrices are in beta
            warnings.filterwarnings("ignore", "Sparse CSR")
            pattern = torch.sparse_csr_tensor(self.row_starts, self.columns, empty, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()

    @staticmethod
    def _sums(index: Tensor, starts: Tensor, values: Tensor, dense: Tensor) -> Tensor:
        bags = torch.nn.functional.embedding_bag
        return bags(index, dense, starts, mode="sum", per_sample_weights=values, include_last_offset=True)


@torch.no_grad()
def backward(
    weights: CrossLayer, x: Float[Tensor, "layer token d_model"], y: Float[Tensor, "layer token d_model"],
    weight: Float[Tensor, "layer token"], sparsity: float, recipe: CrossLayerRecipe, silent: Sequence[Bool[Tensor, " _"]],
) -> tuple[float, list[Bool[Tensor, " _"]], list[float]]:  # fmt: skip
    """Sets the gradient of every weight on one batch. Returns the reconstruction loss, which features were active, and L0 by
    layer.

    `weight` multiplies the errors of a token; `silent` marks the features that get the revival loss.
    """
    n_layers, n_tokens, d_model = x.shape
    made = torch.stack([bias.expand(n_tokens, d_model) for bias in weights.b_dec], 1)  # [token, layer, d_model]
    near, pres, fired, l0 = [], [], [], []
    for layer in range(n_layers):
        threshold = weights.log_threshold[layer].exp()
        pre = torch.nn.functional.linear(x[layer], weights.W_enc[layer], weights.b_enc[layer])
        # The window is open below: an entry on its edge has no weight.
        entries = Entries.of(pre > threshold - recipe.bandwidth / 2)
        pre = pre[entries.rows, entries.columns]
        active = pre * (pre > threshold[entries.columns])
        written = entries.times(active, weights.W_dec[layer].flatten(1))
        made[:, layer:] += written.view(n_tokens, n_layers - layer, d_model)
        fired.append(entries.column_sums((active > 0).float()) > 0)
        l0.append(float((active > 0).sum()) / n_tokens)
        near.append(entries)
        pres.append((pre, active, threshold))
    error = (made - y.transpose(0, 1)) * weight.T[..., None]
    loss = float(error.square().mean((0, 2)).sum())
    error = error * weight.T[..., None] * (2 / (n_tokens * d_model))  # d loss / d made
    c = recipe.steepness / math.sqrt(d_model)
    for layer, (entries, (pre, active, threshold)) in enumerate(zip(near, pres, strict=True)):
        upstream = error[:, layer:].flatten(1)
        decoders = weights.W_dec[layer].flatten(1)
        norm = decoders.norm(dim=1)
        slope = 1 - (c * norm[entries.columns] * active).tanh().square()
        slope *= sparsity * c / n_tokens  # d penalty / d (norm * active)
        by_active = entries.products(upstream, decoders) + slope * norm[entries.columns]
        by_pre = by_active * (active > 0)
        at = threshold[entries.columns]
        inside = (pre - at).abs() < recipe.bandwidth / 2
        by_threshold = entries.column_sums(by_active * inside * (-at / recipe.bandwidth))
        by_norm = entries.column_sums(slope * active)
        by_decoder = entries.transposed_times(active, upstream) + (by_norm / norm.clamp(min=1e-12))[:, None] * decoders
        by_encoder, by_bias = entries.transposed_times(by_pre, x[layer]), entries.column_sums(by_pre)
        dead = silent[layer] & ~fired[layer]  # below their thresholds on every token: the revival loss is linear there
        lift = recipe.revival * norm * dead
        weights.W_enc[layer].grad = by_encoder - lift[:, None] * x[layer].mean(0)
        weights.b_enc[layer].grad = by_bias - lift
        weights.log_threshold[layer].grad = (by_threshold + lift) * threshold
        weights.W_dec[layer].grad = by_decoder.view_as(weights.W_dec[layer])
        weights.b_dec[layer].grad = error[:, layer].sum(0)
    return loss, fired, l0


@dataclass(frozen=True)
class Scales:
    """The normalisation of each layer: inputs are centred and scaled, outputs are scaled."""

    centre: Float[Tensor, "layer d_model"]
    input_scale: Float[Tensor, " layer"]
    output_mean: Float[Tensor, "layer d_model"]
    output_scale: Float[Tensor, " layer"]

    @classmethod
    def of(
        cls, inputs: Float[Tensor, "layer token d_model"], outputs: Float[Tensor, "layer token d_model"]
    ) -> "Scales":
        centre, mean = (torch.stack([layer.float().mean(0) for layer in side]) for side in (inputs, outputs))

        def scale(values: Tensor, middle: Tensor) -> Tensor:
            return torch.stack([(v.float() - m).square().mean().sqrt() for v, m in zip(values, middle, strict=True)])

        return cls(centre, scale(inputs, centre), mean, scale(outputs, mean))


def train_cross_layer(
    pools: Sequence[Pool],
    recipe: CrossLayerRecipe,
    seed: int,
    *,
    work: Path | None = None,
    identity: Mapping[str, str] | None = None,
    checkpoint_every: int = 500,
    progress: bool = True,
) -> list[dict[str, Tensor]]:
    """Trains all layers together. Returns W_enc [feature, d_model], b_enc, W_dec [feature, target, d_model], b_dec, threshold
    of each.

    The first pool sets the normalisation, which is folded back into the weights; the concatenated decoders of a feature have
    length 1. `work` holds the checkpoint: an interrupted call continues where it stopped, and ends at the same weights.
    `identity` records what decides the training beside recipe and seed.

    Raises InputError if `work` holds a checkpoint of another recipe or seed.
    """
    torch.set_flush_denormal(True)  # moments of features that are no longer active underflow
    inputs, outputs, answers = pools[0].inputs, pools[0].outputs, pools[0].answers
    n_layers, n_tokens, d_model = inputs.shape
    scales = Scales.of(inputs, outputs)
    sizes = [recipe.n_features_first] + [recipe.n_features] * (n_layers - 1)
    weights = CrossLayer(sizes, d_model).to(inputs.device)

    def normalised(inputs: Tensor, pick: Tensor) -> Tensor:
        return (inputs[:, pick].float() - scales.centre[:, None]) / scales.input_scale[:, None, None]

    generator = torch.Generator().manual_seed(seed)
    sample = torch.randint(n_tokens, (8192,), generator=generator)
    if answers is not None:
        half = int(recipe.answering * len(sample))
        sample[:half] = answers[torch.randint(len(answers), (half,), generator=generator)]
    initialise(weights, normalised(inputs, sample), recipe, generator)
    with torch.no_grad():
        for bias, mean, scale in zip(weights.b_dec, scales.output_mean, scales.output_scale, strict=True):
            bias.copy_(mean / scale)
    optimiser = torch.optim.Adam(weights.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    identity = {"recipe": recipe.hash(), "seed": str(seed), "device": inputs.device.type, **(identity or {})}
    checkpoint = None if work is None else work / "checkpoint.safetensors"
    start, history = (0, []) if checkpoint is None else restore(checkpoint, identity, weights, optimiser)
    silent = [torch.zeros(count, device=inputs.device) for count in sizes]
    if history:
        silent = [torch.tensor(entry["silent"], device=inputs.device) for entry in history]
    pool_of = {step: index for index, steps in pool_schedule(recipe.steps, len(pools)) for step in steps}

    bar = tqdm(
        range(start, recipe.steps), initial=start, total=recipe.steps, desc="cross-layer transcoder", disable=not progress, mininterval=5
    )  # fmt: skip
    for step in bar:
        pool = pools[pool_of[step]]
        inputs, outputs, answers = pool.inputs, pool.outputs, pool.answers
        left = (recipe.steps - step) / (recipe.steps * (1 - recipe.decay_from))
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * min(1.0, left, (step + 1) / 50)
        rng = np.random.default_rng([seed, step])  # an interrupted run draws the same batches
        pick = torch.from_numpy(rng.integers(0, inputs.shape[1], recipe.batch))
        if answers is not None:
            half = int(recipe.answering * recipe.batch)
            pick[:half] = answers[torch.from_numpy(rng.integers(0, len(answers), half))]
        pick = pick.to(inputs.device)
        y = outputs[:, pick].float() / scales.output_scale[:, None, None]
        # Relative errors: otherwise tokens at which the MLP writes little, often those that answer, are hardly learnt.
        size = (y - (scales.output_mean / scales.output_scale[:, None])[:, None]).square().mean(2)
        sparsity = recipe.sparsity * min(1.0, step / (recipe.ramp * recipe.steps))
        dead = [count > recipe.dead_after for count in silent]
        loss, fired, l0 = backward(
            weights, normalised(inputs, pick), y, (size + recipe.floor).rsqrt(), sparsity, recipe, dead
        )
        optimiser.step()
        silent = [torch.where(one, 0.0, count + 1) for one, count in zip(fired, silent, strict=True)]
        if progress and step % 20 == 0:
            n_dead = sum(int((count > recipe.dead_after).sum()) for count in silent)
            bar.set_postfix_str(
                f"loss {loss:.4f}, L0 {' '.join(f'{n:.0f}' for n in l0)}, silent {n_dead}", refresh=False
            )
        if checkpoint is not None and (step + 1) % checkpoint_every == 0 and step + 1 < recipe.steps:
            save(checkpoint, identity, weights, optimiser, step + 1, [{"silent": count.tolist()} for count in silent])
    made = [_folded(weights, layer, scales) for layer in range(n_layers)]
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return made


@torch.no_grad()
def _folded(weights: CrossLayer, layer: int, scales: Scales) -> dict[str, Tensor]:
    """The weights of a layer for inputs and outputs without normalisation."""
    W_enc = weights.W_enc[layer] / scales.input_scale[layer]
    W_dec = weights.W_dec[layer] * scales.output_scale[layer:, None]
    norm = W_dec.flatten(1).norm(dim=1)
    norm = torch.where(norm > 0, norm, 1.0)  # unit decoders: activations then measure the size of the output
    made = {
        "W_enc": W_enc * norm[:, None],
        "b_enc": (weights.b_enc[layer] - W_enc @ scales.centre[layer]) * norm,
        "W_dec": W_dec / norm[:, None, None],
        "b_dec": weights.b_dec[layer] * scales.output_scale[layer],
        "threshold": weights.log_threshold[layer].exp() * norm,
    }
    return {name: value.detach().contiguous() for name, value in made.items()}


def train_cross_layer_set(
    model: Model, prompts: Sequence[Sequence[int]], recipe: CrossLayerRecipe, seed: int, *, read_hook: str = "mlp.hook_in",
    write_hook: str = "hook_mlp_out", storage: torch.dtype = torch.float16, pools: int = 1, ignored: int | None = None,
    work: Path | None = None, identity: Mapping[str, str] | None = None, progress: bool = True,
) -> TranscoderSet:  # fmt: skip
    """A cross-layer transcoder of a model; prompts and pools as for `dictionary_training.train_set`."""
    feed = Pools(
        model, prompts, read_hook=read_hook, write_hook=write_hook, count=pools, ignored=ignored, progress=progress
    )
    made = train_cross_layer(feed, recipe, seed, work=work, identity=identity, progress=progress)
    layers, last = [], feed[len(feed) - 1]
    for layer, tensors in enumerate(made):
        # Calibrated as it will be stored, so that the stored set is the calibrated one.
        stored = Transcoder(**{name: tensor.to(storage).float().contiguous() for name, tensor in tensors.items()})
        inputs = last.inputs[layer].float()
        calm = calibrated(stored, inputs, recipe.most_active, seed + layer)
        layers.append(without_rare_features(calm, inputs, least=max(1, round(recipe.rarest * len(inputs)))))
    return TranscoderSet("cross_layer", "jumprelu", tuple(layers), read_hook, write_hook)
