"""The first minutes of a training: what is frozen though random, how long it will take."""

import logging
import time

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import nn

from ..distributed.preemption import PreemptionHandler, can_give_up_steps
from ..resume.checkpoints import LATEST, Checkpoints

__all__ = ["FirstSteps", "frozen_though_random"]

logger = logging.getLogger(__name__)

# Steps after which the time of the whole is told.
_TOLD_AFTER = 6
# Seconds of a step from which on it is worth a word; the first one chooses kernels besides.
_LONG = 20.0
_LONG_FIRST = 60.0
# Seconds after which the first checkpoint is written, whatever SOLVER.CHECKPOINT_PERIOD is.
_FIRST_CHECKPOINT = 120.0


def frozen_though_random(cfg: CfgNode, model: nn.Module) -> str:
    """Why a training from random weights cannot learn some of them; "" if it can learn all."""
    timm = cfg.MODEL.TIMM
    if cfg.MODEL.WEIGHTS or (
        "timm" in cfg.MODEL.NECK.BOTTOM_UP + cfg.MODEL.BACKBONE.NAME
        and (timm.PRETRAINED or timm.CHECKPOINT)
    ):
        return ""
    norms = sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    parts, remedies = [], []
    if frozen:
        parts.append(f"{frozen:,} parameters")
        remedies.append("MODEL.BACKBONE.FREEZE_AT: 0")
    if norms:
        parts.append(f"the statistics of {norms} norms")
        remedies.append("norms that learn (MODEL.RESNETS.NORM: BN, or GN for small batches)")
    if not parts:
        return ""
    return (
        f"MODEL.WEIGHTS is empty, so the network starts from random numbers, and "
        f"{' and '.join(parts)} of them are frozen: they stay as they are. Give pretrained "
        f"weights, or {' and '.join(remedies)}."
    )


class FirstSteps(HookBase):
    """Says after the first step that it was done, after some more how long the rest will take, and
    lets the first checkpoint be written early. Of all processes, the main one speaks.

    Args:
        warning: said before the first step; "" for none.
    """

    def __init__(self, warning: str = ""):
        self.warning = warning

    def before_train(self) -> None:
        self._start = self._last = time.monotonic()
        self._done = 0
        self._steps: list[float] = []
        self._is_kept = self._said_long = False
        if self.warning and comm.is_main_process():
            logger.warning(self.warning)

    def after_step(self) -> None:
        now = time.monotonic()
        self._done += 1
        if self._done <= _TOLD_AFTER:
            self._steps.append(now - self._last)
            self._tell()
        self._last = now
        due = not self._is_kept and now - self._start > _FIRST_CHECKPOINT
        if due and comm.get_world_size() == 1 and self.trainer.iter + 1 < self.trainer.max_iter:
            self._is_kept = True
            for hook in self.trainer._hooks:
                if isinstance(hook, Checkpoints) and hook.written is None:
                    hook.write(LATEST)

    def _tell(self) -> None:
        if not comm.is_main_process():
            return
        if self._done == 1:
            losses = self.trainer.storage.latest().get("total_loss", (float("nan"), 0))
            logger.info("First iteration: %.1f s, loss %.4g.", self._steps[0], losses[0])
        if not self._said_long and self._steps[-1] > (_LONG if self._done > 1 else _LONG_FIRST):
            self._said_long = True
            logger.warning(
                "A step takes %.0f s. A signal to stop (SIGTERM) %s. Smaller images "
                "(INPUT.MIN_SIZE_TRAIN) or batches (SOLVER.IMS_PER_BATCH) make it shorter.",
                self._steps[-1],
                f"gives it up after {PreemptionHandler.patience:g} s and keeps those before"
                if can_give_up_steps() else "is obeyed at its end",
            )  # fmt: skip
        left = self.trainer.max_iter - self.trainer.iter - 1
        if self._done == _TOLD_AFTER and left > 0:
            # the first ones choose kernels and fill queues
            mean = sum(self._steps[2:]) / len(self._steps[2:])
            if not any(type(hook).__name__ == "TimeBudget" for hook in self.trainer._hooks):
                logger.info("%.2g s a step: about %s for the %d iterations left.",
                            mean, _told(mean * left), left)  # fmt: skip


def _told(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
