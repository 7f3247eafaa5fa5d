"""FishNet: a backbone whose last maps have seen every depth at every resolution.

"FishNet: A Versatile Backbone for Image, Region, and Pixel Level Prediction", NeurIPS 2018,
arXiv 1901.03495. A tail (a plain network down to stride 32), a body (back up to stride 4, with the
tail's maps) and a head (down again, with the body's maps). Features f0 (of the stem) to f10:

    stage   part     main path                       blocks of    beside it   result, width 64
                                                     99/150/201
    0 1 2   tail     blocks, pool                    2/2/3 ...    -           f1 f2 f3
    3       bridge   squeeze and excitation          2/4/4        -           f4    512, stride 32
    4       body     blocks, up                      1/2/2        f2          f5    768, stride 16
    5       body     halved width, dilation 2, up    1/2/2        f1          f6    512, stride 8
    6       body     halved width, dilation 4, up    1/2/2        f0          f7    320, stride 4
    7       head     blocks, pool                    1/2/2        f6          f8    832, stride 8
    8       head     blocks, pool                    2/2/3        f5          f9   1600, stride 16
    9       head     blocks, pool                    2/4/10       f4          f10  2112, stride 32

Where the paper and the public implementation (kevin-ssy/FishNet) differ, this follows the
implementation: its parameters are those of the public weights (24.96 M for FishNet-150; the paper
says 26.4 M). All widths are multiples of the stem's, 64; a narrower stem makes a small FishNet,
which is ours and not in the paper.
"""

import functools
from collections.abc import Collection, Sequence

import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import get_norm, run_stage
from .fishnet_blocks import (
    Bridge,
    DownRefinement,
    Norm,
    Stem,
    TailStage,
    UpRefinement,
    bottlenecks,
    fish_conv,
)

__all__ = ["VARIANTS", "Fish", "FishNet", "freeze_module", "norm_for_width", "variant"]

# Depth -> blocks of stages 0..9 on the main path, and of stages 4..9 on the path beside it.
VARIANTS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    99: ((2, 2, 6, 2, 1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 1, 4)),
    150: ((2, 4, 8, 4, 2, 2, 2, 2, 2, 4), (2, 2, 2, 2, 2, 4)),
    201: ((3, 4, 12, 4, 2, 2, 2, 2, 3, 10), (2, 2, 2, 2, 2, 9)),
}

_STAGES = 10
_BRIDGE = 3
_BODY = (4, 5, 6)
# Width of the main path of every stage, in widths of the stem.
_MAIN_WIDTH = (2, 4, 8, 8, 8, 6, 4, 5, 13, 25)
# Stage -> the feature of its result's size that stands beside the main path.
_BESIDE = {4: 2, 5: 1, 6: 0, 7: 6, 8: 5, 9: 4}


class Fish(nn.Module):
    """The network without its classifier: an image -> the features f0, ..., f`last`.

    Example:
        >>> fish = Fish(*VARIANTS[99]).eval()
        >>> features = fish(torch.rand(1, 3, 64, 128))
        >>> [tuple(f.shape[1:]) for f in features[7:]]
        [(320, 16, 32), (832, 8, 16), (1600, 4, 8), (2112, 2, 4)]
    """

    def __init__(
        self,
        num_blocks: Sequence[int],
        num_transfer_blocks: Sequence[int],
        *,
        in_channels: int = 3,
        width: int = 64,
        norm: str = "BN",
        last: int = _STAGES,
    ):
        """
        Args:
            num_blocks: of stages 0..9 on the main path, each at least 1; see `VARIANTS`.
            num_transfer_blocks: of stages 4..9 on the path beside it, each at least 1.
            in_channels: of the image.
            width: channels of the stem, a multiple of 4; all other widths are proportional.
            norm: a name for detectron2's ``get_norm``, not "": the network is pre-activated.
            last: index of the last feature needed; no later stage is built.
        """
        super().__init__()
        _check(num_blocks, num_transfer_blocks, width, norm)
        norm = norm_for_width(norm, width)
        self.stem = Stem(in_channels, width, norm)
        self.channels = [width]
        self.strides = [4]
        self.stages = nn.ModuleList()
        for i in range(last):
            main = _MAIN_WIDTH[i] * width
            args = (self.channels[-1], main, num_blocks[i], norm)
            if i < _BRIDGE:
                stage, stride, beside = TailStage(bottlenecks(*args)), 2 * self.strides[-1], 0
            elif i == _BRIDGE:
                stage, stride, beside = Bridge(main, num_blocks[i], norm), self.strides[-1], 0
            else:
                beside = self.channels[_BESIDE[i]]
                stride = self.strides[_BESIDE[i]]
                transfer = bottlenecks(beside, beside, num_transfer_blocks[i - 4], norm)
                if i in _BODY:
                    blocks = bottlenecks(*args, dilation=2 ** (i - 4), reduce=True)
                    stage = UpRefinement(blocks, transfer)
                else:
                    stage = DownRefinement(bottlenecks(*args), transfer)
            self.stages.append(stage)
            self.channels.append(main + beside)
            self.strides.append(stride)

    def forward(self, image: Tensor, checkpointed: Collection[int] = ()) -> list[Tensor]:
        """(N, in_channels, H, W) -> [f0, ...]; a map of stride s has ceil(H / s) rows.

        Args:
            image: of any size. Where both sides are multiples of 32, this is the public network;
                elsewhere, pools round up and the body returns to the very sizes of the tail.
            checkpointed: indices of stages to compute again in backward instead of remembering.
        """
        features = [self.stem(image)]
        for i, stage in enumerate(self.stages):
            inputs = [features[-1]] + ([features[_BESIDE[i]]] if i in _BESIDE else [])
            features.append(run_stage(stage, *inputs, checkpointed=i in checkpointed))
        return features

    def freeze(self, freeze_at: int) -> None:
        """Fix parameters and batch norms.

        Args:
            freeze_at: 1 the stem, 2..4 also the tail's first, second and third stage, 5 everything;
                0 nothing.
        """
        if freeze_at >= 1:
            freeze_module(self.stem)
        # The tail is what an ImageNet backbone usually keeps; the body and the head go on learning
        # whatever their resolution.
        stages = len(self.stages) if freeze_at >= 5 else max(freeze_at - 1, 0)
        for stage in self.stages[:stages]:
            freeze_module(stage)


class FishNet(nn.Module):
    """The classifier, as trained on ImageNet: to check and to convert public weights.

    Args:
        depth: 99, 150 or 201.
        num_classes: number of logits.
        norm: a name for detectron2's ``get_norm``.
    """

    def __init__(self, depth: int = 150, num_classes: int = 1000, *, norm: str = "BN"):
        super().__init__()
        self.fish = Fish(*variant(depth), norm=norm)
        channels = self.fish.channels[-1]
        self.classifier = Classifier(channels, num_classes, norm_for_width(norm, 64))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, num_classes)."""
        return self.classifier(self.fish(image)[-1])


class Classifier(nn.Module):
    """norm, ReLU, 1x1 to half the width, norm, ReLU, average, 1x1 to the classes."""

    def __init__(self, in_channels: int, num_classes: int, norm: Norm):
        super().__init__()
        self.norm = get_norm(norm, in_channels)
        self.conv1 = fish_conv(in_channels, in_channels // 2, 1, norm)
        self.conv2 = fish_conv(in_channels // 2, num_classes, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, num_classes)."""
        x = F.relu_(self.conv1(F.relu_(self.norm(x))))
        return self.conv2(F.adaptive_avg_pool2d(x, 1)).flatten(1)


def variant(depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of the published FishNet of that depth; see `VARIANTS`."""
    if depth not in VARIANTS:
        raise ConfigError(
            f"MODEL.FISHNET.DEPTH = {depth} is unknown; choose one of {list(VARIANTS)}, or give "
            "NUM_BLOCKS and NUM_TRANSFER_BLOCKS."
        )
    return VARIANTS[depth]


def norm_for_width(norm: str, width: int) -> Norm:
    """What to give to ``get_norm``.

    detectron2's "GN" makes 32 groups, which do not divide 80 or 208 channels. Groups of a quarter
    of the stem's width, 16 channels (the other setting of the GroupNorm paper, arXiv 1803.08494),
    divide every width of a FishNet.
    """
    return functools.partial(_group_norm, width // 4) if norm == "GN" else norm


def _group_norm(group: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // group, channels)


def freeze_module(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False
    FrozenBatchNorm2d.convert_frozen_batchnorm(module)


def _check(
    num_blocks: Sequence[int], num_transfer_blocks: Sequence[int], width: int, norm: str
) -> None:
    for key, blocks, length in (
        ("NUM_BLOCKS", num_blocks, _STAGES),
        ("NUM_TRANSFER_BLOCKS", num_transfer_blocks, len(_BESIDE)),
    ):
        if len(blocks) != length or min(blocks) < 1:
            raise ConfigError(
                f"MODEL.FISHNET.{key} is {list(blocks)}; it must be {length} numbers, each at "
                f"least 1, as in {list(VARIANTS[150][key != 'NUM_BLOCKS'])} of FishNet-150."
            )
    if width < 4 or width % 4:
        raise ConfigError(f"MODEL.FISHNET.WIDTH is {width}; it must be a positive multiple of 4.")
    if not norm:
        raise ConfigError(
            'MODEL.FISHNET.NORM is ""; a pre-activated network does not train without a norm. '
            'Choose "BN", "FrozenBN", "SyncBN" or "GN".'
        )
