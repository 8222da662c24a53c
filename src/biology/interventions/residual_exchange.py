"""Interchange interventions on the residual stream: at a layer and position a donor prompt's replaces it. Needs no transcoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.interventions.clean_passes import CleanPasses
from biology.models.continuation import Prefix, new_cache, worth_caching
from biology.models.model import Edit, Model, run, token_batch
from biology.records import InputError
from biology.transcoders.activations import length_batches, row_batches


@dataclass(frozen=True, eq=False)
class Exchanges:
    """Residual streams taken from donors: entry i replaces, in a row, the stream entering `layer` at `pos`.

    `layer` n_layers is the stream entering the final norm. `donor_pos` is the position in the row's donor prompt.
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

    Nothing is frozen and no transcoder is involved: this is direct evidence of where the model holds something (Geiger
    et al., *Causal Abstractions of Neural Networks*, 2021).

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


def stream_names(model: Model) -> list[str]:
    """Hooks of the residual stream: the one entering each layer, then the one leaving the last layer."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers)]
    return [*names, f"blocks.{model.n_layers - 1}.hook_resid_post"]


def streams_at(
    model: Model, prompts: Sequence[Sequence[int]], prompt: Int[Tensor, " site"], layer: Int[Tensor, " site"],
    pos: Int[Tensor, " site"], batch_size: int = 256,
) -> Float[Tensor, "site d_model"]:  # fmt: skip
    """The residual streams that enter `layer` of `prompts[prompt]` at `pos` (not negative)."""
    names = stream_names(model)
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
    prefixes: list[Prefix] | None = None, passes: CleanPasses | None = None, batch_size: int = 256, progress: bool = False,
) -> Float[Tensor, "row read_pos vocab"]:  # fmt: skip
    """Logits of `prompts[prompt[row]]` with the residual streams at `sites` replaced by `vectors`; `prefixes` receives
    the keys and values of each batch's rows, from which they can be continued; `passes` keeps the starts of prompts between calls."""
    size, names = torch.tensor([len(ids) for ids in prompts]), stream_names(model)
    where = torch.as_tensor(positions).expand(len(prompt)) if isinstance(positions, int) else positions
    passes = CleanPasses(model, None, limit=0) if passes is None else passes
    out: list[Tensor] = []
    order = torch.argsort(size[prompt], stable=True)
    with tqdm(total=len(prompt), desc=f"{model.name}: exchange", disable=not progress, unit="row") as bar:
        for chosen in row_batches(order, size[prompt], batch_size):
            here = torch.full((len(prompt),), -1)
            here[chosen] = torch.arange(len(chosen))
            sources, which = torch.unique(prompt[chosen], return_inverse=True)
            ids = token_batch(model, [list(prompts[i]) for i in sources.tolist()])
            at = where[chosen].reshape(len(chosen), -1) % ids.shape[1]
            touched = torch.cat([sites.pos[here[sites.row] >= 0], at.flatten()])
            start = 0 if prefixes is not None else worth_caching(model, int(touched.min()))
            past = new_cache(prefixes, chosen) if not start else passes.shared(ids).rows(which, start)
            hooks: list[tuple[str, Edit]] = []
            for layer, name in enumerate(names):
                mine = ((here[sites.row] >= 0) & (sites.layer == layer)).nonzero()[:, 0]
                spot = (here[sites.row[mine]].to(model.device), (sites.pos[mine] - start).to(model.device))
                if len(mine):
                    hooks.append((name, partial(_replaced, spot, vectors[mine].to(model.device))))
            rows = ids[which.to(model.device), start:]
            out.append(run(model, rows, edits=hooks, positions=at - start, past=past)[0].cpu())
            bar.update(len(chosen))
    return torch.cat(out)[torch.argsort(order)]


def _replaced(spot: tuple[Tensor, Tensor], vectors: Tensor, stream: Tensor) -> Tensor:
    return stream.index_put(spot, vectors.to(stream.dtype))
