"""Names of Caffe2 (Detectron), in which detectron2's model zoo keeps its ImageNet weights.

detectron2 renames them itself; this adds what it leaves to its modules: Caffe2 folded the
statistics of a BatchNorm into weight and bias, so the file has no running mean and variance.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = [
    "is_caffe2_resnet",
    "is_caffe2_resnet_groupnorm",
    "is_caffe2_resnext",
    "is_caffe2_resnext_32x8d",
    "rename_caffe2",
]

_FIRST_3X3 = "res2_0_branch2b_w"
# of BatchNorm, in detectron2
_EPS = 1e-5


def is_caffe2_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether this is a ResNet in Caffe2's names, by itself or in a detector."""
    return "conv1_w" in state and "res2_0_branch2a_w" in state


def is_caffe2_resnet_groupnorm(state: Mapping[str, Tensor]) -> bool:
    return is_caffe2_resnet(state) and "res2_0_branch2a_gn_s" in state


def is_caffe2_resnext(state: Mapping[str, Tensor]) -> bool:
    """Whether the 3x3 convolutions are in groups; takes a look at their shape."""
    if not is_caffe2_resnet(state) or _FIRST_3X3 not in state:
        return False
    out_channels, in_channels_per_group = state[_FIRST_3X3].shape[:2]
    return out_channels != in_channels_per_group


def is_caffe2_resnext_32x8d(state: Mapping[str, Tensor]) -> bool:
    """Whether it is the ResNeXt-101 32x8d: 23 blocks in res4 and groups of 8 channels in res2."""
    is_101 = "res4_22_branch2a_w" in state and "res4_23_branch2a_w" not in state
    return is_caffe2_resnext(state) and is_101 and state[_FIRST_3X3].shape[:2] == (256, 8)


def rename_caffe2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's names, without the classifier; every BatchNorm with all of its four tensors."""
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    renamed, original = convert_c2_detectron_names(dict(state))
    renamed = {k: v for k, v in renamed.items() if not k.startswith(("linear.", "fc1000."))}
    for name in list(renamed):
        if name.endswith(".norm.weight") and original[name].endswith("_bn_s"):
            norm = name.removesuffix("weight")
            renamed.setdefault(f"{norm}running_mean", torch.zeros_like(renamed[name]))
            # so that dividing by sqrt(variance + eps) changes nothing
            renamed.setdefault(f"{norm}running_var", torch.full_like(renamed[name], 1 - _EPS))
    return renamed
