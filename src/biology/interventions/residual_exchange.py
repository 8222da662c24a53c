"""Exchanging residual streams between prompts: where a model keeps something, shown without any transcoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.models.continuation import Prefix, kept
from biology.models.model import Edit, Model, run, token_batch
from biology.records import InputError
from biology.transcoders.activations import length_batches, row_batches


@dataclass(frozen=True, eq=False)
class Exchanges:
    """Residual streams taken from donors: entry i replaces, in a row, the stream entering `layer` at `pos`.

    `layer` n_layers is the stream entering the final norm. `donor_pos` is the place in the row's donor prompt.
    """

    row: Int[Tensor, " site"]
    layer: Int[Tensor, " site"]
    pos: Int[Tensor, " site"]
    donor_pos: Int[Tensor, " site"]


def exchange_residuals(
    model: Model,
    prompts: Sequence[Sequence[int]],
    prompt: Int[Tensor, " row"],
    donor: Int[Tensor, " row"],
    exchanges: Exchanges,
    *,
    positions: int | Int[Tensor, "row ..."] = -1,
    prefixes: list[Prefix] | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> Float[Tensor, "row read_pos vocab"]:
    """Interchange interventions: logits of `prompts[prompt[row]]` with residual streams of `prompts[donor[row]]`.

    Nothing is frozen and no transcoder is involved: the model's own evidence of where something is kept
    (Geiger et al., *Causal Abstractions of Neural Networks*, 2021).

    Raises:
        InputError: a layer or position outside the model or the prompts.
    """
    size = torch.tensor([len(ids) for ids in prompts])
    place = {name: getattr(exchanges, name) for name in ("row", "layer", "pos", "donor_pos")}
    for name, of in (("pos", prompt), ("donor_pos", donor)):
        length = size[of[exchanges.row]]
        place[name] = torch.where(place[name] < 0, place[name] + length, place[name])
        if bool(((place[name] < 0) | (place[name] >= length)).any()):
            raise InputError("an exchange of residual streams lies outside its prompt")
    if len(exchanges.layer) and not 0 <= int(exchanges.layer.min()) <= int(exchanges.layer.max()) <= model.n_layers:
        raise InputError(f"an exchange of residual streams names a layer outside 0..{model.n_layers}")
    vectors = streams_at(model, prompts, donor[exchanges.row], exchanges.layer, place["donor_pos"], batch_size)
    sites = Exchanges(exchanges.row, exchanges.layer, place["pos"], place["donor_pos"])
    return run_with_streams(
        model, prompts, prompt, sites, vectors, positions=positions, prefixes=prefixes, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip


def _stream_names(model: Model) -> list[str]:
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers)]
    return [*names, f"blocks.{model.n_layers - 1}.hook_resid_post"]


def streams_at(
    model: Model, prompts: Sequence[Sequence[int]], prompt: Int[Tensor, " site"], layer: Int[Tensor, " site"],
    pos: Int[Tensor, " site"], batch_size: int = 256,
) -> Float[Tensor, "site d_model"]:  # fmt: skip
    """The residual streams that enter `layer` of `prompts[prompt]` at `pos` (not negative)."""
    names = _stream_names(model)
    vectors = torch.zeros(len(prompt), model.d_model, dtype=model.dtype)
    needed = torch.unique(prompt).tolist()
    for places, ids in length_batches([prompts[i] for i in needed], batch_size):
        _, streams = run(model, token_batch(model, ids), reads=names, positions=-1)
        number = torch.full((len(prompts),), -1)
        number[torch.tensor(needed)[places]] = torch.arange(len(places))
        for index, name in enumerate(names):
            at = ((number[prompt] >= 0) & (layer == index)).nonzero()[:, 0]
            vectors[at] = streams[name][number[prompt[at]], pos[at]].cpu()
    return vectors


def run_with_streams(
    model: Model, prompts: Sequence[Sequence[int]], prompt: Int[Tensor, " row"], sites: Exchanges,
    vectors: Float[Tensor, "site d_model"], *, positions: int | Int[Tensor, "row ..."] = -1,
    prefixes: list[Prefix] | None = None, batch_size: int = 256, progress: bool = False,
) -> Float[Tensor, "row read_pos vocab"]:  # fmt: skip
    """Logits of `prompts[prompt[row]]` with `vectors` in the place of the residual streams at `sites`; `prefixes` receives
    what the rows of each batch leave to attention, to be read on from."""
    size, names = torch.tensor([len(ids) for ids in prompts]), _stream_names(model)
    where = torch.as_tensor(positions).expand(len(prompt)) if isinstance(positions, int) else positions
    out: list[Tensor] = []
    order = torch.argsort(size[prompt], stable=True)
    with tqdm(total=len(prompt), desc=f"{model.name}: exchange", disable=not progress, unit="row") as bar:
        for chosen in row_batches(order, size[prompt], batch_size):
            here = torch.full((len(prompt),), -1)
            here[chosen] = torch.arange(len(chosen))
            hooks: list[tuple[str, Edit]] = []
            for layer, name in enumerate(names):
                at = ((here[sites.row] >= 0) & (sites.layer == layer)).nonzero()[:, 0]
                spot = (here[sites.row[at]].to(model.device), sites.pos[at].to(model.device))
                if len(at):
                    hooks.append((name, partial(_replaced, spot, vectors[at].to(model.device))))
            ids = token_batch(model, [list(prompts[i]) for i in prompt[chosen].tolist()])
            at, past = where[chosen].reshape(len(chosen), -1), kept(prefixes, chosen)
            out.append(run(model, ids, edits=hooks, positions=at, past=past)[0].cpu())
            bar.update(len(chosen))
    return torch.cat(out)[torch.argsort(order)]


def _replaced(spot: tuple[Tensor, Tensor], vectors: Tensor, stream: Tensor) -> Tensor:
    return stream.index_put(spot, vectors.to(stream.dtype))
