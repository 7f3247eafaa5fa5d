"""Heads that decide a class from the feature of a series and the feature of an image.

Letters: D channels of the series, F of the image, K classes. The map of the image has the size of
that of the series, or is finer by a whole ratio: then a pixel of the image takes the series of the
pixel that contains it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config.keys.deepfuse import FuseSettings
from ...layers import DeepFuse

__all__ = ["FUSIONS", "DeepFuseFusion", "LinearFusion", "MLPFusion"]


class LinearFusion(nn.Module):
    """M3Fusion's head: one linear layer over [series, image] (arXiv 1803.01945).

    Its logits are sums of what each source says on its own, so each is computed on its own grid,
    and those of the series are enlarged: no map of D + F channels exists at the size of the image.
    """

    def __init__(self, series_dim: int, image_dim: int, num_classes: int):
        super().__init__()
        self.series_dim = series_dim
        self.classifier = nn.Conv2d(series_dim + image_dim, num_classes, 1)

    def forward(self, series: Tensor, image: Tensor) -> Tensor:
        """(N, D, h, w), (N, F, H, W) -> logits (N, K, H, W)"""
        return sum_of_sources(self.classifier, self.series_dim, series, image)


class MLPFusion(nn.Module):
    """A hidden layer between the features and the logits; not the paper's.

    With it the sources need not add up: that one kind of season means meadow with one texture and
    orchard with another is within its reach, where a linear layer can only move a border.
    """

    def __init__(self, series_dim: int, image_dim: int, num_classes: int, hidden: int = 512):
        super().__init__()
        self.series_dim = series_dim
        self.hidden = nn.Conv2d(series_dim + image_dim, hidden, 1)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, series: Tensor, image: Tensor) -> Tensor:
        """(N, D, h, w), (N, F, H, W) -> logits (N, K, H, W)"""
        hidden = sum_of_sources(self.hidden, self.series_dim, series, image)
        return self.classifier(F.relu(hidden))


class DeepFuseFusion(nn.Module):
    """The DeepFuse operation: both features brought to one width, merged, then deepened.

    The image is the target, the series its source (see deepfuse_d2/layers/fuse.py). Deepening looks
    at neighbouring pixels, so this head works on maps and not on single pixels.
    """

    def __init__(
        self,
        series_dim: int,
        image_dim: int,
        num_classes: int,
        width: int,
        settings: FuseSettings = FuseSettings(),
    ):
        super().__init__()
        self.fuse = DeepFuse([image_dim, series_dim], width, settings, align=True)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, series: Tensor, image: Tensor) -> Tensor:
        """(N, D, h, w), (N, F, H, W) -> logits (N, K, H, W)"""
        return self.classifier(F.relu(self.fuse(image, [series])))


def sum_of_sources(layer: nn.Conv2d, series_dim: int, series: Tensor, image: Tensor) -> Tensor:
    """``layer(concat(enlarged series, image))``, a 1x1 convolution, without the concatenation."""
    of_series = F.conv2d(series, layer.weight[:, :series_dim])
    of_image = F.conv2d(image, layer.weight[:, series_dim:], layer.bias)
    return enlarge(of_series, image.shape[-2:]) + of_image


def enlarge(x: Tensor, size: torch.Size) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), each pixel repeated."""
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="nearest")


# Name (MODEL.M3FUSION.FUSION) -> builder(D, F, K, width, settings of DeepFuse)
FUSIONS: dict[str, Callable[[int, int, int, int, FuseSettings], nn.Module]] = {
    "linear": lambda series, image, classes, width, settings: LinearFusion(series, image, classes),
    "mlp": lambda series, image, classes, width, settings: MLPFusion(series, image, classes, width),
    "deepfuse": DeepFuseFusion,
}
