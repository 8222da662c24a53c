"""Estimates how much memory and disk a model and its transcoders need, before anything large is loaded or downloaded.

Torch-free arithmetic: from the sizes of a known model (`of_known`), or from the headers of files on disk (`of_directories`).

    model          every parameter once, in the model's dtype
    engine         copies for attribution: per-head maps of attention, and float32 copies for a model in half precision
    transcoders    encoders, decoders and skips in the model's dtype; traced in half precision, a float32 copy too
    in files       weights that are offloaded on a CPU: the system takes their memory back when it is short
    working        rows of a graph under computation (`--memory`); the adjacency matrix of n nodes adds 4 n^2 bytes
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zipfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from biology.config import ModelConfig
from biology.model_sources import HubTranscoders, Shape
from biology.records import InputError

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
WORKING = 4 << 30
GIB = 2**30
SMALL = GIB
"""Below this size, no message about memory is printed."""


@dataclass(frozen=True)
class Plan:
    """Bytes by purpose."""

    model: int
    engine: int
    transcoders: int
    working: int = WORKING
    visiting: int = 0
    """Size of the largest layer of transcoders: the most that a device holds at a time if they are offloaded."""
    maps: int = 0
    """The part of `engine` that is in memory even if weights stay in their files: value and output maps of attention."""
    neurons: int = 0
    """Size of the neurons' weights, which are in memory if neurons are the features of a model that stays in its files."""
    stored: int = 0
    """Size of the files."""
    in_files: int = 0
    """What stays in files; not part of the total."""

    @property
    def total(self) -> int:
        return self.model + self.engine + self.transcoders + self.working

    def __str__(self) -> str:
        parts = {"model": self.model, "engine": self.engine, "transcoders": self.transcoders, "working": self.working}
        parts |= {"in files": self.in_files} if self.in_files else {}
        return f"{gib(self.total)} ({', '.join(f'{name} {gib(size)}' for name, size in parts.items())})"


def by_device(plan: Plan, entry: ModelConfig) -> dict[str, Plan]:
    """The plan for the device of the model, and for the CPU if its transcoders are offloaded."""
    if not entry.offload:
        return {entry.device: plan}
    if entry.device == "cpu":
        features = plan.neurons if entry.neurons else 0
        return {"cpu": Plan(0, plan.maps, features, plan.working, in_files=plan.stored)}
    return {entry.device: replace(plan, transcoders=plan.visiting), "cpu": Plan(0, 0, plan.transcoders, 0)}


def gib(size: int) -> str:
    """A number of bytes in GiB, in words."""
    return f"{size / GIB:.1f} GiB"


def parameters(shape: Shape) -> int:
    """Parameters of the text model."""
    width, heads, keys = shape.d_model, shape.n_heads * shape.d_head, shape.n_key_value_heads * shape.d_head
    norms = {"llama": 2, "qwen3": 2}.get(shape.architecture, 4) * width
    if shape.architecture.startswith(("qwen3", "gemma3")):
        norms += 2 * shape.d_head  # norms of queries and keys
    layer = width * (2 * heads + 2 * keys) + 3 * width * shape.d_mlp + norms
    return shape.n_layers * layer + width + shape.n_vocab * width * (1 if shape.tied else 2)


def transcoder_parameters(shape: Shape, transcoders: HubTranscoders) -> int | None:
    """Parameters of a published set; None if its width is unknown."""
    if transcoders.features is None:
        return None
    layers, cross = shape.n_layers, transcoders.kind == "cross_layer"
    decoders = layers * (layers + 1) // 2 if cross else layers
    per_feature = layers * (shape.d_model + 2) + decoders * shape.d_model
    return transcoders.features * per_feature + layers * shape.d_model * (1 + shape.d_model * transcoders.skip)


def plan(shape: Shape, n_parameters: int, n_transcoders: int, dtype: str) -> Plan:
    """The plan for these numbers of parameters of model and transcoders, in memory as `dtype`."""
    half = BYTES[dtype] < 4
    precise = max(4, BYTES[dtype])
    heads = shape.n_layers * shape.n_heads * shape.d_head * shape.d_model
    copies = heads * (6 if half else 4) + (shape.n_vocab * shape.d_model if half else 0)
    size = n_transcoders * (BYTES[dtype] + (precise if half else 0))
    # the first layer of a cross-layer set writes to all L layers, of L (L + 1) / 2 decoders
    return Plan(
        n_parameters * BYTES[dtype], copies * precise, size, visiting=-(-2 * size // (shape.n_layers + 1)),
        maps=2 * heads * precise, neurons=3 * shape.n_layers * shape.d_model * shape.d_mlp * precise,
    )  # fmt: skip


def of_known(entry: ModelConfig) -> Plan | None:
    """The plan of an entry with `hub` or `package`, before the download; None if the width of its transcoders is unknown."""
    assert entry.known_as is not None
    shape, count = entry.known_as.shape, _transcoder_count(entry)
    if count is None:
        return None
    return replace(plan(shape, parameters(shape), count, entry.dtype), stored=disk_of_known(entry) or 0)


def _transcoder_count(entry: ModelConfig) -> int | None:
    """Parameters of the transcoders of a known model; 0 if neurons are the features."""
    return 0 if entry.neurons or entry.hub is None else transcoder_parameters(entry.hub.shape, entry.hub.transcoders)


def disk_of_known(entry: ModelConfig) -> int | None:
    """Bytes of the files of an entry with `hub` or `package`, estimated from its sizes; None if the width is unknown."""
    assert entry.known_as is not None
    n_parameters, count = parameters(entry.known_as.shape), _transcoder_count(entry)
    if count is None:
        return None
    if entry.hub is None:  # a package: its dequantised weights are stored in float32
        return n_parameters * BYTES["float32"]
    return n_parameters * BYTES[entry.hub.model.stored] + count * BYTES[entry.hub.transcoders.stored]


# Files on disk -------------------------------------------------------------------------------------------------------


def of_directories(path: Path, transcoders: Path | None, dtype: str) -> Plan:
    """The plan of a model and transcoders on disk, from config.json and the headers of their weight files. Without `transcoders`,
    neurons are the features.

    Raises:
        InputError: no config.json in `path`, or a weight file without a readable header.
    """
    shape = shape_of(path)
    stored = (
        []
        if transcoders is None
        else [file for pattern in ("**/*.safetensors", "**/*.npz") for file in sorted(transcoders.glob(pattern))]
    )
    weights = sorted(path.glob("*.safetensors"))
    text = sum(size for file in weights for size in _sizes(file, images=False))
    found = plan(shape, text, sum(size for file in stored for size in _sizes(file)), dtype)
    return replace(found, stored=sum(file.stat().st_size for file in (*weights, *stored)))


def shape_of(path: Path) -> Shape:
    """The sizes in config.json that matter here, under any architecture's names."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config", config)
        width = text.get("hidden_size") or text["n_embd"]
        heads = text.get("num_attention_heads") or text["n_head"]
        return Shape(
            architecture=str(config.get("model_type")), n_layers=text.get("num_hidden_layers") or text["n_layer"],
            d_model=width, n_heads=heads, n_key_value_heads=text.get("num_key_value_heads") or heads,
            d_head=text.get("head_dim") or width // heads, d_mlp=text.get("intermediate_size") or 4 * width,
            n_vocab=text.get("vocab_size") or 0, tied=bool(config.get("tie_word_embeddings", True)),
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"model directory {path} has no config.json: is it a Hugging Face model directory?") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / 'config.json'} does not say the sizes of the model: {error!r}") from None


def _sizes(file: Path, images: bool = True) -> list[int]:
    """Number of elements of each tensor of a safetensors or npz file, from its headers alone."""
    try:
        if file.suffix == ".npz":
            import numpy

            with zipfile.ZipFile(file) as archive:
                sizes = []
                for name in archive.namelist():
                    with archive.open(name) as member:
                        version = numpy.lib.format.read_magic(member)
                        read = getattr(numpy.lib.format, f"read_array_header_{version[0]}_{version[1]}")
                        sizes.append(prod(read(member)[0]))
                return sizes
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > file.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(opened.read(length))
        named = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        kept = [tensor for name, tensor in named.items() if images or not name.startswith(("vision_", "multi_modal"))]
        return [prod(tensor["shape"]) for tensor in kept]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, zipfile.BadZipFile) as error:
        raise InputError(f"weights file {file} is truncated or damaged: {error}") from None


# This machine --------------------------------------------------------------------------------------------------------


def available(device: str) -> int | None:
    """Total bytes of memory of a device ("cpu" or "cuda", its largest GPU); None if there is no such device."""
    if device == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = Path("/sys/fs/cgroup/memory.max")  # of a container
        text = limit.read_text().strip() if limit.is_file() else "max"
        return min(total, int(text)) if text.isdigit() else total
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    asked = [command, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.split()
    sizes = [int(size) for size in said if size.isdigit()]
    return max(sizes) * 2**20 if sizes else None


CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def free() -> int:
    """Bytes of CPU memory that this process can still take: limited by the machine and by its containers."""
    left = _lines(Path("/proc/meminfo")).get("MemAvailable")
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") if left is None else left << 10]
    for line in _text(OWN_CGROUPS).splitlines():
        _, kinds, path = line.split(":", 2)
        if "memory" in kinds.split(","):  # the first version of cgroups
            root, names, cached = (
                CGROUPS / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                "total_inactive_file",
            )
        elif not kinds:
            root, names, cached = CGROUPS, ("memory.max", "memory.current"), "inactive_file"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():  # cached files are freed when memory is needed
                found.append(int(limit) - int(used) + _lines(folder / "memory.stat").get(cached, 0))
            if folder == root:
                break
    return max(0, min(found))


def addresses() -> int:
    """Bytes that this process can still map, used or not: limited by `ulimit -v` and by the kernel."""
    import resource

    status, most = _lines(Path("/proc/self/status")), [2**63]
    if _text(Path("/proc/sys/vm/overcommit_memory")).strip() == "2":
        about = _lines(Path("/proc/meminfo"))
        most.append((about["CommitLimit"] - about["Committed_AS"]) << 10)
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            most.append(soft - (status.get(used, 0) << 10))
    return max(0, min(most))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _lines(file: Path) -> dict[str, int]:
    """Numbers by name, as the kernel lists them: `MemTotal:  24566 kB`."""
    words = [line.replace(":", " ").split() for line in _text(file).splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}
