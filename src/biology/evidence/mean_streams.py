"""Where a model holds its variables, shown without any transcoder by exchanging mean residual streams.

The streams of prompts that share one level (a place, a concept) with the scored prompt's donor, and nothing else, are
averaged. This mean holds what the model represents in common for the level. It replaces the scored prompt's own stream
at the last token. Does the model then answer for that level? In a model that has learnt every prompt by heart such
prompts have nothing in common to exchange. This distinguishes elegans from its twins before any
transcoder is trained (Geiger et al., *Causal Abstractions of Neural Networks*, 2021, for exchanges of single streams).

The prompt set determines the prompts of each mean. A prompt for which there are none is not scored.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.cases.case import Case
from biology.cases.rules import Stream
from biology.interventions.clean_passes import CleanPasses
from biology.interventions.residual_exchange import Exchanges, run_with_streams, stream_names
from biology.interventions.site_exchange import seen_at
from biology.models.model import Model, answer_token, encode, run, token_batch
from biology.records import InputError
from biology.tables import table
from biology.transcoders.activations import length_batches

ARMS = ("effect", "donor")


def exchange_means(model: Model, case: Case) -> pd.DataFrame:
    """Table `streams`: for every stream of the case, scored item, layer and arm, whether the expected answer is given.

    Arm `donor` (a wrong donor's level) is the control. A prompt counts only if the model answers it, its donor and its
    wrong donor, and if both arms have a mean.

    Raises InputError if the prompt set lacks a column, or no scored prompt has a mean.
    """
    if not case.streams or not case.items:
        return table("streams", [])
    frame = answered(model, case)
    ids = [encode(model, text) for text in frame["text"]]
    rows = [row for name, stream in case.streams.items() for row in _exchange(model, case, name, stream, frame, ids)]
    return table("streams", rows)


def answered(model: Model, case: Case) -> pd.DataFrame:
    """The prompt set of a case, one row each, with `answer_token` and whether the model gives it (`correct`)."""
    frame = pd.DataFrame(
        [{**item.model_dump(exclude={"factors"}), **item.factors} for item in case.items], dtype=object
    )
    ids = [encode(model, text) for text in frame["text"]]
    pairs, first = frame[["text", "answer"]].itertuples(index=False), case.first_token
    answer = np.array([answer_token(model, *pair, first=first) for pair in pairs])
    said = np.zeros(len(frame), dtype=int)
    for places, batch in length_batches(ids, 256):
        said[places.numpy()] = run(model, token_batch(model, batch), positions=-1)[0][:, -1].argmax(-1).cpu().numpy()
    return frame.assign(answer_token=answer, correct=said == answer)


def _exchange(
    model: Model, case: Case, name: str, stream: Stream, frame: pd.DataFrame, ids: list[list[int]]
) -> list[dict[str, object]]:
    columns = {stream.factor, stream.donor, f"wrong_{stream.donor}", *stream.across, *stream.only}
    columns |= {stream.expected} if stream.expected else set()
    for column in sorted(columns - set(frame)):
        raise InputError(f"case '{case.name}': streams.{name}: the prompt set has no column '{column}'.")
    place = {item: number for number, item in enumerate(frame["item"])}
    scored = (frame["role"] == "score") & (frame[stream.donor] != "")
    for column, level in stream.only.items():
        scored &= frame[column] == level
    donors = {
        arm: frame[column].map(place.get).fillna(-1).astype(int).to_numpy()
        for arm, column in zip(ARMS, (stream.donor, f"wrong_{stream.donor}"), strict=True)
    }
    asked = np.flatnonzero(scored.to_numpy() & np.all([found >= 0 for found in donors.values()], axis=0))
    levels = {int(base): [_level(frame, stream, int(base), int(donors[arm][base])) for arm in ARMS] for base in asked}
    means = {base: groups for base, groups in levels.items() if all(map(len, groups))}
    if len(asked) and not means:
        raise InputError(
            f"case '{case.name}': streams.{name}: no scored prompt has a mean: no prompt with role `select` shares "
            f"{stream.factor} with a donor and differs from both in {', '.join(stream.across) or 'nothing'}."
        )
    if len(means) < len(asked):
        tqdm.write(
            f"{case.name}, {name}: {len(asked) - len(means)} of {len(asked)} prompts have no mean and are not scored"
        )
    right = frame["correct"].to_numpy(dtype=bool)
    known = right & np.all([right[found] for found in donors.values()], axis=0)
    bases = np.array([base for base in means if known[base]], dtype=int)
    expected = (
        frame[stream.expected] if stream.expected else frame["answer"].iloc[donors["effect"]].set_axis(frame.index)
    )
    token = torch.tensor(
        [
            answer_token(model, *pair, first=case.first_token)
            for pair in zip(frame["text"].iloc[bases], expected.iloc[bases], strict=True)
        ]
    )

    rows: list[dict[str, object]] = []
    passes = CleanPasses(model, None)
    for number, arm in enumerate(ARMS):
        groups = [means[base][number] for base in bases]
        exchanged = _means(model, ids, groups) if len(bases) else ()
        for layer, vectors in enumerate(exchanged):
            top = _said(model, ids, bases, vectors, layer, passes)
            rows += [
                {
                    "case": case.name, "item": frame["item"].iloc[base], "cluster": frame["cluster"].iloc[base],
                    "split": frame["split"].iloc[base], "stream": name, "layer": layer, "arm": arm, "value": value,
                }
                for base, value in zip(bases, (top == token).double().tolist(), strict=True)
            ]  # fmt: skip
    return rows


def _level(frame: pd.DataFrame, stream: Stream, base: int, donor: int) -> np.ndarray:
    """The selecting prompts that share the donor's level and differ from donor and base in the columns of `across`."""
    row, own = frame.iloc[donor], frame.iloc[base]
    chosen = (frame["role"] == "select") & (frame[stream.factor] == row[stream.factor])
    for column in stream.across:
        chosen &= (frame[column] != row[column]) & (frame[column] != own[column])
    return np.flatnonzero(chosen)


def _means(model: Model, ids: list[list[int]], groups: Sequence[np.ndarray]) -> Float[Tensor, "layer base d_model"]:
    """For each group of prompts, the mean at the last token of the streams entering each layer (and leaving the last
    one)."""
    members = np.unique(np.concatenate(groups))
    ends = torch.tensor([len(prompt) - 1 for prompt in ids])
    streams = seen_at(model, ids, members.tolist(), stream_names(model), ends)
    return torch.stack([streams[:, np.searchsorted(members, group)].mean(1) for group in groups], 1)


def _said(
    model: Model,
    ids: list[list[int]],
    bases: np.ndarray,
    vectors: Float[Tensor, "base d_model"],
    layer: int,
    passes: CleanPasses,
) -> Int[Tensor, " base"]:
    """The answers to each base when the stream entering `layer` at its last token is replaced."""
    ends = torch.tensor([len(prompt) - 1 for prompt in ids])
    prompt, row = torch.tensor(bases), torch.arange(len(bases))
    sites = Exchanges(row, torch.full_like(row, layer), ends[prompt], ends[prompt])
    return run_with_streams(model, ids, prompt, sites, vectors, passes=passes)[:, 0].argmax(-1)
