"""Perturbation experiments: features are held at chosen values and the model's output is read, many rows at a time.

A row is one prompt with a set of feature edits. There are three protocols (Ameisen et al., *Circuit Tracing*, 2025,
Methods; Lindsey et al., *On the Biology of a Large Language Model*, 2025, Methods):

    constrained  up to `last_layer` every MLP output is its clean value + sum of (value - clean activation) * decoder:
                 edited features have their values, nothing else in the range reacts, and effects spread above it.
    iterative    the model's own MLPs run everywhere; at each layer the edited features are moved to their values
                 from their current activations.
    direct       as constrained over all layers, with norm scales frozen too: the effect that an edge of the attribution
                 graph states.

Attention patterns are frozen at the clean prompt's unless `live_attention`. The features of a cross-layer transcoder write
to every layer above them (in the constrained protocol, inside the range). A skip connection belongs to the linear map: if
MLP outputs are held, the change of its input passes through it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from biology.interventions.clean_passes import CleanPasses, clean_blocks
from biology.interventions.feature_edits import Edits, Injections, Sites, checked_sites, of_rows
from biology.models.continuation import Prefix, new_cache, worth_caching
from biology.models.model import Capture, Edit, Model, freeze, run, token_batch
from biology.records import InputError
from biology.transcoders.activations import row_batches
from biology.transcoders.transcoder_set import TranscoderSet, decoder, encode, skip

PROTOCOLS = ("constrained", "iterative", "direct")
Readout = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outputs of rows. `logits` [row, read_pos, vocab] (after the final soft-cap), or the result of the readout.

    `pre_logits` are those before the soft-cap (None with a readout). `watched_pre` and `watched` are pre-activations and
    activations at the watched sites; `profile[l]` holds all activations of layer l at the profiled position.
    """

    logits: Float[Tensor, "row ..."]
    pre_logits: Float[Tensor, "row read_pos vocab"] | None
    watched_pre: Float[Tensor, " site"]
    watched: Float[Tensor, " site"]
    profile: tuple[Float[Tensor, "row feature"], ...]


def site_activations(
    transcoders: TranscoderSet, layer: int, x: Float[Tensor, "site d_model"], features: Int[Tensor, " site"]
) -> tuple[Float[Tensor, " site"], Float[Tensor, " site"]]:
    """Pre-activations and activations of single features of a layer, given the tensor at its read hook."""
    weights = transcoders.layers[layer]
    vectors, offsets = weights.readers(features, x)
    pre = (x * vectors).sum(-1) + offsets
    if weights.exact:  # the error is zero: the neuron itself is held
        return pre, pre
    if transcoders.activation == "topk":  # depends on all features of the position
        return pre, encode(transcoders, layer, x).gather(1, features[:, None])[:, 0]
    active = pre if transcoders.signed else pre.relu()
    if weights.threshold is not None:
        active = active * (pre > weights.threshold[features])
    return pre, active


def intervene(
    model: Model,
    transcoders: TranscoderSet,
    prompts: Sequence[Sequence[int]],
    prompt: Int[Tensor, " row"],
    edited: Edits,
    *,
    protocol: str = "constrained",
    last_layer: int | None = None,
    live_attention: bool = False,
    cut_direct: bool = False,
    injections: Injections | None = None,
    positions: int | Int[Tensor, "row ..."] = -1,
    watch: Sites | None = None,
    profile: int | None = None,
    readout: Readout | None = None,
    prefixes: list[Prefix] | None = None,
    passes: CleanPasses | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> Outcome:
    """Runs every row, prompt `prompts[prompt[row]]` with its edits and injections, in batches of equal length.

    Args:
        last_layer: top of the constrained range (layers 0..last_layer are held); by default the last layer edited.
        cut_direct: subtracts the changes of held MLP outputs from the residual stream before the final norm, so
            that they reach the logits only through later layers and attention (constrained protocol).
        positions: where logits are read: one position for all (negative counts from the end), or [row] or
            [row, read_pos].
        watch: sites whose pre-activations and activations are returned.
        profile: a position at which all activations of all layers are returned.
        readout: applied per batch to (logits [row, read_pos, vocab], row numbers), to keep less than all logits.
        prefixes: receives the keys and values of each batch's rows, from which they can be continued.
        passes: cache of clean passes, shared between calls on the same prompts.

    Raises:
        InputError: an unknown protocol, `cut_direct` in another protocol than the constrained one, an edit outside the model, its
            prompt or the constrained range, or one feature edited twice at one place.
    """
    lengths = torch.tensor([len(ids) for ids in prompts], dtype=torch.long)[prompt]
    edited = checked_sites(model, transcoders, edited, lengths)
    _refuse_duplicates(transcoders, edited, lengths)
    watched = None if watch is None else checked_sites(model, transcoders, watch, lengths)
    injections = None if injections is None else checked_sites(model, transcoders, injections, lengths)
    top = _top_layer(model, protocol, last_layer, edited, injections)
    if cut_direct and protocol != "constrained":
        raise InputError("`cut_direct` needs held MLP outputs: protocol 'constrained'")
    where = torch.as_tensor(positions).expand(len(prompt)) if isinstance(positions, int) else positions
    read_layers = set() if watched is None else set(watched.layer.tolist())
    read_layers |= set() if profile is None else set(range(model.n_layers))
    reads = {layer: f"blocks.{layer}.{transcoders.read_hook}" for layer in sorted(read_layers)}
    passes = CleanPasses(model, transcoders, limit=0) if passes is None else passes

    results: list[tuple[Tensor, ...]] = []
    seen = torch.zeros(2, 0 if watched is None else len(watched.row), dtype=model.dtype)
    batches = [
        (sources, chosen)
        for sources, rows in clean_blocks(prompt, lengths)
        for chosen in row_batches(rows, lengths, batch_size)
    ]
    with tqdm(total=len(prompt), desc=f"{model.name}: {protocol}", disable=not progress, unit="row") as bar:
        for sources, chosen in batches:
            ids = token_batch(model, [list(prompts[i]) for i in sources.tolist()])
            which = torch.searchsorted(sources, prompt[chosen]).to(model.device)
            here = torch.full((len(prompt),), -1)
            here[chosen] = torch.arange(len(chosen))
            at, length = where[chosen].reshape(len(chosen), -1), ids.shape[1]
            touched = [sites.pos[here[sites.row] >= 0] for sites in (edited, injections, watched) if sites is not None]
            touched += [at.flatten() % length, torch.tensor([length - 1 if profile is None else profile % length])]
            start = 0 if prefixes is not None else worth_caching(model, int(torch.cat(touched).min()))
            past = new_cache(prefixes, chosen) if not start else passes.shared(ids).rows(which, start)
            added = _Added() if injections is None else _Added.injected(of_rows(injections, here, model, start))
            mine = of_rows(edited, here, model, start)
            hooks = _hooks(passes, ids, which, mine, added, protocol, top, live_attention, start)
            if protocol == "constrained":
                hooks += _idle(layer for layer in range(top + 1) if layer not in reads)
            if cut_direct:
                hooks += _without_direct(model, passes(ids, start), which, top)
            names = ["unembed.hook_out", *reads.values()]
            logits, tensors = run(
                model, ids[which][:, start:], edits=hooks, reads=names, positions=at % length - start, past=past
            )
            inputs = {layer: tensors[name] for layer, name in reads.items()}
            outputs = [logits, tensors["unembed.hook_out"]] if readout is None else [readout(logits, chosen)]
            if profile is not None:
                seen_at = profile % length - start
                outputs += [encode(transcoders, layer, inputs[layer][:, seen_at]) for layer in range(model.n_layers)]
            results.append(tuple(output.cpu() for output in outputs))
            if watched is not None:
                seen[:, here[watched.row] >= 0] = _observed(transcoders, of_rows(watched, here, model, start), inputs)
            bar.update(len(chosen))
    if not results:
        nothing = torch.zeros(0, 1, model.n_vocab, dtype=model.dtype)
        return Outcome(nothing, nothing, seen[0], seen[1], ())
    back = torch.argsort(torch.cat([chosen for _, chosen in batches]))
    columns = [torch.cat(column)[back] for column in zip(*results, strict=True)]
    pre_logits, first = (columns[1], 2) if readout is None else (None, 1)
    return Outcome(columns[0], pre_logits, seen[0], seen[1], tuple(columns[first:]))


def _observed(
    transcoders: TranscoderSet, sites: Sites, inputs: Mapping[int, Float[Tensor, "row pos d_model"]]
) -> Float[Tensor, "2 site"]:
    """Pre-activations and activations at sites of one batch, given the tensors at the read hooks."""
    out = torch.zeros(2, len(sites.row), dtype=transcoders.layers[0].b_dec.dtype)
    for layer in set(sites.layer.tolist()):
        at = sites.layer == layer
        x = inputs[layer][sites.row[at], sites.pos[at]]
        out[:, at.cpu()] = torch.stack(site_activations(transcoders, layer, x, sites.feature[at])).cpu()
    return out


def _refuse_duplicates(transcoders: TranscoderSet, edited: Edits, lengths: Int[Tensor, " row"]) -> None:
    longest = int(lengths.max()) if len(lengths) else 0
    place = (edited.row.long() * transcoders.n_layers + edited.layer) * longest + edited.pos
    if len(torch.unique(place * max(transcoders.n_features) + edited.feature)) < len(place):
        raise InputError("a feature is edited twice at one place of a row: list every edit once")


def _top_layer(
    model: Model, protocol: str, last_layer: int | None, edited: Edits, injections: Injections | None
) -> int:
    """The last layer whose MLP output is held."""
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    if protocol != "constrained":
        return model.n_layers - 1
    touched = torch.cat([edited.layer, injections.layer if injections is not None else edited.layer[:0]])
    highest = int(touched.max()) if len(touched) else 0
    top = highest if last_layer is None else last_layer
    if not highest <= top < model.n_layers:
        raise InputError(
            f"the constrained range ends at layer {top}: choose its last layer from {highest}, the highest edited one, to {model.n_layers - 1}"
        )
    return top


def _hooks(
    passes: CleanPasses, ids: Int[Tensor, "prompt pos"], which: Int[Tensor, " row"],
    edited: Edits, added: "_Added", protocol: str, top: int, live_attention: bool, start: int,
) -> list[tuple[str, Edit]]:  # fmt: skip
    """The edits of one batch that is read from token `start` on. `which` is the index in `ids` of each row's prompt."""
    model, transcoders = passes.model, passes.transcoders
    assert transcoders is not None
    if protocol == "iterative" and live_attention:
        return _moving(model, transcoders, edited, added)
    clean = passes(ids, start)
    held = freeze(model, clean, norms=protocol == "direct", mlps=False, rows=which)
    if protocol == "iterative":
        return held + _moving(model, transcoders, edited, added)
    if live_attention and protocol == "constrained":
        held = []
    return held + _clamped(transcoders, clean, which, edited, added, top)


def _idle(layers: Iterable[int]) -> list[tuple[str, Edit]]:
    """Gives no input to MLPs whose output is held and whose input nobody reads: MLPs take most of a pass."""
    return [(f"blocks.{layer}.mlp.hook_in", lambda tensor: tensor[:, :0]) for layer in layers]


class _Added(dict[int, list[tuple[Tensor, Tensor, Tensor]]]):
    """Per layer, the (row, pos, vector) triples to add at its write hook."""

    @classmethod
    def injected(cls, injections: Injections) -> "_Added":
        added = cls()
        for layer in set(injections.layer.tolist()):
            at = injections.layer == layer
            added.append(layer, injections.row[at], injections.pos[at], injections.vector[at])
        return added

    def append(self, layer: int, row: Tensor, pos: Tensor, vector: Tensor) -> None:
        self.setdefault(layer, []).append((row, pos, vector))

    def features(self, transcoders: TranscoderSet, layer: int, edited: Edits, x: Tensor, top: int) -> None:
        """Adds the changes that move a layer's features from their activations in `x` [site, d_model] to their values."""
        _, active = site_activations(transcoders, layer, x, edited.feature)
        change = edited.value.to(active.dtype) - active
        # An activation computed in another batch differs by rounding. Such a change counts as none, so that holding
        # features at their own activations is the identity.
        size = transcoders.layers[layer].rounding(edited.feature, x)
        change = torch.where(change.abs() <= 4 * torch.finfo(x.dtype).eps * size, 0.0, change)[:, None]
        for target in range(layer, top + 1):
            rows = decoder(transcoders, layer, target, edited.feature)
            if rows is not None:
                self.append(target, edited.row, edited.pos, change * rows)

    def to(self, layer: int, output: Tensor) -> Tensor:
        for row, pos, vector in self.get(layer, ()):
            output = output.index_put((row, pos), vector.to(output.dtype), accumulate=True)
        return output


def _clamped(
    transcoders: TranscoderSet, clean: Capture, which: Tensor, edited: Edits, added: _Added, top: int
) -> list[tuple[str, Edit]]:
    """Holds MLP outputs of layers 0..top at clean value + changes of the edited features (+ change through the skip)."""
    for layer in sorted(set(edited.layer.tolist())):
        mine = _at_layer(edited, layer)
        added.features(transcoders, layer, mine, clean.read[layer][which[mine.row], mine.pos], top)
    inputs: dict[int, Tensor] = {}

    def hold(layer: int, output: Tensor) -> Tensor:
        held = clean.write[layer][which]
        if layer in inputs:
            change = skip(transcoders, layer, inputs[layer] - clean.read[layer][which])
            held = held if change is None else held + change
        return added.to(layer, held)

    hooks: list[tuple[str, Edit]] = []
    for layer in range(top + 1):
        if transcoders.layers[layer].W_skip is not None:
            hooks.append((f"blocks.{layer}.{transcoders.read_hook}", partial(inputs.__setitem__, layer)))
        hooks.append((f"blocks.{layer}.{transcoders.write_hook}", partial(hold, layer)))
    return hooks


def _without_direct(model: Model, clean: Capture, which: Int[Tensor, " row"], top: int) -> list[tuple[str, Edit]]:
    """After the last layer, subtracts from the stream the differences of the MLP outputs of layers 0..top from the clean
    prompt's."""
    changes: list[Tensor] = []

    def note(layer: int, output: Tensor) -> None:
        changes.append(output - clean.mlp_out[layer][which])

    def take(stream: Tensor) -> Tensor:
        return stream - torch.stack(changes).sum(0)

    hooks: list[tuple[str, Edit]] = [(f"blocks.{layer}.hook_mlp_out", partial(note, layer)) for layer in range(top + 1)]
    return [*hooks, (f"blocks.{model.n_layers - 1}.hook_resid_post", take)]


def _moving(model: Model, transcoders: TranscoderSet, edited: Edits, added: _Added) -> list[tuple[str, Edit]]:
    """At each layer, moves edited features from their current activations to their values; the MLPs run."""
    top = model.n_layers - 1

    def measure(layer: int, x: Tensor) -> None:
        mine = _at_layer(edited, layer)
        added.features(transcoders, layer, mine, x[mine.row, mine.pos], top)

    hooks: list[tuple[str, Edit]] = []
    for layer in range(top + 1):
        if bool((edited.layer == layer).any()):
            hooks.append((f"blocks.{layer}.{transcoders.read_hook}", partial(measure, layer)))
        hooks.append((f"blocks.{layer}.{transcoders.write_hook}", partial(added.to, layer)))
    return hooks


def _at_layer(edited: Edits, layer: int) -> Edits:
    at = edited.layer == layer
    return Edits(**{entry.name: getattr(edited, entry.name)[at] for entry in fields(edited)})
