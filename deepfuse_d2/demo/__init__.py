"""Trained models on a user's own pictures: what deepfuse predict and the page of `make demo` share.

The page itself, :mod:`.page`, needs the extra `demo` and is imported by the command that serves it.
"""

from .comparison import Comparison, compare
from .models import DemoModel, TrainedModel, find_models
from .pictures import decode

__all__ = [
    "Comparison",
    "DemoModel",
    "TrainedModel",
    "compare",
    "decode",
    "find_models",
]
