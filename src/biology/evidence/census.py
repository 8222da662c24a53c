"""What the features at one position tell about a later word: is a planned word represented there, and how?

For every scored prompt, the features of its level (by the rule that the experiment names, selected on other prompts)
are looked for at the rule's position. The arms differ: `position` looks at the experiment's other `sites`; `shuffle`
looks for the features of another prompt's level (drawn among prompts of other clusters); `random` looks for what
the same rule finds with shuffled transcoders: some directions follow a level by chance.

    planned     share of the level's features that are active there; a share, because some features are active anywhere
    written     of what the MLPs write at the rule's position beyond what they write for other levels, the share that the
                level's features write (`supernodes.level_writing`); features that merely fire with a level write something else
    candidates  1 if features of the level and of another level of the same cluster are active there at once, different
                ones for each (shuffle: of a level of another cluster)
    ordinary    1 if one of the level's features that are active there is also active where the word itself comes next, at
                the last token of the prompt named in the column `spoken` (shuffle: of another cluster's prompt)
    probe       1 if a linear probe on the residual stream there names the level (position: a probe on the stream at the
                first of the sites; shuffle: the chance of guessing the level when only the cluster is known)
    follows:<n> does the activity of each level's features follow a number that is known of it, in column `<n>_<level>`? The value
                of a prompt is the mean over levels of (activity) * (number), both standardised over the prompts of its split, so
                that the mean over prompts is the levels' mean correlation (shuffle: the activity of every other level)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from biology.cases.experiments import Census
from biology.cases.measures import Outcome
from biology.cases.rules import SupernodeRule
from biology.evidence.case_context import CaseContext
from biology.models.model import run, token_batch
from biology.supernodes.grouping import Finder
from biology.supernodes.level_writing import LevelWriting
from biology.tables import table
from biology.transcoders.activations import length_batches

RIDGE = 0.01  # of the probe, relative to the mean variance of a direction of the stream


def run_census(context: CaseContext) -> pd.DataFrame:
    """Table `evidence` of the experiments of kind `census`."""
    rows: list[dict[str, object]] = []
    for name, experiment in context.case.of_kind(Census).items():
        rule = context.case.supernodes[experiment.through]
        places = context.items(experiment)
        tqdm.write(f"{name}: {len(places)} prompts")
        if not places:
            continue  # none passed the gate
        values = _counted(context, experiment, rule, places)
        if "probe" in experiment.outcomes:
            values += probed(context, experiment, rule, places)
        for outcome in (one for one in experiment.outcomes if one.form.name == "follows"):
            values += followed(context, experiment, rule, outcome, places)
        rows += [
            context.evidence_row(place, name, arm, outcome, value, draw=draw)
            for place, outcome, arm, draw, value in values
        ]
    return table("evidence", rows)


@dataclass(frozen=True, eq=False)
class _Look:
    """One set of transcoders, and the rule whose members are looked for among its features."""

    finder: Finder
    name: str
    rule: SupernodeRule

    def members(self, place: int, level: str) -> Int[np.ndarray, " member"]:
        """Columns of the features of a level, as the rule selects them for a prompt."""
        row = self.finder.records[place] | {str(self.rule.factor): level}
        return self.finder.columns(self.finder.select(self.rule, self.name, row))

    def fires(self, at: str, place: int, columns: Int[np.ndarray, " member"]) -> np.ndarray:
        return np.isin(columns, self.finder.firing(at, place))

    def activity(self, place: int, level: str) -> float:
        """The mean activation of a level's features at the rule's position; 0 if it has none."""
        columns = self.members(place, level)
        return float(self.finder.active(self.rule.at)[place, columns].sum()) / len(columns) if len(columns) else 0.0

    @cached_property
    def writing(self) -> LevelWriting:
        return LevelWriting(self.finder, self.rule)

    def planned(self, at: str, place: int, columns: Int[np.ndarray, " member"]) -> float:
        return float(self.fires(at, place, columns).mean()) if len(columns) else 0.0

    def candidates(self, place: int, own: Int[np.ndarray, " member"], others: Sequence[str]) -> float:
        if not self.fires(self.rule.at, place, own).any():
            return 0.0
        rest = (np.setdiff1d(self.members(place, other), own) for other in others)
        return float(any(self.fires(self.rule.at, place, columns).any() for columns in rest))

    def ordinary(self, place: int, own: Int[np.ndarray, " member"], there: int) -> float:
        return float(self.fires("last", there, own[self.fires(self.rule.at, place, own)]).any())


def _counted(
    context: CaseContext, experiment: Census, rule: SupernodeRule, places: Sequence[int]
) -> list[tuple[int, str, str, int, float]]:
    prompts, name = context.prompts, experiment.through
    generator = context.generator(context.case.name, name, "census")
    cluster, level = prompts["cluster"].to_numpy(), prompts[str(rule.factor)].to_numpy()
    levels = {of: levels_of(context, str(rule.factor), of) for of in set(cluster[places])}
    look = _Look(context.finder, name, rule)
    nulls = [_Look(context.random_finder(prompts), name, rule)] if "random" in experiment.controls else []
    values: list[tuple[int, str, str, int, float]] = []
    for place in places:
        strangers = [other for other in places if cluster[other] != cluster[place]]
        stranger = strangers[int(generator.integers(len(strangers)))]
        rivals = [one for one in levels[cluster[place]] if one != level[place]]
        own, foreign = look.members(place, level[place]), look.members(place, level[stranger])
        random = [(null, null.members(place, level[place])) for null in nulls]
        for outcome in experiment.outcomes:
            found: list[tuple[str, int, float]] = []
            if outcome == "planned":
                found = [("effect", 0, look.planned(rule.at, place, own))]
                found += [("shuffle", 0, look.planned(rule.at, place, foreign))]
                found += [
                    ("position", number, look.planned(site, place, own)) for number, site in enumerate(experiment.sites)
                ]
                found += [("random", 0, null.planned(rule.at, place, members)) for null, members in random]
            elif outcome == "written":
                row = look.finder.records[place]
                found = [("effect", 0, look.writing.share(row, rule.at, own))]
                found += [("shuffle", 0, look.writing.share(row, rule.at, foreign))]
                found += [
                    ("position", number, look.writing.share(row, site, own))
                    for number, site in enumerate(experiment.sites)
                ]
                found += [("random", 0, null.writing.share(row, rule.at, members)) for null, members in random]
            elif outcome == "candidates":
                away = levels[cluster[stranger]][: len(rivals)]
                found = [("effect", 0, look.candidates(place, own, rivals))]
                found += [("shuffle", 0, look.candidates(place, own, away))]
                found += [("random", 0, null.candidates(place, members, rivals)) for null, members in random]
            elif outcome == "ordinary":
                said = {
                    arm: context.place[prompts["spoken"].iat[at]]
                    for arm, at in (("effect", place), ("shuffle", stranger))
                }
                found = [(arm, 0, look.ordinary(place, own, there)) for arm, there in said.items()]
                found += [("random", 0, null.ordinary(place, members, said["effect"])) for null, members in random]
            values += [(place, outcome, *one) for one in found]
    return values


def levels_of(context: CaseContext, factor: str, cluster: str) -> list[str]:
    """The levels of a factor in one cluster of the prompt set."""
    return sorted(set(context.asked.loc[context.asked["cluster"] == cluster, factor]) - {""})


# Activity and numbers ------------------------------------------------------------------------------------------------


def followed(
    context: CaseContext, experiment: Census, rule: SupernodeRule, outcome: Outcome, places: Sequence[int]
) -> list[tuple[int, str, str, int, float]]:
    """Values of `follows`."""
    prompts, (prefix,) = context.prompts, outcome.arguments
    levels = sorted(set(context.asked[str(rule.factor)]) - {""})
    number = prompts.iloc[list(places)][[f"{prefix}_{level}" for level in levels]].to_numpy(dtype=float)
    looks = {"effect": _Look(context.finder, experiment.through, rule)}
    if "random" in experiment.controls:
        looks["random"] = _Look(context.random_finder(prompts), experiment.through, rule)
    split, values = prompts["split"].to_numpy()[list(places)], []
    for name, look in looks.items():
        activity = np.array([[look.activity(place, level) for level in levels] for place in places])
        for part in sorted(set(split)):
            rows = np.flatnonzero(split == part)
            value = agreeing(activity[rows], number[rows])
            arms = {name: np.diagonal(value, axis1=1, axis2=2).mean(1)}
            if name == "effect" and "shuffle" in experiment.controls:
                n = len(levels)
                arms["shuffle"] = (value.sum((1, 2)) - n * arms[name]) / max(1, n * (n - 1))
            values += [
                (places[int(row)], str(outcome), arm, 0, float(one))
                for arm, several in arms.items()
                for row, one in zip(rows, several, strict=True)
            ]
    return values


def agreeing(
    activity: Float[np.ndarray, "item level"], number: Float[np.ndarray, "item level"]
) -> Float[np.ndarray, "item level level"]:
    """Standardised activities times standardised numbers: the mean over items is the correlation of each level's activity with each
    level's number. What does not vary is 0."""

    def standard(values: np.ndarray) -> np.ndarray:
        spread = values.std(0)
        return (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)

    return standard(activity)[:, :, None] * standard(number)[:, None, :]


# The probe -----------------------------------------------------------------------------------------------------------


def probed(
    context: CaseContext, experiment: Census, rule: SupernodeRule, places: Sequence[int]
) -> list[tuple[int, str, str, int, float]]:
    """Values of `probe`. The layer of the stream is the best one on development prompts (the lowest of a tie)."""
    prompts, factor = context.prompts, str(rule.factor)
    chosen = (prompts["role"] == "select") & (prompts[factor] != "")
    level, cluster = prompts[factor].to_numpy(), prompts["cluster"].to_numpy()
    needed = np.union1d(np.flatnonzero(chosen), places)
    found: dict[str, tuple[Float[np.ndarray, "layer item"], int]] = {}
    for arm, at in (("effect", rule.at), *((("position", experiment.sites[0]),) if experiment.sites else ())):
        stream = streams(context, needed, context.finder.positions(at)[needed])
        right = np.zeros((len(stream), len(places)))
        keys = prompts[list(rule.across)].astype(str).agg("|".join, axis=1).to_numpy() if rule.across else level
        for key in sorted(set(keys[list(places)])):
            first = next(place for place in places if keys[place] == key)
            apart = chosen.to_numpy()
            for column in rule.across:
                apart = apart & (prompts[column] != prompts[column].iat[first]).to_numpy()
            train = np.searchsorted(needed, np.flatnonzero(apart))
            test = [number for number, place in enumerate(places) if keys[place] == key]
            rows = np.searchsorted(needed, np.array(places)[test])
            for layer, values in enumerate(stream):
                said = linear_probe(values[train], level[needed[train]], values[rows])
                right[layer, test] = said == level[np.array(places)[test]]
        dev = [number for number, place in enumerate(places) if prompts["split"].iat[place] == "dev"]
        scores = right[:, dev].mean(1) if dev else right.mean(1) * 0
        found[arm] = (right, int(scores.argmax()))
    values = []
    for number, place in enumerate(places):
        values += [(place, "probe", arm, 0, float(right[layer, number])) for arm, (right, layer) in found.items()]
        known = len(levels_of(context, factor, cluster[place]))
        values.append((place, "probe", "shuffle", 0, 1.0 / known))
    return values


def linear_probe(
    x: Float[np.ndarray, "item direction"], level: np.ndarray, new: Float[np.ndarray, "other direction"]
) -> np.ndarray:
    """Levels of new items, predicted by ridge regression on one-hot levels, fitted on items of known level."""
    names, which = np.unique(level, return_inverse=True)
    mean, target = x.mean(0), np.eye(len(names))[which]
    centred = x - mean
    gram = centred.T @ centred
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, centred.T @ (target - target.mean(0)))
    return names[((new - mean) @ weights + target.mean(0)).argmax(1)]


def streams(
    context: CaseContext, places: Int[np.ndarray, " item"], positions: Int[np.ndarray, " item"]
) -> Float[np.ndarray, "layer item d_model"]:
    """The residual stream after each layer at one position of each prompt."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(context.model.n_layers)]
    out = np.zeros((len(names), len(places), context.model.d_model))
    where = torch.as_tensor(positions)
    for batch, ids in length_batches([context.ids[place] for place in places], 256):
        _, seen = run(context.model, token_batch(context.model, ids), reads=names, positions=-1)
        for layer, name in enumerate(names):
            at = seen[name][torch.arange(len(batch)), where[batch].to(seen[name].device)]
            out[layer, batch.numpy()] = at.double().cpu().numpy()
    return out
