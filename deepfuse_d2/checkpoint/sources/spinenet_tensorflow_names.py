"""SpineNet of the authors' TensorFlow checkpoints (tensorflow/tpu) under our names.

Their layers have numbers alone: the third convolution of a scope is ``conv2d_2``, whatever it is
for, and norms are counted beside. So the layers of a scope are named one after the other, in the
order in which the authors' code makes them. Kernels change from (H, W, in, out) to (out, in, H, W).

A checkpoint that also holds moving averages of its variables gives these: they are what the authors
evaluate.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from ...errors import WeightsError

__all__ = ["is_spinenet_tensorflow", "rename_spinenet_tensorflow"]

_AVERAGE = "/ExponentialMovingAverage"
_ROOT = re.compile(r"^(spinenet|spinenet_mbconv|spinenetv2)/")
_LAYER = re.compile(
    r"^(?P<scope>.*?)(?P<kind>depthwise_conv2d|conv2d|batch_normalization)(?:_(?P<number>\d+))?"
    r"/(?P<tensor>kernel|depthwise_kernel|bias|gamma|beta|moving_mean|moving_variance)$"
)
_RESAMPLE = re.compile(r"sub_policy(\d+)/resample_with_\w+?_resample_\d+_(\d)/$")
_BLOCK = re.compile(r"sub_policy\d+/scale_permuted_block_(\d+)/$")
_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_OUTPUTS = ("p3", "p4", "p5", "p6", "p7")

# kind of layer -> number -> name of the tensor -> tensor
_Scope = dict[str, dict[int, dict[str, Tensor]]]


def is_spinenet_tensorflow(state: Iterable[str]) -> bool:
    """Whether the names are those of variables of the authors' SpineNet."""
    names = set(state)
    return any(
        {f"{root}/conv2d/kernel", f"{root}/batch_normalization/gamma"} <= names
        for root in ("spinenet", "spinenet_mbconv", "spinenetv2")
    )


def rename_spinenet_tensorflow(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of :class:`~deepfuse_d2.modeling.backbone.SpineNet` for the same tensors.

    What is no part of the network (heads, counters, the state of the optimizer) is left out.
    """
    root = next(match[1] for name in state if (match := _ROOT.match(name)))
    scopes: dict[str, _Scope] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for name in state:
        found = _LAYER.match(name.removeprefix(f"{root}/"))
        if found and name.startswith(f"{root}/"):
            number = int(found["number"] or 0)
            tensor = state.get(name + _AVERAGE, state[name])
            scopes[found["scope"]][found["kind"]][number][found["tensor"]] = tensor
    renamed: dict[str, Tensor] = {}
    for scope, layers in scopes.items():
        for layer, ours in _layers(root, scope, layers):
            renamed |= {f"{layer}.{name}": tensor for name, tensor in ours.items()}
    return renamed


def _layers(root: str, scope: str, layers: _Scope) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Our names of the layers of a scope, with their tensors."""
    resample, block = _RESAMPLE.search(scope), _BLOCK.search(scope)
    take = _Taker(layers)
    if resample:
        prefix = f"block{int(resample[1]) + 2}.resamples.{resample[2]}"
        yield from _resample_layers(root, prefix, layers, take)
    elif block:
        # bottlenecks begin with a 1x1 convolution, residual blocks with a 3x3
        in_block = 3 if layers["conv2d"][0]["kernel"].shape[0] == 1 else 2
        convs = len(layers["conv2d"])
        yield from _group_layers(f"block{block[1]}.group", layers, take, convs, in_block)
    elif not scope:
        yield from _root_layers(root, layers, take)


class _Taker:
    """Takes the convolutions and norms of a scope in the order they were made in."""

    def __init__(self, layers: _Scope):
        self._rows = {kind: iter(sorted(numbers.items())) for kind, numbers in layers.items()}

    def conv(self, kind: str = "conv2d") -> dict[str, Tensor]:
        """A convolution, and its norm unless it has a bias."""
        tensors = self._next(kind)
        if "depthwise_kernel" in tensors:
            return {"weight": tensors["depthwise_kernel"].permute(2, 3, 0, 1)} | self._norm_of()
        kernel = {"weight": tensors["kernel"].permute(3, 2, 0, 1)}
        return kernel | ({"bias": tensors["bias"]} if "bias" in tensors else self._norm_of())

    def norm(self) -> dict[str, Tensor]:
        tensors = self._next("batch_normalization")
        return {_NORM[name]: tensor for name, tensor in tensors.items()}

    def _next(self, kind: str) -> dict[str, Tensor]:
        for _, tensors in self._rows.get(kind, ()):
            return tensors
        raise WeightsError(
            f"The checkpoint has the names of the authors' SpineNet, but not all its layers: a "
            f"{kind} is missing. Give the checkpoint as it was published."
        )

    def _norm_of(self) -> dict[str, Tensor]:
        return {f"norm.{name}": tensor for name, tensor in self.norm().items()}


def _resample_layers(
    root: str, prefix: str, layers: _Scope, take: _Taker
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    depthwise = len(layers["depthwise_conv2d"])
    if root == "spinenet":
        yield f"{prefix}.squeeze", take.conv()
        if len(layers["conv2d"]) == 3:
            yield f"{prefix}.downsample", take.conv()
        yield f"{prefix}.expand", take.conv()
    elif root == "spinenet_mbconv":
        for step in range(depthwise):
            yield f"{prefix}.downsamples.{step}", take.conv("depthwise_conv2d")
        yield f"{prefix}.expand", take.conv()
    else:
        # one norm more than convolutions: that of the channels after space to depth
        goes_down = len(layers["batch_normalization"]) > 1
        if goes_down:
            yield f"{prefix}.norm", _in_torchs_order(take.norm(), dim=0)
        if depthwise:
            yield f"{prefix}.downsample", _in_torchs_order(take.conv("depthwise_conv2d"), dim=0)
        expand = take.conv()
        if goes_down:
            expand |= _in_torchs_order({"weight": expand["weight"]}, dim=1)
        yield f"{prefix}.expand", expand


def _in_torchs_order(tensors: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Channels after space to depth: k * C + c of TensorFlow is c * 4 + k of torch."""
    return {
        name: tensor.unflatten(dim, (4, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)
        for name, tensor in tensors.items()
    }


def _group_layers(
    prefix: str, layers: _Scope, take: _Taker, convs: int, in_block: int, *, projected: bool = False
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Of a group of blocks, which has `convs` convolutions that are not depthwise.

    Args:
        in_block: convolutions of a block that is no MBConv.
        projected: the first block has a convolution in its shortcut.
    """
    if layers["depthwise_conv2d"]:
        for repeat in range(convs // 4):
            block = f"{prefix}.{repeat}"
            yield f"{block}.conv1", take.conv()
            yield f"{block}.conv2", take.conv("depthwise_conv2d")
            yield f"{block}.squeeze_excitation.reduce", take.conv()
            yield f"{block}.squeeze_excitation.expand", take.conv()
            yield f"{block}.conv3", take.conv()
        return
    if projected:
        yield f"{prefix}.0.shortcut", take.conv()
    for repeat in range((convs - projected) // in_block):
        for number in range(1, in_block + 1):
            yield f"{prefix}.{repeat}.conv{number}", take.conv()


def _root_layers(
    root: str, layers: _Scope, take: _Taker
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The stem, its groups, and at last the outputs."""
    yield "stem.conv1", take.conv()
    in_groups = len(layers["conv2d"]) - 1 - len(_OUTPUTS)
    if root == "spinenet":
        # the first group has a shortcut's convolution more
        each = (in_groups - 1) // 2
        yield from _group_layers("block0", layers, take, each + 1, 3, projected=True)
        yield from _group_layers("block1", layers, take, each, 3)
    elif root == "spinenet_mbconv":
        for prefix in ("block0", "block1"):
            yield from _group_layers(prefix, layers, take, in_groups // 2, 4)
    else:
        yield from _scaled_stem(layers, take)
    for name in _OUTPUTS:
        yield f"endpoints.{name}", take.conv()


def _scaled_stem(layers: _Scope, take: _Taker) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Three groups of m0 to d4, whose repeats their widths tell: the second is wider than both."""
    kernels = [numbers["kernel"] for _, numbers in sorted(layers["conv2d"].items())]
    blocks = len(layers["depthwise_conv2d"])
    # behind the first convolution, four of each block, the projection last
    widths = [kernels[4 * (i + 1)].shape[3] for i in range(blocks)]
    second = next(i for i in range(1, blocks) if widths[i] > widths[0])
    third = next(i for i in range(second + 1, blocks) if widths[i] < widths[second])
    prefixes, starts = ("stem.groups.0", "block0", "block1"), (0, second, third, blocks)
    for prefix, start, end in zip(prefixes, starts, starts[1:], strict=False):
        yield from _group_layers(prefix, layers, take, 4 * (end - start), 4)
