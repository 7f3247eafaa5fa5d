"""BiFPN: weighted fusion down and up the levels, repeated.

EfficientDet: Scalable and Efficient Object Detection, arXiv 1911.09070, sections 3.2 and 3.3. One
layer, at an inner level i with input X_i, gives first T_i on the way down, then Y_i on the way up:

    T_i = conv((w_1 X_i + w_2 resize(T_{i+1})) / (w_1 + w_2 + eps))
    Y_i = conv((v_1 X_i + v_2 T_i + v_3 resize(Y_{i-1})) / (v_1 + v_2 + v_3 + eps))

with w, v >= 0 by a ReLU and eps = 1e-4 ("fast normalized fusion"). At the coarsest level T is X;
there Y has no T of its own, and at the finest level Y is T. `conv` is a depthwise separable 3x3
convolution, "batch normalization and activation after each convolution". Layers have weights of
their own. The paper leaves open

- the resizing: nearest neighbour up, as in FPN, and max pooling of 2x2 down (the authors' code
  pools 3x3 with stride 2);
- where norm and activation stand around the two parts of `conv`: once, behind the pointwise one
  (the authors' code activates before `conv` instead);
- the activation: swish (SiLU), which its sections on training name;
- how the features get their common width: 1x1 convolutions with a norm, as in the authors' code;
- how levels above the last feature arise (P_6 and P_7 there): the top block makes them, before the
  first layer, and they take part in the fusion.
"""

import itertools
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ...layers import same_size_conv
from ...layers.resample import Resample
from .build import NECK_REGISTRY
from .repeated import RepeatedPyramid

__all__ = ["BiFPN", "BiFPNLayer", "FastNormalizedMerge", "SeparableConv"]


class FastNormalizedMerge(nn.Module):
    """``sum_i w_i x_i / (eps + sum_i w_i)`` with learned ``w_i = relu(weight_i)``, all 1 at first.

    Unlike the merges of DeepFuse it starts as the mean, not as the sum.
    """

    def __init__(self, num_inputs: int, eps: float = 1e-4):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_inputs))
        self.eps = eps

    def forward(self, xs: list[Tensor]) -> Tensor:
        """List of (N, C, H, W) -> (N, C, H, W)."""
        weights = torch.relu(self.weight)
        weights = (weights / (weights.sum() + self.eps)).to(xs[0].dtype)
        merged = weights[0] * xs[0]
        for weight, x in zip(weights[1:], xs[1:], strict=True):
            merged = merged + weight * x
        return merged


class SeparableConv(nn.Module):
    """Depthwise 3x3, pointwise 1x1, norm, swish."""

    def __init__(self, channels: int, norm: str = "BN"):
        super().__init__()
        # without a bias: the pointwise convolution, or the norm, has one
        self.depthwise = Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        weight_init.c2_xavier_fill(self.depthwise)
        self.pointwise = same_size_conv(channels, channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        return F.silu(self.pointwise(self.depthwise(x)))


class Fusion(nn.Module):
    """``conv(merge(x_0, resize(x_1), ...))``: one node of the graph.

    Args:
        channels: of all maps.
        strides: of the target, then of each source.
        norm: behind the convolution; "" for none.
    """

    def __init__(self, channels: int, strides: Sequence[int], norm: str):
        super().__init__()
        self.resize = nn.ModuleList(
            Resample(channels, stride, strides[0], downsample="max_pool") for stride in strides[1:]
        )
        self.merge = FastNormalizedMerge(len(strides))
        self.conv = SeparableConv(channels, norm)

    def forward(self, target: Tensor, *sources: Tensor) -> Tensor:
        """(N, C, H, W), and maps of the other strides -> (N, C, H, W)"""
        size = target.shape[-2:]
        resized = [resize(x, size) for resize, x in zip(self.resize, sources, strict=True)]
        return self.conv(self.merge([target, *resized]))


class BiFPNLayer(nn.Module):
    """One pass down and up; see the top of this file.

    Args:
        levels: in ascending order; level l has stride 2^l.
        channels: of all maps.
        norm: behind each convolution; "" for none.
    """

    def __init__(self, levels: Sequence[int], channels: int, norm: str = "BN"):
        super().__init__()
        self.levels = tuple(levels)
        for level in self.levels[:-1]:
            self.add_module(f"down{level}", Fusion(channels, [2**level, 2 ** (level + 1)], norm))
        for level in self.levels[1:]:
            own = [2**level] if level == self.levels[-1] else [2**level, 2**level]
            self.add_module(f"up{level}", Fusion(channels, [*own, 2 ** (level - 1)], norm))

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """Level -> (N, C, H, W), before and after."""
        down = {self.levels[-1]: maps[self.levels[-1]]}
        for coarser, level in itertools.pairwise(self.levels[::-1]):
            down[level] = getattr(self, f"down{level}")(maps[level], down[coarser])
        up = {self.levels[0]: down[self.levels[0]]}
        for finer, level in itertools.pairwise(self.levels):
            own = [maps[level]] if level == self.levels[-1] else [maps[level], down[level]]
            up[level] = getattr(self, f"up{level}")(*own, up[finer])
        return up


@NECK_REGISTRY.register()
class BiFPN(RepeatedPyramid):
    """Lateral 1x1 convolutions, extra levels, then BiFPN layers over all of them.

    Example, of the paper's levels P_3..P_7:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> top = LastLevelP6P7(in_channels=2048, out_channels=64, in_feature="res5")
        >>> neck = BiFPN(bottom_up, ["res3", "res4", "res5"], 64, top_block=top, repeats=3)
        >>> {name: tuple(p.shape[2:]) for name, p in neck(torch.rand(2, 3, 256, 512)).items()}
        {'p3': (32, 64), 'p4': (16, 32), 'p5': (8, 16), 'p6': (4, 8), 'p7': (2, 4)}
    """

    layer = BiFPNLayer
    node = "BIFPN"

    def check_levels(self) -> None:
        if len(self.all_levels) < 2:
            raise ValueError(
                f"BiFPN fuses two levels or more; in_features {list(self.in_features)} with this "
                "top block give one. Name more of MODEL.NECK.IN_FEATURES, or a TOP_BLOCK."
            )
