"""What DATASETS.EXTRA can open: one file a format, one line of this table each."""

from .base import Format
from .cityscapes import CITYSCAPES_INSTANCES, CITYSCAPES_SEMANTIC
from .coco import COCO
from .cvat import CVAT
from .instance_label_images import INSTANCE_LABEL_IMAGES
from .label_images import LABEL_IMAGES
from .labelme import LABELME
from .part import PART
from .raster import RASTER
from .roboflow_masks import ROBOFLOW_MASKS
from .subset import SUBSET
from .voc_instances import VOC_INSTANCES
from .yolo import YOLO

__all__ = ["FORMATS", "Format"]

FORMATS: dict[str, Format] = {
    "coco": COCO,
    "instance_label_images": INSTANCE_LABEL_IMAGES,
    "yolo": YOLO,
    "labelme": LABELME,
    "cvat": CVAT,
    "voc_instances": VOC_INSTANCES,
    "cityscapes_instances": CITYSCAPES_INSTANCES,
    "cityscapes_semantic": CITYSCAPES_SEMANTIC,
    "label_images": LABEL_IMAGES,
    "roboflow_masks": ROBOFLOW_MASKS,
    "raster": RASTER,
    "subset": SUBSET,
    "part": PART,
}
