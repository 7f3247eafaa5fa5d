"""Evaluators: matching and averaging as pure functions, thin detectron2 evaluators on top."""

from .cityscapes_instance import CityscapesInstanceEvaluator
from .cityscapes_sem_seg import CityscapesSemSegEvaluator
from .coco_instance import COCOInstanceEvaluator
from .sem_seg import SemSegEvaluator

__all__ = [
    "COCOInstanceEvaluator",
    "CityscapesInstanceEvaluator",
    "CityscapesSemSegEvaluator",
    "SemSegEvaluator",
]
