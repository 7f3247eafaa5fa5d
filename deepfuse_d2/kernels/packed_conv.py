"""Convolutions for inference: channels innermost, filters laid out once, ReLU and sum included.

detectron2's ``Conv2d`` sets up and removes a filter of warnings in every call, which is slow and,
because that filter is one for the whole process, not safe with threads. And on a CPU, oneDNN
rearranges the filters of a plain convolution in every call, and a ReLU or a sum is another passage
over the map. 3x3 convolutions in float32 go by Winograd's method on top of that.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .capabilities import can_pack
from .packed_filters import PackedFilters, gains_by_packing
from .winograd import WinogradConv2d

__all__ = ["InferenceConv2d", "replace_convolutions"]


class InferenceConv2d(nn.Module):
    """A convolution with constant filters and its ReLU; casts what it gets to its own dtype."""

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        dtype: torch.dtype,
        pack: bool,
        winograd: bool = False,
        side: int | None = None,
    ):
        """
        Args:
            conv: torch's or detectron2's, without a norm.
            dtype: to compute in.
            pack: lay the filters out for oneDNN, where that can `dtype`. They are then opaque to
                ``state_dict`` and ``copy.deepcopy``.
            winograd: compute by tiles, see :class:`WinogradConv2d`, where that `fits`, if `pack`.
            side: of the maps that it will get, in cells, if that is known.
        """
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.groups = conv.kernel_size, conv.groups
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.dtype = dtype
        activation = getattr(conv, "activation", None)
        self.relu = activation in (F.relu, F.relu_, torch.relu) or type(activation) is nn.ReLU
        self.activation = None if self.relu else activation

        weight = conv.weight.detach().to(dtype)
        bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.register_buffer("bias", bias)
        self.packed = self.winograd = None
        # the compiler and a GPU have ways of their own
        winograd = winograd and pack and weight.device.type == "cpu"
        pack = pack and can_pack(weight.device, dtype)
        if winograd and WinogradConv2d.fits(conv, dtype):
            m = None if side is None else WinogradConv2d.best_side(side, dtype)
            self.winograd = WinogradConv2d(weight, bias, m=m)
        elif pack and gains_by_packing(self.kernel_size, dtype):
            self.packed = PackedFilters(weight, *self._geometry)
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.register_buffer("filters", weight)

    @property
    def weight(self) -> Tensor:
        """(out_channels, in_channels / groups, h, w) filters, a copy where they are packed."""
        if self.winograd is not None:
            return self.winograd.weight
        return self.filters if self.packed is None else self.packed.to_dense()

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}, "
            f"relu={self.relu}, dtype={self.dtype}, packed={self.packed is not None}, "
            f"winograd={self.winograd is not None}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')"""
        x = self._prepare(x)
        if self.winograd is not None:
            x = self.winograd(x, relu=self.relu)
        elif self.packed is not None and x.numel():
            x = self.packed.convolve(x, self.bias, relu=self.relu)
        else:
            x = self._plain(x)
            if self.relu:
                x = x.relu_()
        return x if self.activation is None else self.activation(x)

    def add_relu(self, x: Tensor, other: Tensor, *, into: bool = False) -> Tensor:
        """ReLU of the sum of the convolution, without its own activation, and `other`.

        Args:
            into: the result may take the memory of `other`.
        """
        x, other = self._prepare(x), self._prepare(other)
        if self.winograd is not None:
            return self.winograd(x).add_(other).relu_()
        if self.packed is not None and x.numel():
            return self.packed.convolve_add_relu(x, other, self.bias, into=into)
        return self._plain(x).add_(other).relu_()

    def followed_by(self, x: Tensor, following: "InferenceConv2d") -> Tensor:
        """``following(self(x))`` of a 1x1 convolution that alone takes the result."""
        if self.winograd is None or self.activation is not None or following.relu:
            return following(self(x))
        weight = following.weight.flatten(1)
        return self.winograd(self._prepare(x), relu=self.relu, following=(weight, following.bias))

    @property
    def _geometry(self) -> tuple:
        return self.padding, self.stride, self.dilation, self.groups

    def _prepare(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _plain(self, x: Tensor) -> Tensor:
        padding, stride, dilation, groups = self._geometry
        return F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)


def replace_convolutions(
    model: nn.Module,
    *,
    dtype: torch.dtype,
    pack: bool,
    precise: frozenset[str] = frozenset(),
    map_sizes: Mapping[nn.Module, int] | None = None,
) -> int:
    """Put :class:`InferenceConv2d` in place of torch's and detectron2's, and return how many.

    A convolution with a norm that could not be folded, with padding other than zeros, or of a class
    of its own stays.

    Args:
        precise: names of modules that compute in float32.
        map_sizes: of the maps that convolutions will get, in cells, where they are known.
    """
    made: dict[nn.Module, InferenceConv2d] = {}
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if not _replaceable(conv):
                continue
            if conv not in made:
                own = torch.float32 if name in precise else dtype
                side = (map_sizes or {}).get(conv)
                made[conv] = InferenceConv2d(conv, dtype=own, pack=pack, winograd=True, side=side)
            setattr(parent, name, made[conv])
    _refresh_lists(model, made)
    return len(made)


def _replaceable(module: nn.Module) -> bool:
    if type(module) is Conv2d and module.norm is not None:
        return False
    return (
        type(module) in (Conv2d, nn.Conv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not hasattr(module, "parametrizations")
    )


def _refresh_lists(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """detectron2 keeps some modules in plain lists as well (FPN.lateral_convs, for one)."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, list) and any(_is_key(x, made) for x in value):
                setattr(module, name, [made[x] if _is_key(x, made) else x for x in value])


def _is_key(value: object, made: dict) -> bool:
    return isinstance(value, nn.Module) and value in made
