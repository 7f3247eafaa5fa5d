"""What a model found, written down: drawings, videos, COCO's JSON and the layout of Cityscapes.

Each writer is called as ``add(source, frame, found, drawn)`` and finished with ``close()``, which
returns the files to name. Nothing is written for a model that finds nothing of that kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import Metadata

from ..errors import ConfigError, UserError
from ..files import written_whole
from ..structures.detected_instances import DetectedInstances
from ..structures.mask_crops import MaskCrop
from ..submission.cityscapes import CityscapesInstances, CityscapesPixels
from ..visualization import class_name, label_names
from .sources import Frame, Source

__all__ = ["CityscapesFiles", "CocoFiles", "Pictures", "Videos"]


class Pictures:
    """A PNG for each frame; of videos only if asked for."""

    def __init__(self, folder: Path, of_videos: bool = False):
        self._folder, self._of_videos, self._count = folder, of_videos, 0

    def add(self, source: Source, frame: Frame, found: dict, drawn: Callable) -> None:
        if source.moves and not self._of_videos:
            return
        path = self._folder / f"{frame.name}.png"
        if not cv2.imwrite(str(path), drawn()):
            raise UserError(f"cannot write {path}.")
        self._count += 1

    def close(self) -> list[str]:
        return [f"{self._count} pictures"] if self._count else []


class Videos:
    """An MP4 for each video or camera; for each folder of images too, if asked for.

    Frames of another size than the first are resized to it.
    """

    def __init__(self, folder: Path, of_images: bool = False, fps: float | None = None):
        self._folder, self._of_images, self._fps = folder, of_images, fps
        self._source: Source | None = None
        self._writer, self._size = None, (0, 0)
        self._made: list[str] = []

    def add(self, source: Source, frame: Frame, found: dict, drawn: Callable) -> None:
        if not source.moves and not (self._of_images and source.count > 1):
            return
        image = drawn()
        if source is not self._source:
            self._start(source, image)
        width, height = self._size
        if image.shape[1::-1] not in ((width, height), (width - 1, height - 1)):
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        # most decoders take an even size alone
        down, right = height - image.shape[0], width - image.shape[1]
        self._writer.write(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE))

    def close(self) -> list[str]:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        return self._made

    def _start(self, source: Source, image: np.ndarray) -> None:
        self.close()
        self._source = source
        height, width = image.shape[:2]
        self._size = width + width % 2, height + height % 2
        path = self._folder / f"{source.name}.mp4"
        code = cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), code, source.fps(self._fps), self._size)
        if not self._writer.isOpened():
            raise UserError(f"cannot write the video {path}: this OpenCV has no encoder for it.")
        self._made.append(path.name)


class CocoFiles:
    """COCO's results, with the images they speak of.

    coco_instances_results.json and coco_sem_seg_results.json are lists of results;
    coco_images.json holds images and categories, so that
    ``COCO("coco_images.json").loadRes("coco_instances_results.json")`` reads them.
    """

    def __init__(self, folder: Path, metadata: Metadata):
        self._folder, self._metadata = folder, metadata
        self._images: list[dict] = []
        self._instances: list[dict] = []
        self._labels: list[dict] = []
        self._categories: dict[str, dict[int, str]] = {"thing": {}, "stuff": {}}
        self._has: set[str] = set()

    def add(self, source: Source, frame: Frame, found: dict, drawn: Callable) -> None:
        number = len(self._images) + 1
        height, width = frame.image.shape[:2]
        self._images.append(
            {"id": number, "file_name": frame.file, "width": width, "height": height}
        )
        self._has |= set(found)
        if "instances" in found:
            self._add_instances(number, found["instances"], (height, width), frame.name)
        if "labels" in found:
            self._add_labels(number, found["labels"])

    def close(self) -> list[str]:
        kinds = {
            "instances": ("coco_instances_results.json", self._instances),
            "labels": ("coco_sem_seg_results.json", self._labels),
        }
        made = {name: content for kind, (name, content) in kinds.items() if kind in self._has}
        if not made:
            return []
        # a class may be a thing and a stuff; the results of each kind have ids of their own
        kind = "thing" if "instances" in self._has else "stuff"
        categories = [{"id": k, "name": x} for k, x in sorted(self._categories[kind].items())]
        made["coco_images.json"] = {"images": self._images, "categories": categories}
        for name, content in made.items():
            with written_whole(self._folder / name) as path:
                path.write_text(json.dumps(content))
        return list(made)

    def _add_instances(self, image: int, instances: Any, size: tuple[int, int], name: str) -> None:
        found = DetectedInstances.of(instances.to("cpu"), size, name)
        for result in found.coco_results():
            result["category_id"] = self._category("thing", result["category_id"])
            self._instances.append({"image_id": image, **result})

    def _add_labels(self, image: int, labels: np.ndarray) -> None:
        for kind in np.unique(labels).tolist():
            self._labels.append(
                {
                    "image_id": image,
                    "category_id": self._category("stuff", kind),
                    "segmentation": MaskCrop.of(labels == kind).rle(*labels.shape),
                }
            )

    def _category(self, task: str, kind: int) -> int:
        """Id in the data set: COCO's own where the data set says them, else counted from 1."""
        ids = self._metadata.get(f"{task}_dataset_id_to_contiguous_id") or {}
        number = {index: own for own, index in ids.items()}.get(kind, kind + 1)
        if task == "thing":
            self._categories[task][number] = class_name(self._metadata, kind)
        else:
            self._categories[task][number] = label_names(self._metadata, kind + 1)[kind]
        return number


class CityscapesFiles:
    """The files that the server of Cityscapes takes, by :mod:`deepfuse_d2.submission`.

    They go to cityscapes/; pixel labels to cityscapes_labels/ if a model gives both.

    Raises:
        ConfigError: there are such files already, or Cityscapes does not have the model's classes.
    """

    def __init__(self, folder: Path, metadata: Metadata):
        self._folder, self._metadata = folder / "cityscapes", metadata
        self._labels_folder = folder / "cityscapes_labels"
        for path in (self._folder, self._labels_folder):
            if path.exists() and any(path.iterdir()):
                raise ConfigError(
                    f"{path} holds files of another run, which would be taken for this one's; "
                    "remove it, or give another --output."
                )
        self._formats: dict[type, Any] = {}
        self._used: dict[str, int] = {}

    def add(self, source: Source, frame: Frame, found: dict, drawn: Callable) -> None:
        height, width = frame.image.shape[:2]
        record = {"file_name": f"{frame.name}.png", "height": height, "width": width}
        if "instances" in found:
            output = {"instances": found["instances"]}
            self._write(CityscapesInstances, self._folder, record, output)
        if "labels" in found:
            folder = self._labels_folder if "instances" in found else self._folder
            output = {"sem_seg": torch.from_numpy(found["labels"])}
            self._write(CityscapesPixels, folder, record, output)

    def close(self) -> list[str]:
        return [f"{name}/ ({count} frames)" for name, count in self._used.items()]

    def _write(self, layout: type, folder: Path, record: dict, output: dict) -> None:
        if layout not in self._formats:
            self._formats[layout] = layout(self._metadata)
            folder.mkdir(parents=True, exist_ok=True)
        self._formats[layout].write(folder, record, output)
        self._used[folder.name] = self._used.get(folder.name, 0) + 1
