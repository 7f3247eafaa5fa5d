"""Evaluate the moving average of the weights beside the weights themselves."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from ..watching import watching

__all__ = ["EvaluateAverage"]


class EvaluateAverage(HookBase):
    """Puts "ema/<score>" into the storage: what `evaluate` gives within `averaged`.

    It is done within :func:`watching`.

    Args:
        period: iterations between evaluations; 0 for the end of the training alone.
        model: that is trained.
        evaluate: function that gives nested results; {} or None off the main process.
        averaged: context in which the model has the averaged weights; after it, its own again.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        evaluate: Callable[[], Mapping | None],
        averaged: Callable[[], AbstractContextManager],
    ):
        self.period = period
        self.model = model
        self.evaluate = evaluate
        self.averaged = averaged
        # nested results of the last evaluation
        self.results: Mapping = {}

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after a failure
            self._evaluate()

    def _evaluate(self) -> None:
        with watching(self.model), self.averaged():
            self.results = self.evaluate() or {}
        scores = {f"ema/{k}": float(v) for k, v in flatten_results_dict(self.results).items()}
        self.trainer.storage.put_scalars(**scores, smoothing_hint=False)
        comm.synchronize()
