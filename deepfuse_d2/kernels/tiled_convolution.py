"""3x3 convolutions in training by Winograd's method, in float32 on a CPU (arXiv 1509.09308).

On a CPU nearly all the time of a float32 training goes into convolutions that already run at the
speed of its multipliers; what is left is to multiply less. The forward pass and the gradient of the
input are such convolutions, see winograd.py; the gradient of the weights is left to
torch.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from .choice import is_chosen
from .folded_conv import FoldedConv2d
from .winograd import WinogradConv2d

__all__ = ["TiledConv2d", "TiledFoldedConv2d", "can_tile", "tiled_conv2d"]

# Positions of a batch of maps from which on the method is faster: the filters are transformed anew
# in each step.
_ENOUGH = 4096


def tiled_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)``, to the rounding of floats.

    Args:
        x: (N, C, H, W) in float32.
        weight: (K, C, 3, 3).
        bias: (K,)

    Returns:
        (N, K, H, W), channels innermost.
    """
    return _TiledConvolution.apply(x, weight, bias)


class _TiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad
        of_x = None
        if needs_x:
            of_x = _convolve(gradient, weight.flip(2, 3).transpose(0, 1), None)
        of_weight = of_bias = None
        if needs[0]:
            of_weight = conv2d_weight(x, weight.shape, gradient, padding=1)
        if needs[1]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolution = WinogradConv2d(weight, bias)
    result = torch.empty((len(x), len(weight), *x.shape[2:]), memory_format=torch.channels_last)
    # what is in work of a large image fits the caches, of several it does not
    size = max(1, _ENOUGH // x[0, 0].numel())
    for part, target in zip(x.split(size), result.split(size), strict=True):
        target.copy_(convolution(part))
    return result


class _Tiled:
    """Mixed into a convolution that :func:`can_tile`."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        is_recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if (
            is_recorded
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
            or x.numel() < _ENOUGH * x.shape[1]
        ):
            return super()._conv_forward(x, weight, bias)
        return tiled_conv2d(x, weight, bias)


class TiledFoldedConv2d(_Tiled, FoldedConv2d):
    """A convolution with a frozen norm, by tiles."""


class TiledConv2d(_Tiled, Conv2d):
    """detectron2's ``Conv2d``, by tiles."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        x = self._conv_forward(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def can_tile(module: nn.Conv2d) -> bool:
    """Whether it is a 3x3 convolution of a width that gains by the method on this machine."""
    return (
        WinogradConv2d.has_form(module)
        and module.weight.dtype is torch.float32
        and module.padding_mode == "zeros"
        and is_chosen("tiled training", _trial)
    )


def _trial() -> tuple[Callable[[], None], Callable[[], None]]:
    """A convolution as pyramids have them, with its gradients."""
    x = torch.rand(1, 256, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.rand(256, 256, 3, 3).requires_grad_()
    bias = torch.zeros(256).requires_grad_()

    def work(convolve: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        with torch.enable_grad():
            torch.autograd.grad(convolve(x, weight, bias).sum(), (x, weight, bias))

    return lambda: work(tiled_conv2d), lambda: work(functools.partial(F.conv2d, padding=1))
