"""What the features at one position tell about a later word, counted: is a planned word represented there, and how?

For every scored prompt the features of its level (of the rule that the experiment names, selected on other prompts) are
looked for at the rule's position, at the experiment's other `sites` (arm `position`), and the features of another
prompt's level at the rule's position (arm `shuffle`, drawn among prompts of other clusters):

    planned     share of the level's features that fire there: a rate, not a count, as many features fire anywhere
    candidates  1 if features of the level and of another level of the same cluster fire there at once, each its own
                (shuffle: of a level of another cluster)
    ordinary    1 if one of the level's features that fire there also fires where the word itself is next, at the last token
                of the prompt named in the column `spoken` (shuffle: at that of another cluster's prompt)
    probe       1 if a linear probe on the residual stream there names the level (position: a probe on the stream at the
                first of the sites; shuffle: the chance to guess the level when only the cluster is known)
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import sparse
from tqdm import tqdm

from biology.activations import length_batches
from biology.bench import Bench
from biology.case import Experiment, SupernodeRule
from biology.config import InputError
from biology.model import run, token_batch
from biology.supernodes import Finder
from biology.tables import table

RIDGE = 0.01  # of the probe, in units of the mean variance of a direction of the stream
OUTCOMES = ("planned", "candidates", "ordinary", "probe")


def run_census(bench: Bench) -> pd.DataFrame:
    """Table `evidence` of the experiments of kind `census`.

    Raises InputError for an unknown outcome, or a rule that tells no levels apart.
    """
    rows: list[dict[str, object]] = []
    for name, experiment in bench.case.experiments.items():
        if experiment.kind != "census":
            continue
        where = f"case {bench.case.name}, experiment '{name}'"
        unknown = [outcome for outcome in experiment.outcomes if outcome not in OUTCOMES]
        if unknown:
            raise InputError(f"{where}: unknown outcome '{unknown[0]}'; known: {', '.join(OUTCOMES)}")
        rule = bench.case.supernodes.get(experiment.through or "")
        if rule is None or rule.factor is None:
            raise InputError(f"{where}: `through` must name a supernode whose rule has a factor")
        finder = Finder(bench.model, bench.transcoders, bench.case, bench.prompts, bench.cache)
        places = bench.items(experiment)
        tqdm.write(f"{name}: {len(places)} prompts")
        if not places:
            continue  # none passed the gate
        values = _counted(bench, finder, experiment, rule, places)
        if "probe" in experiment.outcomes:
            values += probed(bench, finder, experiment, rule, places)
        for place, outcome, arm, draw, value in values:
            item, cluster, split = bench.identity[place]
            rows.append(
                {
                    "item": item, "cluster": cluster, "split": split, "experiment": name, "arm": arm, "draw": draw,
                    "strength": 1.0, "outcome": outcome, "value": value,
                }
            )  # fmt: skip
    return table("evidence", rows)


def _counted(
    bench: Bench, finder: Finder, experiment: Experiment, rule: SupernodeRule, places: Sequence[int]
) -> list[tuple[int, str, str, int, float]]:
    prompts, name, factor = bench.prompts, str(experiment.through), str(rule.factor)
    generator = bench.generator(bench.case.name, name, "census")
    cluster, level = prompts["cluster"].to_numpy(), prompts[factor].to_numpy()
    levels = {of: sorted(set(level[cluster == of]) - {""}) for of in set(cluster[places])}
    here = finder.active(rule.at)
    sites = [finder.active(at) for at in experiment.sites]
    spoken = finder.active("last")

    def members(place: int, of: str) -> Int[np.ndarray, " member"]:
        row = prompts.iloc[place].to_dict() | {factor: of}
        found = finder.select(rule, name, row)
        return found.layer * finder.width + found.feature

    def fires(active: sparse.csr_matrix, place: int, columns: Int[np.ndarray, " member"]) -> np.ndarray:
        return np.isin(columns, active[place].indices)

    values: list[tuple[int, str, str, int, float]] = []
    for place in places:
        strangers = [other for other in places if cluster[other] != cluster[place]]
        stranger = strangers[int(generator.integers(len(strangers)))]
        own = members(place, level[place])
        foreign = members(place, level[stranger])
        firing = fires(here, place, own)
        for outcome in experiment.outcomes:
            if outcome == "planned":
                arms = [("effect", 0, firing), ("shuffle", 0, fires(here, place, foreign))]
                arms += [("position", number, fires(site, place, own)) for number, site in enumerate(sites)]
                values += [(place, outcome, arm, draw, float(f.mean()) if len(f) else 0.0) for arm, draw, f in arms]
            elif outcome == "candidates":
                rivals = [one for one in levels[cluster[place]] if one != level[place]]
                away = [one for one in levels[cluster[stranger]]][: len(rivals)]
                for arm, others in (("effect", rivals), ("shuffle", away)):
                    together = any(
                        fires(here, place, np.setdiff1d(members(place, other), own)).any() for other in others
                    )
                    values.append((place, outcome, arm, 0, float(firing.any() and together)))
            elif outcome == "ordinary":
                for arm, other in (("effect", place), ("shuffle", stranger)):
                    there = bench.place[prompts["spoken"].iat[other]]
                    values.append((place, outcome, arm, 0, float(fires(spoken, there, own[firing]).any())))
    return values


# The probe -----------------------------------------------------------------------------------------------------------


def probed(
    bench: Bench, finder: Finder, experiment: Experiment, rule: SupernodeRule, places: Sequence[int]
) -> list[tuple[int, str, str, int, float]]:
    """Values of `probe`. The stream's layer is the one that is best on development prompts (the lowest of equals)."""
    prompts, factor = bench.prompts, str(rule.factor)
    chosen = (prompts["role"] == "select") & (prompts[factor] != "")
    level, cluster = prompts[factor].to_numpy(), prompts["cluster"].to_numpy()
    needed = np.union1d(np.flatnonzero(chosen), places)
    found: dict[str, tuple[Float[np.ndarray, "layer item"], int]] = {}
    for arm, at in (("effect", rule.at), *((("position", experiment.sites[0]),) if experiment.sites else ())):
        stream = streams(bench, needed, finder.positions(at)[needed])
        right = np.zeros((len(stream), len(places)))
        keys = prompts[list(rule.apart)].astype(str).agg("|".join, axis=1).to_numpy() if rule.apart else level
        for key in sorted(set(keys[list(places)])):
            first = next(place for place in places if keys[place] == key)
            apart = chosen.to_numpy()
            for column in rule.apart:
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
        known = len(set(level[cluster == cluster[place]]) - {""})
        values.append((place, "probe", "shuffle", 0, 1.0 / known))
    return values


def linear_probe(
    x: Float[np.ndarray, "item direction"], level: np.ndarray, new: Float[np.ndarray, "other direction"]
) -> np.ndarray:
    """Levels of new items by ridge regression on which level an item is of (one-hot), fitted on items of known level."""
    names, which = np.unique(level, return_inverse=True)
    mean, target = x.mean(0), np.eye(len(names))[which]
    centred = x - mean
    gram = centred.T @ centred
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, centred.T @ (target - target.mean(0)))
    return names[((new - mean) @ weights + target.mean(0)).argmax(1)]


def streams(
    bench: Bench, places: Int[np.ndarray, " item"], positions: Int[np.ndarray, " item"]
) -> Float[np.ndarray, "layer item d_model"]:
    """The residual stream after each layer at one position of each prompt."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(bench.model.n_layers)]
    out = np.zeros((len(names), len(places), bench.model.d_model))
    where = torch.as_tensor(positions)
    for batch, ids in length_batches([bench.ids[place] for place in places], 256):
        _, seen = run(bench.model, token_batch(bench.model, ids), reads=names, positions=-1)
        for layer, name in enumerate(names):
            at = seen[name][torch.arange(len(batch)), where[batch].to(seen[name].device)]
            out[layer, batch.numpy()] = at.double().cpu().numpy()
    return out
