"""Trained models: found on disk, loaded when asked for, and run on single pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.structures import Instances

from ..config.loading import load_config
from ..errors import ConfigError
from ..inference import Predictor
from ..inference.results import labels_of_logits, scaled_instances
from ..structures.mask_crops import crops_from_masks

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


class DemoModel(Predictor):
    """A predictor that returns all that a model gives, in forms that are small enough to keep.

    What it returns is a dict of "instances": detectron2's, at the size of the picture, best first,
    masks unpasted or as RLE (a hundred masks of a large picture are hundreds of megabytes); and
    "labels": (H, W) class of each pixel. What the model does not give is missing.

    Example:
        >>> model = DemoModel.load(find_models("output")[0])
        >>> found = model("street.png")
        >>> found["instances"].scores
    """

    @classmethod
    def load(
        cls,
        model: TrainedModel,
        opts: Sequence[str] = (),
        *,
        engine: str = "native",
        dtype: str = "float32",
    ) -> DemoModel:
        """Build the model and read its weights.

        Args:
            model: where it lies.
            opts: ``KEY VALUE`` pairs that override its config.
            engine, dtype: see :class:`.Predictor`.

        Raises:
            UserError: of its config or weights.
        """
        # what it started from may be gone by now, and its weights overwrite it anyway
        cfg = load_config(str(model.config), [*opts, "MODEL.WEIGHTS", str(model.weights)])
        if not cfg.DATASETS.TEST:
            raise ConfigError(
                f"{model.config} names no data set in DATASETS.TEST, so the classes have no names; "
                "give one, for example with DATASETS.TEST \"('minicity_fine_instance_seg_val',)\"."
            )
        return cls(cfg, engine=engine, dtype=dtype)

    def _convert(self, prepared: Any, raw: Any, output: str) -> dict[str, Any]:
        """See :class:`.Predictor`; `raw` is what heads leave, or what the model returns."""
        found: dict[str, Any] = {}
        if "instances" in raw:
            found["instances"] = _small(scaled_instances(raw["instances"], *prepared.size))
        if "sem_seg" in raw:
            found["labels"] = labels_of_logits(raw["sem_seg"]).numpy()
        if not found:
            raise ConfigError(
                f"this model gives {sorted(raw)}; the demo shows instances and sem_seg."
            )
        return found


def _small(instances: Instances) -> Instances:
    """Instances, best first, with RLE in place of masks of the size of the picture."""
    instances = instances[torch.argsort(instances.scores, descending=True, stable=True)]
    if instances.has("pred_masks") and instances.pred_masks.ndim == 3:
        masks = instances.pred_masks.numpy()
        instances.remove("pred_masks")
        instances.pred_masks_rle = [crop.rle(*masks.shape[1:]) for crop in crops_from_masks(masks)]
    return instances
