"""Augmentation of images with labels of their pixels: a list for detectron2's DatasetMapper.

In this order: resize, scale jitter, crop, flip, colour jitter; the crop comes after all scaling, so
that it has the same number of pixels in every image. Images smaller than the crop are not padded
here: FusionSemanticSegmentor pads a batch with the mean colour and without labels.
"""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T

from ...errors import ConfigError
from .large_scale_jitter import build_large_scale_jitter

__all__ = [
    "ClassAwareCrop",
    "RandomSaturation",
    "ScaleJitter",
    "build_sem_seg_augmentation",
    "check_labels",
]

# How often a crop is drawn to find one within the limit of area; detectron2's number.
_DRAWS = 10


class ScaleJitter(T.Augmentation):
    """Resize to a drawn shorter edge, then by a drawn factor; both at once, in one resampling.

    Args:
        short_edges: lengths in pixels to choose from; 0 is the original size.
        max_size: limit of the longer edge before the factor.
        low, high: the factor is uniform in [low, high].
    """

    def __init__(self, short_edges: list[int], max_size: int, low: float, high: float):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        short = self.short_edges[int(self._rand_range(len(self.short_edges)))]
        new = (height, width)
        if short:
            new = T.ResizeShortestEdge.get_output_shape(height, width, short, self.max_size)
        factor = self._rand_range(self.low, self.high)
        new = [max(1, round(side * factor)) for side in new]
        return T.ResizeTransform(height, width, *new)


class ClassAwareCrop(T.Augmentation):
    """Random crop that looks at the labels: at one class's share, and at rare classes.

    A balanced crop is laid over a pixel of one class, at random around it; the class is drawn from
    those of the image, each with the same probability, and the pixel from those of the class. So a
    class of few pixels is in the crop about as often as one of many. Other crops are anywhere.

    A crop counts as bad if one class has more than `max_area` of the labelled pixels, or all of
    them. Up to ten are drawn to find a good one; the last stays.

    Args:
        crop_type, crop_size: as in detectron2's RandomCrop; larger than the image is the image.
        max_area: share of the labelled pixels, in (0, 1]; 1 is no limit.
        balanced: share of the crops to lay over a pixel of a drawn class, in [0, 1].
        ignore_value: label of the pixels without a class.
    """

    def __init__(
        self,
        crop_type: str,
        crop_size: tuple[float, float],
        max_area: float = 1.0,
        balanced: float = 0.0,
        ignore_value: int = 255,
    ):
        super().__init__()
        self._init(locals())
        self._crop = T.RandomCrop(crop_type, crop_size)

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        is_balanced = self._rand_range() < self.balanced
        for _ in range(_DRAWS):
            crop_height, crop_width = self._crop.get_crop_size((height, width))
            pixel = self._draw_pixel(sem_seg) if is_balanced else None
            # without a pixel to hold, as if every one would do
            rows = (0, height - 1) if pixel is None else (pixel[0], pixel[0])
            columns = (0, width - 1) if pixel is None else (pixel[1], pixel[1])
            top = self._draw_start(rows, crop_height, height)
            left = self._draw_start(columns, crop_width, width)
            window = sem_seg[top : top + crop_height, left : left + crop_width]
            if self.max_area >= 1 or self._is_mixed(window):
                break
        return T.CropTransform(left, top, crop_width, crop_height)

    def _draw_start(self, inside: tuple[int, int], length: int, total: int) -> int:
        """Where a stretch of `length` out of `total` begins, to meet first .. last of `inside`."""
        first, last = inside
        lowest = max(0, first - length + 1)
        highest = min(last, total - length)
        return int(self._rand_range(lowest, highest + 1))

    def _draw_pixel(self, sem_seg: np.ndarray) -> tuple[int, int] | None:
        """(row, column) of a labelled pixel, its class first; None where nothing is labelled."""
        classes = np.flatnonzero(self._pixels_of_classes(sem_seg))
        if not classes.size:
            return None
        chosen = np.flatnonzero(sem_seg == classes[int(self._rand_range(classes.size))])
        return divmod(int(chosen[int(self._rand_range(chosen.size))]), sem_seg.shape[1])

    def _is_mixed(self, window: np.ndarray) -> bool:
        pixels = self._pixels_of_classes(window)
        return np.count_nonzero(pixels) > 1 and pixels.max() <= self.max_area * pixels.sum()

    def _pixels_of_classes(self, sem_seg: np.ndarray) -> np.ndarray:
        """Number of pixels of class 0, 1, ...; none of what is ignored."""
        pixels = np.bincount(sem_seg.ravel())
        pixels[self.ignore_value : self.ignore_value + 1] = 0
        return pixels


class RandomSaturation(T.Augmentation):
    """Mix the image with its grey version, as detectron2's, for either order of the channels.

    Args:
        low, high: the share of the image is uniform in [low, high]; 1 leaves it as it is.
        image_format: "RGB" or "BGR".
    """

    def __init__(self, low: float, high: float, image_format: str):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        share = self._rand_range(self.low, self.high)
        weights = np.array([0.299, 0.587, 0.114])
        grey = image.dot(weights if self.image_format == "RGB" else weights[::-1])[..., None]
        return T.BlendTransform(src_image=grey, src_weight=1 - share, dst_weight=share)


def build_sem_seg_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """What INPUT says about training images; give it to detectron2's ``DatasetMapper``."""
    keys, crop, ours = cfg.INPUT, cfg.INPUT.CROP, cfg.DEEPFUSE_D2.INPUT
    _check(cfg)
    sizes = list(keys.MIN_SIZE_TRAIN)
    if keys.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = list(range(sizes[0], sizes[1] + 1))
    augmentations: list[T.Augmentation] = []
    jitter = build_large_scale_jitter(cfg)
    if jitter is not None:
        augmentations.append(jitter)
    elif tuple(ours.SCALE_JITTER) != (1.0, 1.0) or sizes != [0]:
        augmentations.append(ScaleJitter(sizes, keys.MAX_SIZE_TRAIN, *ours.SCALE_JITTER))
    if crop.ENABLED:
        augmentations.append(
            ClassAwareCrop(
                crop.TYPE,
                crop.SIZE,
                max_area=ours.CROP.SINGLE_CATEGORY_MAX_AREA,
                balanced=ours.CROP.CLASS_BALANCED,
                ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            )
        )
    if keys.RANDOM_FLIP != "none":
        is_horizontal = keys.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=is_horizontal, vertical=not is_horizontal))
    if ours.COLOR_JITTER:
        low, high = 1 - ours.COLOR_JITTER, 1 + ours.COLOR_JITTER
        augmentations += [
            T.RandomBrightness(low, high),
            T.RandomContrast(low, high),
            RandomSaturation(low, high, keys.FORMAT),
        ]
    return augmentations


def check_labels(cfg: CfgNode) -> None:
    """Raise where the classes of DATASETS.TRAIN are not those of MODEL.SEM_SEG_HEAD.

    A label that the loss does not know ends in an index error deep in torch, and on a GPU in one
    that names nothing.

    Raises: ConfigError.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        classes = metadata.get("stuff_classes")
        if classes and len(classes) != head.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}; the data set {name} has "
                f"{len(classes)} classes."
            )
        ignored = metadata.get("ignore_label", head.IGNORE_VALUE)
        if ignored != head.IGNORE_VALUE:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}; pixels without a class "
                f"have the label {ignored} in the data set {name}."
            )


def _check(cfg: CfgNode) -> None:
    ours, crop = cfg.DEEPFUSE_D2.INPUT, cfg.DEEPFUSE_D2.INPUT.CROP
    jitter = tuple(ours.SCALE_JITTER)
    if len(jitter) != 2 or not 0 < jitter[0] <= jitter[1]:
        raise ConfigError(
            f"DEEPFUSE_D2.INPUT.SCALE_JITTER is {list(jitter)}; give the smallest and the largest "
            "factor, both above 0, such as [0.5, 2.0]."
        )
    for key, value, allowed, is_allowed in (
        ("COLOR_JITTER", ours.COLOR_JITTER, "[0, 1)", 0 <= ours.COLOR_JITTER < 1),
        (
            "CROP.SINGLE_CATEGORY_MAX_AREA",
            crop.SINGLE_CATEGORY_MAX_AREA,
            "(0, 1]",
            0 < crop.SINGLE_CATEGORY_MAX_AREA <= 1,
        ),
        ("CROP.CLASS_BALANCED", crop.CLASS_BALANCED, "[0, 1]", 0 <= crop.CLASS_BALANCED <= 1),
    ):
        if not is_allowed:
            raise ConfigError(f"DEEPFUSE_D2.INPUT.{key} is {value}; it must be in {allowed}.")
    if not cfg.INPUT.CROP.ENABLED and (crop.CLASS_BALANCED or crop.SINGLE_CATEGORY_MAX_AREA < 1):
        raise ConfigError(
            "DEEPFUSE_D2.INPUT.CROP.CLASS_BALANCED or SINGLE_CATEGORY_MAX_AREA says how to crop, "
            "but INPUT.CROP.ENABLED is False; set it True."
        )
