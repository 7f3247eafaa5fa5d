"""detectron2's own FPN (arXiv 1612.03144) as an entry of the neck registry."""

from collections.abc import Callable

import torch.nn.functional as F
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import Tensor

from ..backbone.branches import fuse_branches
from ..backbone.scripting import TracedNetwork
from .build import NECK_REGISTRY
from .top_block import build_top_block

__all__ = ["FPN", "fuse_by_fpn", "fuse_features"]


class FPN(modeling.FPN):
    """detectron2's, with its fusion as a method of its own: the same modules, names and numbers."""

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride here, or what the network below asks for."""
        # detectron2's Swin misspells the attribute behind its property
        return max(super().size_divisibility, getattr(self.bottom_up, "size_divisibility", 0))

    @property
    def padding_constraints(self) -> dict[str, int]:
        own = {"size_divisibility": self.size_divisibility}
        return {**super().padding_constraints, **self.bottom_up.padding_constraints, **own}

    def __prepare_scriptable__(self) -> TracedNetwork:
        return TracedNetwork(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p2": (N, C, H/4, W/4), ...} from high to low resolution."""
        return fuse_branches(self.fuse, self.bottom_up(x))

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        return fuse_by_fpn(self, features, _add_upsampled)


def fuse_by_fpn(
    neck: modeling.FPN, features: dict[str, Tensor], add: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """What detectron2's FPN makes of the features of its bottom-up network.

    Args:
        add: sum of a map (N, C, 2H, 2W) and a coarser one (N, C, H, W).
    """
    coarser, results = None, []
    names = neck.in_features[::-1]
    for name, lateral, output in zip(names, neck.lateral_convs, neck.output_convs, strict=True):
        merged = lateral(features[name])
        if coarser is not None:
            merged = add(merged, coarser)
            if neck._fuse_type == "avg":
                merged = merged / 2
        results.insert(0, output(merged))
        coarser = merged
    if neck.top_block is not None:
        wanted = neck.top_block.in_feature
        given = features.get(wanted)
        if given is None:
            given = results[neck._out_features.index(wanted)]
        results.extend(neck.top_block(given))
    return dict(zip(neck._out_features, results, strict=True))


def _add_upsampled(fine: Tensor, coarse: Tensor) -> Tensor:
    return fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest")


def fuse_features(neck: Backbone, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `neck`, ours or detectron2's FPN, makes of `features`; see :meth:`Pyramid.fuse`."""
    if not hasattr(neck, "fuse") and isinstance(neck, modeling.FPN):
        return fuse_by_fpn(neck, features, _add_upsampled)
    return neck.fuse(features)


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """detectron2's FPN with the keys of MODEL.NECK."""
    neck = cfg.MODEL.NECK
    top_block = build_top_block(neck.TOP_BLOCK, bottom_up, neck.IN_FEATURES, neck.OUT_CHANNELS)
    return FPN(bottom_up, neck.IN_FEATURES, neck.OUT_CHANNELS, norm=neck.NORM, top_block=top_block)


# Registered by the name of what it builds, like every neck.
build_fpn.__name__ = "FPN"
NECK_REGISTRY.register(build_fpn)
