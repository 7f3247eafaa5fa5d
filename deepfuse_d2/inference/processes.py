"""Processes that predict beside each other on the cores, or the GPUs, of one machine.

They are forked from a process that has imported all this and runs no thread: threads of a runtime
do not live on in a fork, and a process that imports all anew takes seconds, and memory of its own.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode

from ..kernels.allocator import keep_freed_memory

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = [
    "choose_workers", "devices_of", "die_with_the_parent", "how_it_ended", "process_context",
    "set_up_worker",
]  # fmt: skip

# MiB that a process takes beside what its pages share with the others: code, model, images
_MEMORY = 1500


def choose_workers(
    workers: int | None, threads: int | None, devices: Sequence[str] = ()
) -> tuple[int, int]:
    """Processes and threads of each, of what this process may use; those that are given hold.

    A network gains less by a second thread than by a second image, so there is a process for each
    core as far as the memory reaches.

    Args:
        devices: that are used; there is a process for each GPU of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if workers is None:
        gpus = sum(device.startswith("cuda") for device in devices)
        workers = gpus or cores // (threads or 1)
        free = _free_memory()
        if free is not None:
            workers = min(workers, int(free // _MEMORY))
        workers = max(workers, 1)
    return workers, threads or max(cores // workers, 1)


def devices_of(cfg: CfgNode) -> tuple[str, ...]:
    """MODEL.DEVICE; or all GPUs, where it asks for one without naming it."""
    if cfg.MODEL.DEVICE != "cuda":
        return (cfg.MODEL.DEVICE,)
    return tuple(f"cuda:{k}" for k in range(torch.cuda.device_count()))


def process_context() -> "SpawnContext | ForkServerContext":
    """What starts processes: a server of forks, or where there is none, spawning."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepfuse_d2.inference"])
    return context


def set_up_worker(threads: int) -> None:
    """Make this process one that predicts, before its model is built.

    Processes share the cores, and none takes those of another; each keeps its memory.
    """
    import cv2

    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def die_with_the_parent() -> None:
    """End this process when its parent has ended: one that is killed cannot end its children."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is no child"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def how_it_ended(process: multiprocessing.process.BaseProcess) -> str:
    """Say of a process that has ended how: "was killed by SIGKILL"."""
    process.join(10)
    code = process.exitcode
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    memory = ", as the system does when memory is short" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{memory}"


def _free_memory() -> float | None:
    """MiB of the machine, or of the container, that are free; None where it is not known."""
    free = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free += [int(x.split()[1]) / 1024 for x in file if x.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        free.append((int(limit) - int(used)) / 2**20)
    except (OSError, ValueError):  # another system, or a container without a limit
        pass
    return min(free) if free else None
