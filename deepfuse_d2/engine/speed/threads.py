"""How many threads compute on a CPU."""

import logging
import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ...errors import ConfigError

__all__ = ["choose_threads", "physical_cores", "set_threads"]


def set_threads(cfg: CfgNode) -> None:
    """Give a process that trains on a CPU the threads that DEEPFUSE_D2.SOLVER.CPU_THREADS says."""
    asked = cfg.DEEPFUSE_D2.SOLVER.CPU_THREADS
    if asked < 0:
        raise ConfigError(
            f"DEEPFUSE_D2.SOLVER.CPU_THREADS is {asked}; it must be 0 (choose) or more."
        )
    if torch.device(cfg.MODEL.DEVICE).type != "cpu":
        return
    if not asked and "OMP_NUM_THREADS" in os.environ:
        return  # the user has chosen
    threads = asked or choose_threads(
        physical_cores(), comm.get_local_size(), cfg.DATALOADER.NUM_WORKERS
    )
    torch.set_num_threads(threads)
    logging.getLogger(__name__).info("This process computes with %d threads", threads)


def choose_threads(cores: int, processes: int, workers: int) -> int:
    """Threads of one of `processes` training processes, each with that many loader workers.

    A thread waits for the others of an operation by spinning. If a data-loader worker has the core
    of one of them, all burn theirs until it gets it back; so with cores to spare, those that the
    workers need are left to them. A worker of ours prepares a batch in a fraction of the time that
    a CPU learns from it, so a quarter of a core is enough for one.
    """
    share = max(cores // processes, 1)
    left_to_workers = -(-workers // 4) if share > 2 else 0
    return max(share - left_to_workers, 1)


def physical_cores() -> int:
    """Cores that this process may use; two threads of one core count once.

    Counts what the affinity mask and the quota of a container allow.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    logical = len(allowed) if allowed is not None else os.cpu_count() or 1
    cores = set()
    for cpu in allowed or ():
        try:
            folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
            cores.add((folder / "thread_siblings_list").read_text().strip())
        except OSError:
            return _quota(logical)
    return _quota(len(cores) or logical)


def _quota(cores: int) -> int:
    """`cores`, or what cgroups (v2) grant if that is less."""
    try:
        granted, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(min(cores, round(int(granted) / int(period))), 1)
    except (OSError, ValueError):
        return cores
