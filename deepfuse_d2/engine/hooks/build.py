"""The hooks that MONITOR asks for."""

import contextlib
import functools

from detectron2.checkpoint import Checkpointer
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn

from ...errors import ConfigError
from ..solver.ema import AverageWeights
from .best_checkpoint import BestCheckpoint
from .early_stopping import EarlyStopping
from .peak_memory import PeakMemory
from .prediction_pictures import PredictionPictures, build_picture_samples
from .scores import Scores
from .throughput import Throughput
from .validation_loss import ValidationLoss, build_validation_loaders

__all__ = ["build_monitor_hooks"]


def build_monitor_hooks(
    cfg: CfgNode,
    model: nn.Module,
    checkpointer: Checkpointer,
    average: AverageWeights | None = None,
) -> list[HookBase]:
    """Hooks to stand behind the timer and the evaluation, and before the writers.

    Args:
        model: that is trained.
        checkpointer: of the training; writes the best model.
        average: of the weights, where MODEL_EMA is on.
    """
    monitor = cfg.MONITOR
    if monitor.PERIOD < 1 or min(monitor.VALIDATION_LOSS_PERIOD, monitor.PICTURES_PERIOD) < 0:
        raise ConfigError(
            f"MONITOR.PERIOD is {monitor.PERIOD}, VALIDATION_LOSS_PERIOD "
            f"{monitor.VALIDATION_LOSS_PERIOD} and PICTURES_PERIOD {monitor.PICTURES_PERIOD}; they "
            "count iterations: 1 or more for the first, 0 (never) or more for the others."
        )
    hooks = [
        Throughput(cfg.SOLVER.IMS_PER_BATCH),
        PeakMemory(cfg.MODEL.DEVICE, monitor.PERIOD),
    ]
    if monitor.VALIDATION_LOSS_PERIOD:
        loaders = functools.partial(build_validation_loaders, cfg)
        hooks.append(ValidationLoss(monitor.VALIDATION_LOSS_PERIOD, model, loaders))
    if monitor.PICTURES_PERIOD:
        hooks.append(
            PredictionPictures(
                monitor.PICTURES_PERIOD,
                model,
                build_picture_samples(cfg),
                f"{cfg.OUTPUT_DIR}/pictures",
                monitor.PICTURES_THRESHOLD,
            )
        )
    return hooks + _of_score(cfg, checkpointer, average)


def _of_score(
    cfg: CfgNode, checkpointer: Checkpointer, average: AverageWeights | None
) -> list[HookBase]:
    monitor = cfg.MONITOR
    if not monitor.METRIC:
        if monitor.PATIENCE:
            raise ConfigError(
                f"MONITOR.PATIENCE is {monitor.PATIENCE}, but no score is watched: name one with "
                'MONITOR.METRIC, such as "validation/total_loss" or "segm/AP50", or set PATIENCE 0.'
            )
        return []
    periods = (cfg.TEST.EVAL_PERIOD, monitor.VALIDATION_LOSS_PERIOD)
    if monitor.PATIENCE and not any(period > 0 for period in periods):
        raise ConfigError(
            f"MONITOR.PATIENCE is {monitor.PATIENCE}, but nothing is evaluated before the end: set "
            "TEST.EVAL_PERIOD or MONITOR.VALIDATION_LOSS_PERIOD, or PATIENCE 0."
        )
    if monitor.METRIC.startswith("validation/") and not monitor.VALIDATION_LOSS_PERIOD:
        raise ConfigError(
            f'MONITOR.METRIC is "{monitor.METRIC}", but no validation loss is computed: set '
            "MONITOR.VALIDATION_LOSS_PERIOD."
        )
    of_average = monitor.METRIC.startswith("ema/")
    if of_average and (average is None or not cfg.MODEL_EMA.EVALUATE):
        raise ConfigError(
            f'MONITOR.METRIC is "{monitor.METRIC}", a score of the averaged weights, which are not '
            "evaluated: set MODEL_EMA.ENABLED and MODEL_EMA.EVALUATE."
        )
    scores = Scores(monitor.METRIC, monitor.MODE, f"{cfg.OUTPUT_DIR}/scores.json")
    # the weights that had the score are those that are kept
    scored = average.averaged if of_average else contextlib.nullcontext
    hooks = [BestCheckpoint(scores, periods, checkpointer, scored=scored)]
    if monitor.PATIENCE:
        hooks.append(EarlyStopping(scores, periods, monitor.PATIENCE, monitor.MIN_DELTA))
    return hooks
