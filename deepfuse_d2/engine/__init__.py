"""Training and evaluation from a config."""

from .evaluators import EVALUATORS, build_evaluator
from .launch import launch
from .predictor import SafePredictor
from .setup import check_config, load_config, setup
from .trainer import Trainer

__all__ = [
    "EVALUATORS",
    "SafePredictor",
    "Trainer",
    "build_evaluator",
    "check_config",
    "launch",
    "load_config",
    "setup",
]
