"""The scores of one metric over a training, kept on disk, so that a resumed training knows them."""

import json
import logging
import math
import os
import sys
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm

from ...errors import ConfigError
from ...files import written_whole

__all__ = ["OnScore", "Scores"]


class Scores:
    """Scores by iteration, in a file of their own.

    A checkpoint is written before the evaluation of the same iteration, and there is none after the
    last evaluation; so a checkpoint cannot hold what came of it, and the file does. It is written
    by the main process alone.

    Args:
        metric: name of the score, as in metrics.json.
        mode: "max" if more is better, "min" if less is.
        path: of the file; its folder is made as needed.
    """

    def __init__(self, metric: str, mode: str, path: str | os.PathLike):
        if mode not in ("max", "min"):
            raise ConfigError(
                f'MONITOR.MODE = "{mode}" is unknown; choose "max" where more of MONITOR.METRIC '
                f'({metric}) is better, "min" where less is.'
            )
        self.metric = metric
        self.mode = mode
        self.path = path
        # iteration -> score
        self.values: dict[int, float] = {}

    def load(self) -> None:
        """Read what an earlier run wrote about the same metric."""
        try:
            with open(self.path, encoding="utf-8") as file:
                kept = json.load(file)
        except (FileNotFoundError, json.JSONDecodeError):
            kept = {}
        if kept.get("metric") == self.metric:
            self.values = {int(iteration): score for iteration, score in kept["scores"]}

    def clear(self) -> None:
        """Forget all, on disk as well."""
        self.values = {}
        if os.path.exists(self.path):
            os.remove(self.path)

    def beats_all(self, score: float) -> bool:
        """Whether a score is finite and better than all so far."""
        best = self.best()
        return math.isfinite(score) and (best is None or self.gain(score, best[1]) > 0)

    def add(self, iteration: int, score: float) -> None:
        """Note a score, and write the file; one that is not finite is as bad as can be."""
        if not math.isfinite(score):
            score = -sys.float_info.max if self.mode == "max" else sys.float_info.max
        self.values[iteration] = score
        report = {"metric": self.metric, "scores": sorted(self.values.items())}
        with written_whole(self.path) as temporary:
            temporary.write_text(json.dumps(report), encoding="utf-8")

    def best(self) -> tuple[int, float] | None:
        """(iteration, score) of the first best; None before any."""
        best = None
        for iteration, score in sorted(self.values.items()):
            if best is None or self.gain(score, best[1]) > 0:
                best = iteration, score
        return best

    def gain(self, score: float, other: float) -> float:
        """How much better `score` is than `other`."""
        return score - other if self.mode == "max" else other - score

    def stale(self, until: int, min_delta: float = 0.0) -> int:
        """Scores up to iteration `until` since one gained more than `min_delta` on the best."""
        best, count = None, 0
        for iteration, score in sorted(self.values.items()):
            if iteration > until:
                break
            if best is None or self.gain(score, best) > min_delta:
                best, count = score, 0
            else:
                count += 1
        return count


class OnScore(HookBase):
    """A hook that acts when an evaluation has given a new score of a metric.

    To stand behind the hooks that evaluate.

    Args:
        scores: of the metric.
        periods: iterations between evaluations, of each hook that makes them; 0 counts as never.
    """

    def __init__(self, scores: Scores, periods: Sequence[int]):
        self.scores = scores
        self.periods = [period for period in periods if period > 0]
        self._seen = -1
        self._is_warned = False

    def on_score(self, iteration: int, score: float) -> None:
        """Act on a new score; in the main process, which alone has scores of evaluators."""
        raise NotImplementedError

    def is_due(self) -> bool:
        """Whether the iteration just done ends with an evaluation; the same in all processes."""
        return any((self.trainer.iter + 1) % period == 0 for period in self.periods)

    def after_step(self) -> None:
        if self.is_due() and self.trainer.iter + 1 < self.trainer.max_iter:
            self._look()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after a failure
            self._look()
            if self._seen < 0 and self.trainer.start_iter < self.trainer.max_iter:
                self._warn()

    def _look(self) -> None:
        score, iteration = self.trainer.storage.latest().get(self.scores.metric, (None, -1))
        if score is not None and iteration > self._seen:
            self._seen = iteration
            # The evaluation at the end counts for the last iteration: it is of the same model as
            # one after that iteration, in a training that was stopped there or goes on longer.
            self.on_score(min(iteration, self.trainer.max_iter - 1), score)

    def _warn(self) -> None:
        if comm.is_main_process():
            logging.getLogger(__name__).warning(
                'No evaluation gave a score named "%s" (MONITOR.METRIC); there are: %s.',
                self.scores.metric, ", ".join(sorted(self.trainer.storage.latest())),
            )  # fmt: skip
