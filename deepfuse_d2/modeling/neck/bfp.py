"""BFP: the balanced feature pyramid of Libra R-CNN.

Libra R-CNN: Towards Balanced Learning for Object Detection, arXiv 1904.02701, section 3.2. With
P_2, P_3, ... the outputs of an FPN, the extra levels among them, and every map resized to the level
that is computed,

    M   = refine(mean over l of P_l)          at one level in the middle
    Y_l = P_l + M                             at each level

`refine` is a 3x3 convolution with a ReLU, or a non-local block, which the paper prefers. Maps are
resized by the nearest neighbour up and by max pooling down. The paper leaves open

- which level is the middle: p4, as in the authors' code, for p2..p6 and for p3..p7;
- the widths inside the non-local block: those of the pyramid, as there.
"""

from collections.abc import Callable, Sequence

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...layers import same_size_conv
from ...layers.resample import Resample
from .build import NECK_REGISTRY
from .pyramid import LateralPyramid

__all__ = ["BFP", "REFINES", "NonLocal"]


class NonLocal(nn.Module):
    """``x + project(g(x) softmax(theta(x)^T phi(x)))``, the softmax over all positions.

    The block of Non-local Neural Networks (arXiv 1711.07971, equation 5, "embedded Gaussian"). As
    there, `project` starts at zero, so that the block starts as the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.theta = same_size_conv(channels, channels, 1)
        # A bias would add the same to all scores of a position, which the softmax does not see.
        self.phi = Conv2d(channels, channels, 1, bias=False)
        weight_init.c2_xavier_fill(self.phi)
        self.g = same_size_conv(channels, channels, 1)
        self.project = same_size_conv(channels, channels, 1, init=_fill_with_zeros)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        # torch's attention keeps no (H W) x (H W) weights; (N, 1, H W, C) each
        query, key, value = (
            conv(x).flatten(2).transpose(1, 2).unsqueeze(1)
            for conv in (self.theta, self.phi, self.g)
        )
        mean = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.project(mean.squeeze(1).transpose(1, 2).reshape(x.shape))


def _fill_with_zeros(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)


# MODEL.BFP.REFINE -> builder(channels, norm)
REFINES: dict[str, Callable[[int, str], nn.Module]] = {
    "non_local": lambda channels, norm: NonLocal(channels),
    "conv": lambda channels, norm: nn.Sequential(
        same_size_conv(channels, channels, 3, norm), nn.ReLU()
    ),
    "none": lambda channels, norm: nn.Identity(),
}


@NECK_REGISTRY.register()
class BFP(LateralPyramid):
    """FPN under detectron2's parameter names, and the balanced feature pyramid of its levels.

    Example:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> neck = BFP(bottom_up, ["res2", "res3", "res4", "res5"], 256)
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
        level: int = 4,
        refine: str = "non_local",
    ):
        """
        Args:
            bottom_up, in_features, out_channels, top_block: see :class:`.pyramid.Pyramid`.
            norm: normalisation of FPN's convolutions and of `refine` "conv"; "" for none.
            level: where the levels meet; l stands for the stride 2^l.
            refine: "non_local", "conv" or "none".
        """
        super().__init__(bottom_up, in_features, out_channels, norm=norm, top_block=top_block)
        if level not in self.all_levels:
            raise ValueError(
                f"BFP gathers at level {level} (MODEL.BFP.LEVEL), which is none of the neck's "
                f"levels, {list(self.all_levels)}; choose one of these."
            )
        if refine not in REFINES:
            raise ValueError(
                f'BFP got refine "{refine}" (MODEL.BFP.REFINE); choose one of {list(REFINES)}.'
            )
        self.level = level
        self.gather, self.scatter = nn.ModuleDict(), nn.ModuleDict()
        for each in self.all_levels:
            self.gather[f"p{each}"] = Resample(out_channels, 2**each, 2**level)
            self.scatter[f"p{each}"] = Resample(out_channels, 2**level, 2**each)
        self.refine = REFINES[refine](out_channels, norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        return {
            **super().from_config(cfg, bottom_up),
            "level": cfg.MODEL.BFP.LEVEL,
            "refine": cfg.MODEL.BFP.REFINE,
        }

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        maps = self.with_top(features, self.fpn(features))
        size = maps[self.level].shape[-2:]
        pyramid = {f"p{level}": x for level, x in maps.items()}
        first, *others = (self.gather[name](x, size) for name, x in pyramid.items())
        mean = sum(others, start=first) / len(pyramid)
        refined = self.refine(mean)
        return {name: x + self.scatter[name](refined, x.shape[-2:]) for name, x in pyramid.items()}
