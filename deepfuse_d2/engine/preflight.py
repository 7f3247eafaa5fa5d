"""Before the first iteration: do data sets, config and model fit, all the way to the evaluation?

What would end a training after hours is found in seconds: classes that do not meet, a mapper that
fails, an evaluator that does not know the records, more objects than are evaluated.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils.events import EventStorage
from torch import nn

from ..data.classes import class_names, meet_by_name
from ..data.mappers.seeded_mapper import is_damage
from ..errors import ConfigError, DatasetError
from ..evaluation import COCOInstanceEvaluator, SemSegEvaluator
from ..evaluation.perfect import perfect_output
from ..modeling.meta_arch.protocol import meta_arch_of, predictions_of
from ..randomness import untouched_random_state
from .hooks.validation_loss import computing_losses
from .watching import watching

__all__ = ["PERFECT", "check_classes", "check_way", "perfect_scores"]

logger = logging.getLogger(__name__)

# Images of a data set that are walked with; the model sees the first alone.
_SAMPLES = 4
# Their figures of perfect predictions are known.
_SCORED = (COCOInstanceEvaluator, SemSegEvaluator)
# Percent; the means of COCO's precision end at 99.99...
PERFECT = 99.9


def check_classes(
    cfg: CfgNode, model: nn.Module, learned: Sequence[str] = (), *, training: bool = True
) -> None:
    """Let the classes of data sets meet by name, and compare them with the model's.

    Args:
        learned: names of the classes in the order in which weights have learned them; by default
            that of the first of DATASETS.TRAIN. Without either, those of each data set are its own.
        training: look at DATASETS.TRAIN and TEST; False looks at TEST, and does without TRAIN
            where that cannot be loaded.

    Raises:
        DatasetError: data sets have different classes.
        ConfigError: the model has another number of them.
    """
    if "instances" not in predictions_of(meta_arch_of(cfg)):
        return
    source = "the weights"
    sets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST] if training else list(cfg.DATASETS.TEST)
    if not learned and cfg.DATASETS.TRAIN:
        first = cfg.DATASETS.TRAIN[0]
        source = f'"{first}"'
        # an evaluation does not need the images of the training
        with contextlib.nullcontext() if training else contextlib.suppress(DatasetError):
            learned = class_names(first)
    for name in sets if learned else ():
        meet_by_name(name, learned, source)
    key, count = _num_classes(model)
    for name in sets:
        names = class_names(name)
        if count is not None and names and len(names) != count:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ConfigError(
                f'The model has {count} classes, the data set "{name}" {len(names)} ({shown}). Set '
                f"{key}: {len(names)}."
            )


def check_way(trainer: DefaultTrainer) -> None:
    """Walk the way of a training with a few images of each data set; changes nothing.

    Images of DATASETS.TRAIN go through the mapper, one of them through the losses; an image of each
    of DATASETS.TEST through mapper, model and evaluator, and predictions made from the ground truth
    of some through the evaluator, which must score 100.

    Args:
        trainer: its loaders, mappers and evaluators are taken, whatever a derived class makes them.

    Raises:
        DatasetError, ConfigError: what the training or its evaluation would fail at.
    """
    cfg, loader = trainer.cfg, trainer._trainer.data_loader
    with watching(trainer.model) as model, untouched_random_state():
        samples = _mapped(loader.mapper, _spread(loader.records), ", ".join(cfg.DATASETS.TRAIN))
        if samples and not cfg.MODEL.COMPILE.ENABLED:  # another shape is compiled again
            _losses(model, samples[:1])
        for name in cfg.DATASETS.TEST:
            _evaluate(trainer, model, name, DatasetCatalog.get(name))


def perfect_scores(
    name: str, records: Sequence[dict[str, Any]], evaluator: DatasetEvaluator
) -> dict[str, float]:
    """What predictions made from the ground truth score: main metric of each task, in percent."""
    num_classes = len(MetadataCatalog.get(name).get("stuff_classes") or ())
    evaluator.reset()
    for record in records:
        evaluator.process([record], [perfect_output(record, num_classes)])
    results = evaluator.evaluate() or {}
    return {
        f"{task} {metric}": scores[metric]
        for task, scores in results.items()
        for metric in ("AP", "mIoU", "IoU")
        if metric in scores and not np.isnan(scores[metric])
    }


def _evaluate(trainer: DefaultTrainer, model: nn.Module, name: str, records: list[dict]) -> None:
    if MetadataCatalog.get(name).get("has_labels") is False:
        return
    counts = [_objects(record) for record in records]
    limit = trainer.cfg.TEST.DETECTIONS_PER_IMAGE
    over = sum(count > limit for count in counts)
    if over:
        logger.warning(
            'TEST.DETECTIONS_PER_IMAGE is %d, and %d of %d images of "%s" have more objects, up to '
            "%d: no model can find all. Raise it.", limit, over, len(counts), name, max(counts),
        )  # fmt: skip
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.TEST.DETECTIONS_PER_IMAGE = max([limit, *counts])
    with tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR, _quiet():
        evaluator = trainer.build_evaluator(cfg, name)
        samples = _first_of(trainer.build_test_loader(cfg, name))
        if samples and not cfg.MODEL.COMPILE.ENABLED:
            evaluator.reset()
            with inference_context(model), torch.no_grad():
                outputs = model(samples)
            evaluator.process(samples, outputs)
            evaluator.evaluate()
        if not isinstance(evaluator, _SCORED):
            return
        # those with the most objects are the hardest
        chosen = sorted(range(len(records)), key=lambda i: -counts[i])[:2]
        picked = [records[i] for i in chosen] + _spread(records)
        scores = perfect_scores(name, picked, evaluator)
    low = {metric: score for metric, score in scores.items() if score < PERFECT}
    if low:
        told = ", ".join(f"{metric} {score:.1f}" for metric, score in low.items())
        raise DatasetError(
            f'Predictions made from the ground truth of "{name}" score {told} in its evaluation, '
            "not 100: no training can reach more. deepfuse check-data looks at all of its files."
        )


def _first_of(loader: Any) -> list[dict]:
    """The first sample that a loader of an evaluation would give, without its workers."""
    dataset = getattr(loader, "dataset", None)
    for number in range(min(_SAMPLES, len(dataset or ()))):
        sample = dataset[number]
        if isinstance(sample, dict):
            return [sample]
    return []


def _losses(model: nn.Module, samples: list[dict]) -> None:
    with torch.no_grad(), computing_losses(model), EventStorage(0):
        model(samples)


def _mapped(mapper: Callable, records: Sequence[dict], name: str) -> list[dict]:
    """Samples of those records that can be read."""
    samples, errors = [], []
    for record in records:
        try:
            sample = mapper(record)
        except Exception as error:
            if not is_damage(error):
                logger.error('The mapper fails on %s of "%s".', record.get("file_name"), name)
                raise
            errors.append(f"{record.get('file_name')}: {error}")
            continue
        if sample is not None:
            samples.append(sample)
    if errors and not samples:
        raise DatasetError(
            f'{len(errors)} images of "{name}" were tried, and none can be used; the first: '
            f"{errors[0]}. deepfuse check-data looks at all of its files."
        )
    return samples


def _objects(record: dict[str, Any]) -> int:
    return sum(not one.get("iscrowd", 0) for one in record.get("annotations", ()))


def _spread(records: Sequence[dict]) -> list[dict]:
    places = np.linspace(0, len(records) - 1, min(_SAMPLES, len(records))).astype(int)
    return [records[place] for place in dict.fromkeys(places.tolist())]


def _num_classes(model: nn.Module) -> tuple[str, int | None]:
    """Key and number of the classes of instances that a model tells apart."""
    model = getattr(model, "module", model)
    heads = getattr(model, "roi_heads", None)
    if heads is not None:
        return "MODEL.ROI_HEADS.NUM_CLASSES", getattr(heads, "num_classes", None)
    return "MODEL.RETINANET.NUM_CLASSES", getattr(model, "num_classes", None)


class _quiet:
    """Within it, evaluators write no tables and no warnings of few images."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("deepfuse_d2.evaluation")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None:
        self._logger.setLevel(self._level)
