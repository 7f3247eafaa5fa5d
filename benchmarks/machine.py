"""The machine of a benchmark: what it can, what it reaches in a matrix product, and shares of that.

    python -m benchmarks.machine

A figure tells something where one knows what the machine could have done at best. The peak is that
of a large matrix product, which is all that a network is made of, by the library that torch takes
for it, with the threads and the instruction sets of this process (``ONEDNN_MAX_CPU_ISA`` and
``ATEN_CPU_CAPABILITY`` limit both).
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deepfuse_d2.kernels.capabilities import has_bfloat16, isa

__all__ = ["Machine", "cpu_name", "measure_machine", "peak_of"]

# Side of the matrices: large enough for every core, 17 GFLOP on a CPU and 1,100 on a GPU.
_SIDES = {"cpu": 2048, "cuda": 8192}
_SECONDS = 0.7


@dataclass(frozen=True)
class Machine:
    """A machine and its peaks.

    Attributes:
        name: of the processor, or of the GPU.
        kind: the best instruction set that processor, torch and oneDNN may use; "" of a GPU.
        threads: of this process.
        peaks: FLOP/s of a large matrix product by type.
    """

    name: str
    kind: str
    threads: int
    peaks: dict[torch.dtype, float]

    def percent(self, flops: float, seconds: float, dtype: torch.dtype = torch.float32) -> float:
        """How much of the peak `flops` in `seconds` are, in percent; nan without one of the type.

        A way that needs fewer operations than were counted, such as Winograd's, can pass 100.
        """
        return 100 * flops / seconds / self.peaks.get(dtype, float("nan"))

    def __str__(self) -> str:
        kind = f", {self.kind}" if self.kind else ""
        peaks = ", ".join(
            f"{peak / 1e9:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}"
            for dtype, peak in self.peaks.items()
        )
        return (
            f"{self.name}{kind}, {self.threads} threads, torch {torch.__version__}, "
            f"{datetime.date.today()}; a matrix product reaches {peaks}"
        )


def measure_machine(device: str | torch.device | None = None) -> Machine:
    """This machine, after a second or two of matrix products.

    Args:
        device: to measure; by default the GPU where there is one.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        name, kind = torch.cuda.get_device_name(device), ""
        dtypes = [torch.float32, torch.bfloat16, torch.float16]
        dtypes = dtypes if torch.cuda.is_bf16_supported() else [torch.float32, torch.float16]
    else:
        name, kind = cpu_name(), isa()
        # emulated where the hardware has none, which is no peak of anything
        dtypes = [torch.float32, torch.bfloat16] if has_bfloat16() else [torch.float32]
    peaks = {dtype: peak_of(dtype, device) for dtype in dtypes}
    return Machine(name, kind, torch.get_num_threads(), peaks)


@torch.no_grad()
def peak_of(dtype: torch.dtype, device: torch.device, side: int | None = None) -> float:
    """FLOP/s of the fastest of some products of two square matrices.

    Args:
        side: of the matrices; by default one that fits the device.
    """
    side = side or _SIDES[device.type]
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)

    def once() -> float:
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return 2 * side**3 / _best(once)


def _best(once: Callable[[], float]) -> float:
    once()  # chooses kernels
    end = time.perf_counter() + _SECONDS
    seconds = [once() for _ in range(3)]
    while time.perf_counter() < end:
        seconds.append(once())
    return min(seconds)


def cpu_name() -> str:
    """The processor, with family and model, which tell generations apart where the name does not:
    "AMD EPYC (family 25, model 17)". "CPU" on a system that does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "CPU"
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    if "model name" not in found:
        return "CPU"
    numbers = ", ".join(
        f"{word} {found[key]}"
        for word, key in (("family", "cpu family"), ("model", "model"))
        if key in found
    )
    return f"{found['model name']} ({numbers})" if numbers else found["model name"]


if __name__ == "__main__":
    print(measure_machine())
