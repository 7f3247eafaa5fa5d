"""Splits of published data sets: their names, and how many images make a split whole."""

import logging
from collections.abc import Mapping

__all__ = ["check_split", "warn_if_incomplete"]

logger = logging.getLogger(__name__)


def check_split(split: str, sizes: Mapping[str, int]) -> None:
    """Raise a ValueError for a split that `sizes` (images of each) does not have."""
    if split not in sizes:
        raise ValueError(f"split = {split!r} is unknown; choose one of {sorted(sizes)}.")


def warn_if_incomplete(root: str, split: str, found: int, sizes: Mapping[str, int]) -> None:
    """Warn where another number of images was found than the publication has."""
    if found != sizes[split]:
        logger.warning(
            "%s has %d %s images; the whole data set has %d. Results cannot be compared.",
            root,
            found,
            split,
            sizes[split],
        )
