"""What every experiment of a case needs: model, prompts, cached activations, members of supernodes, and edits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from biology.cases.measurement import Measurement
from biology.cases.perturbations import Edit, Perturbation
from biology.config import StatisticsConfig
from biology.evidence.number_outcomes import token_numbers
from biology.interventions.clean_passes import CleanPasses
from biology.interventions.feature_edits import Edits, wherever_active
from biology.records import InputError
from biology.statistics import measuring_generator
from biology.supernodes.case_prompts import CasePrompts
from biology.supernodes.grouping import Finder, random_finder
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet, shuffled

NEARLY_ALL = 0.9
"""A feature is "often active" in a template if it is active on at least this share of its prompts."""


@dataclass(frozen=True)
class Setting:
    """Strength and reach of a perturbation: the multiplier M, and the last layer held."""

    strength: float
    last_layer: int


class Member(NamedTuple):
    """A feature of a supernode at its position in one prompt."""

    layer: int
    pos: int
    feature: int
    activation: float


@dataclass(frozen=True, eq=False)
class PromptContext(CasePrompts):
    """What an experiment without transcoders needs."""

    statistics: StatisticsConfig

    @cached_property
    def identity(self) -> list[tuple[str, str, str]]:
        """Item, cluster and split of every prompt."""
        return list(self.prompts[["item", "cluster", "split"]].itertuples(index=False, name=None))

    def evidence_row(
        self, place: int, experiment: str, arm: str, outcome: str, value: float, *, draw: int = 0, strength: float = 1.0
    ) -> dict[str, object]:
        """A row of table `evidence` about one prompt."""
        item, cluster, split = self.identity[place]
        return {
            "item": item, "cluster": cluster, "split": split, "experiment": experiment, "arm": arm, "draw": draw,
            "strength": strength, "outcome": outcome, "value": value,
        }  # fmt: skip

    def generator(self, *key: object) -> np.random.Generator:
        """A random generator seeded by the seed of the configuration and by `key`."""
        return measuring_generator(self.statistics.seed, *key)

    def items(self, experiment: Measurement) -> list[int]:
        """Places of the scored prompts of an experiment that the model answers."""
        chosen = self.prompts["role"] == "score"
        for column, value in experiment.only.items():
            chosen &= self.prompts[column] == value
        return np.flatnonzero(chosen & self.prompts["correct"]).tolist()


@dataclass(frozen=True, eq=False)
class CaseContext(PromptContext):
    """What every experiment with transcoders needs: prompts (rows in the order of the cache) and members of
    supernodes."""

    transcoders: TranscoderSet
    members: pd.DataFrame
    cache: FeatureCache
    operands: pd.DataFrame | None = None
    """Table `operands`, if the case reads operand plots."""

    @cached_property
    def ids(self) -> list[list[int]]:
        return self.cache.prompts

    @cached_property
    def numbers(self) -> Int[Tensor, " vocab"]:
        """The number that each token writes; -1 if none."""
        return token_numbers(self.model)

    @cached_property
    def passes(self) -> CleanPasses:
        return CleanPasses(self.model, self.transcoders)

    @cached_property
    def finder(self) -> Finder:
        return Finder(self.model, self.case, self.prompts, self.transcoders, self.cache, self.operands)

    def often(self, template: str, place: int) -> Bool[Tensor, "layer feature"]:
        """Mask of the features that are active, at any token, on nearly all prompts with the same level of the factor
        `template`."""
        of_template = np.flatnonzero(self.prompts[template] == self.prompts[template].iat[place])
        key = (template, int(of_template[0]))
        if key not in self._often:
            _, layers, _, features = self.cache.shape.tolist()
            count = torch.zeros(layers, features)
            for prompt in of_template.tolist():
                rows = slice(int(self.cache.offsets[prompt]), int(self.cache.offsets[prompt + 1]))
                seen = torch.zeros_like(count)
                seen[self.cache.layer[rows].long(), self.cache.feature[rows].long()] = 1.0
                count += seen
            self._often[key] = count >= NEARLY_ALL * len(of_template)
        return self._often[key]

    @cached_property
    def _often(self) -> dict[tuple[str, int], Bool[Tensor, "layer feature"]]:
        return {}

    @cached_property
    def random_transcoders(self) -> TranscoderSet:
        """The same set with its weights shuffled."""
        return shuffled(self.transcoders, self.statistics.seed)

    def random_finder(self, prompts: pd.DataFrame) -> Finder:
        """A finder on these of the prompts with shuffled transcoders."""
        ids = [self.ids[self.place[item]] for item in prompts["item"]]
        return random_finder(self.model, self.transcoders, self.case, prompts, ids, self.statistics.seed, self.operands)

    @cached_property
    def sites(self) -> dict[tuple[str, str], list[Member]]:
        """Members by (item, supernode)."""
        found: dict[tuple[str, str], list[Member]] = {}
        columns = ["item", "supernode", "layer", "pos", "feature", "activation"]
        for item, supernode, *member in self.members[columns].itertuples(index=False, name=None):
            found.setdefault((item, supernode), []).append(Member(*member))
        return found

    def edits(
        self, experiment: Perturbation, places: Sequence[int], setting: Setting, *, wrong: bool = False
    ) -> "SourcedEdits":  # fmt: skip
        """The edits of an experiment, one row per prompt, with the sources of injected features (`wrong`: injects from the
        wrong donor)."""
        if isinstance(experiment, Edit):
            prompt = torch.tensor(places, dtype=torch.long)
            edited = wherever_active(self.cache, prompt, self.edited_features(experiment), setting.strength)
            return SourcedEdits(edited, prompt[edited.row], edited.pos)
        donor = f"wrong_{experiment.donor}" if wrong else experiment.donor
        columns: list[tuple[int, int, int, int, float, int, int]] = []
        for row, place in enumerate(places):
            item = self.records[place]["item"]
            found: dict[tuple[int, int, int], tuple[float, int, int]] = {}
            for held, factor in experiment.holds(setting.strength).items():
                for site in self.sites.get((item, held), ()):
                    found[site.layer, site.pos, site.feature] = (factor * site.activation, place, site.pos)
            if experiment.injected:
                source = self.records[place].get(donor, "")
                if source not in self.place:
                    raise InputError(
                        f"case {self.case.name}, prompt {item}: donor '{source}' is not a prompt of the case"
                    )
                there = self.position_of(experiment.injected, place)
                for site in self.sites.get((source, experiment.injected), ()):
                    value = setting.strength * site.activation
                    found[site.layer, there, site.feature] = (value, self.place[source], site.pos)
            columns += [(row, *site, *value) for site, value in found.items() if site[0] <= setting.last_layer]
        table_ = np.array(columns, dtype=np.float64).reshape(-1, 7)
        row, layer, pos, feature, pool, pool_pos = (
            torch.from_numpy(table_[:, i].astype(np.int64)) for i in (0, 1, 2, 3, 5, 6)
        )
        return SourcedEdits(Edits(row, layer, pos, feature, torch.from_numpy(table_[:, 4])), pool, pool_pos)

    def edited_features(self, experiment: Edit) -> list[tuple[int, int]]:
        """Layer and feature of what an edit holds: the members of its supernode on its development prompts."""
        chosen_for = self.case.experiments[experiment.as_in] if experiment.as_in else experiment
        prompts = [self.identity[place] for place in self.items(chosen_for)]
        items = [item for item, _, split in prompts if split == "dev"]
        members = [member for item in items for member in self.sites.get((item, experiment.edit), ())]
        return sorted({(member.layer, member.feature) for member in members})

    def position_of(self, supernode: str, place: int) -> int:
        """The position of a supernode in a prompt. Raises InputError if the prompt has no such position."""
        return self.position(self.case.supernodes[supernode].at, place)

    @cached_property
    def same_relation(self) -> dict[str, list[int]]:
        """For each level of the case's factor `relation`, all answer tokens of prompts of the prompt set with that level."""
        if "relation" not in self.asked:
            return {}
        groups = self.asked.groupby("relation")["answer_token"]
        return {str(level): sorted(set(tokens)) for level, tokens in groups if level}


@dataclass(frozen=True, eq=False)
class SourcedEdits:
    """Edits, and for each the prompt and position that its activation was taken from."""

    edits: Edits
    pool_prompt: Int[Tensor, " site"]
    pool_pos: Int[Tensor, " site"]
