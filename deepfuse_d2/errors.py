"""Mistakes a user can make, apart from our own bugs.

Each carries one complete message: what was given, what is allowed, the next step. Commands print it
without a stack trace and exit with code 2. They are ordinary `ValueError`, `KeyError` or
`FileNotFoundError` as well, so code that uses the package as a library can catch those.
"""

import contextlib
import traceback
from collections.abc import Iterator

__all__ = [
    "ConfigError",
    "DamagedWeightsError",
    "DatasetError",
    "ImageError",
    "PredictionError",
    "TrainingError",
    "UserError",
    "WeightsError",
    "config_errors",
]


class UserError(Exception):
    """Base of the errors whose message is meant for the person at the keyboard."""


class ConfigError(UserError, ValueError):
    """A config key or argument has a value that is not allowed or does not fit another one."""


class DatasetError(UserError, FileNotFoundError):
    """A data set is not registered, not prepared, incomplete or damaged."""


class WeightsError(UserError, FileNotFoundError):
    """A weights file is missing, damaged, or does not fit the model."""


class DamagedWeightsError(WeightsError):
    """A weights file is not whole: cut short, or overwritten with something else."""


class TrainingError(UserError, RuntimeError):
    """A training cannot go on: memory or disk are full, losses are not finite, workers died."""


class PredictionError(UserError, RuntimeError):
    """A prediction of many images, or a server, cannot go on: the disk is full, workers died."""


class ImageError(UserError, ValueError):
    """What should be predicted is no image, or damaged, too large, or of an unknown range."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """A ValueError of our own constructors, with arguments from a config, is a mistake in it.

    One that other code raises is a fault in that code, whose trace its authors need.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, UserError) or not _is_ours(error):
            raise
        raise ConfigError(str(error)) from error


def _is_ours(error: Exception) -> bool:
    """Whether a line of this package raised it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith(f"{__package__}.")
