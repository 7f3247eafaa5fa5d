"""Can records be learned as a config asks: masks, keypoints, and samples after every crop?"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.mappers.build import build_mapper
from ..data.mappers.seeded_mapper import is_damage, seeded
from ..errors import ConfigError, UserError
from ..modeling.meta_arch.protocol import mapper_name_of, meta_arch_of, predictions_of

__all__ = ["check_annotated", "check_keypoints", "check_masks", "check_samples"]

# OKS is defined for COCO's keypoints alone unless sigmas are given.
_COCO_KEYPOINTS = 17


def check_annotated(cfg: CfgNode, records: Sequence[dict[str, Any]], name: str) -> None:
    """Raise where instances are to be learned from records that have no annotations of any.

    Raises: ConfigError.
    """
    without = sum("annotations" not in record for record in records)
    learned = {"instances", "proposals"} & set(predictions_of(meta_arch_of(cfg)))
    if without and learned:
        raise ConfigError(
            f'{without} of {len(records)} images of "{name}" have no list of annotations, as those '
            f"of a test split, and {cfg.MODEL.META_ARCHITECTURE} learns from it. Take the data set "
            "out of DATASETS.TRAIN, or give the file with its annotations."
        )


def check_masks(
    cfg: CfgNode, records: Sequence[dict[str, Any]], name: str, count: int = 4000
) -> None:
    """Raise where the masks of records cannot be learned as the config asks.

    Args:
        count: as many records are looked at, spread evenly.

    Raises: ConfigError.
    """
    if not cfg.MODEL.MASK_ON or "instances" not in predictions_of(meta_arch_of(cfg)):
        return
    total = without = rle = 0
    for annotation in _single(records, count):
        total += 1
        without += not annotation.get("segmentation")
        rle += isinstance(annotation.get("segmentation"), dict)
    if without:
        raise ConfigError(
            f'{without} of {total} instances of "{name}" have a box and no mask, and MODEL.MASK_ON '
            "is True. Set MODEL.MASK_ON: False to learn boxes, or give the others a mask."
        )
    if rle and cfg.INPUT.MASK_FORMAT == "polygon":
        raise ConfigError(
            f'{rle} of {total} instances of "{name}" have a run-length mask, and INPUT.MASK_FORMAT '
            "is polygon. Set INPUT.MASK_FORMAT: bitmask, which takes both."
        )


def check_keypoints(
    cfg: CfgNode, records: Sequence[dict[str, Any]], name: str, count: int = 4000
) -> None:
    """Raise where the keypoints of records cannot be learned, mirrored or evaluated.

    Args:
        name: of the data set.
        count: as many records are looked at, spread evenly.

    Raises: ConfigError.
    """
    if not cfg.MODEL.KEYPOINT_ON:
        return
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    found: Counter = Counter()
    for annotation in _single(records, count):
        found[len(annotation.get("keypoints") or ()) // 3] += 1
    without = found.pop(0, 0)
    if not found:
        raise ConfigError(
            f'None of {without} instances of "{name}" has keypoints, and MODEL.KEYPOINT_ON is '
            "True. Set MODEL.KEYPOINT_ON: False, or give them keypoints (x, y, visibility)."
        )
    if set(found) != {expected}:
        told = ", ".join(f"{number} ({times} instances)" for number, times in found.most_common(4))
        raise ConfigError(
            f'Instances of "{name}" have {told} keypoints, and '
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {expected}. Set it to their number, which "
            "must be the same for all."
        )
    if name in cfg.DATASETS.TRAIN:
        names = MetadataCatalog.get(name).get("keypoint_names") or ()
        if len(names) != expected:
            raise ConfigError(
                f'"{name}" names {len(names)} keypoints and has {expected}: training has to know '
                "which of them a mirror exchanges. Write their names into the category of the "
                'file, {"keypoints": ["nose", "left_eye", "right_eye", ...]}, in their order.'
            )
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    is_cocos = not sigmas and expected == _COCO_KEYPOINTS
    if name in cfg.DATASETS.TEST and sigmas != expected and not is_cocos:
        raise ConfigError(
            f'TEST.KEYPOINT_OKS_SIGMAS has {sigmas} numbers and "{name}" {expected} keypoints. '
            "Give one a keypoint, such as 0.05: how far off a point may be, as a share of the "
            "object's size."
        )


def check_samples(
    cfg: CfgNode,
    records: Sequence[dict[str, Any]],
    *,
    progress: Callable[[], Any] = lambda: None,
) -> Iterator[tuple[bool, str, str]]:
    """Make a training sample of every record, with the crops and all else that a config asks for.

    Yields: whether it is an error, what is wrong, and the image.
    """
    mapper = build_mapper(mapper_name_of(meta_arch_of(cfg)), cfg, "train")
    if hasattr(mapper, "use_records"):
        mapper.use_records(records)
    emptied, first, with_objects = 0, "", 0
    for place, record in enumerate(records):
        progress()
        image = record.get("file_name", "")
        objects = sum(not one.get("iscrowd", 0) for one in record.get("annotations", ()))
        try:
            with seeded(max(cfg.SEED, 0), place):
                sample = mapper(record)
        except Exception as error:
            if not (is_damage(error) or isinstance(error, UserError)):
                error = ConfigError(f"{type(error).__name__}: {error}")
            yield True, f"{image}: no training sample can be made of it: {error}", image
            continue
        with_objects += objects > 0
        found = None if sample is None else sample.get("instances")
        if objects and found is not None and not len(found):
            emptied, first = emptied + 1, first or image
    if emptied:
        yield False, (
            f"{emptied} of {with_objects} images with objects gave a training sample without one "
            f"({first} first): crops left them out. Larger INPUT.CROP.SIZE, or a higher least "
            "factor of DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SCALE, keeps more."
        ), first  # fmt: skip


def _single(records: Sequence[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Annotations of as many records, spread evenly, without groups."""
    places = np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)
    for record in (records[place] for place in places.tolist()):
        for annotation in record.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                yield annotation
