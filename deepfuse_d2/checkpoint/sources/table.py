"""Where public weights come from: how to recognise them, what to rename, which images they expect.

A new source is one row of :data:`SOURCES` and, for its names, one file ``<architecture>_names.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .caffe2_names import (
    is_caffe2_resnet,
    is_caffe2_resnet_groupnorm,
    is_caffe2_resnext,
    is_caffe2_resnext_32x8d,
    rename_caffe2,
)
from .cbnet_names import (
    is_cbnet,
    is_cbnet_v2,
    is_cbnet_v2_swin,
    rename_cbnet,
    rename_cbnet_v2,
    rename_cbnet_v2_swin,
)
from .fishnet_names import is_fishnet, rename_fishnet
from .lw_refinenet_names import (
    is_lw_refinenet,
    is_lw_refinenet_mobilenet,
    rename_lw_refinenet,
    rename_lw_refinenet_mobilenet,
)
from .res2net_names import is_dla, is_res2net, rename_dla, rename_res2net
from .spinenet_names import is_spinenet, rename_spinenet
from .spinenet_tensorflow_names import is_spinenet_tensorflow, rename_spinenet_tensorflow
from .swin_names import is_swin, rename_swin
from .torchvision_names import (
    is_detectron2_torchvision_resnet,
    is_resnet_in_sequence,
    is_timm_resnet_d,
    is_torchvision_resnet,
    rename_detectron2_torchvision_resnet,
    rename_resnet_in_sequence,
    rename_timm_resnet_d,
    rename_torchvision_resnet,
)

__all__ = ["CAFFE2_BGR", "IMAGENET_RGB", "SOURCES", "Source", "recognise"]


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
        pixel_std: MODEL.PIXEL_STD, likewise; None where it is not known.
        format: INPUT.FORMAT, "RGB" or "BGR".
        stride_in_1x1: MODEL.RESNETS.STRIDE_IN_1X1; None where it does not matter.
        settings: further config keys that they fix; a network says by `settings_of_weights` what
            it was built with.
    """

    name: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float] | None
    format: str
    stride_in_1x1: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


# ImageNet's statistics, as torchvision, timm and most of PyTorch use them, on the scale of 0..255.
IMAGENET_RGB = {
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
    "format": "RGB",
}
# ... and as Caffe2 does; deviations differ.
CAFFE2_BGR = {"pixel_mean": (103.53, 116.28, 123.675), "format": "BGR"}
NO_STD = (1.0, 1.0, 1.0)

# The first that recognises the names is taken, so the more special ones stand first.
SOURCES = (
    Source(
        name="CBNet",
        recognises=is_cbnet,
        rename=rename_cbnet,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="CBNetV2",
        recognises=is_cbnet_v2,
        rename=rename_cbnet_v2,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="CBNetV2 of Swin",
        recognises=is_cbnet_v2_swin,
        rename=rename_cbnet_v2_swin,
        settings={"MODEL.COMPOSITE.CONNECT_TO": "blocks"},
        **IMAGENET_RGB,
    ),
    Source(name="Swin Transformer", recognises=is_swin, rename=rename_swin, **IMAGENET_RGB),
    Source(
        name="RefineNet, light-weight or not",
        recognises=is_lw_refinenet,
        rename=rename_lw_refinenet,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="Light-Weight RefineNet on MobileNet-v2",
        recognises=is_lw_refinenet_mobilenet,
        rename=rename_lw_refinenet_mobilenet,
        **IMAGENET_RGB,
    ),
    Source(
        name="Res2Net",
        recognises=is_res2net,
        rename=rename_res2net,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="DLA",
        recognises=is_dla,
        rename=rename_dla,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(name="FishNet", recognises=is_fishnet, rename=rename_fishnet, **IMAGENET_RGB),
    Source(
        name="SpineNet of a PyTorch port",
        recognises=is_spinenet,
        rename=rename_spinenet,
        settings={
            "MODEL.SPINENET.ENDPOINT_ACTIVATION": False,
            "MODEL.SPINENET.SAME_POOLING": False,
        },
        **IMAGENET_RGB,
    ),
    Source(
        name="SpineNet of the authors' TensorFlow code",
        recognises=is_spinenet_tensorflow,
        rename=rename_spinenet_tensorflow,
        settings={
            "MODEL.SPINENET.ENDPOINT_ACTIVATION": True,
            "MODEL.SPINENET.SAME_POOLING": True,
        },
        **IMAGENET_RGB,
    ),
    Source(
        name="timm ResNet-D",
        recognises=is_timm_resnet_d,
        rename=rename_timm_resnet_d,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="torchvision or timm ResNet",
        recognises=is_torchvision_resnet,
        rename=rename_torchvision_resnet,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="torchvision ResNet as a sequence of its children",
        recognises=is_resnet_in_sequence,
        rename=rename_resnet_in_sequence,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    Source(
        name="torchvision ResNet of detectron2's model zoo",
        recognises=is_detectron2_torchvision_resnet,
        rename=rename_detectron2_torchvision_resnet,
        stride_in_1x1=False,
        **IMAGENET_RGB,
    ),
    # Deviations and strides of the Caffe2 weights are those of detectron2's configs for them.
    Source(
        name="Caffe2 ResNet with GroupNorm",
        recognises=is_caffe2_resnet_groupnorm,
        rename=rename_caffe2,
        pixel_std=NO_STD,
        stride_in_1x1=False,
        **CAFFE2_BGR,
    ),
    Source(
        name="Caffe2 ResNeXt-101 32x8d",
        recognises=is_caffe2_resnext_32x8d,
        rename=rename_caffe2,
        pixel_std=(57.375, 57.12, 58.395),
        stride_in_1x1=False,
        **CAFFE2_BGR,
    ),
    Source(
        name="Caffe2 ResNeXt",
        recognises=is_caffe2_resnext,
        rename=rename_caffe2,
        pixel_std=None,
        **CAFFE2_BGR,
    ),
    Source(
        name="Caffe2 ResNet",
        recognises=is_caffe2_resnet,
        rename=rename_caffe2,
        pixel_std=NO_STD,
        stride_in_1x1=True,
        **CAFFE2_BGR,
    ),
)


def recognise(state: Mapping[str, Tensor]) -> Source | None:
    """Return the source whose names `state` has; None for names of no known source."""
    return next((source for source in SOURCES if source.recognises(state)), None)
