"""Training per-layer transcoders on cached activations.

BatchTopK during training (the k * batch largest activations of a batch are kept), JumpReLU with one threshold per layer
afterwards: the form every reader of the SAELens layout understands, and one whose sparsity is set by k alone. Features
that have stopped firing are taught the error that the others leave (auxiliary loss), so that few stay dead.

Sources: Circuit Tracing, appendix on training (target, normalisation); Bussmann et al. 2024 (BatchTopK); Gao et al. 2024
(auxiliary loss for dead features).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from biology.activations import DenseCache, cache_dense
from biology.model import Model
from biology.transcoders import Transcoder, TranscoderSet


@dataclass(frozen=True)
class DictionaryRecipe:
    """Everything that decides a layer's transcoder but the seed and the activations."""

    n_features: int = 2048
    n_features_first: int = 640
    """Features of the first layer, whose input is hardly more than the token: more of them would stay dead."""
    k: int = 18
    most_active: float = 19.5
    """The threshold is raised, where needed, until no more features are active at a token on average."""
    steps: int = 1500
    batch: int = 2048
    learning_rate: float = 5e-3
    decay_from: float = 0.5
    dead_after: int = 25
    auxiliary_k: int = 32
    auxiliary_weight: float = 1.0
    floor: float = 0.01
    """Added to a token's mean squared output (1 on average) before its error is divided by it."""
    answering: float = 0.5
    """Share of each batch drawn from the last tokens of prompts, where the answers are made."""


def batch_top_k(pre: Float[torch.Tensor, "batch feature"], k: int) -> Float[torch.Tensor, "batch feature"]:
    """Keep about the ``k * batch`` largest positive pre-activations; the cut is read off the first 256 rows, for speed."""
    sample = pre[:256].detach().flatten()
    cut = float(sample.kthvalue(sample.numel() - k * min(256, len(pre))).values)
    return torch.nn.functional.threshold(pre, max(cut, 0.0), 0.0)


def train_transcoder(
    inputs: Float[torch.Tensor, "token d_in"],
    outputs: Float[torch.Tensor, "token d_out"],
    recipe: DictionaryRecipe,
    seed: int,
    *,
    answers: Int[torch.Tensor, " answer"] | None = None,
    label: str = "transcoder",
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    """Fit one layer. Returns W_enc [d_in, feature], b_enc, W_dec [feature, d_out], b_dec, threshold (SAELens orientation).

    Inputs and outputs are scaled to unit mean square for training and the scales are folded back into the weights.
    """
    device = inputs.device
    generator = torch.Generator(device="cpu").manual_seed(seed)
    d_in, d_out = inputs.shape[1], outputs.shape[1]
    input_scale = inputs.square().mean().sqrt()
    centre = outputs.mean(0)
    output_scale = (outputs - centre).square().mean().sqrt()
    x_all, y_all = inputs / input_scale, outputs / output_scale
    # Relative errors: otherwise the tokens where the MLP writes little, often those that answer, are hardly learnt.
    size = (y_all - centre / output_scale).square().mean(1)
    weight = (size + recipe.floor).rsqrt()

    directions = torch.randn(recipe.n_features, d_in, generator=generator).to(device)
    w_enc = torch.nn.Parameter((directions / directions.norm(dim=1, keepdim=True)).T.contiguous() / math.sqrt(d_in) * 4)
    b_enc = torch.nn.Parameter(torch.zeros(recipe.n_features, device=device))
    decoders = torch.randn(recipe.n_features, d_out, generator=generator).to(device)
    w_dec = torch.nn.Parameter(0.3 * decoders / decoders.norm(dim=1, keepdim=True))
    b_dec = torch.nn.Parameter(centre / output_scale)
    parameters = [w_enc, b_enc, w_dec, b_dec]
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, betas=(0.9, 0.99))
    silent = torch.zeros(recipe.n_features, device=device)
    cuts = []

    for step in tqdm(range(recipe.steps), desc=label, disable=not progress, mininterval=5):
        left = (recipe.steps - step) / (recipe.steps * (1 - recipe.decay_from))
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * min(1.0, left, (step + 1) / 50)
        pick = torch.randint(len(x_all), (recipe.batch,), generator=generator)
        if answers is not None:
            n = int(recipe.answering * recipe.batch)
            pick[:n] = answers[torch.randint(len(answers), (n,), generator=generator)]
            pick = pick[torch.randperm(recipe.batch, generator=generator)]
        pick = pick.to(device)
        x, y = x_all[pick], y_all[pick]
        pre = x @ w_enc + b_enc
        kept = batch_top_k(pre, recipe.k)
        error = (y - kept @ w_dec - b_dec) * weight[pick, None]
        loss = error.square().mean()
        silent = torch.where(kept.detach().amax(0) > 0, 0.0, silent + 1)
        dead = (silent > recipe.dead_after).nonzero().flatten()
        if len(dead):
            values, index = pre[:, dead].topk(min(recipe.auxiliary_k, len(dead)), dim=1)
            rescue = torch.zeros_like(pre[:, dead]).scatter(1, index, values.relu()) @ w_dec[dead]
            rescue = rescue * weight[pick, None]
            loss = loss + recipe.auxiliary_weight * (error.detach() - rescue).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step >= int(0.9 * recipe.steps):
            positive = kept[kept > 0]
            if len(positive):
                cuts.append(positive.min().detach())

    # One threshold: the typical smallest activation that BatchTopK still kept.
    with torch.no_grad():
        threshold = torch.stack(cuts).mean() * torch.ones(recipe.n_features, device=device)
        norm = w_dec.norm(dim=1)  # unit decoders: activations then measure the size of what is written
        norm = torch.where(norm > 0, norm, 1.0)
        made = {
            "W_enc": w_enc / input_scale * norm * output_scale,
            "b_enc": b_enc * norm * output_scale,
            "W_dec": w_dec / norm[:, None],
            "b_dec": b_dec * output_scale,
            "threshold": threshold * norm * output_scale,
        }
    return {name: value.detach().contiguous() for name, value in made.items()}


def calibrated(
    layer: Transcoder, inputs: Float[torch.Tensor, "token d_in"], most_active: float, seed: int, sample: int = 16384
) -> Transcoder:
    """The layer with its threshold raised, where needed, until at most ``most_active`` features are active at a token on average.

    BatchTopK's own cut is that of its batches, half of which are last tokens; all tokens may be livelier.
    """
    assert layer.threshold is not None
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:sample]
    relative = ((inputs[chosen] @ layer.W_enc.T + layer.b_enc) / layer.threshold).flatten()
    raised = float(relative.kthvalue(max(1, relative.numel() - int(most_active * len(chosen)))).values)
    return replace(layer, threshold=layer.threshold * max(1.0, raised))


def living(layer: Transcoder, inputs: Float[torch.Tensor, "token d_in"], least: int = 1) -> Transcoder:
    """The layer without the features that fire on fewer than ``least`` tokens: they change hardly more than the file's size."""
    assert layer.threshold is not None
    tokens = torch.zeros(len(layer.b_enc), dtype=torch.long)
    for chunk in inputs.split(8192):
        pre = chunk @ layer.W_enc.T + layer.b_enc
        tokens += ((pre > layer.threshold) & (pre > 0)).sum(0)
    fires = tokens >= least
    return Transcoder(layer.W_enc[fires], layer.b_enc[fires], layer.W_dec[fires], layer.b_dec, layer.threshold[fires])


def training_tokens(
    model: Model, prompts: Sequence[Sequence[int]], *, read_hook: str, write_hook: str, progress: bool
) -> tuple[DenseCache, Bool[torch.Tensor, " token"], Int[torch.Tensor, " answer"]]:
    """What passes the hooks on all prompts, which tokens are trained on, and which of these are the last of a prompt."""
    cache = cache_dense(model, prompts, read_hook=read_hook, write_hook=write_hook, batch_size=512, progress=progress)
    inside = torch.ones(len(cache.ids), dtype=torch.bool)
    last = torch.zeros(len(cache.ids), dtype=torch.bool)
    last[cache.offsets[1:] - 1] = True
    inside[cache.offsets[:-1]] = False  # the first token is no node of any graph, and unlike all others
    return cache, inside, last[inside].nonzero().flatten()


def train_set(
    model: Model, prompts: Sequence[Sequence[int]], recipe: DictionaryRecipe, seed: int, *, read_hook: str = "mlp.hook_in",
    write_hook: str = "hook_mlp_out", storage: torch.dtype = torch.float16, progress: bool = True,
) -> TranscoderSet:  # fmt: skip
    """Per-layer transcoders of a model, trained on all tokens of some prompts but the first of each."""
    hooks = {"read_hook": read_hook, "write_hook": write_hook}
    cache, inside, answers = training_tokens(model, prompts, **hooks, progress=progress)
    layers = []
    for layer in range(model.n_layers):
        inputs, outputs = (tensor[layer][inside].float() for tensor in (cache.read, cache.write))
        label = f"transcoder of layer {layer}"
        size = recipe.n_features_first if layer == 0 else recipe.n_features
        made = train_transcoder(
            inputs,
            outputs,
            replace(recipe, n_features=size),
            seed + layer,
            answers=answers,
            label=label,
            progress=progress,
        )
        weights = (made["W_enc"].T, made["b_enc"], made["W_dec"][:, None], made["b_dec"], made["threshold"])
        # Calibrated as it will be stored, so that the stored set is the calibrated one.
        stored = Transcoder(*(tensor.to(storage).float().contiguous() for tensor in weights))
        layers.append(living(calibrated(stored, inputs, recipe.most_active, seed + layer), inputs))
    return TranscoderSet("per_layer", "jumprelu", tuple(layers), read_hook, write_hook)
