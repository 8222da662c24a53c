"""What prompts with the same meaning in several languages share: features, members of supernodes, directions.

Two prompts are translations of each other if their factors `concept` and `relation` agree and their `language` differs.
Nothing is perturbed here. Outcomes of an experiment of kind `sharing` (`of` names supernodes):

    overlap:<layer>    intersection over union of the features active anywhere in the prompt and in a translation, minus
                       what two independent sets of these sizes share; mean over translations into all other languages
    overlap_profile    its mean over the middle third of the layers minus that over the outer thirds (a layer belongs to
                       the third that contains its centre)
    shared             share of the supernodes' members that are also active on the translations into the other languages
                       of the prompt's own `language_fold` (members of rules that select `across` folds were selected
                       on the other one)
    default_written:<language>  how much more what the members write together (the sum of their decoders, each times its activation)
                       promotes the answer in that language than in the others: z of the answer among all answers in its
                       language, minus the mean z of the other languages' answers
    closeness          mean cosine of the members' encoders with those of the donor's members in the same layer

Controls. `shuffle`: in place of the translation, a prompt in its language that asks another relation of another scale (a dimension of
meaning, such as size). Pairs that share words beyond the punctuation of all prompts are left out, in both arms. `match`: other features
in place of the members, active in the same layers and at the same position. For a prompt without members `shared`
and `default_written` are 0 in every arm, just as a supernode without members does nothing when it is held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.cases.experiments import Sharing as Asked
from biology.cases.measures import Outcome
from biology.evidence.case_context import CaseContext, Member
from biology.interventions.matched_draw import draw_others
from biology.records import InputError
from biology.tables import table

CELL = ("concept", "relation", "language", "scale", "language_fold")
Sets = tuple[np.ndarray, ...]


def reduce_sharing(context: CaseContext) -> pd.DataFrame:
    """Table `evidence` of all experiments of kind `sharing`. Raises InputError for a factor that no prompt has."""
    rows: list[dict[str, object]] = []
    for name, experiment in context.case.of_kind(Asked).items():
        missing = [column for column in CELL if column not in context.prompts]
        if missing:
            raise InputError(f"case {context.case.name}: experiments.{name}: no prompt has the factor '{missing[0]}'")
        sharing = Sharing(context, name, experiment)
        for place in context.items(experiment):
            rows += [
                context.evidence_row(place, name, arm, outcome, value, draw=draw)
                for outcome in experiment.outcomes
                for arm, draw, value in sharing.measured(outcome, place)
                if np.isfinite(value)
            ]
    return table("evidence", rows)


def overlap(one: np.ndarray, other: np.ndarray, n: int) -> float:
    """Intersection over union of two sets out of n, minus its value at the mean intersection of independent sets of
    these sizes."""
    common, size = len(np.intersect1d(one, other)), len(one) + len(other)
    chance = len(one) * len(other) / n
    return common / (size - common) - chance / (size - chance) if size else 0.0


def middle_minus_outer(values: Float[np.ndarray, " layer"]) -> float:
    """Mean over the middle third of the layers minus mean over the outer two; a layer belongs to the third that
    contains its centre."""
    centre = (np.arange(len(values)) + 0.5) / len(values)
    middle = (centre > 1 / 3) & (centre < 2 / 3)
    return float(values[middle].mean() - values[~middle].mean())


@dataclass(frozen=True, eq=False)
class Sharing:
    """One experiment on the prompts of a context."""

    context: CaseContext
    name: str
    experiment: Asked

    @cached_property
    def places(self) -> dict[tuple[str, str, str], int]:
        """Prompts of the prompt set by (concept, relation, language)."""
        frame = self.context.prompts
        chosen = np.flatnonzero(frame["role"].isin(["select", "score"]))
        keys = frame[list(CELL[:3])].iloc[chosen].itertuples(index=False, name=None)
        return dict(zip(keys, chosen.tolist(), strict=True))

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        columns = [self.context.prompts[column].astype(str) for column in CELL]
        return [dict(zip(CELL, values, strict=True)) for values in zip(*columns, strict=True)]

    def translations(self, place: int, *, of_fold: bool = False) -> list[int]:
        """The same question in the other languages (`of_fold`: only those of the prompt's own fold)."""
        row = self.rows[place]
        found = [
            there
            for (concept, relation, language), there in self.places.items()
            if (concept, relation) == (row["concept"], row["relation"]) and language != row["language"]
        ] if place not in self._translations else self._translations[place]  # fmt: skip
        self._translations[place] = found
        return [one for one in found if not of_fold or self.rows[one]["language_fold"] == row["language_fold"]]

    @cached_property
    def _translations(self) -> dict[int, list[int]]:
        return {}

    def measured(self, outcome: Outcome, place: int) -> list[tuple[str, int, float]]:
        """(arm, draw, value) of one outcome of one prompt; empty if it has no pair, or too few other features to match
        with."""
        kind, level = outcome.form.name, "".join(outcome.arguments)
        if kind in ("overlap", "overlap_profile"):
            profiles = self.profiles(place)
            pick = middle_minus_outer if kind == "overlap_profile" else lambda values: float(values[self._layer(level)])
            return [(arm, 0, pick(values)) for arm, values in profiles.items()]
        measures = {"shared": self.shared, "closeness": self.closeness}
        members = self.members(self.context.identity[place][0])
        draws = [("effect", 0, members)]
        if "match" in self.experiment.controls:
            generator = self.context.generator(self.context.case.name, self.name, self.context.identity[place][0])
            draws += [
                ("match", draw, self.matched(place, members, generator))
                for draw in range(self.context.statistics.control_draws)
            ]
        if not members and kind != "closeness":
            return [(arm, draw, 0.0) for arm, draw, _ in draws]
        if not all(chosen for _, _, chosen in draws):
            return []
        return [
            (arm, draw, self.default_written(place, chosen, level) if level else measures[kind](place, chosen))
            for arm, draw, chosen in draws
        ]

    def members(self, item: str) -> list[Member]:
        """The members of all supernodes of the experiment in one prompt, without duplicates."""
        found = [one for name in self.experiment.of for one in self.context.sites.get((item, name), [])]
        return list({(one.layer, one.pos, one.feature): one for one in found}.values())

    def _layer(self, level: str) -> int:
        if not level.isdigit() or int(level) >= self.context.model.n_layers:
            raise InputError(f"outcome 'overlap:{level}': the model has layers 0 to {self.context.model.n_layers - 1}")
        return int(level)

    # ----------------------------------------------------------------------------------------- features in common
    def active(self, place: int) -> Sets:
        """Per layer, the features active anywhere in a prompt except at its first position."""
        if place not in self._active:
            cache = self.context.cache
            entries = slice(int(cache.offsets[place]), int(cache.offsets[place + 1]))
            layer, pos, feature = (part[entries].numpy() for part in (cache.layer, cache.pos, cache.feature))
            self._active[place] = tuple(
                np.unique(feature[(layer == number) & (pos > 0)]) for number in range(self.context.model.n_layers)
            )
        return self._active[place]

    @cached_property
    def _active(self) -> dict[int, Sets]:
        return {}

    @cached_property
    def common_tokens(self) -> set[int]:
        """Tokens that every prompt has: its start, and quotation marks."""
        return set.intersection(*(set(self.context.ids[place]) for place in self.places.values()))

    def apart(self, one: int, other: int) -> bool:
        """Whether two prompts share no word."""
        return set(self.context.ids[one]) & set(self.context.ids[other]) <= self.common_tokens

    def unrelated(self, place: int, translation: int) -> int | None:
        """A prompt in the translation's language about another scale and another relation, without a shared word."""
        row, language = self.rows[place], self.rows[translation]["language"]
        options = [
            there
            for (_, relation, spoken), there in self.places.items()
            if spoken == language and relation != row["relation"] and self.rows[there]["scale"] != row["scale"]
            and self.context.identity[there][2] == self.context.identity[place][2]
        ]  # fmt: skip
        generator = self.context.generator(self.context.case.name, self.name, place, translation)
        in_turn = (options[number] for number in generator.permutation(len(options)))
        return next((there for there in in_turn if self.apart(place, there)), None)

    def profiles(self, place: int) -> dict[str, Float[np.ndarray, " layer"]]:
        """Overlap per layer with translations (effect) and with unrelated prompts of the same languages (shuffle)."""
        if place not in self._profiles:
            found: dict[str, list[list[float]]] = {"effect": [], "shuffle": []}
            for translation in self.translations(place):
                unrelated = self.unrelated(place, translation)
                if unrelated is None or not self.apart(place, translation):
                    continue
                for arm, there in (("effect", translation), ("shuffle", unrelated)):
                    sets = zip(self.active(place), self.active(there), self.context.transcoders.n_features, strict=True)
                    found[arm].append([overlap(*pair) for pair in sets])
            self._profiles[place] = {arm: np.mean(values, axis=0) for arm, values in found.items() if values}
        return self._profiles[place]

    @cached_property
    def _profiles(self) -> dict[int, dict[str, np.ndarray]]:
        return {}

    # ------------------------------------------------------------------------------------- members of a supernode
    def matched(self, place: int, members: Sequence[Member], generator: np.random.Generator) -> list[Member]:
        """As many other active features of the same layers and positions, at random; fewer if there are not enough."""
        chosen: list[Member] = []
        cells: dict[tuple[int, int], list[int]] = {}
        for member in members:
            cells.setdefault((member.layer, member.pos), []).append(member.feature)
        for (layer, pos), features in cells.items():
            pool, value = self.context.cache.cell(place, layer, pos)
            for index in draw_others(pool.numpy(), features, len(features), generator):
                chosen.append(Member(layer, pos, int(pool[index]), float(value[index])))
        return chosen

    def shared(self, place: int, members: Sequence[Member]) -> float:
        """Share of the features that are active on all translations of the fold, at the positions of the supernodes
        there."""
        layer, pos, feature = (torch.tensor([member[i] for member in members]) for i in range(3))
        active = np.ones(len(members), dtype=bool)
        for there in self.translations(place, of_fold=True):
            moved = {
                self.context.position_of(name, place): self.context.position_of(name, there)
                for name in self.experiment.of
            }
            target = torch.tensor([moved[one] for one in pos.tolist()])
            active &= self.context.cache.at(torch.full_like(layer, there), layer, target, feature).numpy() > 0
        return float(active.mean())

    @cached_property
    def answers(self) -> Mapping[str, Int[Tensor, " answer"]]:
        """All answer tokens to the prompts of each language."""
        groups = self.context.prompts.iloc[list(self.places.values())].groupby("language")["answer_token"]
        return {str(language): torch.tensor(sorted(set(tokens))) for language, tokens in groups}

    def default_written(self, place: int, members: Sequence[Member], language: str) -> float:
        """z of the answer in one language minus the mean z of the answers in all others, of what the members write together."""
        if language not in self.answers:
            raise InputError(f"outcome 'default_written:{language}': languages are {', '.join(self.answers)}")
        weights = self.context.model.weights
        written = torch.stack(
            [
                one.activation * self.context.transcoders.layers[one.layer].decoders(torch.tensor(one.feature)).sum(0)
                for one in members
            ]
        ).sum(0)
        scores = weights.logits(written.to(weights.ln_final.gain) * weights.ln_final.gain, demeaned=True).cpu()
        z = {}
        for there in [place, *self.translations(place)]:
            spoken = self.rows[there]["language"]
            among = scores[self.answers[spoken]]
            mine = scores[int(self.context.prompts["answer_token"].iat[there])]
            z[spoken] = float((mine - among.mean()) / among.std())
        return z[language] - float(np.mean([value for spoken, value in z.items() if spoken != language]))

    def closeness(self, place: int, members: Sequence[Member]) -> float:
        """Mean cosine of encoders, over pairs of a feature of this prompt and a member of the donor's supernode in the
        same layer."""
        donor = str(self.context.prompts[self.experiment.donor].iat[place])
        there = self.members(donor)
        cosines = []
        for layer in sorted({member.layer for member in members}):
            weights = self.context.transcoders.layers[layer]
            sides = [
                torch.nn.functional.normalize(weights.encoders(torch.tensor(features)).cpu(), dim=-1)
                for features in ([m.feature for m in side if m.layer == layer] for side in (members, there))
                if features
            ]
            if len(sides) < 2:
                continue
            cosines += (sides[0] @ sides[1].T).flatten().tolist()
        return float(np.mean(cosines)) if cosines else float("nan")
