"""Pictures of instances and labels, and of the samples of data sets."""

from .drawing import *  # noqa: F403
from .drawing import __all__ as __all__
