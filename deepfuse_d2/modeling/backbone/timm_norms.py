"""Batch norms of timm's models, frozen or synchronised, those that hold an activation too."""

import logging
from collections.abc import Callable

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

__all__ = ["freeze_norms", "with_norm"]

logger = logging.getLogger(__name__)

_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def with_norm(body: nn.Module, norm: str, name: str) -> nn.Module:
    """`body` with its batch norms frozen or synchronised; the others stay as they are."""
    if norm and not any(isinstance(m, _BATCH_NORMS) for m in body.modules()):
        logger.warning('MODEL.TIMM.NORM = "%s" changes nothing: %s has no batch norm.', norm, name)
    if norm == "SyncBN":
        # timm's, because torch's forgets the activation inside timm's batch norms
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(body)
    if norm == "FrozenBN":
        freeze_norms(body)
    return body


def freeze_norms(body: nn.Module, chosen: Callable[[str], bool] = lambda name: True) -> None:
    """Freeze the batch norms of `body` whose names are chosen."""
    for name, module in list(body.named_modules()):
        if isinstance(module, _BATCH_NORMS) and chosen(name):
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, _frozen_norm(module))


def _frozen_norm(norm: nn.Module) -> nn.Module:
    """detectron2's frozen batch norm, or timm's for those of timm that hold an activation."""
    if hasattr(norm, "act"):
        from timm.layers import freeze_batch_norm_2d

        return freeze_batch_norm_2d(norm)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
