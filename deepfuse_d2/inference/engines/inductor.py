"""torch.compile with frozen weights: filters are laid out, and operations fused, once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...kernels.capabilities import allow_recompilations, why_not_compile
from .eager import EagerEngine
from .interface import Run

__all__ = ["InductorEngine"]

# Sizes of 1 and 0 are compiled apart from all others.
_VARIANTS = 16


class InductorEngine:
    """Compiles when a part first runs, which takes some ten seconds, then for all sizes."""

    name = "inductor"

    def why_not(self, device: torch.device) -> str:
        reason = why_not_compile(device.type)
        return f"torch.compile does not work here: {reason}" if reason else ""

    def compile(
        self, part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], dtype: torch.dtype
    ) -> Run:
        allow_recompilations(_VARIANTS)
        run = EagerEngine().compile(part, example, dynamic, dtype)
        # frozen weights need their gradients to be switched off, as PartInEngine does
        return torch.compile(run, dynamic=True, options={"freezing": True})
