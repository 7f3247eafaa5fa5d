"""Counting a traced module by fvcore.

Counted are convolutions, linear layers and matrix products (attention among them), a multiply-add
as one (what fvcore, which does the counting, calls a flop). Norms, activation functions, pooling,
resizing, RoI pooling, box decoding, NMS, and the pasting of masks are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["count"]

# Operators without a matrix product. Any other that has no handle is reported as unsupported.
_NOT_COUNTED = (
    "aten::abs", "aten::add", "aten::add_", "aten::adaptive_avg_pool2d",
    "aten::adaptive_max_pool2d", "aten::alias", "aten::avg_pool2d", "aten::batch_norm",
    "aten::bitwise_and", "aten::ceil", "aten::clamp_min", "aten::clone", "aten::concat",
    "aten::constant_pad_nd", "aten::cumsum", "aten::div", "aten::div_", "aten::elu",
    "aten::exp", "aten::expand_as", "aten::feature_dropout", "aten::gelu", "aten::grid_sampler",
    "aten::group_norm", "aten::hardsigmoid", "aten::hardsigmoid_", "aten::hardswish",
    "aten::hardswish_", "aten::hardtanh", "aten::hardtanh_", "aten::im2col",
    "aten::instance_norm", "aten::layer_norm", "aten::leaky_relu", "aten::leaky_relu_",
    "aten::lift_fresh", "aten::linalg_vector_norm", "aten::log", "aten::max_pool2d",
    "aten::mean", "aten::meshgrid", "aten::mul", "aten::mul_", "aten::neg", "aten::norm",
    "aten::ones_like", "aten::pad", "aten::pixel_shuffle", "aten::pow", "aten::reciprocal",
    "aten::reflection_pad2d", "aten::relu6", "aten::relu6_", "aten::repeat",
    "aten::repeat_interleave", "aten::rsqrt", "aten::rsub", "aten::sigmoid", "aten::sigmoid_",
    "aten::silu", "aten::silu_", "aten::softmax", "aten::softplus", "aten::sqrt", "aten::sub",
    "aten::sub_", "aten::sum", "aten::tanh", "aten::unflatten", "aten::upsample_bicubic2d",
    "aten::upsample_bilinear2d", "aten::upsample_nearest2d", "aten::var", "aten::view_as",
    "aten::where"
)  # fmt: skip


def count(
    modules: Sequence[nn.Module], call: Callable[..., object], inputs: Sequence[Tensor]
) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Run ``call(*inputs)`` once, traced, and count what `modules` and all inside them do.

    Returns:
        "multiply_adds" and "activations" by the path of a module: "" for the whole, "0.conv" for
        the child "conv" of the first of `modules`, where `call` calls it; and the number of
        operators that were not known.
    """
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(_Traceable(modules, call), tuple(inputs))
    # None does not take back a handle that fvcore has by default
    analysis.clear_op_handles().set_op_handle(**_handles())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none").ancestor_mode("caller")
    counts = analysis.by_module_and_operator()
    return (
        {path.removeprefix("parts."): counter for path, counter in counts.items()},
        analysis.unsupported_ops(),
    )


class _Traceable(nn.Module):
    """Modules and how they are called, as one module from tensors to tensors, to be traced."""

    def __init__(self, modules: Sequence[nn.Module], call: Callable[..., object]):
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self._call = call

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return list(_tensors_in(self._call(*inputs)))


def _handles() -> dict[str, Callable | None]:
    """fvcore's table of operators, with both counts for each of what is counted here."""
    from fvcore.nn import jit_handles

    counted = {
        "aten::_convolution": _convolution,
        "aten::addmm": jit_handles.addmm_flop_jit,
        "aten::bmm": jit_handles.bmm_flop_jit,
        "aten::einsum": jit_handles.einsum_flop_jit,
        "aten::linear": jit_handles.linear_flop_jit,
        "aten::matmul": jit_handles.matmul_flop_jit,
        "aten::mm": jit_handles.matmul_flop_jit,
        "aten::scaled_dot_product_attention": _attention,
    }

    def both(multiply_adds: Callable[..., Any]) -> Callable[..., Counter[str]]:
        def handle(inputs: list, outputs: list) -> Counter[str]:
            return Counter(
                multiply_adds=multiply_adds(inputs, outputs),
                activations=math.prod(jit_handles.get_shape(outputs[0])),
            )

        return handle

    handles: dict[str, Callable | None] = dict.fromkeys(_NOT_COUNTED)
    return handles | {name: both(count) for name, count in counted.items()}


def _convolution(inputs: list, outputs: list) -> int:
    from fvcore.nn.jit_handles import conv_flop_jit

    return sum(conv_flop_jit(inputs, outputs).values())


def _attention(inputs: list, outputs: list) -> int:
    """Query times key, and weights times value: (..., L, E), (..., S, E), (..., S, F)."""
    from fvcore.nn.jit_handles import get_shape

    query, key, value = (get_shape(x) for x in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)
