"""What this machine and this torch can do, and every private operator of torch behind a trial.

CPUs, builds and versions of torch differ, and no single query tells all: that of torch follows
``ATEN_CPU_CAPABILITY`` and knows nothing of oneDNN, that of the processor follows nothing, and
oneDNN's is half hidden. So the answers here are the least that all sources agree on, and an
operator that torch does not document is called once on a tiny tensor before it is relied upon;
where it fails, the caller takes the documented way. Nothing else of the package uses private
operators of torch.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "KINDS",
    "allow_recompilations",
    "can_pack",
    "copy_all_",
    "has_bfloat16",
    "has_packed",
    "interpolate_all_",
    "isa",
    "kernels_in_python",
    "largest_magnitudes",
    "layout_of",
    "pack_filters",
    "packed_convolution",
    "packed_convolution_add_relu",
    "why_not_compile",
]

#: Instruction sets that choices differ by, each with all before it.
KINDS = ("default", "avx2", "avx512", "avx512_bf16", "amx")


@functools.cache
def isa() -> str:
    """The best of :data:`KINDS` that processor, torch and oneDNN may all use."""
    return min(_of_torch(), _of_onednn(), _of_processor(), key=KINDS.index)


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; elsewhere torch emulates it, slowly."""
    return torch.backends.mkldnn.is_available() and isa() in ("avx512_bf16", "amx")


def _of_torch() -> str:
    name = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": KINDS[-1], "AVX2": "avx2"}.get(name, "default")


def _of_onednn() -> str:
    """What its environment variable leaves it, and what it says of itself."""
    asked = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    if asked.startswith("AVX512") and "AMX" not in asked:
        # VNNI multiplies integers
        most = "avx512_bf16" if asked.endswith(("BF16", "FP16")) else "avx512"
    elif asked.startswith(("SSE", "AVX", "AVX2")) and not asked.startswith(("AVX10", "AVX512")):
        most = "avx2" if asked.startswith("AVX2") else "default"
    else:
        most = KINDS[-1]  # nothing is asked for, or what is as good as nothing
    if not _query(lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        most = min(most, "avx2", key=KINDS.index)
    return most


def _of_processor() -> str:
    if _query(lambda: torch.cpu._is_amx_tile_supported()):
        return "amx"
    return "avx512_bf16" if _query(lambda: torch.cpu._is_avx512_bf16_supported()) else "avx512"


def _query(ask: Callable[[], bool]) -> bool:
    try:
        return bool(ask())
    except (AttributeError, RuntimeError):  # another version or build of torch
        return False


def _trial(operation: Callable) -> Callable[..., bool]:
    """Decorator: whether `operation`, which uses private operators, runs and is right."""

    @functools.cache
    def works(*args) -> bool:
        try:
            return bool(operation(*args))
        except Exception as error:  # of many kinds, which differ with machine and torch
            logging.getLogger(__name__).debug("%s%s: %s", operation.__name__, args, error)
            return False

    return works


# ---- convolutions of oneDNN with filters laid out once


def has_packed(dtype: torch.dtype) -> bool:
    """Whether :func:`packed_convolution` and what belongs to it run in `dtype` on this CPU."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and _packs(dtype)


def can_pack(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """The same for tensors on `device`: GPUs have no such filters."""
    return device.type == "cpu" and has_packed(dtype)


@_trial
def _packs(dtype: torch.dtype) -> bool:
    x = torch.ones(1, 16, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last)
    how = ((0, 0), (1, 1), (1, 1), 1)
    with torch.no_grad():
        filters = pack_filters(torch.ones(16, 16, 1, 1, dtype=dtype), *how, x.shape)
        found = packed_convolution(x, filters, None, *how, relu=True)
        sums = [
            packed_convolution_add_relu(x, other, filters, None, *how, into=into)
            for other, into in ((x, False), (x.clone(), True))
        ]
    return bool((found == 16).all()) and all(bool((each == 17).all()) for each in sums)


def pack_filters(
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """Filters in the layout that oneDNN prefers, which ``to_dense`` turns back.

    Args:
        weight: (K, C / groups, h, w), dense or packed.
        shape: (N, C, H, W) of the maps to come, if known.
    """
    weight = weight if weight.is_mkldnn else weight.to_mkldnn()
    return torch._C._nn.mkldnn_reorder_conv2d_weight(
        weight, padding, stride, dilation, groups, shape
    )


def layout_of(filters: Tensor) -> bytes:
    """What tells the layout of packed filters from another one; b"" where torch does not say it."""
    try:
        return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(filters).tolist())
    except (AttributeError, RuntimeError):  # another version of torch
        return b""


def packed_convolution(
    x: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    relu: bool = False,
) -> Tensor:
    """``F.conv2d`` of x (N, C, H, W), channels innermost, and packed filters; with ReLU or not."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, filters, bias, padding, stride, dilation, groups, "relu" if relu else "none", [], ""
    )


def packed_convolution_add_relu(
    x: Tensor,
    other: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    into: bool = False,
) -> Tensor:
    """ReLU of the sum of the convolution and `other`, which the result replaces if `into`."""
    how = (bias, padding, stride, dilation, groups, "add", 1.0, "relu", [], "")
    if into:
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, filters, *how)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, other, filters, *how)


# ---- many tensors in one call


def interpolate_all_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Each tensor becomes, in place, ``tensor + weight * (end - tensor)``."""
    if _has_lists():
        torch._foreach_lerp_(tensors, ends, weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)


def copy_all_(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Each tensor gets the values of the other one."""
    if _has_lists():
        torch._foreach_copy_(tensors, others)
        return
    for tensor, other in zip(tensors, others, strict=True):
        tensor.copy_(other)


def largest_magnitudes(tensors: list[Tensor]) -> list[Tensor]:
    """The largest absolute value of each tensor; NaN where it holds one."""
    if _has_lists():
        return list(torch._foreach_norm(tensors, float("inf")))
    return [torch.linalg.vector_norm(tensor, float("inf")) for tensor in tensors]


@_trial
def _has_lists() -> bool:
    one, two = [torch.zeros(2)], [torch.ones(2)]
    torch._foreach_lerp_(one, two, 0.5)
    norm = torch._foreach_norm(one, float("inf"))[0]
    torch._foreach_copy_(one, two)
    return bool(norm == 0.5) and bool((one[0] == 1).all())


# ---- torch.compile


def allow_recompilations(count: int) -> None:
    """Let a place in the code be compiled up to `count` times, for each size as a symbol.

    The limit is only raised; sizes that happen to be equal at first become different symbols.
    """
    import torch._dynamo
    import torch.fx.experimental._config

    for name in ("recompile_limit", "cache_size_limit"):  # the older name up to torch 2.5
        if hasattr(torch._dynamo.config, name):
            limit = getattr(torch._dynamo.config, name)
            setattr(torch._dynamo.config, name, max(limit, count))
            break
    if hasattr(torch.fx.experimental._config, "use_duck_shape"):
        torch.fx.experimental._config.use_duck_shape = False


def kernels_in_python() -> contextlib.AbstractContextManager:
    """While torch.onnx reads a program of open sizes: torch's kernels in python take part.

    Before torch 2.7 it goes through the program once without them, and those in C++ refuse a size
    that is open (pytorch/pytorch#144801).
    """
    if torch.__version__ < (2, 7):
        from torch._dispatch.python import enable_python_dispatcher

        return enable_python_dispatcher()
    return contextlib.nullcontext()


def why_not_compile(device_type: str) -> str:
    """What this machine lacks for torch.compile; "" if nothing."""
    try:
        if not torch._dynamo.is_dynamo_supported():
            return "torch.compile does not know this python"
        if device_type == "cpu":
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
        else:
            import triton  # noqa: F401
    except Exception as error:  # of many kinds, which differ with the version of torch
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""
