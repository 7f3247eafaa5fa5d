"""What necks share that fuse all levels by one network, several times over: BiFPN, NAS-FPN."""

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...layers import same_size_conv
from .pyramid import Pyramid

__all__ = ["RepeatedPyramid"]


class RepeatedPyramid(Pyramid):
    """Lateral 1x1 convolutions, extra levels, then `repeats` layers over all of these levels.

    Attributes:
        layer: of a subclass: called as ``layer(levels, channels, norm)``, gives a module that turns
            the maps of all levels, {level: (N, C, H, W)}, into as many.
        node: of a subclass: the node below MODEL that has its keys REPEATS and NORM.
    """

    layer: Callable[[Sequence[int], int, str], nn.Module]
    node: str

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
        fusion_norm: str = "BN",
        repeats: int = 3,
    ):
        """
        Args:
            bottom_up, in_features, out_channels, top_block: see :class:`.pyramid.Pyramid`.
            norm: normalisation of the lateral convolutions; "" for none.
            fusion_norm: normalisation behind the convolutions of the fusions; "" for none.
            repeats: number of layers, 1 or more; 3 to 8 in the papers.
        """
        super().__init__(bottom_up, in_features, out_channels, top_block)
        if repeats < 1:
            raise ValueError(
                f"The repeats of {type(self).__name__} (MODEL.{self.node}.REPEATS) are {repeats}; "
                "they must be 1 or more."
            )
        self.check_levels()
        shapes = bottom_up.output_shape()
        for level, feature in zip(self.levels, in_features, strict=True):
            lateral = same_size_conv(shapes[feature].channels, out_channels, 1, norm)
            self.add_module(f"lateral{level}", lateral)
        layer = type(self).layer
        self.layers = nn.Sequential(
            *(layer(self.all_levels, out_channels, fusion_norm) for _ in range(repeats))
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        own = cfg.MODEL[cls.node]
        return {
            **super().from_config(cfg, bottom_up),
            "fusion_norm": own.NORM,
            "repeats": own.REPEATS,
        }

    def check_levels(self) -> None:
        """Raise ValueError where the layers cannot fuse `all_levels`."""
        raise NotImplementedError

    def fuse(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features of the bottom-up network -> {"p2": (N, C, H/4, W/4), ...}, high to low."""
        maps = {
            level: getattr(self, f"lateral{level}")(features[name])
            for level, name in zip(self.levels, self.in_features, strict=True)
        }
        maps = self.layers(self.with_top(features, maps))
        return {f"p{level}": maps[level] for level in self.all_levels}
