"""Filters of a convolution in the layouts that oneDNN prefers, made as maps come.

oneDNN takes filters in one of many layouts. Which of them is the fastest depends on the instruction
set and on the size of the maps, and with another one it rearranges the filters in every call, which
may take twenty times as long as the convolution itself.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .capabilities import (
    isa,
    layout_of,
    pack_filters,
    packed_convolution,
    packed_convolution_add_relu,
)

__all__ = ["PackedFilters", "gains_by_packing"]

# Layouts that are kept.
_KEPT = 3

_Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


@functools.cache
def gains_by_packing(kernel_size: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether to pack filters of a size, of a type for which :func:`.capabilities.has_packed`.

    With AVX2, oneDNN wants another layout of 3x3 filters for nearly every size of maps, and maps
    are of as many sizes as images; with AVX-512 one serves all.
    """
    if kernel_size == (1, 1):
        return True
    geometry = (1, 1), (1, 1), (1, 1), 1
    layouts = {_layout((512, 512, 3, 3), dtype, geometry, (1, 512, *size))
               for size in ((16, 32), (50, 68))}  # fmt: skip
    return len(layouts) == 1 if all(layouts) else isa() != "avx2"


@functools.cache
def _layout(
    weight: tuple[int, ...], dtype: torch.dtype, geometry: _Geometry, shape: tuple[int, ...]
) -> bytes:
    """The layout that oneDNN prefers: nothing tells it but filters that were laid out."""
    return layout_of(pack_filters(torch.empty(weight, dtype=dtype), *geometry, shape))


class PackedFilters:
    """Constant filters of one convolution; neither saved nor copied nor moved with a module."""

    def __init__(
        self,
        weight: Tensor,
        padding: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ):
        """
        Args:
            weight: (K, C / groups, h, w), of a type for which :func:`.capabilities.has_packed`.
        """
        self.shape, self.dtype = tuple(weight.shape), weight.dtype
        self.geometry: _Geometry = tuple(padding), tuple(stride), tuple(dilation), groups
        # dense until the first maps come
        self._dense: Tensor | None = weight
        self._layouts: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        """Layouts that are kept."""
        return len(self._layouts)

    def to_dense(self) -> Tensor:
        """(K, C / groups, h, w), a copy where they are packed."""
        filters = self._any()
        return filters.to_dense() if filters.is_mkldnn else filters

    def convolve(self, x: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
        """:func:`.capabilities.packed_convolution` of x (N, C, H, W), channels innermost."""
        filters = self._laid_out_for(x)
        return packed_convolution(x, filters, bias, *self.geometry, relu=relu)

    def convolve_add_relu(
        self, x: Tensor, other: Tensor, bias: Tensor | None, *, into: bool = False
    ) -> Tensor:
        """:func:`.capabilities.packed_convolution_add_relu`."""
        filters = self._laid_out_for(x)
        return packed_convolution_add_relu(x, other, filters, bias, *self.geometry, into=into)

    def _laid_out_for(self, x: Tensor) -> Tensor:
        layout = self._preferred(x.shape)
        filters = self._layouts.get(layout)
        if filters is None:
            filters = pack_filters(self._any(), *self.geometry, x.shape)
            # a new dict, so that another thread never sees one that is being changed
            others = list(self._layouts.items())[1 - _KEPT :]
            self._layouts = {**dict(others), layout: filters}
            self._dense = None
        return filters

    def _any(self) -> Tensor:
        dense = self._dense
        return next(iter(self._layouts.values())) if dense is None else dense

    def _preferred(self, shape: torch.Size) -> bytes:
        """What tells the layout for maps of `shape` from others; b"" for that of any maps."""
        if self.shape[2:] != (1, 1):
            return b""
        if self.geometry[3] == 1:
            # to ask for every size of images would take longer than to be a little slower
            return (shape[2] * shape[3]).bit_length().to_bytes(1, "big")
        layout = _layout(self.shape, self.dtype, self.geometry, tuple(shape))
        return layout or str(shape[2:].numel()).encode()
