"""A model and transcoders that memory would not hold, traced on a CPU: how much it takes, and how long.

    python benchmarks/large_models.py gemma-2-2b FOLDER           writes random weights of that shape, then traces 12 tokens
    python benchmarks/large_models.py qwen3-0.6b FOLDER           the same with 163,840 features a layer

Weights are random and stored in bfloat16; what a graph costs does not depend on what they say. `biology trace --offload` runs in a
process of its own; memory is what it holds itself (`RssAnon`), because the system takes pages of files back when it is short. Before
that the graph alone is built, and its memory beyond the loaded model is compared with what is foretold: the maps of attention and the
graph's own arrays. FOLDER takes 9 and 20 GB; what lies there is used again.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "gemma-2-2b": {
        "config": dict(
            model_type="gemma2", hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
            num_key_value_heads=4, head_dim=256, vocab_size=256000, query_pre_attn_scalar=256, bos_token_id=2,
        ),
        "features": 16384, "threshold": 2.8, "reads": "ln2.hook_normalized",
    },
    "qwen3-0.6b": {
        "config": dict(
            model_type="qwen3", hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=True, bos_token_id=2,
        ),
        "features": 163840, "threshold": 3.4, "reads": "mlp.hook_in",
    },
}  # fmt: skip
TOKENS = [2, *range(1000, 12000, 1000)]
NODES = 1000


def write_model(folder: Path, config: dict) -> None:
    """Random weights, a file for each layer."""
    import transformers

    made = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    made.architectures, made.dtype = [type(network).__name__], torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    generator, parts = torch.Generator().manual_seed(0), {}
    tied = set(getattr(network, "_tied_weights_keys", None) or ())
    for name, value in network.state_dict().items():
        if name in tied:
            continue
        layer = re.search(r"layers\.(\d+)\.", name)
        scale = 0.0 if "norm" in name and config["model_type"] == "gemma2" else value.shape[-1] ** -0.5
        drawn = (
            torch.ones(value.shape)
            if value.dim() < 2 and scale
            else scale * torch.randn(value.shape, generator=generator)
        )
        parts.setdefault(f"model-{layer[1] if layer else 'rest'}.safetensors", {})[name] = drawn.bfloat16()
    index = {name: file for file, tensors in parts.items() for name in tensors}
    for file, tensors in parts.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def write_transcoders(folder: Path, config: dict, n_features: int, threshold: float, reads: str) -> None:
    """Random JumpReLU transcoders in circuit-tracer's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    width, generator = config["hidden_size"], torch.Generator().manual_seed(1)
    for layer in range(config["num_hidden_layers"]):
        tensors = {
            "W_enc": torch.randn(n_features, width, generator=generator).mul_(width**-0.5).bfloat16(),
            "W_dec": torch.randn(n_features, width, generator=generator).mul_(0.1 * width**-0.5).bfloat16(),
            "b_enc": torch.zeros(n_features).bfloat16(),
            "b_dec": torch.zeros(width).bfloat16(),
            "activation_function.threshold": torch.full((n_features,), threshold).bfloat16(),
        }
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    text = f"model_kind: transcoder_set\nfeature_input_hook: {reads}\nfeature_output_hook: hook_mlp_out\n"
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def held(pid: int | str = "self") -> int:
    """Bytes that a process holds itself; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


def watched(command: list[str]) -> tuple[float, int, str]:
    """Seconds and peak memory in bytes of a command, and what it writes."""
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=err)
        while process.poll() is None:
            peak = max(peak, held(process.pid))
            time.sleep(0.02)
        for stream in (out, err):
            stream.seek(0)
        if process.returncode:
            sys.exit(err.read())
        return time.perf_counter() - began, peak, out.read()


def graph_alone(folder: Path) -> None:
    """The graph of `trace` without what the command does beside it; says what was there before and what was foretold."""
    from biology import api
    from biology.attribution.assembly import attribute
    from biology.models import memory

    foretold = [0]
    model, transcoders = api.load(folder / "model", folder / "transcoders", offload=True)
    plan = memory.of_directories(folder / "model", folder / "transcoders", "float32")
    before = held()
    graph = attribute(
        model,
        transcoders,
        TOKENS,
        max_feature_nodes=NODES,
        on_estimate=lambda sizes, found: foretold.append(found.total),
    )
    said = {"before": before, "foretold": plan.maps + foretold[-1], "nodes": int(graph.n_nodes)}
    print(json.dumps(said | {"row_residual": graph.metadata["row_residual"]}))


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "graph-alone":
        return graph_alone(folder)
    shape = SHAPES[name]
    if not (folder / "model/model.safetensors.index.json").is_file():
        write_model(folder / "model", shape["config"])
    if not (folder / "transcoders/config.yaml").is_file():
        write_transcoders(
            folder / "transcoders", shape["config"], shape["features"], shape["threshold"], shape["reads"]
        )
    seconds, peak, text = watched([__file__, "graph-alone", str(folder)])
    said = json.loads(text)
    print(
        f"{name}, {len(TOKENS)} tokens, {said['nodes']} nodes, row residual {said['row_residual']:.0e}: {seconds:.0f} s, "
        f"{(peak - said['before']) / 2**30:.2f} GiB, foretold {said['foretold'] / 2**30:.2f} GiB"
    )
    tokens = ",".join(map(str, TOKENS))
    options = ["--offload", "--max-nodes", str(NODES), "--json", "--token-ids", tokens]
    where = ["--model", str(folder / "model"), "--transcoders", str(folder / "transcoders")]
    seconds, peak, _ = watched(["-m", "biology", "trace", *where, *options])
    print(f"biology trace --offload: {seconds:.0f} s, {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
