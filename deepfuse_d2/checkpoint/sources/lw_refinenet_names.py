"""Public weights of RefineNet and Light-Weight RefineNet (DrSleep's) under our names.

Both are a torchvision ResNet, or a MobileNet-v2, with a decoder at the top level. There, g1 and
outl1 are the coarsest feature. ``1_conv`` and ``1_conv_relu_varout_dimred`` are the convolutions of
the first residual unit. The full RefineNet has the names of the light-weight one and those of its
residual units.

The classifier comes along: a model of other classes needs weights without it.
"""

import re
from collections.abc import Iterable

from torch import Tensor

from .torchvision_names import rename_torchvision_resnet

__all__ = [
    "is_lw_refinenet",
    "is_lw_refinenet_mobilenet",
    "rename_lw_refinenet",
    "rename_lw_refinenet_mobilenet",
]

_HEAD = "sem_seg_head."
_COUNTER = "num_batches_tracked"


def is_lw_refinenet(state: Iterable[str]) -> bool:
    """Whether the names are those of RefineNet, light-weight or not, on a ResNet."""
    return {"p_ims1d2_outl1_dimred.weight", "clf_conv.weight", "layer1.0.conv1.weight"} <= set(
        state
    )


def rename_lw_refinenet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of detectron2's ResNet, and of our RefineNetHead under ``sem_seg_head``."""
    decoder, encoder = {}, {}
    for name, value in state.items():
        renamed = _resnet_decoder(name)
        if renamed is None:
            encoder[name] = value
        else:
            decoder[_HEAD + renamed] = value
    return rename_torchvision_resnet(encoder) | decoder


def _resnet_decoder(name: str) -> str | None:
    # (pattern, our name); {0} is the first number, counted from the coarsest feature
    for pattern, ours in (
        (r"p_ims1d2_outl(\d)_dimred\.(\w+)", "paths.{feature}.1.{1}"),
        (r"adapt_stage(\d)_b\.0\.(\d)_conv\.(\w+)", "paths.{feature}.{unit}.conv1.{2}"),
        (
            r"adapt_stage(\d)_b\.0\.(\d)_conv_relu_varout_dimred\.(\w+)",
            "paths.{feature}.{unit}.conv2.{2}",
        ),
        (r"adapt_stage(\d)_b2_joint_varout_dimred\.(\w+)", "blocks.{block}.fusion.convs.0.{1}"),
        (r"mflow_conv_g(\d)_b3_joint_varout_dimred\.(\w+)", "blocks.{next}.fusion.convs.1.{1}"),
        (
            r"mflow_conv_g(\d)_pool\.0\.(\d)_outvar_dimred\.(\w+)",
            "blocks.{block}.pooling.convs.{index}.{2}",
        ),
        (r"mflow_conv_g(\d)_b\.0\.(\d)_conv\.(\w+)", "blocks.{block}.output.{index}.conv1.{2}"),
        (
            r"mflow_conv_g(\d)_b\.0\.(\d)_conv_relu_varout_dimred\.(\w+)",
            "blocks.{block}.output.{index}.conv2.{2}",
        ),
        (r"clf_conv\.(\w+)", "classifier.{0}"),
    ):
        found = re.fullmatch(pattern, name)
        if not found:
            continue
        groups = found.groups()
        group = int(groups[0]) if groups[0].isdigit() else 0
        number = int(groups[1]) if len(groups) > 2 else 0
        return ours.format(
            *groups,
            feature=f"res{6 - group}",
            block=group - 1,
            next=group,
            index=number - 1,
            # a path starts with dropout and the convolution to its width
            unit=number + 1,
        )
    return None


_STAGES = ("stem", "res1", "res2", "res3", "res4a", "res4", "res5a", "res5")
# Of the fusion on MobileNet-v2, the path from the block before comes last and has the only
# convolution; two features of stride 16 come before it, one of stride 8 and of 4.
_ADAPT = {"4": (1, 2), "3": (2, 1), "2": (3, 1)}


def is_lw_refinenet_mobilenet(state: Iterable[str]) -> bool:
    """Whether the names are those of Light-Weight RefineNet on MobileNet-v2."""
    return {"conv_adapt4.weight", "segm.weight", "layer2.0.output.0.0.weight"} <= set(state)


def rename_lw_refinenet_mobilenet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of our MobileNetV2, and of our RefineNetHead under ``sem_seg_head``."""
    return {_mobilenet(name): value for name, value in state.items() if not name.endswith(_COUNTER)}


def _mobilenet(name: str) -> str:
    if found := re.fullmatch(r"layer1\.([01])\.(\w+)", name):
        return f"stem.conv1.{_norm(found[1])}{found[2]}"
    if found := re.fullmatch(r"layer(\d)\.(\d)\.output\.(\d)\.([01])\.(\w+)", name):
        stage, block, conv = _STAGES[int(found[1]) - 1], found[2], int(found[3]) + 1
        return f"{stage}.{block}.conv{conv}.{_norm(found[4])}{found[5]}"
    if found := re.fullmatch(r"conv([3-8])\.(\w+)", name):
        return f"{_HEAD}paths.{_STAGES[int(found[1]) - 1]}.1.{found[2]}"
    if found := re.fullmatch(r"crp(\d)\.0\.(\d)_outvar_dimred\.(\w+)", name):
        block, conv = 4 - int(found[1]), int(found[2]) - 1
        return f"{_HEAD}blocks.{block}.pooling.convs.{conv}.{found[3]}"
    if found := re.fullmatch(r"conv_adapt([234])\.(\w+)", name):
        block, index = _ADAPT[found[1]]
        return f"{_HEAD}blocks.{block}.fusion.convs.{index}.{found[2]}"
    if found := re.fullmatch(r"segm\.(\w+)", name):
        return f"{_HEAD}classifier.{found[1]}"
    return name


def _norm(slot: str) -> str:
    return "norm." if slot == "1" else ""
