"""What only watches changes nothing: evaluation, validation loss, pictures, averages.

Whatever looks at a model in the middle of its training does so within :func:`watching`. The next
step is then, to the last bit, the one that would have been without it.
"""

import numbers
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..randomness import untouched_random_state

__all__ = ["ModelState", "watching"]


@contextmanager
def watching(model: nn.Module) -> Iterator[nn.Module]:
    """Within it, `model` may be run in any mode; after it, all is as before, also after an error.

    That is: the states of the random number generators, and of every module its mode, its buffers
    (statistics of norms) and its plain numbers (the moving averages that detectron2's dense
    detectors divide their losses by). Parameters are not looked after: whoever exchanges them puts
    them back.

    Args:
        model: DistributedDataParallel is looked through, whose forward pass would wait for the
            other processes.

    Yields:
        the model without that wrapper.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    state = ModelState(model)
    with untouched_random_state():
        try:
            yield model
        finally:
            state.put_back()


class ModelState:
    """All of a model but its parameters, as it was when this was made."""

    def __init__(self, model: nn.Module):
        self._modules = list(model.modules())
        self._numbers = [_numbers(module) for module in self._modules]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def put_back(self) -> None:
        """Make the model what it was; may be called again."""
        for module, kept in zip(self._modules, self._numbers, strict=True):
            for name in _numbers(module).keys() - kept.keys():
                delattr(module, name)
            vars(module).update(kept)
        with torch.no_grad():
            for buffer, copy in self._buffers:
                buffer.copy_(copy)


def _numbers(module: nn.Module) -> dict[str, numbers.Number]:
    """Attributes that are numbers, `training` among them."""
    return {name: x for name, x in vars(module).items() if isinstance(x, numbers.Number)}
