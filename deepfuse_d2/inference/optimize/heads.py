"""The heads of Mask R-CNN for features with channels innermost."""

from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import Tensor, nn

from ...kernels.choice import is_chosen
from ...kernels.packed_conv import InferenceConv2d

__all__ = [
    "FlattenChannelsLast",
    "LinearAsConvolution",
    "UpsampledPredictor",
    "flatten_channels_last",
    "fuse_mask_heads",
    "map_sizes_of_masks",
    "replace_wide_linears",
]

# Maps of 14 x 14 cells and 256 channels: 6 MB in float32; two times 126 tiles of F(5 x 5).
_BOXES = 28
# Weights from which on a linear layer of thousands of boxes takes as long as a stage of a backbone.
_WIDE = 1_000_000


class FlattenChannelsLast(nn.Module):
    """(N, C, H, W) -> (N, H W C), which is no work if channels are innermost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def flatten_channels_last(model: nn.Module) -> int:
    """Let detectron2's box heads read pooled features in that order; returns how many do."""
    count = 0
    for heads in list(model.modules()):
        pooler, box_head = getattr(heads, "box_pooler", None), getattr(heads, "box_head", None)
        if pooler is None or box_head is None:
            continue
        height, width = pooler.output_size
        # of a cascade, a head for each stage
        for head in box_head if isinstance(box_head, nn.ModuleList) else [box_head]:
            if type(head) is not FastRCNNConvFCHead or not isinstance(
                getattr(head, "flatten", None), nn.Flatten
            ):
                continue
            weight = head.fc1.weight.unflatten(1, (-1, height, width))
            weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
            head.fc1.weight = nn.Parameter(weight, requires_grad=False)
            head.flatten = FlattenChannelsLast()
            count += 1
    return count


class UpsampledPredictor(nn.Module):
    """The end of detectron2's mask head: a 2x2 deconvolution of stride 2, ReLU, a 1x1 convolution.

    The deconvolution gives four cells for each one, which is a 1x1 convolution with four times the
    channels. Only what the predictor makes of them is put in its place: 8 channels in place of 256.
    """

    def __init__(
        self, deconv: nn.ConvTranspose2d, predictor: nn.Conv2d, *, dtype: torch.dtype, pack: bool
    ):
        super().__init__()
        channels = deconv.out_channels
        wide = nn.Conv2d(deconv.in_channels, 4 * channels, kernel_size=1)
        weight = deconv.weight.permute(2, 3, 1, 0).reshape(4 * channels, -1, 1, 1)
        wide.weight = nn.Parameter(weight, requires_grad=False)
        wide.bias = None
        if deconv.bias is not None:
            wide.bias = nn.Parameter(deconv.bias.repeat(4), requires_grad=False)
        self.four = InferenceConv2d(wide, dtype=dtype, pack=pack)
        self.four.relu = True
        self.last = InferenceConv2d(predictor, dtype=dtype, pack=pack)

    @staticmethod
    def fits(head: nn.Module) -> bool:
        """Whether it is detectron2's mask head, unchanged."""
        if type(head) is not MaskRCNNConvUpsampleHead:
            return False
        deconv, relu, predictor = list(head)[-3:]
        return (
            isinstance(deconv, nn.ConvTranspose2d)
            and deconv.kernel_size == deconv.stride == (2, 2)
            and deconv.padding == deconv.output_padding == (0, 0)
            and deconv.dilation == (1, 1)
            and deconv.groups == 1
            and type(relu) is nn.ReLU
            and isinstance(predictor, nn.Conv2d)
            and predictor.kernel_size == (1, 1)
            and getattr(predictor, "norm", None) is None
            and getattr(predictor, "activation", None) is None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K, 2H, 2W) in float32."""
        count, _, height, width = x.shape
        channels, classes = self.last.in_channels, self.last.out_channels
        four = self.four(x).permute(0, 2, 3, 1).reshape(count, 4 * height * width, 1, channels)
        logits = self.last(four.permute(0, 3, 1, 2)).float()
        logits = logits.view(count, classes, height, width, 2, 2).permute(0, 1, 2, 4, 3, 5)
        return logits.reshape(count, classes, 2 * height, 2 * width)


class InferenceMaskHead(MaskRCNNConvUpsampleHead):
    """A mask head that takes some boxes at once, so that their maps fit the caches."""

    def layers(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, K, 2H, 2W)"""
        return torch.cat([super(InferenceMaskHead, self).layers(part) for part in x.split(_BOXES)])


class LinearAsConvolution(nn.Module):
    """A linear layer as a 1x1 convolution, which on a CPU is faster in float32."""

    def __init__(self, linear: nn.Linear, *, pack: bool):
        super().__init__()
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
        conv.weight = nn.Parameter(linear.weight[:, :, None, None], requires_grad=False)
        conv.bias = linear.bias
        self.conv = InferenceConv2d(conv, dtype=torch.float32, pack=pack)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, K)"""
        # rows are the columns of an image with channels innermost
        return self.conv(x[None, None].permute(0, 3, 1, 2))[0, :, 0].T


@torch.no_grad()
def replace_wide_linears(model: nn.Module, *, pack: bool) -> int:
    """Put :class:`LinearAsConvolution` in place of the first layers of box heads, if faster."""
    wide = [
        (head, name, module)
        for head in model.modules()
        if type(head) is FastRCNNConvFCHead
        for name, module in list(head.named_children())
        if type(module) is nn.Linear and module.weight.numel() >= _WIDE
    ]
    if not wide or not is_chosen("linear as convolution", _trial_of_linear):
        return 0
    for head, name, module in wide:
        setattr(head, name, LinearAsConvolution(module, pack=pack))
    return len(wide)


def _trial_of_linear() -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A quarter of the boxes of an image at the first layer of a box head."""
    linear, x = nn.Linear(256 * 7 * 7, 1024), torch.rand(250, 256 * 7 * 7)
    convolution = LinearAsConvolution(linear, pack=True)
    return lambda: convolution(x), lambda: linear(x)


def map_sizes_of_masks(model: nn.Module) -> dict[nn.Module, int]:
    """Convolutions of detectron2's mask heads and the side of the maps that they get."""
    map_sizes = {}
    for heads in model.modules():
        pooler, head = getattr(heads, "mask_pooler", None), getattr(heads, "mask_head", None)
        if pooler is not None and isinstance(head, MaskRCNNConvUpsampleHead):
            map_sizes |= dict.fromkeys(head.conv_norm_relus, max(pooler.output_size))
    return map_sizes


@torch.no_grad()
def fuse_mask_heads(model: nn.Module, *, dtype: torch.dtype, pack: bool) -> int:
    """Put :class:`UpsampledPredictor` into detectron2's mask heads; returns into how many.

    Also in a lower precision: a mask is where a logit is positive, and no digit is needed for that.
    """
    heads = [head for head in model.modules() if UpsampledPredictor.fits(head)]
    for head in heads:
        fused = UpsampledPredictor(head.deconv, head.predictor, dtype=dtype, pack=pack)
        # they stay under their names, which other code may look up
        head.deconv_relu, head.predictor = nn.Identity(), nn.Identity()
        head.deconv = fused
        head.__class__ = InferenceMaskHead
    return len(heads)
