"""Neurons as a dictionary: the MLP's own neurons as features, instead of transcoder features. Nothing is trained or downloaded.

Neuron i has the value `n_i(x)` for the MLP's input x and writes `n_i W_out[i]`. The MLP's output is the sum over neurons:

    plain     n = a(z),         z = W_in x + b_in
    gated     n = a(z) u,       z = W_gate x + b_gate,   u = W_in x + b_in

Neurons have either sign and features are positive, so each of the N neurons is two features: feature i is active with `n_i` where
this is positive; feature i + N is active with `-n_i` where `n_i` is negative, and writes `-W_out[i]`. At each token and layer the k
features with the largest output (activation times decoder norm) are active. The error node has the rest; it is zero if k is `all`.

A graph needs a feature's pre-activation as an affine function of x. For a transcoder this is the encoder. A neuron has none, and is
linearised at the prompt's own x, by one of three rules:

    half      n ~ (a(z)/z u/2) W_gate x + (a(z)/2) W_in x        plain: (a(z)/z) W_in x
    frozen    n ~ a(z) W_in x                                    the gate keeps its value; plain: as half
    gradient  n ~ n(x0) + dn/dx (x - x0)

`half` freezes the ratio a(z)/z of the activation function and gives half of a product to each factor. Apart from biases it has no
remainder. It is the rule of Jafari et al., *RelP* (2025, arXiv 2508.21258), after layer-wise relevance propagation. For neurons as
units of circuits see Arora et al. (2026, arXiv 2601.22594). The remainder of each rule is the feature's bias, so that rows add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from biology.config import Rule
from biology.models.model import Model, run, token_batch
from biology.records import InputError
from biology.transcoders.transcoder_set import Transcoder, TranscoderSet

DEFAULT_K = 32
TINY = 1e-6
"""For smaller |z| the ratio a(z)/z is replaced by the slope at zero."""
NAME = "neurons"
READ_HOOK, WRITE_HOOK = "mlp.hook_in", "mlp.hook_out"


@dataclass(frozen=True, eq=False)
class Neurons(Transcoder):
    """The neurons of one layer. `W_enc` is the gate of a gated MLP and the input map of a plain one; `W_dec` is [neuron, 1, d_model]."""

    W_up: Float[Tensor, "neuron d_model"] | None = None
    b_up: Float[Tensor, " neuron"] | None = None
    function: Callable[[Tensor], Tensor] = torch.nn.functional.silu
    rule: Rule = "half"

    @property
    def n_neurons(self) -> int:
        return self.b_enc.shape[0]

    @property
    def n_features(self) -> int:
        return 2 * self.n_neurons

    @property
    def exact(self) -> bool:
        return True

    @property
    def mirrored(self) -> bool:
        return True

    @property
    def feature_weights(self) -> tuple[str, ...]:
        return ("W_enc", "W_dec") if self.W_up is None else ("W_enc", "W_up", "W_dec")

    @property
    def importance(self) -> Float[Tensor, " feature"]:
        return self.W_dec[:, 0].norm(dim=1).repeat(2)

    def pre_activations(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch feature"]:
        x = x.to(self.b_enc.dtype)
        value = self.function(torch.nn.functional.linear(x, self.W_enc, self.b_enc))
        if self.W_up is not None:
            value = value * torch.nn.functional.linear(x, self.W_up, self.b_up)
        return torch.cat([value, -value], -1)

    def linear(self, x: Float[Tensor, "*batch d_model"], rule: Rule) -> Float[Tensor, "*batch neuron"]:
        """The neurons' values, with the gradient that the rule's linearisation has."""
        z = torch.nn.functional.linear(x, self.W_enc, self.b_enc)
        value = self.function(z)
        smooth = value if rule == "gradient" else self._ratio(z, value).detach() * z
        if self.W_up is None:
            return smooth
        u = torch.nn.functional.linear(x, self.W_up, self.b_up)
        if rule == "half":
            return (smooth * u.detach() + smooth.detach() * u) / 2
        return (value.detach() if rule == "frozen" else value) * u

    def readers(
        self, features: Int[Tensor, " chosen"], x: Float[Tensor, "chosen d_model"]
    ) -> tuple[Float[Tensor, "chosen d_model"], Float[Tensor, " chosen"]]:
        neuron, sign = features % self.n_neurons, self.sign(features)
        z, u, gate, up = self._factors(neuron, x)
        value = self.function(z)
        if self.rule == "gradient":
            slope = self._slope(z)
            vector = slope[:, None] * gate if up is None else (slope * u)[:, None] * gate + value[:, None] * up
        elif up is None:
            vector = self._ratio(z, value)[:, None] * gate
        elif self.rule == "frozen":
            vector = value[:, None] * up
        else:
            vector = (self._ratio(z, value) * u / 2)[:, None] * gate + (value / 2)[:, None] * up
        offset = value * u - (vector * x).sum(-1)
        return sign[:, None] * vector, sign * offset

    def encoders(self, features: Int[Tensor, "*chosen"]) -> Float[Tensor, "*chosen d_model"]:
        return self.W_enc[features % self.n_neurons]

    def decoders(
        self, features: Int[Tensor, "*chosen"] | slice = slice(None), target: int | slice = slice(None)
    ) -> Float[Tensor, "*chosen target d_model"] | Float[Tensor, "*chosen d_model"]:
        if isinstance(features, slice):
            features = torch.arange(self.n_features, device=self.W_dec.device)[features]
        rows = self.W_dec[features % self.n_neurons, target]
        return rows * self.sign(features).view(*features.shape, *[1] * (rows.dim() - features.dim()))

    def rounding(
        self, features: Int[Tensor, " chosen"], x: Float[Tensor, "chosen d_model"]
    ) -> Float[Tensor, " chosen"]:
        z, u, gate, up = self._factors(features % self.n_neurons, x)
        through_gate = x.norm(dim=-1) * gate.norm(dim=-1) * u.abs()
        return through_gate if up is None else through_gate + x.norm(dim=-1) * up.norm(dim=-1) * self.function(z).abs()

    def sign(self, features: Int[Tensor, "*chosen"]) -> Float[Tensor, "*chosen"]:
        """1 for the first of a neuron's two features, -1 for the second."""
        return 1 - 2 * (features >= self.n_neurons).to(self.b_dec.dtype)

    def _factors(self, neuron: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """z and u (1 without a gate) of each chosen neuron at its own x, and the rows of the input matrices that give them."""
        gate = self.W_enc[neuron]
        z = (x * gate).sum(-1) + self.b_enc[neuron]
        if self.W_up is None or self.b_up is None:
            return z, torch.ones_like(z), gate, None
        up = self.W_up[neuron]
        return z, (x * up).sum(-1) + self.b_up[neuron], gate, up

    def _ratio(self, z: Tensor, value: Tensor) -> Tensor:
        small = z.abs() < TINY
        return torch.where(small, self._slope(torch.zeros_like(z)), value / torch.where(small, torch.ones_like(z), z))

    def _slope(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            at = z.detach().requires_grad_(True)
            return torch.autograd.grad(self.function(at).sum(), at)[0]


def neuron_set(model: Model, *, k: int | None = DEFAULT_K, rule: Rule = "half") -> TranscoderSet:
    """The neurons of a model's MLPs as a set of per-layer features. With `k` None, all are active.

    Weights are the model's own (in float32 without a copy). Their output is compared with that of the MLPs.

    Raises:
        InputError: `k` is not from 1 to the number of neurons, or an MLP is neither a plain nor a gated one.
    """
    layers = tuple(_layer(model, layer, rule) for layer in range(model.n_layers))
    fewest = min(layer.n_neurons for layer in layers)
    if k is not None and not 1 <= k <= fewest:
        raise InputError(f"k: {k} neurons cannot be active in a layer of {fewest}: take 1 to {fewest}, or `all`")
    found = TranscoderSet("per_layer", "relu" if k is None else "topk", layers, READ_HOOK, WRITE_HOOK, k=k, name=NAME)
    _compare(model, found)
    return found


def _layer(model: Model, layer: int, rule: Rule) -> Neurons:
    mlp = model.bridge.blocks[layer].mlp
    network = mlp._original_component
    function = getattr(network, "act_fn", None) or getattr(network, "act", None)
    if function is None or not all(hasattr(mlp, name) for name in ("W_in", "W_out")):
        raise InputError(
            f"model {model.name}: the neurons of its MLP in layer {layer} ({type(network).__name__}) are not supported"
        )

    def cast(tensor: Tensor) -> Tensor:
        return tensor.detach().to(model.precision)

    def bias(name: str, like: Tensor, size: int) -> Tensor:
        found = getattr(mlp, name, None)
        return like.new_zeros(size) if found is None else cast(found)

    W_in, W_out, W_gate = cast(mlp.W_in).T, cast(mlp.W_out), getattr(mlp, "W_gate", None)
    n, d_model = W_in.shape
    first, second = (W_in, None) if W_gate is None else (cast(W_gate).T, W_in)
    return Neurons(
        W_enc=first,
        b_enc=bias("b_in" if second is None else "b_gate", first, n),
        W_dec=W_out[:, None],
        b_dec=bias("b_out", W_out, d_model),
        W_up=second,
        b_up=None if second is None else bias("b_in", first, n),
        function=function,
        rule=rule,
    )


def _compare(model: Model, neurons: TranscoderSet) -> None:
    """Raises `InputError` if the neurons' outputs on a prompt do not add up to the MLPs' outputs."""
    ids = token_batch(model, torch.arange(min(8, model.n_vocab)))
    names = [f"blocks.{layer}.{hook}" for layer in range(model.n_layers) for hook in (READ_HOOK, WRITE_HOOK)]
    _, seen = run(model, ids, reads=names, positions=-1)
    for layer, weights in enumerate(neurons.layers):
        x, out = (seen[f"blocks.{layer}.{hook}"].to(model.precision) for hook in (READ_HOOK, WRITE_HOOK))
        value = weights.pre_activations(x)[..., : weights.W_dec.shape[0]]
        off = (value @ weights.W_dec[:, 0] + weights.b_dec - out).norm() / out.norm().clamp(min=1e-30)
        tolerance = 1e-4 if model.dtype == model.precision else 5e-2
        if not float(off) <= tolerance:
            raise InputError(
                f"model {model.name}: the neurons of layer {layer} do not add up to its MLP's output (off by {float(off):.1e})"
            )
