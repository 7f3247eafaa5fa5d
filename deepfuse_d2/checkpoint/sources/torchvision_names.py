"""torchvision's and timm's ResNet and ResNeXt weights under the names of detectron2 and ours.

``layer1.0.bn2.weight`` is ``res2.0.conv2.norm.weight`` there, ``layer1.0.downsample.0`` is
``res2.0.shortcut``, and ``conv1``/``bn1`` are the stem. timm's names are torchvision's; its
ResNet-D (deep stem, pooled shortcuts) is our Res2Net of scale 1.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from .res2net_names import rename_res2net

__all__ = [
    "is_detectron2_torchvision_resnet",
    "is_resnet_in_sequence",
    "is_timm_resnet_d",
    "is_torchvision_resnet",
    "rename_detectron2_torchvision_resnet",
    "rename_resnet_in_sequence",
    "rename_timm_resnet_d",
    "rename_torchvision_resnet",
]

# Children of torchvision's ResNet that have tensors, by their places.
_CHILDREN = {
    "0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc",
}  # fmt: skip
_UNUSED = re.compile(r"^(stem\.)?fc\.|num_batches_tracked$")


def is_torchvision_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's ResNet family, or timm's."""
    return {
        "conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight",
        "layer4.0.conv1.weight",
    } <= state.keys()  # fmt: skip


def rename_torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of detectron2's ResNet for the same tensors; without the classifier."""
    return {_rename(name): value for name, value in state.items() if not _UNUSED.search(name)}


def is_resnet_in_sequence(state: Mapping[str, Tensor]) -> bool:
    """Whether it is torchvision's ResNet as ``nn.Sequential(*resnet.children())``, or a part."""
    return {
        "0.weight", "1.running_mean", "4.0.conv1.weight", "4.0.conv2.weight", "7.0.conv1.weight",
    } <= state.keys()  # fmt: skip


def rename_resnet_in_sequence(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of detectron2's ResNet for the same tensors; without the classifier."""

    def rename(name: str) -> str:
        number, _, rest = name.partition(".")
        return f"{_CHILDREN.get(number, number)}.{rest}"

    return rename_torchvision_resnet({rename(name): value for name, value in state.items()})


def is_detectron2_torchvision_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether it is torchvision's ResNet as detectron2's tool converts it, with the classifier."""
    return {"stem.conv1.weight", "stem.fc.weight", "res2.0.conv1.weight"} <= state.keys()


def rename_detectron2_torchvision_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names, without the classifier."""
    return {name: value for name, value in state.items() if not _UNUSED.search(name)}


def is_timm_resnet_d(state: Mapping[str, Tensor]) -> bool:
    """Whether it is timm's ResNet-D of bottlenecks. Those without a pool in the shortcut, whose
    convolution then stands first, are another network."""
    return {
        "conv1.6.weight", "layer1.0.conv2.weight", "layer1.0.conv3.weight",
        "layer1.0.downsample.1.weight", "layer1.0.downsample.2.weight",
    } <= state.keys()  # fmt: skip


def rename_timm_resnet_d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of our Res2Net of scale 1, version v1b, for the same tensors; no classifier."""

    def rename(name: str) -> str:
        name = re.sub(r"^(layer.*)\.conv2\.", r"\1.convs.0.", name)
        return re.sub(r"^(layer.*)\.bn2\.", r"\1.bns.0.", name)

    return rename_res2net({rename(name): value for name, value in state.items()})


def _rename(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
