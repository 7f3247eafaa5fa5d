"""PAFPN: an FPN, then a path back up to the coarse levels.

Path Aggregation Network for Instance Segmentation (PANet), arXiv 1803.01534, section 3.1. With
P_2, P_3, ... the outputs of an FPN:

    N_2     = P_2
    N_{i+1} = relu(conv3x3(relu(conv3x3_stride2(N_i)) + P_{i+1}))

"All convolutional layers are followed by a ReLU." The paper leaves open

- whether this ReLU stands before or after the sum: the downsampling convolution is a layer of its
  own, so it stands before;
- a norm in the path: `norm` is that of every convolution of the neck, "" in the paper's Mask R-CNN
  (its multi-GPU batch norm is "BN" or "SyncBN" here);
- levels above P_5: the top block makes them from N_5 ("maxpool"), or from res5 ("p6p7").

Adaptive feature pooling and fully-connected fusion of PANet are no part of the neck.
"""

import itertools
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...layers import same_size_conv
from ...layers.resample import StridedConvs
from .build import NECK_REGISTRY
from .pyramid import LateralPyramid

__all__ = ["PAFPN"]


@NECK_REGISTRY.register()
class PAFPN(LateralPyramid):
    """FPN under detectron2's parameter names, and the bottom-up path augmentation of PANet.

    Example:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> neck = PAFPN(bottom_up, ["res2", "res3", "res4", "res5"], 256)
        >>> {name: tuple(p.shape) for name, p in neck(torch.rand(1, 3, 64, 128)).items()}
        {'p2': (1, 256, 16, 32), 'p3': (1, 256, 8, 16), 'p4': (1, 256, 4, 8), 'p5': (1, 256, 2, 4)}
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
    ):
        """
        Args:
            bottom_up, in_features, out_channels, top_block: see :class:`.pyramid.Pyramid`.
            norm: normalisation of every convolution; "" for none.
        """
        super().__init__(bottom_up, in_features, out_channels, norm=norm, top_block=top_block)
        for level in self.levels[1:]:
            self.add_module(f"path_down{level}", StridedConvs(out_channels, 1, norm))
            self.add_module(
                f"path_output{level}", same_size_conv(out_channels, out_channels, 3, norm)
            )

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        maps = self.fpn(features)
        for finer, level in itertools.pairwise(self.levels):
            down = torch.relu(getattr(self, f"path_down{level}")(maps[finer]))
            maps[level] = torch.relu(getattr(self, f"path_output{level}")(maps[level] + down))
        return {f"p{level}": x for level, x in self.with_top(features, maps).items()}
