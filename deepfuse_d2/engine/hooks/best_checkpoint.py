"""Keep the best model, also across an interrupted training."""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from detectron2.checkpoint import Checkpointer
from detectron2.utils import comm

from .scores import OnScore, Scores

__all__ = ["BestCheckpoint"]


class BestCheckpoint(OnScore):
    """Writes ``<name>.pth`` whenever a score beats all before, those of interrupted runs included.

    detectron2's BestCheckpointer starts from nothing when a training is resumed, and then replaces
    the best model by the next one. It also makes the best checkpoint the one to resume from, which
    takes a training back to the iteration of its best; here the last one stays.

    Args:
        scores, periods: see :class:`OnScore`.
        checkpointer: writes the model.
        name: of the file.
        scored: context in which the model has the weights that the score is of.
    """

    def __init__(
        self,
        scores: Scores,
        periods: Sequence[int],
        checkpointer: Checkpointer,
        name: str = "model_best",
        scored: Callable[[], AbstractContextManager] = contextlib.nullcontext,
    ):
        super().__init__(scores, periods)
        self.checkpointer = checkpointer
        self.name = name
        self.scored = scored

    def before_train(self) -> None:
        if not comm.is_main_process():
            return
        if self.trainer.start_iter == 0:
            self.scores.clear()  # of another training in this folder
        else:
            self.scores.load()

    def on_score(self, iteration: int, score: float) -> None:
        if not comm.is_main_process():
            return
        logger = logging.getLogger(__name__)
        metric, best = self.scores.metric, self.scores.best()
        if self.scores.beats_all(score):
            # First the model, then the score: killed between the two, it is only written again.
            try:
                self._save(iteration, score)
            except (OSError, RuntimeError) as error:  # of a full disk torch makes a RuntimeError
                logger.error(
                    "%s is %.5g, the best so far, but the model could not be written: %s. The one "
                    "before is still in %s.pth. Make room.", metric, score, error, self.name,
                )  # fmt: skip
                return
            logger.info(
                "%s is %.5g, the best so far; %s.pth holds this model.", metric, score, self.name
            )
        elif best is not None:
            logger.info(
                "%s is %.5g; the best remains %.5g of iteration %d.",
                metric,
                score,
                best[1],
                best[0],
            )
        self.scores.add(iteration, score)

    def _save(self, iteration: int, score: float) -> None:
        last = None
        if self.checkpointer.has_checkpoint():
            last = os.path.basename(self.checkpointer.get_checkpoint_file())
        with self.scored():
            self.checkpointer.save(self.name, iteration=iteration, score=score)
        if last is not None:
            self.checkpointer.tag_last_checkpoint(last)
