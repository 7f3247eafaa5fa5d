"""RefineNetHead: RefineNet (arXiv 1611.06612) and Light-Weight RefineNet (arXiv 1810.03272).

Every feature becomes a path: dropout where it is wide, one convolution to the path's width, two
residual units. A refine block merges paths and the block before it, pools in a chain and adds three
residual units; the last block gives the scores:

    res5 - path ----------- CRP - RCU x3
    res4 - path ---------------- + ------ CRP - RCU x3
    res3 - path ------------------------------ + ------ CRP - RCU x3
    res2 - path -------------------------------------------- + ------ CRP - RCU x3 - scores

The paper's text and the authors' code disagree; the code has the weights, so it is the default: the
convolution before the residual units of a path, four pooling blocks (the text has two), three
residual units after each chain and none on the way from block to block (the same number in all).
Resizing is bilinear. The authors rescale the image by 1.2 inside the network; here, the data's
sizes are the place for it.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import ChainedResidualPooling, MultiResolutionFusion, ResidualConvUnit
from ..registration import register
from .features import chosen_features, from_fine_to_coarse
from .fusion import build_fuse
from .refinenet_paths import coarsest_features, group_features

__all__ = ["RefineNetHead"]

# Features wider than this are dropped out, in the authors' code.
_DROPOUT_ABOVE = 512


class RefineBlock(nn.Module):
    """Paths -> fusion, where there are several -> chained pooling -> residual units.

    Args:
        in_channels: of the paths, the block before last.
        convolved: whether each path has a convolution in the fusion.
        num_output_units: residual units at the end.
        kernel_size, align_corners, fuse: see :class:`deepfuse_d2.layers.MultiResolutionFusion`.
        pool_blocks, pool_order, activation: see
            :class:`deepfuse_d2.layers.ChainedResidualPooling`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        convolved: Sequence[bool],
        num_output_units: int,
        kernel_size: int,
        align_corners: bool,
        fuse: Callable | None,
        pool_blocks: int,
        pool_order: str,
        activation: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.fusion = None
        if len(in_channels) > 1:
            self.fusion = MultiResolutionFusion(
                in_channels,
                convolved=convolved,
                kernel_size=kernel_size,
                align_corners=align_corners,
                fuse=fuse,
            )
        self.out_channels = min(in_channels)
        self.pooling = ChainedResidualPooling(
            self.out_channels,
            pool_blocks,
            order=pool_order,
            kernel_size=kernel_size,
            activation=activation,
        )
        self.output = nn.Sequential(
            *(ResidualConvUnit(self.out_channels) for _ in range(num_output_units))
        )

    def forward(self, paths: list[Tensor]) -> Tensor:
        """Maps (N, C_p, H_p, W_p) -> (N, out_channels, max H_p, max W_p)."""
        fused = paths[0] if self.fusion is None else self.fusion(paths)
        return self.output(self.pooling(fused))


@register(SEM_SEG_HEADS_REGISTRY)
class RefineNetHead(nn.Module):
    """Refine blocks from the coarsest features to the finest, then one 3x3 classifier.

    Attributes:
        auxiliary_weights: weights of the auxiliary outputs; none here.

    Example:
        >>> shapes = {"res4": ShapeSpec(channels=64, stride=16), "res5": ShapeSpec(channels=128, stride=32)}
        >>> head = RefineNetHead(shapes, num_classes=19, widths=(64, 32))
        >>> head({"res4": torch.rand(1, 64, 5, 9), "res5": torch.rand(1, 128, 3, 5)})["sem_seg"].shape
        torch.Size([1, 19, 5, 9])
    """  # noqa: E501

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        cascade: str = "4_cascaded",
        widths: Sequence[int] = (512, 256),
        light_weight: bool = False,
        pool_blocks: int = 4,
        pool_order: str = "pool_conv",
        activation: str = "relu",
        fuse_conv_on_features: bool = True,
        align_corners: bool = False,
        dropout: float = 0.5,
        init: str = "gaussian",
        fuse: Callable | None = None,
    ):
        """
        Args:
            input_shape: of the features to read, of any strides. Features of one stride share a
                block; those named "half_..." are of the second scale.
            num_classes: C.
            cascade: which features meet in one block, a name in refinenet_paths.CASCADES.
            widths: channels of the coarsest path, and of all others.
            light_weight: 1x1 convolutions, no residual units, no dropout before the classifier.
            pool_blocks, pool_order: see :class:`deepfuse_d2.layers.ChainedResidualPooling`.
            activation: "relu" or "relu6", what rectifies the input of each chain.
            fuse_conv_on_features: in the fusion of several paths, a convolution on each; otherwise
                on the one from the block before alone.
            align_corners: of the bilinear resizing.
            dropout: probability, on features wider than 512 channels and before the classifier.
            init: of the convolutions: "gaussian", deviation 0.01, as the authors have it for their
                widths; or "identity", for narrower ones: residual units start as the identity,
                chains close to it, all others keep the variance.
            fuse: builder(channels, num_paths) of what merges maps of one size; None sums.
        """
        super().__init__()
        activations = {"relu": torch.relu, "relu6": F.relu6}
        if activation not in activations:
            raise ConfigError(
                f'MODEL.REFINENET.ACTIVATION = "{activation}" is unknown; choose one of '
                f"{list(activations)}."
            )
        if len(widths) != 2:
            raise ConfigError(
                f"MODEL.REFINENET.WIDTHS is {list(widths)}; it has two entries, the channels of "
                "the coarsest path and of all others."
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"MODEL.REFINENET.DROPOUT is {dropout}; it must be in [0, 1).")
        shapes = from_fine_to_coarse(input_shape)
        self.groups = group_features(shapes, cascade)
        self.auxiliary_weights: dict[str, float] = {}
        kernel_size = 1 if light_weight else 3

        wide = coarsest_features(shapes)
        self.paths = nn.ModuleDict()
        self.blocks = nn.ModuleList()
        before: int | None = None
        for group in self.groups:
            path_widths = [widths[0] if name in wide else widths[1] for name in group]
            for name, width in zip(group, path_widths, strict=True):
                channels = shapes[name].channels
                self.paths[name] = nn.Sequential(
                    nn.Dropout(dropout if channels > _DROPOUT_ABOVE else 0.0),
                    Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False),
                    *(ResidualConvUnit(width) for _ in range(0 if light_weight else 2)),
                )
            block = RefineBlock(
                [*path_widths, *([] if before is None else [before])],
                convolved=[
                    *[fuse_conv_on_features] * len(group),
                    *([] if before is None else [True]),
                ],
                num_output_units=0 if light_weight else 3,
                kernel_size=kernel_size,
                align_corners=align_corners,
                fuse=fuse,
                pool_blocks=pool_blocks,
                pool_order=pool_order,
                activation=activations[activation],
            )
            self.blocks.append(block)
            before = block.out_channels
        self.dropout = nn.Dropout(0.0 if light_weight else dropout)
        self.classifier = Conv2d(before, num_classes, 3, padding=1)
        self._initialise(init)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        refinenet = cfg.MODEL.REFINENET
        return {
            "input_shape": chosen_features(cfg, input_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "cascade": refinenet.CASCADE,
            "widths": refinenet.WIDTHS,
            "light_weight": refinenet.LIGHT_WEIGHT,
            "pool_blocks": refinenet.POOL_BLOCKS,
            "pool_order": refinenet.POOL_ORDER,
            "activation": refinenet.ACTIVATION,
            "fuse_conv_on_features": refinenet.FUSE_CONV_ON_FEATURES,
            "align_corners": refinenet.ALIGN_CORNERS,
            "dropout": refinenet.DROPOUT,
            "init": refinenet.INIT,
            "fuse": build_fuse(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: (N, C_l, H_l, W_l)} -> {"sem_seg": (N, C, H, W)} at the size of the finest."""
        fused: list[Tensor] = []
        for group, block in zip(self.groups, self.blocks, strict=True):
            fused = [block([self.paths[name](features[name]) for name in group] + fused)]
        return {"sem_seg": self.classifier(self.dropout(fused[0]))}

    def _initialise(self, init: str) -> None:
        if init not in ("gaussian", "identity"):
            raise ConfigError(
                f'MODEL.REFINENET.INIT = "{init}" is unknown; choose "gaussian" or "identity".'
            )
        for name, conv in self.named_modules():
            # what merges the maps keeps a start of its own
            if not isinstance(conv, nn.Conv2d) or ".fuse." in name:
                continue
            if init == "gaussian":
                nn.init.normal_(conv.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if init == "identity":
            for module in self.modules():
                if isinstance(module, ResidualConvUnit):
                    nn.init.zeros_(module.conv2.weight)
                elif isinstance(module, ChainedResidualPooling):
                    for conv in module.convs:
                        # zeros would keep all but the first from learning
                        conv.weight.data.mul_(0.1)
            nn.init.normal_(self.classifier.weight, std=0.01)
