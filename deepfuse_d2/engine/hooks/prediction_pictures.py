"""Pictures of what the model finds, as it learns."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog, get_detection_dataset_dicts
from detectron2.engine import HookBase
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from torch import nn

from ...data.images import read_image
from ...data.mappers.build import build_mapper
from ...modeling.meta_arch.protocol import mapper_name_of, meta_arch_of
from ...structures.best_class import best_class
from ...structures.proposals import instances_of_proposals
from ..watching import watching

__all__ = ["PredictionPictures", "build_picture_samples"]

# The best ones of an image, as many as detectron2 shows.
_PROPOSALS = 20


class PredictionPictures(HookBase):
    """Writes ``<folder>/<iteration>/<data set>_<name>.png``, and images into the storage.

    Instances, proposals and labels of pixels are drawn, as the model gives them. The storage's
    images go to TensorBoard, and to wandb where that is on. The main process draws; the others go
    on.

    Args:
        period: iterations between two rounds, 1 or more; the last iteration always draws.
        model: see detectron2's ``DefaultPredictor``; may be wrapped in DistributedDataParallel.
        samples: (data set, input of the model with "file_name"), the same in each round.
        folder: where the pictures go.
        threshold: lowest score of an instance that is drawn.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        samples: Sequence[tuple[str, dict]],
        folder: str | os.PathLike,
        threshold: float = 0.5,
    ):
        self.period = period
        self.model = model
        self.samples = samples
        self.folder = Path(folder)
        self.threshold = threshold

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        is_due = done % self.period == 0 or done == self.trainer.max_iter
        if is_due and comm.is_main_process():
            self.draw(done)

    def draw(self, iteration: int) -> list[Path]:
        """Draw all samples; returns the files."""
        files = []
        with watching(self.model) as model, inference_context(model), torch.no_grad():
            for dataset, sample in self.samples:
                for kind, picture in self._draw_one(dataset, model([dict(sample)])[0], sample):
                    name = f"{dataset}_{Path(sample['file_name']).stem}{kind}"
                    files.append(self.folder / f"{iteration:07d}" / f"{name}.png")
                    _write(files[-1], picture)
                    rgb = np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))
                    self.trainer.storage.put_image(name, rgb)
        return files

    def _draw_one(
        self, dataset: str, predicted: dict, sample: dict
    ) -> Iterator[tuple[str, np.ndarray]]:
        from ...visualization import draw_labels, draw_predictions

        image = _picture_of(sample)
        metadata = MetadataCatalog.get(dataset)
        if "instances" in predicted:
            instances = predicted["instances"].to("cpu")
            instances = instances[instances.scores >= self.threshold]
            yield "", draw_predictions(image, instances, metadata)
        if "proposals" in predicted:
            proposals = predicted["proposals"].to("cpu")[:_PROPOSALS]
            instances = instances_of_proposals(proposals)
            yield "", draw_predictions(image, instances, Metadata(thing_classes=["proposal"]))
        if "sem_seg" in predicted:
            labels = predicted["sem_seg"]
            labels = best_class(labels)[0] if labels.ndim == 3 else labels
            kind = "_labels" if "instances" in predicted else ""
            labels = _of_size(labels.cpu().numpy(), image.shape[:2])
            yield kind, draw_labels(image, labels, metadata)


def build_picture_samples(cfg: CfgNode) -> list[tuple[str, dict]]:
    """MONITOR.PICTURES images of each data set of DATASETS.TEST, spread evenly over it."""
    mapper = build_mapper(mapper_name_of(meta_arch_of(cfg)), cfg, "predict")
    samples = []
    for name in cfg.DATASETS.TEST:
        records = get_detection_dataset_dicts((name,), filter_empty=False)
        count = min(max(cfg.MONITOR.PICTURES, 1), len(records))
        for index in np.linspace(0, len(records) - 1, count).astype(int):
            samples.append((name, mapper(records[index])))
    return samples


def _picture_of(sample: dict) -> np.ndarray:
    """(H, W, 3) uint8, blue first: the file, or what a sample holds of a scene."""
    if "time_series" not in sample and "image_valid" not in sample:
        return read_image(sample["file_name"])
    # a window of a scene is no file of its own
    if "image" in sample:
        pixels = sample["image"][:3].numpy()
    else:
        usable = sample["usable"][:, None]
        pixels = (sample["time_series"] * usable).sum(0) / usable.sum(0).clamp(min=1)
        pixels = pixels[:3].numpy()
        pixels = 255 * pixels / max(float(np.percentile(pixels, 98)), 1e-6)
    pixels = np.resize(pixels, (3, *pixels.shape[1:]))  # of one band all three
    return np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0).clip(0, 255).astype(np.uint8))


def _of_size(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Labels of a coarser grid, enlarged."""
    if labels.shape == tuple(size):
        return labels
    rows = np.arange(size[0]) * labels.shape[0] // size[0]
    columns = np.arange(size[1]) * labels.shape[1] // size[1]
    return labels[np.ix_(rows, columns)]


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        logging.getLogger(__name__).warning("The picture %s could not be written.", path)
