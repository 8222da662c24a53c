"""Operand plots of a case: what each feature depends on, and what follows for every scored prompt.

`read_grid` classifies the features that are active at the last token and at the positions of rules on operands, on the selecting
prompts of the grid (see `operands.py`); for the null, those of shuffled transcoders at the last token. Each feature also gets the label
that its `EXAMPLES` strongest prompts suggest, as from dataset examples.

Experiments that perturb nothing:

    classes   on one prompt's graph, at the last token. Shares of the influence on the answer among features and errors:
              `share:<family>`, `share:error`, `class_share` (add, lookup and sum together). `class_writing`: what these three
              add directly to the answer's logit, as a share of the sizes of all that is added there. `class_fraction`: the
              share of the active features that are of these three. `lookup_present`: 1 if a lookup is active. `decimal_share`: of the
              influence of the three families, the share of conditions that repeat 2, 4, 10, 20 or 50 times per hundred;
              `dozenal_share`: the same for multiples of a hundred twelfths, as in a model that counts in dozens.
              `label_wrong`: share of lookups and sums whose strongest examples suggest the other family. The arm
              `shuffle` is shuffled transcoders; for `decimal_share` and `dozenal_share`, as many neighbouring frequencies.
    wiring    `auc_virtual`, `auc_twera`: do the prompt's active sources (first of `of`) have larger weights to the targets
              (second) whose plot is active at the prompt's sum than to others? `shuffle`: the targets' plots permuted.
    connectivity  `input:<source>><target>`: input at the last token to a prompt's active features of one family from active
              features of another family in earlier layers, by virtual weights times activations, as a share of all input
              from features there; negative inputs count as negative. `shuffle`: families permuted within each layer.
    reuse     `shared_activity`: the share of a supernode's activity on the plain prompt with the same operands that is
              also present on this prompt. `shared_writing`: what its members write on this prompt towards what the MLPs write
              on the plain prompt (`supernodes/reuse.py`). Arm `donor`: on a plain prompt with other operands;
              arm `random`: for what the same rule finds with shuffled transcoders.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# (indexing a DataFrame may give a Series or a DataFrame; the checker cannot tell)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import sparse

from biology.attribution.assembly import attribute
from biology.attribution.global_weights import GlobalWeights, global_weights, virtual_weights
from biology.attribution.graph import ERROR, FEATURE, LOGIT, Graph, influence
from biology.cases.case import Case
from biology.cases.experiments import Classes, Connectivity, Reuse, Wiring
from biology.cases.measures import CLASSED, FAMILIES
from biology.config import AttributionConfig
from biology.evidence.case_context import CaseContext
from biology.models.model import Model
from biology.records import InputError
from biology.statistics import auc
from biology.supernodes.grouping import Finder, random_finder
from biology.supernodes.operands import FEWEST, SIZE, Grid, example_labels, read_operands
from biology.supernodes.reuse import Look, PlainOutputs
from biology.tables import table
from biology.transcoders.activations import FeatureCache
from biology.transcoders.transcoder_set import TranscoderSet, shuffled

EXAMPLES = 20
BLOCK = 128  # features read at a time
EXEMPLARS = 4  # operand plots shown per family and position
BEATS = {
    "decimal_share": ((2, 4, 10, 20, 50), (3, 5, 11, 21, 49)),
    "dozenal_share": ((8, 17, 25, 33, 42), (6, 13, 21, 29, 38)),
}
"""Frequencies (cycles per hundred) of a base, and as many neighbouring ones."""
LAST = "last"


def grid_prompts(case: Case, prompts: pd.DataFrame) -> pd.DataFrame:
    """Prompts that fill the operand grid, with integer columns `first` and `second`.

    Raises InputError if an operand is not a number of the grid.
    """
    assert case.operands is not None
    chosen = prompts["role"] == "select"
    for column, level in case.operands.only.items():
        chosen &= prompts[column] == level
    found = prompts[chosen]
    for column in (case.operands.first, case.operands.second):
        for item, value in zip(found["item"], found[column], strict=True):
            if not value.isdigit() or int(value) >= SIZE:
                raise InputError(f"case {case.name}, prompt {item}: operand {column} '{value}' is not in 0..{SIZE - 1}")
    return found.assign(first=found[case.operands.first].astype(int), second=found[case.operands.second].astype(int))


def read_grid(
    model: Model, transcoders: TranscoderSet, case: Case, prompts: pd.DataFrame, cache: FeatureCache, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `operands` and `operand_plots`; empty if the case has no grid."""
    if case.operands is None:
        return table("operands", []), table("operand_plots", [])
    grid = grid_prompts(case, prompts)
    positions = sorted({rule.as_read.at for rule in case.supernodes.values() if rule.operands} | {LAST})
    finder = Finder(model, case, prompts, transcoders, cache)
    rows, plots = [], []
    for at in positions:
        active = finder.active(at)[grid.index.to_numpy()]
        found = _read(grid, active, finder.width)
        rows += [{"transcoders": "own", "at": at, **row} for row in found]
        plots += _exemplars(grid, active, found, finder.width, at)
    ids = [finder.ids[place] for place in grid.index]
    found = _read(grid, random_finder(model, transcoders, case, grid, ids, seed).active(LAST), finder.width)
    rows += [{"transcoders": "shuffled", "at": LAST, **row} for row in found]
    return table("operands", rows), table("operand_plots", plots)


def _read(grid: pd.DataFrame, active: sparse.csr_matrix, width: int) -> list[dict]:
    """Rows for the features that are active on at least FEWEST prompts. `active` is [prompt, layer * width + feature]."""
    a, b = grid["first"].to_numpy(), grid["second"].to_numpy()
    cells = Grid.of(a, b)
    columns = np.flatnonzero(np.asarray((active > 0).sum(0)).ravel() >= FEWEST)
    dense = active.tocsc()
    rows: list[dict] = []
    for start in range(0, len(columns), BLOCK):
        mine = columns[start : start + BLOCK]
        values = dense[:, mine].toarray()
        reading = read_operands(cells, values)
        labels = example_labels(a, b, values, EXAMPLES)
        rows += [
            {
                "layer": int(column // width), "feature": int(column % width), "model": str(reading.model[i]),
                "family": str(reading.family[i]), "r2": float(reading.r2[i]), "digit": str(reading.digit[i]),
                "width": int(reading.width[i]), "frequency": int(reading.frequency[i]),
                "active": int(reading.active[i]), "activity": float(values[:, i].mean()), "label": str(labels[i]),
            }
            for i, column in enumerate(mine)
        ]  # fmt: skip
    return rows


def _exemplars(grid: pd.DataFrame, active: sparse.csr_matrix, rows: list[dict], width: int, at: str) -> list[dict]:
    """Cells of the plots of the most active features of each family and layer (at most EXEMPLARS per family)."""
    frame = pd.DataFrame(rows)
    if not len(frame):
        return []
    best = frame.sort_values("activity", ascending=False, kind="stable").groupby(["family", "layer"]).head(2)
    best = (
        best.sort_values(["family", "activity"], ascending=[True, False], kind="stable")
        .groupby("family")
        .head(EXEMPLARS)
    )
    cells = []
    for row in best.to_dict("records"):
        values = active[:, row["layer"] * width + row["feature"]].toarray().ravel()
        common = {"at": at, "layer": row["layer"], "feature": row["feature"]}
        numbers = zip(grid["first"].tolist(), grid["second"].tolist(), values.tolist(), strict=True)
        cells += [{**common, "a": a, "b": b, "activation": value} for a, b, value in numbers]
    return cells


# ------------------------------------------------------------------------------------------------- evidence of each kind


@dataclass(frozen=True, eq=False)
class Plots:
    """The tables of a case, indexed for experiments."""

    context: CaseContext

    @cached_property
    def null(self) -> TranscoderSet:
        return shuffled(self.context.transcoders, self.context.statistics.seed)

    @cached_property
    def weights(self) -> GlobalWeights:
        return global_weights(self.context.model, self.context.transcoders)

    @cached_property
    def rows(self) -> dict[str, dict[tuple[int, int], dict]]:
        """Rows of features at the last token, by transcoders and (layer, feature)."""
        frame = self.context.operands
        if frame is None or not len(frame):
            raise InputError(
                f"case {self.context.case.name}: experiments on operand plots need `operands:` in case.yaml"
            )
        frame = frame[frame["at"] == LAST]
        return {
            name: {(row["layer"], row["feature"]): row for row in group.to_dict("records")}
            for name, group in frame.groupby("transcoders")
        }


def class_evidence(
    plots: Plots, name: str, experiment: Classes, place: int, graph: Graph, settings: AttributionConfig
) -> list[dict[str, object]]:
    """Evidence rows of one prompt of an experiment of kind `classes`."""
    context = plots.context
    answer = int(context.prompts["answer_token"].iat[place])
    null = attribute(
        context.model, plots.null, context.ids[place], targets=[answer], max_feature_nodes=settings.max_feature_nodes,
        first_position=context.first_position(place),
    )  # fmt: skip
    values = {
        "effect": _class_values(graph, answer, plots.rows["own"]),
        "shuffle": _class_values(null, answer, plots.rows.get("shuffled", {})),
    }
    values["shuffle"] |= {outcome: values["effect"][f"{outcome}:control"] for outcome in BEATS}
    rows = []
    for outcome in experiment.outcomes:
        rows += [context.evidence_row(place, name, arm, outcome, found[outcome]) for arm, found in values.items()]
    return rows


def _class_values(graph: Graph, answer: int, known: Mapping[tuple[int, int], dict]) -> dict[str, float]:
    asked = (graph.kind == LOGIT) & (graph.token_id == answer)
    reached = influence(graph, asked.double()).numpy()
    direct = graph.adjacency[asked].double().sum(0).numpy()
    last = (graph.pos == int(graph.pos.max())).numpy()
    at_errors = (graph.kind == ERROR).numpy() & last
    errors = reached[at_errors].sum()
    nodes = np.flatnonzero((graph.kind == FEATURE).numpy() & last)
    found = [known.get((int(graph.layer[node]), int(graph.feature[node])), NOT_READ) for node in nodes]
    frame = pd.DataFrame(found, columns=list(NOT_READ)).assign(influence=reached[nodes], direct=direct[nodes])
    total = max(float(frame["influence"].sum() + errors), 1e-300)
    values = {
        f"share:{family}": float(frame.loc[frame["family"] == family, "influence"].sum()) / total for family in FAMILIES
    }
    values["share:error"] = float(errors) / total
    classed = frame[frame["family"].isin(CLASSED)]
    values["class_share"] = float(classed["influence"].sum()) / total
    sizes = float(frame["direct"].abs().sum() + np.abs(direct[at_errors]).sum())
    values["class_writing"] = float(classed["direct"].sum()) / max(sizes, 1e-300)
    values["class_fraction"] = len(classed) / max(1, len(frame))
    values["lookup_present"] = float((frame["family"] == "lookup").any())
    whole = max(float(classed["influence"].sum()), 1e-300)
    for outcome, (base, beside) in BEATS.items():
        for name, beats in ((outcome, base), (f"{outcome}:control", beside)):
            values[name] = float(classed.loc[classed["frequency"].isin(beats), "influence"].sum()) / whole
    labelled = classed[classed["family"] != "add"]
    values["label_wrong"] = float((labelled["label"] != labelled["family"]).mean()) if len(labelled) else 0.0
    return values


NOT_READ = {"family": "other", "frequency": 0, "label": "other"}
"""A feature active on too few prompts of the grid to be classified."""


def operand_evidence(context: CaseContext) -> pd.DataFrame:
    """Evidence rows of the experiments of kinds `wiring`, `connectivity` and `reuse`. Neurons have no rows of the first two, as
    no weights between them hold beyond one prompt."""
    plots, wired = Plots(context), not context.transcoders.exact
    rows: list[dict[str, object]] = []
    for name, experiment in context.case.experiments.items():
        if isinstance(experiment, Wiring) and wired:
            rows += _wiring(plots, name, experiment)
        elif isinstance(experiment, Connectivity) and wired:
            rows += _connectivity(plots, name, experiment)
        elif isinstance(experiment, Reuse):
            rows += _reuse(context, name, experiment)
    return table("evidence", rows)


def _reuse(context: CaseContext, name: str, experiment: Reuse) -> list[dict[str, object]]:
    prompts, places, supernode = context.prompts, context.items(experiment), experiment.of[0]
    if not places:
        return []
    own = Look(context.finder, supernode)
    looks = [("effect", "plain", own)]
    if "donor" in experiment.controls:
        looks.append(("donor", "wrong_plain", own))
    mlps = PlainOutputs(
        context.finder, own.rule, [prompts[column].iat[place] for _, column, _ in looks for place in places]
    )
    if "random" in experiment.controls:
        needed = sorted({*places, *(context.place[item] for item in prompts["plain"].iloc[places])})
        null = context.random_finder(prompts.iloc[needed])
        looks.append(("random", "plain", Look(null, supernode)))
    rows = []
    for place in places:
        row = prompts.iloc[place]
        if not own.fires(row["plain"]):
            continue
        for arm, column, look in looks:
            for outcome in experiment.outcomes:
                if outcome == "shared_activity":
                    value = look.shared(row[column], row["item"])
                else:
                    value = mlps.share(row[column], look.written(row[column], row["item"], mlps.last))
                rows.append(context.evidence_row(place, name, arm, outcome, value))
    return rows


def _wiring(plots: Plots, name: str, experiment: Wiring) -> list[dict[str, object]]:
    context, (source, target) = plots.context, experiment.of
    finder = context.finder
    ends = [finder.plotted(context.case.supernodes[end]) for end in (source, target)]
    grid = grid_prompts(context.case, context.prompts)
    active = finder.active(LAST)[grid.index.to_numpy()]
    sums = (grid["first"] + grid["second"]).to_numpy()
    fires = _fires(active[:, ends[1]].toarray(), sums)  # [sum, target]
    V = _weights(plots.weights, ends[0], ends[1], finder.width)
    together = (active[:, ends[1]].T @ active[:, ends[0]]).toarray()
    together /= np.maximum(np.asarray(active[:, ends[1]].sum(0)).ravel(), 1e-300)[:, None]
    factors = {"auc_virtual": V, "auc_twera": V * together}
    values = finder.active(LAST)[:, ends[0]].toarray()
    later = (ends[1] // finder.width)[:, None] > (ends[0] // finder.width)[None]
    assert context.case.operands is not None
    rows = []
    for place in context.items(experiment):
        row = context.records[place]
        total = int(row[context.case.operands.first]) + int(row[context.case.operands.second])
        reached = later[:, values[place] > 0].any(1)
        yes = fires[total][reached]
        generator = context.generator(context.case.name, name, row["item"])
        order = [generator.permutation(len(yes)) for _ in range(context.statistics.control_draws)]
        for outcome, weights in factors.items():
            score = (weights @ values[place])[reached]
            rows.append(context.evidence_row(place, name, "effect", outcome, _auc(score, yes)))
            rows += [
                context.evidence_row(place, name, "shuffle", outcome, _auc(score, yes[one]), draw=draw)
                for draw, one in enumerate(order)
            ]
    return rows


def _connectivity(plots: Plots, name: str, experiment: Connectivity) -> list[dict[str, object]]:
    context, finder, read = plots.context, plots.context.finder, plots.rows["own"]
    features = np.array([layer * finder.width + feature for layer, feature in read], dtype=np.int64)
    family = np.array([row["family"] for row in read.values()])
    V = _weights(plots.weights, features, features, finder.width)
    places = context.items(experiment)
    rows = []
    for place, values in zip(places, finder.active(LAST)[places][:, features].toarray(), strict=True):
        on = np.flatnonzero(values > 0)
        taken = V[np.ix_(on, on)] * values[on]
        taken, of = taken[taken.any(1)], family[on][taken.any(1)]  # features of the first layer have no inputs
        taken /= np.abs(taken).sum(1, keepdims=True)
        generator = context.generator(context.case.name, name, context.records[place]["item"])
        arms = [("effect", 0, family[on])] + [
            ("shuffle", draw, _within(features[on] // finder.width, family[on], generator))
            for draw in range(context.statistics.control_draws)
        ]
        for outcome in experiment.outcomes:
            source, target = outcome.arguments
            towards = taken[of == target]
            if len(towards):
                rows += [
                    context.evidence_row(
                        place, name, arm, outcome, float(towards[:, names == source].sum(1).mean()), draw=draw
                    )
                    for arm, draw, names in arms
                ]
    return rows


def _within(layer: Int[np.ndarray, " feature"], values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The values permuted among the features of each layer."""
    dealt = values.copy()
    for one in np.unique(layer):
        here = np.flatnonzero(layer == one)
        dealt[here] = values[generator.permutation(here)]
    return dealt


def _fires(values: Float[np.ndarray, "prompt target"], sums: Int[np.ndarray, " prompt"]) -> np.ndarray:
    """[sum, target]: whether a target's mean activation at a sum is at least half of its largest mean."""
    count = np.bincount(sums, minlength=2 * SIZE - 1)[:, None]
    total = [np.bincount(sums, column, minlength=2 * SIZE - 1) for column in values.T]
    curve = np.reshape(total, (-1, 2 * SIZE - 1)).T / np.maximum(count, 1)
    return (curve >= 0.5 * curve.max(0)) & (curve > 0)


def _weights(weights: GlobalWeights, sources: np.ndarray, targets: np.ndarray, width: int) -> np.ndarray:
    """V between the listed features, [target, source], divided by the length of each target's encoder; 0 unless the target is
    later."""
    V = np.zeros((len(targets), len(sources)))
    for low in np.unique(sources // width):
        for high in np.unique(targets // width):
            if high > low:
                to, of = targets // width == high, sources // width == low
                chosen = {"targets": (targets[to] % width).tolist(), "sources": (sources[of] % width).tolist()}
                length = weights.encoders[high][torch.as_tensor(chosen["targets"])].norm(dim=1, keepdim=True)
                block = virtual_weights(weights, int(low), int(high), **chosen) / length
                V[np.ix_(to, of)] = block.double().cpu().numpy()
    return V


def _auc(score: Float[np.ndarray, " target"], yes: Sequence[bool] | np.ndarray) -> float:
    """`statistics.auc`; 0.5 if all targets have the same mark."""
    hit = np.asarray(yes, dtype=bool)
    return 0.5 if hit.all() or not hit.any() else auc(score, hit)
