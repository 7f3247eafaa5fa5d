"""NAS-FPN: a cell of seven merges that was found by search, repeated.

NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection, arXiv 1904.07392,
sections 3.1 and 4.2. A cell takes the maps X_0 (finest) to X_4 of five levels and gives Y_0 to Y_4.
With every map resized to the level of the result,

    attend(c, f) = c + f * sigmoid(max over all positions of c)        c the coarser of the two
    A   = conv(attend(X_3, X_1))        B   = conv(X_1 + A)            both of level 1
    Y_0 = conv(X_0 + B)
    Y_1 = conv(B + Y_0)
    Y_2 = conv(attend(Y_1, Y_0) + X_2)
    Y_4 = conv(attend(Y_2, B) + X_4)
    Y_3 = conv(attend(Y_4, Y_2))

and `conv` a ReLU, a 3x3 convolution, a norm. Maps are resized by the nearest neighbour up and by
max pooling down. The paper has 3 to 7 cells, each with weights of its own. It leaves open, and the
authors' code tells,

- what the "global pooling" of `attend` is: the maximum, and of the coarser map; mmdetection takes
  the mean, and of the map that is named second;
- that inputs which nothing reads, X_2 and X_4, join the result of their level.

The paper makes levels above the last feature by max pooling: TOP_BLOCK "maxpool_p6p7" on [res3,
res4, res5]. Any top block will do that makes five levels in all, such as "maxpool" on [res2, res3,
res4, res5] for Mask R-CNN; they take part in the fusion.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers import same_size_conv
from ...layers.resample import Resample
from .build import NECK_REGISTRY
from .repeated import RepeatedPyramid

__all__ = ["NASFPN", "NASFPNCell"]


def attend(coarse: Tensor, fine: Tensor) -> Tensor:
    """(N, C, H, W) of both; `coarse` says which channels of `fine` count."""
    return coarse + fine * torch.sigmoid(coarse.amax(dim=(2, 3), keepdim=True))


# What is merged, in order: (level of the result, operation, the two that it takes and what is added
# to those). Maps 0 to 4 are X_0 to X_4, results count on: A is 5, B is 6, then come the outputs.
MERGES = (
    (1, attend, (3, 1)),
    (1, torch.add, (1, 5)),
    (0, torch.add, (0, 6)),
    (1, torch.add, (6, 7)),
    (2, attend, (8, 7, 2)),
    (4, attend, (9, 6, 4)),
    (3, attend, (10, 9)),
)
# Y_0 to Y_4 among the maps
OUTPUTS = (7, 8, 9, 11, 10)


class Merge(nn.Module):
    """``conv(operation(x_0, x_1) + x_2 ...)``, all resized to the level of the result.

    Args:
        channels: of all maps.
        strides: of the result, then of each input.
        operation: a function of two maps of one size.
        norm: behind the convolution; "" for none.
    """

    def __init__(self, channels: int, strides: Sequence[int], operation, norm: str):
        super().__init__()
        self.resize = nn.ModuleList(
            Resample(channels, stride, strides[0], downsample="max_pool") for stride in strides[1:]
        )
        self.operation = operation
        self.conv = same_size_conv(channels, channels, 3, norm)

    def forward(self, xs: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps (N, C, H_i, W_i) -> (N, C, height, width) of `size`"""
        first, second, *others = (
            resize(x, size) for resize, x in zip(self.resize, xs, strict=True)
        )
        merged = self.operation(first, second)
        for x in others:
            merged = merged + x
        return self.conv(torch.relu(merged))


class NASFPNCell(nn.Module):
    """One cell; see the top of this file.

    Args:
        levels: five, in ascending order; level l has stride 2^l.
        channels: of all maps.
        norm: behind each convolution; "" for none.
    """

    def __init__(self, levels: Sequence[int], channels: int, norm: str = "BN"):
        super().__init__()
        self.levels = tuple(levels)
        level_of = [*levels, *(levels[i] for i, _, _ in MERGES)]
        self.merges = nn.ModuleList(
            Merge(channels, [2 ** levels[i], *(2 ** level_of[k] for k in inputs)], operation, norm)
            for i, operation, inputs in MERGES
        )

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """Level -> (N, C, H, W), before and after."""
        xs = [maps[level] for level in self.levels]
        for merge, (i, _, inputs) in zip(self.merges, MERGES, strict=True):
            xs.append(merge([xs[k] for k in inputs], xs[i].shape[-2:]))
        return {level: xs[k] for level, k in zip(self.levels, OUTPUTS, strict=True)}


@NECK_REGISTRY.register()
class NASFPN(RepeatedPyramid):
    """Lateral 1x1 convolutions, extra levels, then cells of NAS-FPN over the five levels.

    Example, of the paper's levels P_3..P_7:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> top = PooledLevels("p5", 2, "max")
        >>> neck = NASFPN(bottom_up, ["res3", "res4", "res5"], 64, top_block=top, repeats=3)
        >>> {name: tuple(p.shape[2:]) for name, p in neck(torch.rand(2, 3, 256, 512)).items()}
        {'p3': (32, 64), 'p4': (16, 32), 'p5': (8, 16), 'p6': (4, 8), 'p7': (2, 4)}
    """

    layer = NASFPNCell
    node = "NASFPN"

    def check_levels(self) -> None:
        if len(self.all_levels) != 5:
            raise ValueError(
                f"NASFPN fuses five levels; in_features {list(self.in_features)} with this top "
                f"block give {len(self.all_levels)}. Name four of MODEL.NECK.IN_FEATURES with "
                'TOP_BLOCK "maxpool", or three with "maxpool_p6p7" or "p6p7".'
            )
