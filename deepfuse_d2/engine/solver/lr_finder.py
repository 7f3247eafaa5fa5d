"""The learning-rate range test: raise the rate at every step, and see where the loss falls fastest.

Leslie N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186,
section 3.3; the exponential ramp, the smoothing and the choice by the steepest descent are common
practice since.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...errors import ConfigError

__all__ = ["Curve", "range_test"]


@dataclass(frozen=True)
class Curve:
    """What a range test saw.

    Args:
        rates: learning rate of each step, rising.
        losses: total loss of each step, before the update.
        smoothing: weight, in [0, 1), of what was before in the smoothed loss.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smoothing: float = 0.9

    def smoothed(self) -> np.ndarray:
        """Exponential moving average of the losses, corrected for its start."""
        average, smoothed = 0.0, []
        for step, loss in enumerate(self.losses, 1):
            average = self.smoothing * average + (1 - self.smoothing) * loss
            smoothed.append(average / (1 - self.smoothing**step))
        return np.array(smoothed)

    def suggest(self) -> float | None:
        """Rate at which the smoothed loss falls fastest over the logarithm of the rate.

        Looked for before its minimum; the first steps, in which the average has hardly begun, do
        not count. None where the loss never falls.
        """
        smoothed = self.smoothed()
        skip = min(len(smoothed) // 10, 10)
        lowest = skip + int(np.argmin(smoothed[skip:])) if len(smoothed) > skip else 0
        if lowest - skip < 2:
            return None
        slopes = np.gradient(smoothed, np.log(self.rates))[skip : lowest + 1]
        steepest = int(np.argmin(slopes))
        return float(self.rates[skip + steepest]) if slopes[steepest] < 0 else None


def range_test(
    model: nn.Module,
    batches: Iterable,
    optimizer: torch.optim.Optimizer,
    *,
    start: float = 1e-6,
    end: float = 1.0,
    steps: int = 100,
    diverged: float = 4.0,
) -> Iterator[tuple[float, float]]:
    """Train `model` while the rate rises; yields (rate, loss) of each step.

    Ends early where the loss is not finite, or `diverged` times the smallest so far. The model is
    then of no further use.

    Args:
        model: its call on a batch gives a dict of losses.
        batches: at least `steps`.
        optimizer: groups keep their rates in proportion to that of the first.
        start, end: rate of the first group in the first and the last step.
        steps: 2 or more.
        diverged: above 1.
    """
    if not 0 < start < end or steps < 2 or diverged <= 1:
        raise ConfigError(
            f"A range test got rates from {start:g} to {end:g} in {steps} steps, to stop at "
            f"{diverged:g} times the smallest loss; give 0 < start < end, 2 steps or more, and a "
            "factor above 1."
        )
    factors = [group["lr"] / optimizer.param_groups[0]["lr"] for group in optimizer.param_groups]
    smallest = math.inf
    model.train()
    for step, batch in enumerate(itertools.islice(batches, steps)):
        rate = start * (end / start) ** (step / (steps - 1))
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        loss = sum(model(batch).values())
        value = loss.item()
        if not math.isfinite(value) or value > diverged * smallest:
            return
        smallest = min(smallest, value)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield rate, value
