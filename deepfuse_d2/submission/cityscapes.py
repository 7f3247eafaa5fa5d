"""The two layouts that the Cityscapes server takes; its evaluation scripts define them.

Instances: a text file for each image, a line for each instance, a PNG for each mask:

    frankfurt_000000_000294_pred.txt                masks/frankfurt_000000_000294_0.png 26 0.98
    masks/frankfurt_000000_000294_0.png             8 bits, not 0 where the instance is

Pixel labels: `frankfurt_000000_000294_pred.png`, 8 bits, for each image.

Both hold label ids ("regular ids", such as 26 for a car), not train ids.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.datasets.cityscapes_labels import instance_label_ids
from ..data.label_images import read_labels
from ..errors import ConfigError, DatasetError
from ..evaluation.label_maps import check_classes
from ..structures.mask_crops import crops_of_instances
from .files import compare_files, label_map, stem_of, wrong_png

__all__ = ["CityscapesInstances", "CityscapesPixels"]

logger = logging.getLogger(__name__)


class CityscapesInstances:
    """Writes and checks the layout of instances.

    Args:
        metadata: of the data set; its `thing_classes` carry names of Cityscapes.
    """

    archive = "results.zip"
    folder = "results"
    inside = ""

    def __init__(self, metadata: Any):
        known = instance_label_ids()
        self._label_of_class = _ids(metadata, "thing_classes", known)
        self._ids = set(known.values())

    def write(self, folder: Path, record: dict[str, Any], output: dict[str, Any]) -> None:
        """Write what a model found in one image; do nothing if that is there already.

        Args:
            output: `instances` with `scores`, `pred_classes` and masks as tensors or RLE, at the
                size of the image, or unpasted.
        """
        stem, shape = stem_of(record), (record["height"], record["width"])
        if "instances" not in output:
            raise ConfigError(
                f"{record['file_name']}: the model gives {sorted(output)} and no instances; a "
                "submission of instances needs an instance model, or a data set of pixel labels."
            )
        instances = output["instances"].to("cpu")
        crops = crops_of_instances(instances, shape, record["file_name"])
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        count, key = len(self._label_of_class), "MODEL.ROI_HEADS.NUM_CLASSES"
        check_classes(instances.pred_classes.numpy(), count, record["file_name"], key)
        # Samplers that pad show an image to two processes: the first to come writes it.
        text = folder / f"{stem}_pred.txt"
        try:
            text.touch(exist_ok=False)
        except FileExistsError:
            return
        (folder / "masks").mkdir(exist_ok=True)
        lines = []
        for number, (crop, kind, score) in enumerate(zip(crops, classes, scores, strict=True)):
            if not crop.area:
                continue
            if not math.isfinite(score):
                logger.warning("%s: an instance of score %s is left out", stem, score)
                continue
            mask = crop.paste(np.zeros(shape, dtype=np.uint8), 255)
            name = f"masks/{stem}_{number}.png"
            Image.fromarray(mask).save(folder / name)
            lines.append(f"{name} {self._label_of_class[kind]} {score!r}\n")
        text.write_text("".join(lines), encoding="ascii")

    def check(self, folder: Path, records: Sequence[dict[str, Any]]) -> list[str]:
        """Return what is wrong with a folder of files, empty if nothing is."""
        problems: list[str] = []
        expected = []
        for record in records:
            name = f"{stem_of(record)}_pred.txt"
            expected.append(name)
            try:
                lines = (folder / name).read_text(encoding="ascii").splitlines()
            except FileNotFoundError:
                continue  # told below
            except UnicodeDecodeError:
                problems.append(f"{name} is no text file")
                continue
            for number, line in enumerate(lines, start=1):
                problem, mask = self._check_line(folder, record, line)
                if problem:
                    problems.append(f"{name}, line {number}: {problem}")
                if mask:
                    expected.append(mask)
        twice = [name for name, count in Counter(expected).items() if count > 1]
        problems += [f"{name} is named twice" for name in twice]
        return problems + compare_files(folder, expected)

    def _check_line(
        self, folder: Path, record: dict[str, Any], line: str
    ) -> tuple[str, str | None]:
        """Return what is wrong with a line ("" if nothing is), and the mask it names."""
        parts = line.split(" ")
        if len(parts) != 3:
            return f"{line!r} is not a path, a label id and a score", None
        mask, label, score = parts
        if Path(mask).is_absolute() or ".." in Path(mask).parts:
            return f"{mask} lies outside of the submission", None
        if not label.isdigit() or int(label) not in self._ids:
            return f"label id {label} is none of {sorted(self._ids)}", mask
        try:
            finite = math.isfinite(float(score))
        except ValueError:
            finite = False
        if not finite:
            return f"score {score} is no number", mask
        if not (folder / mask).is_file():
            return "", mask  # told as missing
        return wrong_png(folder / mask, mask, record, "L"), mask


class CityscapesPixels:
    """Writes and checks the layout of pixel labels.

    Args:
        metadata: of the data set; its `stuff_classes` carry names of Cityscapes.
    """

    archive = "results.zip"
    folder = "results"
    inside = ""

    def __init__(self, metadata: Any):
        from cityscapesscripts.helpers.labels import labels

        known = {x.name: x.id for x in labels if x.id >= 0}
        self._label_of_class = np.array(_ids(metadata, "stuff_classes", known), dtype=np.uint8)
        self._ids = np.array(sorted(known.values()))

    def write(self, folder: Path, record: dict[str, Any], output: dict[str, Any]) -> None:
        """Write the label ids of one image.

        Args:
            output: `sem_seg` holds logits (C, H, W) or classes (H, W) at the size of the image.
        """
        classes = label_map(output, record, len(self._label_of_class))
        labels = self._label_of_class[classes]
        Image.fromarray(labels).save(folder / f"{stem_of(record)}_pred.png")

    def check(self, folder: Path, records: Sequence[dict[str, Any]]) -> list[str]:
        """Return what is wrong with a folder of files, empty if nothing is."""
        problems, expected = [], []
        for record in records:
            name = f"{stem_of(record)}_pred.png"
            expected.append(name)
            if not (folder / name).is_file():
                continue  # told below
            problem = wrong_png(folder / name, name, record, "L")
            if not problem:
                try:
                    wrong = np.setdiff1d(read_labels(folder / name), self._ids)
                except DatasetError as error:
                    problem = str(error)
                else:
                    problem = f"{name} holds the id {wrong[0]}, no label id" if wrong.size else ""
            problems += [problem] if problem else []
        return problems + compare_files(folder, expected)


def _ids(metadata: Any, key: str, known: dict[str, int]) -> list[int]:
    """Return the label id of each class of a data set, by name."""
    names = metadata.get(key)
    unknown = [name for name in names or [] if name not in known]
    if not names or unknown:
        raise ConfigError(
            f'Data set "{metadata.get("name")}" has '
            + (f"the classes {unknown}" if unknown else f"no {key} in its metadata")
            + f"; a submission to Cityscapes needs {key} named as there: {', '.join(known)}."
        )
    return [known[name] for name in names]
