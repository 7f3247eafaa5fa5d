"""A training of a given time: its schedule is fitted to the speed that is measured."""

import logging
import re
import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter

from ...errors import ConfigError
from ..resume.checkpoints import Checkpoints
from ..solver.schedule import build_lr_scheduler
from .early_stopping import TrainingStopped

__all__ = ["TimeBudget", "seconds_of"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# The schedule is fitted after these iterations, the first of which choose kernels, and from then on
# at these parts of the time.
_FIRST_FIT = 5
_FITS = (0.1, 0.25, 0.5, 0.75, 0.9)
# Share that the last steps count in the mean time of a step.
_SMOOTHING = 0.1


def seconds_of(text: str) -> float:
    """Seconds of "90s", "30m", "2h", "1d" or "1h30m"; 0 of "".

    Raises: ConfigError.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text):
        raise ConfigError(
            f'DEEPFUSE_D2.SOLVER.TIME_BUDGET = "{text}" is no time; give it as "90s", "30m", "2h" '
            'or "1h30m", or "" for SOLVER.MAX_ITER iterations.'
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class TimeBudget(HookBase):
    """Ends a training after `seconds`, with its learning rates where a whole schedule ends.

    Evaluations and checkpoints on the way count; the last evaluation comes behind. The time of a
    training that is resumed goes on. To stand before all hooks that look at ``max_iter``.

    Args:
        seconds: of the training, above 0.
        cfg: whose schedule is stretched to the iterations that fit; SOLVER.MAX_ITER is the most.
    """

    def __init__(self, seconds: float, cfg: CfgNode):
        self.seconds, self.cfg = seconds, cfg
        self._before = 0.0
        self._mean = self._start = self._last = 0.0
        self._done = 0
        self._to_fit = list(_FITS)
        self._is_over = False

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before = state["seconds"]

    def before_train(self) -> None:
        self._start = self._last = time.monotonic()

    def before_step(self) -> None:
        if self._is_over:
            raise TrainingStopped
        self._last = time.monotonic()

    def after_step(self) -> None:
        step = time.monotonic() - self._last
        self._done += 1
        share = 1 / self._done if self._done < 1 / _SMOOTHING else _SMOOTHING
        self._mean += share * (step - self._mean)
        elapsed = self._elapsed()
        spent = comm.all_gather(elapsed / self.seconds)[0] if comm.get_world_size() > 1 else (
            elapsed / self.seconds)  # fmt: skip
        if spent + self._mean / self.seconds >= 1 and self.trainer.iter + 1 < self.trainer.max_iter:
            self._end()
        elif self._done == _FIRST_FIT or (self._to_fit and spent >= self._to_fit[0]):
            self._to_fit = [part for part in self._to_fit if part > spent]
            left = max(self.seconds - elapsed, 0)
            per_step = elapsed / max(self._done, 1) if not self._before else self._mean
            self._fit(self.trainer.iter + 1 + max(int(left / max(per_step, 1e-6)), 1))

    def _elapsed(self) -> float:
        return self._before + (time.monotonic() - self._start if self._start else 0.0)

    def _fit(self, iterations: int) -> None:
        """Let the schedule end after so many iterations in all."""
        iterations = min(comm.all_gather(iterations)[0], self.cfg.SOLVER.MAX_ITER)
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SOLVER.MAX_ITER = iterations
        cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, max(iterations // 10, 1))
        # steps of a schedule are those of the whole; they move with its end
        share = iterations / self.cfg.SOLVER.MAX_ITER
        cfg.SOLVER.STEPS = tuple(int(step * share) for step in cfg.SOLVER.STEPS)
        parameter = torch.nn.Parameter(torch.zeros(1))
        other = build_lr_scheduler(cfg, torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR))
        scheduler = self.trainer.scheduler
        scheduler._multiplier, scheduler._max_iter = other._multiplier, iterations
        for hook in self.trainer._hooks:
            for writer in getattr(hook, "_writers", ()):
                if isinstance(writer, CommonMetricPrinter):
                    writer._max_iter = iterations  # of the time that it says is left
        if comm.is_main_process():
            logging.getLogger(__name__).info(
                "%.3g s a step: about %d iterations fit into the %.0f s of "
                "DEEPFUSE_D2.SOLVER.TIME_BUDGET.", self._mean, iterations, self.seconds,
            )  # fmt: skip

    def _end(self) -> None:
        trainer = self.trainer
        self._is_over = True
        trainer.max_iter = trainer.iter + 1
        if comm.is_main_process():
            logging.getLogger(__name__).info(
                "The time is up after %d iterations (DEEPFUSE_D2.SOLVER.TIME_BUDGET).",
                trainer.max_iter,
            )
        for hook in trainer._hooks:
            if isinstance(hook, Checkpoints):
                hook.write("model_final", must=True)
