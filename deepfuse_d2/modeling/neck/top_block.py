"""Extra levels above the coarsest feature of a neck."""

from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ...errors import ConfigError

__all__ = ["build_top_block"]


def build_top_block(
    name: str, bottom_up: Backbone, in_features: list[str], out_channels: int
) -> nn.Module | None:
    """Detectron2's top block `name` for a neck.

    Args:
        name: "maxpool" (p6 from p5 by subsampling), "p6p7" (two convolutions of stride 2 on the
            last bottom-up feature) or "none".
        bottom_up: network whose last feature feeds "p6p7".
        in_features: bottom-up features of the neck, from high to low resolution.
        out_channels: of the neck.
    """
    last = in_features[-1]
    if name == "none":
        return None
    if name == "maxpool":
        block = LastLevelMaxPool()
        # detectron2 assumes that the coarsest level is p5; a shorter neck ends earlier.
        block.in_feature = f"p{bottom_up.output_shape()[last].stride.bit_length() - 1}"
        if block.in_feature in bottom_up.output_shape():
            raise ConfigError(
                f'MODEL.NECK.TOP_BLOCK = "maxpool" takes {block.in_feature} of the neck, and the '
                "network below gives a feature of that name itself. Choose "
                '"none", with all its levels in MODEL.NECK.IN_FEATURES, or "p6p7".'
            )
        return block
    if name == "p6p7":
        return LastLevelP6P7(bottom_up.output_shape()[last].channels, out_channels, last)
    raise ConfigError(
        f'MODEL.NECK.TOP_BLOCK = "{name}" is unknown; choose one of "maxpool", "p6p7", "none".'
    )
