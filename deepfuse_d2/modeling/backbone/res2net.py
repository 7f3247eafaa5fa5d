"""Res2Net (arXiv 1904.01169): bottlenecks whose 3x3 convolution is a hierarchy of small ones.

A block splits its channels; each split is convolved after the result of the one before is added, so
that one block sees several scales. Res2Net-50 is 26w4s: 4 splits (the scale s) of 26 channels (the
base width w) in res2.

Where the paper and the authors' code differ, this follows the code, for published weights come from
it: the *last* split is passed on untouched (the paper: the first), and the first block of a stage
adds nothing between its splits and averages the last one, in res2 as well, where the stride is 1.
mmdetection leaves that one pool out; `pool_stride_1` says which. The average counts the zeros of
the padding, as those weights expect.

With `scale` 1 and `base_width` 64, the network is detectron2's ResNet bit for bit.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import BasicStem

from ...errors import ConfigError
from ..registration import register
from .published import published_or_own
from .res2net_blocks import DeepStem, Res2NetBlock
from .staged import StagedBackbone, refuse_deformable

__all__ = ["VARIANTS", "Res2Net", "build_res2net_backbone", "split_width"]

# Blocks of res2, res3, res4, res5. Depth 26, the size of a ResNet-18, is ours.
BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


# Arguments of what has public weights, by timm's names (MODEL.RES2NET.NAME); "d" is the authors'
# v1b.
VARIANTS = {
    "res2net50_26w_4s": {},
    "res2net50_48w_2s": {"base_width": 48, "scale": 2},
    "res2net50_14w_8s": {"base_width": 14, "scale": 8},
    "res2net50_26w_6s": {"scale": 6},
    "res2net50_26w_8s": {"scale": 8},
    "res2net101_26w_4s": {"depth": 101},
    "res2next50": {"base_width": 4, "num_groups": 8},
    "res2net50d": {"deep_stem": True, "avg_down": True},
    "res2net101d": {"depth": 101, "deep_stem": True, "avg_down": True},
}

# What a name decides: argument -> key.
_KEYS = {
    "depth": "MODEL.RESNETS.DEPTH",
    "scale": "MODEL.RES2NET.SCALE",
    "base_width": "MODEL.RES2NET.BASE_WIDTH",
    "num_groups": "MODEL.RESNETS.NUM_GROUPS",
    "width_per_group": "MODEL.RESNETS.WIDTH_PER_GROUP",
    "deep_stem": "MODEL.RES2NET.DEEP_STEM",
    "avg_down": "MODEL.RES2NET.AVG_DOWN",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
}


class Res2Net(StagedBackbone):
    """Res2Net and Res2NeXt as a dense backbone, or with `num_classes` as a classifier.

    The defaults are Res2Net-50 26w4s; `VARIANTS` has the others that were published. With
    `scale` 1 and `base_width` 64 it is a ResNet or a ResNeXt.

    Example:
        >>> network = Res2Net(depth=50, out_features=["res2", "res5"])
        >>> {name: tuple(f.shape) for name, f in network(torch.rand(1, 3, 65, 64)).items()}
        {'res2': (1, 256, 17, 16), 'res5': (1, 2048, 3, 2)}
    """

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        scale: int = 4,
        base_width: int = 26,
        num_groups: int = 1,
        width_per_group: int = 64,
        deep_stem: bool = False,
        avg_down: bool = False,
        pool_stride_1: bool = True,
        zero_init_residual: bool = False,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        in_channels: int = 3,
        stem_out_channels: int = 64,
        res2_out_channels: int = 256,
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        checkpoint_stages: Sequence[str] = (),
    ):
        """
        Args:
            depth: 26, 50, 101 or 152 layers.
            scale: splits of a block.
            base_width: channels of one split, for one group, in res2; doubled from stage to stage.
            num_groups: of the 3x3 convolutions; more than 1 is Res2NeXt.
            width_per_group: bottleneck channels of the plain ResNet in res2. A split has
                ``num_groups * floor(width_per_group * 2^i * base_width / 64)`` in stage i.
            deep_stem, avg_down: both True for v1b; see :class:`DeepStem`, :class:`Res2NetBlock`.
            pool_stride_1, zero_init_residual: see :class:`Res2NetBlock`.
            norm: a name for detectron2's ``get_norm``.
            stride_in_1x1: put strides in the first 1x1 convolution of a block; no weights of a
                Res2Net were trained so.
            res5_dilation: 2 for a res5 of stride 16.
            num_classes, out_features, freeze_at, checkpoint_stages: see :class:`StagedBackbone`.
        """
        if depth not in BLOCKS:
            raise ConfigError(
                f"MODEL.RESNETS.DEPTH is {depth}; a Res2Net has one of {list(BLOCKS)}. (18 and 34 "
                "are ResNets without bottlenecks; 26 is the Res2Net of the size of a ResNet-18.)"
            )
        if scale < 1:
            raise ConfigError(f"MODEL.RES2NET.SCALE is {scale}; it must be 1 or more.")
        if res5_dilation not in (1, 2):
            raise ConfigError(f"MODEL.RESNETS.RES5_DILATION is {res5_dilation}; choose 1 or 2.")

        stages = []
        source_channels, out_channels = stem_out_channels, res2_out_channels
        for i, num_blocks in enumerate(BLOCKS[depth]):
            dilation = res5_dilation if i == 3 else 1
            width = split_width(width_per_group * 2**i, base_width, num_groups)
            first_stride = 1 if i == 0 or dilation == 2 else 2
            stages.append(
                self.make_stage(
                    Res2NetBlock,
                    num_blocks,
                    in_channels=source_channels,
                    out_channels=out_channels,
                    stride_per_block=[first_stride] + [1] * (num_blocks - 1),
                    hierarchical_per_block=[False] + [True] * (num_blocks - 1),
                    width=width,
                    scale=scale,
                    num_groups=num_groups,
                    norm=norm,
                    stride_in_1x1=stride_in_1x1,
                    dilation=dilation,
                    avg_down=avg_down,
                    pool_stride_1=pool_stride_1,
                    zero_init_residual=zero_init_residual,
                )
            )
            source_channels, out_channels = out_channels, 2 * out_channels
        stem_class = DeepStem if deep_stem else BasicStem
        super().__init__(
            stem_class(in_channels, stem_out_channels, norm),
            stages,
            num_classes=num_classes,
            out_features=out_features,
            freeze_at=freeze_at,
            checkpoint_stages=checkpoint_stages,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        refuse_deformable(cfg, "build_res2net_backbone")
        resnets, res2net = cfg.MODEL.RESNETS, cfg.MODEL.RES2NET
        return {
            **published_or_own(cls, cfg, "MODEL.RES2NET.NAME", VARIANTS, _KEYS),
            "pool_stride_1": res2net.POOL_STRIDE_1,
            "zero_init_residual": res2net.ZERO_INIT_RESIDUAL,
            "norm": resnets.NORM,
            "res5_dilation": resnets.RES5_DILATION,
            "in_channels": input_shape.channels,
            "stem_out_channels": resnets.STEM_OUT_CHANNELS,
            "res2_out_channels": resnets.RES2_OUT_CHANNELS,
            "out_features": resnets.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "checkpoint_stages": cfg.DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES,
        }


def split_width(bottleneck: int, base_width: int, num_groups: int) -> int:
    """Channels of one split where a plain ResNet's bottleneck has `bottleneck`."""
    width = num_groups * (bottleneck * base_width // 64)
    if width < 1:
        raise ConfigError(
            f"MODEL.RES2NET.BASE_WIDTH = {base_width} of 64 leaves no channel of a bottleneck of "
            f"{bottleneck} (MODEL.RESNETS.WIDTH_PER_GROUP); raise one of them."
        )
    return width


@register(BACKBONE_REGISTRY)
def build_res2net_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Res2Net:
    """Res2Net from MODEL.RES2NET and MODEL.RESNETS."""
    return Res2Net(cfg, input_shape)
