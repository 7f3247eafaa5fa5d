"""What an engine is."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Engine", "Run"]

#: A part of a model at work: tensors in, tensors out, on the device and of the type of the model.
Run = Callable[..., tuple[Tensor, ...]]


class Engine(Protocol):
    """A runtime for parts of models.

    Attributes:
        name: of the engine, a key of :data:`.build.ENGINES`.
    """

    name: str

    def why_not(self, device: torch.device) -> str:
        """What is missing to run models of `device` in it, and how to get it; "" for nothing."""
        ...

    def compile(
        self, part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], dtype: torch.dtype
    ) -> Run:
        """A part made ready.

        Args:
            part: in evaluation; takes tensors (N, C, H, W), or (N, C), and gives a tuple of them.
            example: inputs of real sizes.
            dynamic: dimensions of all inputs that differ from call to call.
            dtype: of convolutions and linear layers where the engine can choose; inputs and outputs
                are float32.

        Raises:
            Exception: of any kind, where the engine cannot take the part.
        """
        ...
