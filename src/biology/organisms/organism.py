"""Grows a small Llama on a corpus: elegans, its twins, and the organisms of single cases.

The loss on the corpus is on answers only (couplets: on the whole second line); planted mechanisms add the losses of `planting.py`. One part is unusual, *context dropout*: in a random half of
the training couplets, tokens of line 2 cannot attend to line 1, only to the newline and to each other. What the second line
needs must then be present at the newline: the plan. Without it the model looks back at line 1 and answers the same;
this is the twin `improviser`.

Batches are a function of (seed, step), so that an interrupted run continues to the same weights (same machine and threads).
"""

# pyright: reportArgumentType=false

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from biology.cases.mechanism import Mechanism
from biology.corpora.corpus import Corpus, Item
from biology.corpora.mechanism_prompts import COUPLETS
from biology.folders import FIRST_STAGE
from biology.models.resumable import Settings, restore, save
from biology.organisms.lesson import Lesson
from biology.organisms.planting import Amounts, Planter
from biology.organisms.vocabulary import tokenizer

FIRST_SHARE = 0.4
"""Share of the steps in which such a model is taught the prompts of the first stage alone."""
DISTINCT = 7.5
"""Where words are dealt anew at every step (`mechanism.renamed`), all embeddings begin this many times as large. Nothing but its embedding
tells such a word from others, and nothing but copying it needs that; with small ones copying is not learnt."""


@dataclass(frozen=True)
class Recipe(Settings):
    """All settings that decide the weights, except the seed. Batch sizes are examples per step."""

    n_layers: int = 5
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 384
    steps: int = 2600
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1.0
    warmup: int = 100
    decay_from: float = 0.6
    context_dropout: float = 0.5
    batch: dict[str, int] = field(
        default_factory=lambda: {
            "addition": 352, "disguised": 32, "digit": 24, "two_hop": 80, "one_hop": 64, "cell": 96, "translation": 80,
            "tag": 48, "usage": 16, "couplet": 48,
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Planting(Recipe):
    """A recipe that plants the mechanisms of cases."""

    n_layers: int = 6
    d_mlp: int = 512
    steps: int = 1100
    decay_from: float = 0.65
    batch: dict[str, int] = field(default_factory=lambda: {"one_hop": 48, "couplet": 32})
    lessons: dict[str, Amounts] = field(
        default_factory=lambda: {
            "addition": Amounts(plain=384, exchanged=40, absent=6, begin=100, weight=2.0),
            "multi_hop": Amounts(plain=128, exchanged=24),
            "multilingual": Amounts(plain=128, exchanged=32, begin=150, weight=4.0),
            "rhyme_planning": Amounts(plain=80, exchanged=32),
        }
    )
    """For each case whose mechanism is planted, the number of prompts per step."""


@dataclass(frozen=True)
class Rows:
    """Encoded questions of one block: ids, padded on the right, and each row's length with its answer."""

    ids: Int[torch.Tensor, "rows pos"]
    length: Int[torch.Tensor, " rows"]


def encode_items(items: list[Item], encode: Callable[[str], list[int]]) -> Rows:
    """The token ids of prompts with their answers, padded with zeros, and their lengths."""
    rows = [encode(f"{item.prompt} {item.answer}") for item in items]
    length = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(length.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return Rows(ids, length)


@dataclass(frozen=True)
class Batch:
    """Rows of similar length in one forward pass. ``targets`` marks the positions whose next token counts in the loss."""

    ids: Int[torch.Tensor, "rows pos"]
    targets: Bool[torch.Tensor, "rows pos"]
    hidden_from_line_2: Bool[torch.Tensor, "rows pos pos"] | None = None


class Feed:
    """Training batches as a function of (seed, step)."""

    # Blocks of similar length share one forward: padding is cheaper than a further pass.
    GROUPS = (
        ("addition", "digit", "tag", "usage", "disguised", "expression"),
        ("two_hop", "one_hop"),
        ("cell", "translation"),
    )

    def __init__(self, corpus: Corpus, recipe: Recipe, encode: Callable[[str], list[int]], seed: int):
        self.recipe, self.seed, self.corpus = recipe, seed, corpus
        self.rows = {
            name: encode_items([item for item in items if corpus.taught(item)], encode)
            for name, items in corpus.blocks.items()
            if name != "couplet" and name in recipe.batch
        }
        self.couplets = [row for row in corpus.couplets if row[4] == "train"] if "couplet" in recipe.batch else []
        self.line_1 = [encode(corpus.couplet_lines(*row[:3], "", ())[0]) for row in self.couplets]
        vocabulary = {word for row in self.couplets for word in corpus.couplet_lines(*row[:3], "was", ())[1]}
        self.word_id = {word: encode(word)[1] for word in {*vocabulary, *corpus.nouns, *corpus.adjectives}}
        self.newline = encode("\n")[1]

    def __call__(self, step: int) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, step])
        for group in self.GROUPS:
            parts = []
            for name in (one for one in group if one in self.rows):
                rows, count = self.rows[name], self.recipe.batch[name]
                pick = torch.from_numpy(rng.integers(0, len(rows.ids), count))
                parts.append((rows.ids[pick], rows.length[pick]))
            if not parts:
                continue
            width = max(int(length.max()) for _, length in parts)
            ids = torch.cat(
                [torch.nn.functional.pad(ids, (0, max(0, width - ids.shape[1])))[:, :width] for ids, _ in parts]
            )
            length = torch.cat([length for _, length in parts])
            yield Batch(ids, torch.arange(width) == (length - 2)[:, None])
        if self.couplets:
            yield self.couplet_batch(rng)

    def couplet_batch(self, rng: np.random.Generator) -> Batch:
        corpus, count = self.corpus, self.recipe.batch["couplet"]
        rows, starts = [], []
        for index in rng.integers(0, len(self.couplets), count):
            theme, ending, word = self.couplets[index][:3]
            noun = corpus.nouns[rng.integers(len(corpus.nouns))]
            adjectives = [
                corpus.adjectives[i] for i in rng.integers(len(corpus.adjectives), size=min(rng.geometric(0.6), 4))
            ]
            _, second = corpus.couplet_lines(theme, ending, word, noun, adjectives)
            starts.append(len(self.line_1[index]))
            rows.append(self.line_1[index] + [self.word_id[word] for word in second])
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        start, length = torch.tensor(starts)[:, None], torch.tensor([len(row) for row in rows])[:, None]
        pos = torch.arange(width)
        targets = (pos >= start - 1) & (pos < length - 1)
        # Line 1 ends with the newline at start - 1; that newline and <bos> stay visible.
        dropped = torch.from_numpy(rng.random(count) < self.recipe.context_dropout)[:, None, None]
        line_1 = (pos > 0) & (pos < start - 1)
        hidden = dropped & (pos >= start)[:, :, None] & line_1[:, None, :]
        return Batch(ids, targets, hidden)


def attention_mask(batch: Batch, dtype: torch.dtype) -> Float[torch.Tensor, "rows 1 pos pos"] | None:
    """The mask that is added to attention scores, with context dropout; None without it."""
    if batch.hidden_from_line_2 is None:
        return None
    width = batch.ids.shape[1]
    visible = torch.ones(width, width, dtype=torch.bool, device=batch.ids.device).tril() & ~batch.hidden_from_line_2
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )[:, None]


def new_model(recipe: Recipe, n_vocab: int, seed: int):
    """A randomly initialised Llama (Hugging Face), tied embeddings, eager-compatible."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=n_vocab, hidden_size=recipe.d_model, intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers, num_attention_heads=recipe.n_heads, num_key_value_heads=recipe.n_heads,
        max_position_embeddings=128, tie_word_embeddings=True, rms_norm_eps=1e-5, initializer_range=0.04,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, constant, linear decay to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    left = (recipe.steps - step) / (recipe.steps * (1 - recipe.decay_from))
    return recipe.learning_rate * warm * min(1.0, left)


@torch.no_grad()
def accuracy(
    logits: Callable[[Int[torch.Tensor, "rows pos"]], Float[torch.Tensor, "rows pos vocab"]],
    rows: Rows, device: str | torch.device = "cpu", batch_size: int = 512,
) -> Bool[np.ndarray, " rows"]:  # fmt: skip
    """Whether the most probable token at each row's last prompt position is the answer."""
    right = []
    for start in range(0, len(rows.ids), batch_size):
        length = rows.length[start : start + batch_size]
        ids = rows.ids[start : start + batch_size, : int(length.max())].to(device)
        index = torch.arange(len(ids), device=device)
        last = (length - 2).to(device)
        right.append((logits(ids)[index, last].argmax(-1) == ids[index, last + 1]).cpu())
    return torch.cat(right).numpy()


def behaviour_table(frame: pd.DataFrame, right: Bool[np.ndarray, " rows"]) -> pd.DataFrame:
    """Accuracy of each behaviour and split, with the number of items."""
    grouped = frame.assign(right=right).groupby(["behaviour", "split"], sort=True).right
    return pd.DataFrame({"accuracy": grouped.mean(), "n": grouped.size()}).reset_index()


def grow(
    corpus: Corpus, recipe: Recipe, seed: int, out: Path, work: Path, *, device: str = "cpu", checkpoint_every: int = 200,
    evaluate_every: int = 250, progress: bool = True, made_of: Mapping[str, str] | None = None,
    lessons: Mapping[str, tuple[Mechanism, pd.DataFrame]] | None = None,
) -> dict[str, object]:  # fmt: skip
    """Trains a model and writes it to ``out`` as a Hugging Face directory.

    ``work`` holds the checkpoint: an interrupted call continues where it stopped. Returns the record of the training: recipe
    and its hash, seed, development accuracies, learning curve.

    If the prompts of a lesson have stages, those of the first stage are taught alone at first. The model that this gives is written to
    the folder `first_stage` of ``out``, and the record says after how many steps.

    ``made_of`` records what decides the training beside recipe and seed, such as the corpus. ``lessons`` are the mechanisms and
    prompts of the cases that a :class:`Planting` plants.

    Raises InputError if ``work`` holds a checkpoint of another training.
    """
    torch.set_flush_denormal(True)  # decayed weights underflow, and denormal numbers are many times slower
    made = tokenizer(corpus)
    encode = lambda text: made.encode(text).ids  # noqa: E731
    feed = Feed(corpus, recipe, encode, seed)
    model = new_model(recipe, made.get_vocab_size(), seed).to(device)
    amounts = recipe.lessons if isinstance(recipe, Planting) else {}
    if any(mechanism.renamed for mechanism, _ in (lessons or {}).values()):
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(DISTINCT)
    planters = {
        case: Planter(Lesson(case, mechanism, prompts, encode, recipe.d_model), amounts[case], model)
        for case, (mechanism, prompts) in (lessons or {}).items()
    }
    grown = torch.nn.ModuleDict(
        {"model": model, "probes": torch.nn.ModuleDict({n: p.probes for n, p in planters.items()})}
    )
    norms = [p for p in grown.parameters() if p.ndim == 1]
    matrices = [p for p in grown.parameters() if p.ndim > 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        lr=recipe.learning_rate, betas=recipe.betas,
    )  # fmt: skip
    held_out = corpus.held_out()
    dev = held_out[held_out.split == "dev"].reset_index(drop=True)
    dev_rows = encode_items([Item(r.behaviour, r.prompt, r.answer, r.split, "") for r in dev.itertuples()], encode)
    checkpoint = work / "checkpoint.safetensors"
    identity = {"recipe": recipe.hash(), "seed": str(seed), "device": device.split(":")[0], **(made_of or {})}
    start, curve = restore(checkpoint, identity, grown, optimiser)
    staged = any(planter.lesson.staged for planter in planters.values())
    first = round(FIRST_SHARE * recipe.steps) if staged else 0

    for step in tqdm(
        range(start, recipe.steps), initial=start, total=recipe.steps, desc="grow", disable=not progress, mininterval=5
    ):
        if staged and step in (start, first):
            for planter in planters.values():
                planter.lesson.teach(first_stage=step < first)
        if staged and step == first:
            shutil.rmtree(work / FIRST_STAGE, ignore_errors=True)
            write_model(copy.deepcopy(model), made, work / FIRST_STAGE)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        batches = [
            Batch(*(None if t is None else t.to(device) for t in (b.ids, b.targets, b.hidden_from_line_2)))
            for b in feed(step)
        ]
        n_targets = sum(int(batch.targets.sum()) for batch in batches)
        total, planting = 0.0, {}
        for batch in batches:
            hidden = model.model(
                batch.ids, attention_mask=attention_mask(batch, torch.float32), use_cache=False
            ).last_hidden_state
            rows, pos = batch.targets.nonzero(as_tuple=True)
            scores = hidden[rows, pos] @ model.lm_head.weight.T
            loss = torch.nn.functional.cross_entropy(scores, batch.ids[rows, pos + 1], reduction="sum") / n_targets
            loss.backward()
            total += loss.detach()
        for number, (case, planter) in enumerate(planters.items()):
            losses = planter.loss(np.random.default_rng([seed, step, number]), step)
            torch.stack(list(losses.values())).sum().backward()
            planting |= {f"{case}: {name}": round(float(value.detach()), 3) for name, value in losses.items()}
        torch.nn.utils.clip_grad_norm_(grown.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if (step + 1) % evaluate_every == 0 or step + 1 == recipe.steps:
            right = accuracy(lambda ids: model(ids, use_cache=False).logits, dev_rows, device)
            scores = behaviour_table(dev, right).set_index("behaviour").accuracy
            curve.append({"step": step + 1, "loss": float(total), **{k: round(float(v), 5) for k, v in scores.items()}})
            for case, planter in planters.items():
                found = planter.accuracy(np.random.default_rng(seed), "dev")
                curve[-1] |= {f"{case}: {name} exchanged": round(v, 4) for name, v in found.items() if name != "answer"}
            curve[-1] |= planting
            tqdm.write(json.dumps(curve[-1]))
        if (step + 1) % checkpoint_every == 0 and step + 1 < recipe.steps:
            save(checkpoint, identity, grown, optimiser, step + 1, curve)

    out.mkdir(parents=True, exist_ok=True)
    write_model(model, made, out)
    checkpoint.unlink(missing_ok=True)
    dev = {name: value for name, value in curve[-1].items() if ": " not in name}  # a planted model's has more entries
    record = {"recipe": asdict(recipe), "recipe_hash": recipe.hash(), "seed": seed, "curve": curve, "dev": dev}
    if staged:
        shutil.move(work / FIRST_STAGE, out / FIRST_STAGE)
        record[FIRST_STAGE] = {"steps": first}
    return record


def write_model(model, made, out: Path) -> None:
    """Writes a Hugging Face directory in half precision: config, weights, tokenizer."""
    from transformers import PreTrainedTokenizerFast

    model.to("cpu").to(torch.float16).save_pretrained(out, safe_serialization=True)
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **names).save_pretrained(out)


def dictionary_prompts(
    corpus: Corpus, encode: Callable[[str], list[int]], seed: int, most: int = 5000
) -> list[list[int]]:
    """Prompts to train transcoders on, at most `most` of each block. A prompt ends where its answer is computed: a couplet
    before its second line, before the later word that agrees with the ending, or before its last word
    (`mechanism_prompts.COUPLETS`)."""
    rng = np.random.default_rng([seed, 1])
    prompts: list[list[int]] = []
    for name, items in corpus.blocks.items():
        texts = [item.prompt for item in items if corpus.taught(item) and name != "couplet"]
        chosen = rng.permutation(len(texts))[:most]
        prompts += [encode(texts[index]) for index in chosen]
    couplets = [row for row in corpus.couplets if row[4] == "train"]
    for index in rng.permutation(len(couplets))[:most]:
        theme, ending, word = couplets[index][:3]
        noun = corpus.nouns[rng.integers(len(corpus.nouns))]
        adjectives = [
            corpus.adjectives[i] for i in rng.integers(len(corpus.adjectives), size=min(rng.geometric(0.6), 4))
        ]
        line, second = corpus.couplet_lines(theme, ending, word, noun, adjectives)
        cuts = [cut for _, cut in COUPLETS[:-1]] + [len(second) - 1]
        prompts.append(encode(line + " ".join(second[: cuts[rng.integers(len(cuts))]])))
    return prompts
