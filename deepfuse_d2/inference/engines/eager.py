"""torch as it is: what the other engines are compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .interface import Run

__all__ = ["EagerEngine"]


class EagerEngine:
    """Runs the part itself."""

    name = "eager"

    def why_not(self, device: torch.device) -> str:
        return ""

    def compile(
        self, part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], dtype: torch.dtype
    ) -> Run:
        if dtype is torch.float32:
            return part

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.autocast(example[0].device.type, dtype):
                return tuple(x.float() for x in part(*inputs))

        return run
