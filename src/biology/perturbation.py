"""Perturbation validation: the experiments of a case, done on every scored prompt with their controls beside them.

An experiment holds supernodes at multiples of their activations (constrained patching up to a layer, attention frozen) and
reads what the model then says and what other supernodes see. Strength and layer are chosen on development prompts, by the
outcome that the experiment names; held-out prompts are then run at that choice. The dose curve runs all strengths on the
held-out prompts at the chosen layer; it is shown and judged by nobody.

Outcomes (of one row; p is a probability, LD the logit of the answer minus that of the donor's answer):

    answer_probability   p of the prompt's answer             donor_probability   p of the donor's answer
    donor_top1           1 if the donor's answer is the most probable token
    answer_top1          1 if the prompt's answer still is
    others_probability   p of all other answers to the same relation
    advantage            LD over the clean LD                  answer_logit        demeaned logit of the answer
    activation:<name>    activation of a supernode over its clean activation
    lost:<name>          the share of its clean activation that it has lost

and those of `cell_outcomes.py` (level_top1, level_probability, kept) and, where answers are numbers, `number_outcomes.py`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.activations import FeatureCache
from biology.case import Case, Experiment
from biology.cell_outcomes import cell_names, kept_masks, levels, read_cells
from biology.config import InputError, StatisticsConfig
from biology.controls import directions, matched_sets, moved
from biology.interventions import Edits, Injections, Outcome, Sites, intervene
from biology.model import Model, answer_token, encode, token_text
from biology.number_outcomes import OUTCOMES, read_numbers, token_numbers
from biology.supernodes import position
from biology.tables import table
from biology.transcoders import TranscoderSet

Measure = Callable[..., list[dict[str, object]]]
WATCHED = ("activation:", "lost:")  # outcomes that watch a supernode
TOP_TOKENS = 5  # next tokens shown in a panel, of the clean and of the perturbed prompt each


@dataclass(frozen=True)
class Setting:
    """How hard and up to where: the multiplier M, and the last layer held."""

    strength: float
    last_layer: int


class Member(NamedTuple):
    """A feature of a supernode at its place in one prompt."""

    layer: int
    pos: int
    feature: int
    activation: float


@dataclass(frozen=True, eq=False)
class Bench:
    """What every experiment of a case needs: prompts (rows in the order of the cache) and members of supernodes."""

    model: Model
    transcoders: TranscoderSet
    case: Case
    prompts: pd.DataFrame
    members: pd.DataFrame
    cache: FeatureCache
    statistics: StatisticsConfig
    operands: pd.DataFrame | None = None
    """Table `operands` of cases that read operand plots."""

    @cached_property
    def numbers(self) -> Int[Tensor, " vocab"]:
        """The number that each token writes."""
        return token_numbers(self.model)

    @cached_property
    def ids(self) -> list[list[int]]:
        return [encode(self.model, text) for text in self.prompts["text"]]

    @cached_property
    def place(self) -> dict[str, int]:
        return {item: place for place, item in enumerate(self.prompts["item"])}

    @cached_property
    def sites(self) -> dict[tuple[str, str], list[Member]]:
        """Members by (item, supernode)."""
        found: dict[tuple[str, str], list[Member]] = {}
        columns = ["item", "supernode", "layer", "pos", "feature", "activation"]
        for item, supernode, *member in self.members[columns].itertuples(index=False, name=None):
            found.setdefault((item, supernode), []).append(Member(*member))
        return found

    @cached_property
    def identity(self) -> list[tuple[str, str, str]]:
        """Item, cluster and split of every prompt."""
        return list(self.prompts[["item", "cluster", "split"]].itertuples(index=False, name=None))

    def generator(self, *key: object) -> np.random.Generator:
        """Random numbers that depend on the seed of the configuration and on what they are for."""
        digest = hashlib.sha256("|".join(map(str, (self.statistics.seed, *key))).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def items(self, experiment: Experiment) -> list[int]:
        """Places of the scored prompts that an experiment is about."""
        chosen = self.prompts["role"] == "score"
        for column, value in experiment.only.items():
            chosen &= self.prompts[column] == value
        return np.flatnonzero(chosen & self.prompts["correct"]).tolist()

    def edits(self, experiment: Experiment, places: Sequence[int], setting: Setting, *, wrong: bool = False) -> "Push":
        """The edits of an experiment, a row for each prompt, and where the injected features come from (`wrong`: from the
        wrong donor)."""
        donor = f"wrong_{experiment.donor}" if wrong else experiment.donor
        columns: list[tuple[int, int, int, int, float, int, int]] = []
        for row, place in enumerate(places):
            item = self.prompts["item"].iat[place]
            found: dict[tuple[int, int, int], tuple[float, int, int]] = {}
            if experiment.inhibit:
                factor = setting.strength * (-experiment.suppress if experiment.kind == "swap" else 1.0)
                for site in self.sites.get((item, experiment.inhibit), ()):
                    found[site.layer, site.pos, site.feature] = (factor * site.activation, place, site.pos)
            if experiment.inject:
                source = self.prompts[donor].iat[place] if donor in self.prompts else ""
                if source not in self.place:
                    raise InputError(f"case {self.case.name}, prompt {item}: donor '{source}' is no prompt of the case")
                there = self._positions(experiment.inject, place)
                for site in self.sites.get((source, experiment.inject), ()):
                    value = setting.strength * site.activation
                    found[site.layer, there, site.feature] = (value, self.place[source], site.pos)
            columns += [(row, *site, *value) for site, value in found.items() if site[0] <= setting.last_layer]
        table_ = np.array(columns, dtype=np.float64).reshape(-1, 7)
        row, layer, pos, feature, pool, pool_pos = (
            torch.from_numpy(table_[:, i].astype(np.int64)) for i in (0, 1, 2, 3, 5, 6)
        )
        return Push(Edits(row, layer, pos, feature, torch.from_numpy(table_[:, 4])), pool, pool_pos)

    def _positions(self, supernode: str, place: int) -> int:
        key = (supernode, place)
        if key not in self._position_cache:
            row = self.prompts.iloc[place].to_dict()
            where = f"case {self.case.name}, prompt {row['item']}"
            self._position_cache[key] = position(
                self.model, row["text"], self.case.supernodes[supernode].at, row, where
            )
        return self._position_cache[key]

    @cached_property
    def _position_cache(self) -> dict[tuple[str, int], int]:
        return {}

    @cached_property
    def same_relation(self) -> dict[str, list[int]]:
        """All answer tokens to prompts that share the level of the case's relation factor."""
        if "relation" not in self.prompts:
            return {}
        groups = self.prompts.groupby("relation")["answer_token"]
        return {str(level): sorted(set(tokens)) for level, tokens in groups}


@dataclass(frozen=True, eq=False)
class Push:
    edits: Edits
    pool_prompt: Int[Tensor, " site"]
    pool_pos: Int[Tensor, " site"]


class Arm(NamedTuple):
    """What one arm of an experiment does: edits of rows, the prompt of each row, rows per prompt, and vectors added."""

    edits: Edits
    prompt: Int[Tensor, " row"]
    repeats: int
    injections: Injections | None


@dataclass(frozen=True, eq=False)
class Reader:
    """Turns logits of rows into the numbers that outcomes are made of; rows of one item share its tokens."""

    bench: Bench
    experiment: Experiment
    places: Sequence[int]

    @cached_property
    def levels(self) -> list[str]:
        return levels(self.experiment.outcomes)

    @cached_property
    def tokens(self) -> Int[Tensor, "item token"]:
        """Answer, donor's answer, wrong donor's answer and the levels' words of each item; -1 where there is none."""
        prompts, columns = self.bench.prompts, []
        for place in self.places:
            row = prompts.iloc[place]
            answers = [int(row["answer_token"])]
            for column in (self.experiment.donor, f"wrong_{self.experiment.donor}"):
                source = row.get(column, "")
                answers.append(
                    int(prompts["answer_token"].iat[self.bench.place[source]]) if source in self.bench.place else -1
                )
            for level in self.levels:
                if not row.get(level):
                    where = f"case {self.bench.case.name}, prompt {row['item']}"
                    raise InputError(f"{where}: an outcome asks for its level of '{level}', and it has none")
                answers.append(answer_token(self.bench.model, row["text"], row[level]))
            columns.append(answers)
        return torch.tensor(columns, dtype=torch.long).reshape(-1, 3 + len(self.levels))

    @cached_property
    def kept(self) -> dict[str, Float[Tensor, "item vocab"]]:
        bench = self.bench
        where = f"case {bench.case.name}"
        return kept_masks(self.experiment.outcomes, bench.prompts, self.places, bench.model.n_vocab, where)

    @cached_property
    def others(self) -> Float[Tensor, "item vocab"]:
        """1 for the answers of the item's relation, without its own."""
        mask = torch.zeros(len(self.places), self.bench.model.n_vocab)
        for row, place in enumerate(self.places):
            own = int(self.bench.prompts["answer_token"].iat[place])
            same = self.bench.same_relation.get(str(self.bench.prompts.iloc[place].get("relation", "")), [])
            mask[row, [token for token in same if token != own]] = 1.0
        return mask

    def __call__(self, item: Int[Tensor, " row"], logits: Float[Tensor, "row 1 vocab"]) -> Float[Tensor, "row number"]:
        logits = logits[:, 0].double().cpu()
        probability = logits.softmax(-1)
        tokens = self.tokens[item]
        safe = tokens.clamp(min=0)
        p, raw = probability.gather(1, safe), logits.gather(1, safe) - logits.mean(-1, keepdim=True)
        top = logits.argmax(-1)
        said = (top[:, None] == tokens[:, :2]).double()
        others = (probability * self.others[item]).sum(-1)
        read = [*p[:, :2].T, *raw[:, :3].T, *said.T, others]
        read += read_cells(item, top, probability, self.tokens[:, 3:], self.kept)
        if set(OUTCOMES) & set(self.experiment.outcomes):
            read += read_numbers(probability, self.bench.numbers, tokens[:, 0], tokens[:, 1]).T
        return torch.stack(read, 1)

    @cached_property
    def number(self) -> dict[str, int]:
        """Where each outcome that is read off the logits stands among the numbers of a row."""
        names = [*cell_names(self.levels, self.kept), *OUTCOMES]
        return SIMPLE | {name: P_OTHERS + 1 + place for place, name in enumerate(names)}


P_ANSWER, P_DONOR, L_ANSWER, L_DONOR, L_WRONG, TOP_ANSWER, TOP_DONOR, P_OTHERS = range(8)
SIMPLE = {
    "answer_probability": P_ANSWER, "donor_probability": P_DONOR, "answer_top1": TOP_ANSWER, "donor_top1": TOP_DONOR,
    "answer_logit": L_ANSWER, "others_probability": P_OTHERS,
}  # fmt: skip


def run_experiments(bench: Bench) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `evidence` and `panel` of all experiments of a case that perturb.

    Raises InputError where a named prompt lacks its donor or an experiment asks for an outcome that does not exist.
    """
    case, prompts = bench.case, bench.prompts
    evidence: list[dict[str, object]] = []
    panel: list[dict[str, object]] = []
    for name, experiment in case.experiments.items():
        if experiment.kind not in ("inhibit", "swap", "inject") or experiment.line is not None:
            continue
        places = bench.items(experiment)
        dev = [place for place in places if prompts["split"].iat[place] == "dev"]
        setting = choose(bench, name, experiment, dev, evidence)
        tqdm.write(
            f"{name}: M = {setting.strength:g}, layers up to {setting.last_layer}, chosen on {len(dev)} development prompts"
        )
        evidence += measure(bench, name, experiment, places, setting, experiment.controls)
        heldout = [place for place in places if prompts["split"].iat[place] == "heldout"]
        if experiment.dose:
            for strength in experiment.strengths:
                dose = Setting(strength, setting.last_layer)
                evidence += measure(bench, f"{name}/dose", experiment, heldout, dose, ("match",), draws=2)
        panel += show(bench, name, experiment, setting)
    return table("evidence", evidence), table("panel", panel)


def choose(
    bench: Bench, name: str, experiment: Experiment, dev: Sequence[int], evidence: list[dict[str, object]],
    measured: Measure | None = None,
) -> Setting:  # fmt: skip
    """Strength and last layer with the largest mean effect minus matched control on development prompts.

    The first outcome of the experiment decides, in the direction it states; the grid is kept as `<name>/dev`.
    `measured` gives the rows of evidence, by default `measure`.
    """
    measured = measured or measure
    n_layers = bench.model.n_layers
    layers = sorted({max(0, int(np.ceil(depth * n_layers)) - 1) for depth in experiment.depths})
    grid = [Setting(strength, layer) for layer in layers for strength in experiment.strengths]
    if len(grid) == 1 or not dev:
        return grid[0]
    sign = 1.0 if experiment.direction == "increase" else -1.0
    best, best_score = grid[0], -np.inf
    for setting in grid:
        rows = measured(bench, f"{name}/dev{setting.last_layer}", experiment, dev, setting, ("match",), draws=2)
        evidence += rows
        frame = pd.DataFrame(rows)
        means = frame[frame["outcome"] == experiment.outcomes[0]].groupby("arm")["value"].mean()
        score = sign * (means["effect"] - means["match"])
        if score > best_score + 1e-9:
            best, best_score = setting, score
    return best


def measure(
    bench: Bench, name: str, experiment: Experiment, places: Sequence[int], setting: Setting, controls: Sequence[str],
    draws: int | None = None,
) -> list[dict[str, object]]:  # fmt: skip
    """Rows of the evidence table: the effect and each control arm, for every prompt."""
    prompt = torch.tensor(places, dtype=torch.long)
    reader = Reader(bench, experiment, places)
    clean = run_rows(bench, reader, prompt, no_edits(), setting, torch.arange(len(places)))
    rows: list[dict[str, object]] = []
    for arm, (edits, row_prompt, repeats, injections) in arms(
        bench, name, experiment, places, setting, controls, draws
    ).items():
        item = torch.arange(len(places)).repeat_interleave(repeats)
        outcome = run_rows(bench, reader, row_prompt, edits, setting, item, injections)
        rows += _rows(reader, name, setting, arm, repeats, outcome, clean)
    return rows


def arms(
    bench: Bench, name: str, experiment: Experiment, places: Sequence[int], setting: Setting, controls: Sequence[str],
    draws: int | None = None,
) -> dict[str, Arm]:  # fmt: skip
    """What the effect and each control arm do: `repeats` rows for every prompt, one after the other."""
    draws = bench.statistics.control_draws if draws is None else draws
    prompt = torch.tensor(places, dtype=torch.long)
    push = bench.edits(experiment, places, setting)
    key = (bench.case.name, name, setting.strength, setting.last_layer)
    arms = {"effect": Arm(push.edits, prompt, 1, None)}
    for control in controls:
        if control == "match":
            sets = matched_sets(
                bench.transcoders, bench.cache, prompt, push.edits, bench.generator(*key, control), draws=draws,
                last_layer=setting.last_layer, pool_prompt=push.pool_prompt, pool_pos=push.pool_pos,
            )  # fmt: skip
            arms[control] = Arm(sets.edits, sets.prompt, draws, None)
        elif control == "direction":
            vectors, rows = directions(
                bench.transcoders, bench.cache, prompt, push.edits, bench.generator(*key, control), draws=1,
                last_layer=setting.last_layer,
            )  # fmt: skip
            arms[control] = Arm(no_edits(), rows, 1, vectors)
        elif control == "donor":
            arms[control] = Arm(bench.edits(experiment, places, setting, wrong=True).edits, prompt, 1, None)
        elif control == "position":
            elsewhere = positions_of(bench, places, experiment.elsewhere)
            arms[control] = Arm(moved(bench.cache, prompt, push.edits, elsewhere[push.edits.row]), prompt, 1, None)
    return arms


def no_edits() -> Edits:
    empty = torch.zeros(0, dtype=torch.long)
    return Edits(empty, empty, empty, empty, torch.zeros(0, dtype=torch.float64))


def positions_of(bench: Bench, places: Sequence[int], at: str) -> Int[Tensor, " item"]:
    """The position that `at` names in each of some prompts."""
    rows = [bench.prompts.iloc[place].to_dict() for place in places]
    where = f"case {bench.case.name}, prompt"
    return torch.tensor([position(bench.model, row["text"], at, row, f"{where} {row['item']}") for row in rows])


@dataclass(frozen=True, eq=False)
class Read:
    """Numbers of rows, and the activation of each watched supernode, [row] (NaN where it has no members)."""

    numbers: Float[np.ndarray, "row number"]
    activation: Mapping[str, Float[np.ndarray, " row"]]


def run_rows(
    bench: Bench, reader: Reader, prompt: Int[Tensor, " row"], edits: Edits, setting: Setting, item: Int[Tensor, " row"],
    injections: Injections | None = None,
) -> Read:  # fmt: skip
    """Run rows (prompt `prompt[row]`, item number `item[row]`) and read them."""
    asked = [outcome.split(":")[1] for outcome in reader.experiment.outcomes if outcome.startswith(WATCHED)]
    watched = list(dict.fromkeys(asked))
    sites, owner = _watch(bench, watched, prompt)
    out: Outcome = intervene(
        bench.model, bench.transcoders, bench.ids, prompt, edits, last_layer=setting.last_layer, injections=injections,
        protocol=reader.experiment.protocol, live_attention=reader.experiment.attention == "live", watch=sites,
        readout=lambda logits, rows: reader(item[rows], logits),
    )  # fmt: skip
    activation = {}
    for index, name in enumerate(watched):
        mine = owner == index
        total = torch.zeros(len(prompt), dtype=torch.float64)
        total.index_add_(0, sites.row[mine], out.watched[mine].double())
        count = torch.bincount(sites.row[mine], minlength=len(prompt))
        activation[name] = torch.where(count > 0, total, torch.nan).numpy()
    return Read(out.logits.numpy(), activation)


def _watch(bench: Bench, names: Sequence[str], prompt: Int[Tensor, " row"]) -> tuple[Sites, Int[Tensor, " site"]]:
    """The members of some supernodes in every row, and the number of the supernode that each belongs to."""
    columns = [
        (row, member.layer, member.pos, member.feature, index)
        for index, name in enumerate(names)
        for row, place in enumerate(prompt.tolist())
        for member in bench.sites.get((bench.identity[place][0], name), ())
    ]
    row, layer, pos, feature, owner = torch.tensor(columns, dtype=torch.long).reshape(-1, 5).unbind(1)
    return Sites(row, layer, pos, feature), owner


def _rows(
    reader: Reader, name: str, setting: Setting, arm: str, repeats: int, read: Read, clean: Read
) -> list[dict[str, object]]:
    bench, experiment, places = reader.bench, reader.experiment, reader.places

    def base(place: int, outcome: str, arm: str, draw: int, value: float) -> dict[str, object]:
        item, cluster, split = bench.identity[place]
        return {
            "item": item, "cluster": cluster, "split": split, "experiment": name, "arm": arm, "draw": draw,
            "strength": setting.strength, "outcome": outcome, "value": value,
        }  # fmt: skip

    rows = []
    for number, place in enumerate(places):
        before = clean.numbers[number]
        for draw in range(repeats):
            after = read.numbers[number * repeats + draw]
            for outcome in experiment.outcomes:
                if outcome.startswith(WATCHED):
                    label = outcome.split(":")[1]
                    start = clean.activation[label][number]
                    value = read.activation[label][number * repeats + draw] / start if start > 0 else np.nan
                    value = 1.0 - value if outcome.startswith("lost:") else value
                else:
                    value = _value(reader, outcome, before, after)
                if np.isfinite(value):
                    rows.append(base(place, outcome, arm, draw, float(value)))
                    if outcome == "answer_logit" and arm == "effect":
                        rows.append(base(place, outcome, "clean", draw, _value(reader, outcome, before, before)))
                    if outcome == "advantage" and arm == "effect":
                        # the same for an answer that no path of this prompt leads to
                        wrong = (after[L_WRONG] - after[L_DONOR]) / (before[L_ANSWER] - before[L_DONOR])
                        rows.append(base(place, outcome, "shuffle", draw, float(wrong)))
    return rows


def _value(
    reader: Reader, outcome: str, before: Float[np.ndarray, " number"], after: Float[np.ndarray, " number"]
) -> float:
    if outcome in reader.number:
        return float(after[reader.number[outcome]])
    if outcome == "advantage":
        return float((after[L_ANSWER] - after[L_DONOR]) / (before[L_ANSWER] - before[L_DONOR]))
    raise InputError(
        f"unknown outcome '{outcome}'; known: {', '.join((*SIMPLE, *OUTCOMES))}, level_top1:<factor>, "
        "level_probability:<factor>, kept:<factor>+<factor>, advantage, activation:<name>, lost:<name>"
    )


def show(bench: Bench, name: str, experiment: Experiment, setting: Setting) -> list[dict[str, object]]:
    """Panel rows of the named prompts: activation of every supernode as a share of clean, and the top next tokens."""
    rows: list[dict[str, object]] = []
    for item in experiment.prompts:
        place = bench.place[item]
        names = [label for label in bench.case.supernodes if (item, label) in bench.sites]
        sites, owner = _watch(bench, names, torch.tensor([place, place]))
        push = bench.edits(experiment, [place], setting).edits
        out = intervene(
            bench.model, bench.transcoders, bench.ids, torch.tensor([place, place]), push, last_layer=setting.last_layer, watch=sites,
            protocol=experiment.protocol, live_attention=experiment.attention == "live",
        )  # fmt: skip  # row 0 is edited, row 1 is clean
        common = {"item": item, "experiment": name, "strength": setting.strength}
        for index, label in enumerate(names):
            after, clean = (float(out.watched[(owner == index) & (sites.row == row)].sum()) for row in (0, 1))
            if clean > 0:
                rows.append(
                    {**common, "supernode_or_token": label, "kind": "activation", "clean": 1.0, "value": after / clean}
                )
        probability = out.logits[:, 0].double().softmax(-1)
        shown = dict.fromkeys(int(token) for row in (1, 0) for token in probability[row].topk(TOP_TOKENS).indices)
        rows += [
            {
                **common, "supernode_or_token": token_text(bench.model, token), "kind": "probability",
                "clean": float(probability[1, token]), "value": float(probability[0, token]),
            }
            for token in shown
        ]  # fmt: skip
    return rows
