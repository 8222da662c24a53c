"""Peak memory, times by phase and the rate of matrix products, the same way in both environments. Memory is measured on Linux only.

Times everywhere are the process's own CPU seconds, with one thread: what else runs on the machine counts for neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch


class Memory:
    """`extra_gib`: how far resident memory rose above its level at the start, at its highest, in GiB."""

    extra_gib = float("nan")

    def __enter__(self) -> Memory:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self.start = self._kib("VmRSS")
        except OSError:
            self.start = float("nan")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.extra_gib = (self._kib("VmHWM") - self.start) / 2**20

    @staticmethod
    def _kib(field: str) -> float:
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return float("nan")
        return next(float(line.split()[1]) for line in lines if line.startswith(field + ":"))


def touch(tensors: Iterable[torch.Tensor | None]) -> None:
    """Read weights once, so that they are in memory before anything is measured."""
    for tensor in tensors:
        if tensor is not None:
            tensor.sum()


def timed(function: Callable[..., Any], phases: dict[str, float], phase: str) -> Callable[..., Any]:
    """The function; the seconds that it takes are added to its phase."""

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            phases[phase] += time.process_time() - started

    return call


def gemm_rate(repeats: int = 5) -> float:
    """GFLOP/s of the product that both engines are made of, [4096, 768] @ [768, 768] in float32; the best of some."""
    a, b, out = torch.randn(4096, 768), torch.randn(768, 768), torch.empty(4096, 768)
    best = 0.0
    for _ in range(repeats):
        started = time.process_time()
        torch.mm(a, b, out=out)
        best = max(best, 2 * 4096 * 768 * 768 / (time.process_time() - started) / 1e9)
    return best
