"""Normalisation by name, with the mistakes named where they are made."""

import logging

import detectron2.layers
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FixedBatchNorm2d", "UnsyncedBatchNorm", "get_norm"]

_GROUPS = 32  # of detectron2's "GN"


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics stay what they are, while its scale and shift learn.

    Between the two of detectron2: BN follows the batch, and FrozenBN learns nothing. It is what
    "norm_eval" of mmdetection makes of a batch norm. Parameters and buffers are those of BN.
    """

    def train(self, mode: bool = True) -> "FixedBatchNorm2d":
        """Evaluation mode, always."""
        return super().train(False)

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__(num_features, eps)
        self.train(False)


class UnsyncedBatchNorm(nn.SyncBatchNorm):
    """SyncBN whose maps on a CPU are normalised within their process, with one warning.

    torch synchronises the statistics on GPUs alone, and fails elsewhere. Parameters, buffers and
    their names are those of SyncBN and of BatchNorm.
    """

    _is_warned = False

    @classmethod
    def of(cls, norm: nn.SyncBatchNorm) -> "UnsyncedBatchNorm":
        """One with the parameters and buffers of `norm`, shared."""
        local = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        local._parameters = norm._parameters
        local._buffers = norm._buffers
        local.train(norm.training)
        return local

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if x.device.type != "cpu":
            return super().forward(x)
        if self.training and not UnsyncedBatchNorm._is_warned:
            UnsyncedBatchNorm._is_warned = True
            logging.getLogger(__name__).warning(
                "SyncBN synchronises statistics on GPUs alone; on this CPU each process normalises "
                "by its own images, as BN does."
            )
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        factor = self.momentum
        if factor is None:  # the mean of all batches so far
            factor = 1 / float(self.num_batches_tracked or 1)
        use_batch = self.training or self.running_mean is None
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, use_batch, factor,
            self.eps,
        )  # fmt: skip


def get_norm(norm: str, channels: int) -> nn.Module | None:
    """detectron2's ``get_norm`` with a check of the name and of GroupNorm's divisibility.

    Args:
        norm: "" (none), "BN", "SyncBN", "FrozenBN", "GN", "LN", ...: what detectron2 knows.
        channels: of the map to normalise.
    """
    if norm == "GN" and channels % _GROUPS:
        raise ValueError(
            f"Norm 'GN' splits channels into {_GROUPS} groups; {channels} channels do not divide. "
            f"Choose a width that is a multiple of {_GROUPS} (inside, a bottleneck unit has a "
            "quarter of the channels, a dense or multi_scale one an eighth), or another norm."
        )
    if norm == "SyncBN":
        return UnsyncedBatchNorm(channels)
    try:
        return detectron2.layers.get_norm(norm, channels)
    except KeyError as error:
        raise ValueError(
            f'The norm "{norm}" is unknown; choose one of "" (none), '
            '"BN", "SyncBN", "FrozenBN", "GN", "LN".'
        ) from error
