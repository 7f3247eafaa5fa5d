"""Networks under detectron2's scripting export (``detectron2.export.scripting_with_instances``).

TorchScript's compiler takes no loops over names, which is what a neck consists of, and no class
derived from one that it compiles. torch asks a module by ``__prepare_scriptable__`` for what to
compile in its place; a network answers with its trace, which holds at every size of image.
"""

import warnings

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from .protocol import networks_of

__all__ = ["TracedNetwork"]


class TracedNetwork(nn.Module):
    """A backbone, with its neck, as a trace, with the attributes that meta-architectures ask for.

    Args:
        backbone: in evaluation; its weights are shared.
    """

    size_divisibility: int
    padding_constraints: dict[str, int]

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.size_divisibility = max(backbone.size_divisibility, 0)
        self.padding_constraints = dict(backbone.padding_constraints)
        weights = next(backbone.parameters())
        side = self.padding_constraints.get("square_size", 0)
        # sides that differ, and maps of several rows at the coarsest stride
        coarsest = max(shape.stride for shape in backbone.output_shape().values())
        height, width = (side, side) if side else (2 * coarsest, 3 * coarsest)
        image = weights.new_zeros(2, _channels(backbone), height, width)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of branches that the sizes of an image do not change
            self.traced = torch.jit.trace(backbone, image, strict=False, check_trace=False)
        self.train(backbone.training)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> features by name, as the backbone gives them."""
        return self.traced(x)


def _channels(backbone: nn.Module) -> int:
    """Of the image: what the first convolution of the network below all necks takes."""
    network = next(iter(networks_of(backbone).values()))
    convs = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    return next((conv.in_channels for conv in convs), 3)
