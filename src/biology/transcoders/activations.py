"""Caches for many prompts: inputs and outputs of transcoders, active features, and the final logits, computed in
batches.

Prompts of equal length share a forward pass. Results are in the order of the prompts, whatever the batches, and the
same prompts with the same batch size give the same numbers. A cache packs into plain tensors for safetensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.models.model import Model, run, token_batch
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet, encode


@dataclass(frozen=True, eq=False)
class DenseCache:
    """The tensors at the transcoders' two hooks, with the tokens of all prompts in one sequence.

    Prompt i has the tokens `offsets[i]` to `offsets[i + 1]`; `logits` are those of its last position.
    """

    offsets: Int[Tensor, " prompts_and_end"]
    ids: Int[Tensor, " token"]
    read: Float[Tensor, "layer token d_model"]
    write: Float[Tensor, "layer token d_model"]
    logits: Float[Tensor, "prompt vocab"]

    def prompt(self, index: int) -> slice:
        """The slice of one prompt's tokens."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Active features of many prompts, sorted by (prompt, layer, pos, feature), and the logits of the last position.

    Prompt i has the entries `offsets[i]` to `offsets[i + 1]` and `lengths[i]` tokens; `ids` holds the tokens of all prompts
    in one sequence. `shape` is (prompts, layers, positions of the longest prompt, features of the widest layer).
    """

    offsets: Int[Tensor, " prompts_and_end"]
    lengths: Int[Tensor, " prompt"]
    ids: Int[Tensor, " token"]
    layer: Int[Tensor, " active"]
    pos: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    logits: Float[Tensor, "prompt vocab"]
    shape: Int[Tensor, "4"]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """The token ids of each prompt."""
        return [prompt.tolist() for prompt in self.ids.split(self.lengths.tolist())]

    @cached_property
    def _keys(self) -> Int[Tensor, " active"]:
        """One number for each entry, ascending, so that a lookup is a binary search."""
        prompt = torch.repeat_interleave(torch.arange(len(self.lengths)), self.offsets.diff())
        return self._key(prompt, self.layer, self.pos, self.feature)

    def _key(self, prompt: Tensor, layer: Tensor, pos: Tensor, feature: Tensor | int) -> Tensor:
        _, layers, positions, features = self.shape.tolist()
        return ((prompt.long() * layers + layer.long()) * positions + pos.long()) * features + feature

    def at(
        self, prompt: Int[Tensor, " site"], layer: Int[Tensor, " site"], pos: Int[Tensor, " site"],
        feature: Int[Tensor, " site"],
    ) -> Float[Tensor, " site"]:  # fmt: skip
        """Activations at the given sites; zero where the feature is not active."""
        wanted = self._key(prompt, layer, pos, feature.long())
        if not len(self.value):
            return torch.zeros(len(wanted), dtype=self.value.dtype)
        place = torch.searchsorted(self._keys, wanted).clamp(max=len(self.value) - 1)
        return torch.where(self._keys[place] == wanted, self.value[place], 0.0)

    def cell(self, prompt: int, layer: int, pos: int) -> tuple[Int[Tensor, " active"], Float[Tensor, " active"]]:
        """Active features and their activations at one layer and position of one prompt."""
        _, layers, positions, features = self.shape.tolist()
        start = ((prompt * layers + layer) * positions + pos) * features
        chosen = slice(*torch.searchsorted(self._keys, torch.tensor([start, start + features])).tolist())
        return self.feature[chosen], self.value[chosen]


def row_batches(
    order: Int[Tensor, " chosen"], lengths: Int[Tensor, " row"], batch_size: int
) -> Iterator[Int[Tensor, " batch"]]:
    """Some rows in the given order (sorted by length), cut into batches of equal length."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, found {batch_size}")
    _, counts = torch.unique_consecutive(lengths[order], return_counts=True)
    for group in order.split(counts.tolist()):
        yield from group.split(batch_size)


def length_batches(
    prompts: Sequence[Sequence[int]], batch_size: int
) -> Iterator[tuple[Int[Tensor, " row"], Int[Tensor, "row pos"]]]:
    """Batches of prompts of equal length, shortest first: their indices in the list and their token ids."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
    for places in row_batches(torch.argsort(lengths, stable=True), lengths, batch_size):
        yield places, torch.tensor([list(prompts[place]) for place in places.tolist()], dtype=torch.long)


def _forwards(
    model: Model, prompts: Sequence[Sequence[int]], hooks: Sequence[str], batch_size: int, progress: bool
) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """For each batch: prompt indices, the tensors at the hooks (named within a block), and the logits of the last
    position."""
    names = [f"blocks.{layer}.{hook}" for layer in range(model.n_layers) for hook in hooks]
    with tqdm(total=len(prompts), desc=f"{model.name}: prompts", disable=not progress, unit="prompt") as bar:
        for places, ids in length_batches(prompts, batch_size):
            logits, seen = run(model, token_batch(model, ids), reads=names, positions=-1)
            yield places, seen, logits[:, 0]
            bar.update(len(places))


def cache_dense(
    model: Model, prompts: Sequence[Sequence[int]], *, read_hook: str, write_hook: str, batch_size: int = 64,
    progress: bool = False,
) -> DenseCache:  # fmt: skip
    """The tensors at the two hooks of every block for every token, and the logits of the last position, on the CPU.

    Raises:
        InputError: an empty prompt, or one that does not fit the model.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    shape = (model.n_layers, int(offsets[-1]), model.d_model)
    read, write = (torch.zeros(shape, dtype=model.dtype) for _ in range(2))
    logits = torch.zeros(len(prompts), model.n_vocab, dtype=model.dtype)
    for places, seen, final in _forwards(model, prompts, (read_hook, write_hook), batch_size, progress):
        length = int(lengths[places[0]])
        tokens = (offsets[places][:, None] + torch.arange(length)).flatten()
        for layer in range(model.n_layers):
            read[layer, tokens] = seen[f"blocks.{layer}.{read_hook}"].flatten(0, 1).cpu()
            write[layer, tokens] = seen[f"blocks.{layer}.{write_hook}"].flatten(0, 1).cpu()
        logits[places] = final.cpu()
    return DenseCache(offsets, _in_sequence(prompts), read, write, logits)


def cache_features(
    model: Model, transcoders: TranscoderSet, prompts: Sequence[Sequence[int]], *, batch_size: int = 64,
    progress: bool = False,
) -> FeatureCache:  # fmt: skip
    """Every active feature of every prompt, and the logits of the last position, on the CPU.

    Raises:
        InputError: an empty prompt, or one that does not fit the model.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
    logits = torch.zeros(len(prompts), model.n_vocab, dtype=model.dtype)
    parts: list[tuple[Tensor, ...]] = []
    for places, seen, final in _forwards(model, prompts, (transcoders.read_hook,), batch_size, progress):
        for layer in range(model.n_layers):
            activations = encode(transcoders, layer, seen[f"blocks.{layer}.{transcoders.read_hook}"])
            row, pos, feature = activations.nonzero(as_tuple=True)
            value = activations[row, pos, feature].cpu()
            parts.append((places[row.cpu()], torch.full_like(row, layer).cpu(), pos.cpu(), feature.cpu(), value))
        logits[places] = final.cpu()
    empty = torch.zeros(0, dtype=torch.long)
    columns = (
        [torch.cat(column) for column in zip(*parts, strict=True)] if parts else [empty] * 4 + [logits.flatten()[:0]]
    )
    prompt, layer, pos, feature, value = columns
    shape = (len(prompts), model.n_layers, int(lengths.max()) if len(lengths) else 0, max(transcoders.n_features))
    order = torch.argsort(((prompt * shape[1] + layer) * shape[2] + pos) * shape[3] + feature)
    counts = torch.bincount(prompt, minlength=len(prompts))
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    layer, pos, feature = (column[order].to(torch.int32) for column in (layer, pos, feature))
    ids = _in_sequence(prompts)
    return FeatureCache(offsets, lengths, ids, layer, pos, feature, value[order], logits, torch.tensor(shape))


def _in_sequence(prompts: Sequence[Sequence[int]]) -> Int[Tensor, " token"]:
    return torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.long)


def pack(cache: DenseCache | FeatureCache) -> dict[str, Tensor]:
    """The cache as named tensors, ready for `safetensors.torch.save_file`."""
    return {entry.name: getattr(cache, entry.name).contiguous() for entry in fields(cache)}


def unpack(tensors: Mapping[str, Tensor]) -> DenseCache | FeatureCache:
    """The cache from which `pack` made these tensors.

    Raises:
        InputError: a tensor is missing.
    """
    kind = FeatureCache if "feature" in tensors else DenseCache
    missing = [entry.name for entry in fields(kind) if entry.name not in tensors]
    if missing:
        raise InputError(f"this is not a cache of activations: it has no {', '.join(missing)}")
    return kind(**{entry.name: tensors[entry.name] for entry in fields(kind)})
