"""What a forward pass changes in a model although no step is taken: statistics of its norms."""

from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import Tensor, nn

from ...kernels.capabilities import copy_all_

__all__ = ["ForwardState"]

# detectron2's dense detectors keep a moving average there, outside of their state dict.
_AVERAGE = "loss_normalizer"


class ForwardState:
    """Running statistics of batch norms and moving averages of losses, kept and put back.

    Args:
        model: its norms that are trained at this moment are watched.
    """

    def __init__(self, model: nn.Module):
        norms = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        ]
        self._buffers: dict[str, Tensor] = {
            f"{prefix}.{name}": buffer
            for prefix, module in norms
            for name, buffer in module.named_buffers(recurse=False)
        }
        self._detectors = [x for x in model.modules() if isinstance(x, DenseDetector)]
        self._is_kept = False
        self._copies: list[Tensor] = []
        self._averages: list[float | None] = []

    def keep(self) -> None:
        """Remember the values of now, in place of earlier ones."""
        self._is_kept = True
        self._averages = [getattr(x, _AVERAGE, None) for x in self._detectors]
        buffers = list(self._buffers.values())
        if not self._copies:
            self._copies = [buffer.clone() for buffer in buffers]
        elif buffers:
            copy_all_(self._copies, buffers)

    def put_back(self) -> None:
        """Undo what forward passes changed since :meth:`keep`."""
        if not self._is_kept:
            return
        with torch.no_grad():
            for buffer, copy in zip(self._buffers.values(), self._copies, strict=True):
                buffer.copy_(copy)
        self._set_averages(self._averages)

    def state_dict(self, *, with_buffers: bool) -> dict[str, Any]:
        """Values of now.

        Args:
            with_buffers: off where the state dict of the model itself is at hand.
        """
        buffers = {name: x.detach().cpu().clone() for name, x in self._buffers.items()}
        averages = [getattr(x, _AVERAGE, None) for x in self._detectors]
        return {
            "buffers": buffers if with_buffers else {},
            "averages": [None if x is None else float(x) for x in averages],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in state["buffers"].items():
                if name in self._buffers:
                    self._buffers[name].copy_(value)
        self._set_averages(state["averages"])

    def _set_averages(self, averages: list[float | None]) -> None:
        for detector, average in zip(self._detectors, averages, strict=False):
            if average is not None:
                setattr(detector, _AVERAGE, average)
            elif hasattr(detector, _AVERAGE):
                delattr(detector, _AVERAGE)
