"""Records of data sets by name; what is wrong with them is an error of the data set."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from ...errors import DatasetError
from ..records.tally import tally_of

__all__ = ["load_records", "load_train_records"]


def load_records(names: Sequence[str], **options: Any) -> list[dict[str, Any]]:
    """detectron2's ``get_detection_dataset_dicts``, whose assertions are DatasetErrors here.

    Args:
        options: see there.
    """
    if not names:
        raise DatasetError("DATASETS.TRAIN or DATASETS.TEST names no data set.")
    try:
        records = get_detection_dataset_dicts(tuple(names), **options)
    except AssertionError as error:
        told = "; ".join(line for name in names for line in tally_of(name).lines())
        raise DatasetError(
            f"{', '.join(names)}: nothing is left to use ({error})"
            + (f"; {told}" if told else "")
            + ". Images without an instance, or with groups (iscrowd) alone, are left out of a "
            "training unless DATALOADER.FILTER_EMPTY_ANNOTATIONS is False."
        ) from error
    if not records:
        raise DatasetError(f"{', '.join(names)}: the data set holds no image.")
    return records


def load_train_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """Those of DATASETS.TRAIN that a training takes.

    Raises: DatasetError: see :func:`load_records`.
    """
    heads = cfg.MODEL.ROI_KEYPOINT_HEAD
    return load_records(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=heads.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
