"""Inference without pasting masks, for evaluators that take masks as the mask head leaves them.

An R-CNN ends by pasting each 28 x 28 mask into an image of its own: 100 masks of 2048 x 1024 are
200 MB, and an evaluator then has to find the few pixels that are set. An evaluator that says
``accepts_unpasted_masks = True`` gets the small masks and their boxes instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances
from torch import nn

__all__ = ["UnpastedMasks", "for_evaluator", "scale_unpasted"]


def for_evaluator(
    model: nn.Module, evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None
) -> nn.Module:
    """Return what to run in place of ``model``: :class:`UnpastedMasks` of it, or ``model`` itself.

    The model itself, if an evaluator needs full-image masks or the model is not detectron2's
    R-CNN from input to output.
    """
    if isinstance(evaluator, DatasetEvaluators):
        evaluator = evaluator._evaluators
    evaluators = evaluator if isinstance(evaluator, Sequence) else [evaluator]
    accepted = all(getattr(x, "accepts_unpasted_masks", False) for x in evaluators)
    return UnpastedMasks(model) if accepted and UnpastedMasks.fits(model) else model


class UnpastedMasks(nn.Module):
    """An R-CNN whose ``pred_masks`` stay (N, 1, M, M) probabilities of the content of its boxes.

    All else in its output, and the model itself, is as before; DistributedDataParallel is looked
    through.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        # `inference_context` of detectron2 restores what it finds here, children included.
        self.training = model.training

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether forward, inference and post-processing of the model are those of detectron2.

        A class of its own says ``inference_without_pasting = True`` if it leaves out nothing else
        on ``inference(..., do_postprocess=False)``.
        """
        kind = type(_unwrap(model))
        if getattr(kind, "inference_without_pasting", False):
            return True
        names = ("forward", "inference", "_postprocess")
        return issubclass(kind, GeneralizedRCNN) and all(
            getattr(kind, name) is getattr(GeneralizedRCNN, name) for name in names
        )

    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        """Take and return what the model does in evaluation, masks apart."""
        detected = _unwrap(self.model).inference(batched_inputs, do_postprocess=False)
        return [
            {"instances": scale_unpasted(instances, *_size_asked_for(instances, entry))}
            for instances, entry in zip(detected, batched_inputs, strict=True)
        ]


def scale_unpasted(instances: Instances, height: int, width: int) -> Instances:
    """Scale boxes to an image of that size and drop the empty ones, by detectron2's own function.

    ``pred_masks`` (N, 1, M, M) stay what they are: the content of the boxes.
    """
    # copies: detectron2's function scales what it is given
    fields = dict(instances.get_fields())
    for name in ("pred_boxes", "pred_keypoints"):
        if name in fields:
            fields[name] = fields[name].clone()
    masks = fields.pop("pred_masks", None)
    if isinstance(masks, torch.Tensor) and masks.ndim == 4:
        # under a name that it does not know, it selects the masks and leaves them as they are
        fields["unpasted_masks"] = masks
    elif masks is not None:
        fields["pred_masks"] = masks
    result = detector_postprocess(Instances(instances.image_size, **fields), height, width)
    if result.has("unpasted_masks"):
        masks = result.unpasted_masks
        result.remove("unpasted_masks")
        result.pred_masks = masks
    return result


def _size_asked_for(instances: Instances, entry: dict) -> tuple[int, int]:
    height, width = instances.image_size
    return entry.get("height", height), entry.get("width", width)


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
