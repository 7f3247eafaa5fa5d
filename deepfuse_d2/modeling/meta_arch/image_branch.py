"""The image branch of M3FusionSegmentor: a patch around each place, or any backbone and head.

Both give a map of features, at the places that are asked for, from an image padded to a multiple of
`size_divisibility`.
"""

import math

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_backbone
from torch import Tensor, nn

from ...config.look_up import look_up
from ...errors import ConfigError, config_errors
from ...layers.patch_network import PATCH, PatchNetwork

__all__ = ["BackboneBranch", "PatchBranch", "build_image_branch"]

# Up to this many pixels apart, all of an image costs less than patches of their own.
_DENSE_UP_TO = 3
# In evaluation, patches and rows at once.
_PATCHES = 1024
_BAND = 64


class PatchBranch(nn.Module):
    """M3Fusion's patch network, by patches or over the image, whichever is cheaper.

    Args:
        network: what a patch goes through.
    """

    size_divisibility = 1
    #: Pixels of the image around a place that its feature depends on.
    margin = PATCH // 2

    def __init__(self, network: PatchNetwork):
        super().__init__()
        self.network = network
        self.out_channels = network.out_channels

    def on_series(self, image: Tensor, ratio: int) -> Tensor:
        """(N, C, H, W) -> (N, F, H / ratio, W / ratio), at the middle of each pixel there."""
        if ratio <= _DENSE_UP_TO and not self.training:
            return self.on_image(image)[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
        features = self.network.at_centres(image, ratio, chunk=0 if self.training else _PATCHES)
        size = (image.shape[-2] // ratio, image.shape[-1] // ratio)
        return features.view(len(image), *size, -1).permute(0, 3, 1, 2)

    def on_image(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, F, H, W)"""
        return self.network.dense(image, 0 if self.training else _BAND)

    def on_pixels(self, image: Tensor, ratio: int, chosen: Tensor) -> Tensor:
        """(N, C, H, W) and numbers of pixels of the coarser grid -> (P, F)"""
        return self.network.at_centres(image, ratio, chosen)


class BackboneBranch(nn.Module):
    """Any backbone of detectron2's registry with any semantic head.

    The head maps features to F channels, as it would to F classes.

    Args:
        backbone: image -> dict of features.
        head: dict of features -> {"sem_seg": (N, F, h, w), ...}; other outputs are not used.
        out_channels: F.
    """

    #: A network of many layers sees further, but little of it counts.
    margin = 64

    def __init__(
        self, backbone: nn.Module, head: nn.Module, out_channels: int, size_divisibility: int
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = head
        self.out_channels = out_channels
        self.size_divisibility = size_divisibility

    def on_series(self, image: Tensor, ratio: int) -> Tensor:
        """(N, C, H, W) -> (N, F, H / ratio, W / ratio): the mean over each pixel there."""
        size = (image.shape[-2] // ratio, image.shape[-1] // ratio)
        features = self.on_image(image)
        if features.shape[-2] < size[0]:
            return F.interpolate(features, size, mode="bilinear", align_corners=False)
        return F.adaptive_avg_pool2d(features, size)

    def on_image(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, F, H / q, W / q), q the stride of the head."""
        return self.sem_seg_head(self.backbone(image))["sem_seg"]


def build_image_branch(cfg: CfgNode) -> PatchBranch | BackboneBranch:
    """What MODEL.M3FUSION.IMAGE_ENCODER says."""
    keys = cfg.MODEL.M3FUSION
    if keys.IMAGE_ENCODER == "patch":
        channels = len(cfg.MODEL.PIXEL_MEAN)
        return PatchBranch(
            PatchNetwork(channels, keys.IMAGE_DIM, norm=keys.NORM, border=keys.PATCH_BORDER)
        )
    if keys.IMAGE_ENCODER != "backbone":
        raise ConfigError(
            f'MODEL.M3FUSION.IMAGE_ENCODER = "{keys.IMAGE_ENCODER}" is unknown; choose "patch" '
            '(the paper\'s network) or "backbone" (MODEL.BACKBONE with MODEL.SEM_SEG_HEAD).'
        )
    # the head's classes are features here, so its config has as many
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = keys.IMAGE_DIM
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    build_head = look_up(
        SEM_SEG_HEADS_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.NAME, "MODEL.SEM_SEG_HEAD.NAME"
    )
    with config_errors():
        head = build_head(cfg, shapes)
    if getattr(head, "auxiliary_weights", None):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NAME {cfg.MODEL.SEM_SEG_HEAD.NAME} has auxiliary outputs "
            f"{list(head.auxiliary_weights)}, which M3FusionSegmentor does not train; switch them "
            "off (MODEL.EXFUSE.SUPERVISE_FIRST False, MULTI_LABEL_WEIGHT 0), or choose "
            "DeepFuseSemSegHead."
        )
    names = [name for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES if name in shapes]
    divisor = math.lcm(
        max(backbone.size_divisibility, 1),
        backbone.padding_constraints.get("size_divisibility", 1),
        *(shapes[name].stride for name in names),
    )
    return BackboneBranch(backbone, head, keys.IMAGE_DIM, divisor)
