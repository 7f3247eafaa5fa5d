"""Trained models: found on disk, loaded when asked for, and run on single pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import Metadata, MetadataCatalog

from ..engine import SafePredictor, check_config, load_config
from ..engine.inference import UnpastedMasks
from ..errors import ConfigError
from ..evaluation.label_maps import best_class
from ..inference.optimize import optimize_for_inference

__all__ = ["DemoModel", "TrainedModel", "find_models"]


class TrainedModel(NamedTuple):
    """A model on disk.

    Args:
        name: to show.
        config: yaml file.
        weights: file.
    """

    name: str
    config: Path
    weights: Path


def find_models(folder: str | os.PathLike) -> list[TrainedModel]:
    """The trained models below `folder`: config.yaml beside model_final.pth, as training leaves.

    Named by their path below `folder`, sorted.
    """
    root = Path(folder)
    models = []
    for weights in sorted(root.glob("**/model_final.pth")):
        config = weights.with_name("config.yaml")
        if config.is_file():
            name = weights.parent.relative_to(root).as_posix()
            models.append(TrainedModel(root.name if name == "." else name, config, weights))
    return models


class DemoModel:
    """A trained model that takes one picture at a time and returns what is small enough to keep.

    Example:
        >>> model = DemoModel.load(find_models("output")[0])
        >>> found = model(cv2.imread("street.png"))
        >>> found["instances"].scores
    """

    def __init__(self, predictor: SafePredictor, metadata: Metadata):
        """
        Args:
            predictor: detectron2's DefaultPredictor, ours, or another with a `model`.
            metadata: of the data set whose classes the model knows.
        """
        self._predictor = predictor
        self.metadata = metadata
        if UnpastedMasks.fits(predictor.model):
            # a hundred masks of a large picture are hundreds of megabytes
            predictor.model = UnpastedMasks(predictor.model)

    @classmethod
    def load(cls, model: TrainedModel, opts: Sequence[str] = ()) -> DemoModel:
        """Build the model and read its weights.

        Args:
            model: where it lies.
            opts: ``KEY VALUE`` pairs that override its config.

        Raises:
            UserError: of its config or weights.
        """
        # what it started from may be gone by now, and its weights overwrite it anyway
        cfg = load_config(str(model.config), [*opts, "MODEL.WEIGHTS", str(model.weights)])
        check_config(cfg)
        if not cfg.DATASETS.TEST:
            raise ConfigError(
                f"{model.config} names no data set in DATASETS.TEST, so the classes have no names; "
                "give one, for example with DATASETS.TEST \"('minicity_fine_instance_seg_val',)\"."
            )
        predictor = SafePredictor(cfg)
        predictor.model = optimize_for_inference(predictor.model)
        return cls(predictor, MetadataCatalog.get(cfg.DATASETS.TEST[0]))

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """What is in a picture, on the CPU.

        Args:
            image: (H, W, 3) uint8 BGR.

        Returns:
            "instances": detectron2's, at the size of the picture, best first, masks unpasted or as
            RLE; "labels": (H, W) class of each pixel. What the model does not give is missing.
        """
        output = self._predictor(image)
        found = {}
        if "instances" in output:
            found["instances"] = _small(output["instances"].to("cpu"))
        if "sem_seg" in output:
            labels = output["sem_seg"].detach().cpu()
            found["labels"] = best_class(labels)[0] if labels.ndim == 3 else labels.numpy()
        if not found:
            raise ConfigError(
                f"this model gives {sorted(output)}; the demo shows instances and sem_seg."
            )
        return found


def _small(instances):
    """Instances, best first, with RLE in place of masks of the size of the picture."""
    import pycocotools.mask

    instances = instances[torch.argsort(instances.scores, descending=True, stable=True)]
    if instances.has("pred_masks") and instances.pred_masks.ndim == 3:
        masks = instances.pred_masks.numpy().astype(np.uint8)
        instances.remove("pred_masks")
        instances.pred_masks_rle = [
            pycocotools.mask.encode(np.asfortranarray(mask)) for mask in masks
        ]
    return instances
