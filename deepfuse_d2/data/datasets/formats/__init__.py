"""What DATASETS.EXTRA can open: one file a format, one line of this table each."""

from .base import Format
from .cityscapes import CITYSCAPES_INSTANCES, CITYSCAPES_SEMANTIC
from .coco import COCO
from .instance_label_images import INSTANCE_LABEL_IMAGES
from .label_images import LABEL_IMAGES
from .raster import RASTER
from .subset import SUBSET

__all__ = ["FORMATS", "Format"]

FORMATS: dict[str, Format] = {
    "coco": COCO,
    "instance_label_images": INSTANCE_LABEL_IMAGES,
    "cityscapes_instances": CITYSCAPES_INSTANCES,
    "cityscapes_semantic": CITYSCAPES_SEMANTIC,
    "label_images": LABEL_IMAGES,
    "raster": RASTER,
    "subset": SUBSET,
}
