"""Fair comparison of seconds: all candidates once a round, and ratios taken within a round."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from tqdm import trange

__all__ = ["run_rounds", "summarize"]


def run_rounds(
    candidates: Mapping[str, Callable[[], float]], rounds: int, desc: str
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, without a first round to warm up.

    Args:
        candidates: name -> function that does the work once and returns its seconds. Every round
            starts with another one, so that none always follows the same.
        rounds: that are counted.
        desc: shown while they run.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    # the first round allocates memory and chooses kernels for the shapes
    for i in trange(rounds + 1, desc=desc):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(candidates[name]())
    return {name: values[1:] for name, values in seconds.items()}


def summarize(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Median of `seconds`, and of its ratio to `reference` round by round."""
    ratios = [ours / theirs for ours, theirs in zip(seconds, reference, strict=True)]
    return statistics.median(seconds), statistics.median(ratios)
