"""Experiments that write lines: rows of evidence for every prompt, arm and strength, and the lines that are shown.

`measures.py` defines the outcomes; log-odds are those of the first new token, relative to the clean prompt. An outcome about a
donor, or about a planned word, has no row for a prompt without one.
"""

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from biology.cases.case import Case
from biology.cases.perturbations import BEST, Exchange, Perturbation
from biology.config import StatisticsConfig
from biology.evidence.case_context import CaseContext, PromptContext, Setting
from biology.evidence.mean_streams import answered
from biology.evidence.perturbation import Arm, arms, choose, no_edits, positions_of
from biology.evidence.written_lines import PerturbedPass, Words, Written, exchanged, held, text, write
from biology.interventions.controls import matched_sets, moved
from biology.interventions.feature_edits import Edits
from biology.models.model import Model
from biology.records import InputError
from biology.tables import ELSEWHERE, best_site, table

Writing = Perturbation | Exchange
"""Experiments that may write lines."""


ABOUT_OWN = ("line_ends_own", "line_ends_rhyme", "ending_log_odds")


ABOUT_PLANNED = ("line_ends_donor", "ending_log_odds")


ABOUT_DONOR = ("line_starts_donor", "answer_log_odds", "answer_moves")


def run_lines(context: CaseContext) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `evidence` and `panel` (kind `line`: the lines of named prompts) of the experiments that write lines."""
    evidence: list[dict[str, object]] = []
    panel: list[dict[str, object]] = []
    for name, experiment in context.case.of_kind(Perturbation, Exchange).items():
        if experiment.line is None:
            continue
        places = context.items(experiment)
        split = [context.prompts["split"].iat[place] for place in places]
        dev, heldout = ([p for p, of in zip(places, split, strict=True) if of == which] for which in ("dev", "heldout"))
        setting = Setting(1.0, context.model.n_layers - 1)
        if isinstance(experiment, Perturbation):
            setting = choose(context, name, experiment, dev, evidence, measure_lines)
        tqdm.write(f"{name}: M = {setting.strength:g}, chosen on {len(dev)} development prompts; writing lines")
        if isinstance(experiment, Perturbation) and experiment.control_position == BEST:
            at = best_elsewhere(context, name, experiment, dev, heldout, setting, evidence)
            experiment = experiment.model_copy(update={"control_position": at})
            tqdm.write(f"{name}: of other positions, {at} moves most")
        evidence += measure_lines(context, name, experiment, heldout, setting, experiment.controls, samples=True)
        if isinstance(experiment, Perturbation):
            for strength in experiment.strengths if experiment.dose else ():
                dose = Setting(strength, setting.last_layer)
                evidence += measure_lines(context, f"{name}/dose", experiment, heldout, dose, ("match",), draws=2)
            evidence += sweep(context, f"{name}/sweep", experiment, heldout, setting, experiment.sites)
        panel += panel_rows(context, name, experiment, setting)
    return table("evidence", evidence), table("panel", panel)


def exchange_lines(model: Model, case: Case, statistics: StatisticsConfig) -> pd.DataFrame:
    """Table `streams` of the experiments that exchange a position's stream in all layers (`layer` 0): whether the greedy line
    then ends in the donor's word. Arm `position` is the control. No transcoder is involved.

    Prompt sets whose answers are gated by another prompt (`gated_by`) are left out.
    """
    prompts = answered(model, case) if case.items else pd.DataFrame()
    named = case.of_kind(Exchange)
    if not named or "donor" not in prompts or "gated_by" in prompts:
        return table("streams", [])
    context = PromptContext(model, case, prompts, statistics)
    rows: list[dict[str, object]] = []
    for name, experiment in named.items():
        known = prompts["correct"].tolist()
        places = [place for place, donor in _with_donors(context, experiment) if known[donor]]
        if not places:
            continue
        words = Words(context, experiment.line, places)
        for arm, steps in _exchanges(context, name, experiment, words, experiment.controls).items():
            written = write(context, words, torch.arange(len(places)), steps(1), None)
            for number, place in enumerate(places):
                if not words.planned[number]:
                    continue
                item, cluster, split = context.identity[place]
                ends = words.ending(written.lines[number]) == words.planned[number]
                rows.append(
                    {
                        "case": case.name, "item": item, "cluster": cluster, "split": split, "stream": name, "layer": 0,
                        "arm": arm, "value": float(ends),
                    }
                )  # fmt: skip
    return table("streams", rows)


def _with_donors(context: PromptContext, experiment: Exchange) -> list[tuple[int, int]]:
    """(place, donor's place) of the scored prompts of an experiment that have a donor."""
    donors = [context.place.get(item, -1) for item in context.prompts["donor"]]
    return [(place, donors[place]) for place in context.items(experiment) if donors[place] >= 0]


def measure_lines(
    context: CaseContext, name: str, experiment: Writing, places: Sequence[int], setting: Setting, controls: Sequence[str],
    draws: int | None = None, samples: bool = False,
) -> list[dict[str, object]]:  # fmt: skip
    """Rows of the evidence table for every prompt: the effect, each control arm and the clean prompt (arm `clean`).

    With `samples`, lines are sampled if the experiment asks for it, clean ones too; for each matched set, only one.
    """
    assert experiment.line is not None
    if not places:
        return []  # no prompt passed the gate
    words = Words(context, experiment.line, places)
    each = torch.arange(len(places))
    count = experiment.line.samples if samples else 0
    before, rows = None, []
    unheld = {"clean": (lambda times: held(context, no_edits()), 1)}
    for arm, (steps, repeats) in (unheld | _steps(context, name, experiment, words, setting, controls, draws)).items():
        times = max(1, count) if repeats == 1 else 1
        generator = context.generator(context.case.name, name, setting.strength, arm, "lines") if count else None
        written = write(context, words, each.repeat_interleave(repeats * times), steps(times), generator)
        before = written.logits[::times] if before is None else before
        rows += _rows(words, name, experiment, setting, arm, repeats * times, written, before)
    return rows


def _steps(
    context: CaseContext,
    name: str,
    experiment: Writing,
    words: Words,
    setting: Setting,
    controls: Sequence[str],
    draws: int | None,
):  # noqa: ANN202
    """For every arm, its number of rows per prompt, and a function from the number of lines per row to the reader of the
    rows."""
    if isinstance(experiment, Exchange):
        return {arm: (of, 1) for arm, of in _exchanges(context, name, experiment, words, controls).items()}
    found = arms(context, name, experiment, words.places, setting, controls, draws)
    return {
        arm: (lambda times, one=one: held(context, repeated(one, times)), one.repeats) for arm, one in found.items()
    }


def _exchanges(
    context: PromptContext, name: str, experiment: Exchange, words: Words, controls: Sequence[str]
) -> dict[str, Callable[[int], PerturbedPass]]:
    """For every arm of an exchange, a function from the number of lines per row to the reader of the rows."""
    places, donors = words.places, words.donors
    sites = {"effect": experiment.at} | ({"position": experiment.control_position} if "position" in controls else {})
    if min(donors, default=0) < 0:
        raise InputError(f"case {context.case.name}: experiment '{name}' exchanges with donors, but a prompt has none")

    def of(at: str) -> Callable[[int], PerturbedPass]:
        each = (torch.tensor(donors), positions_of(context, places, at), positions_of(context, donors, at))
        return lambda times: exchanged(context, *(part.repeat_interleave(times) for part in each))

    return {arm: of(at) for arm, at in sites.items()}


def repeated(arm: Arm, times: int) -> Edits:
    """The edits of an arm with each row repeated `times` times in succession."""
    edits, copies = arm.edits, torch.arange(times)
    row = (edits.row[:, None] * times + copies).flatten()
    layer, pos, feature, value = (
        part.repeat_interleave(times) for part in (edits.layer, edits.pos, edits.feature, edits.value)
    )
    return Edits(row, layer, pos, feature, value)


def best_elsewhere(
    context: CaseContext, name: str, experiment: Perturbation, dev: Sequence[int], heldout: Sequence[int], setting: Setting,
    evidence: list[dict[str, object]],
) -> str:  # fmt: skip
    """Of the experiment's `sites` that hold its supernodes in no prompt, the one at which the same push does most.

    Development prompts decide, as for strengths; their rows are kept as `<name>/elsewhere`. Without any, the first site is
    taken. Raises InputError if there is no such site.
    """
    places = [*dev, *heldout]
    own = torch.stack([positions_of(context, places, context.case.supernodes[one].at) for one in experiment.held])
    sites = [at for at in experiment.sites if not bool((positions_of(context, places, at) == own).any())]
    if not sites:
        raise InputError(
            f"case {context.case.name}: experiment '{name}': the supernodes are at every one of its `sites`"
        )
    rows = sweep(context, f"{name}/{ELSEWHERE}", experiment, dev, setting, sites)
    evidence += rows
    best = best_site(table("evidence", rows), experiment.outcomes[0], experiment.direction)
    return sites[0] if best is None else experiment.sites[best]


def sweep(
    context: CaseContext,
    name: str,
    experiment: Perturbation,
    places: Sequence[int],
    setting: Setting,
    sites: Sequence[str],
) -> list[dict[str, object]]:
    """The same push at some of the experiment's `sites` (`draw` is the site's number), and one matched set moved in the same
    way."""
    assert experiment.line is not None
    if not sites or not places:
        return []
    words, prompt = Words(context, experiment.line, places), torch.tensor(places)
    each = torch.arange(len(places))
    push = context.edits(experiment, places, setting)
    control = matched_sets(
        context.transcoders, context.cache, prompt, push.edits, context.generator(context.case.name, name), draws=1,
        last_layer=setting.last_layer, pool_prompt=push.pool_prompt, pool_pos=push.pool_pos,
    )  # fmt: skip
    rows = []
    for at in sites:
        there, number = positions_of(context, places, at), experiment.sites.index(at)
        for arm, edits in (("effect", push.edits), ("match", control.edits)):
            steps = held(context, moved(context.cache, prompt, edits, there[edits.row]))
            written = write(context, words, each, steps, None)
            found = _rows(words, name, experiment, setting, arm, 1, written, written.logits)
            rows += [row | {"draw": number} for row in found if str(row["outcome"]).startswith("line_")]
    return rows


def _rows(
    words: Words,
    name: str,
    experiment: Writing,
    setting: Setting,
    arm: str,
    repeats: int,
    written: Written,
    clean: Float[Tensor, "item vocab"],
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    before = clean.double().log_softmax(-1)
    after = written.logits.double().log_softmax(-1)
    for number, place in enumerate(words.places):
        for draw in range(repeats):
            row = number * repeats + draw
            for outcome in experiment.outcomes:
                value = _value(outcome, words, number, written.lines[row], after[row] - before[number])
                if value is None:
                    continue
                rows.append(
                    words.context.evidence_row(place, name, arm, outcome, value, draw=draw, strength=setting.strength)
                )
    return rows


def _value(outcome: str, words: Words, number: int, line: list[int], change: Float[Tensor, " vocab"]) -> float | None:
    """An outcome of one line; None if the prompt lacks what it is about."""
    end, own, planned = words.ending(line), words.own[number], words.planned[number]
    answer, other = words.answers[number].tolist()
    if (
        (outcome in ABOUT_OWN and not own)
        or (outcome in ABOUT_PLANNED and not planned)
        or (outcome in ABOUT_DONOR and other < 0)
    ):
        return None
    if outcome == "line_ends_own":
        return float(end == own)
    if outcome == "line_ends_donor":
        return float(end == planned)
    if outcome == "line_ends_family":
        return float(end in words.rhymes[number])
    if outcome == "line_ends_rhyme":
        return float(end != own and end in words.rhymes[number])
    if outcome == "line_starts_donor":
        return float(line[0] == other)
    if outcome == "answer_log_odds":
        return float(change[other] - change[answer])
    if outcome == "answer_moves":
        return float(change[other] > change[answer])
    assert outcome == "ending_log_odds"
    return float(change[words.token(number, planned)] - change[words.token(number, own)])


def panel_rows(context: CaseContext, name: str, experiment: Writing, setting: Setting) -> list[dict[str, object]]:
    """Panel rows of the named prompts, one per different line. `clean`: it is the unperturbed line; `value`: it is the line
    under the perturbation; `control`: it is the line under the first control (one set of matched features)."""
    rows: list[dict[str, object]] = []
    assert experiment.line is not None
    for item in experiment.prompts:
        words = Words(context, experiment.line, [context.place[item]])
        one = torch.zeros(1, dtype=torch.long)
        found = _steps(context, f"{name}/{item}", experiment, words, setting, experiment.controls[:1], 1)
        steps = [held(context, no_edits()), *(of(1) for of, _ in found.values())]
        lines = [text(context.model, write(context, words, one, step, None).lines[0]) for step in steps]
        rows += [
            {
                "item": item, "experiment": name, "strength": setting.strength, "supernode_or_token": line, "kind": "line",
                "clean": float(line == lines[0]), "value": float(line == lines[1]),
                "control": float(line == lines[2]) if len(lines) > 2 else float("nan"),
            }
            for line in dict.fromkeys(lines)
        ]  # fmt: skip
    return rows
