"""Counting what modules do, operator by operator, as torch dispatches it.

Counted are convolutions, linear layers and matrix products (attention among them), a multiply-add
as one. Norms, activation functions, pooling, resizing, RoI pooling, box decoding, NMS, and the
pasting of masks are not. Shapes alone decide, so that modules on the device "meta" are counted
without computing anything.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["count"]

# Operators without a product of matrices, beside those that torch marks as elementwise or as views.
# Any other is reported as unsupported.
_NOT_COUNTED = frozenset({
    "aten::_adaptive_avg_pool2d", "aten::_log_softmax", "aten::_softmax", "aten::_to_copy",
    "aten::_unsafe_view", "aten::adaptive_max_pool2d", "aten::amax", "aten::amin", "aten::arange",
    "aten::argmax", "aten::as_strided_", "aten::avg_pool2d", "aten::cat", "aten::clone",
    "aten::col2im", "aten::constant_pad_nd", "aten::copy_", "aten::cumsum", "aten::elu",
    "aten::empty", "aten::empty_like", "aten::fill_", "aten::floor_divide", "aten::full",
    "aten::gather", "aten::gelu", "aten::grid_sampler_2d", "aten::hardswish", "aten::hardswish_",
    "aten::im2col", "aten::index", "aten::index_select", "aten::leaky_relu", "aten::leaky_relu_",
    "aten::linalg_vector_norm", "aten::linspace", "aten::max", "aten::max_pool2d_with_indices",
    "aten::mean", "aten::min", "aten::native_batch_norm", "aten::native_dropout",
    "aten::native_group_norm", "aten::native_layer_norm", "aten::new_empty", "aten::new_zeros",
    "aten::norm", "aten::ones", "aten::ones_like", "aten::pixel_shuffle", "aten::pixel_unshuffle",
    "aten::prod", "aten::reflection_pad2d", "aten::repeat", "aten::replication_pad2d",
    "aten::resize_", "aten::roll", "aten::scalar_tensor", "aten::scatter", "aten::sort",
    "aten::stack", "aten::std", "aten::sum", "aten::topk", "aten::transpose_", "aten::unsafe_split",
    "aten::upsample_bicubic2d", "aten::upsample_bilinear2d", "aten::upsample_nearest2d",
    "aten::var", "aten::var_mean", "aten::zero_", "aten::zeros", "aten::zeros_like",
})  # fmt: skip


def count(
    modules: Sequence[nn.Module], call: Callable[..., object], inputs: Sequence[Tensor]
) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Run ``call(*inputs)`` once and count what `modules` and all inside them do.

    Returns:
        "multiply_adds" and "activations" by the path of a module: "" for the whole, "0.conv" for
        the child "conv" of the first of `modules`, where it is called as a module; and the number
        of operators that were not known.
    """
    counter = _Counter()
    with torch.no_grad(), counter.following(nn.ModuleList(modules)), _Attention(counter), counter:
        call(*inputs)
    return counter.counts, counter.unsupported


class _Counter(TorchDispatchMode):
    """Sees each operator below autograd, where composed ones are resolved into their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.unsupported: Counter[str] = Counter()
        self._inside = [""]
        self._paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if not self._paused:
            self._take(func, args, output)
        return output

    def _take(self, func: Any, args: tuple, output: Any) -> None:
        name = func._schema.name
        multiply_adds = _PRODUCTS.get(name)
        if multiply_adds is not None:
            self.add(multiply_adds(*args, output=output), output)
        elif not (name in _NOT_COUNTED or torch.Tag.pointwise in func.tags or func.is_view):
            self.unsupported[name] += 1

    def add(self, multiply_adds: int, output: Tensor) -> None:
        """Count for every module that is at work."""
        for path in dict.fromkeys(self._inside):
            self.counts[path].update(multiply_adds=multiply_adds, activations=output.numel())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @contextlib.contextmanager
    def following(self, parts: nn.ModuleList) -> Iterator[None]:
        """Know which modules inside `parts` are at work."""
        hooks = []
        for path, module in parts.named_modules():
            if path:
                enter = functools.partial(self._enter, path)
                hooks += [
                    module.register_forward_pre_hook(enter),
                    module.register_forward_hook(self._leave, always_call=True),
                ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, path: str, module: nn.Module, args: tuple) -> None:
        self._inside.append(path)

    def _leave(self, module: nn.Module, args: tuple, output: object) -> None:
        self._inside.pop()


class _Attention(TorchFunctionMode):
    """Counts attention as one operator, whichever its device resolves it into."""

    def __init__(self, counter: _Counter):
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        with self._counter.paused():
            output = func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False), **kwargs)
        query, key, value = (named[name].shape for name in ("query", "key", "value"))
        # query times key, and weights times value: (..., L, E), (..., S, E), (..., S, F)
        self._counter.add(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]), output)
        return output


def _convolution(x: Tensor, weight: Tensor, *others: Any, output: Tensor) -> int:
    """Of (N, C, ...) by (K, C / groups, ...); if transposed, by (C, K / groups, ...)."""
    transposed = others[4]
    each = x if transposed else output
    return each.numel() * math.prod(weight.shape[1:])


def _product(a: Tensor, b: Tensor, *, output: Tensor) -> int:
    """(..., N, C) by (..., C, K), or by a vector (C)."""
    return output.numel() * a.shape[-1]


def _sum_with_product(bias: Tensor, a: Tensor, b: Tensor, *, output: Tensor) -> int:
    return _product(a, b, output=output)


_PRODUCTS: dict[str, Callable[..., int]] = {
    "aten::addmm": _sum_with_product,
    "aten::baddbmm": _sum_with_product,
    "aten::bmm": _product,
    "aten::convolution": _convolution,
    "aten::dot": _product,
    "aten::mm": _product,
    "aten::mv": _product,
}
