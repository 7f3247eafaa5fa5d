"""A moving average of the weights, beside the weights that are trained.

Polyak averaging with exponential decay, as in arXiv 1703.01780, equation 1. The average is often
better by itself, and always smoother, than the weights of the last iteration.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ...errors import ConfigError
from ...kernels.capabilities import copy_all_, interpolate_all_

__all__ = ["AverageWeights", "build_average"]


class AverageWeights(HookBase):
    """Averages weights and running statistics after every step, all tensors in a few operations.

    ``average = d * average + (1 - d) * weight`` with ``d = min(decay, (1 + n) / (10 + n))`` after
    n steps, so that the random weights of the start are soon forgotten. To stand before all hooks
    that write checkpoints or evaluate.

    Args:
        model: that is trained; DistributedDataParallel is looked through.
        decay: in [0, 1); about the last ``1 / (1 - decay)`` iterations count.
        file: the averaged model is written there at the end, as weights to load with
            MODEL.WEIGHTS; "" for none.

    Example:
        >>> with hook.averaged():
        ...     evaluate(model)
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, file: str = ""):
        if not 0 <= decay < 1:
            raise ConfigError(f"MODEL_EMA.DECAY is {decay}; it must be in [0, 1), such as 0.999.")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        self.model = model
        self.decay = decay
        self.file = file
        self.steps = 0
        # name -> average; empty until the training begins, with the weights it begins with
        self.average: dict[str, Tensor] = {}

    def before_train(self) -> None:
        if not self.average:
            self.average = {k: x.detach().clone() for k, x in _learned(self.model).items()}

    def after_step(self) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        now = _learned(self.model)
        with torch.no_grad():
            interpolate_all_(
                list(self.average.values()), [now[name] for name in self.average], 1 - decay
            )

    def after_train(self) -> None:
        if self.file and comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
            from ...checkpoint.writing import write_weights

            with self.averaged():
                write_weights(Path(self.file), self.model.state_dict(), "", {})
            logging.getLogger(__name__).info("The averaged weights are in %s", self.file)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again after."""
        now = _learned(self.model)
        tensors = [now[name] for name in self.average]
        own = [tensor.detach().clone() for tensor in tensors]
        try:
            with torch.no_grad():
                copy_all_(tensors, list(self.average.values()))
            yield
        finally:
            with torch.no_grad():
                copy_all_(tensors, own)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": {k: x.cpu() for k, x in self.average.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over an average; parameters that it lacks begin with their values of now."""
        self.steps = state["steps"]
        self.average = {k: x.detach().clone() for k, x in _learned(self.model).items()}
        missing = []
        for name, tensor in self.average.items():
            kept = state["average"].get(name)
            if kept is None or kept.shape != tensor.shape:
                missing.append(name)
            else:
                tensor.copy_(kept)
        if missing:
            logging.getLogger(__name__).warning(
                "The moving average of the checkpoint lacks %d tensors (%s, ...); theirs begins "
                "with the weights of now.", len(missing), missing[0],
            )  # fmt: skip


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """What changes in training: trained parameters, statistics of batch norms."""
    tensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, buffer in module.named_buffers(prefix, recurse=False):
                if buffer.is_floating_point():
                    tensors[name] = buffer
    return tensors


def build_average(cfg: CfgNode, model: nn.Module) -> AverageWeights | None:
    """What MODEL_EMA asks for; None where it is off."""
    if not cfg.MODEL_EMA.ENABLED:
        return None
    return AverageWeights(model, cfg.MODEL_EMA.DECAY, f"{cfg.OUTPUT_DIR}/model_ema.pth")
