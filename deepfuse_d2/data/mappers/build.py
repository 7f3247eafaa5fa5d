"""The mappers by name. A meta-architecture says by its ``mapper_name`` which one makes its samples.

To train with samples of a kind of one's own, add a builder to :data:`MAPPERS` and name it in the
meta-architecture:

    >>> MAPPERS["depth"] = lambda cfg, purpose: DepthMapper(cfg, is_train=purpose == "train")
"""

from collections.abc import Callable
from typing import Any, Literal

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from ...errors import ConfigError
from .instance_augmentation import build_instance_augmentation
from .instance_mapper import build_instance_mapper
from .record_mapper import RecordMapper
from .sem_seg_augmentation import build_sem_seg_augmentation, check_labels
from .series_mapper import build_series_mapper

__all__ = ["MAPPERS", "Mapper", "Purpose", "build_mapper"]

#: record of a data set -> sample, an entry of what a model is given
Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]
#: "train": augmented, with labels; "validate": as it is evaluated, with labels; "predict": without
Purpose = Literal["train", "validate", "predict"]


def build_mapper(name: str, cfg: CfgNode, purpose: Purpose) -> Mapper:
    """The mapper of that name for `purpose`.

    Raises: ConfigError: there is no mapper of that name, or `cfg` asks for what it cannot do.
    """
    if name not in MAPPERS:
        raise ConfigError(
            f'{cfg.MODEL.META_ARCHITECTURE} asks for the mapper "{name}"; there are '
            f"{list(MAPPERS)}. Add yours to deepfuse_d2.data.mappers.build.MAPPERS."
        )
    return MAPPERS[name](cfg, purpose)


def _instances(cfg: CfgNode, purpose: Purpose) -> Mapper:
    if purpose != "train":
        return _not_augmented(cfg, purpose)
    return build_instance_augmentation(cfg, build_instance_mapper(cfg))


def _sem_seg(cfg: CfgNode, purpose: Purpose) -> Mapper:
    if purpose != "train":
        return _not_augmented(cfg, purpose)
    check_labels(cfg)
    return RecordMapper(cfg, is_train=True, augmentations=build_sem_seg_augmentation(cfg))


def _not_augmented(cfg: CfgNode, purpose: Purpose) -> Mapper:
    if purpose == "predict":
        return RecordMapper(cfg, is_train=False)
    size = cfg.INPUT.MIN_SIZE_TEST
    resize = [T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)] if size else []
    return RecordMapper(cfg, is_train=True, augmentations=resize)


# name -> builder(cfg, purpose)
MAPPERS: dict[str, Callable[[CfgNode, Purpose], Mapper]] = {
    "instances": _instances,
    "sem_seg": _sem_seg,
    "series": build_series_mapper,
}
