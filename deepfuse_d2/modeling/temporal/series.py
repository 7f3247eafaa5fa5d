"""Series of images through an encoder of pixels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import TemporalAttention
from .attentive_gru import AttentiveGRU

__all__ = ["SERIES_ENCODERS", "encode_pixels"]

# Name (MODEL.M3FUSION.SERIES_ENCODER) -> builder(channels, dim, date_encoding, heads)
SERIES_ENCODERS: dict[str, Callable[[int, int, str, int], nn.Module]] = {
    "attentive_gru": lambda channels, dim, encoding, heads: AttentiveGRU(channels, dim, encoding),
    # dates are part of the attention itself
    "temporal_attention": lambda channels, dim, encoding, heads: TemporalAttention(
        channels, dim, heads
    ),
}


def encode_pixels(
    encoder: nn.Module, series: Tensor, dates: Tensor, usable: Tensor, chunk: int = 0
) -> Tensor:
    """Encode each pixel of series of images on its own.

    Args:
        encoder: (P, T, C), (P, T), (P, T) -> (P, D).
        series: (N, T, C, h, w).
        dates: (N, T) days.
        usable: (N, T, h, w) bool.
        chunk: pixels at once, which bounds the memory; 0 takes all.

    Returns:
        (N, D, h, w)
    """
    count, length, channels, height, width = series.shape
    pixels = series.permute(0, 3, 4, 1, 2).reshape(-1, length, channels)
    is_usable = usable.permute(0, 2, 3, 1).reshape(-1, length)
    days = dates[:, None].expand(-1, height * width, -1).reshape(-1, length)
    parts = zip(*(x.split(chunk or len(pixels)) for x in (pixels, days, is_usable)), strict=True)
    features = torch.cat([encoder(*part) for part in parts])
    return features.view(count, height, width, -1).permute(0, 3, 1, 2)
