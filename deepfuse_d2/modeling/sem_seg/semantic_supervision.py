"""Semantic supervision of ExFuse (arXiv 1804.03821, figure 3): every stage learns to classify.

While a backbone is pre-trained on image classification, each stage gets a classifier of its own and
the losses are summed, so that low levels carry meaning too. The branches are thrown away before
segmentation. Widths, activation and norm are not in the figure; they are ours.
"""

from collections.abc import Mapping

from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

__all__ = ["SemanticSupervision", "SupervisedClassifier"]


class SemanticSupervision(nn.Module):
    """Feature map -> 3x3 conv -> 3x3 conv -> global average -> FC -> FC -> class logits.

    Args:
        in_channels: of the feature.
        num_classes: C.
        width: channels of both convolutions and of the hidden layer.
        norm: of the convolutions; "" for none.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 256, norm: str = ""):
        super().__init__()

        def conv(channels: int) -> Conv2d:
            made = Conv2d(
                channels, width, 3, padding=1, bias=norm == "", norm=get_norm(norm, width)
            )
            nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
            return made

        self.features = nn.Sequential(
            conv(in_channels), nn.ReLU(), conv(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, C)."""
        return self.classifier(self.features(x))


class SupervisedClassifier(nn.Module):
    """A bottom-up network with a classifier on every feature, for pre-training.

    Its loss is the weighted sum of all classifiers' losses; the paper leaves the weights open. The
    state dict of `bottom_up` alone is what a segmentation model loads.

    Args:
        bottom_up: image (N, 3, H, W) -> features.
        num_classes: C.
        width, norm: see :class:`SemanticSupervision`.
    """

    def __init__(self, bottom_up: Backbone, num_classes: int, width: int = 256, norm: str = "BN"):
        super().__init__()
        self.bottom_up = bottom_up
        shapes: Mapping[str, ShapeSpec] = bottom_up.output_shape()
        self.supervision = nn.ModuleDict(
            {
                name: SemanticSupervision(shape.channels, num_classes, width, norm)
                for name, shape in shapes.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {feature: (N, C)}, from fine to coarse; the last is the prediction."""
        features = self.bottom_up(image)
        return {name: head(features[name]) for name, head in self.supervision.items()}
