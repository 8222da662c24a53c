"""Times circuit-tracer on the model and transcoders of bench.py; runs in the environment benchmarks/.venv.

    python peer.py FOLDER KIND BUDGET BATCH OUT      (BUDGET 0: all features)

Nothing of it is changed; its phases are timed by wrapping what it calls. Results go to OUT.npz (graph) and OUT.json
(times, memory).
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from measure import Memory, gemm_rate, timed, touch
from safetensors.torch import load_file
from shapes import BOS, D_MLP, D_MODEL, N_CONTEXT, N_HEADS, N_LAYERS, N_VOCAB, TOKENS

torch.set_num_threads(1)

from circuit_tracer.attribution import attribute as attribution  # noqa: E402
from circuit_tracer.graph import compute_graph_scores, prune_graph  # noqa: E402
from circuit_tracer.replacement_model.replacement_model_transformerlens import (  # noqa: E402
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt  # noqa: E402
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set  # noqa: E402
from transformer_lens import HookedTransformerConfig  # noqa: E402


class TokenIds:
    """What circuit-tracer asks of a tokenizer when prompts are token ids."""

    vocab_size, all_special_ids, bos_token_id, pad_token_id, eos_token_id = N_VOCAB, [BOS], BOS, BOS, BOS
    padding_side = "right"

    def decode(self, ids: object) -> str:
        return str(ids)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The Hugging Face weights under the names and in the shapes of a HookedTransformer."""
    stored = {key.removeprefix("transformer."): value for key, value in load_file(folder / "model.safetensors").items()}
    out = {"embed.W_E": stored["wte.weight"], "pos_embed.W_pos": stored["wpe.weight"]}
    out |= {"unembed.W_U": stored["wte.weight"].T.contiguous(), "unembed.b_U": torch.zeros(N_VOCAB)}
    out |= {"ln_final.w": stored["ln_f.weight"], "ln_final.b": stored["ln_f.bias"]}
    d_head = D_MODEL // N_HEADS
    for layer in range(N_LAYERS):
        here, there = f"h.{layer}.", f"blocks.{layer}."
        for ours, theirs in (("ln_1", "ln1"), ("ln_2", "ln2")):
            out |= {
                there + theirs + ".w": stored[here + ours + ".weight"],
                there + theirs + ".b": stored[here + ours + ".bias"],
            }
        joint, bias = stored[here + "attn.c_attn.weight"], stored[here + "attn.c_attn.bias"]
        for index, name in enumerate("QKV"):
            part = joint[:, index * D_MODEL : (index + 1) * D_MODEL]
            out[there + f"attn.W_{name}"] = part.view(D_MODEL, N_HEADS, d_head).permute(1, 0, 2).contiguous()
            out[there + f"attn.b_{name}"] = bias[index * D_MODEL : (index + 1) * D_MODEL].view(N_HEADS, d_head)
        out[there + "attn.W_O"] = stored[here + "attn.c_proj.weight"].view(N_HEADS, d_head, D_MODEL)
        out[there + "attn.b_O"] = stored[here + "attn.c_proj.bias"]
        for name, which in (("in", "c_fc"), ("out", "c_proj")):
            out[there + f"mlp.W_{name}"] = stored[here + f"mlp.{which}.weight"]
            out[there + f"mlp.b_{name}"] = stored[here + f"mlp.{which}.bias"]
    return out


def model_of(folder: Path, kind: str) -> TransformerLensReplacementModel:
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out", "scan": "random"}
    where = {"device": torch.device("cpu"), "dtype": torch.float32, "lazy_encoder": False, "lazy_decoder": False}
    if kind == "per_layer":
        paths = {layer: str(folder / kind / f"layer_{layer}.safetensors") for layer in range(N_LAYERS)}
        transcoders = load_transcoder_set(paths, **hooks, **where)
    else:
        transcoders = load_clt(str(folder / kind), **hooks, **where)
    config = HookedTransformerConfig(
        n_layers=N_LAYERS, d_model=D_MODEL, n_ctx=N_CONTEXT, d_head=D_MODEL // N_HEADS, n_heads=N_HEADS, d_mlp=D_MLP,
        act_fn="gelu_new", d_vocab=N_VOCAB, normalization_type="LN", positional_embedding_type="standard",
        model_name="random-gpt2-small", device="cpu", seed=0, eps=1e-5, default_prepend_bos=False,
    )  # fmt: skip
    # the weights go in before the MLPs are wrapped
    model = TransformerLensReplacementModel(config)
    model.load_state_dict(weights(folder / "model"), strict=False)
    model._configure_replacement_model(transcoders)
    model.tokenizer = TokenIds()
    return model


def weights_of(transcoders: torch.nn.Module) -> list[torch.Tensor]:
    return [*transcoders.parameters(), *transcoders.buffers()]


def main() -> None:
    folder, kind, budget, batch, out = (
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        Path(sys.argv[5]),
    )
    model = model_of(folder, kind)
    touch([*model.parameters(), *model.buffers(), *weights_of(model.transcoders)])
    rate = gemm_rate()
    phases = {"setup": 0.0, "forward": 0.0, "rows": 0.0, "selection": 0.0}

    engine = sys.modules["circuit_tracer.attribution.attribute"]
    model.setup_attribution = timed(model.setup_attribution, phases, "setup")
    model.run_forward_pass = timed(model.run_forward_pass, phases, "forward")
    engine.compute_partial_influences = timed(engine.compute_partial_influences, phases, "selection")
    context = sys.modules["circuit_tracer.attribution.context_transformerlens"].AttributionContext
    context.compute_batch = timed(context.compute_batch, phases, "rows")
    attribute = getattr(attribution, "attribute", attribution)
    with Memory() as memory:
        wall, started = time.perf_counter(), time.process_time()
        graph = attribute(
            torch.tensor(TOKENS), model, batch_size=batch, max_feature_nodes=budget or None, max_n_logits=5,
            update_interval=max(4, -(-budget // batch)),
        )  # fmt: skip
        total = time.process_time() - started
        wall = time.perf_counter() - wall
    with Memory() as pruning:
        started = time.process_time()
        pruned = prune_graph(graph)
        phases["prune"] = time.process_time() - started
    started = time.process_time()
    scores = compute_graph_scores(graph)
    phases["scores"] = time.process_time() - started
    active = graph.active_features[graph.selected_features]
    np.savez(
        out.with_suffix(".npz"), features=active.numpy(), adjacency=graph.adjacency_matrix.numpy(),
        n_active=len(graph.active_features), logits=np.array([int(t.vocab_idx) for t in graph.logit_targets]),
        nodes=int(pruned[0].sum()), edges=int(pruned[1].sum()), scores=np.array(scores),
    )  # fmt: skip
    record = {
        "seconds": total + phases["prune"], "attribute": total, "attribute_wall": wall, "phases": phases, "batch_size": batch,
        "extra_gib": max(memory.extra_gib, pruning.extra_gib), "extra_gib_attribute": memory.extra_gib,
        "gemm_gflops": max(rate, gemm_rate()), "circuit-tracer": version("circuit-tracer"), "transformer-lens": version("transformer-lens"),
        "torch": torch.__version__,
    }  # fmt: skip
    out.with_suffix(".json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(json.dumps(record), flush=True)
    os._exit(0)  # its models raise TypeError when the interpreter ends


if __name__ == "__main__":
    main()
