"""How much of a supernode that is found on one prompt is also there on another: what fires, and what it writes.

Where two prompts have similar streams, any direction has similar values on both, so features of shuffled transcoders share as much activity
as true ones. They write next to nothing of what the MLPs write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.cases.rules import SupernodeRule
from biology.interventions.site_exchange import seen_at
from biology.supernodes.grouping import Finder
from biology.supernodes.level_writing import features_write, share_along


@dataclass(frozen=True, eq=False)
class Look:
    """One set of transcoders, among whose features the members of a supernode are found on a plain prompt."""

    finder: Finder
    supernode: str

    @property
    def rule(self) -> SupernodeRule:
        return self.finder.case.supernodes[self.supernode]

    def members(self, plain: str) -> Int[np.ndarray, " member"]:
        """Columns of the members, found where the operand plots are read."""
        if plain not in self._members:
            row = self.finder.records[self.finder.place[plain]]
            self._members[plain] = self.finder.columns(self.finder.select(self.rule.as_read, self.supernode, row))
        return self._members[plain]

    @cached_property
    def _members(self) -> dict[str, Int[np.ndarray, " member"]]:
        return {}

    def activity(self, at: str, item: str, columns: Int[np.ndarray, " member"]) -> Float[np.ndarray, " member"]:
        """The activations of some features at a position of a prompt."""
        return self.finder.active(at)[self.finder.place[item], columns].toarray().ravel()

    def fires(self, plain: str) -> bool:
        """Whether any member is active on the prompt on which they are found."""
        return bool(self.activity(self.rule.as_read.at, plain, self.members(plain)).any())

    def shared(self, plain: str, item: str) -> float:
        """Share of the members' activity on the prompt `plain` that they also have on the prompt `item`; 0 if they have none."""
        columns = self.members(plain)
        there, here = self.activity(self.rule.as_read.at, plain, columns), self.activity(self.rule.at, item, columns)
        return float(np.minimum(here, there).sum() / there.sum()) if there.any() else 0.0

    def written(self, plain: str, item: str, last: int) -> Float[Tensor, "layer d_model"]:
        """What the members that are found on the prompt `plain` write on the prompt `item`."""
        columns = self.members(plain)
        return features_write(self.finder, columns, self.activity(self.rule.at, item, columns), last)


@dataclass(frozen=True, eq=False)
class PlainOutputs:
    """What the MLPs write on plain prompts where the operand plots are read, beyond their mean over these prompts."""

    finder: Finder
    rule: SupernodeRule
    plain: Sequence[str]

    @property
    def last(self) -> int:
        return (self.rule.layers or (0, self.finder.transcoders.n_layers - 1))[1]

    @cached_property
    def _more(self) -> dict[str, Float[Tensor, "layer d_model"]]:
        finder, items = self.finder, sorted(set(self.plain))
        hooks = [f"blocks.{layer}.{finder.transcoders.write_hook}" for layer in range(self.last + 1)]
        position = torch.from_numpy(finder.positions(self.rule.as_read.at))
        outputs = seen_at(finder.model, finder.ids, [finder.place[item] for item in items], hooks, position)
        more = outputs - outputs.mean(1, keepdim=True)
        return {item: more[:, number] for number, item in enumerate(items)}

    def share(self, plain: str, written: Float[Tensor, "layer d_model"]) -> float:
        """`share_along` what the MLPs write on a plain prompt beyond their mean."""
        return share_along(written, self._more[plain])
