"""When checkpoints are written, which of them stay, and what happens if the disk is full."""

import logging
import re
import shutil
from pathlib import Path

from detectron2.checkpoint import Checkpointer
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.utils import comm

from ...errors import ConfigError, TrainingError
from ..anomaly.detection import first_not_finite
from ..distributed.preemption import PreemptionHandler

__all__ = ["LATEST", "Checkpoints", "Resume", "resumable_hooks"]

# Checkpoints out of turn, one in place of the other.
LATEST = "model_latest"

_LEFTOVER = re.compile(r"(.+\.(pth|safetensors)|last_checkpoint)\.[0-9a-f]{32}\.tmp")


class Checkpoints(HookBase):
    """Writes ``model_<iteration>`` every `period` iterations, ``model_final`` at the end, and
    ``model_latest`` before an evaluation.

    To stand before the evaluation: whatever happens in it, the training goes on from here. All
    processes have this hook, the main one writes.

    Args:
        checkpointer: of the training.
        period: iterations, 1 or more.
        before_evaluation: period of the evaluation if it shall have a checkpoint before it; 0 for
            none.
        kept: of the periodic checkpoints so many stay; 0 keeps all.
        max_failures: as often in a row may a checkpoint not be written, for want of room as a
            rule, before the training stops; 0 or more.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int,
        *,
        before_evaluation: int = 0,
        kept: int = 0,
        max_failures: int = 3,
    ):
        if period < 1:
            raise ConfigError(f"SOLVER.CHECKPOINT_PERIOD is {period}; it must be 1 or more.")
        if kept < 0 or max_failures < 0:
            raise ConfigError(
                f"DEEPFUSE_D2.SOLVER.SAFETY.KEPT_CHECKPOINTS is {kept} and MAX_FAILED_WRITES "
                f"{max_failures}; both must be 0 or more."
            )
        self.checkpointer = checkpointer
        self.period = period
        self.before_evaluation = before_evaluation
        self.kept = kept
        self.max_failures = max_failures
        self.written: int | None = None  # iteration of the last one
        self.preemption: PreemptionHandler | None = None  # is told when all is written
        self._failures = 0

    def before_train(self) -> None:
        if comm.is_main_process() and self.checkpointer.save_dir:
            _sweep(Path(self.checkpointer.save_dir))

    def after_step(self) -> None:
        iteration = self.trainer.iter
        done = iteration + 1
        if done % self.period == 0:
            self.write(f"model_{iteration:07d}")
            self._drop_old()
        if done == self.trainer.max_iter:
            self.write("model_final", must=True)
        elif self._evaluation_follows(done) and self.written != iteration:
            self.write(LATEST)
        if self.preemption is not None:
            self.preemption.nothing_to_write(
                self.written == iteration and done < self.trainer.max_iter
            )

    def _evaluation_follows(self, done: int) -> bool:
        return self.before_evaluation > 0 and done % self.before_evaluation == 0

    def write(self, name: str, *, must: bool = False) -> None:
        """Write ``<name>.pth`` of all processes; all call it together.

        Args:
            must: whether a failure is final.

        Raises: TrainingError: it could not be written, too often or for the last time; or the
            weights are not worth it.
        """
        if comm.is_main_process():
            self._check_weights()
        self.trainer.gather_process_states()
        try:
            if comm.is_main_process():
                self.checkpointer.save(name, iteration=self.trainer.iter)
            self.written = self.trainer.iter
            self._failures = 0
        except (OSError, RuntimeError) as error:
            cause = _os_error(error)
            if cause is None:
                raise
            self._failures += 1
            message = self._describe(cause)
            if must or self._failures > self.max_failures:
                raise TrainingError(
                    f"{message} Make room and give the same command with --resume; the training "
                    "then goes on from there as if nothing had happened."
                ) from error
            logging.getLogger(__name__).error(
                "%s The training goes on and writes again at the next checkpoint (failure %d of %d "
                "that DEEPFUSE_D2.SOLVER.SAFETY.MAX_FAILED_WRITES allows). Make room.",
                message, self._failures, self.max_failures,
            )  # fmt: skip
        finally:
            self.trainer.forget_process_states()

    def _check_weights(self) -> None:
        broken = first_not_finite(self.checkpointer.model)
        if broken is not None:
            raise TrainingError(
                f"After iteration {self.trainer.iter} {broken} is not finite. Such weights are not "
                f"written; {self._last_good()}. Resume from it with a lower SOLVER.BASE_LR or with "
                "SOLVER.CLIP_GRADIENTS.ENABLED True."
            )

    def _last_good(self) -> str:
        if not self.checkpointer.has_checkpoint():
            return "there is no checkpoint yet"
        return f"the last good one is {Path(self.checkpointer.get_checkpoint_file()).name}"

    def _describe(self, error: OSError) -> str:
        folder = Path(self.checkpointer.save_dir)
        return (
            f"The checkpoint of iteration {self.trainer.iter} could not be written to {folder} "
            f"({error.strerror or error}; {shutil.disk_usage(folder).free / 2**20:.0f} MiB are "
            f"free); {self._last_good()}."
        )

    def _drop_old(self) -> None:
        if not self.kept or not comm.is_main_process() or self.written != self.trainer.iter:
            return
        numbered = Path(self.checkpointer.save_dir).glob("model_[0-9]*.pth")
        past = sorted(p for p in numbered if re.fullmatch(r"model_\d{7,}", p.stem))
        past = [p for p in past if int(p.stem[6:]) <= self.trainer.iter]
        for path in past[: -self.kept]:
            path.unlink(missing_ok=True)


class Resume(HookBase):
    """Takes up what a checkpoint holds before the first step, and stops when a signal asks for it.

    To stand behind all other hooks.

    Args:
        checkpoints: writes the checkpoint of a training that stops.
        exit_code: it then leaves with, 1..255.
    """

    def __init__(self, checkpoints: Checkpoints, exit_code: int):
        if not 1 <= exit_code <= 255:
            raise ConfigError(
                f"DEEPFUSE_D2.SOLVER.SAFETY.EXIT_CODE is {exit_code}; it must be in 1..255."
            )
        self.checkpoints = checkpoints
        self.preemption = checkpoints.preemption = PreemptionHandler(
            exit_code, lambda: self.trainer.keep_last_step()
        )

    def before_train(self) -> None:
        self.preemption.look_in(self.checkpoints.checkpointer.model.parameters())
        # ahead of the guard's: a step that is given up here has not begun its update
        self.trainer.optimizer.register_step_pre_hook(lambda *_: self.preemption.finish())
        self.trainer.guard  # noqa: B018  (from here on it watches; its keys are checked)
        self.preemption.listen()
        self.trainer.continue_from_checkpoint()
        if self.trainer.start_iter >= self.trainer.max_iter:
            # No step is left; what follows is counted as behind the last one, as it was before.
            self.trainer.iter = self.trainer.start_iter - 1
            self.preemption.nothing_to_write(True)

    def before_step(self) -> None:
        if self.preemption.for_all():
            # the state is that after the step before, and nothing of this one has happened
            self.trainer.iter = self.trainer.storage.iter = self.trainer.iter - 1
            self._write_and_leave()
        self.trainer.remember()

    def after_step(self) -> None:
        # the last one is in model_final, and an evaluation follows
        self.preemption.nothing_to_write(self.trainer.iter + 1 >= self.trainer.max_iter)

    def after_train(self) -> None:
        self.preemption.stop_listening()

    def _write_and_leave(self) -> None:
        iteration = self.trainer.iter
        if iteration >= 0 and iteration != self.checkpoints.written:
            self.checkpoints.write(LATEST, must=True)
        comm.synchronize()  # who is gone first would have the others killed by the launcher
        self.preemption.leave()


def resumable_hooks(
    cfg: CfgNode, hooks: list[HookBase | None], checkpointer: Checkpointer
) -> list[HookBase]:
    """`hooks` with :class:`Checkpoints` in place of detectron2's, and :class:`Resume` last."""
    safety = cfg.DEEPFUSE_D2.SOLVER.SAFETY
    # on all processes alike: detectron2's own is on the main one alone
    rest = [hook for hook in hooks if hook and not isinstance(hook, PeriodicCheckpointer)]
    evaluations = [i for i, hook in enumerate(rest) if isinstance(hook, EvalHook)]
    place = evaluations[0] if evaluations else len(rest)
    checkpoints = Checkpoints(
        checkpointer,
        cfg.SOLVER.CHECKPOINT_PERIOD,
        before_evaluation=cfg.TEST.EVAL_PERIOD if safety.CHECKPOINT_BEFORE_EVALUATION else 0,
        kept=safety.KEPT_CHECKPOINTS,
        max_failures=safety.MAX_FAILED_WRITES,
    )
    resume = Resume(checkpoints, safety.EXIT_CODE)
    return [*rest[:place], checkpoints, *rest[place:], resume]


def _os_error(error: BaseException | None) -> OSError | None:
    """The error of the system behind one that torch makes of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left."""
    for path in folder.glob("*.tmp"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
