"""A network whose matrices stay in their files, for models too large for memory.

A checkpoint loaded in its stored precision is memory-mapped: the system reads pages when they are needed and takes their memory
back when it is short. Such a network can still compute in float32. Each matrix is cast when its layer runs, and the copy is
dropped. Of the embedding, only the rows of the prompt's tokens are cast; the unembedding is multiplied in parts. Results are the
same as for a network loaded in float32.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PART = 1 << 26
"""Bytes of a matrix that are cast at a time where its rows can be taken one after the other."""
LARGE_BLOCK = 4 << 20
"""Bytes from which on memory is returned to the system as soon as it is free."""


def compute_in(network: Any, dtype: torch.dtype) -> Any:
    """Makes a network of transformers compute in `dtype` while its matrices stay as they were loaded. Returns the network.

    Its matrices are no longer parameters. Biases and gains of norms are small, and are cast once.
    """
    _return_large_blocks()
    head = network.get_output_embeddings()
    for module in list(network.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if parameter.dim() < 2:
                parameter.data = parameter.data.to(dtype)
                continue
            del module._parameters[name]
            module.__dict__["mapped"], module.__dict__["computing"] = parameter.data, dtype
            kind = _Embedding if isinstance(module, torch.nn.Embedding) else _Head if module is head else _Cast
            module.__class__ = type(f"Mapped{type(module).__name__}", (kind, type(module)), {})
        if hasattr(module, "scalar_embed_scale"):  # Gemma's factor of the embedding, rounded where it was loaded
            module.embed_scale = torch.tensor(module.scalar_embed_scale, dtype=dtype)
    return network


def rows_in_parts(matrix: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """All rows of a matrix in `dtype`, `PART` bytes at a time."""
    for part in matrix.split(max(1, PART // max(1, matrix[0].numel() * dtype.itemsize))):
        yield part.to(dtype)


def finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite. Looks at parts, so that a large matrix takes little memory."""
    return all(bool(torch.isfinite(part).all()) for part in rows_in_parts(tensor, tensor.dtype))


def free_pages_after_use(network: Any) -> Callable[[], None]:
    """From now on, memory of weights that were read from a checkpoint's file is given back after each use, and now; the file is read
    again when they are needed (from the system's cache, as long as that has room). Results are the same.

    A checkpoint in the precision of the network is mapped, so all its pages count as this process's memory once they were read. This
    is for a process that asks one prompt: it needs few of them at a time. Weights that were cast are no file's, and stay. Weights
    must not be changed in place. Returns a function that gives back all of them, to be called between steps that read weights without
    running the network. Does nothing where the system does not say what is mapped (it is not Linux).
    """
    files = _mapped_checkpoints()

    def ranges(module: Any) -> list[tuple[int, int]]:
        mine = [*module.parameters(recurse=False), *filter(None, [vars(module).get("mapped")])]
        found = [_whole_pages(one) for one in mine if one.device.type == "cpu"]
        return [(start, stop) for start, stop in found if any(a <= start < stop <= b for a, b in files)]

    held = [(module, found) for module in network.modules() if (found := ranges(module))]
    for module, found in held:
        module.register_forward_hook(lambda *_, found=found: _give_back(found))
    every = [one for _, found in held for one in found]
    _give_back(every)
    return lambda: _give_back(every)


def _mapped_checkpoints() -> list[tuple[int, int]]:
    """Addresses at which this process maps checkpoints, from start to end."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    spans = [line.split()[0].split("-") for line in lines if line.endswith(".safetensors")]
    return [(int(start, 16), int(stop, 16)) for start, stop in spans]


def _whole_pages(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the pages that hold nothing but this tensor."""
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size() if tensor.is_contiguous() else 0
    return -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + size) // mmap.PAGESIZE * mmap.PAGESIZE


def _give_back(ranges: Sequence[tuple[int, int]]) -> None:
    advise = ctypes.CDLL(None).madvise
    for start, stop in ranges:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)


def n_parameters(network: Any) -> int:
    """Parameters of a network, mapped ones included; a matrix that two modules share counts once."""
    matrices = [vars(module)["mapped"] for module in network.modules() if "mapped" in vars(module)]
    mapped = {matrix.data_ptr(): matrix.numel() for matrix in matrices}
    return sum(mapped.values()) + sum(parameter.numel() for parameter in network.parameters())


def _return_large_blocks() -> None:
    """Has the allocator return cast matrices to the system at once. That of glibc would keep twice as much as is in use."""
    try:
        ctypes.CDLL(None).mallopt(-3, LARGE_BLOCK)  # M_MMAP_THRESHOLD
    except (OSError, AttributeError):  # another C library
        return


class _Cast:
    """A module that casts its matrix at each use."""

    @property
    def weight(self) -> Tensor:
        return vars(self)["mapped"].to(vars(self)["computing"])


class _Head:
    """The unembedding. Its `weight` is the stored matrix, not a cast copy."""

    @property
    def weight(self) -> Tensor:
        return vars(self)["mapped"]

    def forward(self, x: Tensor) -> Tensor:
        parts = rows_in_parts(vars(self)["mapped"], x.dtype)
        logits = torch.cat([torch.nn.functional.linear(x, part) for part in parts], -1)
        bias = getattr(self, "bias", None)
        return logits if bias is None else logits + bias


class _Embedding:
    """The token embedding. During a lookup, its `weight` holds the rows of the tokens that are present."""

    padding_idx = None

    @property
    def weight(self) -> Tensor:
        return vars(self).get("present", vars(self)["mapped"])

    def forward(self, ids: Tensor) -> Tensor:
        tokens, place = ids.unique(return_inverse=True)
        vars(self)["present"] = vars(self)["mapped"][tokens].to(vars(self)["computing"])
        try:
            return super().forward(place)  # type: ignore[misc]
        finally:
            del vars(self)["present"]
