"""torchvision's ResNet and ResNeXt weights under detectron2's names.

``layer1.0.bn2.weight`` is ``res2.0.conv2.norm.weight`` there, ``layer1.0.downsample.0`` is
``res2.0.shortcut``, and ``conv1``/``bn1`` are the stem.
"""

import re

from torch import Tensor

__all__ = ["PREPROCESSING", "is_torchvision_resnet", "rename_torchvision_resnet"]

# What an image must look like for these weights, as config keys: RGB, ImageNet's statistics on
# the scale of 0..255.
PREPROCESSING = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}

_UNUSED = re.compile(r"^fc\.|num_batches_tracked$")


def is_torchvision_resnet(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's ResNet family."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= set(
        state
    )


def rename_torchvision_resnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of detectron2's ResNet for the same tensors; without the classifier."""
    return {_rename(name): value for name, value in state.items() if not _UNUSED.search(name)}


def _rename(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
