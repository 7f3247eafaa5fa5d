"""FORMAT raster: GeoTIFFs of one's own, cut into windows.

    - NAME: my_train
      FORMAT: raster
      IMAGE: data/spot.tif              # sharp image
      SERIES: data/sentinel2            # folder of rasters with a date in their names, or one stack
      LABELS: data/classes.tif          # ids on the grid of the series or of the image
      CLASSES: [meadow, forest, ...]    # of ids 0, 1, ...

Series, image and labels lie on one grid: the image is a whole number of times as fine as the
series. What does not is refused with the reason, or brought to the grid of the series with
REPROJECT. Needs rasterio (extra "geo").
"""

import datetime
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import ConfigError, DatasetError
from ...cache import cache_folder
from ...label_images import save_labels
from ...object_split import keep_objects
from ...problems import explained
from ...raster_files import grid_of, read_raster
from ...scenes import Scene, Window, date_in_name, days_of, windows_of
from ..catalog import register_dataset
from .base import Format, check_class_names

__all__ = ["RASTER", "open_rasters"]

_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")
_WINDOW = 64


def _check(where: str, entry: dict[str, Any]) -> None:
    if not ("IMAGE" in entry or "SERIES" in entry):
        raise ConfigError(f"{where}: give IMAGE, SERIES, or both.")
    if "CLASSES" in entry:
        check_class_names(where, entry)
    if "LABELS" in entry and "CLASSES" not in entry:
        raise ConfigError(f"{where}: LABELS needs CLASSES, the names of ids 0, 1, ...")
    if entry.get("ORDER", "dates_first") not in ("dates_first", "bands_first"):
        raise ConfigError(
            f'{where}: ORDER = "{entry["ORDER"]}"; choose "dates_first" (all bands of the first '
            'date, then of the second) or "bands_first".'
        )
    if "SPLIT" in entry and (entry["SPLIT"] not in ("train", "test") or "OBJECTS" not in entry):
        raise ConfigError(
            f'{where}: SPLIT = "{entry["SPLIT"]}" is "train" or "test", and needs OBJECTS, a '
            "raster with a number in each pixel that says which object it belongs to."
        )
    if not 0 < entry.get("TRAIN_SHARE", 0.3) < 1:
        raise ConfigError(f"{where}: TRAIN_SHARE = {entry['TRAIN_SHARE']}; it lies in (0, 1).")
    if entry.get("WINDOW", _WINDOW) < 1 or entry.get("RATIO", 1) < 1:
        raise ConfigError(f"{where}: WINDOW and RATIO are 1 or more.")


def _register(entry: dict[str, Any]) -> None:
    metadata = {
        "evaluator_type": "sem_seg",
        "stuff_classes": entry.get("CLASSES", []),
        "ignore_label": entry.get("IGNORE_LABEL", 255),
        "has_labels": "LABELS" in entry,
    }
    register_dataset(entry["NAME"], functools.partial(_load, entry), metadata, replace=True)


def _load(entry: dict[str, Any]) -> list[dict[str, Any]]:
    remedy = f'Look at the entry "{entry["NAME"]}" of DATASETS.EXTRA.'
    with explained(remedy):
        scene = open_rasters(entry)
        size = entry.get("WINDOW", _WINDOW)
        windows = windows_of(scene.size, size)
        name = scene.image or scene.series[0]
        records = []
        for window in windows:
            place = f"{window.top}_{window.left}"
            record = {
                # one record a window, and one name each: evaluators go by it
                "file_name": f"{name}#{place}",
                "image_id": f"{Path(name).stem}_{place}",
                "height": window.height,
                "width": window.width,
                "scene": scene,
                "window": window,
            }
            if "LABELS" not in entry:
                records.append(record)
                continue
            labels = _labels(entry, scene, window)
            if (labels == entry.get("IGNORE_LABEL", 255)).all():
                continue  # nothing to learn and nothing to evaluate
            path = _label_file(entry, place)
            save_labels(labels, path)
            record["height"], record["width"] = labels.shape
            record["sem_seg_file_name"] = path
            records.append(record)
        if not records:
            raise DatasetError(f"{entry['LABELS']} has no label in any window.")
    return records


def open_rasters(entry: dict[str, Any]) -> Scene:
    """The scene that an entry describes. Reads no pixel.

    Raises: DatasetError: a file is missing, or they do not lie on one grid.
    """
    series, dates = _series_files(entry)
    image = entry.get("IMAGE", "")
    reproject = entry.get("REPROJECT", False)
    if not series:
        (height, width), transform, crs = grid_of(image)
        ratio = entry.get("RATIO", 1)
        coarse = _times(transform, ratio)
        return Scene((height // ratio, width // ratio), ratio, image, grid=(coarse, _text(crs)))
    size, transform, crs = grid_of(series[0])
    ratio = entry.get("RATIO") or (_ratio(transform, grid_of(image)) if image else 1)
    grid = (transform, _text(crs))
    clouds = tuple(_files(entry["CLOUDS"])) if "CLOUDS" in entry else ()
    if not reproject:
        for path in (*series[1:], *clouds):
            _check_grid(path, size, transform, crs, series[0])
        if image:
            fine = (size[0] * ratio, size[1] * ratio)
            _check_grid(image, fine, _times(transform, 1 / ratio), crs, series[0])
    return Scene(
        size=size,
        ratio=ratio,
        image=image,
        series=series,
        days=days_of(dates),
        order=entry.get("ORDER", "dates_first"),
        clouds=clouds,
        no_data=entry.get("NO_DATA"),
        grid=grid,
    )


def _series_files(entry: dict[str, Any]) -> tuple[tuple[str, ...], list[datetime.date]]:
    if "SERIES" not in entry:
        return (), []
    files = _files(entry["SERIES"])
    if "DATES" in entry:
        dates = [_date(text) for text in entry["DATES"]]
    else:
        dates = [date_in_name(os.path.basename(path)) for path in files]
        unknown = [path for path, date in zip(files, dates, strict=True) if date is None]
        if unknown:
            raise DatasetError(
                f"{unknown[0]} has no single date (YYYYMMDD) in its name; rename it, or give DATES."
            )
    if len(files) not in (1, len(dates)):
        raise DatasetError(
            f"{entry['SERIES']} holds {len(files)} rasters; DATES has {len(dates)} dates."
        )
    return tuple(files), dates


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise DatasetError(f"{path} does not exist.")
    found = sorted(str(p) for p in Path(path).iterdir() if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise DatasetError(f"{path} holds no raster ({', '.join(_SUFFIXES)}).")
    return found


def _date(text: Any) -> datetime.date:
    found = date_in_name(str(text))
    if found is None:
        raise DatasetError(f"DATES holds {text!r}; expected YYYY-MM-DD or YYYYMMDD.")
    return found


def _ratio(transform: tuple, fine: tuple) -> int:
    exact = abs(transform[0] / fine[1][0])
    ratio = max(1, round(exact))
    if abs(exact - ratio) > 1e-3 * ratio:
        raise DatasetError(
            f"A pixel of the series has {exact:.4f} times the side of one of the image; expected a "
            "whole number. Set RATIO and REPROJECT True to resample the image."
        )
    return ratio


def _check_grid(path: str, size: tuple, transform: tuple, crs: Any, reference: str) -> None:
    found_size, found, found_crs = grid_of(path)
    how = "Set REPROJECT True to bring it there."
    if found_crs != crs:
        raise DatasetError(f"{path} has the CRS {found_crs}, {reference} {crs}. {how}")
    pixel = abs(transform[0]) + abs(transform[1])
    if not np.allclose(found, transform, rtol=0, atol=0.01 * pixel):
        raise DatasetError(
            f"{path} has the transform {_rounded(found)}; to lie on the grid of {reference} it "
            f"must be {_rounded(transform)}. {how}"
        )
    if tuple(found_size) != tuple(size):
        raise DatasetError(
            f"{path} has {found_size[0]} x {found_size[1]} pixels; with {reference} it must have "
            f"{size[0]} x {size[1]}. {how}"
        )


def _labels(entry: dict[str, Any], scene: Scene, window: Window) -> np.ndarray:
    """(h, w) or (r h, r w) uint8 ids of a window, checked."""
    ignore = entry.get("IGNORE_LABEL", 255)
    grid, place = _label_grid(entry["LABELS"], scene, window)
    values, valid = read_raster(entry["LABELS"], place, grid, nearest=True)
    labels = np.where(valid, values[0].astype(np.int64), ignore)
    count = len(entry["CLASSES"])
    wrong = labels[((labels < 0) | (labels >= count)) & (labels != ignore)]
    if wrong.size:
        raise DatasetError(
            f"{entry['LABELS']} holds the id {wrong[0]}; expected 0..{count - 1}, or {ignore} "
            "where there is nothing to learn."
        )
    if "OBJECTS" in entry:
        grid, place = _label_grid(entry["OBJECTS"], scene, window)
        objects = read_raster(entry["OBJECTS"], place, grid, nearest=True)[0][0]
        if objects.shape != labels.shape:
            raise DatasetError(
                f"{entry['OBJECTS']} and {entry['LABELS']} have pixels of different size."
            )
        share, seed = entry.get("TRAIN_SHARE", 0.3), entry.get("SEED", 0)
        kept = keep_objects(objects, entry.get("SPLIT", "train"), share, seed)
        labels = np.where(kept, labels, ignore)
    return labels.astype(np.uint8)


def _label_grid(path: str, scene: Scene, window: Window) -> tuple[tuple, Window]:
    """The grid that labels are read on, the coarser or the finer one, and the window there."""
    transform, crs = scene.grid
    pixel = abs(grid_of(path)[1][0])
    if scene.ratio > 1 and pixel < abs(transform[0]) * 0.75:
        return (_times(transform, 1 / scene.ratio), crs), window.times(scene.ratio)
    return scene.grid, window


def _label_file(entry: dict[str, Any], place: str) -> str:
    folder = cache_folder(os.path.dirname(entry["LABELS"]))
    if folder is None:
        raise DatasetError(
            "There is no place for labels of windows: the user's cache folder cannot be written. "
            "Set DEEPFUSE_CACHE to a folder that can."
        )
    return os.path.join(folder, "labels", entry["NAME"], f"{place}.png")


def _times(transform: tuple, factor: float) -> tuple:
    a, b, c, d, e, f = transform
    return (a * factor, b * factor, c, d * factor, e * factor, f)


def _text(crs: Any) -> str:
    return "" if crs is None else crs.to_wkt()


def _rounded(transform: tuple) -> list[float]:
    return [round(value, 4) for value in transform]


RASTER = Format(
    {},
    {
        "IMAGE": str, "SERIES": str, "LABELS": str, "CLASSES": list, "IGNORE_LABEL": int,
        "DATES": list, "ORDER": str, "CLOUDS": str, "NO_DATA": float, "RATIO": int,
        "REPROJECT": bool, "WINDOW": int, "OBJECTS": str, "SPLIT": str, "TRAIN_SHARE": float,
        "SEED": int,
    },
    ("IMAGE", "SERIES", "LABELS", "CLOUDS", "OBJECTS"),
    _register,
    _check,
)  # fmt: skip
