"""Samples of scenes: a window of a time series, of its image and of its labels."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import CfgNode

from ...errors import ConfigError
from ..label_images import read_labels
from ..scenes import Scene, Window, read_scene
from .sem_seg_augmentation import check_labels

__all__ = ["SeriesMapper", "build_series_mapper"]


class SeriesMapper:
    """Record of a scene -> entry of M3FusionSegmentor.

    A record has "scene" (a :class:`~deepfuse_d2.data.scenes.Scene`), "window" (of it, the whole
    scene where absent) and, with labels, "sem_seg_file_name": a label image of the window, on the
    grid of the series or of the image.

    Args:
        purpose: "train" (crops, turned and mirrored, with labels), "validate" (as it is, with
            labels) or "predict" (without).
        crop: (height, width) in pixels of the series; (0, 0) takes windows whole.
        dihedral: turn by quarters and mirror, at random.
        drop_dates: probability to leave out a date; one is always left.
        with_image, with_series: read what the network takes, and nothing else.
    """

    def __init__(
        self,
        purpose: Literal["train", "validate", "predict"] = "predict",
        *,
        crop: tuple[int, int] = (0, 0),
        dihedral: bool = False,
        drop_dates: float = 0.0,
        with_image: bool = True,
        with_series: bool = True,
    ):
        if len(crop) != 2 or min(crop) < 0 or not 0 <= drop_dates < 1:
            raise ConfigError(
                f"DEEPFUSE_D2.INPUT.SERIES.CROP is {list(crop)} and DROP_DATES {drop_dates}; give "
                "height and width in pixels of the series ([0, 0] for all), and a probability in "
                "[0, 1)."
            )
        self.purpose = purpose
        self.crop = tuple(crop) if purpose == "train" else (0, 0)
        self.dihedral = dihedral and purpose == "train"
        self.drop_dates = drop_dates if purpose == "train" else 0.0
        self.with_image = with_image
        self.with_series = with_series

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """See the class; draws by torch's global generator."""
        rng = np.random.default_rng(int(torch.randint(1 << 62, (1,))))
        scene: Scene = record["scene"]
        whole = Window(*record.get("window", (0, 0, *scene.size)))
        top, left, height, width = self._draw_crop(rng, whole)
        if not self.with_series:
            scene = scene._replace(series=(), days=(), clouds=())
        found = read_scene(
            scene, whole.inside(top, left, height, width), with_image=self.with_image
        )
        labels = None
        if self.purpose != "predict" and "sem_seg_file_name" in record:
            labels = read_labels(record["sem_seg_file_name"])
            scale = labels.shape[1] // whole.width  # 1, or the ratio
            labels = labels[
                top * scale : (top + height) * scale, left * scale : (left + width) * scale
            ]
        turns, mirror = self._draw_dihedral(rng, square=height == width)
        entry = {k: v for k, v in record.items() if k not in ("scene", "window")}
        if "image" in found:
            # what holds no data is 0 there, and in no label
            image = np.where(found["image_valid"], found["image"], 0)
            entry["image"] = _tensor(image, turns, mirror).float()
            if self.purpose == "predict":
                entry["image_valid"] = torch.from_numpy(found["image_valid"])
        if "time_series" in found:
            kept = self._draw_dates(rng, len(found["days"]))
            # integers of 16 bits without a sign are unknown to some of torch's operations
            series = found["time_series"][kept].astype(np.float32)
            entry["time_series"] = _tensor(series, turns, mirror)
            entry["usable"] = _tensor(found["usable"][kept], turns, mirror)
            entry["dates"] = torch.from_numpy(found["days"][kept])
        if labels is not None:
            entry["sem_seg"] = _tensor(labels, turns, mirror).long()
        if self.purpose != "predict":
            # of the whole record, which a crop is not
            entry.pop("height", None), entry.pop("width", None)
        return entry

    def _draw_crop(self, rng: np.random.Generator, whole: Window) -> tuple[int, int, int, int]:
        height = min(self.crop[0] or whole.height, whole.height)
        width = min(self.crop[1] or whole.width, whole.width)
        top = int(rng.integers(whole.height - height + 1))
        left = int(rng.integers(whole.width - width + 1))
        return top, left, height, width

    def _draw_dihedral(self, rng: np.random.Generator, *, square: bool) -> tuple[int, bool]:
        if not self.dihedral:
            return 0, False
        turns = int(rng.integers(4))
        # batches are of one shape
        return turns if square else turns // 2 * 2, bool(rng.random() < 0.5)

    def _draw_dates(self, rng: np.random.Generator, count: int) -> np.ndarray:
        if not self.drop_dates:
            return np.arange(count)
        kept = np.flatnonzero(rng.random(count) >= self.drop_dates)
        return kept if kept.size else rng.integers(count, size=1)


def build_series_mapper(cfg: CfgNode, purpose: str) -> SeriesMapper:
    """The mapper that INPUT.SERIES describes."""
    if purpose == "train":
        check_labels(cfg)
    keys = cfg.DEEPFUSE_D2.INPUT.SERIES
    return SeriesMapper(
        purpose,
        crop=tuple(keys.CROP),
        dihedral=keys.DIHEDRAL,
        drop_dates=keys.DROP_DATES,
        with_image=cfg.MODEL.M3FUSION.USE_IMAGE,
        with_series=cfg.MODEL.M3FUSION.USE_TIME_SERIES,
    )


def _tensor(array: np.ndarray, turns: int, mirror: bool) -> torch.Tensor:
    array = np.rot90(array, turns, axes=(-2, -1))
    array = array[..., ::-1] if mirror else array
    # a copy: what was read may be shared, or read-only
    return torch.from_numpy(np.array(array, order="C"))
