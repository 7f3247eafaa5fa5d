"""Maps of whole scenes: rasters in, window by window, a georeferenced raster out.

Nothing larger than a window is in memory, so the scene may be of any size. Each window is read with
a margin that the network sees and that is cut away, so that no border shows in the map.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from ..checkpoint import DeepFuseCheckpointer
from ..config.building import build_model
from ..config.checking import check_config
from ..config.loading import load_config
from ..data.mappers.series_mapper import SeriesMapper
from ..data.raster_files import rasterio_or_explain
from ..data.scenes import Scene, Window, windows_of
from ..errors import ConfigError
from ..files import written_whole
from ..modeling.meta_arch import M3FusionSegmentor
from ..structures.best_class import best_class

__all__ = ["NO_DATA", "MapModel", "MapSummary", "predict_raster", "predict_window"]

#: Value of a map where there is neither a usable date nor a pixel of the image.
NO_DATA = 255


class MapModel(NamedTuple):
    """A trained network with what a map says of its classes."""

    model: M3FusionSegmentor
    ratio: int
    classes: list[str]
    #: RGB of each class, None where the data set has no colours.
    colors: list[list[int]] | None

    @classmethod
    def load(
        cls, config_file: str | os.PathLike, weights: str | os.PathLike, opts: Sequence[str] = ()
    ) -> "MapModel":
        """From a config, whose DATASETS.TEST names the classes, and the file of its weights.

        Raises: ConfigError: the config describes another meta-architecture.
        """
        cfg = load_config(os.fspath(config_file), list(opts))
        cfg.MODEL.WEIGHTS = os.fspath(weights)
        cfg.DEEPFUSE_D2.TEST.SEM_SEG.OUTPUT = "labels"
        check_config(cfg)
        model = build_model(cfg)
        if not isinstance(model, M3FusionSegmentor):
            raise ConfigError(
                f"{config_file} describes a {type(model).__name__}; rasters are mapped by "
                "MODEL.META_ARCHITECTURE M3FusionSegmentor."
            )
        checkpointer = DeepFuseCheckpointer(
            model, min_match=cfg.DEEPFUSE_D2.MODEL.WEIGHTS_MIN_MATCH
        )
        checkpointer.load(cfg.MODEL.WEIGHTS)
        names = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN or ("_none",)
        metadata = MetadataCatalog.get(names[0])
        return cls(
            model.eval(),
            cfg.MODEL.M3FUSION.RATIO,
            list(metadata.get("stuff_classes") or ()),
            metadata.get("stuff_colors"),
        )


class MapSummary(NamedTuple):
    #: (height, width) of the map.
    size: tuple[int, int]
    windows: int
    #: Pixels of class 0, 1, ...
    pixels: list[int]
    no_data: int


def predict_raster(
    model: nn.Module,
    scene: Scene,
    output: str | os.PathLike,
    *,
    window: int = 64,
    margin: int | None = None,
    colors: Sequence[Sequence[int]] | None = None,
    classes: Sequence[str] = (),
) -> MapSummary:
    """Write the map of a scene as a GeoTIFF of class ids, on the output grid of the model.

    Args:
        model: an M3FusionSegmentor with its weights.
        scene: see :func:`~deepfuse_d2.data.datasets.formats.raster.open_rasters`.
        output: file to write; it appears under its name only when complete.
        window: side of a window in pixels of the series.
        margin: pixels of the series around a window that the network sees; None for what it needs.
        colors: RGB of each class, for the file's colour table.
        classes: names, written into the file's tags.

    Raises: DatasetError: rasterio is missing, or a file of the scene cannot be read.
    """
    rasterio = rasterio_or_explain("Writing a GeoTIFF")
    if window < 1:
        raise ConfigError(f"A window of {window} pixels of the series has no size; give 1 or more.")
    scale = scene.ratio if model.output_grid == "image" else 1
    height, width = (side * scale for side in scene.size)
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width,
        "nodata": NO_DATA, "compress": "deflate", "tiled": True, "blockxsize": 256,
        "blockysize": 256, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    if scene.grid:
        (a, b, c, d, e, f), crs = scene.grid
        profile["transform"] = rasterio.Affine(a / scale, b / scale, c, d / scale, e / scale, f)
        profile["crs"] = crs or None
    counts = np.zeros(NO_DATA + 1, dtype=np.int64)
    windows = windows_of(scene.size, window)
    with written_whole(output) as temporary, rasterio.open(temporary, "w", **profile) as file:
        if colors is not None:
            file.write_colormap(1, {i: (*map(int, c), 255) for i, c in enumerate(colors)})
        if classes:
            file.update_tags(CLASSES=", ".join(classes))
        for place in windows:
            labels = predict_window(model, scene, place, margin)
            counts += np.bincount(labels.ravel(), minlength=len(counts))
            top, left, high, wide = place.times(scale)
            file.write(labels, 1, window=rasterio.windows.Window(left, top, wide, high))
    pixels = counts[:NO_DATA]
    used = int(np.flatnonzero(pixels)[-1]) + 1 if pixels.any() else 0
    return MapSummary(
        (height, width), len(windows), pixels[: max(used, len(classes))].tolist(), int(counts[-1])
    )


@torch.no_grad()
def predict_window(
    model: nn.Module, scene: Scene, place: Window, margin: int | None = None
) -> np.ndarray:
    """Class ids of a part of a scene, on the output grid of the model; 255 without data."""
    if margin is None:
        branch = model.image_branch
        margin = 0 if branch is None else -(-branch.margin // scene.ratio) + 2
    top, left = max(place.top - margin, 0), max(place.left - margin, 0)
    bottom = min(place.top + place.height + margin, scene.size[0])
    right = min(place.left + place.width + margin, scene.size[1])
    mapper = SeriesMapper(
        with_image=model.image_branch is not None, with_series=model.series_encoder is not None
    )
    entry = mapper({"scene": scene, "window": (top, left, bottom - top, right - left)})
    model.eval()
    labels = model([entry])[0]["sem_seg"]
    labels = best_class(labels)[0] if labels.ndim == 3 else labels
    labels = np.where(_has_data(entry, labels.shape), labels.cpu().numpy(), NO_DATA)
    scale = scene.ratio if model.output_grid == "image" else 1
    y, x = (place.top - top) * scale, (place.left - left) * scale
    return labels[y : y + place.height * scale, x : x + place.width * scale].astype(np.uint8)


def _has_data(entry: dict, size: torch.Size) -> np.ndarray:
    """(H, W) bool: a usable date, or a pixel of the image."""
    known = np.zeros(tuple(size), dtype=bool)
    for key in ("usable", "image_valid"):
        if key in entry:
            mask = entry[key].any(dim=0) if key == "usable" else entry[key]
            known |= _to_size(mask.numpy(), known.shape)
    return known


def _to_size(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if mask.shape[1] < size[1]:
        factor = size[1] // mask.shape[1]
        return mask.repeat(factor, axis=0).repeat(factor, axis=1)
    factor = mask.shape[1] // size[1]
    return mask.reshape(size[0], factor, size[1], factor).any(axis=(1, 3))
