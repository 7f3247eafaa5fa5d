"""Memory of a training on a CPU."""

import torch
from detectron2.config import CfgNode

from ...kernels.allocator import keep_freed_memory

__all__ = ["retain_freed_memory"]


def retain_freed_memory(cfg: CfgNode) -> bool:
    """Let this process keep freed memory, on a CPU and if DEEPFUSE_D2.SOLVER.CPU_KEEP_MEMORY.

    Returns:
        whether it does.
    """
    if not cfg.DEEPFUSE_D2.SOLVER.CPU_KEEP_MEMORY or torch.device(cfg.MODEL.DEVICE).type != "cpu":
        return False
    return keep_freed_memory()
