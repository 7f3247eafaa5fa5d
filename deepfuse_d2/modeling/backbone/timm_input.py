"""Images as a timm model was trained with them: its statistics, order of channels and sizes."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from .timm_probe import ImageSizes

__all__ = ["TimmInput"]

logger = logging.getLogger(__name__)


class TimmInput(nn.Module):
    """Turn (v - mean) / std of v in 0..255 into the model's own normalisation, and pad."""

    def __init__(
        self,
        name: str,
        pretrained_cfg: Mapping[str, Any],
        sizes: ImageSizes,
        *,
        pixel_mean: Sequence[float] | None,
        pixel_std: Sequence[float] | None,
        image_format: str,
    ):
        """
        Args:
            name: of the model.
            pretrained_cfg: what timm knows of its training.
            sizes: which the model takes.
            pixel_mean, pixel_std, image_format: see :class:`.timm_features.TimmBackbone`.
        """
        super().__init__()
        self.multiple, self.only_size = sizes.multiple, sizes.only
        self.pads = sizes.multiple > 1 or sizes.only is not None
        # values also of a network that is built without memory, on "meta"
        exact = partial(torch.tensor, dtype=torch.float64, device="cpu")
        own_mean, own_std = (255 * exact(pretrained_cfg[key]) for key in ("mean", "std"))
        self.flip = image_format == "BGR"
        # Either as the config has them, in the order of its channels, or as the model was trained.
        given = [v for v in (pixel_mean, pixel_std) if v is not None]
        if image_format not in ("RGB", "BGR") or any(len(v) != 3 for v in given):
            raise ConfigError(
                f'INPUT.FORMAT = "{image_format}" with MODEL.PIXEL_MEAN {pixel_mean}, '
                f"PIXEL_STD {pixel_std}: "
                "timm's models take three channels; choose RGB or BGR and three values each."
            )
        order = [2, 1, 0] if self.flip else [0, 1, 2]
        mean = own_mean if pixel_mean is None else exact(pixel_mean)[order]
        std = own_std if pixel_std is None else exact(pixel_std)[order]
        scale, shift = std / own_std, (mean - own_mean) / own_std
        # Statistics are given with four digits.
        self.rescale = not (
            torch.allclose(scale, torch.ones_like(scale), atol=1e-4)
            and torch.allclose(shift, torch.zeros_like(shift), atol=1e-4)
        )
        if self.rescale or self.flip:
            logger.info(
                "timm's %s expects RGB images of mean %s and deviation %s (0..255); the backbone "
                "converts those of the config (INPUT.FORMAT %s, MODEL.PIXEL_MEAN, PIXEL_STD).",
                name,
                [round(v, 3) for v in own_mean.tolist()],
                [round(v, 3) for v in own_std.tolist()],
                image_format,
            )
        # part of the config, not of the weights
        self.register_buffer("scale", scale.float().reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().reshape(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W), normalised as the config says -> as the model takes it, padded."""
        if self.flip:
            image = image.flip(1)
        if self.rescale:
            image = image * self.scale + self.shift
        # Decided by the model alone, not by the image, so that a trace serves other sizes.
        if self.pads:
            below, right = self._padding(*image.shape[-2:])
            image = F.pad(image, (0, right, 0, below))
        return image

    def _padding(self, height: int, width: int) -> tuple[int, int]:
        """Rows below and columns on the right that make an image one of those the model takes."""
        if self.only_size is None:
            return -height % self.multiple, -width % self.multiple
        below, right = self.only_size[0] - height, self.only_size[1] - width
        if below < 0 or right < 0:
            raise ConfigError(
                f"This timm model was built for images of {self.only_size[0]} x "
                f"{self.only_size[1]} (img_size of MODEL.TIMM.ARGS) and got one of {height} x "
                f"{width}. Build it for the largest image, or make images smaller "
                "(INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, MIN_SIZE_TEST, MAX_SIZE_TEST)."
            )
        return below, right
