"""One iteration of training: forward, backward, update, in any precision and number of parts."""

import contextlib
import time
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import ConfigError
from .speed.mixed_precision import autocast_dtype, keep_float32

__all__ = ["StepTrainer", "build_step_trainer"]


class StepTrainer(SimpleTrainer):
    """A :class:`SimpleTrainer` with autocast on a CPU or a GPU, and accumulated gradients.

    Args:
        model, data_loader, optimizer: see :class:`SimpleTrainer`.
        dtype: element type of the forward pass under autocast; None for float32.
        scaler: of the losses, for float16, whose range is small; bfloat16 needs none.
        parts: a batch goes through the model in so many parts, one after the other, with the memory
            of one. The gradient is the mean over images, as of the whole batch, where the loss is
            one: a norm that looks at its batch, or a loss that divides by labelled pixels or
            sampled boxes of the batch, sees a part at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        parts: int = 1,
    ):
        super().__init__(model, data_loader, optimizer)
        self.dtype = dtype
        self.scaler = scaler
        self.parts = parts
        self._device_type = next(model.parameters()).device.type

    def run_step(self) -> None:
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {}
        size = len(batch) // self.parts
        for begin in range(0, len(batch), size):
            is_last = begin + size >= len(batch)
            # gradients of processes are added up once, with the last part
            with contextlib.nullcontext() if is_last else self._unsynchronized():
                for name, loss in self._backward(batch[begin : begin + size]).items():
                    losses[name] = losses[name] + loss if name in losses else loss
        self.after_backward()
        self._write_metrics(losses, data_time)
        self._update()

    def _backward(self, part: list[dict]) -> dict[str, Tensor]:
        """Add the gradient of `part` to those there are; returns its share in each loss."""
        enabled = self.dtype is not None
        with torch.autocast(self._device_type, self.dtype if enabled else None, enabled=enabled):
            losses = self.model(part)
        if not isinstance(losses, Mapping):
            losses = {"total_loss": losses}
        if enabled:
            losses = {name: loss.float() for name, loss in losses.items()}
        if self.parts > 1:
            losses = {name: loss / self.parts for name, loss in losses.items()}
        total = sum(losses.values())
        (total if self.scaler is None else self.scaler.scale(total)).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
            return
        # before the step, so that gradients are clipped by what they are and not by their scale
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _unsynchronized(self) -> contextlib.AbstractContextManager:
        is_distributed = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync() if is_distributed else contextlib.nullcontext()

    def state_dict(self) -> dict:
        state = super().state_dict()
        return state if self.scaler is None else {**state, "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        # a checkpoint of a training in another precision has none
        if self.scaler is not None and state.get("grad_scaler"):
            self.scaler.load_state_dict(state["grad_scaler"])


def build_step_trainer(
    cfg: CfgNode, model: nn.Module, data_loader, optimizer: torch.optim.Optimizer
) -> StepTrainer:
    """The step that SOLVER.AMP and DEEPFUSE_D2.SOLVER.ACCUMULATE ask for and the machine can run.

    Raises: ConfigError: a key has a value that is not allowed.
    """
    parts, world_size = cfg.DEEPFUSE_D2.SOLVER.ACCUMULATE, comm.get_world_size()
    if parts < 1 or cfg.SOLVER.IMS_PER_BATCH % (parts * world_size):
        raise ConfigError(
            f"DEEPFUSE_D2.SOLVER.ACCUMULATE is {parts}; it must be 1 or more, and "
            f"SOLVER.IMS_PER_BATCH, which is {cfg.SOLVER.IMS_PER_BATCH}, a multiple of it times "
            f"the processes, {world_size}."
        )
    dtype = autocast_dtype(cfg)
    device_type = torch.device(cfg.MODEL.DEVICE).type
    if dtype is not None:
        keep_float32(model, device_type)
    scaler = torch.amp.GradScaler(device_type) if dtype is torch.float16 else None
    return StepTrainer(model, data_loader, optimizer, dtype=dtype, scaler=scaler, parts=parts)
