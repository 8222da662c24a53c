"""Outcomes of perturbed prompts: the model's answers and the activations of other supernodes, as rows of the evidence
table.

`measures.py` defines each. Those about numbers are read by `number_outcomes.py`. Some are about the cells of a factorial design: prompts
that differ in only one factor (operation, operand, language). A *level* is the prompt's value in a column: a bridge word, a refusal, or the answer
of the cell that an edit should lead to (`expected_language`). `kept` asks whether the named factors are unchanged when another factor has changed. An outcome
about a donor's answer has no row for a prompt without that donor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.cases.measures import Outcome as Asked
from biology.cases.perturbations import Perturbation
from biology.evidence.case_context import CaseContext, Setting
from biology.evidence.number_outcomes import OUTCOMES, read_numbers
from biology.interventions.feature_edits import Edits, Injections, Sites
from biology.interventions.protocols import Outcome, intervene
from biology.models.model import answer_token
from biology.records import InputError

P_ANSWER, P_DONOR, L_ANSWER, L_DONOR, L_WRONG, TOP_ANSWER, TOP_DONOR, P_OTHERS, LOST = range(9)
SIMPLE = {
    "answer_probability": P_ANSWER, "donor_probability": P_DONOR, "answer_top1": TOP_ANSWER, "donor_top1": TOP_DONOR,
    "answer_logit": L_ANSWER, "others_probability": P_OTHERS, "answer_lost": LOST,
}  # fmt: skip
LEVELS = ("level_top1:", "level_probability:")
KEPT = "kept:"


@dataclass(frozen=True, eq=False)
class OutcomeReader:
    """Turns logits of rows into the values of outcomes; rows of one item share its tokens."""

    context: CaseContext
    experiment: Perturbation
    places: Sequence[int]

    @cached_property
    def levels(self) -> list[str]:
        return levels(self.experiment.outcomes)

    @cached_property
    def tokens(self) -> Int[Tensor, "item token"]:
        """For each item, the tokens of its answer, its donor's and wrong donor's answers and the levels' words; -1
        without such a donor.

        Raises InputError for a donor that is not a prompt, or a level that an item lacks.
        """
        records, columns = self.context.records, []
        for place in self.places:
            row = records[place]
            answers = [int(row["answer_token"])]
            for column in (self.experiment.donor, f"wrong_{self.experiment.donor}"):
                source = row.get(column, "")
                if source and source not in self.context.place:
                    where = f"case {self.context.case.name}, prompt {row['item']}"
                    raise InputError(f"{where}: {column} '{source}' is not a prompt of the case")
                answers.append(int(records[self.context.place[source]]["answer_token"]) if source else -1)
            for level in self.levels:
                if not row.get(level):
                    where = f"case {self.context.case.name}, prompt {row['item']}"
                    raise InputError(f"{where}: has no level of '{level}', which an outcome needs")
                first = self.context.case.first_token
                answers.append(answer_token(self.context.model, row["text"], row[level], first=first))
            columns.append(answers)
        return torch.tensor(columns, dtype=torch.long).reshape(-1, 3 + len(self.levels))

    @cached_property
    def kept(self) -> dict[str, Float[Tensor, "item vocab"]]:
        context = self.context
        where = f"case {context.case.name}"
        return kept_masks(self.experiment.outcomes, context.prompts, self.places, context.model.n_vocab, where)

    @cached_property
    def others(self) -> Float[Tensor, "item vocab"]:
        """1 for the answers of the item's relation, except its own."""
        mask = torch.zeros(len(self.places), self.context.model.n_vocab)
        for row, place in enumerate(self.places):
            own = int(self.context.records[place]["answer_token"])
            same = self.context.same_relation.get(str(self.context.records[place].get("relation", "")), [])
            mask[row, [token for token in same if token != own]] = 1.0
        return mask

    def __call__(self, item: Int[Tensor, " row"], logits: Float[Tensor, "row 1 vocab"]) -> Float[Tensor, "row number"]:
        logits = logits[:, 0].double().cpu()
        probability = logits.softmax(-1)
        tokens = self.tokens[item]
        safe = tokens.clamp(min=0)
        p, raw = probability.gather(1, safe), logits.gather(1, safe) - logits.mean(-1, keepdim=True)
        top = logits.argmax(-1)
        said = (top[:, None] == tokens).double()
        p, raw, said = (torch.where(tokens >= 0, values, torch.nan) for values in (p, raw, said))
        others = (probability * self.others[item]).sum(-1)
        read = [*p[:, :2].T, *raw[:, :3].T, *said[:, :2].T, others, 1.0 - said[:, 0]]
        read += read_cells(item, top, probability, self.tokens[:, 3:], self.kept)
        if set(OUTCOMES) & set(self.experiment.outcomes):
            read += read_numbers(probability, self.context.numbers, tokens[:, 0], tokens[:, 1]).T
        return torch.stack(read, 1)

    @cached_property
    def number(self) -> dict[str, int]:
        """Index of each outcome read from the logits among a row's values."""
        names = [*cell_names(self.levels, self.kept), *OUTCOMES]
        return SIMPLE | {name: LOST + 1 + place for place, name in enumerate(names)}


@dataclass(frozen=True, eq=False)
class RowOutcomes:
    """Values of rows, and the activation of each watched supernode, [row] (NaN without members)."""

    numbers: Float[np.ndarray, "row number"]
    activation: Mapping[str, Float[np.ndarray, " row"]]


def run_rows(
    context: CaseContext, reader: OutcomeReader, prompt: Int[Tensor, " row"], edits: Edits, setting: Setting, item: Int[Tensor, " row"],
    injections: Injections | None = None,
) -> RowOutcomes:  # fmt: skip
    """Runs rows (prompt `prompt[row]`, item number `item[row]`) and reads them."""
    watched = list(dict.fromkeys(name for outcome in reader.experiment.outcomes for name in outcome.names("supernode")))
    sites, owner = watched_sites(context, watched, prompt)
    out: Outcome = intervene(
        context.model, context.transcoders, context.ids, prompt, edits, last_layer=setting.last_layer, injections=injections,
        protocol=reader.experiment.protocol, live_attention=reader.experiment.attention == "live",
        cut_direct=reader.experiment.cut_direct, watch=sites,
        readout=lambda logits, rows: reader(item[rows], logits), passes=context.passes,
    )  # fmt: skip
    activation = {}
    for index, name in enumerate(watched):
        mine = owner == index
        total = torch.zeros(len(prompt), dtype=torch.float64)
        total.index_add_(0, sites.row[mine], out.watched[mine].double())
        count = torch.bincount(sites.row[mine], minlength=len(prompt))
        activation[name] = torch.where(count > 0, total, torch.nan).numpy()
    return RowOutcomes(out.logits.numpy(), activation)


def watched_sites(
    context: CaseContext, names: Sequence[str], prompt: Int[Tensor, " row"]
) -> tuple[Sites, Int[Tensor, " site"]]:
    """The members of some supernodes in every row, and the number of each member's supernode."""
    columns = [
        (row, member.layer, member.pos, member.feature, index)
        for index, name in enumerate(names)
        for row, place in enumerate(prompt.tolist())
        for member in context.sites.get((context.identity[place][0], name), ())
    ]
    row, layer, pos, feature, owner = torch.tensor(columns, dtype=torch.long).reshape(-1, 5).unbind(1)
    return Sites(row, layer, pos, feature), owner


def evidence_rows(
    reader: OutcomeReader, name: str, setting: Setting, arm: str, repeats: int, read: RowOutcomes, clean: RowOutcomes
) -> list[dict[str, object]]:
    """Evidence rows of one arm at one strength: every outcome on every prompt, `repeats` draws each."""
    context, experiment, places = reader.context, reader.experiment, reader.places

    def row(place: int, outcome: str, arm: str, draw: int, value: float) -> dict[str, object]:
        return context.evidence_row(place, name, arm, outcome, value, draw=draw, strength=setting.strength)

    rows = []
    for number, place in enumerate(places):
        before = clean.numbers[number]
        for draw in range(repeats):
            after = read.numbers[number * repeats + draw]
            for outcome in experiment.outcomes:
                if outcome.form.unchanged is not None:
                    (label,) = outcome.arguments
                    start = clean.activation[label][number]
                    value = read.activation[label][number * repeats + draw] / start if start > 0 else np.nan
                    value = 1.0 - value if outcome.form.name == "lost" else value
                else:
                    value = _value(reader, outcome, before, after)
                if np.isfinite(value):
                    rows.append(row(place, outcome, arm, draw, float(value)))
                    if "clean" in outcome.form.beside and arm == "effect":
                        unmoved = outcome.form.unchanged
                        unmoved = _value(reader, outcome, before, before) if unmoved is None else unmoved
                        rows.append(row(place, outcome, "clean", draw, unmoved))
                    if outcome == "advantage" and arm == "effect":
                        # the same for an answer to which no path of this prompt leads
                        wrong = (after[L_WRONG] - after[L_DONOR]) / (before[L_ANSWER] - before[L_DONOR])
                        if np.isfinite(wrong):
                            rows.append(row(place, outcome, "shuffle", draw, float(wrong)))
    return rows


def _value(
    reader: OutcomeReader, outcome: Asked, before: Float[np.ndarray, " number"], after: Float[np.ndarray, " number"]
) -> float:
    if outcome in reader.number:
        return float(after[reader.number[outcome]])
    assert outcome == "advantage"
    return float((after[L_ANSWER] - after[L_DONOR]) / (before[L_ANSWER] - before[L_DONOR]))


# Cells of a design -----------------------------------------------------------------------------------------------------


def levels(outcomes: Iterable[str]) -> list[str]:
    """Factors whose level an outcome asks for as the next token."""
    return list(dict.fromkeys(outcome.split(":")[1] for outcome in outcomes if outcome.startswith(LEVELS)))


def kept_masks(
    outcomes: Iterable[str], prompts: pd.DataFrame, places: Sequence[int], n_vocab: int, where: str
) -> dict[str, Float[Tensor, "item vocab"]]:
    """For each outcome `kept:` and each item, a mask of the answers of prompts that share its factors with the item, without
    the item's own answer. Only prompts of the prompt set count, not those that are only shown by name.

    Raises InputError for a factor that no prompt has; `where` names the case.
    """
    masks = {}
    for outcome in [one for one in outcomes if one.startswith(KEPT)]:
        factors = outcome.removeprefix(KEPT).split("+")
        for factor in factors:
            if factor not in prompts:
                raise InputError(f"{where}: outcome '{outcome}': no prompt has the factor '{factor}'")
        keys = list(prompts[factors].itertuples(index=False, name=None))
        answers: dict[tuple, set[int]] = {}
        for key, token, role in zip(keys, prompts["answer_token"].tolist(), prompts["role"].tolist(), strict=True):
            if role != "show":
                answers.setdefault(key, set()).add(token)
        masks[outcome] = torch.zeros(len(places), n_vocab)
        for row, place in enumerate(places):
            own = int(prompts["answer_token"].iat[place])
            masks[outcome][row, sorted(answers[keys[place]] - {own})] = 1.0
    return masks


def read_cells(
    item: Int[Tensor, " row"], top: Int[Tensor, " row"], probability: Float[Tensor, "row vocab"],
    level: Int[Tensor, "item level"], kept: Mapping[str, Float[Tensor, "item vocab"]],
) -> list[Float[Tensor, " row"]]:  # fmt: skip
    """One value per row for each outcome, in the order of `cell_names`."""
    words = level[item]
    probabilities = probability.gather(1, words.clamp(min=0))
    return [
        *(top[:, None] == words).double().T,
        *probabilities.T,
        *(mask[item, top].double() for mask in kept.values()),
    ]


def cell_names(level: Sequence[str], kept: Mapping[str, object]) -> list[str]:
    """Names of the values of `read_cells`."""
    return [*(prefix + one for prefix in LEVELS for one in level), *kept]
