"""The most memory that a training has needed so far."""

import logging
import sys

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

__all__ = ["PeakMemory", "peak_process_memory"]

_MIB = 2**20


class PeakMemory(HookBase):
    """Puts "peak_memory_mib" into the storage, and at the end says the peak of all processes.

    Of a GPU, it is what torch had allocated at most; "peak_process_memory_mib" then tells of the
    main memory. On a CPU, it is the main memory of the training process, its workers' not included.

    Args:
        device: that the model is on.
        period: iterations between two readings, 1 or more.
    """

    def __init__(self, device: str | torch.device, period: int = 20):
        self.device = torch.device(device)
        self.period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period and done != self.trainer.max_iter:
            return
        self.trainer.storage.put_scalars(**self.read(), smoothing_hint=False)

    def after_train(self) -> None:
        # a failure may be of one process alone, and then the others do not come here
        if self.trainer.iter < self.trainer.max_iter:
            return
        peaks = comm.gather(self.read()["peak_memory_mib"])
        if peaks:
            logging.getLogger(__name__).info(
                "Peak memory: %.0f MiB on %s%s.", max(peaks), self.device.type,
                f" (the most of {len(peaks)} processes)" if len(peaks) > 1 else "",
            )  # fmt: skip

    def read(self) -> dict[str, float]:
        """Peaks since the start of the process, in MiB."""
        process = peak_process_memory() / _MIB
        if self.device.type != "cuda":
            return {"peak_memory_mib": process}
        allocated = torch.cuda.max_memory_allocated(self.device) / _MIB
        return {"peak_memory_mib": allocated, "peak_process_memory_mib": process}


def peak_process_memory() -> int:
    """Bytes of main memory that this process has held at most; 0 where the system cannot tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
