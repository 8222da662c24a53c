"""Whole lines written under a perturbation: the last word of a poem's line after its plan was changed.

After a prompt the model continues token by token, while features are held (iterative protocol, attention live) or while
the residual stream at one position is a donor's. A line ends with the first word that is some prompt's planned word. A
model of natural language may write any word; its line ends where it writes a line break, with a word that is new in the
line. The donor's agreement word and planned word are known from the donor's prompt. Words of the line may be forced, so
that a change cannot act through words written earlier in the line. Line 1 may be hidden from the new line, so that it
can use only what the prompt's last token holds.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.cases.measurement import Line
from biology.evidence.case_context import CaseContext, PromptContext
from biology.interventions.feature_edits import Edits
from biology.interventions.protocols import intervene
from biology.interventions.residual_exchange import Exchanges, exchange_residuals
from biology.models.continuation import CachedNextLogits, Prefix, continued
from biology.models.model import Edit, Model, answer_token, hooked, token_text
from biology.records import InputError

TOKENS_PER_WORD = 2  # for a model of natural language, an upper bound on the average
PerturbedPass = Callable[[Int[Tensor, " row"], list[Prefix]], Float[Tensor, "row vocab"]]
"""Runs prompts, one per row, under a perturbation: returns the logits at their ends, and appends their caches to the
list."""


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens that outcomes ask about, for each of some prompts; -1 if there is none."""

    context: PromptContext
    rule: Line
    places: Sequence[int]

    def __post_init__(self) -> None:
        for column in (self.rule.ends, self.rule.family, *self.rule.forced.values()):
            if column not in self.context.prompts:
                raise InputError(
                    f"case {self.context.case.name}: a line needs the factor '{column}', but no prompt has it"
                )

    @cached_property
    def known(self) -> pd.DataFrame:
        """The prompts whose words count: those of the prompt set, and these prompts with their donors."""
        own = [*self.places, *(donor for donor in self.donors if donor >= 0)]
        return pd.concat([self.context.asked, self.context.prompts.iloc[own]])

    @cached_property
    def endings(self) -> dict[int, str]:
        """Every word that can end a line, by its token; for a vocabulary made for our corpus."""
        prompts, found = self.known, {}
        for word, text in prompts.drop_duplicates(self.rule.ends)[[self.rule.ends, "text"]].itertuples(index=False):
            if word:
                found[answer_token(self.context.model, text, word)] = word
        return found

    @cached_property
    def stops(self) -> Collection[int]:
        """The tokens that end a line."""
        return line_breaks(self.context.model) if self.context.case.first_token else set(self.endings)

    @property
    def most(self) -> int:
        """Number of tokens after which an unfinished line is stopped."""
        return self.rule.max_words * (TOKENS_PER_WORD if self.context.case.first_token else 1)

    @cached_property
    def rhymes(self) -> list[set[str]]:
        """The words of each prompt's rhyme family: planned words, and those in the factor `rhymes`."""
        prompts, known = self.context.prompts, self.known
        of = known[known[self.rule.ends] != ""].groupby(self.rule.family)[self.rule.ends].unique()
        more = prompts["rhymes"] if "rhymes" in prompts else pd.Series("", index=prompts.index)
        return [{*of[prompts[self.rule.family].iat[place]], *more.iat[place].split()} for place in self.places]

    @cached_property
    def own(self) -> list[str]:
        return [str(self.context.prompts[self.rule.ends].iat[place]) for place in self.places]

    @cached_property
    def donors(self) -> list[int]:
        """Place of each prompt's donor; -1 without one."""
        prompts = self.context.prompts
        named = [prompts["donor"].iat[place] if "donor" in prompts else "" for place in self.places]
        return [self.context.place[item] if item else -1 for item in named]

    @cached_property
    def planned(self) -> list[str]:
        """The donor's planned word; "" without a donor."""
        words = self.context.prompts[self.rule.ends]
        return [str(words.iat[donor]) if donor >= 0 else "" for donor in self.donors]

    def token(self, number: int, word: str) -> int:
        """The first token of a word after the prompt of an item."""
        text = self.context.prompts["text"].iat[self.places[number]]
        return answer_token(self.context.model, text, word, first=self.context.case.first_token)

    @cached_property
    def answers(self) -> Int[np.ndarray, "item 2"]:
        """Tokens of the prompt's answer and of the donor's."""
        tokens = self.context.prompts["answer_token"]
        pairs = [
            (tokens.iat[place], tokens.iat[donor] if donor >= 0 else -1)
            for place, donor in zip(self.places, self.donors, strict=True)
        ]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def forced(self) -> list[dict[int, int]]:
        """For each prompt, the forced tokens of its line, by number in the line; none if it lacks the factor."""
        return [
            {place: self.token(number, row[column]) for place, column in self.rule.forced.items() if row[column]}
            for number, row in enumerate(self.context.records[place] for place in self.places)
        ]

    def ending(self, line: Sequence[int]) -> str:
        """The last word of a line; empty if it does not count."""
        if self.context.case.first_token:
            if line[-1] not in self.stops:
                return ""
            said = text(self.context.model, [token for token in line if token not in self.stops]).lower()
            words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", said)
            return words[-1] if len(words) > self.rule.min_words and words[-1] not in words[:-1] else ""
        place = next((number for number, token in enumerate(line) if token in self.endings), -1)
        return self.endings[line[place]] if place >= self.rule.min_words else ""


@cache
def line_breaks(model: Model) -> frozenset[int]:
    """The tokens that contain a line break, and the one that ends a text."""
    end = getattr(model.tokenizer, "eos_token_id", None)
    broken = (token for token in range(model.n_vocab) if "\n" in token_text(model, token))
    return frozenset([*broken, *([] if end is None else [end])])


@dataclass(frozen=True, eq=False)
class Written:
    """Lines written by rows, and the logits of their first token."""

    lines: list[list[int]]
    logits: Float[Tensor, "row vocab"]


def write(
    context: PromptContext,
    words: Words,
    item: Int[Tensor, " row"],
    read: PerturbedPass,
    generator: np.random.Generator | None,
) -> Written:
    """Writes a line for every row, after the prompt of its item; sampled if a generator is given."""
    numbers = item.tolist()
    prompt = torch.tensor([words.places[number] for number in numbers])
    say, first = CachedNextLogits(context.model, partial(read, prompt)), []

    def said(texts: list[list[int]], live: list[int]) -> Tensor:
        new = len(texts[live[0]]) - len(context.ids[int(prompt[live[0]])])
        with hooked(context.model, unseen(context.model, new) if words.rule.hidden else ()):
            logits = say(texts, live)
        if not first:
            first.append(logits)
        return logits

    seed = None if generator is None else torch.Generator().manual_seed(int(generator.integers(2**62)))
    lines = continued(
        [context.ids[place] for place in prompt.tolist()], said, words.most,
        temperature=0.0 if generator is None else 1.0, generator=seed, stops=words.stops,
        forced=lambda row, number: words.forced[numbers[row]].get(number),
    )  # fmt: skip
    return Written(lines, first[0])


def unseen(model: Model, new: int) -> list[tuple[str, Edit]]:
    """Edits that block attention from the last `new` tokens to the tokens before the newline that precedes them, except
    the first token (which collects attention)."""

    def cut(pattern: Float[Tensor, "row head query key"]) -> Float[Tensor, "row head query key"]:
        n_queries, n_keys = pattern.shape[-2:]  # fewer queries than keys if a text is continued from a cache
        newline = n_keys - 1 - new
        kept = torch.ones(n_queries, n_keys, dtype=pattern.dtype, device=pattern.device)
        kept[max(0, n_queries - new) :, 1:newline] = 0.0
        pattern = pattern * kept
        return pattern / pattern.sum(-1, keepdim=True)

    return [(f"blocks.{layer}.attn.hook_pattern", cut) for layer in range(model.n_layers)]


def held(context: CaseContext, edits: Edits) -> PerturbedPass:
    """A reader that holds the features of each row at their values."""

    def read(prompt: Int[Tensor, " row"], prefixes: list[Prefix]) -> Float[Tensor, "row vocab"]:
        outcome = intervene(
            context.model, context.transcoders, context.ids, prompt, edits, protocol="iterative", live_attention=True,
            prefixes=prefixes,
        )  # fmt: skip
        return outcome.logits[:, 0]

    return read


def exchanged(
    context: PromptContext, donor: Int[Tensor, " row"], pos: Int[Tensor, " row"], donor_pos: Int[Tensor, " row"]
) -> PerturbedPass:
    """A reader that replaces each row's residual stream at `pos`, in every layer, by its donor's at `donor_pos`."""
    layers = context.model.n_layers + 1
    row = torch.arange(len(donor)).repeat_interleave(layers)
    sites = Exchanges(row, torch.arange(layers).repeat(len(donor)), pos[row], donor_pos[row])

    def read(prompt: Int[Tensor, " row"], prefixes: list[Prefix]) -> Float[Tensor, "row vocab"]:
        return exchange_residuals(context.model, context.ids, prompt, donor, sites, prefixes=prefixes)[:, 0]

    return read


# Experiments ---------------------------------------------------------------------------------------------------------


def text(model: Model, line: Sequence[int]) -> str:
    """A line as readable text."""
    if model.tokenizer is None:
        return " ".join(token_text(model, token) for token in line)
    return str(model.tokenizer.decode(list(line))).strip()
