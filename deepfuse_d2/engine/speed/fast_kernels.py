"""Same model, same numbers, less time: modules of detectron2 give way to faster ones of ours."""

import copy
import logging
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ROIAlign
from torch import nn

from ...kernels.choice import is_chosen
from ...kernels.folded_conv import FoldedConv2d, can_fold
from ...kernels.roi_align import RowROIAlign
from ...kernels.tiled_convolution import TiledConv2d, TiledFoldedConv2d, can_tile

__all__ = ["gains_by_channels_last", "use_fast_kernels"]


def gains_by_channels_last(device: str) -> bool:
    """Whether a training gains by maps with channels innermost: a CPU, by a measurement."""
    return torch.device(device).type != "cpu" or is_chosen("channels last", _channels_last)


def _channels_last() -> tuple[Callable[[], None], Callable[[], None]]:
    """The convolutions of a residual block, with their gradients."""
    layers = [
        Conv2d(256, 64, 1, bias=False, norm=FrozenBatchNorm2d(64), activation=F.relu_),
        Conv2d(64, 64, 3, padding=1, bias=False, norm=FrozenBatchNorm2d(64), activation=F.relu_),
        Conv2d(64, 256, 1, bias=False, norm=FrozenBatchNorm2d(256), activation=F.relu_),
    ]

    def work(memory_format: torch.memory_format) -> Callable[[], None]:
        block = nn.Sequential(*copy.deepcopy(layers)).to(memory_format=memory_format)
        x = torch.rand(2, 256, 32, 64).contiguous(memory_format=memory_format).requires_grad_()

        def step() -> None:
            with torch.enable_grad():
                torch.autograd.grad(block(x).sum(), (x, *block.parameters()))

        return step

    return work(torch.channels_last), work(torch.contiguous_format)


def use_fast_kernels(model: nn.Module) -> nn.Module:
    """Let modules of `model` compute the same faster; returns `model`.

    Convolutions with frozen norms become one operation, 3x3 convolutions of float32 on a CPU take
    fewer multiplications, RoIAlign on a CPU becomes sums of rows. Their outputs differ by the
    rounding of floats. Parameters, buffers, names and checkpoints stay.
    """
    changed: Counter = Counter()
    for module in model.modules():
        faster = None
        if can_fold(module):
            faster = TiledFoldedConv2d if can_tile(module) else FoldedConv2d
        elif type(module) is Conv2d and can_tile(module):
            faster = TiledConv2d
        elif type(module) is ROIAlign:
            faster = RowROIAlign
        if faster is not None:
            # the state of a module is that of its base class, only `forward` is another
            module.__class__ = faster
            changed[faster.__name__] += 1
    logging.getLogger(__name__).debug("Faster modules: %s", dict(changed))
    return model
