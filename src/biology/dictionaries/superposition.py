"""More features than dimensions: a toy model stores sparse features as directions, and a dictionary recovers them.

The toy model of superposition writes n sparse features into d dimensions, h = x W, and reads them back, x' = ReLU(h W^T + b). It
learns to keep more features than there are dimensions, each as a direction. These directions are known, so that one can count how
many of them a dictionary finds that is trained on h alone, as transcoders are. The controls are as many random directions, and the
principal components of h, the best that d orthogonal directions can do.

Source: Elhage et al., *Toy Models of Superposition* (2022).
"""

# pyright: reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from biology.dictionaries.dictionary_training import DictionaryRecipe, LayerTraining
from biology.tables import table

WIDTH = 16
PER_DIMENSION = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SEEDS = 3
ACTIVE = 2.0
"""Mean number of features present in a sample."""
STEPS, BATCH = 2000, 1024
SAMPLES = 32_768
"""Number of samples on which the dictionary is trained."""
KEPT = 0.5
"""The toy model keeps a feature if its direction is longer than this: it is then read back at a quarter of its size or more."""
FOUND = 0.9
"""Smallest cosine between a direction and a feature's own at which the direction has found the feature."""


@dataclass(frozen=True, eq=False)
class Organism:
    """W [feature, d] and b [feature] of a trained toy model."""

    weight: Float[Tensor, "feature d_model"]
    bias: Float[Tensor, " feature"]


def drawn(n_features: int, samples: int, generator: torch.Generator) -> Float[Tensor, "sample feature"]:
    """Samples of sparse features. Each is present independently with the same probability, with a value between 0 and 1."""
    there = torch.rand(samples, n_features, generator=generator) < ACTIVE / n_features
    return there * torch.rand(samples, n_features, generator=generator)


def grow(n_features: int, seed: int, width: int = WIDTH, steps: int = STEPS) -> Organism:
    """A toy model trained to reproduce its input."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(n_features, width, generator=generator) / width**0.5).requires_grad_(True)
    bias = torch.zeros(n_features, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=1e-2)
    with torch.enable_grad():
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (1 - step / steps))
            shown = drawn(n_features, BATCH, generator)
            loss = ((shown @ weight @ weight.T + bias).relu() - shown).square().sum(1).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    return Organism(weight.detach(), bias.detach())


def dictionary(stream: Float[Tensor, "sample d_model"], n_features: int, seed: int) -> Float[Tensor, "feature d_model"]:
    """Decoders, of unit length, of a dictionary trained on a stream."""
    recipe = DictionaryRecipe(n_features=n_features, k=round(ACTIVE) + 1, steps=STEPS, batch=BATCH, answering=0.0)
    with torch.enable_grad():
        training = LayerTraining(stream, stream, recipe, seed)
        training.advance(stream, stream, None, recipe.steps, tqdm(disable=True))
    return training.made()["W_dec"]


def found(planted: Float[Tensor, "feature d_model"], directions: Float[Tensor, "direction d_model"]) -> int:
    """Number of planted directions that some direction matches, whatever its length; a direction matches at most one."""
    cosine = torch.nn.functional.normalize(planted, dim=1) @ torch.nn.functional.normalize(directions, dim=1).T
    taken, count = torch.zeros(len(directions), dtype=torch.bool), 0
    for row in cosine[cosine.amax(1).argsort(descending=True)]:
        best = int(torch.where(taken, -1.0, row).argmax())
        if row[best] >= FOUND and not taken[best]:
            taken[best], count = True, count + 1
    return count


def superposition() -> pd.DataFrame:
    """Table `superposition`: for every number of features and seed, how many are planted and kept, and how many the dictionary and
    the controls find."""
    rows = []
    runs = [(per_dimension, seed) for per_dimension in PER_DIMENSION for seed in range(SEEDS)]
    for per_dimension, seed in tqdm(runs, desc="toys with more features than dimensions", mininterval=5):
        n = round(per_dimension * WIDTH)
        organism = grow(n, seed)
        kept = organism.weight[organism.weight.norm(dim=1) > KEPT]
        generator = torch.Generator().manual_seed(1000 + seed)
        stream = drawn(n, SAMPLES, generator) @ organism.weight
        random = torch.randn(2 * n, WIDTH, generator=generator)
        components = torch.linalg.svd(stream - stream.mean(0), full_matrices=False).Vh
        rows.append(
            {
                "features": n, "dimensions": WIDTH, "seed": seed, "kept": len(kept), "found": found(kept, dictionary(stream, 2 * n, seed)),
                "found_random": found(kept, random), "found_components": found(kept, torch.cat([components, -components])),
            }
        )  # fmt: skip
    return table("superposition", rows)
