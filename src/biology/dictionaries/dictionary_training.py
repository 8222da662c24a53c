"""Trains per-layer transcoders, with or without a skip connection, on cached activations.

Activations come in pools of as many tokens as fit in memory; each pool serves a number of consecutive steps. A small corpus is
one pool. All layers are trained on a pool before the next one is computed.

Training uses BatchTopK (the k * batch largest activations of a batch are kept). Afterwards the layer is a JumpReLU with one
threshold: a form that every reader of the SAELens layout understands, with a sparsity set by k alone. Features that are no
longer active learn the error that the others leave (auxiliary loss), so that few stay dead.

Sources: Circuit Tracing, appendix on training (target, normalisation); Bussmann et al. 2024 (BatchTopK); Gao et al. 2024
(auxiliary loss for dead features); Paulo et al. 2025 (skip transcoders).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from biology.models.model import Model
from biology.models.resumable import Settings, restore, save
from biology.transcoders.activations import cache_dense
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet


@dataclass(frozen=True)
class TranscoderRecipe(Settings):
    """The settings that per-layer and cross-layer transcoders share."""

    n_features: int = 2048
    n_features_first: int = 640
    """Features of the first layer, whose input says little more than the token: additional ones would stay dead."""
    most_active: float = 19.5
    """Largest mean number of active features at a token, per layer; thresholds are raised to reach it."""
    steps: int = 1500
    batch: int = 2048
    learning_rate: float = 5e-3
    decay_from: float = 0.5
    dead_after: int = 25
    floor: float = 0.01
    """Added to a token's mean squared output (1 on average), by which its error is divided."""
    answering: float = 0.5
    """Share of each batch drawn from the last tokens of prompts, at which the answers are computed."""


@dataclass(frozen=True)
class DictionaryRecipe(TranscoderRecipe):
    """All settings that decide a layer's transcoder, except the seed and the activations."""

    k: int = 18
    auxiliary_k: int = 32
    auxiliary_weight: float = 1.0
    skip: bool = False
    """Whether a linear map of the input is added to the output (a skip transcoder)."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Activations of the tokens from which some consecutive steps draw their batches; `answers` indexes the last tokens of
    prompts."""

    inputs: Float[torch.Tensor, "layer token d_model"]
    outputs: Float[torch.Tensor, "layer token d_model"]
    answers: Int[torch.Tensor, " answer"] | None = None


class Pools(Sequence[Pool]):
    """All tokens of some prompts except the first of each, in `count` pools. A pool is computed when needed; the last one stays
    in memory. `ignored` is a token that is not trained on either (the one between documents)."""

    def __init__(
        self, model: Model, prompts: Sequence[Sequence[int]], *, read_hook: str, write_hook: str, count: int = 1,
        ignored: int | None = None, progress: bool = True,
    ):  # fmt: skip
        self.model, self.hooks, self.ignored, self.progress = model, (read_hook, write_hook), ignored, progress
        size = -(-len(prompts) // count)
        self.parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        self._held: tuple[int, Pool] | None = None

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Pool:  # type: ignore[override]
        if self._held is None or self._held[0] != index:
            self._held = None  # freed before the next one is computed
            self._held = index, self._computed(self.parts[index])
        return self._held[1]

    def _computed(self, prompts: Sequence[Sequence[int]]) -> Pool:
        read, write = self.hooks
        batch = max(1, min(512, 32_768 // max(map(len, prompts))))
        cache = cache_dense(
            self.model, prompts, read_hook=read, write_hook=write, batch_size=batch, progress=self.progress
        )
        inside = torch.ones(len(cache.ids), dtype=torch.bool)
        last = torch.zeros(len(cache.ids), dtype=torch.bool)
        last[cache.offsets[1:] - 1] = True
        inside[cache.offsets[:-1]] = False  # the first token is not a node of any graph, and unlike all others
        if self.ignored is not None:
            inside &= cache.ids != self.ignored
        kept = (torch.stack([layer[inside] for layer in side]) for side in (cache.read, cache.write))
        inputs, outputs = (side.to(self.model.device) for side in kept)
        return Pool(inputs, outputs, last[inside].nonzero().flatten())


def pool_schedule(steps: int, pools: int) -> Iterator[tuple[int, range]]:
    """The steps of each pool, one pool after the other: an equal share for each."""
    each = -(-steps // pools)
    for index in range(pools):
        yield index, range(index * each, min(steps, (index + 1) * each))


def batch_top_k(pre: Float[torch.Tensor, "batch feature"], k: int) -> Float[torch.Tensor, "batch feature"]:
    """Keeps about the ``k * batch`` largest positive pre-activations. For speed, the cut is estimated from the first 256
    rows."""
    sample = pre[:256].detach().flatten()
    cut = float(sample.kthvalue(sample.numel() - k * min(256, len(pre))).values)
    return torch.nn.functional.threshold(pre, max(cut, 0.0), 0.0)


class LayerTraining(torch.nn.Module):
    """The training of one layer's transcoder, for inputs and outputs of unit mean square.

    The scales are those of the first activations; `made` folds them back into the weights.
    """

    def __init__(
        self, inputs: Float[torch.Tensor, "token d_in"], outputs: Float[torch.Tensor, "token d_out"],
        recipe: DictionaryRecipe, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.recipe, self.seed, device = recipe, seed, inputs.device
        self.generator = generator = torch.Generator(device="cpu").manual_seed(seed)
        d_in, d_out, count = inputs.shape[1], outputs.shape[1], recipe.n_features
        self.input_scale = inputs.square().mean().sqrt()
        self.centre = outputs.mean(0)
        self.output_scale = (outputs - self.centre).square().mean().sqrt()
        directions = torch.randn(count, d_in, generator=generator).to(device)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.w_enc = torch.nn.Parameter(directions.T.contiguous() / math.sqrt(d_in) * 4)
        self.b_enc = torch.nn.Parameter(torch.zeros(count, device=device))
        decoders = torch.randn(count, d_out, generator=generator).to(device)
        self.w_dec = torch.nn.Parameter(0.3 * decoders / decoders.norm(dim=1, keepdim=True))
        self.b_dec = torch.nn.Parameter(self.centre / self.output_scale)
        if recipe.skip:
            self.w_skip = torch.nn.Parameter(torch.zeros(d_in, d_out, device=device))
        self.optimiser = torch.optim.Adam(self.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.silent = torch.zeros(count, device=device)
        self.cuts: list[torch.Tensor] = []
        self.done = 0

    def advance(
        self, inputs: Float[torch.Tensor, "token d_in"], outputs: Float[torch.Tensor, "token d_out"],
        answers: Int[torch.Tensor, " answer"] | None, until: int, bar: tqdm, checkpoint: "Checkpoint | None" = None,
    ) -> None:  # fmt: skip
        """Trains up to step `until` on batches drawn from these tokens."""
        recipe, generator, device = self.recipe, self.generator, inputs.device
        x_all, y_all = inputs / self.input_scale, outputs / self.output_scale
        # Relative errors: otherwise tokens at which the MLP writes little, often those that answer, are hardly learnt.
        size = (y_all - self.centre / self.output_scale).square().mean(1)
        weight = (size + recipe.floor).rsqrt()
        for step in range(self.done, until):
            left = (recipe.steps - step) / (recipe.steps * (1 - recipe.decay_from))
            self.optimiser.param_groups[0]["lr"] = recipe.learning_rate * min(1.0, left, (step + 1) / 50)
            pick = torch.randint(len(x_all), (recipe.batch,), generator=generator)
            if answers is not None:
                n = int(recipe.answering * recipe.batch)
                pick[:n] = answers[torch.randint(len(answers), (n,), generator=generator)]
                pick = pick[torch.randperm(recipe.batch, generator=generator)]
            pick = pick.to(device)
            kept = self._step(x_all[pick], y_all[pick], weight[pick, None])
            if step >= int(0.9 * recipe.steps):
                positive = kept[kept > 0]
                if len(positive):
                    self.cuts.append(positive.min())
            self.done = step + 1
            bar.update()
            if checkpoint is not None and self.done % checkpoint.every == 0:
                checkpoint.save(self)

    def _step(self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """One step of the optimiser; returns the activations that BatchTopK kept."""
        recipe = self.recipe
        pre = x @ self.w_enc + self.b_enc
        kept = batch_top_k(pre, recipe.k)
        left = y - kept @ self.w_dec - self.b_dec
        error = (left - x @ self.w_skip if recipe.skip else left) * weight
        loss = error.square().mean()
        self.silent = torch.where(kept.detach().amax(0) > 0, 0.0, self.silent + 1)
        dead = (self.silent > recipe.dead_after).nonzero().flatten()
        if len(dead):
            values, index = pre[:, dead].topk(min(recipe.auxiliary_k, len(dead)), dim=1)
            rescue = torch.zeros_like(pre[:, dead]).scatter(1, index, values.relu()) @ self.w_dec[dead]
            rescue = rescue * weight
            loss = loss + recipe.auxiliary_weight * (error.detach() - rescue).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return kept.detach()

    @torch.no_grad()
    def made(self) -> dict[str, torch.Tensor]:
        """W_enc [d_in, feature], b_enc, W_dec [feature, d_out], b_dec, threshold (SAELens orientation), and W_skip [d_out,
        d_in] if there is a skip; for inputs and outputs without normalisation."""
        # One threshold: the typical smallest activation that BatchTopK still kept.
        threshold = torch.stack(self.cuts).mean() * torch.ones_like(self.silent)
        norm = self.w_dec.norm(dim=1)  # unit decoders: activations then measure the size of the output
        norm = torch.where(norm > 0, norm, 1.0)
        made = {
            "W_enc": self.w_enc / self.input_scale * norm * self.output_scale,
            "b_enc": self.b_enc * norm * self.output_scale,
            "W_dec": self.w_dec / norm[:, None],
            "b_dec": self.b_dec * self.output_scale,
            "threshold": threshold * norm * self.output_scale,
        }
        if self.recipe.skip:
            made["W_skip"] = (self.w_skip * self.output_scale / self.input_scale).T
        return {name: value.detach().contiguous() for name, value in made.items()}


@dataclass(frozen=True)
class Checkpoint:
    """The saved state of one layer's training, so that an interrupted run continues to the same weights."""

    path: Path
    identity: Mapping[str, str]
    every: int = 500

    def save(self, training: LayerTraining) -> None:
        state = {
            "silent": training.silent.tolist(),
            "cuts": [float(cut) for cut in training.cuts],
            "generator": training.generator.get_state().numpy().tobytes().hex(),
        }
        save(self.path, dict(self.identity), training, training.optimiser, training.done, [state])

    def restore(self, training: LayerTraining) -> None:
        """Raises InputError if the file is a checkpoint of another training."""
        training.done, states = restore(self.path, dict(self.identity), training, training.optimiser)
        for state in states:
            training.silent = torch.tensor(state["silent"], device=training.silent.device)
            training.cuts = [torch.tensor(cut, device=training.silent.device) for cut in state["cuts"]]
            held = torch.frombuffer(bytearray.fromhex(state["generator"]), dtype=torch.uint8)
            training.generator.set_state(held)


def calibrated(
    layer: Transcoder, inputs: Float[torch.Tensor, "token d_in"], most_active: float, seed: int, sample: int = 16384
) -> Transcoder:
    """The layer with its threshold raised until at most ``most_active`` features are active at a token on average.

    BatchTopK's own cut comes from its batches, half of which are last tokens; over all tokens more features may be active.
    """
    assert layer.threshold is not None
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:sample]
    relative = ((inputs[chosen] @ layer.W_enc.T + layer.b_enc) / layer.threshold).flatten()
    raised = float(relative.kthvalue(max(1, relative.numel() - int(most_active * len(chosen)))).values)
    raised *= (
        1 + 4 * torch.finfo(relative.dtype).eps
    )  # or the value at the cut may pass, by the rounding of ratio and product
    return replace(layer, threshold=layer.threshold * max(1.0, raised))


def without_rare_features(layer: Transcoder, inputs: Float[torch.Tensor, "token d_in"], least: int = 1) -> Transcoder:
    """The layer without the features active on fewer than ``least`` tokens. They matter only for the size of the file."""
    assert layer.threshold is not None
    tokens = torch.zeros(len(layer.b_enc), dtype=torch.long, device=inputs.device)
    for chunk in inputs.split(8192):
        pre = chunk @ layer.W_enc.T + layer.b_enc
        tokens += ((pre > layer.threshold) & (pre > 0)).sum(0)
    fires = tokens >= least
    kept = {name: getattr(layer, name)[fires] for name in ("W_enc", "b_enc", "W_dec", "threshold")}
    return replace(layer, **kept)


def train_set(
    model: Model, prompts: Sequence[Sequence[int]], recipe: DictionaryRecipe, seed: int, *, read_hook: str = "mlp.hook_in",
    write_hook: str = "hook_mlp_out", storage: torch.dtype = torch.float16, pools: int = 1, ignored: int | None = None,
    work: Path | None = None, identity: Mapping[str, str] | None = None, progress: bool = True,
) -> TranscoderSet:  # fmt: skip
    """Per-layer transcoders of a model, trained on all tokens of some prompts except the first of each (and `ignored` ones).

    `pools` is the number of parts in which the activations come. `work` holds the checkpoints: an interrupted call continues
    where it stopped and ends at the same weights. `identity` records what decides the training beside recipe and seed.

    Raises InputError if `work` holds checkpoints of another training.
    """
    feed = Pools(
        model, prompts, read_hook=read_hook, write_hook=write_hook, count=pools, ignored=ignored, progress=progress
    )
    trainings, checkpoints = [], []
    for layer in range(model.n_layers):
        size = recipe.n_features_first if layer == 0 else recipe.n_features
        inputs, outputs = (side[layer].float() for side in (feed[0].inputs, feed[0].outputs))
        trainings.append(LayerTraining(inputs, outputs, replace(recipe, n_features=size), seed + layer))
        if work is not None:
            named = {"recipe": recipe.hash(), "seed": str(seed), **(identity or {})}
            checkpoints.append(Checkpoint(work / f"checkpoint_{layer}.safetensors", named))
            checkpoints[-1].restore(trainings[-1])
    total, done = recipe.steps * model.n_layers, sum(training.done for training in trainings)
    with tqdm(total=total, initial=done, desc="transcoders", unit="step", disable=not progress, mininterval=5) as bar:
        for index, steps in pool_schedule(recipe.steps, len(feed)):
            for layer, training in enumerate(trainings):
                if training.done >= steps.stop:
                    continue
                bar.set_postfix_str(f"layer {layer}, part {index + 1} of {len(feed)}", refresh=False)
                inputs, outputs = (side[layer].float() for side in (feed[index].inputs, feed[index].outputs))
                checkpoint = checkpoints[layer] if checkpoints else None
                training.advance(inputs, outputs, feed[index].answers, steps.stop, bar, checkpoint)
                if checkpoint is not None:
                    checkpoint.save(training)
    last, layers = feed[len(feed) - 1], []
    for layer, training in enumerate(trainings):
        made, inputs = training.made(), last.inputs[layer].float()
        made |= {"W_enc": made["W_enc"].T, "W_dec": made["W_dec"][:, None]}
        # Calibrated as it will be stored, so that the stored set is the calibrated one.
        stored = Transcoder(**{name: tensor.to(storage).float().contiguous() for name, tensor in made.items()})
        layers.append(without_rare_features(calibrated(stored, inputs, recipe.most_active, seed + layer), inputs))
    return TranscoderSet("per_layer", "jumprelu", tuple(layers), read_hook, write_hook)
