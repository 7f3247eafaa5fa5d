"""DeepFuseFPN: the top-down pyramid with the DeepFuse operation in place of the plain sum.

With ``depth=0, merge="sum"`` it is detectron2's FPN (arXiv 1612.03144), parameter names included:
the same weights give the same output bit for bit. With `zero_init`, every other member of the
family starts as that FPN too. Unlike detectron2's, maps may have odd sizes.
"""

import itertools

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import Tensor, nn

from ...layers import DeepFuse, same_size_conv
from .build import NECK_REGISTRY
from .top_block import build_top_block

__all__ = ["DeepFuseFPN", "build_resnet_deepfuse_fpn_backbone"]


@NECK_REGISTRY.register()
class DeepFuseFPN(Backbone):
    """Lateral 1x1 convolutions, DeepFuse from the coarsest level down, 3x3 output convolutions.

    Example:
        >>> bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        >>> neck = DeepFuseFPN(bottom_up, ["res2", "res3", "res4", "res5"], 256, depth=1)
        >>> {name: tuple(p.shape) for name, p in neck(torch.rand(1, 3, 64, 128)).items()}
        {'p2': (1, 256, 16, 32), 'p3': (1, 256, 8, 16), 'p4': (1, 256, 4, 8), 'p5': (1, 256, 2, 4)}
    """

    @configurable
    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
        merge: str = "sum",
        unit: str = "bottleneck",
        depth: int = 1,
        unit_norm: str = "",
        drop_path: float = 0.0,
        zero_init: bool = True,
    ):
        """
        Args:
            bottom_up: network whose features are fused.
            in_features: names of its features, from high to low resolution, each stride twice the
                one before.
            out_channels: channels of every output.
            norm: normalisation of the lateral and output convolutions; "" for none.
            top_block: makes extra coarse levels, as in detectron2's FPN.
            merge, unit, depth, drop_path, zero_init: see :class:`deepfuse_d2.layers.DeepFuse`.
            unit_norm: normalisation inside the units; "" for none.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        _check_features(in_features, shapes)
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        # Level l has stride 2^l: res4 of stride 16 becomes p4.
        self.levels = tuple(shapes[f].stride.bit_length() - 1 for f in in_features)

        for level, feature in zip(self.levels, in_features, strict=True):
            lateral = same_size_conv(shapes[feature].channels, out_channels, 1, norm)
            output = same_size_conv(out_channels, out_channels, 3, norm)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        # Nothing is fused into the coarsest level, so it has no DeepFuse.
        for level in self.levels[:-1]:
            fuse = DeepFuse(
                [out_channels, out_channels],
                out_channels,
                merge=merge,
                unit=unit,
                depth=depth,
                norm=unit_norm,
                drop_path=drop_path,
                zero_init=zero_init,
            )
            self.add_module(f"fuse{level}", fuse)

        self.top_block = top_block
        extra = top_block.num_levels if top_block is not None else 0
        all_levels = [*self.levels, *range(self.levels[-1] + 1, self.levels[-1] + 1 + extra)]
        self._out_features = [f"p{level}" for level in all_levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in all_levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = 2 ** self.levels[-1]

    @classmethod
    def from_config(cls, cfg: CfgNode, bottom_up: Backbone) -> dict:
        neck, deepfuse = cfg.MODEL.NECK, cfg.MODEL.DEEPFUSE
        return {
            "bottom_up": bottom_up,
            "in_features": neck.IN_FEATURES,
            "out_channels": neck.OUT_CHANNELS,
            "norm": neck.NORM,
            "top_block": build_top_block(
                neck.TOP_BLOCK, bottom_up, neck.IN_FEATURES, neck.OUT_CHANNELS
            ),
            "merge": deepfuse.MERGE,
            "unit": deepfuse.UNIT,
            "depth": deepfuse.DEPTH,
            "unit_norm": deepfuse.NORM,
            "drop_path": deepfuse.DROP_PATH,
            "zero_init": deepfuse.ZERO_INIT,
        }

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest fused level; detectron2 pads a batch of images to multiples."""
        return self._size_divisibility

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p2": (N, C, H/4, W/4), ...} from high to low resolution."""
        features = self.bottom_up(image)
        pyramid: dict[str, Tensor] = {}
        coarser = None
        for level, name in zip(self.levels[::-1], self.in_features[::-1], strict=True):
            fused = getattr(self, f"fpn_lateral{level}")(features[name])
            if coarser is not None:
                fused = getattr(self, f"fuse{level}")(fused, [coarser])
            pyramid[f"p{level}"] = getattr(self, f"fpn_output{level}")(fused)
            coarser = fused

        outputs = [pyramid[f"p{level}"] for level in self.levels]
        if self.top_block is not None:
            source = self.top_block.in_feature
            outputs += self.top_block(features[source] if source in features else pyramid[source])
        return dict(zip(self._out_features, outputs, strict=True))


def _check_features(in_features: list[str], shapes: dict[str, ShapeSpec]) -> None:
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


@BACKBONE_REGISTRY.register()
def build_resnet_deepfuse_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DeepFuseFPN:
    """The short way: detectron2's ResNet with a DeepFuseFPN, whatever MODEL.NECK names."""
    return DeepFuseFPN(cfg, build_resnet_backbone(cfg, input_shape))
