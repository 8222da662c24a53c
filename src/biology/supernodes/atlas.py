"""The atlas of a model: for every feature of its transcoders, the prompts that activate it and the tokens that it
promotes.

The prompts are a sample, evenly spread, of the model's own held-out prompts, if it has any, and of those of its cases.
A feature's tokens are those whose logits its decoders raise or lower most; its prompts are those on which it is most
active. Nothing was chosen by its effect in a graph.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import json

import numpy as np
import pandas as pd
from jaxtyping import Int

from biology.models.model import Model, encode, token_text
from biology.supernodes.promotion import promoted_and_suppressed
from biology.tables import table
from biology.transcoders.activations import FeatureCache, cache_features
from biology.transcoders.transcoder_set import TranscoderSet

PER_SOURCE, PER_SOURCE_OF_LARGE = 800, 100
"""Largest number of prompts from one behaviour or case; for a large model, the second."""
EXAMPLES, TOKENS, BINS, SHADES = 6, 10, 16, 9


def sample(prompts: pd.DataFrame, most: int = PER_SOURCE) -> pd.DataFrame:
    """Up to `most` prompts of each source, evenly spread over their order, without repeated texts. Columns: source,
    text."""
    prompts = prompts.drop_duplicates("text", ignore_index=True)
    parts = []
    for _, rows in prompts.groupby("source", sort=True):
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
        parts.append(rows.iloc[chosen])
    return pd.concat(parts, ignore_index=True)


def feature_atlas(model: Model, transcoders: TranscoderSet, prompts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `atlas` (one row per feature) and `atlas_prompts` (one row per prompt), from prompts with columns source
    and text."""
    ids = [encode(model, text) for text in prompts["text"]]
    cache = cache_features(model, transcoders, ids, progress=True)
    rows = _features(model, transcoders, cache)
    texts = [
        {"prompt": place, "source": source, "tokens": json.dumps([token_text(model, t) for t in tokens], ensure_ascii=False)}
        for place, (source, tokens) in enumerate(zip(prompts["source"], ids, strict=True))
    ]  # fmt: skip
    return table("atlas", rows), table("atlas_prompts", texts)


def _features(model: Model, transcoders: TranscoderSet, cache: FeatureCache) -> list[dict[str, object]]:
    width, lengths = max(transcoders.n_features), cache.lengths.numpy()
    active = pd.DataFrame(
        {
            "key": cache.layer.numpy().astype(np.int64) * width + cache.feature.numpy(),
            "prompt": np.repeat(np.arange(len(lengths)), cache.offsets.diff().numpy()),
            "pos": cache.pos.numpy(),
            "value": cache.value.double().numpy(),
        }
    )
    largest = active.groupby("key")["value"].max()
    active["share"] = active["value"] / active["key"].map(largest)
    count = active.groupby("key").size()
    bins = np.minimum((active["share"] * BINS).astype(int), BINS - 1)
    histogram = pd.crosstab(active["key"], bins).reindex(columns=range(BINS), fill_value=0)
    examples = _examples(active, lengths)
    up, down = promoted_and_suppressed(model, transcoders, TOKENS)
    rows: list[dict[str, object]] = []
    for layer, n_features in enumerate(transcoders.n_features):
        for feature in range(n_features):
            key = layer * width + feature
            alive = key in count.index
            words = [[token_text(model, int(t)) for t in found[layer][feature]] for found in (up, down)]
            rows.append(
                {
                    "layer": layer, "feature": feature, "density": float(count[key] / lengths.sum()) if alive else 0.0,
                    "maximum": float(largest[key]) if alive else 0.0,
                    "raises": json.dumps(words[0], ensure_ascii=False),
                    "lowers": json.dumps(words[1], ensure_ascii=False),
                    "histogram": " ".join(map(str, histogram.loc[key])) if alive else "",
                    "examples": json.dumps(examples.get(key, [])),
                }
            )  # fmt: skip
    return rows


def _examples(active: pd.DataFrame, lengths: Int[np.ndarray, " prompt"]) -> dict[int, list[tuple[int, str]]]:
    """For each feature, the prompts on which it is most active: the prompt, and one digit per token (its share of the
    largest activation)."""
    best = active.groupby(["key", "prompt"], as_index=False)["value"].max()
    best = best.sort_values(["key", "value", "prompt"], ascending=[True, False, True], kind="stable")
    best = best[best.groupby("key").cumcount() < EXAMPLES][["key", "prompt"]].assign(rank=lambda f: range(len(f)))
    shown = best.merge(active, on=["key", "prompt"])
    shade = np.ceil(shown["share"] * SHADES).astype(int)
    digits = {int(r): ["0"] * int(lengths[p]) for r, p in zip(best["rank"], best["prompt"], strict=True)}
    for rank, pos, value in zip(shown["rank"], shown["pos"], shade, strict=True):
        digits[rank][pos] = str(value)
    found: dict[int, list[tuple[int, str]]] = {}
    for key, prompt, rank in best[["key", "prompt", "rank"]].itertuples(index=False):
        found.setdefault(int(key), []).append((int(prompt), "".join(digits[int(rank)])))
    return found
