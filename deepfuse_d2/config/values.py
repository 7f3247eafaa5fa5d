"""Values of detectron2's keys that nothing answers to, found before anything is built.

detectron2 finds them out where it uses them: a stack trace, often behind the loading of the data.
Here stands what each key may be. docs/detectron2_keys.md lists all of its keys.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, RetinaNet
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import ROI_KEYPOINT_HEAD_REGISTRY

from ..errors import ConfigError
from ..modeling.meta_arch.protocol import mapper_name_of, meta_arch_of
from .flatten import flatten

__all__ = ["check_device", "check_values"]

# A test of a value, and what it may be in words.
_Rule = tuple[Callable[[Any], bool], str]

_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
_POOLERS = ("ROIPool", "ROIAlign", "ROIAlignV2", "ROIAlignRotated")
_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
_COLOURS = {"BGR": 3, "RGB": 3, "YUV-BT.601": 3, "L": 1, "RGBA": 4, "CMYK": 4}
# detectron2 compiled them; its python sources alone do without.
_COMPILED = ("ROIAlignRotated", "RRPN", "RROIHeads", "RotatedAnchorGenerator")


def _one_of(*names: Any) -> _Rule:
    return lambda value: value in names, f"one of {list(names)}"


def _registered(registry: Any) -> _Rule:
    return lambda value: value in registry, f"one of {sorted(name for name, _ in registry)}"


_AT_LEAST_1: _Rule = (lambda value: value >= 1, "1 or more")
_AT_LEAST_0: _Rule = (lambda value: value >= 0, "0 or more")
_FRACTION: _Rule = (lambda value: 0 <= value <= 1, "in 0 .. 1")
_FEATURES: _Rule = (lambda value: len(value) > 0, "one name or more")


def _rules() -> Mapping[str, _Rule]:
    rules = {
        "MODEL.ANCHOR_GENERATOR.NAME": _registered(ANCHOR_GENERATOR_REGISTRY),
        "MODEL.RPN.HEAD_NAME": _registered(RPN_HEAD_REGISTRY),
        "MODEL.ROI_KEYPOINT_HEAD.NAME": _registered(ROI_KEYPOINT_HEAD_REGISTRY),
        # of detectron2 since 2024
        "FLOAT32_PRECISION": _one_of("", "highest", "high", "medium"),
        "INPUT.RANDOM_FLIP": _one_of("none", "horizontal", "vertical"),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
        "INPUT.CROP.TYPE": _one_of("relative", "relative_range", "absolute", "absolute_range"),
        "INPUT.MASK_FORMAT": _one_of("polygon", "bitmask"),
        "DATALOADER.SAMPLER_TRAIN": _one_of(
            "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"
        ),
        "DATALOADER.NUM_WORKERS": _AT_LEAST_0,
        "SOLVER.MAX_ITER": _AT_LEAST_1,
        "SOLVER.IMS_PER_BATCH": _AT_LEAST_1,
        "SOLVER.CHECKPOINT_PERIOD": _AT_LEAST_1,
        "SOLVER.BASE_LR": _AT_LEAST_0,
        "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
        "SOLVER.WARMUP_ITERS": _AT_LEAST_0,
        "SOLVER.NUM_DECAYS": _AT_LEAST_1,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of("value", "norm"),
        "TEST.DETECTIONS_PER_IMAGE": _AT_LEAST_1,
        "TEST.PRECISE_BN.NUM_ITER": _AT_LEAST_1,
        "MODEL.ROI_HEADS.NUM_CLASSES": _AT_LEAST_1,
        "MODEL.RETINANET.NUM_CLASSES": _AT_LEAST_1,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _AT_LEAST_1,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _FRACTION,
        "MODEL.RETINANET.SCORE_THRESH_TEST": _FRACTION,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": _FRACTION,
        "MODEL.RPN.POSITIVE_FRACTION": _FRACTION,
    }
    for part in ("RPN", "ROI_HEADS", "RETINANET", "SEM_SEG_HEAD"):
        rules[f"MODEL.{part}.IN_FEATURES"] = _FEATURES
    for part in ("FPN", "RESNETS", "ROI_BOX_HEAD", "ROI_MASK_HEAD", "SEM_SEG_HEAD", "RETINANET"):
        rules[f"MODEL.{part}.NORM"] = _one_of(*_NORMS)
    for part in ("ROI_BOX_HEAD", "ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD"):
        rules[f"MODEL.{part}.POOLER_TYPE"] = _one_of(*_POOLERS)
        rules[f"MODEL.{part}.POOLER_RESOLUTION"] = _AT_LEAST_1
    for part in ("RPN", "ROI_BOX_HEAD", "RETINANET"):
        rules[f"MODEL.{part}.BBOX_REG_LOSS_TYPE"] = _one_of(*_BOX_LOSSES)
    return rules


def check_values(cfg: CfgNode) -> None:
    """Raise the error that names the key, its value and what is allowed.

    Raises: ConfigError.
    """
    values = flatten(cfg)
    for key, (is_allowed, words) in _rules().items():
        try:
            good = key not in values or is_allowed(values[key])  # versions of detectron2 differ
        except TypeError:
            good = False
        if not good:
            raise ConfigError(f"{key} is {values[key]!r}; it must be {words}.")
    check_device(cfg)
    _check_colours(cfg)
    _check_anchors(cfg)
    _check_compiled(values)
    _tell_unread(cfg, values)
    sampling, sizes = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.MIN_SIZE_TRAIN
    if sampling == "range" and len(sizes) != 2:
        raise ConfigError(
            f'INPUT.MIN_SIZE_TRAIN is {tuple(sizes)} and INPUT.MIN_SIZE_TRAIN_SAMPLING "range", '
            "which takes the smallest and the largest of two sizes."
        )


def check_device(cfg: CfgNode) -> None:
    """Raise where MODEL.DEVICE is no device of torch."""
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ConfigError(
            f'MODEL.DEVICE is "{cfg.MODEL.DEVICE}", which is no device of torch; give "cpu", '
            '"cuda" or "cuda:0".'
        ) from error


def _check_colours(cfg: CfgNode) -> None:
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if len(mean) != len(std) or not len(mean) or 0 in std:
        raise ConfigError(
            f"MODEL.PIXEL_MEAN is {list(mean)} and MODEL.PIXEL_STD {list(std)}; give a number for "
            "each channel of the image to both, and no deviation of 0."
        )
    channels = _COLOURS.get(cfg.INPUT.FORMAT)
    # a mapper of another kind reads what it wants
    is_picture = mapper_name_of(meta_arch_of(cfg)) in ("instances", "sem_seg")
    if is_picture and channels not in (None, len(mean)):
        raise ConfigError(
            f"MODEL.PIXEL_MEAN is {list(mean)}, of {len(mean)} channels; images of INPUT.FORMAT "
            f'"{cfg.INPUT.FORMAT}" have {channels}.'
        )


def _check_anchors(cfg: CfgNode) -> None:
    levels = _levels_with_anchors(cfg)
    for key in ("SIZES", "ASPECT_RATIOS") if levels else ():
        given = cfg.MODEL.ANCHOR_GENERATOR[key]
        # a flat list is for every level
        is_nested = len(given) > 0 and isinstance(given[0], (list, tuple))
        if not len(given) or (is_nested and len(given) not in (1, len(levels))):
            raise ConfigError(
                f"MODEL.ANCHOR_GENERATOR.{key} is {list(given)}; give one list for all levels, or "
                f"one for each of {list(levels)}, {len(levels)} in all."
            )


def _levels_with_anchors(cfg: CfgNode) -> Sequence[str]:
    kind = meta_arch_of(cfg)
    if isinstance(kind, type) and issubclass(kind, RetinaNet):
        return cfg.MODEL.RETINANET.IN_FEATURES
    has_rpn = isinstance(kind, type) and issubclass(kind, (GeneralizedRCNN, ProposalNetwork))
    return (
        cfg.MODEL.RPN.IN_FEATURES if has_rpn and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN" else ()
    )


def _tell_unread(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    if cfg.MODEL.BACKBONE.NAME != "build_neck_backbone":
        return
    defaults = flatten(get_cfg().MODEL.FPN, "MODEL.FPN.")
    changed = [key for key, value in defaults.items() if values[key] != value]
    if changed:
        logging.getLogger(__name__).warning(
            "%s has no effect under build_neck_backbone; MODEL.NECK describes the neck, the one "
            "named FPN as well.", ", ".join(changed),
        )  # fmt: skip


def _check_compiled(values: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("detectron2._C") is not None:
        return
    wanted = {
        key: value for key, value in values.items() if isinstance(value, str) and value in _COMPILED
    }
    if any(values["MODEL.RESNETS.DEFORM_ON_PER_STAGE"]):
        wanted["MODEL.RESNETS.DEFORM_ON_PER_STAGE"] = values["MODEL.RESNETS.DEFORM_ON_PER_STAGE"]
    if wanted:
        listed = ", ".join(f"{key} {value}" for key, value in wanted.items())
        raise ConfigError(
            f"{listed} needs detectron2's compiled operators (deformable convolution, rotated "
            "boxes), which this installation of it lacks. Build detectron2 from its sources, "
            "deepfuse install-detectron2 --from-git, or choose another."
        )
