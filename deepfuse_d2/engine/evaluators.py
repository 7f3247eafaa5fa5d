"""Which evaluator a data set gets: a table keyed by the ``evaluator_type`` of its metadata."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

from ..errors import ConfigError
from ..evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    SemSegEvaluator,
)
from ..modeling.meta_arch.protocol import meta_arch_of, predictions_of
from ..submission import build_submission_writer

__all__ = ["EVALUATORS", "build_evaluator", "check_evaluators"]


def _coco(dataset_name: str, output_dir: str) -> COCOEvaluator:
    # The fast implementation is compiled code, which a detectron2 of python sources lacks.
    # A cached ground truth would outlive a change of the data set.
    return COCOEvaluator(
        dataset_name, output_dir=output_dir, use_fast_impl=False, allow_cached_coco=False
    )


# evaluator_type -> builder(dataset_name, output_dir)
EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "cityscapes_instance": CityscapesInstanceEvaluator,
    "cityscapes_sem_seg": CityscapesSemSegEvaluator,
    "coco": _coco,
    "sem_seg": SemSegEvaluator,
}
# evaluator_type -> what it looks for in a prediction, any of them
_READS = {
    "cityscapes_instance": ("instances",),
    "cityscapes_sem_seg": ("sem_seg",),
    "coco": ("instances", "proposals"),
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


def build_evaluator(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    """Evaluator of `dataset_name`; what it writes goes to `output_dir`.

    A split without labels gets a writer of the submission to its test server instead.
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
    return EVALUATORS[evaluator_type](dataset_name, output_dir)
