"""Watches over the steps of a training: names what went wrong with which batch, and keeps it."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from ...errors import ConfigError, TrainingError, UserError
from ...kernels.capabilities import largest_magnitudes
from ...randomness import get_random_state
from ..distributed.all_reduce import all_reduce_any
from ..resume.model_state import ForwardState
from .batch_files import describe_batch, write_batch
from .out_of_memory import explain_out_of_memory, is_out_of_memory

__all__ = ["AnomalyDetector", "first_not_finite"]

_ACTIONS = ("stop", "skip")


class _Skip(Exception):
    """Leaves a step before its backward pass."""


class AnomalyDetector:
    """Looks at the batch and the losses of every step.

    Losses that are not finite end the training, or the step alone, before anything is learned from
    them. Whatever error a step ends with is reported with the images of its batch, which is kept in
    ``OUTPUT_DIR/faults`` for deepfuse replay.

    Args:
        cfg: DEEPFUSE_D2.SOLVER.SAFETY says what to do; the rest is advice and goes with the kept
        batches.
        model: as the step calls it, with what wraps it.
        optimizer: of the training.
        forward_state: of the model; kept at the end of each step by who owns it.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward_state: ForwardState,
    ):
        safety = cfg.DEEPFUSE_D2.SOLVER.SAFETY
        if safety.NONFINITE not in _ACTIONS:
            raise ConfigError(
                f'DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE = "{safety.NONFINITE}" is unknown; choose '
                "one of "
                f"{list(_ACTIONS)}."
            )
        if safety.MAX_SKIPPED < 0 or safety.KEPT_BATCHES < 0:
            raise ConfigError(
                f"DEEPFUSE_D2.SOLVER.SAFETY.MAX_SKIPPED is {safety.MAX_SKIPPED} and KEPT_BATCHES "
                f"{safety.KEPT_BATCHES}; both must be 0 or more."
            )
        self.cfg = cfg
        self.model = model
        self.forward_state = forward_state
        self.skips = safety.NONFINITE == "skip"
        self.max_skipped = safety.MAX_SKIPPED
        self.kept_batches = safety.KEPT_BATCHES
        # whether weights are changing: an error then leaves them half way
        self.is_updating = False
        self._is_active = False
        self._is_in_forward = False
        self._iteration = 0
        self._skipped = 0
        self._batch: Any = None
        self._random: dict[str, Any] = {}
        self._logger = logging.getLogger(__name__)
        model.register_forward_pre_hook(self._before_forward)
        model.register_forward_hook(self._after_forward)
        optimizer.register_step_pre_hook(lambda *_: self._set_updating(True))
        optimizer.register_step_post_hook(lambda *_: self._set_updating(False))

    @contextlib.contextmanager
    def step(self, iteration: int) -> Iterator[None]:
        """Around one step.

        Raises: TrainingError: in place of an error that memory is full.
        """
        self._iteration, self._batch, self._is_active = iteration, None, True
        try:
            with self._diverged_within():
                yield
            self._skipped = 0
        except _Skip:
            pass
        except UserError:
            raise
        except Exception as error:
            if self._batch is None:
                raise  # of the loader, which names the image itself
            is_memory = is_out_of_memory(error)
            kept = self._keep("out_of_memory" if is_memory else "error", {}, str(error))
            if is_memory:
                reason = explain_out_of_memory(error, self.cfg, self._batch, comm.get_world_size())
                raise TrainingError(f"Iteration {iteration}: {reason}\n{kept}") from error
            self._logger.error(
                "The step of iteration %d failed on this batch:\n%s\n%s",
                iteration, describe_batch(self._batch), kept,
            )  # fmt: skip
            raise
        finally:
            self._is_active = False
            self._batch = None

    @contextlib.contextmanager
    def _diverged_within(self) -> Iterator[None]:
        """An R-CNN whose features are not finite says so itself, before it has losses."""
        try:
            yield
        except FloatingPointError as error:
            if not self._is_in_forward:
                raise
            # as detectron2's: "Predicted boxes or scores contain Inf/NaN. Training has diverged."
            self._judge(f"no loss is computed ({error})", {})

    def _set_updating(self, value: bool) -> None:
        self.is_updating = value

    def _before_forward(self, module: nn.Module, args: tuple) -> None:
        if self._is_active:
            self._is_in_forward = True
            self._batch = args[0] if args else None
            self._random = get_random_state()

    def _after_forward(self, module: nn.Module, args: tuple, output: Any) -> None:
        if not self._is_active:
            return
        self._is_in_forward = False
        losses = output if isinstance(output, Mapping) else {"total_loss": output}
        losses = {k: v for k, v in losses.items() if isinstance(v, Tensor)}
        if _all_finite(losses):
            self._judge(None, {})
            return
        values = {name: float(loss.detach().float().sum()) for name, loss in losses.items()}
        bad = [name for name, loss in losses.items() if not _all_finite({name: loss})]
        listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        verb = "is" if len(bad) == 1 else "are"
        self._judge(f"{' and '.join(bad)} {verb} not finite ({listed})", values)

    def _judge(self, wrong: str | None, losses: dict[str, float]) -> None:
        """Raise what ends the training, or the step alone, if there is something to end it for.

        Args:
            wrong: what; None if nothing, in this process.
            losses: by name, to be kept with the batch.
        """
        is_bad = wrong is not None
        if is_bad:
            # what is reported, kept and gone on with is the model as it was before
            self.forward_state.put_back()
        if not self.skips:
            if is_bad:
                raise TrainingError(f"{self._report(wrong, losses)}\n{self._stop_advice()}")
            return
        if not all_reduce_any(is_bad):  # a step that one process leaves, all leave
            return
        # also where it went well: else the processes' models would differ from here on
        self.forward_state.put_back()
        report = self._report(wrong, losses) if is_bad else "Another process has bad losses."
        self._skipped += 1
        if self._skipped > self.max_skipped or first_not_finite(self.model) is not None:
            raise TrainingError(
                f"{report}\nIt is iteration number {self._skipped} in a row; "
                f"DEEPFUSE_D2.SOLVER.SAFETY.MAX_SKIPPED allows {self.max_skipped}. "
                f"{self._stop_advice()}"
            )
        if is_bad:
            self._logger.error("%s\nThe iteration is skipped.", report)
        raise _Skip

    def _report(self, wrong: str, losses: dict[str, float]) -> str:
        """Say what is wrong with which images of which iteration; keeps the batch."""
        broken = first_not_finite(self.model)
        lines = [f"Iteration {self._iteration}: {wrong} on", describe_batch(self._batch)]
        if broken is not None:
            lines.append(f"The weights were broken before: {broken} is not finite.")
        lines.append(self._keep("nonfinite", losses, wrong))
        return "\n".join(lines)

    def _stop_advice(self) -> str:
        return (
            "What helps, as a rule: a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, "
            "SOLVER.CLIP_GRADIENTS.ENABLED True, DEEPFUSE_D2.SOLVER.AMP.DTYPE bfloat16 in place of "
            "float16; "
            'or, where it is the image, DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE "skip".'
        )

    def _keep(self, kind: str, losses: dict[str, float], reason: str) -> str:
        """Write the batch for replay; returns what to say of it."""
        if self.kept_batches <= 0:
            return "The batch is not kept (DEEPFUSE_D2.SOLVER.SAFETY.KEPT_BATCHES)."
        name = f"{kind}_{self._iteration:07d}_rank{comm.get_rank()}.pth"
        path = Path(self.cfg.OUTPUT_DIR, "faults", name)
        model = self.model
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        try:
            write_batch(
                path,
                self._batch,
                iteration=self._iteration,
                reason=reason,
                losses=losses,
                random=self._random,
                model=model.state_dict(),
                config=self.cfg.dump(),
            )
        except (OSError, RuntimeError, MemoryError) as error:
            return f"The batch could not be kept in {path}: {error}"
        self.kept_batches -= 1
        return f"To look at it again: deepfuse replay {path}"


def first_not_finite(model: nn.Module) -> str | None:
    """Name of the first weight or statistic of `model` that is not finite; None if all are."""
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    if _all_finite(state):
        return None
    return next(name for name, value in state.items() if not _all_finite({name: value}))


def _all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all values are finite; waits once for the device, however many there are."""
    values = [x.detach() for x in tensors.values() if x.numel()]
    if not values:
        return True
    largest = largest_magnitudes(values)
    return bool(torch.stack([value.float() for value in largest]).isfinite().all())
