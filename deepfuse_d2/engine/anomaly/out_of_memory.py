"""What to say when memory is full: what needed it, and what to lower."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor

from ...modeling.meta_arch.protocol import meta_arch_of
from .batch_files import describe_batch

__all__ = ["explain_out_of_memory", "is_out_of_memory"]

_GIB = 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that the memory of a GPU, or of the machine, is full."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        phrase in text for phrase in ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    )


def explain_out_of_memory(error: BaseException, cfg: CfgNode, batch: Any, world_size: int) -> str:
    """Name the batch, its largest image, the state of the memory and what to lower."""
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda" and not isinstance(error, MemoryError)
    lines = [f"the memory of {'the GPU' if on_gpu else 'the machine'} is full"]
    if on_gpu and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        lines[0] += (
            f" ({total / _GIB:.1f} GiB in all, {free / _GIB:.1f} free; this training holds "
            f"{torch.cuda.memory_allocated() / _GIB:.1f}, at most "
            f"{torch.cuda.max_memory_allocated() / _GIB:.1f})"
        )
    images = [x for x in batch or () if isinstance(x, Mapping) and _is_image(x.get("image"))]
    if images:
        largest = max(images, key=lambda sample: sample["image"].numel())
        height, width = (max(x["image"].shape[i] for x in images) for i in (-2, -1))
        lines += [
            f"The batch, padded to {len(images)} x {height} x {width} pixels:",
            describe_batch(batch),
            f"The largest image: {largest.get('file_name', '?')}.",
        ]
    lines.append("What needs less, the cheapest first:")
    lines += [f"  {advice}" for advice in _advice(cfg, on_gpu, world_size)]
    return "\n".join(lines)


def _advice(cfg: CfgNode, on_gpu: bool, world_size: int) -> list[str]:
    found = []
    if not cfg.SOLVER.AMP.ENABLED and on_gpu:
        found.append("SOLVER.AMP.ENABLED True: half the bytes for most activations")
    if not cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES:
        found.append(
            'DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES ["res2", "res3"]: the same result, a '
            "little slower"
        )
    images = cfg.SOLVER.IMS_PER_BATCH // world_size
    if images > 1:
        found.append(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH // 2} (is {cfg.SOLVER.IMS_PER_BATCH}, "
            f"{images} a process), with SOLVER.BASE_LR {cfg.SOLVER.BASE_LR / 2:g}"
        )
    kind = meta_arch_of(cfg)
    if isinstance(kind, type) and issubclass(kind, GeneralizedRCNN):
        per_image = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        found.append(f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE {per_image // 2} (is {per_image})")
    found.append(
        f"smaller images: INPUT.MIN_SIZE_TRAIN (is {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}), "
        f"INPUT.MAX_SIZE_TRAIN (is {cfg.INPUT.MAX_SIZE_TRAIN}), or INPUT.CROP.ENABLED True"
    )
    if not on_gpu and cfg.DATALOADER.NUM_WORKERS:
        found.insert(0, f"DATALOADER.NUM_WORKERS 0 (is {cfg.DATALOADER.NUM_WORKERS})")
    return found


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3
