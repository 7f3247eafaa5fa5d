"""Memory of a training on a CPU: what a step gives back, the next one gets."""

import ctypes
import logging

import torch
from detectron2.config import CfgNode

__all__ = ["retain_freed_memory"]

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# Bytes at the end of the heap from which on they are given back after all.
_KEPT = 2**31 - 1


def retain_freed_memory(cfg: CfgNode) -> bool:
    """Let this process keep freed memory, on a CPU and if DEEPFUSE_D2.SOLVER.CPU_KEEP_MEMORY.

    The C library gives every large block back to the system as soon as it is free, and the system
    clears each page of the next one: for the maps of a network, a tenth of the time of a step.

    Returns:
        whether it does; not so where there is no glibc.
    """
    if not cfg.DEEPFUSE_D2.SOLVER.CPU_KEEP_MEMORY or torch.device(cfg.MODEL.DEVICE).type != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of macOS, musl and Windows
        return False
    # blocks of all sizes from the heap, where they are found again
    is_set = bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    logging.getLogger(__name__).debug("Freed memory is kept: %s", is_set)
    return is_set
