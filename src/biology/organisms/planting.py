"""Planting: losses that make a model compute as a mechanism states, in addition to giving the right answers.

Each variable of a causal model (`mechanism.py`) must have three properties while the model is trained:

* **readable**: its value can be read from the residual stream at its site, by a linear probe or through the unembedding;
* **exchangeable**: if the MLP outputs at its site are replaced by the mean over prompts that share only another value, the
  model gives the answer that the causal model gives with the variable set to that value;
* **absent**: with the mean over all prompts there, or a point beyond this mean, the model gives the answer that the mechanism states
  for an absent variable.

Most interchange interventions replace MLP outputs, so that later layers rely on what transcoders can see; a share `STREAMS` of them
replaces the residual stream. Gradients flow through both passes. After Geiger et al., *Inducing Causal Structure for Interpretable Neural Networks* (2022), and Gupta et al.,
*InterpBench* (2024).
"""

# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from biology.cases.mechanism import Variable, named
from biology.organisms.lesson import Lesson
from biology.organisms.taps import Patch, Seen, Tap
from biology.organisms.variable_sites import Site

BEYOND = 2.0
"""An absent variable's site gets a point on the line from the prompt's own value through the mean of all prompts: the mean, or up
to this many times their distance beyond it, as suppressed features go there (not for variables of two values, where the other value
lies there)."""
STREAMS = 0.3
"""Share of exchanges that replace residual streams instead of MLP outputs."""
FROZEN = 0.5
"""Share of steps with attention patterns frozen at the prompt's during exchanges and absences: a variable then acts through what is
read, not by changing where attention looks; or not at all, if the mechanism says so (`attention: decides`)."""
FAR = 2
"""Number of prompts whose mean replaces a prompt's own value."""


@dataclass(frozen=True)
class Amounts:
    """Prompts per step of a lesson: plain ones, and exchanges and absences of each variable."""

    plain: int = 64
    exchanged: int = 32
    absent: int = 8
    begin: int = 0
    """The step at which interventions begin."""
    weight: float = 1.0
    """Weight of the exchange loss (mean over variables), relative to the loss of plain answers. The more prompts can be learnt by
    heart, the larger it must be."""


@dataclass(frozen=True)
class Exchange:
    """Rows of a batch whose variable gets another value: the rows whose mean provides it, and the answers that follow."""

    variable: str
    rows: Int[np.ndarray, " exchanged"]
    donors: Int[np.ndarray, "exchanged donor"]
    answers: Int[Tensor, " exchanged"]


class Planter:
    """The losses of one lesson at one step."""

    def __init__(self, lesson: Lesson, amounts: Amounts, model):
        self.lesson, self.amounts, self.tap = lesson, amounts, Tap(model)
        width = model.config.hidden_size
        self.exchanged = [name for name, variable in lesson.mechanism.variables.items() if variable.exchanged]
        self._changed: dict[tuple[str, int], set[int]] = {}
        self.probes = torch.nn.ModuleDict()
        for name, variable in lesson.mechanism.variables.items():
            if variable.read == "probe":
                self.probes[name] = torch.nn.Linear(variable.subspace or width, len(lesson.levels[name]))

    def loss(self, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """The losses of a step by name: answer, readable and, once interventions have begun, exchanged and absent."""
        lesson = self.lesson
        base = self._batch(rng)
        index = torch.from_numpy(base)
        ids, dealt = self._ids(index), lesson.dealt(rng, len(base)) if lesson.renamed else None
        if dealt is not None:
            ids = dealt.gather(1, ids)
        clean = self.tap.run(ids)
        last = lesson.length[index] - 1
        answers = _renamed(dealt, torch.arange(len(base)), lesson.answer[index])
        losses = {"answer": self._cross_entropy(clean.hidden[torch.arange(len(base)), last], answers)}
        losses["readable"] = self._readable(index, clean.streams)
        if step >= self.amounts.begin:
            losses |= self._interventions(rng, index, clean, dealt)
        return losses

    def _batch(self, rng: np.random.Generator) -> Int[np.ndarray, " row"]:
        """Taught prompts: one half at random, and for each of these a prompt that shares its value of one variable."""
        lesson = self.lesson
        first = lesson.taught[rng.integers(0, len(lesson.taught), self.amounts.plain // 2)]
        shared = rng.integers(0, len(self.exchanged), len(first)) if self.exchanged else []
        mates = [
            lesson.donors(rng, self.exchanged[which], int(lesson.level[self.exchanged[which]][row]), 1)
            for row, which in zip(first, shared, strict=False)
        ]
        return np.concatenate([first, *mates])

    def _ids(self, index: Tensor) -> Tensor:
        return self.lesson.ids[index, : int(self.lesson.length[index].max())]

    def _scores(self, hidden: Tensor) -> Tensor:
        return hidden @ self.tap.model.lm_head.weight.T

    def _cross_entropy(self, hidden: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self._scores(hidden), target)

    def _readable(self, index: Tensor, streams: dict[int, Tensor]) -> Tensor:
        lesson, total = self.lesson, []
        rows = torch.arange(len(index))
        for name, variable in lesson.mechanism.variables.items():
            if variable.read == "none":
                continue
            where = lesson.sites[name]
            stream = streams[where.layers[-1]][rows, where.position[index]]
            level = lesson.level[name][index]
            if variable.read == "unembedding":
                scores = self.tap.model.model.norm(stream) @ self.tap.model.lm_head.weight[lesson.words[name]].T
            else:
                normed = stream / stream.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt()
                scores = self.probes[name](normed if where.basis is None else 3 * normed @ where.basis)
            total.append(torch.nn.functional.cross_entropy(scores, level))
        return torch.stack(total).sum() if total else torch.zeros(())

    def _exchanges(
        self, rng: np.random.Generator, base: np.ndarray, name: str, donors: Mapping[int, np.ndarray], most: int
    ) -> Exchange | None:
        """At most `most` exchanges of a variable; `donors` holds the possible donors for each level."""
        lesson, variable = self.lesson, self.lesson.mechanism.variables[name]
        levels = list(donors)
        rows, given, answers = [], [], []
        for row in rng.permutation(len(base)):
            possible = self._changing(name, levels, int(base[row])) if variable.changing else []
            level = self._another(rng, name, variable, possible or levels, int(base[row]))
            answer = lesson.causal.after(int(base[row]), {name: lesson.levels[name][level]})
            if answer is None:
                continue
            rows.append(row)
            given.append(donors[level][rng.integers(0, len(donors[level]), FAR)])
            answers.append(lesson.token(answer))
            if len(rows) == most:
                break
        return Exchange(name, np.array(rows), np.stack(given), torch.tensor(answers)) if rows else None

    def _another(self, rng: np.random.Generator, name: str, variable: Variable, levels: list[int], row: int) -> int:
        if variable.near is None:
            return levels[rng.integers(len(levels))]
        values, own = self.lesson.levels[name], int(self.lesson.causal.values[row][name])
        close = [level for level in levels if abs(int(values[level]) - own) <= variable.near]
        return (close or levels)[rng.integers(len(close or levels))]

    def _changing(self, name: str, levels: list[int], row: int) -> list[int]:
        """The levels of a variable that change the answer to a prompt."""
        key, causal = (name, row), self.lesson.causal
        if key not in self._changed:
            answers = [causal.after(row, {name: value}) for value in self.lesson.levels[name]]
            own = str(causal.rows[row]["answer"])
            self._changed[key] = {n for n, one in enumerate(answers) if one is not None and str(one) != own}
        return [level for level in levels if level in self._changed[key]]

    def _interventions(
        self, rng: np.random.Generator, index: Tensor, clean: Seen, dealt: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One pass over all patched rows: exchanges first, then absences. Donors come from the batch itself."""
        lesson = self.lesson
        patches, origins, hard, soft = [], [], [], []
        start = 0
        for name in self.exchanged:
            found = self._exchanges(rng, index.numpy(), name, self._rows_by_level(name, index), self.amounts.exchanged)
            if found is None:
                continue
            where, n = lesson.sites[name], len(found.rows)
            taken = torch.from_numpy(found.donors.reshape(-1))
            position = where.position[index[taken]]
            what = "stream" if rng.random() < STREAMS else "mlp"
            layers, seen = ([where.layers[-1]], clean.streams) if what == "stream" else (where.layers, clean.outputs)
            value = {layer: seen[layer][taken, position].view(n, FAR, -1).mean(1) for layer in layers}
            origins.append(torch.from_numpy(found.rows))
            base = index[origins[-1]]
            patches.append(Patch(where, torch.arange(start, start + n), where.position[base], value, what))
            hard.append(found.answers)
            start += n
        n_exchanged = start
        for name, variable in lesson.mechanism.variables.items():
            if variable.absent is None:
                continue
            where = lesson.sites[name]
            origins.append(torch.from_numpy(rng.integers(0, len(index), self.amounts.absent)))
            base, n = index[origins[-1]], self.amounts.absent
            value = self._absent(rng, name, variable, where, index, clean.outputs, origins[-1])
            patches.append(Patch(where, torch.arange(start, start + n), where.position[base], value))
            for row in base.tolist():
                soft.append([lesson.token(one) for one in lesson.causal.without(row, name) or []])
            start += n
        if not patches:
            return {}
        origin = torch.cat(origins)
        rows, ids = index[origin], self._ids(index)[origin]
        if dealt is not None:
            ids = dealt[origin].gather(1, ids)
            hard = [_renamed(dealt, of, answers) for of, answers in zip(origins, hard, strict=False)]
            soft = [dealt[row, tokens].tolist() for row, tokens in zip(origin[n_exchanged:], soft, strict=True)]
        frozen = {part: tensor[origin] for part, tensor in clean.patterns.items()} if rng.random() < FROZEN else None
        if frozen is not None and lesson.mechanism.attention == "decides":  # it keeps looking where it did
            own = _renamed(dealt, origin, lesson.answer[rows])
            hard = list(own[:n_exchanged].split([len(answers) for answers in hard]))
            soft = [[int(token)] for token in own[n_exchanged:]]
        hidden = self.tap.run(ids, patches, frozen).hidden
        scores = self._scores(hidden[torch.arange(len(rows)), lesson.length[rows] - 1])
        losses = {}
        if n_exchanged:
            each = scores[:n_exchanged].split([len(answers) for answers in hard])
            losses["exchanged"] = (
                self.amounts.weight
                * torch.stack(
                    [torch.nn.functional.cross_entropy(one, answers) for one, answers in zip(each, hard, strict=True)]
                ).mean()
            )
        if soft:
            target = torch.zeros(len(soft), scores.shape[-1])
            for row, tokens in enumerate(soft):
                target[row, tokens] = 1 / len(tokens)
            spread = -(target * target.clamp_min(1e-9).log()).sum(-1).mean()
            losses["absent"] = torch.nn.functional.cross_entropy(scores[n_exchanged:], target) - spread
        return losses

    @torch.no_grad()
    def accuracy(self, rng: np.random.Generator, split: str, most: int = 200) -> dict[str, float]:
        """Shares of right answers on prompts of a split: plain, and with each variable set to another value."""
        lesson = self.lesson
        there = np.array([row for row, one in enumerate(lesson.causal.rows) if one["split"] == split])
        base = rng.permutation(there)[:most]
        index = torch.from_numpy(base)
        hidden = self.tap.run(self._ids(index)).hidden
        said = self._scores(hidden[torch.arange(len(base)), lesson.length[index] - 1]).argmax(-1)
        found = {"answer": float((said == lesson.answer[index]).float().mean())}
        for name in self.exchanged:
            exchange = self._exchanges(rng, base, name, lesson.taught_by_level(name), len(base))
            if exchange is None:
                continue
            rows, where = exchange.rows, lesson.sites[name]
            taken = torch.from_numpy(exchange.donors.reshape(-1))
            outputs = self.tap.run(self._ids(taken)).outputs
            every = torch.arange(len(taken))
            value = {
                layer: outputs[layer][every, where.position[taken]].view(len(rows), FAR, -1).mean(1)
                for layer in where.layers
            }
            own = index[torch.from_numpy(rows)]
            patch = Patch(where, torch.arange(len(rows)), where.position[own], value)
            hidden = self.tap.run(self._ids(own), [patch]).hidden
            said = self._scores(hidden[torch.arange(len(rows)), lesson.length[own] - 1]).argmax(-1)
            found[name] = float((said == exchange.answers).float().mean())
        return found

    def _rows_by_level(self, name: str, index: Tensor) -> dict[int, Int[np.ndarray, " row"]]:
        """The rows of a batch by their level of a variable."""
        level = self.lesson.level[name][index].numpy()
        return {int(one): np.flatnonzero(level == one) for one in np.unique(level)}

    def _absent(
        self, rng, name: str, variable: Variable, where: Site, index: Tensor, outputs: dict[int, Tensor], rows: Tensor
    ) -> dict[int, Tensor]:
        """By layer, the mean of the batch at the site, or a point beyond it; with `among`, the mean over the batch's prompts of the
        same group. Beyond the mean of two values lies the other value, so that only the mean itself counts there."""
        lesson = self.lesson
        every = torch.arange(len(index))
        beyond = (
            torch.from_numpy(rng.random(len(rows)) * BEYOND).float()[:, None]
            * torch.from_numpy(rng.integers(0, 2, len(rows))).float()[:, None]
        )
        if len(lesson.levels[name]) == 2:
            beyond = torch.zeros_like(beyond)
        among = variable.absent.among if variable.absent else ()
        causal = lesson.causal
        groups = [named(among, causal.rows[row], causal.values[row]) for row in index.tolist()] if among else []
        value = {}
        for layer in where.layers:
            seen = outputs[layer][every, where.position[index]]
            if among:
                same = torch.tensor([[one == groups[int(row)] for one in groups] for row in rows]).float()
                mean = same @ seen / same.sum(1, keepdim=True)
            else:
                mean = seen.mean(0, keepdim=True)
            value[layer] = mean - beyond * (seen[rows] - mean)
        return value


def _renamed(dealt: Tensor | None, rows: Tensor, tokens: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Tokens of rows by the names that these were dealt."""
    return tokens if dealt is None else dealt[rows, tokens]
