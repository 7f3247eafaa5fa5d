"""Entries with a series and an image -> batches: padded in space and in time, normalised."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ConfigError

__all__ = ["padded", "padded_size", "series_size", "stack_images", "stack_series"]


def series_size(entry: dict, ratio: int) -> tuple[int, int]:
    """(height, width) of an entry on the grid of the series."""
    if "time_series" in entry:
        return tuple(entry["time_series"].shape[-2:])
    return tuple(side // ratio for side in entry["image"].shape[-2:])


def padded_size(entries: Sequence[dict], ratio: int, divisor: int) -> tuple[int, int]:
    """Height and width of a batch, in pixels of the image: multiples of `divisor`.

    Raises: ConfigError: an image has not `ratio` times the pixels of its series.
    """
    for entry in entries:
        expected = tuple(side * ratio for side in series_size(entry, ratio))
        if "image" in entry and tuple(entry["image"].shape[-2:]) != expected:
            raise ConfigError(
                f"{entry.get('file_name', 'An entry')}: the image has "
                f"{tuple(entry['image'].shape[-2:])} pixels; with MODEL.M3FUSION.RATIO {ratio} and "
                f"a series of {series_size(entry, ratio)} pixels it must have {expected}. Resample "
                "it, or set RATIO."
            )
    sizes = [series_size(entry, ratio) for entry in entries]
    longest = (max(side) * ratio for side in zip(*sizes, strict=True))
    height, width = (-(-side // divisor) * divisor for side in longest)
    return height, width


def stack_images(
    entries: Sequence[dict], size: tuple[int, int], mean: Tensor, std: Tensor
) -> Tensor:
    """Normalised "image" of each entry, (N, C, *size); 0, the mean, where padded."""
    images = [
        _normalised(entry["image"].to(mean.device), mean, std, "image", "MODEL.PIXEL_MEAN")
        for entry in entries
    ]
    return padded(images, size)


def stack_series(
    entries: Sequence[dict], size: tuple[int, int], mean: Tensor, std: Tensor
) -> dict[str, Tensor]:
    """The series of entries as "time_series" (N, T, C, *size), "dates" (N, T) and "usable"
    (N, T, *size), with T of the longest; padding is not usable.
    """
    length = max(len(entry["dates"]) for entry in entries)
    series, dates, usable = [], [], []
    for entry in entries:
        values = entry["time_series"].to(mean.device).float()
        mask = entry.get("usable")
        mask = torch.ones(len(values), dtype=torch.bool) if mask is None else mask
        mask = mask.to(mean.device)
        mask = (mask[:, None, None] if mask.ndim == 1 else mask) & values.isfinite().all(dim=1)
        values = _normalised(values, mean, std, "time_series", "MODEL.M3FUSION.SERIES_MEAN")
        missing = length - len(values)
        series.append(_longer(values, missing))
        dates.append(_longer(entry["dates"].to(mean.device), missing))
        usable.append(_longer(mask, missing))
    return {
        "time_series": padded(series, size),
        "dates": torch.stack(dates),
        "usable": padded(usable, size, False),
    }


def padded(tensors: Sequence[Tensor], size: tuple[int, int], value: float | bool = 0) -> Tensor:
    """Tensors (..., h, w) as one (N, ..., *size), padded at the bottom and at the right."""
    return torch.stack(
        [
            F.pad(x, [0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]], value=value)
            for x in tensors
        ]
    )


def _longer(x: Tensor, missing: int) -> Tensor:
    return torch.cat([x, x.new_zeros((missing, *x.shape[1:]))])


def _normalised(x: Tensor, mean: Tensor, std: Tensor, what: str, key: str) -> Tensor:
    if not len(mean):
        return x.float()
    if x.shape[-3] != len(mean):
        raise ConfigError(
            f"{key} has {len(mean)} numbers; an entry's {what} has {x.shape[-3]} channels."
        )
    return (x - mean) / std
