"""Extra levels above the coarsest feature of a neck."""

from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from ...errors import ConfigError

__all__ = ["TOP_BLOCKS", "PooledLevels", "build_top_block"]

# MODEL.NECK.TOP_BLOCK
TOP_BLOCKS = ("maxpool", "p6p7", "avgpool", "maxpool_p6p7", "none")


class PooledLevels(nn.Module):
    """Extra levels without weights, each of windows of 2 x 2 of the level below.

    Args:
        in_feature: the level to start from, "p5".
        num_levels: how many, 1 or more.
        pool: "max" or "avg". At the border, windows have what there is.
    """

    def __init__(self, in_feature: str, num_levels: int, pool: str):
        super().__init__()
        self.in_feature = in_feature
        self.num_levels = num_levels
        self.pool = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pool](2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [(N, C, H/2, W/2), (N, C, H/4, W/4), ...], sizes rounded up."""
        levels = []
        for _ in range(self.num_levels):
            x = self.pool(x)
            levels.append(x)
        return levels


def build_top_block(
    name: str, bottom_up: Backbone, in_features: list[str], out_channels: int
) -> nn.Module | None:
    """The top block `name` of a neck.

    Args:
        name: "maxpool" (detectron2's: p6 from p5 by subsampling), "p6p7" (detectron2's: two
            convolutions of stride 2 on the last bottom-up feature), "avgpool" (p6 from p5),
            "maxpool_p6p7" (p6 from p5, p7 from p6) or "none".
        bottom_up: network whose last feature feeds "p6p7".
        in_features: bottom-up features of the neck, from high to low resolution.
        out_channels: of the neck.
    """
    if name not in TOP_BLOCKS:
        known = ", ".join(f'"{known}"' for known in TOP_BLOCKS)
        raise ConfigError(f'MODEL.NECK.TOP_BLOCK = "{name}" is unknown; choose one of {known}.')
    last = in_features[-1]
    if name == "none":
        return None
    if name == "p6p7":
        return LastLevelP6P7(bottom_up.output_shape()[last].channels, out_channels, last)
    # detectron2 assumes that the coarsest level is p5; a shorter neck ends earlier.
    below = f"p{bottom_up.output_shape()[last].stride.bit_length() - 1}"
    if below in bottom_up.output_shape():
        raise ConfigError(
            f'MODEL.NECK.TOP_BLOCK = "{name}" takes {below} of the neck, and the network below '
            'gives a feature of that name itself. Choose "none", with all its levels in '
            'MODEL.NECK.IN_FEATURES, or "p6p7".'
        )
    if name == "avgpool":
        return PooledLevels(below, 1, "avg")
    if name == "maxpool_p6p7":
        return PooledLevels(below, 2, "max")
    block = LastLevelMaxPool()
    block.in_feature = below
    return block
