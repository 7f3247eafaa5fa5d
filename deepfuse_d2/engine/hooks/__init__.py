"""What happens around the steps of a training: one hook a file."""

from .best_checkpoint import BestCheckpoint
from .build import build_monitor_hooks
from .early_stopping import EarlyStopping, TrainingStopped
from .ema_evaluation import EvaluateAverage
from .peak_memory import PeakMemory
from .prediction_pictures import PredictionPictures
from .scores import OnScore, Scores
from .throughput import Throughput
from .validation_loss import ValidationLoss

__all__ = [
    "BestCheckpoint",
    "EarlyStopping",
    "EvaluateAverage",
    "OnScore",
    "PeakMemory",
    "PredictionPictures",
    "Scores",
    "Throughput",
    "TrainingStopped",
    "ValidationLoss",
    "build_monitor_hooks",
]
