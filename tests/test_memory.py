"""The memory plan counts what is really there: parameters of every known model, and of files by their headers alone."""

import resource

import pytest
import torch
from miniatures import ARCHITECTURES, LAYOUTS, write_model, write_transcoders

from biology.cli.fetching import _check_machine, fitting
from biology.config import known_models
from biology.models import checkpoint, memory
from biology.records import InputError
from biology.transcoders.transcoder_files import load_transcoders

SHAPES = {entry.sources["model"].repo: entry.known_as.shape for entry in known_models().values()}


@pytest.mark.parametrize("repository", SHAPES)
def test_parameters_of_known_models(repository):
    """Against the network that transformers builds from these sizes, without its weights."""
    import transformers

    shape = SHAPES[repository]
    sizes = dict(
        vocab_size=shape.n_vocab, hidden_size=shape.d_model, intermediate_size=shape.d_mlp, head_dim=shape.d_head,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_key_value_heads,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    configurations = {
        "llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config, "gemma2": transformers.Gemma2Config,
        "gemma3_text": transformers.Gemma3TextConfig, "gemma3": transformers.Gemma3TextConfig,
    }  # fmt: skip
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(configurations[shape.architecture](**sizes))
    assert memory.parameters(shape) == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_on_disk(tmp_path, architecture, dtype):
    """The image encoder does not count; of GPT-2's tied embedding neither file nor network hold a second copy."""
    network = checkpoint.network(write_model(tmp_path / "model", architecture), torch.float32)
    write_transcoders(tmp_path / "transcoders", "gemma scope 2")
    plan = memory.of_directories(tmp_path / "model", tmp_path / "transcoders", dtype)
    assert plan.model == sum(value.numel() for value in network.parameters()) * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transcoders_on_disk(tmp_path, tiny_model, layout):
    model = tiny_model("gemma3", n_layers=2)
    write_transcoders(tmp_path, layout)
    transcoders = load_transcoders(tmp_path, model)
    counted = sum(value.numel() for layer in transcoders.layers for value in vars(layer).values() if value is not None)
    stored = memory.of_directories(model.path, tmp_path, "float32").transcoders // 4
    unused = (
        48 * 32 if layout == "gemma scope 2 cross-layer affine" else 0
    )  # decoders into layers below a feature's own
    assert stored == counted + unused


def test_published_transcoders():
    for name, layers, wide in (("gemma-2-2b", 26, 16384), ("gemma-2-2b-clt-426k", 26, 16384)):
        hub = known_models()[name].hub
        decoders = 351 if "clt" in name else 26
        expected = wide * 2304 * (layers + decoders) + 2 * layers * wide + layers * 2304
        assert memory.transcoder_parameters(hub.shape, hub.transcoders) == expected
    assert memory.of_known(known_models()["qwen3-14b"]) is None


def test_half_precision_takes_more_where_graphs_are_traced():
    """Graphs are computed in float32, so transcoders in half precision are there twice."""
    shape = SHAPES["google/gemma-2-2b"]
    single, half = (memory.plan(shape, 10, 1000, dtype) for dtype in ("float32", "bfloat16"))
    assert half.transcoders == 6000 > single.transcoders == 4000


def test_what_fits():
    gib = memory.GIB
    assert fitting(4 * gib, None) == []
    assert fitting(5 * gib, None) == ["smollm2-135m-instruct"]  # which has no transcoders: its neurons are the features
    assert fitting(8 * gib, None) == ["smollm2-135m-instruct", "gemma-3-270m", "gemma-3-270m-skip"]
    with_gpu = fitting(8 * gib, 24 * gib)
    assert {"gemma-2-2b", "gemma-3-1b", "gemma-3-270m"} <= set(with_gpu)
    assert not [name for name in with_gpu if "clt" in name or "on the CPU" in name]


def test_offloaded_transcoders_take_the_memory_of_the_cpu(monkeypatch):
    shape, entry = SHAPES["google/gemma-2-2b"], known_models()["gemma-2-2b-clt-426k"]
    plan = memory.of_known(entry)
    away = memory.by_device(plan, entry.model_copy(update={"offload": True}))
    assert memory.by_device(plan, entry) == {"cuda": plan}
    assert away["cpu"].total == plan.transcoders and away["cuda"].model == plan.model
    largest = (
        entry.hub.transcoders.features * shape.n_layers * shape.d_model * 4
    )  # decoders of layer 0 into every layer
    assert 1.0 <= away["cuda"].transcoders / largest < 1.1
    (cpu,) = memory.by_device(plan, entry.model_copy(update={"offload": True, "device": "cpu"})).values()
    assert cpu.model == cpu.transcoders == 0 and cpu.in_files == memory.disk_of_known(entry)
    assert cpu.engine == 2 * 4 * shape.n_layers * shape.n_heads * shape.d_head * shape.d_model
    # a GPU that holds the model and one layer, on a machine that holds the rest: said before anything is downloaded
    sizes = {"cuda": away["cuda"].total, "cpu": away["cpu"].total}
    monkeypatch.setattr(memory, "available", sizes.get)
    with pytest.raises(InputError, match="needs .* for cuda.*offload: true"):
        _check_machine("gemma", entry, plan)
    _check_machine("gemma", entry.model_copy(update={"offload": True}), plan)
    sizes["cpu"] -= 1
    with pytest.raises(InputError, match="needs .* for cpu"):
        _check_machine("gemma", entry.model_copy(update={"offload": True}), plan)


def test_damaged_files_and_odd_configs(tmp_path):
    write_model(tmp_path / "model", "llama")
    (tmp_path / "transcoders").mkdir()
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:6])
    with pytest.raises(InputError, match="model.safetensors is truncated"):
        memory.of_directories(tmp_path / "model", tmp_path / "transcoders", "float32")
    (tmp_path / "model/config.json").write_text("[]")
    with pytest.raises(InputError, match="does not say the sizes"):
        memory.of_directories(tmp_path / "model", tmp_path / "transcoders", "float32")


def test_this_machine():
    assert memory.available("cpu") > memory.GIB


@pytest.mark.parametrize(
    "line, folder, names",
    [
        ("0::/job/step", "job", ("memory.max", "memory.current", "inactive_file")),
        ("4:memory:/job/step", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_what_is_free_is_the_least_of_machine_and_containers(tmp_path, monkeypatch, line, folder, names):
    gib, machine = memory.GIB, memory.free()
    assert 0 < machine <= memory.available("cpu")
    (tmp_path / folder / "step").mkdir(parents=True)
    (tmp_path / "own").write_text(f"3:cpu:/\n{line}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    assert memory.free() == pytest.approx(machine, rel=0.3)
    limit, used, cached = names
    for name, text in {limit: 3 * gib, used: 3 * gib - 5000, "memory.stat": f"anon 5\n{cached} 2000"}.items():
        (tmp_path / folder / name).write_text(f"{text}\n")
    assert memory.free() == 7000
    (tmp_path / folder / limit).write_text("max\n")
    assert memory.free() == pytest.approx(machine, rel=0.3)


def test_a_limit_on_addresses_is_read():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory.GIB, hard))
    try:
        assert 0 <= memory.addresses() <= memory.GIB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert memory.addresses() > memory.GIB
