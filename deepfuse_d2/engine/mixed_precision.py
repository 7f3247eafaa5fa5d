"""Training steps in a lower precision on what the machine has."""

import logging
import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer

from ..errors import ConfigError

__all__ = ["AutocastTrainer", "build_step_trainer", "cpu_has_bfloat16"]

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class AutocastTrainer(SimpleTrainer):
    """A :class:`SimpleTrainer` with the forward pass under bfloat16 autocast, on a CPU or a GPU.

    bfloat16 has the range of float32, so no gradient scaler is needed.
    """

    def __init__(self, model, data_loader, optimizer, *, device_type: str):
        super().__init__(model, data_loader, optimizer)
        self._device_type = device_type

    def run_step(self) -> None:
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with torch.autocast(self._device_type, torch.bfloat16):
            loss_dict = self.model(data)
        loss_dict = {name: loss.float() for name, loss in loss_dict.items()}
        self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()


def build_step_trainer(cfg: CfgNode, model, data_loader, optimizer) -> SimpleTrainer:
    """The trainer of one step that SOLVER.AMP asks for and the machine can run."""
    if not cfg.SOLVER.AMP.ENABLED:
        return SimpleTrainer(model, data_loader, optimizer)
    if cfg.SOLVER.AMP.DTYPE not in _DTYPES:
        raise ConfigError(
            f'SOLVER.AMP.DTYPE = "{cfg.SOLVER.AMP.DTYPE}" is unknown; choose one of '
            f"{list(_DTYPES)}."
        )
    dtype = _DTYPES[cfg.SOLVER.AMP.DTYPE]
    device_type = torch.device(cfg.MODEL.DEVICE).type
    if device_type == "cpu" and (dtype is not torch.bfloat16 or not cpu_has_bfloat16()):
        logging.getLogger(__name__).warning(
            "SOLVER.AMP is on, but %s is slower than float32 on this CPU; training in float32.",
            cfg.SOLVER.AMP.DTYPE,
        )
        return SimpleTrainer(model, data_loader, optimizer)
    if dtype is torch.bfloat16:
        return AutocastTrainer(model, data_loader, optimizer, device_type=device_type)
    return AMPTrainer(model, data_loader, optimizer, precision=dtype)


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; elsewhere torch emulates it, slowly."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
