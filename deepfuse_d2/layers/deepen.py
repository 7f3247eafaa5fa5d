"""The deep branch of the DeepFuse operation: units in a row."""

import torch
from torch import nn

from .units import UNITS

__all__ = ["Deepen"]


class Deepen(nn.Module):
    """Units in a row: ``h_1 = F_1(x)``, ``h_i = h_{i-1} + F_i(h_{i-1})``; returns ``h_depth``.

    The first unit has no shortcut here, because the fusion adds the result to its own skip: inside
    the whole ``skip + scale * deepen(m)`` every unit has exactly one.

    Args:
        channels: of the input and of the output.
        unit: a name in `UNITS`.
        depth: number of units; 0 gives the identity.
        norm: a name for detectron2's ``get_norm``; "" for none.
    """

    def __init__(self, channels: int, *, unit: str, depth: int, norm: str = ""):
        super().__init__()
        if unit not in UNITS:
            raise ValueError(f'The DeepFuse unit "{unit}" is unknown; choose one of {list(UNITS)}.')
        if depth < 0:
            raise ValueError(f"The DeepFuse depth is {depth}; it must be 0 or more units.")
        if depth == 0 and norm:
            raise ValueError(
                f'The DeepFuse norm "{norm}" (MODEL.DEEPFUSE.NORM) normalises inside the units, '
                'and a depth of 0 has none; set norm to "", or depth to 1 or more.'
            )
        self.units = nn.ModuleList(UNITS[unit](channels, norm) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        for i, unit in enumerate(self.units):
            x = unit(x) if i == 0 else x + unit(x)
        return x
