"""Means, deviations and intervals over seeds. Plain python: a handful of numbers each.

The interval is Student's t over independent seeds, which takes the differences between seeds as
normally distributed. With three seeds the factor is 4.3: wide, and honest about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Estimate", "estimate", "t_quantile"]


class Estimate(NamedTuple):
    """A mean over seeds. Deviation and half width are nan for a single seed, all for none."""

    mean: float
    #: Sample standard deviation (n - 1).
    deviation: float
    #: The interval is mean - half_width .. mean + half_width.
    half_width: float
    count: int  # type: ignore[assignment]  # in place of tuple.count

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def estimate(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Mean of `values` with the interval that covers the true mean with `confidence`.

    Of paired differences it is the interval of the paired t-test.
    """
    values = list(values)
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (count - 1))
    factor = t_quantile((1 + confidence) / 2, count - 1)
    return Estimate(mean, deviation, factor * deviation / math.sqrt(count), count)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, for whole degrees of freedom and 0.5 <= p < 1.

    Bisection on the closed form of the distribution function, to the last bits.
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise ValueError(
            f"probability = {probability}, freedom = {freedom}; expected 0.5 <= probability < 1 "
            "and 1 or more degrees of freedom."
        )
    inside = 2 * probability - 1
    low, high = 0.0, 1.0
    while _within(high, freedom) < inside:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if _within(middle, freedom) < inside:
            low = middle
        else:
            high = middle
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t); Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    # odd: cos + 2/3 cos^3 + 2*4/(3*5) cos^5 ...; even: 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ...
    first = freedom % 2
    term, total = cosine**first, 0.0
    for power in range(first, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    if first:
        return (angle + math.sin(angle) * total) * 2 / math.pi
    return math.sin(angle) * total
