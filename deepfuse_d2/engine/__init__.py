"""Training and evaluation from a config."""

from ..config.checking import check_config
from ..config.loading import load_config
from .distributed.launch import launch
from .evaluators import EVALUATORS, build_evaluator
from .setup import setup
from .trainer import Trainer

__all__ = [
    "EVALUATORS",
    "Trainer",
    "build_evaluator",
    "check_config",
    "launch",
    "load_config",
    "setup",
]
