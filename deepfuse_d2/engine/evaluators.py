"""Which evaluator a data set gets: a table keyed by the ``evaluator_type`` of its metadata."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator, DatasetEvaluators

from ..errors import ConfigError
from ..evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOInstanceEvaluator,
    SemSegEvaluator,
)
from ..evaluation.coco_instance import COCO_MAX_DETECTIONS
from ..modeling.meta_arch.protocol import meta_arch_of, predictions_of
from ..submission import build_submission_writer

__all__ = ["EVALUATORS", "build_evaluator", "check_evaluators"]


def _coco_panoptic(dataset_name: str, output_dir: str, **options: Any) -> DatasetEvaluators:
    """Instances, labels of pixels and, with the package panopticapi, panoptic quality."""
    evaluators: list[DatasetEvaluator] = [
        COCOInstanceEvaluator(dataset_name, output_dir, **options),
        SemSegEvaluator(dataset_name, output_dir),
    ]
    if importlib.util.find_spec("panopticapi"):
        evaluators.append(COCOPanopticEvaluator(dataset_name, output_dir))
    else:
        logging.getLogger(__name__).warning(
            "Panoptic quality of %s is left out: it needs the package panopticapi: pip install "
            "git+https://github.com/cocodataset/panopticapi.git", dataset_name,
        )  # fmt: skip
    return DatasetEvaluators(evaluators)


# evaluator_type -> builder(dataset_name, output_dir)
EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "cityscapes_instance": CityscapesInstanceEvaluator,
    "cityscapes_sem_seg": CityscapesSemSegEvaluator,
    "coco": COCOInstanceEvaluator,
    "coco_panoptic_seg": _coco_panoptic,
    "sem_seg": SemSegEvaluator,
}
# evaluator_type -> what it looks for in a prediction, any of them
_READS = {
    "cityscapes_instance": ("instances",),
    "cityscapes_sem_seg": ("sem_seg",),
    "coco": ("instances", "proposals"),
    "coco_panoptic_seg": ("panoptic_seg",),
    "sem_seg": ("sem_seg",),
}


def check_evaluators(cfg: CfgNode) -> None:
    """Raise where the model gives nothing that the evaluator of a data set looks at.

    The evaluation would find out, behind a training.

    Raises: ConfigError.
    """
    predicted = predictions_of(meta_arch_of(cfg))
    for name in cfg.DATASETS.TEST:
        wanted = _READS.get(MetadataCatalog.get(name).get("evaluator_type"), predicted)
        if predicted and not set(wanted) & set(predicted):
            raise ConfigError(
                f'The data set "{name}" of DATASETS.TEST is evaluated by {" or ".join(wanted)}; '
                f"{cfg.MODEL.META_ARCHITECTURE} predicts {', '.join(predicted)}. Choose another "
                "data set or another MODEL.META_ARCHITECTURE."
            )


def build_evaluator(
    dataset_name: str,
    output_dir: str,
    *,
    detections_per_image: int = COCO_MAX_DETECTIONS,
    oks_sigmas: Sequence[float] = (),
) -> DatasetEvaluator:
    """Evaluator of `dataset_name`; what it writes goes to `output_dir`.

    A split without labels gets a writer of the submission to its test server instead.

    Args:
        detections_per_image: that the model gives at most; COCO's AP takes as many, and its own 100
            where they are fewer. Cityscapes' has no limit.
        oks_sigmas: of keypoints, for COCO's AP; by default COCO's 17.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("has_labels") is False:
        return build_submission_writer(dataset_name, output_dir)
    evaluator_type = metadata.get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        raise ConfigError(
            f'The data set "{dataset_name}" of DATASETS.TEST has evaluator_type '
            f"{evaluator_type!r} in its metadata; there are evaluators for {list(EVALUATORS)}. Set "
            "one of them in the metadata, or add yours to deepfuse_d2.engine.evaluators.EVALUATORS."
        )
    build = EVALUATORS[evaluator_type]
    if build in (COCOInstanceEvaluator, _coco_panoptic):
        limit = max(detections_per_image, COCO_MAX_DETECTIONS)
        return build(dataset_name, output_dir, max_detections=limit, oks_sigmas=oks_sigmas)
    return build(dataset_name, output_dir)
