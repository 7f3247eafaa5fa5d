"""What necks have in common: names and strides of their levels, and extra levels on top."""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...layers import same_size_conv
from ..backbone.branches import fuse_branches
from ..backbone.scripting import TracedNetwork
from .top_block import build_top_block

__all__ = ["LateralPyramid", "Pyramid", "check_features"]


class Pyramid(Backbone):
    """Base of a neck: a bottom-up network, one width, levels p2, p3, ... of doubling stride.

    A subclass gives `fuse`. Level l has stride 2^l: res4 of stride 16 becomes p4.

    Args:
        bottom_up: network whose features are fused.
        in_features: names of its features, from high to low resolution, each stride twice the one
            before.
        out_channels: channels of every output.
        top_block: makes extra coarse levels, as in detectron2's FPN.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        top_block: nn.Module | None = None,
    ):
        super().__init__()
        shapes = bottom_up.output_shape()
        check_features(in_features, shapes)
        self.bottom_up = bottom_up
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.levels = tuple(shapes[f].stride.bit_length() - 1 for f in in_features)
        extra = top_block.num_levels if top_block is not None else 0
        first_extra = self.levels[-1] + 1
        self.all_levels = (*self.levels, *range(first_extra, first_extra + extra))
        self._out_features = [f"p{level}" for level in self.all_levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in self.all_levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        """Arguments of every neck of ours; a subclass adds its own."""
        neck = cfg.MODEL.NECK
        top_block = build_top_block(neck.TOP_BLOCK, bottom_up, neck.IN_FEATURES, neck.OUT_CHANNELS)
        return {
            "bottom_up": bottom_up,
            "in_features": neck.IN_FEATURES,
            "out_channels": neck.OUT_CHANNELS,
            "norm": neck.NORM,
            "top_block": top_block,
        }

    @property
    def size_divisibility(self) -> int:
        """What detectron2 pads images to multiples of: the coarsest stride here, or more below."""
        return max(2 ** self.levels[-1], self.bottom_up.size_divisibility)

    @property
    def padding_constraints(self) -> dict[str, int]:
        own = {"size_divisibility": self.size_divisibility}
        return {**self.bottom_up.padding_constraints, **own}

    def children_backbones(self) -> dict[str, Backbone]:
        return {"bottom_up": self.bottom_up}

    def __prepare_scriptable__(self) -> TracedNetwork:
        return TracedNetwork(self)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p2": (N, C, H/4, W/4), ...} from high to low resolution."""
        return fuse_branches(self.fuse, self.bottom_up(image))

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of `in_features`' names and shapes -> {"p2": (N, C, H/4, W/4), ...}.

        Whoever computed them: of a composite backbone, the necks fuse those of each network.
        """
        raise NotImplementedError

    def with_top(self, features: dict[str, Tensor], maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """`maps` (level -> map) with the levels of the top block.

        Args:
            features: of the bottom-up network; the top block may start from one of them ("res5").
            maps: of the levels of `in_features`; or from one of these ("p5").
        """
        if self.top_block is None:
            return maps
        source = self.top_block.in_feature
        source = features[source] if source in features else maps[int(source.removeprefix("p"))]
        extra = self.top_block(source)
        return {**maps, **dict(zip(self.all_levels[len(self.levels) :], extra, strict=True))}


class LateralPyramid(Pyramid):
    """A pyramid with FPN's 1x1 lateral and 3x3 output convolutions, under detectron2's names.

    An FPN's checkpoint fits every neck of this kind.

    Args:
        norm: normalisation of both; "" for none.
        bottom_up, in_features, out_channels, top_block: see :class:`Pyramid`.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
    ):
        super().__init__(bottom_up, in_features, out_channels, top_block)
        shapes = bottom_up.output_shape()
        for level, feature in zip(self.levels, in_features, strict=True):
            lateral = same_size_conv(shapes[feature].channels, out_channels, 1, norm)
            output = same_size_conv(out_channels, out_channels, 3, norm)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)

    def laterals(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Features of the bottom-up network -> level -> (N, C, H, W)."""
        return {
            level: getattr(self, f"fpn_lateral{level}")(features[name])
            for level, name in zip(self.levels, self.in_features, strict=True)
        }

    def outputs(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """Fused maps by level -> the neck's, through the output convolutions."""
        return {level: getattr(self, f"fpn_output{level}")(maps[level]) for level in maps}

    def fpn(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """Features of the bottom-up network -> an FPN's maps: level -> (N, C, H, W)."""
        maps = self.laterals(features)
        for coarser, level in itertools.pairwise(self.levels[::-1]):
            size = maps[level].shape[-2:]
            maps[level] = maps[level] + F.interpolate(maps[coarser], size=size, mode="nearest")
        return self.outputs(maps)


def check_features(in_features: Sequence[str], shapes: dict[str, ShapeSpec]) -> None:
    """Raise ValueError unless `in_features` are features of doubling stride among `shapes`."""
    unknown = [f for f in in_features if f not in shapes]
    if unknown or not in_features:
        raise ValueError(
            f"The neck's in_features (MODEL.NECK.IN_FEATURES) {list(in_features)} are not among "
            f"what the bottom-up network gives, {list(shapes)}. For detectron2's ResNet, "
            "MODEL.RESNETS.OUT_FEATURES says what it gives."
        )
    strides = [shapes[f].stride for f in in_features]
    doubling = all(b == 2 * a for a, b in itertools.pairwise(strides))
    if not doubling or strides[0] & (strides[0] - 1):
        raise ValueError(
            f"The neck's in_features {list(in_features)} have strides {strides}; each must be a "
            "power of two and twice the one before, from high to low resolution."
        )
