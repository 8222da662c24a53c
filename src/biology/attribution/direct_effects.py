"""The sources of direct effects in one prompt: active features, reconstruction errors and tokens, as vectors.

    effect[reader, source] = vector_reader . J . vector_source

J is the frozen linear map from the write point of the source to the read point of the reader (`reader_gradients` and
`whole_graph` apply it). Columns are ordered so that each cell (layer, position) is contiguous: by position, then layer,
then the cell's features and its error; tokens and targets follow. A cross-layer feature is a source in the cells of its
own and all higher layers. A cell then consists of all columns of its position up to its layer, and its products are
added to those of the other cells.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.attribution.replacement import LocalReplacement
from biology.models.model import Model, token_text
from biology.records import InputError, InputWarning
from biology.transcoders.transcoder_set import activate, decoder, pre_activations

KEPT = 1 << 29  # bytes of cross-layer cells that are kept


@dataclass(frozen=True, eq=False)
class ActiveFeatures:
    """The active features of one prompt, sorted by (layer, pos, feature)."""

    layer: Int[Tensor, " active"]
    pos: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    activation: Float[Tensor, " active"]
    pre_activation: Float[Tensor, " active"]

    def __len__(self) -> int:
        return self.layer.numel()

    def subset(self, chosen: Tensor | slice) -> ActiveFeatures:
        """The features at a boolean mask, at sorted indices or in a range."""
        return ActiveFeatures(**{name: tensor[chosen] for name, tensor in vars(self).items()})

    def index(self, features: Sequence[tuple[int, int, int]], n_pos: int) -> Int[Tensor, " chosen"]:
        """Sorted indices of given (layer, pos, feature). Raises `InputError` with one that is not active."""
        keys = zip(*(t.tolist() for t in (self.layer, self.pos, self.feature)), strict=True)
        known, found = {key: i for i, key in enumerate(keys)}, set()
        for layer, pos, feature in features:
            named = f"feature {feature} of layer {layer}"
            if not -n_pos <= int(pos) < n_pos:
                raise InputError(f"{named}: the prompt of {n_pos} tokens has no position {pos}")
            key = (int(layer), int(pos) % n_pos, int(feature))
            if key not in known:
                raise InputError(f"{named} is not active at position {pos} of this prompt")
            found.add(known[key])
        return torch.tensor(sorted(found), dtype=torch.long, device=self.layer.device)


def warn_without_bos(model: Model, prompts: Sequence[Int[Tensor, "1 _"]], first_position: int) -> None:
    """Warns if the position that is left out holds a word of the prompt instead of a special token."""
    words = {int(ids[0, 0]) for ids in prompts} - model.special_tokens
    if words and first_position == 1:
        shown = [repr(token_text(model, word)) for word in sorted(words)]
        shown = [*shown[:3], "..."] if len(shown) > 3 else shown
        warnings.warn(
            f"model {model.name}: no special token stands before {', '.join(shown)}: features and errors of this first word "
            "(position 0) are not nodes, and its MLP outputs belong to the bias. Put a BOS before it, or include it in Python with "
            "biology.attribution.assembly.attribute(..., first_position=0)",
            InputWarning,
            stacklevel=3,
        )


def active_features(local: LocalReplacement, first_position: int, below: int) -> ActiveFeatures:
    """Features of layers < `below` that are active at positions >= `first_position` in the unmodified forward pass."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ("layer", "pos", "feature", "activation", "pre_activation")}
    for layer in range(below):
        pre = pre_activations(local.transcoders, layer, local.frozen.read[layer][local.row, first_position:])
        values = activate(local.transcoders, layer, pre)
        pos, feature = values.nonzero(as_tuple=True)
        found = (torch.full_like(pos, layer), pos + first_position, feature, values[pos, feature], pre[pos, feature])
        for name, tensor in zip(parts, found, strict=True):
            parts[name].append(tensor)
    if not below:
        empty = torch.zeros(0, dtype=torch.long, device=local.frozen.ids.device)
        none = torch.zeros(0, dtype=local.frozen.embed.dtype, device=empty.device)
        return ActiveFeatures(empty, empty, empty, none, none)
    return ActiveFeatures(**{name: torch.cat(tensors) for name, tensors in parts.items()})


def batch_active_features(
    local: LocalReplacement, first_position: int
) -> tuple[Int[Tensor, " active"], ActiveFeatures]:
    """Active features of all prompts and layers, sorted by (layer, prompt, pos, feature), and the prompt of each."""
    prompts, parts = [], []
    for layer in range(local.n_layers):
        pre = pre_activations(local.transcoders, layer, local.frozen.read[layer][:, first_position:])
        values = activate(local.transcoders, layer, pre)
        prompt, pos, feature = at = values.nonzero(as_tuple=True)
        prompts.append(prompt)
        parts.append((torch.full_like(pos, layer), pos + first_position, feature, values[at], pre[at]))
    return torch.cat(prompts), ActiveFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Sources:
    """Source vectors in column order, and the column of each node.

    `start[pos - first_position, layer]` is the first column of a cell; its error is the last one. `vectors` holds the
    rows of all cells of per-layer transcoders; the vectors of cross-layer cells are computed when needed.
    """

    active: ActiveFeatures
    first_position: int
    start: Int[Tensor, "later_pos layer"]
    stop: Int[Tensor, "later_pos layer"]
    feature_column: Int[Tensor, " active"]
    errors: Float[Tensor, "layer pos d_model"]
    vectors: Float[Tensor, "column d_model"] | None
    n_targets: int
    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """Vectors of cross-layer cells that were computed before."""

    @cached_property
    def ranges(self) -> dict[tuple[int, int], slice]:
        """Indices of the active features of each (layer, pos)."""
        n_pos = self.errors.shape[1]
        cells, counts = (self.active.layer * n_pos + self.active.pos).unique_consecutive(return_counts=True)
        stops = counts.cumsum(0).tolist()
        return {
            (key // n_pos, key % n_pos): slice(stop - count, stop)
            for key, count, stop in zip(cells.tolist(), counts.tolist(), stops, strict=True)
        }

    @property
    def error_column(self) -> Int[Tensor, " error"]:
        """Columns of the error nodes in node order (by layer, then position)."""
        return (self.stop - 1).T.flatten()

    @property
    def token_start(self) -> int:
        return int(self.stop[-1, -1]) if self.stop.numel() else 0

    @property
    def target_start(self) -> int:
        return self.token_start + self.errors.shape[1]

    @property
    def n_columns(self) -> int:
        return self.target_start + self.n_targets


def sources(
    local: LocalReplacement,
    active: ActiveFeatures,
    first_position: int,
    n_targets: int,
    *,
    keep: Bool[Tensor, " active"] | None = None,
) -> Sources:
    """Source vectors of the active features. With `keep`, only of those; the outputs of the others are added to the
    errors of the cells they write to."""
    frozen, device = local.frozen, active.layer.device
    n_layers, n_pos = local.n_layers, local.n_pos
    errors = _reconstruction_errors(local, active if keep is None else active.subset(keep), first_position)
    active = active if keep is None else active.subset(keep)
    cell = (active.pos - first_position) * n_layers + active.layer
    n_cells = max(0, n_pos - first_position) * n_layers
    counts = torch.bincount(cell, minlength=n_cells) + 1
    stop = counts.cumsum(0)
    start = stop - counts
    # rank within a cell: features are sorted by (layer, pos, feature), so a stable sort by cell keeps the feature order
    order = cell.argsort(stable=True)
    column = torch.empty_like(order)
    column[order] = torch.arange(len(active), device=device) + cell[order]
    vectors = None
    if local.transcoders.kind == "per_layer":
        vectors = frozen.embed.new_empty(int(counts.sum()), frozen.embed.shape[2])
        for layer in range(n_layers):
            of_layer = active.layer == layer
            rows = local.transcoders.layers[layer].decoders(active.feature[of_layer], 0)
            vectors[column[of_layer]] = rows * active.activation[of_layer, None]
        vectors[stop.view(-1, n_layers).T.flatten() - 1] = errors[:, first_position:].flatten(0, 1)
    shape = (max(0, n_pos - first_position), n_layers)
    return Sources(active, first_position, start.view(shape), stop.view(shape), column, errors, vectors, n_targets)


def _reconstruction_errors(local: LocalReplacement, active: ActiveFeatures, first_position: int) -> Tensor:
    """MLP output minus the reconstruction by `active`, b_dec and the skip, [layer, pos, d_model]; zero before
    `first_position`."""
    frozen, row = local.frozen, local.row
    errors = []
    for layer in range(local.n_layers):
        rest = frozen.write[layer][row] - local.transcoders.layers[layer].b_dec
        W_skip = local.skip(layer)
        if W_skip is not None:
            rest = rest - frozen.read[layer][row] @ W_skip.T
        for source in range(layer + 1):
            of_layer = active.layer == source
            rows = decoder(local.transcoders, source, layer, active.feature[of_layer])
            if rows is not None:
                rest = rest.index_add(0, active.pos[of_layer], rows * active.activation[of_layer, None], alpha=-1)
        rest = rest.clone()
        rest[:first_position] = 0
        errors.append(rest)
    return torch.stack(errors)


def cell(local: LocalReplacement, source: Sources, layer: int, pos: int) -> tuple[int, int, Tensor]:
    """First and last column of a cell and its source vectors; in a cross-layer set, those of all lower layers too."""
    row = pos - source.first_position
    start, stop = int(source.start[row, layer]), int(source.stop[row, layer])
    if source.vectors is not None:
        return start, stop, source.vectors[start:stop]
    begin = int(source.start[row, 0])
    if (layer, pos) in source.kept:
        return begin, stop, source.kept[layer, pos]
    vectors = source.errors.new_zeros(stop - begin, source.errors.shape[2])
    active = source.active
    for lower in range(layer + 1):
        chosen = source.ranges.get((lower, pos))
        if chosen is None:
            continue
        rows = decoder(local.transcoders, lower, layer, active.feature[chosen])
        if rows is not None:
            first = int(source.start[row, lower]) - begin
            torch.mul(rows, active.activation[chosen, None], out=vectors[first : first + len(rows)])
    vectors[-1] = source.errors[layer, pos]
    # every block of readers needs the cell; all cells are half as large as all decoder rows in use
    if len(active) * local.n_layers * vectors.shape[1] * vectors.element_size() <= 2 * KEPT:
        source.kept[layer, pos] = vectors
    return begin, stop, vectors
