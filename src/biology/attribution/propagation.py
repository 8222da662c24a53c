"""Applies the frozen linear map to many rows of many prompts: sources' vectors upwards, readers' gradients downwards.

Both directions take the same steps through attention, with transposed maps. Every row starts at one position and
spreads to the positions that it can reach: later ones on the way up, earlier ones on the way down. In its first
attention layer a row exists at one position only: the heads' outputs are computed there, and the pattern spreads them to
other positions.

The rows of one layer are sorted by where they start in every prompt, so that the rows present at a position are the first ones (on
the way up) or the last ones (on the way down). Prompts are padded with zero vectors to equal numbers of rows, at the
end that is reached last. Products with weights are then taken over all prompts at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attribution.replacement import LocalReplacement, read_gradient, read_vector, write_gradient, write_vector

SCRATCH = 16 << 20  # bytes of one array between the two products of an attention layer
SPREAD = 4 << 20  # bytes of the heads' outputs, before they are spread over places


@dataclass(frozen=True, eq=False)
class Rows:
    """Nodes of one layer in all prompts. `own` is the position of each (padding: the number of positions on the way up,
    -1 on the way down)."""

    up: bool
    own: Int[Tensor, "prompt row"]
    nodes: tuple[Tensor, ...]
    """For each prompt, the indices of its rows among its nodes; `first` is the lowest."""
    first: tuple[int, ...]
    cells: tuple[Int[Tensor, "prompt _"], ...]
    """For each position, the rows there; a prompt with fewer rows is padded with the index one beyond the last row."""
    spans: tuple[tuple[int, int], ...]
    """For each place, the range of rows that are present there in at least one prompt."""
    real: tuple[slice, ...]
    """For each prompt, its rows without padding."""

    @property
    def n(self) -> int:
        return self.own.shape[1]

    @cached_property
    def places(self) -> range:
        """From the first place where a row is present to the last one."""
        present = [place for place, (start, stop) in enumerate(self.spans) if start < stop]
        return range(present[0], present[-1] + 1) if present else range(0)


def rows_of(
    prompt: Int[Tensor, " node"],
    pos: Int[Tensor, " node"],
    node: Int[Tensor, " node"],
    shape: tuple[int, int],
    *,
    up: bool,
    end: int = 0,
) -> tuple[Rows, Int[Tensor, "prompt row"]]:
    """Rows of nodes that are sorted by (prompt, pos), and the index of each row's node (padding: one beyond the last).

    `shape` is (prompts, positions). Rows on their way down stop at the place `end`.
    """
    n_prompts, n_pos = shape
    device = prompt.device
    counts = torch.bincount(prompt * n_pos + pos, minlength=n_prompts * n_pos).view(shape)
    sizes = counts.sum(1)
    n = int(sizes.max())
    first = torch.zeros_like(sizes) if up else n - sizes
    column = torch.arange(n, device=device)
    present = (column >= first[:, None]) & (column < (first + sizes)[:, None])
    begin = sizes.cumsum(0) - sizes
    index = torch.where(present, (begin - first)[:, None] + column, prompt.numel())
    start = first[:, None] + counts.cumsum(1) - counts
    cells = []
    for place, most in enumerate(counts.amax(0).tolist()):
        member = torch.arange(most, device=device)
        cells.append(torch.where(member < counts[:, place, None], start[:, place, None] + member, n))
    within = counts.cumsum(1).amax(0).tolist() if up else counts.flip(1).cumsum(1).flip(1).amax(0).tolist()
    within = [0] * end + within[end:]
    spans = tuple((0, count) if up else (n - count, n) for count in within)
    real = tuple(slice(a, a + size) for a, size in zip(first.tolist(), sizes.tolist(), strict=True))
    own = torch.cat([pos, pos.new_tensor([n_pos if up else -1])])[index]
    nodes = node.split(sizes.tolist())
    lowest = tuple(int(each[0]) if each.numel() else 0 for each in nodes)
    return Rows(up, own, nodes, lowest, tuple(cells), spans, real), index


def padded(
    vectors: Float[Tensor, "node d_model"], index: Int[Tensor, "prompt row"]
) -> Float[Tensor, "prompt row d_model"]:
    """Vectors of nodes as rows, zero where there is padding."""
    out = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
    return out.index_select(0, index.flatten()).view(*index.shape, -1)


class Propagation:
    """Vectors or gradients of rows: `at[place]` is [prompt, present row, d_model]."""

    def __init__(self, local: LocalReplacement, rows: Rows) -> None:
        self.local, self.rows = local, rows
        self.at: list[Tensor] = []

    def _maps(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """First and second weight matrix of a layer, and the mixing of the rows' places by its heads [prompt, head, to, from],
        scales included. Successive heads share a head of the value map: the first matrix on the way up, the second on the way
        down."""
        frozen, maps = self.local.frozen, self.local.attention[layer]
        here = slice(self.rows.places.start, self.rows.places.stop)
        pattern = frozen.pattern[layer][..., here, here] / frozen.scale1[layer][:, here].mT[:, None]
        if frozen.scale1_post is not None:
            pattern = pattern / frozen.scale1_post[layer][:, None, here]
        if self.rows.up:
            return maps.shared, maps.output, pattern
        return maps.output.T, maps.shared.T, pattern.mT

    def place(self, x: Float[Tensor, "prompt row d_model"]) -> None:
        """Puts every row at its own position."""
        for place, (start, stop) in enumerate(self.rows.spans):
            here = self.rows.own[:, start:stop, None] == place
            self.at.append(x[:, start:stop] * here)

    def enter(self, x: Float[Tensor, "prompt row d_model"], layer: int) -> None:
        """Puts every row at its own position and takes it through the attention of a layer."""
        first, second, mixing = self._maps(layer)
        n_prompts, n_rows, d_model = x.shape
        n_heads, n_places = mixing.shape[1], mixing.shape[2]
        self.at = [x.new_empty(n_prompts, stop - start, d_model) for start, stop in self.rows.spans]
        if not n_places:
            return
        own = (self.rows.own - self.rows.places.start).clamp(0, n_places - 1)
        # what a head passes from a row's own position to each place
        reach = mixing.gather(3, own[:, None, None].expand(-1, n_heads, n_places, -1)).permute(0, 3, 2, 1)
        stay = torch.nn.functional.one_hot(own, n_places).to(x.dtype)
        reach = torch.cat([reach, stay[..., None]], 3)
        d_head = max(first.shape[1], len(second)) // n_heads
        by_head = second.reshape(-1, d_head, d_model)
        by_head = _for_heads(by_head, n_heads)
        step = max(1, SPREAD // (x.element_size() * d_model * (n_heads + 1) * n_prompts))
        for begin in range(0, n_rows, step):
            part = slice(begin, min(begin + step, n_rows))
            some = x[:, part].flatten(0, 1)
            apart = x.new_empty(n_heads + 1, len(some), d_model)  # each head's output, and the row itself
            found = (some @ first).view(len(some), -1, d_head).transpose(0, 1)
            torch.bmm(_for_heads(found, n_heads), by_head, out=apart[:-1])
            apart[-1] = some
            spread = torch.bmm(reach[:, part].flatten(0, 1), apart.transpose(0, 1)).unflatten(0, (n_prompts, -1))
            for within, place in enumerate(self.rows.places):
                start, stop = self.rows.spans[place]
                low, high = max(start, part.start), min(stop, part.stop)
                if low < high:
                    self.at[place][:, low - start : high - start] = spread[:, low - begin : high - begin, within]

    def attend(self, layer: int) -> None:
        """Takes all rows through the attention of a layer, added to the residual stream."""
        first, second, mixing = self._maps(layer)
        n_prompts, n_heads, n_places = mixing.shape[:3]
        rows, width = self.rows, max(first.shape[1], len(second))
        d_head = width // n_heads
        groups = min(first.shape[1], len(second)) // d_head  # of heads that share a value
        sharing = n_heads // groups
        mixing = mixing.unflatten(1, (groups, sharing))
        # Up, a group's value is mixed by each of its heads; down, the heads' gradients are mixed and added.
        mixing = mixing.flatten(2, 3) if rows.up else mixing.transpose(2, 3).flatten(3)
        taken, given = (1, sharing) if rows.up else (sharing, 1)
        step = max(16, SCRATCH // (mixing.element_size() * width * max(1, n_places) * n_prompts))
        for begin in range(0, rows.n if n_places else 0, step):
            end = min(begin + step, rows.n)
            heads = mixing.new_zeros(n_prompts, groups, taken, n_places, end - begin, d_head)
            spans = [(place, *rows.spans[place]) for place in rows.places]
            ranges = [(place, max(start, begin), min(stop, end), start) for place, start, stop in spans]
            for within, (place, low, high, start) in enumerate(ranges):
                if low < high:
                    z = self.at[place][:, low - start : high - start] @ first
                    z = z.unflatten(2, (groups, taken, d_head)).permute(0, 2, 3, 1, 4)
                    heads[:, :, :, within, low - begin : high - begin] = z
            mixed = torch.matmul(mixing, heads.flatten(2, 3).flatten(3))
            mixed = mixed.view(n_prompts, groups, given, n_places, end - begin, d_head)
            for within, (place, low, high, start) in enumerate(ranges):
                if low < high:
                    v = mixed[:, :, :, within, low - begin : high - begin].permute(0, 3, 1, 2, 4).flatten(2)
                    if high - low == self.at[place].shape[1]:
                        self.at[place].view(-1, second.shape[1]).addmm_(v.flatten(0, 1), second)
                    else:
                        self.at[place][:, low - start : high - start] += v @ second

    def skip(self, layer: int) -> None:
        """Takes all rows through the skip connection of a layer's transcoder, added to the residual stream."""
        local, frozen = self.local, self.local.frozen
        W_skip = local.skip(layer)
        if W_skip is None:
            return
        for place, x in enumerate(self.at):
            scale = frozen.scale2[layer][:, place, None]
            post = None if frozen.scale2_post is None else frozen.scale2_post[layer][:, place, None]
            if self.rows.up:
                x += write_vector(local, layer, read_vector(local, layer, x, scale) @ W_skip.T, post)
            else:
                x += read_gradient(local, layer, write_gradient(local, layer, x, post) @ W_skip, scale)


def _for_heads(shared: Float[Tensor, "kv_head row column"], n_heads: int) -> Float[Tensor, "head row column"]:
    """The values of each head, of which successive ones share the same."""
    sharing = n_heads // len(shared)
    return shared if sharing == 1 else shared.repeat_interleave(sharing, 0)
