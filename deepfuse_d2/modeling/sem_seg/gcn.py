"""GCNHead: "Large Kernel Matters" (arXiv 1703.02719), figure 2.

A global convolution on every level is the classifier of that level; from the coarsest down, class
scores are upsampled and added, with a boundary refinement after every step:

    res5 - GCN - BR ------------ up
    res4 - GCN - BR ------------ + - BR - up
    res3 - GCN - BR ------------------- + - BR - up
    res2 - GCN - BR -------------------------- + - BR - up - BR - up - BR -> scores

The paper leaves open how it upsamples and whether convolutions have biases: a transposed
convolution of 4 x 4 that starts as bilinear, and biases, are our reading. One kernel size serves
all levels by default.
"""

import itertools
from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ...errors import ConfigError
from ...layers import BoundaryRefinement, GlobalConvolution, Upsample2x, crop_to
from ..registration import register
from .features import check_doubling, chosen_features, from_fine_to_coarse

__all__ = ["GCNHead"]


@register(SEM_SEG_HEADS_REGISTRY)
class GCNHead(nn.Module):
    """Class scores of every level, upsampled and summed from the coarsest level down.

    Where the side of a feature is odd, the doubled map that meets it loses its last row or column;
    FusionSemanticSegmentor pads images so that none is.

    Attributes:
        auxiliary_weights: weights of the auxiliary outputs; none here.

    Example:
        >>> shapes = {"res4": ShapeSpec(channels=64, stride=16), "res5": ShapeSpec(channels=128, stride=32)}
        >>> head = GCNHead(shapes, num_classes=19, kernel_size=7)
        >>> head({"res4": torch.rand(1, 64, 4, 8), "res5": torch.rand(1, 128, 2, 4)})["sem_seg"].shape
        torch.Size([1, 19, 64, 128])
    """  # noqa: E501

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        kernel_size: int | Sequence[int] = 15,
        upsampling: str = "deconv",
        output_stride: int = 1,
        output_refinement: bool = True,
        bias: bool = True,
        widths: Sequence[int] | None = None,
    ):
        """
        Args:
            input_shape: of the features to read; strides are powers of two, each twice another.
            num_classes: C; every map of the decoder has C channels.
            kernel_size: of the global convolutions, odd; one for all, or one a level from fine to
                coarse.
            upsampling: "deconv" or "bilinear", see :class:`deepfuse_d2.layers.Upsample2x`.
            output_stride: of the scores; 1 in the paper, at most the finest stride read.
            output_refinement: refine boundaries after the upsamplings below the finest level, as
                the paper does. At strides 2 and 1 they are half of the head's cost.
            bias: of global convolutions and boundary refinements.
            widths: channels of every level's scores from fine to coarse, each a multiple of the
                next; C by default.
        """
        super().__init__()
        shapes = from_fine_to_coarse(input_shape)
        check_doubling(shapes, type(self).__name__)
        self.in_features = tuple(shapes)
        finest = shapes[self.in_features[0]].stride
        if output_stride not in [2**i for i in range(finest.bit_length())]:
            raise ConfigError(
                f"MODEL.GCN.OUTPUT_STRIDE = {output_stride} is not a power of two from 1 to "
                f"{finest}, the finest stride that {type(self).__name__} reads."
            )
        num_levels = len(shapes)
        kernel_sizes = [kernel_size] if isinstance(kernel_size, int) else list(kernel_size)
        if len(kernel_sizes) == 1:
            kernel_sizes *= num_levels
        if len(kernel_sizes) != num_levels:
            raise ConfigError(
                f"MODEL.GCN.KERNEL_SIZE has {len(kernel_sizes)} entries for {num_levels} features; "
                "give one for all, or one a feature from fine to coarse."
            )
        widths = [num_classes] * num_levels if widths is None else list(widths)
        self.auxiliary_weights: dict[str, float] = {}

        self.gcn = nn.ModuleList(
            GlobalConvolution(shape.channels, width, k, bias)
            for shape, width, k in zip(shapes.values(), widths, kernel_sizes, strict=True)
        )
        self.refine_level = nn.ModuleList(BoundaryRefinement(width, bias) for width in widths)
        # Entry i leads from level i + 1 to level i; nothing is added to the coarsest level.
        self.up = nn.ModuleList(
            Upsample2x(coarser, finer, upsampling) for finer, coarser in itertools.pairwise(widths)
        )
        self.refine_sum = nn.ModuleList(BoundaryRefinement(width, bias) for width in widths[:-1])
        # Below the finest level there is nothing to add.
        num_output = (finest // output_stride).bit_length() - 1
        width = widths[0]
        self.up_output = nn.ModuleList(
            Upsample2x(width, width, upsampling) for _ in range(num_output)
        )
        self.refine_output = nn.ModuleList(
            BoundaryRefinement(width, bias) if output_refinement else nn.Identity()
            for _ in range(num_output)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        gcn = cfg.MODEL.GCN
        return {
            "input_shape": chosen_features(cfg, input_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "kernel_size": gcn.KERNEL_SIZE,
            "upsampling": gcn.UPSAMPLING,
            "output_stride": gcn.OUTPUT_STRIDE,
            "output_refinement": gcn.OUTPUT_REFINEMENT,
        }

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: (N, C_l, H/s, W/s)} -> {"sem_seg": (N, C, H/o, W/o)} with o = `output_stride`."""
        scores, _ = self.decode([features[name] for name in self.in_features])
        return {"sem_seg": scores}

    def decode(self, xs: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Features from fine to coarse -> scores of the finest, and what the first upsampling gave.

        Returns:
            (N, widths[0], H / o, W / o), and (N, widths[-2], ...) at the second coarsest stride, or
            None for a single feature.
        """
        scores = [
            refine(gcn(x)) for refine, gcn, x in zip(self.refine_level, self.gcn, xs, strict=True)
        ]
        fused, first = scores[-1], None
        for i in reversed(range(len(scores) - 1)):
            upsampled = crop_to(self.up[i](fused), scores[i].shape[-2:])
            first = upsampled if first is None else first
            fused = self.refine_sum[i](upsampled + scores[i])
        for up, refine in zip(self.up_output, self.refine_output, strict=True):
            fused = refine(up(fused))
        return fused, first
