"""Where public weights come from: how to recognise them, what to rename, which images they expect.

A new source is one row of :data:`SOURCES` and, for its names, one file ``<architecture>_names.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import WeightsError
from .torchvision_names import is_torchvision_resnet, rename_torchvision_resnet

__all__ = ["IMAGENET_RGB", "SOURCES", "Source", "recognise", "source_by_name"]


@dataclass(frozen=True)
class Source:
    """One kind of public weights.

    Args:
        name: for messages, e.g. "torchvision ResNet"; also stored in converted files.
        recognises: whether names are those of this source. Gets the state dict, without wrappers
            and without a prefix common to all names (``module.``); it is enough to look at names.
        rename: the same tensors under the names of our (or detectron2's) bottom-up network,
            relative to it (``stem.conv1.weight``, ``res2.0.conv1.norm.weight``); tensors outside it
            under their full names in a model (``sem_seg_head.…``). Leaves out what no dense model
            uses: the classifier, ``num_batches_tracked``. What it does not know it keeps, so that
            the report shows it.
        pixel_mean: MODEL.PIXEL_MEAN these weights expect: 0..255, channels ordered as `format`.
        pixel_std: MODEL.PIXEL_STD, likewise.
        format: INPUT.FORMAT, "RGB" or "BGR".
        stride_in_1x1: MODEL.RESNETS.STRIDE_IN_1X1; None where it does not matter.
    """

    name: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    format: str
    stride_in_1x1: bool | None = None


# ImageNet's statistics, as torchvision, timm and most of PyTorch use them, on the scale of 0..255.
IMAGENET_RGB = {
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
    "format": "RGB",
}

# The first that recognises the names is taken, so the more special ones stand first.
SOURCES = (
    Source(
        name="torchvision ResNet",
        recognises=is_torchvision_resnet,
        rename=rename_torchvision_resnet,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
)


def recognise(state: Mapping[str, Tensor]) -> Source | None:
    """The source whose names `state` has; None for names of no known source."""
    return next((source for source in SOURCES if source.recognises(state)), None)


def source_by_name(name: str) -> Source:
    """The row of SOURCES of that name."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise WeightsError(
        f'Weights of the source "{name}" are not known; known are: '
        + ", ".join(source.name for source in SOURCES)
        + ". The file was written by another version of deepfuse_d2, or by hand."
    )
