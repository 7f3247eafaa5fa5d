"""Training samples of instance segmentation: what detectron2's mapper gives, three times as fast.

In detectron2's mapper every instance costs a mask of the whole image, four times over: decoded,
cropped, resized, stacked. Here masks are cropped as runs before they become pixels
(run_lengths.py), and stay as large as the instance (cropped_masks.py); the image stays in Pillow
and is decoded as far as it is kept (image_reading.py); the record is not copied.
"""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    build_augmentation,
    check_image_size,
    filter_empty_instances,
)
from detectron2.structures import Boxes, BoxMode, Instances

from ...errors import ConfigError, DatasetError
from ...structures.cropped_masks import CroppedMasks
from ...structures.mask_crops import EMPTY, MaskCrop
from ...structures.run_lengths import Runs, to_rle
from ..label_images import read_labels
from .image_reading import FORMATS, read_transformed
from .large_scale_jitter import build_large_scale_jitter
from .placement import draw_transforms, is_drawn_by_size, source_positions
from .record_mapper import RecordMapper

__all__ = ["InstanceMapper", "build_instance_mapper"]


class InstanceMapper:
    """Takes the place of detectron2's ``DatasetMapper`` in training, with masks as bitmaps.

    From the same random numbers it makes the same image, boxes, classes and masks; ``gt_masks`` is
    a :class:`CroppedMasks`. Records stay as they are. Boxes and polygons of whole numbers are
    scaled as others; detectron2's mapper cuts the fractions off.

    Example:
        >>> mapper = InstanceMapper([T.ResizeShortestEdge([512], 1024)], image_format="BGR")
        >>> mapper(record)["instances"].gt_masks
        CroppedMasks(num_instances=18)
    """

    @configurable
    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        *,
        image_format: str = "BGR",
        use_masks: bool = True,
        recompute_boxes: bool = False,
    ):
        """
        Args:
            augmentations: crops, resizings and flips of detectron2, see ``is_drawn_by_size``.
            image_format: "BGR" or "RGB".
            use_masks: whether instances have ``gt_masks``.
            recompute_boxes: take boxes from the masks after they were cropped.
        """
        unknown = [a for a in augmentations if not is_drawn_by_size(a)]
        if unknown or image_format not in FORMATS:
            raise ValueError(
                f"InstanceMapper got augmentations {unknown} and image_format {image_format!r}; it "
                f"takes detectron2's crops, resizings and flips, and {list(FORMATS)}. For others, "
                "take detectron2's DatasetMapper (DEEPFUSE_D2.INPUT.FAST_MAPPER False)."
            )
        if recompute_boxes and not use_masks:
            raise ValueError("recompute_boxes takes the boxes from masks; set use_masks.")
        self.augmentations = list(augmentations)
        self.image_format = image_format
        self.use_masks = use_masks
        self.recompute_boxes = recompute_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "augmentations": _augmentations(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "use_masks": cfg.MODEL.MASK_ON,
            "recompute_boxes": _crops(cfg) and cfg.MODEL.MASK_ON,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Sample of a record: "image" (3, H, W) uint8, "instances", and the record's other fields.

        Raises:
            SizeMismatchError: the image has another size than the record says.
            DatasetError: a mask is damaged, or has another size than the image.
        """
        names = {"annotations", "sem_seg_file_name"}
        sample = {name: value for name, value in record.items() if name not in names}
        size: tuple[int, int] = (0, 0)
        transforms: list[T.Transform] = []

        def draw(height: int, width: int) -> list[T.Transform]:
            nonlocal size, transforms
            size = height, width
            check_image_size(sample, np.broadcast_to(np.uint8(0), (height, width)))
            transforms = draw_transforms(self.augmentations, height, width)
            return transforms

        sample["image"] = read_transformed(record["file_name"], self.image_format, draw)
        rows, columns = source_positions(transforms, *size)
        if "sem_seg_file_name" in record:
            labels = read_labels(record["sem_seg_file_name"])
            labels = labels.take(rows, axis=0).take(columns, axis=1)
            sample["sem_seg"] = torch.from_numpy(labels.astype(np.int64))
        if "annotations" in record:
            annotations = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
            sample["instances"] = self._instances(
                annotations, size, T.TransformList(transforms), rows, columns
            )
        return sample

    def _instances(
        self,
        annotations: list[dict[str, Any]],
        size: tuple[int, int],
        transforms: T.TransformList,
        rows: np.ndarray,
        columns: np.ndarray,
    ) -> Instances:
        height, width = len(rows), len(columns)
        instances = Instances((height, width))
        boxes = transforms.apply_box(_boxes(annotations)).reshape(-1, 4).clip(min=0)
        instances.gt_boxes = Boxes(np.minimum(boxes, [width, height, width, height]))
        classes = [int(a["category_id"]) for a in annotations]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        if self.use_masks and annotations and "segmentation" in annotations[0]:
            crops = [_cut(a["segmentation"], size, transforms, rows, columns) for a in annotations]
            instances.gt_masks = CroppedMasks.from_crops(crops, (height, width))
            if self.recompute_boxes:
                instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return filter_empty_instances(instances)


def _boxes(annotations: list[dict[str, Any]]) -> np.ndarray:
    """(N, 4) XYXY in floats: detectron2's transforms write into the array they get."""
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _cut(
    segmentation: list | dict[str, Any],
    size: tuple[int, int],
    transforms: T.TransformList,
    rows: np.ndarray,
    columns: np.ndarray,
) -> MaskCrop:
    """A mask in the transformed image.

    Args:
        segmentation: RLE, compressed or not, or polygons, in an image of `size`.
        rows, columns: see :func:`source_positions`.
    """
    if isinstance(segmentation, list):
        # polygons are transformed as such and drawn at their new size; what of them lies outside
        # of a crop is not drawn, and need not be cut off, for which detectron2 takes shapely
        polygons = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        polygons = [transforms.apply_coords(p).reshape(-1).tolist() for p in polygons]
        size = len(rows), len(columns)
        rows, columns = np.arange(size[0]), np.arange(size[1])
        if not polygons:
            return EMPTY
        segmentation = to_rle(polygons, *size)
    if tuple(segmentation["size"]) != tuple(size):
        raise DatasetError(
            f"A mask has {tuple(segmentation['size'])} pixels (height, width) and its image "
            f"{tuple(size)}."
        )
    try:
        runs = Runs(segmentation)
    except ValueError as error:
        raise DatasetError(f"The annotation of a mask is wrong: {error}") from error
    if runs.box is None:
        return EMPTY
    x0, y0, x1, y1 = runs.box
    # positions in the result that come from the box; neighbours, as positions never turn back
    across = np.flatnonzero((columns >= x0) & (columns < x1))
    down = np.flatnonzero((rows >= y0) & (rows < y1))
    if not across.size or not down.size:
        return EMPTY
    columns, rows = columns[across], rows[down]
    left, right = int(columns.min()), int(columns.max()) + 1
    pixels = runs.columns(left, right).take(columns - left, axis=0).take(rows, axis=1)
    return MaskCrop(int(down[0]), int(across[0]), pixels.T)


def _augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Those of detectron2's ``DatasetMapper.from_config`` in training, or large-scale jitter."""
    augmentations = build_augmentation(cfg, is_train=True)
    jitter = build_large_scale_jitter(cfg)
    if jitter is not None:
        # in place of the resizing, which stands first
        augmentations[0] = jitter
    if cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return augmentations


def _crops(cfg: CfgNode) -> bool:
    return cfg.INPUT.CROP.ENABLED or cfg.DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.ENABLED


def _ask_for_shapely() -> None:
    if importlib.util.find_spec("shapely") is None:
        raise ConfigError(
            "INPUT.CROP.ENABLED with INPUT.MASK_FORMAT polygon cuts polygons, for which detectron2 "
            "needs the package shapely. Set INPUT.MASK_FORMAT: bitmask, which needs nothing."
        )


def build_instance_mapper(cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The training mapper of a config: :class:`InstanceMapper` where it does all that is asked.

    Keypoints, precomputed proposals, masks kept as polygons, other colour formats, and
    DEEPFUSE_D2.INPUT.FAST_MAPPER False get :class:`RecordMapper`, which is detectron2's.
    """
    reasons = {
        "DEEPFUSE_D2.INPUT.FAST_MAPPER is False": not cfg.DEEPFUSE_D2.INPUT.FAST_MAPPER,
        "MODEL.KEYPOINT_ON is True": cfg.MODEL.KEYPOINT_ON,
        "MODEL.LOAD_PROPOSALS is True": cfg.MODEL.LOAD_PROPOSALS,
        "INPUT.MASK_FORMAT is not bitmask": cfg.MODEL.MASK_ON
        and cfg.INPUT.MASK_FORMAT != "bitmask",
        f"INPUT.FORMAT is {cfg.INPUT.FORMAT}": cfg.INPUT.FORMAT not in FORMATS,
        "an augmentation needs the pixels": not all(map(is_drawn_by_size, _augmentations(cfg))),
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if reason is None:
        return InstanceMapper(cfg)
    if _crops(cfg) and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
        _ask_for_shapely()
    logging.getLogger(__name__).info(
        "Samples are made as detectron2's mapper makes them: %s", reason
    )
    return RecordMapper(
        cfg,
        is_train=True,
        augmentations=_augmentations(cfg),
        recompute_boxes=_crops(cfg) and cfg.MODEL.MASK_ON,
    )
