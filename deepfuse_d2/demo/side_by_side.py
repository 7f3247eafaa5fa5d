"""A sheet of what models find beside the ground truth, to judge at a glance.

Instances or labels of pixels, as the models have them; each model is a column.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from tqdm import tqdm

from ..data.images import read_image
from ..data.label_images import read_labels
from ..errors import ConfigError
from ..inference import Predictor
from ..visualization import draw_annotations, draw_labels, draw_predictions, sheet

__all__ = ["draw_side_by_side"]


def draw_side_by_side(
    models: Sequence[tuple[str, CfgNode]],
    output: Path,
    count: int = 6,
    threshold: float = 0.5,
    scale: float = 1.0,
) -> None:
    """Draw `count` images of a data set, the first of the first config's DATASETS.TEST.

    Args:
        models: the name of each, and its config with MODEL.WEIGHTS.
        output: a path ending in .png.
        count: images, spread evenly over the data set.
        threshold: lowest score drawn.
        scale: size of the drawing to that of the image.
    """
    dataset = models[0][1].DATASETS.TEST[0]
    metadata = MetadataCatalog.get(dataset)
    records = DatasetCatalog.get(dataset)
    records = records[:: max(len(records) // count, 1)][:count]

    columns = [list(ground_truth(records, metadata, scale))]
    for name, cfg in models:
        drawn = draw_model(cfg, records, metadata, threshold, scale)
        columns.append(list(tqdm(drawn, f"Drawing {Path(name).stem}", len(records), unit="image")))
    titles = [f"{dataset}: ground truth", *titles_of([name for name, _ in models], threshold)]
    tiles = [tile for row in zip(*columns, strict=True) for tile in row]
    output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(output), sheet(tiles, len(columns), titles)):
        raise ConfigError(f"Cannot write {output}; give a path ending in .png.")


def titles_of(names: Sequence[str], threshold: float) -> list[str]:
    if len(names) == 1:
        return [f"found (score over {threshold:g})"]
    names = [Path(name).stem for name in names]
    # of sem_seg_R_18_GCN and sem_seg_R_18_ExFuse, what tells them apart
    words = [name.split("_") for name in names]
    shared = 0
    while len({tuple(w[: shared + 1]) for w in words}) == 1 and all(len(w) > shared for w in words):
        shared += 1
    return ["_".join(w[shared:]) or name for w, name in zip(words, names, strict=True)]


def ground_truth(records: list[dict], metadata: Metadata, scale: float) -> Iterator[np.ndarray]:
    """Each image with its instances, or its labels where it has no instances."""
    for record in records:
        image = read_image(record["file_name"])
        if "annotations" in record or not record.get("sem_seg_file_name"):
            yield draw_annotations(image, record, metadata, scale)
        else:
            labels = read_labels(record["sem_seg_file_name"])
            yield draw_labels(scaled(image, scale), labels, metadata)


def draw_model(
    cfg: CfgNode, records: list[dict], metadata: Metadata, threshold: float, scale: float
) -> Iterator[np.ndarray]:
    """Each image with what a model finds."""
    predictor = Predictor(cfg)
    files = [record["file_name"] for record in records]
    for file, found in zip(files, predictor(iter(files)), strict=True):
        image = read_image(file)
        if hasattr(found, "pred_boxes"):
            yield draw_predictions(image, found[found.scores >= threshold], metadata, scale)
        else:
            yield draw_labels(scaled(image, scale), np.asarray(found), metadata)


def scaled(image: np.ndarray, scale: float) -> np.ndarray:
    return image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale)
