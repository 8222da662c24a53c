"""What the MLPs write more on prompts of a level than on others, and how much of that a supernode's members write.

Firing on a level is weak evidence: features of shuffled transcoders do it too, since any direction that separates two levels can be
selected by its activations. So what members write is compared with what the MLPs write. Features of shuffled transcoders write almost
nothing of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biology.cases.rules import SupernodeRule
from biology.interventions.site_exchange import seen_at
from biology.supernodes.grouping import Finder, column_means
from biology.supernodes.site_parts import decoder_rows


@dataclass(frozen=True, eq=False)
class LevelWriting:
    """The layers and the position of one rule, on the prompts of a finder."""

    finder: Finder
    rule: SupernodeRule

    @cached_property
    def outputs(self) -> Float[Tensor, "layer prompt d_model"]:
        """What the MLPs write at the rule's position on the prompts that can select members (0 on others), up to its last layer."""
        finder, rule = self.finder, self.rule
        _, last = rule.layers or (0, finder.transcoders.n_layers - 1)
        position, frame = finder.positions(rule.at), finder.prompts
        selects = (frame["role"] == "select") & (frame[str(rule.factor)] != "") & (position >= 0)
        asked = np.flatnonzero(selects).tolist()
        hooks = [f"blocks.{layer}.{finder.transcoders.write_hook}" for layer in range(last + 1)]
        outputs = torch.zeros(last + 1, len(frame), finder.model.d_model)
        outputs[:, asked] = seen_at(finder.model, finder.ids, asked, hooks, torch.from_numpy(position))
        return outputs

    def share(self, row: Mapping[str, object], at: str, columns: Int[np.ndarray, " member"]) -> float:
        """The share of what the MLPs write more for the row's level that the features of `columns` write on its prompt at `at`.

        With d the mean of the MLP outputs over the level's selecting prompts minus that over those of other levels (all layers one
        vector), and w what the features write on the prompt beyond their mean over those of other levels, it is (w . d) / (d . d).
        1: as much as the MLPs do in the mean over the level. 0 if no prompt selects, or nothing differs.
        """
        of_level, others = self.finder.selecting(self.rule, row)
        others = self.finder.near(self.rule, row, others)
        if not (of_level.any() and others.any() and len(columns)):
            return 0.0
        written = self._written(self.finder.place[str(row["item"])], at, columns, others)
        return share_along(written, self._difference(of_level, others))

    def _difference(
        self, of_level: Bool[np.ndarray, " prompt"], others: Bool[np.ndarray, " prompt"]
    ) -> Float[Tensor, "layer d_model"]:
        """Kept, as all arms of a prompt, and all prompts with the same selecting ones, ask for it."""
        asked = (of_level.tobytes(), others.tobytes())
        if asked not in self._differences:
            own, rest = (self.outputs[:, torch.from_numpy(these)].mean(1) for these in (of_level, others))
            self._differences[asked] = own - rest
        return self._differences[asked]

    @cached_property
    def _differences(self) -> dict[tuple[bytes, bytes], Float[Tensor, "layer d_model"]]:
        return {}

    def _written(
        self, place: int, at: str, columns: Int[np.ndarray, " member"], others: Bool[np.ndarray, " prompt"]
    ) -> Float[Tensor, "layer d_model"]:
        active, asked = self.finder.active(at), (at, others.tobytes())
        if asked not in self._means:
            self._means[asked] = column_means(active, others)
        more = np.asarray(active[place, columns].todense()).ravel() - self._means[asked][columns]
        return features_write(self.finder, columns, more, len(self.outputs) - 1)

    @cached_property
    def _means(self) -> dict[tuple[str, bytes], Float[np.ndarray, " column"]]:
        return {}


def features_write(
    finder: Finder, columns: Int[np.ndarray, " member"], activations: Float[np.ndarray, " member"], last: int
) -> Float[Tensor, "layer d_model"]:
    """What features write at these activations into each layer up to `last`."""
    layers = columns // finder.width
    written = torch.zeros(last + 1, finder.model.d_model)
    for layer in np.unique(layers).tolist():
        mine = layers == layer
        rows = decoder_rows(finder.transcoders, layer, last, torch.from_numpy(columns[mine] % finder.width))
        written[layer:] += torch.einsum("f,ftd->td", torch.from_numpy(activations[mine]).to(rows), rows)
    return written


def share_along(written: Float[Tensor, "layer d_model"], more: Float[Tensor, "layer d_model"]) -> float:
    """(w . d) / (d . d), all layers one vector: the share of d that w makes up; 0 if d is."""
    size = float(more.double().square().sum())
    return float((written.double() * more.double()).sum()) / size if size else 0.0
