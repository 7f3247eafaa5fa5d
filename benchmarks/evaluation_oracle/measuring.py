"""Seconds and peak memory of a piece of work."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLOCKS", "Meter"]

#: `cpu` counts what this process computes (all threads), whatever else the machine is doing.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Meter:
    """Adds up the seconds of several ``with`` blocks and keeps the highest peak of memory.

    Attributes:
        clock: key of :data:`CLOCKS`.
        seconds: in all blocks together.
        peak_mb: the most that a block held above what was held before it (Linux; else nan).
    """

    clock: str = "wall"
    seconds: float = 0.0
    peak_mb: float = 0.0

    def __enter__(self) -> Meter:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
            self._before = _status_kb("VmRSS")
        except OSError:
            self._before = None
        self._start = CLOCKS[self.clock]()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += CLOCKS[self.clock]() - self._start
        if self._before is None:
            self.peak_mb = float("nan")
        else:
            self.peak_mb = max(self.peak_mb, (_status_kb("VmHWM") - self._before) / 1024)


def _status_kb(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise KeyError(name)
