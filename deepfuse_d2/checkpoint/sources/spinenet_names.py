"""SpineNet's public PyTorch weights under our names.

The ports of lucifer443 and yan-roo for mmdetection (SpineNet-Pytorch) have the same names:
``merge_ops.3.resample_ops.0.squeeze_conv.bn.bias`` is ``block5.resamples.0.squeeze.norm.bias``
here, for their lists begin behind the two groups of the stem.
"""

import re
from collections.abc import Iterable

from torch import Tensor

__all__ = ["is_spinenet", "rename_spinenet"]

_COUNTER = "num_batches_tracked"
_STAGE = re.compile(
    r"(?:init_block(?P<stem>[12])|scale_permuted_blocks\.(?P<group>\d+)"
    r"|merge_ops\.(?P<merge>\d+)\.resample_ops)\.(?P<number>\d+)\.(?P<rest>.+)$"
)
# end of a module's name -> ours, before the name of the tensor
_LAYERS = (
    (re.compile(r"(?:^|(?<=\.))bn(\d)$"), r"conv\1.norm"),
    (re.compile(r"^downsample\.0$"), "shortcut"),
    (re.compile(r"^downsample\.1$"), "shortcut.norm"),
    (re.compile(r"_conv\.conv$"), ""),
    (re.compile(r"_conv\.bn$"), ".norm"),
)


def is_spinenet(state: Iterable[str]) -> bool:
    """Whether the names are those of a PyTorch port of SpineNet, without a prefix."""
    return {
        "init_block1.0.downsample.0.weight",
        "merge_ops.0.resample_ops.0.squeeze_conv.conv.weight",
        "endpoint_convs.3.conv.weight",
    } <= set(state)


def rename_spinenet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of :class:`~deepfuse_d2.modeling.backbone.SpineNet` for the same tensors."""
    return {_rename(name): value for name, value in state.items() if not name.endswith(_COUNTER)}


def _rename(name: str) -> str:
    module, _, tensor = name.rpartition(".")
    found = _STAGE.match(module)
    if found:
        layer = found["rest"]
        for pattern, ours in _LAYERS:
            layer = pattern.sub(ours, layer)
        number = found["number"]
        if found["stem"]:
            return f"block{int(found['stem']) - 1}.{number}.{layer}.{tensor}"
        kind, index = ("group", "group") if found["group"] else ("resamples", "merge")
        return f"block{int(found[index]) + 2}.{kind}.{number}.{layer}.{tensor}"
    if module in ("conv1.conv", "conv1.bn"):
        return f"stem.conv1{'.norm' if module.endswith('bn') else ''}.{tensor}"
    endpoint = re.match(r"endpoint_convs\.(\d)\.(conv|bn)$", module)
    if endpoint:
        return f"endpoints.p{endpoint[1]}{'.norm' if endpoint[2] == 'bn' else ''}.{tensor}"
    return name
