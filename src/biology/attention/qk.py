"""Why a head attends: an attention score as a sum over pairs of nodes.

Attribution graphs freeze attention patterns: they show what attention moves, not why it attends. A score is linear in
the query and in the key, once the scales of all norms are frozen, those of query and key included:

    score = scaling . rot(q) . rot(k),    q = sum of its sources' q_s + bias,    k = sum of its sources' k_t + bias
          = sum over pairs (s, t) of scaling . rot(q_s) . rot(k_t)  +  terms with a bias

(Kamath et al., "Tracing Attention Computation Through Feature Interactions", 2025, QK attributions.) Sources are the
nodes of the attribution graph: features and errors of earlier layers, tokens. What frozen attention of earlier layers
moved to the query's or the key's position belongs to the node it came from. A source may therefore be at an earlier
position than the query or key itself. Gemma-2 caps its scores; the score before the cap is attributed.

The matrix of pairs is the product of two thin matrices (`score_terms`). Their rows are direct effects, with the head's
query or key map as readers: a score costs 2 d_head rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.attention.score_terms import QKAttribution
from biology.attention.stream_effects import SourceNodes, chosen_features, effects_below, source_nodes
from biology.attribution.direct_effects import Sources, active_features, sources
from biology.attribution.graph import ROW_FLOOR
from biology.attribution.replacement import LocalReplacement, bias_pass, freeze_prompt
from biology.attribution.requests import require_fit
from biology.models.model import Model, Norm, run, token_batch, token_text
from biology.records import InputError
from biology.transcoders.transcoder_set import TranscoderSet

Maps = Mapping[int, tuple[Float[Tensor, "d_model d_head"], Float[Tensor, " d_head"]]]


# ---------------------------------------------------------------------------------------------------- attention scores
@dataclass(frozen=True, eq=False)
class _Attention:
    """The ingredients of one layer's scores, from one unmodified forward pass of one prompt. Heads are expanded. Scales
    of query and key norms and rotary angles are None if the model has none."""

    scaling: float
    soft_cap: float | None
    query: Float[Tensor, "pos head d_head"]
    key: Float[Tensor, "pos head d_head"]
    query_scale: Float[Tensor, "pos head"] | None
    key_scale: Float[Tensor, "pos head"] | None
    cos: Float[Tensor, "pos rotated"] | None
    sin: Float[Tensor, "pos rotated"] | None
    pattern: Float[Tensor, "head pos pos"]
    scores: Float[Tensor, "head pos pos"]


def _read_attention(model: Model, ids: Int[Tensor, "one pos"], layer: int) -> _Attention:
    def name(part: str) -> str:
        return f"blocks.{layer}.attn.{part}"

    # With rotary embeddings, the query and key that meet are those after the rotation.
    rotary = name("hook_rot_q") in model.hooks
    query, key = ("hook_rot_q", "hook_rot_k") if rotary else ("hook_q", "hook_k")
    optional = ("hook_cos", "hook_sin", "q_norm.hook_scale", "k_norm.hook_scale")
    present = [part for part in optional if name(part) in model.hooks]
    reads = [name(part) for part in (query, key, "hook_pattern", "hook_attn_scores", *present)]
    _, seen = run(model, ids, reads=reads, positions=-1)
    n_heads = seen[name(query)].shape[2]

    def scale(part: str) -> Tensor | None:
        if name(part) not in seen:
            return None
        found = seen[name(part)][0, :, :, 0]  # [head or key-value head, pos]
        return found.repeat_interleave(n_heads // found.shape[0], 0).T

    keys = seen[name(key)][0]
    network = model.bridge.blocks[layer].attn.original_component
    return _Attention(
        scaling=float(network.scaling),
        soft_cap=getattr(network, "attn_logit_softcapping", None),
        query=seen[name(query)][0],
        key=keys.repeat_interleave(n_heads // keys.shape[1], 1),
        query_scale=scale("q_norm.hook_scale"),
        key_scale=scale("k_norm.hook_scale"),
        cos=seen[name("hook_cos")][0] if rotary else None,
        sin=seen[name("hook_sin")][0] if rotary else None,
        pattern=seen[name("hook_pattern")][0],
        scores=seen[name("hook_attn_scores")][0],
    )


def _rotated(x: Float[Tensor, "*batch d_head"], attention: _Attention, pos: int) -> Float[Tensor, "*batch d_head"]:
    """Rotary embedding of a position (the first `rotated` dimensions, in halves): linear in x."""
    if attention.cos is None or attention.sin is None:
        return x
    cos, sin = attention.cos[pos], attention.sin[pos]
    turned, rest = x[..., : cos.numel()], x[..., cos.numel() :]
    low, high = turned.chunk(2, -1)
    return torch.cat([turned * cos + torch.cat([-high, low], -1) * sin, rest], -1)


def _score(model: Model, attention: _Attention, layer: int, head: int, query: int, key: int) -> float:
    """The model's own score before the soft-cap, checked against the score that enters the softmax."""
    seen = float(attention.scores[head, query, key])
    if seen <= torch.finfo(attention.scores.dtype).min / 2:
        raise InputError(f"layer {layer} cannot attend from position {query} to {key}: its window hides it")
    q, k = attention.query[query, head].double(), attention.key[key, head].double()
    score = attention.scaling * float(q @ k)
    cap = attention.soft_cap
    expected = score if cap is None else cap * float(torch.tensor(score / cap).tanh())
    tolerance = 1e-4 if attention.scores.dtype in (torch.float32, torch.float64) else 0.05
    if not abs(expected - seen) <= tolerance * max(attention.scaling * float(q.norm() * k.norm()), ROW_FLOOR):
        raise InputError(
            f"model {model.name}: the attention score of layer {layer}, head {head} is {seen:.6g}, but its queries and"
            f" keys give {expected:.6g}"
        )
    return score


def _map(
    attention: _Attention,
    pos: int,
    head: int,
    weight: Float[Tensor, "head d_model d_head"],
    constant: Float[Tensor, "head d_head"] | None,
    norm: Norm | None,
    scale: Float[Tensor, "pos head"] | None,
    sign: float = 1.0,
) -> tuple[Float[Tensor, "d_model d_head"], Float[Tensor, " d_head"]]:
    """The map from the output of ln1 at a position to a head's rotated query or key there: a matrix and a constant."""
    gain = sign * weight.new_ones(weight.shape[2])
    if norm is not None and scale is not None:  # an RMS norm with its scale frozen: nothing to centre, no bias
        gain = gain * norm.gain / scale[pos, head]
    constant = torch.zeros_like(weight[:, 0]) if constant is None else constant
    return _rotated(weight[head] * gain, attention, pos), _rotated(constant[head] * gain, attention, pos)


def qk_attribution(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Int[Tensor, " pos"] | Sequence[int],
    layer: int,
    head: int,
    query: int,
    key: int,
    *,
    against: int | None = None,
    features: Sequence[tuple[int, int, int]] | None = None,
    first_position: int = 1,
    memory: int = 1 << 28,
) -> QKAttribution:
    """Why head `head` of layer `layer` attends from position `query` to position `key`, as a sum over pairs of nodes.

    Args:
        query, key: positions, negative ones counted from the end; tokens after the query are dropped.
        against: another key position. The difference of the two scores is then attributed, as only differences matter to
            softmax (what a query adds to every key alike drops out).
        features: the feature nodes, as (layer, pos, feature), such as those of a pruned graph; the others are
            added to the errors of their cells. Features of the head's layer and above have no effect and are ignored.
        first_position: as in `attribute`: features and errors before it belong to the bias.
        memory: bytes of working arrays.

    Raises:
        InputError: a layer, head, position or feature that does not exist, a key that causality or a sliding window
            hides from the query, or a model whose scores are not the product of its queries and keys.
    """
    ids = token_batch(model, torch.as_tensor(token_ids, dtype=torch.long).view(1, -1))
    query, signs = _places(model, transcoders, ids.shape[1], layer, head, query, key, against)
    ids = ids[:, : query + 1]
    local = freeze_prompt(model, transcoders.to(model.device, model.precision), ids, positions=[query])
    attention = _read_attention(model, ids, layer)
    active = active_features(local, first_position, layer)
    keep = None if features is None else chosen_features(active, features, query + 1, layer)
    source = sources(local, active, first_position, 0, keep=keep)

    weights, texts = model.weights.layers[layer], tuple(token_text(model, token) for token in ids[0].tolist())
    query_map = _map(attention, query, head, weights.W_Q, weights.b_Q, weights.q_norm, attention.query_scale)
    key_maps = {
        place: _map(attention, place, head, weights.W_K, weights.b_K, weights.k_norm, attention.key_scale, sign)
        for place, sign in signs.items()
    }
    stream = _normed_bias(local, layer, first_position)
    query_nodes, *of_query = _side(local, source, layer, {query: query_map}, stream, texts, memory)
    key_nodes, *of_key = _side(local, source, layer, key_maps, stream, texts, memory)
    return QKAttribution(
        layer=layer,
        head=head,
        query=query,
        key=next(iter(signs)),
        against=next((place for place, sign in signs.items() if sign < 0), None),
        query_nodes=query_nodes,
        key_nodes=key_nodes,
        query_vectors=of_query[0] * attention.scaling,
        key_vectors=of_key[0],
        query_constant=of_query[1] * attention.scaling,
        key_constant=of_key[1],
        score=sum(sign * _score(model, attention, layer, head, query, place) for place, sign in signs.items()),
        attention=sum(sign * float(attention.pattern[head, query, place]) for place, sign in signs.items()),
        soft_cap=attention.soft_cap,
        row=attention.pattern[head, query],
    )


def check_head(model: Model, layer: int, head: int) -> None:
    """Raises InputError for a layer or head that does not exist."""
    if not 0 <= layer < model.n_layers:
        raise InputError(f"layer {layer} does not exist: the model has layers 0..{model.n_layers - 1}")
    n_heads = model.weights.layers[layer].W_Q.shape[0]
    if not 0 <= head < n_heads:
        raise InputError(f"head {head} does not exist: layer {layer} has heads 0..{n_heads - 1}")


def _places(
    model: Model,
    transcoders: TranscoderSet,
    n_pos: int,
    layer: int,
    head: int,
    query: int,
    key: int,
    against: int | None,
) -> tuple[int, dict[int, float]]:
    """The query's position, and the sign of each key position, counted from 0. Checks all arguments."""
    require_fit(model, transcoders)
    check_head(model, layer, head)
    keys = [key] if against is None else [key, against]
    for place in (query, *keys):
        if not -n_pos <= place < n_pos:
            raise InputError(f"position {place} lies outside the prompt of {n_pos} tokens")
    query, *keys = (place % n_pos for place in (query, *keys))
    if max(keys) > query:
        raise InputError(f"position {query} cannot attend to the later position {max(keys)}")
    if len(set(keys)) < len(keys):
        raise InputError(f"key position {keys[0]} is compared with itself: give another one as `against`")
    return query, dict(zip(keys, (1.0, -1.0), strict=False))


def _normed_bias(local: LocalReplacement, layer: int, first_position: int) -> Float[Tensor, "pos d_model"]:
    """The output of a layer's ln1 without any source: `bias_pass` of a model that ends there, with ln1 as its last
    norm."""
    weights = replace(local.weights, ln_final=local.weights.layers[layer].ln1)
    frozen = replace(local.frozen, scale_final=local.frozen.scale1[layer])
    ended = replace(local, weights=weights, frozen=frozen, attention=local.attention[:layer])
    return bias_pass(ended, first_position)[1]


def _side(
    local: LocalReplacement,
    source: Sources,
    layer: int,
    maps: Maps,
    stream_bias: Float[Tensor, "pos d_model"],
    tokens: tuple[str, ...],
    memory: int,
) -> tuple[SourceNodes, Float[Tensor, "node d_head"], Float[Tensor, " d_head"]]:
    """The nodes that reach a head's query (or keys) at the positions of `maps`, their vectors, and the constant
    term."""
    norm, scale = local.weights.layers[layer].ln1, local.frozen.scale1[layer][local.row]
    last, (d_model, d_head) = max(maps), next(iter(maps.values()))[0].shape
    nodes, columns = source_nodes(local, source, tokens, below=layer, places=maps)
    vectors = stream_bias.new_empty(len(nodes), d_head)
    constant = stream_bias.new_zeros(d_head)
    for pos, (weight, bias) in maps.items():
        constant += stream_bias[pos] @ weight + bias
    each = stream_bias.element_size() * (6 * (last + 1) * d_model + source.n_columns)
    for dims in torch.arange(d_head, device=columns.device).split(max(1, memory // each)):
        g = stream_bias.new_zeros(last + 1, len(dims), d_model)
        for pos, (weight, _) in maps.items():
            g[pos] = norm.centre(weight[:, dims].T * norm.gain) / scale[pos]
        vectors[:, dims] = effects_below(local, source, layer, g)[:, columns].T
    return nodes, vectors, constant
