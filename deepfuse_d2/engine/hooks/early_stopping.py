"""End a training that no longer gets better."""

import logging
from collections.abc import Sequence

from detectron2.utils import comm

from ...errors import ConfigError
from ..resume.checkpoints import Checkpoints
from .scores import OnScore, Scores

__all__ = ["EarlyStopping", "TrainingStopped"]


class TrainingStopped(BaseException):
    """Ends the loop of a training that is complete before its last iteration.

    No Exception: detectron2's loop would log it as a failure.
    """


class EarlyStopping(OnScore):
    """Ends a training after `patience` evaluations in a row without a new best.

    The training then ends as at its last iteration: evaluated, and with ``model_final`` written.
    How many evaluations there were is read off the scores, so a resumed training has the patience
    that it had. To stand behind :class:`BestCheckpoint`, which keeps the scores.

    Args:
        scores, periods: see :class:`OnScore`.
        patience: evaluations, 1 or more.
        min_delta: what a score must gain on the best to count as a new one, 0 or more.
    """

    def __init__(
        self, scores: Scores, periods: Sequence[int], patience: int, min_delta: float = 0.0
    ):
        super().__init__(scores, periods)
        if patience < 1 or min_delta < 0:
            raise ConfigError(
                f"MONITOR.PATIENCE is {patience} evaluations and MIN_DELTA {min_delta}; early "
                "stopping takes 1 or more and 0 or more. PATIENCE 0 switches it off."
            )
        self.patience = patience
        self.min_delta = min_delta
        self._is_over = False

    def on_score(self, iteration: int, score: float) -> None:
        """Nothing: what counts is how many there were."""

    def before_train(self) -> None:
        self._decide(self.trainer.start_iter - 1)
        if self._is_over:
            self.trainer.max_iter = self.trainer.start_iter  # so that it ends as a complete one

    def before_step(self) -> None:
        # Here, and not after the step before: all its hooks have then done their work.
        if self._is_over:
            raise TrainingStopped

    def after_step(self) -> None:
        if self.is_due() and self.trainer.iter + 1 < self.trainer.max_iter:
            self._decide(self.trainer.iter)
            if self._is_over:
                self._end()

    def after_train(self) -> None:
        """Nothing is left to stop."""

    def _decide(self, until: int) -> None:
        # Scores of iterations to come are those of a run that was killed after its last checkpoint.
        is_over = self.scores.stale(until, self.min_delta) >= self.patience
        self._is_over = comm.all_gather(is_over)[0]

    def _end(self) -> None:
        trainer = self.trainer
        trainer.max_iter = trainer.iter + 1
        if comm.is_main_process():
            iteration, score = self.scores.best()
            logging.getLogger(__name__).info(
                "Stopping at iteration %d: %d evaluations gave no better %s than %.5g of iteration "
                "%d (MONITOR.PATIENCE).",
                trainer.iter, self.patience, self.scores.metric, score, iteration,
            )  # fmt: skip
        # of all processes together, where the training has the hook for it
        for hook in trainer._hooks:
            if isinstance(hook, Checkpoints):
                hook.write("model_final", must=True)
                return
        if comm.is_main_process():
            trainer.checkpointer.save("model_final", iteration=trainer.iter)
