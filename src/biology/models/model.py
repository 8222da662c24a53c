"""A language model from a local Hugging Face directory, its weights, and one hooked forward pass."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.models import checkpoint
from biology.models.agreement import ReferenceLogits, reference_logits, require_agreement
from biology.models.bridge import ARCHITECTURES, bridged
from biology.models.mapped_weights import compute_in, n_parameters
from biology.models.text import piece_text, separators
from biology.models.tokenizer import open_tokenizer, special_ids, unknown
from biology.models.weights import Norm as Norm
from biology.models.weights import Weights, read_weights
from biology.records import InputError

REMEMBERED = 2**16
"""Number of texts whose token ids a model keeps."""
LARGE = 20_000_000  # parameters
Edit = Callable[[Tensor], Tensor | None]
TokenIds = Int[Tensor, "batch pos"] | Int[Tensor, " pos"] | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model. `hooks` is the bridge's table of hook points, aliases included, built once (it is slow)."""

    name: str
    path: Path
    architecture: str
    bridge: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    hooks: Mapping[str, Any] = field(repr=False)
    mapped: bool = False
    """Whether its matrices stay in their files (`mapped_weights.py`)."""
    encoded: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    """Token ids of recent texts, because the same prompt is encoded many times."""

    @property
    def n_layers(self) -> int:
        return self.bridge.cfg.n_layers

    @property
    def d_model(self) -> int:
        return self.bridge.cfg.d_model

    @property
    def n_vocab(self) -> int:
        return self.bridge.unembed.W_U.shape[1]

    @property
    def n_context(self) -> int:
        """Longest prompt, in tokens."""
        return self.bridge.cfg.n_ctx

    @cached_property
    def large(self) -> bool:
        """Whether a prompt takes so long on a CPU core that measures over all nodes or prompts use a sample instead."""
        return n_parameters(self.bridge.original_model) > LARGE

    @property
    def post_norms(self) -> bool:
        """Whether attention and MLP outputs are normalised before they join the residual stream (Gemma)."""
        return "blocks.0.ln2_post.hook_scale" in self.hooks

    @property
    def bos_token(self) -> int | None:
        """The token that `encode` puts first, or None."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return None
        if tokenizer.bos_token_id is not None:
            return int(tokenizer.bos_token_id)
        # Qwen3's tokenizer names no BOS; its config does, and the model was trained with that token between documents.
        configured = getattr(self.bridge.original_model.config, "bos_token_id", None)
        return configured if configured in tokenizer.all_special_ids else None

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """Tokens that are not text. A prompt that begins with one gets no BOS."""
        if self.tokenizer is not None:
            return special_ids(self.tokenizer)
        config = self.bridge.original_model.config
        given = [getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "pad")]
        return frozenset(
            int(token) for each in given if each is not None for token in (each if isinstance(each, list) else [each])
        )

    @property
    def precision(self) -> torch.dtype:
        """The dtype in which graphs are computed: the model's, but float32 for a model in half precision."""
        return torch.promote_types(self.dtype, torch.float32)

    @cached_property
    def weights(self) -> Weights:
        """The weights that attribution needs, in `precision` (views where the layout allows)."""
        return read_weights(self.bridge, self.architecture, dtype=self.precision, mapped=self.mapped)


# Loading -------------------------------------------------------------------------------------------------------------


def load_model(
    path: str | Path, *, name: str | None = None, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    mapped: bool = False,
) -> Model:  # fmt: skip
    """Loads a Hugging Face directory (config.json, safetensors, a tokenizer if there is one) as a raw bridge.

    Nothing is fetched, unpickled or executed from the directory. The hooked model, frozen and not, is compared with
    transformers (`agreement`). With `mapped`, matrices stay in their files, and the model computes in `dtype`.

    Raises:
        InputError: the directory, its config or a weight file is missing, truncated or not finite; the architecture is not
            one of `ARCHITECTURES`; weights are quantised or have no place in the network; or the hooked model differs from
            transformers, or is not causal.
    """
    path = Path(path)
    name = name or path.resolve().name
    architecture = checkpoint.architecture(path, tuple(ARCHITECTURES))
    if mapped:
        network = compute_in(checkpoint.network(path, checkpoint.precision(path)), dtype)
    else:
        network = checkpoint.network(path, dtype).to(device)
    reference = reference_logits(network, path)
    bridge, hooks = bridged(network, architecture, dtype, name)
    model = Model(name, path, architecture, bridge, open_tokenizer(path), torch.device(device), dtype, hooks, mapped)
    _compare(model, reference)
    return model


def _compare(model: Model, reference: ReferenceLogits) -> None:
    frozen = capture(model, reference.ids, positions=reference.positions)
    held, _ = run(model, reference.ids, edits=freeze(model, frozen), positions=reference.positions)
    found = {"hooked": frozen.logits, "frozen": held}
    require_agreement(model.path, model.bridge.original_model.config, reference, found, frozen.pattern)


# Text ----------------------------------------------------------------------------------------------------------------


def encode(model: Model, text: str) -> list[int]:
    """Token ids of `text` after the BOS, if the model has one (`Model.bos_token`). A text that begins with a special
    token (the BOS, or a mark of a chat) gets no BOS.

    Raises:
        InputError: no tokenizer, empty text, or a word outside the vocabulary (named).
    """
    if text not in model.encoded:
        ids = _encode(model, text)
        if len(model.encoded) >= REMEMBERED:
            model.encoded.clear()
        model.encoded[text] = tuple(ids)
    return list(model.encoded[text])


def _encode(model: Model, text: str) -> list[int]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer in {model.path}: give token ids instead of text")
    encoding = tokenizer(text, add_special_tokens=False)
    ids = list(encoding["input_ids"])
    strange = unknown(tokenizer, text, encoding)
    if strange:
        raise InputError(f"model {model.name} does not know the word {strange[0]!r} in {text!r}")
    bos = model.bos_token
    if bos is not None and not (ids and ids[0] in model.special_tokens):
        ids.insert(0, bos)
    if not ids:
        raise InputError(f"model {model.name}: the prompt {text!r} is empty")
    return ids


def answer_token(model: Model, prompt: str, answer: str, *, first: bool = False) -> int:
    """The one token that `answer` adds to `prompt`, appended as it is or after a space (`text.separators` says which).

    With `first`, the first token of a longer answer is taken, as this is what the model says next.

    Raises:
        InputError: the answer is not exactly one token after this prompt (with `first`: its tokens do not follow the
            prompt's), or a word is unknown.
    """
    before, tried, problems = encode(model, prompt), separators(prompt, answer), []
    for separator in tried:
        try:
            after = encode(model, prompt + separator + answer)
        except InputError as error:
            problems.append(error)
            continue
        if after[:-1] == before or (first and len(after) > len(before) and after[: len(before)] == before):
            return after[len(before)]
    if len(problems) == len(tried):
        raise problems[-1]
    raise InputError(f"model {model.name}: the answer {answer!r} is not exactly one token after the prompt {prompt!r}")


def token_text(model: Model, token: int) -> str:
    """The text of a token with its leading space; `#17` without a tokenizer."""
    said = None if model.tokenizer is None else piece_text(model.tokenizer, token)
    return f"#{token}" if said is None else said


# Running -------------------------------------------------------------------------------------------------------------


@contextmanager
def hooked(model: Model, edits: Iterable[tuple[str, Edit]]) -> Iterator[None]:
    """Within this context every forward pass applies `edits`: pairs of a hook name and a function of the tensor there.

    A function returns a new tensor, or None to leave it unchanged. It must not change the tensor in place, as the
    bridge would not notice. Several functions at one hook run in the order given. Contexts may be nested.

    The library's own `run_with_hooks` rebuilds its hook table at each call, which costs tens of milliseconds.
    """
    attached = []
    try:
        for name, edit in edits:
            if name not in model.hooks:
                raise KeyError(f"model {model.name} has no hook {name}")
            point = model.hooks[name]
            point.add_hook(lambda tensor, hook, edit=edit: edit(tensor))
            attached.append((point, point.fwd_hooks[-1]))
        with warnings.catch_warnings():
            # An edited norm scale makes the bridge rebuild the norm, which is the purpose; it warns each time.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            yield
    finally:
        for point, handle in attached:
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]


def run(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    *,
    edits: Iterable[tuple[str, Edit]] = (),
    reads: Sequence[str] = (),
    positions: int | Tensor | None = None,
    past: Any = None,
    grad: bool = False,
) -> tuple[Float[Tensor, "batch read_pos vocab"], dict[str, Tensor]]:
    """One forward pass of rows of equal length, with edits. Reads the tensors at the hooks `reads` after the edits.

    `positions` restricts the logits to one position (an int), to one per row ([batch]) or to several per row ([batch,
    read_pos]); the unembedding of the others is then not computed. None gives every position. `past` holds the keys and
    values of the tokens already read (a transformers cache); those of `ids` are added to it.

    Returns:
        Logits after the final soft-cap, [batch, read_pos, vocab], and {hook name: tensor}. Logits before the
        soft-cap are at the hook `unembed.hook_out`.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> tuple[str, Edit]:
        def read(tensor: Tensor) -> None:
            seen[name] = tensor

        return name, read

    hooks = [*edits, *(keep(name) for name in reads)]
    if positions is not None:
        index = torch.as_tensor(positions, device=model.device)
        index = index.reshape(-1, 1) if index.dim() < 2 else index
        index = index.expand(ids.shape[0], -1) % ids.shape[1]
        hooks.append(("unembed.hook_in", lambda x: x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))))
    with torch.set_grad_enabled(grad), hooked(model, hooks):
        cache = {"use_cache": False} if past is None else {"use_cache": True, "past_key_values": past}
        logits = model.bridge(ids.to(model.device), return_type="logits", **cache)
    return logits, seen


@dataclass(frozen=True, eq=False)
class Capture:
    """Everything that a frozen model needs, from one unmodified forward pass of rows of equal length.

    `resid_pre[l]` is the input of block l and `resid_mid[l]` of its second norm. `mlp_out[l]` is added to the residual
    stream (after the post norm in Gemma). `read[l]` and `write[l]` are the tensors at a transcoder's two hooks.
    `pre_logits` are the logits before the final soft-cap, `logits` after it.
    """

    ids: Int[Tensor, "batch pos"]
    embed: Float[Tensor, "batch pos d_model"]
    pos_embed: Float[Tensor, "batch pos d_model"] | None
    pattern: tuple[Float[Tensor, "batch head pos read_from"], ...]
    scale1: tuple[Float[Tensor, "batch pos 1"], ...]
    scale2: tuple[Float[Tensor, "batch pos 1"], ...]
    scale1_post: tuple[Float[Tensor, "batch pos 1"], ...] | None
    scale2_post: tuple[Float[Tensor, "batch pos 1"], ...] | None
    scale_final: Float[Tensor, "batch pos 1"]
    resid_pre: tuple[Float[Tensor, "batch pos d_model"], ...]
    resid_mid: tuple[Float[Tensor, "batch pos d_model"], ...]
    resid_final: Float[Tensor, "batch pos d_model"]
    mlp_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    read: tuple[Float[Tensor, "batch pos d_model"], ...]
    write: tuple[Float[Tensor, "batch pos d_model"], ...]
    pre_logits: Float[Tensor, "batch read_pos vocab"]
    logits: Float[Tensor, "batch read_pos vocab"]


def capture(
    model: Model,
    ids: TokenIds,
    *,
    read_hook: str = "mlp.hook_in",
    write_hook: str = "hook_mlp_out",
    positions: int | Tensor | None = None,
    past: Any = None,
) -> Capture:
    """A `Capture` of one batch of prompts of equal length. The hooks are named within a block. `past` is an empty cache to which the
    keys and values are added.

    Raises:
        InputError: an empty prompt, one longer than the model's context, or a token id outside the vocabulary.
    """
    ids = token_batch(model, ids)

    def layers(name: str) -> list[str]:
        return [f"blocks.{layer}.{name}" for layer in range(model.n_layers)]

    blocks = ["attn.hook_pattern", "ln1.hook_scale", "ln2.hook_scale", "ln1.hook_in", "ln2.hook_in", "hook_mlp_out"]
    post = ["ln1_post.hook_scale", "ln2_post.hook_scale"] if model.post_norms else []
    single = ["hook_embed", "ln_final.hook_scale", "ln_final.hook_in", "unembed.hook_out"]
    single += ["hook_pos_embed"] if "hook_pos_embed" in model.hooks else []
    names = {*single, *(name for part in [*blocks, *post, read_hook, write_hook] for name in layers(part))}
    logits, seen = run(model, ids, reads=sorted(names), positions=positions, past=past)

    def stack(name: str) -> tuple[Tensor, ...]:
        return tuple(seen[full] for full in layers(name))

    pos_embed = seen.get("hook_pos_embed")
    return Capture(
        ids=ids, embed=seen["hook_embed"],
        pos_embed=None if pos_embed is None else pos_embed.expand_as(seen["hook_embed"]),
        pattern=stack("attn.hook_pattern"), scale1=stack("ln1.hook_scale"), scale2=stack("ln2.hook_scale"),
        scale1_post=stack(post[0]) if post else None, scale2_post=stack(post[1]) if post else None,
        scale_final=seen["ln_final.hook_scale"], resid_pre=stack("ln1.hook_in"), resid_mid=stack("ln2.hook_in"),
        resid_final=seen["ln_final.hook_in"], mlp_out=stack("hook_mlp_out"), read=stack(read_hook),
        write=stack(write_hook), pre_logits=seen["unembed.hook_out"], logits=logits,
    )  # fmt: skip


def token_batch(model: Model, ids: TokenIds) -> Int[Tensor, "batch pos"]:
    """Token ids as a LongTensor [batch, pos] on the model's device, checked against vocabulary and context length."""
    batch = torch.as_tensor(ids, dtype=torch.long, device=model.device)
    batch = batch[None] if batch.dim() == 1 else batch
    if batch.numel() == 0:
        raise InputError(f"model {model.name}: the prompt is empty")
    if batch.shape[1] > model.n_context:
        raise InputError(f"model {model.name} reads at most {model.n_context} tokens; this prompt has {batch.shape[1]}")
    low, high = int(batch.min()), int(batch.max())
    if low < 0 or high >= model.n_vocab:
        wrong = low if low < 0 else high
        raise InputError(f"model {model.name}: token id {wrong} is outside its vocabulary 0..{model.n_vocab - 1}")
    return batch


NEURONS = "mlp.hook_post"
"""The hook within a block for the MLP's neurons, after activation function and gate."""


def neuron_outputs(model: Model, layer: int) -> Float[Tensor, "neuron d_model"]:
    """The output vector of each neuron of a layer's MLP, before a post norm."""
    return model.bridge.blocks[layer].mlp.W_out


def freeze(
    model: Model, frozen: Capture, *, norms: bool = True, mlps: bool = True, rows: Int[Tensor, " row"] | None = None
) -> list[tuple[str, Edit]]:
    """Edits that hold attention patterns (and norm scales, and MLP outputs) at their captured values.

    With all three held, the model is affine in its embedding: the linearised model of attribution graphs. `rows` gives,
    for each row of the forward pass, the captured prompt that it belongs to; by default row i is prompt i.
    """

    def hold(value: Tensor) -> Edit:
        # Always a new tensor, or the bridge's norms would ignore it.
        return lambda tensor: value.clone() if rows is None else value[rows]

    held = [(f"blocks.{layer}.attn.hook_pattern", value) for layer, value in enumerate(frozen.pattern)]
    if norms:
        scales = {"ln1": frozen.scale1, "ln2": frozen.scale2, "ln1_post": frozen.scale1_post,
                  "ln2_post": frozen.scale2_post}  # fmt: skip
        for norm, values in scales.items():
            held += [(f"blocks.{layer}.{norm}.hook_scale", value) for layer, value in enumerate(values or ())]
        held.append(("ln_final.hook_scale", frozen.scale_final))
    if mlps:
        held += [(f"blocks.{layer}.hook_mlp_out", value) for layer, value in enumerate(frozen.mlp_out)]
    return [(name, hold(value)) for name, value in held]
