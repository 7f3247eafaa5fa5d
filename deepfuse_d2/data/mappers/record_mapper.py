"""detectron2's ``DatasetMapper`` with images and labels read as everywhere here."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size, transform_proposals

from ..images import read_as
from ..label_images import read_labels

__all__ = ["RecordMapper"]


class RecordMapper(DatasetMapper):
    """Takes the place of a :class:`DatasetMapper`, in training and evaluation.

    Images of 16 bits and of floating-point numbers, EXIF and every INPUT.FORMAT mean what they mean
    to the Predictor; an image that cannot be read is an :class:`ImageError` that names it.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        record = copy.deepcopy(dataset_dict)  # it will be modified below, as annotations are
        image = read_as(record["file_name"], self.image_format)
        check_image_size(record, image)
        labels = None
        if "sem_seg_file_name" in record:
            labels = read_labels(record.pop("sem_seg_file_name"))
        entry = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(entry)
        image, labels = entry.image, entry.sem_seg
        height, width = image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if labels is not None:
            record["sem_seg"] = torch.as_tensor(labels.astype("long"))
        if self.proposal_topk is not None:
            transform_proposals(
                record, (height, width), transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            record.pop("annotations", None)
            return record
        if "annotations" in record:
            self._transform_annotations(record, transforms, (height, width))
        return record
