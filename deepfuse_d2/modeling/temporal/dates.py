"""Dates of a series: their order, their gaps, and those that cannot be used.

Letters: P series of one pixel each, T dates, C values of a date.
"""

import torch
from torch import Tensor

from ...errors import ConfigError

__all__ = ["DATE_ENCODINGS", "check_date_encoding", "encode_dates", "usable_dates_first"]

#: MODEL.M3FUSION.DATE_ENCODING -> values that each date gets beside those of the image.
DATE_ENCODINGS = {"none": 0, "doy_sincos": 2, "delta": 1}

_YEAR = 365.25
_MONTH = 30.0


def check_date_encoding(name: str) -> int:
    """The number of values of an encoding; ConfigError for one that is unknown."""
    if name not in DATE_ENCODINGS:
        raise ConfigError(
            f'MODEL.M3FUSION.DATE_ENCODING = "{name}" is unknown; choose one of '
            f"{list(DATE_ENCODINGS)}."
        )
    return DATE_ENCODINGS[name]


def usable_dates_first(
    series: Tensor, dates: Tensor, usable: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Put the usable dates of each series in front, by date, and drop what no series uses.

    What follows them is 0, whatever it was, and comes after all that counts: a network that looks
    at earlier dates alone never sees it. So a date that cannot be used, and one that is not there,
    give the same result, bit for bit.

    Args:
        series: (P, T, C) values; those that are not usable may be anything, nan too.
        dates: (P, T) days.
        usable: (P, T) bool.

    Returns:
        series (P, S, C), dates (P, S), usable (P, S) and the places (P, S) that they had; S is the
        largest number of usable dates, at least 1.
    """
    days = torch.where(usable, dates.to(torch.float64), torch.inf)
    order = days.argsort(dim=1, stable=True)
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing() or usable.is_meta):
        # Where values are not known, all dates are computed, with the same result.
        order = order[:, : max(1, int(usable.sum(dim=1).max()))]
    usable = usable.gather(1, order)
    dates = dates.gather(1, order)
    series = series.gather(1, order[:, :, None].expand(-1, -1, series.shape[2]))
    return torch.where(usable[:, :, None], series, 0), dates, usable, order


def encode_dates(dates: Tensor, encoding: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """(P, T) days, sorted -> (P, T, E) values that stand for them.

    "none": nothing, a network sees the order alone. "doy_sincos": sine and cosine of the time of
    the year. "delta": months since the date before, 0 for the first.
    """
    days = dates.to(torch.float64)
    if encoding == "doy_sincos":
        angle = 2 * torch.pi * days / _YEAR
        return torch.stack([angle.sin(), angle.cos()], dim=-1).to(dtype)
    if encoding == "delta":
        return (days.diff(dim=1, prepend=days[:, :1]) / _MONTH)[..., None].to(dtype)
    return dates.new_zeros((*dates.shape, 0), dtype=dtype)
