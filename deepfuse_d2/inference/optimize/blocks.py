"""detectron2's residual blocks with ReLU and sum inside of their convolutions."""

import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn

from ...kernels.packed_conv import InferenceConv2d

__all__ = ["fuse_blocks"]


class FusedResidual(nn.Module):
    """Convolutions with a ReLU after each; to the last one the shortcut is added before."""

    def __init__(self, convs: list[InferenceConv2d], shortcut: InferenceConv2d | None):
        super().__init__()
        for conv in convs[:-1]:
            conv.relu = True
        self.convs = nn.ModuleList(convs)
        self.shortcut = shortcut

    def forward(self, x: Tensor, *, into: bool = False) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')

        Args:
            into: the result may take the memory of `x`.
        """
        skipped = x if self.shortcut is None else self.shortcut(x)
        for conv in self.convs[:-1]:
            x = conv(x)
        own = into or self.shortcut is not None
        return self.convs[-1].add_relu(x, skipped, into=own)


class FusedStage(nn.Sequential):
    """Residual blocks of which all but the first write over what the one before gave.

    That saves memory, and time: what is larger than 32 MB, as a map at stride 4 of a 512 x 1024
    image, the system gives and clears anew for each result.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')"""
        for i, block in enumerate(self):
            x = block(x, into=i > 0)
        return x


class FusedStem(nn.Module):
    """7x7 convolution of stride 2 with ReLU, and the maximum over 3x3 at stride 2."""

    def __init__(self, conv: InferenceConv2d):
        super().__init__()
        conv.relu = True
        self.conv1 = conv

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H / 4, W / 4)"""
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


def fuse_blocks(model: nn.Module) -> int:
    """Put fused blocks in place of detectron2's own, and return how many."""
    made = {}
    for parent in list(model.modules()):
        for name, block in list(parent.named_children()):
            if block not in made:
                fused = _fused(block)
                if fused is None:
                    continue
                made[block] = fused
            setattr(parent, name, made[block])
    for stage in model.modules():
        if type(stage) is nn.Sequential and len(stage) and all(map(_is_unwatched, stage)):
            # the class alone: detectron2's ResNet keeps its stages in a plain list as well
            stage.__class__ = FusedStage
    return len(made)


def _fused(block: nn.Module) -> nn.Module | None:
    if type(block) in (BasicBlock, BottleneckBlock):
        names = ("conv1", "conv2") if type(block) is BasicBlock else ("conv1", "conv2", "conv3")
        convs = [getattr(block, name) for name in names]
        every = convs if block.shortcut is None else [*convs, block.shortcut]
        if all(_is_linear(conv) for conv in every):
            return FusedResidual(convs, block.shortcut)
    elif type(block) is BasicStem and _is_linear(block.conv1):
        return FusedStem(block.conv1)
    return None


def _is_unwatched(block: nn.Module) -> bool:
    """Whether nobody sees what the block takes and gives but its neighbours."""
    watched = block._forward_hooks or block._forward_pre_hooks
    return type(block) is FusedResidual and not watched


def _is_linear(conv: nn.Module) -> bool:
    return isinstance(conv, InferenceConv2d) and not conv.relu and conv.activation is None
